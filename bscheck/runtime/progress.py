"""What the progress bar of ``fit`` and ``evaluate`` prints."""

from __future__ import annotations

import contextlib
import io
import re
import time
from typing import Any

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array

#: Keras redraws the bar when this many seconds have passed (`keras.utils.Progbar`: 0.05), and at the last batch.
REDRAWN = 0.06

_STEP = re.compile(r"(\d+)/\d+\D")
_FIGURE = re.compile(r"- (\w+): (-?\d+\.\d+(?:e[+-]?\d+)?)")


def printed(call: str, x: Array, batch_size: int, verbose: int, mode: str) -> list[tuple[int, dict[str, float]]]:
    """Return the figures printed beside each number of batches done, by a model that gives its inputs back.

    Its targets are zeros, its loss the squared error and its metric ``mae``; it learns at rate 0.
    """
    keras = keras_module()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    options = current().compile_options(mode)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mean_squared_error", metrics=["mae"], **options)
    more: dict[str, Any] = {"shuffle": False} if call == "fit" else {}
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        getattr(model, call)(x, 0 * x, batch_size=batch_size, verbose=verbose, callbacks=[_pause()], **more)
    return _figures(text.getvalue())


def _pause() -> Any:
    """Return a callback that waits until the bar may be drawn again."""

    class Pause(keras_module().callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            time.sleep(REDRAWN)

        on_test_batch_begin = on_train_batch_begin

    return Pause()


def _figures(text: str) -> list[tuple[int, dict[str, float]]]:
    found = []
    for line in re.split(r"[\r\n]", text.replace("\b", "")):
        step, figures = _STEP.search(line), _FIGURE.findall(line)
        if step and figures:
            found.append((int(step[1]), {name: float(value) for name, value in figures}))
    return found
