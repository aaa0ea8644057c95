"""What the run runs on, in words: versions, device, threads, precision."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from typing import Any

from bscheck.runtime import current, keras_module


@functools.cache
def describe() -> Mapping[str, str]:
    """Return the environment as names and values, all strings.

    Keys: keras, backend, backend_version, device (``cpu`` or ``gpu``), device_name, threads, dtype, tf32,
    numpy, python, platform.

    Raises
    ------
    MissingEnvironmentError
        When Keras or its backend cannot be imported.
    """
    import numpy

    keras = keras_module()
    runtime = current()
    described: dict[str, Any] = {
        "keras": keras.__version__,
        "backend": runtime.name,
        **runtime.describe(),
        "dtype": keras.config.floatx(),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if described["threads"] == "all":
        described["threads"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return {key: str(value) for key, value in described.items()}
