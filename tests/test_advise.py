"""``bscheck advise``, run as its users do, on a small model whose step takes as much memory as it is told to."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from bscheck.measure import memory

SUBJECTS = '''
import numpy as np
import bscheck

KEPT = []

def build():
    import keras
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])

def data(seed, size):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 3)), rng.normal(size=(size, 2))

def hungry(model, optimizer, micro_batches):
    """Takes 150 MB for each example of the largest micro-batch."""
    import keras
    most = max(len(x) for x, _, _ in micro_batches)
    block = np.empty(most * 150_000_000 // 8)
    block[::512] = 1
    optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    del block

def articles():
    return bscheck.Subject("articles", build=build, data=data, loss="mean_squared_error", step=hungry)

broken = bscheck.Subject("broken", build=lambda: 3, data=data, loss="mean_squared_error")
number = 3
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "subjects_here.py").write_text(textwrap.dedent(SUBJECTS))
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "bscheck", "advise", *arguments]


def environment():
    paths = [os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""}


def run(folder, *arguments):
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=200
    )


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.split()


@pytest.mark.skipif(not memory.resident(), reason="this system has no /proc, so nothing is limited")
def test_what_does_not_fit_is_told_and_an_interruption_keeps_it(folder):
    output = folder / "advice.json"
    started = subprocess.Popen(
        command("subjects_here:articles", "--memory", "1.5GB", "--budget", "150", "--output", str(output)),
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    bisected = []
    for line in started.stderr:
        bisected.append(line)
        if line.startswith(("noise", "timing")):
            break
    working = children(started.pid)
    started.send_signal(signal.SIGINT)
    text, _ = started.communicate(timeout=60)
    assert started.returncode == 130, text
    assert any("does not fit (stopped at 1.5" in line for line in bisected)
    told = json.loads(output.read_text())
    assert told["interrupted"]
    # Keras and TensorFlow leave room for 3 to 7 examples of 150 MB.
    assert 2 <= told["largest_that_fits"] < told["smallest_that_does_not"] <= 8
    assert f"largest that fits: {told['largest_that_fits']}" in text
    assert "interrupted: this is what had been measured by then" in text
    weighed = {trial["size"]: trial["figures"]["memory"] for trial in told["trials"] if trial["figures"]}
    assert 130e6 < weighed[2] - weighed[1] < 170e6
    assert working
    assert not any(os.path.exists(f"/proc/{pid}") for pid in working), "a trial's process was left behind"


def test_a_small_budget_gives_an_answer(folder):
    output = folder / "advice.json"
    ran = run(folder, "subjects_here:articles", "--max-batch", "2", "--budget", "40", "--output", str(output))
    assert ran.returncode == 0, ran.stderr
    assert "largest that fits: at least" in ran.stdout
    told = json.loads(output.read_text())
    assert (told["program"], told["interrupted"]) == ("bscheck advise", False)
    assert told["trials"][0]["size"] == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lsm"], "unknown reference subject 'lsm'; did you mean 'lstm'?"),
        (["subjects_here:number"], "must be a bscheck.Subject or a function that returns one; got int"),
        (["subjects_here:articels"], "unknown name 'articels'; valid: broken"),
        (["subjects_here:"], "give MODULE:SUBJECT, for example mypkg.subjects:articles_lstm"),
        (["nowhere.at_all:x"], "there is no module 'nowhere' in "),
    ],
)
def test_a_subject_that_is_none_is_one_line(folder, arguments, line):
    ran = run(folder, *arguments)
    assert ran.returncode == 4
    *progress, last = ran.stderr.splitlines()
    assert last.startswith("bscheck: ")
    assert line in last
    assert all(text.startswith("starting") for text in progress)
    assert ran.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--memory", "lots"], "--memory: must be an amount of memory such as 4GB or 500MB, not 'lots'"),
        (["--max-batch", "0"], "--max-batch: must be a whole number of at least 1, not '0'"),
        (["--target", "1"], "--target: must be a whole number of at least 2, not '1'"),
        (["--budget", "soon"], "--budget: must be a whole number of at least 5, not 'soon'"),
        (["--dtype", "float"], "--dtype: unknown dtype policy 'float'; did you mean 'float64'?"),
        (["--output", "/nowhere/at/all.json"], "record /nowhere/at/all.json: there is no folder /nowhere/at; make it"),
        (["--picture", "advice.jpg"], "the name must end in .png, .svg, .pdf"),
    ],
)
def test_a_bad_option_is_one_line_before_anything_starts(folder, arguments, line):
    ran = run(folder, "lstm", *arguments)
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.startswith("bscheck: ")
    assert line in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_picture_without_matplotlib_names_the_extra(folder):
    if importlib.util.find_spec("matplotlib"):
        pytest.skip("matplotlib is installed")
    ran = run(folder, "lstm", "--picture", "advice.png")
    assert (ran.returncode, ran.stderr) == (4, "bscheck: --picture needs matplotlib: pip install 'bscheck[report]'\n")


@pytest.mark.parametrize(("suffix", "timed"), [("png", True), ("svg", False), ("pdf", True)])
def test_a_picture_is_drawn(tmp_path, suffix, timed):
    pytest.importorskip("matplotlib", reason="matplotlib is missing: pip install 'bscheck[report]'")
    from bscheck.measure.advice import Advice, Trial
    from bscheck.measure.sampler import Samples
    from bscheck.results.advice_picture import draw

    advice = Advice("articles", "float32", 64)
    advice.trials = [Trial(n, figures={"memory": 10**6 * n, "seconds": 1e-3}) for n in (1, 2)] + [Trial(4, reason="no")]
    if timed:
        row = {"1": (1e-3, 1.1e-3), "2": (1.5e-3, 1.4e-3), "1 again": (1e-3, 1e-3)}
        advice.samples = Samples((1, 2), (row, row, row), 3)
    draw(advice, tmp_path / f"advice.{suffix}")
    assert (tmp_path / f"advice.{suffix}").stat().st_size > 1000
