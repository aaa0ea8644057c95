"""Accumulation: every gradient of a step is taken at the weights that the step began with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import OrderCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, random, require
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array
from bscheck.runtime.order import updates

#: What the loss sums: products with the targets or the predictions themselves (critics; models whose output is their
#: loss), of which no gradient depends on the predictions; squares as most losses are.
LOSSES = ("product", "prediction", "square")


def order_params() -> list[Param]:
    """Return the kinds of loss."""
    return [Param.of(loss=loss) for loss in LOSSES]


def order_cases(context: Context) -> Any:
    """Draw chains of layers and how a step is asked for."""
    from hypothesis import strategies as st

    return st.builds(
        OrderCase,
        examples=st.sampled_from([1, 2, 3, 8]),
        layers=st.integers(2, 3),
        bias=st.sampled_from(OrderCase.CHOICES["bias"]),
        activation=st.sampled_from(OrderCase.CHOICES["activation"]),
        path=st.sampled_from(OrderCase.CHOICES["path"]),
        models=st.integers(1, 2),
        mode=st.sampled_from(context.runtime.drawn_modes),
        seed=seeds(),
    )


def order_corners(context: Context) -> Sequence[OrderCase]:
    """Return two layers; where the gradients do not depend on the predictions, two models, which are laid out anew."""
    mode, models = context.runtime.modes[0], 1 if context.param.get("loss") == "square" else 2
    return (OrderCase(models=models, mode=mode), OrderCase(path="fit", bias="on", activation="relu", mode=mode))


def drawn_step(case: OrderCase) -> tuple[list[Array], Array, Array]:
    """Return weights, inputs and targets: integers so small that float32 computes the step exactly."""
    rng, n = random(case.seed, 27), case.HIDDEN
    weights = []
    for _ in range(case.layers):
        weights.append(rng.integers(-2, 3, (n, n)))
        if case.bias == "on":
            weights.append(rng.integers(-2, 3, n))
    x, y = (rng.integers(-3, 4, (case.examples, n)) for _ in range(2))
    return [w.astype(np.float32) for w in weights], x.astype(np.float32), y.astype(np.float32)


def chain_gradients(case: OrderCase, loss: str, weights: Sequence[Array], x: Array, y: Array) -> list[Array]:
    """Return the gradients of the sum over the batch, by the chain rule, in float64.

    With h_0 = x, z_l = h_(l-1) W_l + b_l, h_l = f(z_l) and g_L the slope of the loss: dW_l = h_(l-1)^T g_l,
    db_l = sum of g_l over the examples, g_(l-1) = (g_l W_l^T) f'(z_(l-1)).
    """
    each = 2 if case.bias == "on" else 1
    layers = [[w.astype(np.float64) for w in weights[i : i + each]] for i in range(0, len(weights), each)]
    relu, inputs, sums = case.activation == "relu", [x.astype(np.float64)], []
    for layer in layers:
        sums.append(inputs[-1] @ layer[0] + (layer[1] if each == 2 else 0))
        inputs.append(np.maximum(sums[-1], 0) if relu else sums[-1])
    slope = {"product": y, "prediction": np.ones(y.shape), "square": 2 * (sums[-1] - y)}[loss].astype(np.float64)
    gradients: list[Array] = []
    for i in reversed(range(len(layers))):
        gradients[:0] = [inputs[i].T @ slope, slope.sum(axis=0)][:each]
        slope = (slope @ layers[i][0].T) * (sums[i - 1] > 0 if relu and i else 1)
    return gradients


@check(
    family="accumulation",
    claims=("C1", "C8"),
    case=OrderCase,
    cases=order_cases,
    params=order_params,
    corners=order_corners,
    examples=(0, 1, 30),
    per_subject=False,
    catches="a step that updates a weight before the gradient of an earlier layer has read it, as a graph may that is "
    "put in order by what depends on what",
    formula="W - W' = dL/dW at W, bit for bit, for every weight of a chain of layers",
    source="the chain rule; integers below 2^24 are exact in IEEE 754 binary32, and so are their sums and products",
    example="the kernel[0, 0] of layer 1 moves by 572 where its gradient is 68, in 3 of 6 steps from the same weights",
)
def step_takes_its_gradients_before_it_updates(context: Context, case: OrderCase) -> Reading:
    """Every gradient of a step is taken at the weights that the step began with."""
    loss: Any = context.param.get("loss")
    weights, x, y = drawn_step(case)
    expected = chain_gradients(case, loss, weights, x, y)
    require(max(float(np.abs(g).max()) for g in expected) < 2**24, "an integer gradient left the exact range")
    seen = [first_difference(case, moved, expected) for moved in updates(case, loss, weights, x, y)]
    wrong = [difference for difference in seen if difference is not None]
    if not wrong:
        return Reading(0.0)
    where, told = wrong[0]
    steps = f"in {len(wrong)} of {len(seen)} steps from the same weights"
    return Reading(np.inf, where, f"{told}, {steps}", "integers are exact: no difference")


def first_difference(case: OrderCase, moved: Sequence[Array], expected: Sequence[Array]) -> tuple[str, str] | None:
    """Return which entry of the weights did not move by its gradient, and how both differ."""
    for number, (step, gradient) in enumerate(zip(moved, expected, strict=True)):
        if not np.array_equal(step, gradient):
            at = tuple(int(i) for i in np.argwhere(~(step == gradient))[0])
            layer, kind = divmod(number, 2) if case.bias == "on" else (number, 0)
            where = f"{('kernel', 'bias')[kind]}{list(at)} of layer {layer + 1}"
            return where, f"the {where} moves by {step[at]:.9g} where its gradient is {gradient[at]:.9g}"
    return None
