"""The runtime contract, held by whichever backend is active, and by each other installed one in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bscheck.runtime import BACKENDS, current, keras_module
from bscheck.runtime.bench import Bench, build_model, precision
from bscheck.runtime.probe import applied, history, make_probe, make_spy
from bscheck.subject import Subject
from bscheck.traits import probe

X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]], "float32")
Y = np.array([[1.0], [0.0], [2.0]], "float32")
W = np.array([1.0, 2.0, 0.5], "float32")
START = np.array([0.5, -0.25, 0.125])


def modes() -> tuple[str, ...]:
    return current().modes


def linear() -> Any:
    keras = keras_module()
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def subject(build: Any = linear) -> Subject:
    return Subject("linear", build=build, data=(X, Y), loss="mean_squared_error")


def expected(x: Any = X, y: Any = Y, w: Any = None, at: Any = START) -> tuple[float, Any]:
    """Return loss and gradient of weighted least squares, weights divided by the number of examples."""
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    shares = np.full(len(x), 1.0) if w is None else np.asarray(w, np.float64)
    residual = rows @ at - y[:, 0]
    return float(shares @ residual**2) / len(x), 2 * rows.T @ (shares * residual) / len(x)


@pytest.fixture(scope="module", params=["float32", "float64"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(subject(), request.param)


def tolerance(bench: Bench) -> float:
    return 1e-6 if bench.dtype == "float32" else 1e-14


@pytest.mark.parametrize("weights", [None, W], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("mode", modes())
def test_gradient_of_a_quadratic_is_exact(bench: Bench, mode: str, weights: Any) -> None:
    bench.set_weights(START)
    loss, gradient = bench.gradient((X, Y, weights), mode)
    want_loss, want = expected(w=weights)
    assert gradient.dtype == np.float64
    assert loss == pytest.approx(want_loss, rel=tolerance(bench))
    np.testing.assert_allclose(gradient, want, rtol=tolerance(bench))


@pytest.mark.parametrize("mode", modes())
def test_gradient_leaves_the_weights_alone_and_sees_new_ones(bench: Bench, mode: str) -> None:
    bench.set_weights(START)
    before = bench.weights()
    bench.gradient((X, Y, None), mode)
    np.testing.assert_array_equal(bench.weights(), before)
    bench.set_weights(2 * START)
    np.testing.assert_allclose(bench.gradient((X, Y, None), mode)[1], expected(at=2 * START)[1], rtol=tolerance(bench))


def test_gradient_does_not_move_batch_statistics_across_set_weights() -> None:
    keras = keras_module()

    def build() -> Any:
        layers = [keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        return keras.Sequential(layers)

    normal = Bench(subject(build), "float32")
    start = normal.initial
    seen = []
    for _ in range(2):
        normal.set_weights(start)
        seen.append([np.array(keras.ops.convert_to_numpy(v)) for v in normal.model.non_trainable_variables])
        normal.gradient((X, Y, None), modes()[0])
    for first, second in zip(*seen, strict=True):
        np.testing.assert_array_equal(first, second)


def test_precision_scope_computes_in_float64_and_restores() -> None:
    keras = keras_module()
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy().name
    with precision("float64"):
        inside = keras.Variable(np.array([1.0 + 2.0**-40]))
        total = keras.ops.convert_to_numpy(keras.ops.sum(inside * inside))
        assert str(inside.dtype) == "float64"
    assert total.dtype == np.float64
    assert float(total) == (1.0 + 2.0**-40) ** 2
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == (floatx, policy)
    outside = keras.Variable(np.array([1.0], "float32"))
    assert keras.ops.convert_to_numpy(keras.ops.sum(outside * outside)).dtype == np.float32
    assert keras.ops.convert_to_numpy(inside)[0] == 1.0 + 2.0**-40


def test_set_weights_keeps_all_64_bits() -> None:
    double = Bench(subject(), "float64")
    double.set_weights(START + 2.0**-40)
    np.testing.assert_array_equal(double.weights(), START + 2.0**-40)


@pytest.mark.parametrize("mode", modes())
@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)], ids=str)
def test_training_step_is_plain_gradient_descent(mode: str, sizes: tuple[int, int]) -> None:
    bench = Bench(subject(), "float32")
    bench.set_weights(START)
    sgd = keras_module().optimizers.SGD(0.125)
    step = current().training_step(bench.model, bench.loss, sgd, mode)
    at, done = START, 0
    for size in sizes:
        x, y = X[done : done + size], Y[done : done + size]
        step(x, y, None)
        at, done = at - 0.125 * expected(x, y, at=at)[1], done + size
    np.testing.assert_allclose(bench.weights(), at, rtol=1e-5)


@pytest.mark.parametrize("mode", modes())
def test_apply_function_updates_variables_and_slots(mode: str) -> None:
    keras = keras_module()
    variables = [keras.Variable(np.array([1.0, 2.0], "float32")), keras.Variable(np.array(3.0, "float32"))]
    momentum = keras.optimizers.SGD(0.5, momentum=0.5)
    run = current().apply_function(momentum, variables, mode)
    for _ in range(2):
        run([np.array([1.0, -2.0], "float32"), np.array(4.0, "float32")])
    # Velocities -0.5 g and -0.75 g: both updates together are -1.25 g.
    first, second = (keras.ops.convert_to_numpy(v) for v in variables)
    np.testing.assert_array_equal(first, [-0.25, 4.5])
    assert float(second) == -2.0
    assert int(keras.ops.convert_to_numpy(momentum.iterations)) == 2


@pytest.mark.parametrize("path", ["loop", "train_on_batch", "fit"])
@pytest.mark.parametrize("mode", modes())
def test_probe_sees_the_window_on_every_path(mode: str, path: str) -> None:
    bench = Bench(subject(), "float32")
    bench.set_weights(START)
    batches = [(X[i : i + 1], Y[i : i + 1], None) for i in range(3)]
    window = bench.accumulate(batches, path, mode)
    assert window.updates == 1
    assert window.micro is not None
    for (x, y, _), seen in zip(batches, window.micro, strict=True):
        np.testing.assert_allclose(seen, expected(x, y)[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(window.applied, window.micro.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(bench.weights(), START)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Ftrl"])
def test_spy_runs_the_code_that_users_get(name: str) -> None:
    """On torch, Keras swaps its own classes, but not their subclasses, for faster ones."""
    original = getattr(keras_module().optimizers, name)
    users = type(original())
    assert isinstance(make_spy(original, 4), users)
    accumulators = [c for c in users.__mro__ if "Parallel" in c.__name__]
    assert all(isinstance(make_probe(4, 2), c) for c in accumulators)


def test_spy_records_what_it_is_given() -> None:
    keras = keras_module()
    variable = keras.Variable(np.zeros(2, "float32"))
    spy = make_spy(keras.optimizers.SGD, 4, learning_rate=1.0)
    run = current().apply_function(spy, [variable], modes()[0])
    given = [np.array([1.0, 2.0], "float32"), np.array([3.0, 4.0], "float32")]
    for gradient in given:
        run([gradient])
    np.testing.assert_array_equal(history(spy)[0][:2], given)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), [-4.0, -6.0])


def test_probe_survives_compiled_apply() -> None:
    keras = keras_module()
    variable = keras.Variable(np.zeros(2, "float32"))
    watching = make_probe(4, 2)
    run = current().apply_function(watching, [variable], modes()[0])
    for gradient in ([1.0, 2.0], [3.0, 6.0]):
        run([np.array(gradient, "float32")])
    values, updates = applied(watching)
    np.testing.assert_array_equal(values[0], [2.0, 4.0])
    assert updates == [1]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), [0.0, 0.0])


def test_compiled_function_reads_and_writes_variables() -> None:
    keras = keras_module()
    variable = keras.Variable(np.array(1.0, "float32"))

    def add(x: Any) -> Any:
        variable.assign(variable + x)
        return variable * 2.0

    for mode in modes():
        variable.assign(1.0)
        run = current().compile(add, mode)
        one = keras.ops.convert_to_tensor(np.array(1.0, "float32"))
        seen = [float(keras.ops.convert_to_numpy(run(one))) for _ in range(3)]
        assert seen == [4.0, 6.0, 8.0]
        assert float(keras.ops.convert_to_numpy(variable)) == 4.0


def test_model_that_rounds_to_float32_has_no_double() -> None:
    keras = keras_module()

    class Rounding(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return keras.ops.cast(keras.ops.cast(x, "float32"), "float64") if self.compute_dtype == "float64" else x

    def build() -> Any:
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), Rounding(), keras.layers.Dense(1)])

    rounding, plain = subject(build), subject()
    assert not probe(rounding, Bench(rounding, "float64")).double
    assert probe(plain, Bench(plain, "float64")).double


def test_descriptions_and_synchronize() -> None:
    told = current().describe()
    assert set(told) == {"backend_version", "device", "device_name", "threads", "tf32"}
    assert told["tf32"] in ("on", "off")
    model = build_model(subject(), "float32")
    current().synchronize()
    current().synchronize(model.variables)


@pytest.mark.parametrize("backend", BACKENDS)
def test_contract_on(backend: str) -> None:
    """Run this file in a process on each other backend.

    ``PYTHON_WITH_JAX=/path/to/python`` (or ``_TENSORFLOW``, ``_TORCH``) names an environment that has it.
    """
    if backend == current().name:
        pytest.skip("this process holds the contract itself")
    python = sys.executable if find_spec(backend) else os.environ.get(f"PYTHON_WITH_{backend.upper()}", "")
    if not python:
        pytest.skip(f"{backend} is not installed here")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(root)}
    # Without this very test, or processes would start processes without end.
    others = ["-k", f"not {test_contract_on.__name__}"]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *others, str(Path(__file__))]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
