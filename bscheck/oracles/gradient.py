"""Loss and gradient of a dense network in float64 NumPy, by definition, with the rounding Keras may show.

The chain rule written out (Goodfellow, Bengio & Courville 2016, Deep Learning, Algorithms 6.3 and 6.4). Every
intermediate carries a bound on its error (running error analysis; Higham 2002, Accuracy and Stability of
Numerical Algorithms, sections 3.1 and 3.3), so a bound always belongs to the formula whose value it bounds.

Nothing here imports Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bscheck.tolerance import UNIT_ROUNDOFF

__all__ = ["Approximate", "Dense", "Network", "gradient", "loss"]

Array: TypeAlias = NDArray[np.float64]

ACTIVATIONS = ("linear", "tanh")
LOSSES = ("mean_squared_error", "sparse_categorical_crossentropy")

#: Error of a library's exp, log or tanh in units of roundoff of the result. Their documented errors are a few
#: units in the last place (Eigen's and XLA's rational tanh: about 5, two roundoffs each), so 16 leaves room.
ELEMENTARY = 16.0

#: A backend may group sums and fuse products as it likes: one more rounding over the same terms at most
#: doubles what they were charged. The oracle's own rounding (2^-53) is added to Keras's.
ORDERS = 2.0


@dataclass(frozen=True)
class Dense:
    """One layer: ``activation(x W + b)``, with the penalty ``l2 * sum(W**2)``.

    Attributes
    ----------
    activation : str
        One of `ACTIVATIONS`.
    l2 : float
        Strength of the penalty on the kernel W; 0 for none.
    """

    activation: str = "linear"
    l2: float = 0.0


@dataclass(frozen=True)
class Network:
    """Dense layers in sequence and a loss, averaged over the examples of a batch.

    Attributes
    ----------
    layers : tuple of Dense
    loss : str
        ``mean_squared_error`` (mean over outputs, then over examples), or ``sparse_categorical_crossentropy``
        of logits (labels are integers).

    Raises
    ------
    ValueError
        For a loss or an activation that has no formula here.
    """

    layers: tuple[Dense, ...]
    loss: str

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"no formula for the loss {self.loss!r}; there is one for {', '.join(LOSSES)}")
        for layer in self.layers:
            if layer.activation not in ACTIVATIONS:
                known = f"there is one for {', '.join(ACTIVATIONS)}"
                raise ValueError(f"no formula for the activation {layer.activation!r}; {known}")


class Approximate(NamedTuple):
    """A value and a bound on how far Keras's own may be from it, elementwise."""

    value: Array
    error: Array


def loss(network: Network, weights: Sequence[Array], x: Array, y: Array) -> float:
    """Return the loss of one batch, penalties included.

    Parameters
    ----------
    network : Network
    weights : sequence of array
        Kernel ``(inputs, outputs)`` and bias ``(outputs,)`` of each layer, in order.
    x : array, shape (examples, inputs)
    y : array, shape (examples, outputs), or (examples,) of integer labels

    Returns
    -------
    float
    """
    output = _forward(network, weights, x, 0.0)[-1].value
    penalty = sum(
        layer.l2 * float(np.square(kernel).sum()) for layer, kernel in zip(network.layers, weights[::2], strict=True)
    )
    if network.loss == "mean_squared_error":
        return float(np.mean(np.square(output - y))) + penalty
    shifted = output - output.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(y)), np.asarray(y, np.intp)]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - chosen)) + penalty


def gradient(
    network: Network, weights: Sequence[Array], x: Array, y: Array, dtype: str = "float64"
) -> list[Approximate]:
    """Return the gradient of the batch's loss, one entry for each weight array.

    Parameters
    ----------
    network, weights, x, y
        As for `loss`.
    dtype : str
        Dtype Keras computes in; decides the error bounds.

    Returns
    -------
    list of Approximate
        Shaped as `weights`.
    """
    unit = ORDERS * UNIT_ROUNDOFF[dtype] + UNIT_ROUNDOFF["float64"]
    activations = _forward(network, weights, x, unit)
    delta = _loss_slope(network, activations[-1], y, unit)
    parts: list[Approximate] = []
    for i in reversed(range(len(network.layers))):
        layer, kernel = network.layers[i], np.asarray(weights[2 * i], np.float64)
        if layer.activation == "tanh":
            delta = _times(delta, _tanh_slope(activations[i + 1], unit), unit)
        before = activations[i]
        of_kernel = _matmul(Approximate(before.value.T, before.error.T), delta, unit)
        of_bias = _matmul(_exact(np.ones((1, len(delta.value)))), delta, unit)
        parts[:0] = [
            _with_penalty(of_kernel, kernel, layer.l2, unit),
            Approximate(of_bias.value[0], of_bias.error[0]),
        ]
        delta = _matmul(delta, _exact(kernel.T), unit)
    return parts


def _forward(network: Network, weights: Sequence[Array], x: Array, unit: float) -> list[Approximate]:
    """Return the input and the output of every layer."""
    found = [_exact(x)]
    for layer, kernel, bias in zip(network.layers, weights[::2], weights[1::2], strict=True):
        product = _matmul(found[-1], _exact(kernel), unit)
        total = _plus(product, _exact(np.broadcast_to(bias, product.value.shape)), unit)
        found.append(_tanh(total, unit) if layer.activation == "tanh" else total)
    return found


def _loss_slope(network: Network, output: Approximate, y: Array, unit: float) -> Approximate:
    """Return the derivative of the mean loss by the network's output."""
    examples = len(output.value)
    if network.loss == "mean_squared_error":
        difference = _plus(output, _exact(-np.asarray(y, np.float64)), unit)
        factor = 2.0 / output.value.size
        # The factor comes as up to three of them (2, 1/outputs, 1/examples): a product and a quotient each.
        error = factor * (difference.error + 6 * unit * np.abs(difference.value))
        return Approximate(factor * difference.value, error)
    probability = _softmax(output, unit)
    target = np.zeros(output.value.shape)
    target[np.arange(examples), np.asarray(y, np.intp)] = 1.0
    slope = _plus(probability, _exact(-target), unit)
    # 1/examples is rounded, and multiplies before or after the subtraction.
    error = (slope.error + 4 * unit * (probability.value + target)) / examples
    return Approximate(slope.value / examples, error)


def _softmax(logits: Approximate, unit: float) -> Approximate:
    """Return the softmax of each row, by ``exp(z - max) / sum`` or by ``exp(z - max - log(sum))``."""
    shifted = logits.value - logits.value.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=1, keepdims=True)
    magnitude = np.abs(logits.value) + np.abs(logits.value.max(axis=1, keepdims=True)) + 2 * np.log(total)
    # An error e of the exponent is a relative error expm1(e) of the power.
    exponent = logits.error + logits.error.max(axis=1, keepdims=True) + unit * magnitude
    relative = np.expm1(exponent) + ELEMENTARY * unit
    of_sum = relative.max(axis=1, keepdims=True) + (powers.shape[1] + ELEMENTARY) * unit
    value = powers / total
    error = value * ((1 + relative) / (1 - np.minimum(of_sum, 0.5)) * (1 + 2 * unit) - 1)
    return Approximate(value, error)


def _tanh(z: Approximate, unit: float) -> Approximate:
    value = np.tanh(z.value)
    # The steepest slope between z - error and z + error is at the end nearer to zero.
    nearest = np.maximum(np.abs(z.value) - z.error, 0.0)
    return Approximate(value, (1 - np.tanh(nearest) ** 2) * z.error + ELEMENTARY * unit * np.abs(value))


def _tanh_slope(activation: Approximate, unit: float) -> Approximate:
    """Return the derivative of tanh, ``1 - a**2``."""
    value, error = activation
    return Approximate(1 - value**2, 2 * np.abs(value) * error + error**2 + unit * (1 + 2 * value**2))


def _with_penalty(part: Approximate, kernel: Array, l2: float, unit: float) -> Approximate:
    """Add the penalty's derivative ``2 l2 W``: two products and a sum, and l2 itself may be rounded."""
    if not l2:
        return part
    penalty = 2 * l2 * kernel
    return _plus(part, Approximate(penalty, 3 * unit * np.abs(penalty)), unit)


def _matmul(a: Approximate, b: Approximate, unit: float) -> Approximate:
    """Higham 2002, section 3.5: a sum of n products errs by ``n u / (1 - n u)`` of their magnitudes."""
    terms = a.value.shape[1]
    growth = terms * unit / (1 - terms * unit)
    left, right = np.abs(a.value), np.abs(b.value)
    error = left @ b.error + a.error @ (right + b.error) + growth * ((left + a.error) @ (right + b.error))
    return Approximate(a.value @ b.value, error)


def _times(a: Approximate, b: Approximate, unit: float) -> Approximate:
    value = a.value * b.value
    error = np.abs(a.value) * b.error + a.error * (np.abs(b.value) + b.error) + unit * np.abs(value)
    return Approximate(value, error)


def _plus(a: Approximate, b: Approximate, unit: float) -> Approximate:
    return Approximate(a.value + b.value, a.error + b.error + unit * (np.abs(a.value) + np.abs(b.value)))


def _exact(value: Array) -> Approximate:
    value = np.asarray(value, np.float64)
    return Approximate(value, np.zeros(value.shape))
