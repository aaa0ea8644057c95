"""Rounding bounds for accumulation, derived: no magic constants.

Notation (one tensor): ``f`` the large-batch gradient, ``a`` the accumulated one, ``G`` the micro-batch
gradients (rows), ``p`` their shares of the weight, ``r`` and ``R`` the same in float64, ``u`` the unit roundoff,
``S = sum p_j |G_j|``. ``S_all`` is S over all tensors: the global floor ``1e-3 rms S_all`` keeps a gradient that
is zero in mathematics and noise in arithmetic (the key bias of attention) from deciding the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Unit roundoff (half the distance from 1 to the next number) of the dtype that a policy computes in.
UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "mixed_bfloat16": 2.0**-8,
    "mixed_float16": 2.0**-11,
}
#: Unit roundoff of the dtype that a policy keeps variables, and so accumulators, in.
UNIT_ROUNDOFF_OF_ACCUMULATOR = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "mixed_bfloat16": 2.0**-24,
    "mixed_float16": 2.0**-24,
}
#: Share of the gradient over all tensors below which one tensor's gradient counts as noise.
GLOBAL_FLOOR = 1e-3
#: Smallest absolute difference looked at, just above float32's smallest normal number, 1.2e-38.
TINY = 1e-37


@dataclass(frozen=True)
class Deviation:
    """The worst difference between two gradients.

    Attributes
    ----------
    share : float
        Difference as a share of the bound.
    tensor : int
        Index of the worst variable.
    index : tuple of int
        Index of the worst element in it.
    difference, scale : float
        The worst element's difference, and the rms of what it is compared with.
    bound : float
        What was allowed, in the unit of `difference`.
    """

    share: float
    tensor: int
    index: tuple[int, ...]
    difference: float
    scale: float
    bound: float


def rms(values: Array) -> float:
    """Return the root mean square, computed without overflow; 0 for no values."""
    if values.size == 0:
        return 0.0
    largest = float(np.max(np.abs(values)))
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.mean(np.square(values / largest))))


def weighted_size(shares: Sequence[float], micro: Array) -> Array:
    """Return ``S = sum_j p_j |G_j|``, elementwise."""
    return np.asarray(np.abs(np.asarray(shares, np.float64)) @ np.abs(micro))


def mathematics(
    accumulated: Sequence[Array],
    large: Sequence[Array],
    size: Sequence[Array],
    arithmetic_gap: Sequence[float],
) -> Deviation:
    """Compare in float64: are the two gradients the same function of weights and data?

    ``rms(a-f) <= max(1e-10 (rms S + 1e-3 rms S_all), 64 * 2**-29 * max(gap, 2**-24 (rms S + 1e-3 rms S_all)))``.
    The first term is the float64 model's own rounding with room for cancellation; the second scales the rounding
    seen between float32 and float64 (`arithmetic_gap`, the rms of f32 - f64) down by 2**-29, the ratio of the two
    roundoffs, with a factor 64 for ill-conditioned subjects.
    """
    everything = rms(np.concatenate([s.ravel() for s in size]))
    bounds = []
    for s, gap in zip(size, arithmetic_gap, strict=True):
        scale = rms(s) + GLOBAL_FLOOR * everything
        bounds.append(max(1e-10 * scale, 64 * 2.0**-29 * max(gap, 2.0**-24 * scale)) + TINY)
    return _worst_norm(accumulated, large, bounds)


def arithmetic(accumulated: Sequence[Array], micro: Sequence[Array], shares: Sequence[float], u: float) -> Deviation:
    """Compare an accumulator with the very gradients it was given, elementwise.

    ``|a - sum p_j G_j| <= 2 u (k + 2) S + 1e-37``: k-1 additions, one scaling and one division, each with a
    relative error of at most u on partial sums of at most S, and a factor 2.
    """
    k = len(shares)
    found = Deviation(0.0, 0, (), 0.0, 0.0, 0.0)
    for t, (a, g) in enumerate(zip(accumulated, micro, strict=True)):
        expected = np.tensordot(np.asarray(shares, np.float64), g, 1)
        bound = 2 * u * (k + 2) * np.tensordot(np.abs(np.asarray(shares)), np.abs(g), 1) + TINY
        found = _worse(found, _elementwise(t, a, expected, bound))
    return found


def end_to_end(
    accumulated: Sequence[Array],
    reference: Sequence[Array],
    large_error: Sequence[Array],
    micro_error: Sequence[Array],
    size: Sequence[Array],
    u: float,
) -> Deviation:
    """Compare the accumulated gradient with the float64 one.

    With the norm ``|.|`` the rms, ``|a-r| <= 6 sigma``, and with the maximum norm ``|a-r| <= 8 sigma``, where
    ``sigma = max(|f-r|, |sqrt(sum (p_j (G_j-R_j))**2)|, u |S|, 1e-3 u |S_all|)``: what the subject's own
    arithmetic was just seen to do to the large batch (`large_error`, f - r) and to the micro-batches
    (`micro_error`). The accumulated gradient's error is one more draw of the same size; the maximum norm
    finds the single wrong element that the rms of a large tensor hides.
    """
    everything = np.concatenate([s.ravel() for s in size])
    found = Deviation(0.0, 0, (), 0.0, 0.0, 0.0)
    for norm, factor in ((rms, 6.0), (_largest, 8.0)):
        floor = GLOBAL_FLOOR * u * rms(everything)
        bounds = [
            factor * max(norm(f), norm(m), u * norm(s), floor) + TINY
            for f, m, s in zip(large_error, micro_error, size, strict=True)
        ]
        found = _worse(found, _worst_norm(accumulated, reference, bounds, norm))
    return found


def rows(
    outputs: Sequence[Array],
    reference: Sequence[Array],
    rounding: Sequence[Array],
    calibration: Sequence[Array],
    u: float,
) -> Deviation:
    """Compare rows of outputs with the float64 ones.

    With the norm ``|.|`` the rms over all rows, ``|p - r| <= 6 sigma``, and with the maximum norm ``<= 8 sigma``,
    where ``sigma = max(|f - c|, u |c|, 1e-3 u |c_all|)``: ``f - c`` (`rounding`) is what the subject's own
    arithmetic was just seen to do to the calibration rows ``c`` *given one at a time*, so that no fault of larger
    batches can widen the bound. The calibration has at least as many rows as the outputs, and never so few that
    all of them round well by luck; row p's error is one more draw from the same distribution.
    """
    everything = rms(np.concatenate([c.ravel() for c in calibration]))
    found = Deviation(0.0, 0, (), 0.0, 0.0, 0.0)
    for norm, factor in ((rms, 6.0), (_largest, 8.0)):
        bounds = [
            factor * max(norm(e), u * norm(c), GLOBAL_FLOOR * u * everything) + TINY
            for e, c in zip(rounding, calibration, strict=True)
        ]
        found = _worse(found, _worst_norm(outputs, reference, bounds, norm))
    return found


def mean_over_examples(shift: float, size: float, terms: int, u: float) -> float:
    """Return how far a mean over examples may be off.

    ``6 shift + 2 u sqrt(terms + 8) size``. `shift` is the rms over the calibration rows of how far one example's
    term moves when the float64 prediction is replaced by the subject's own, so 6 of it bound the mean even where
    all examples err alike. `size` is the mean magnitude of what one term is computed from; a sum of `terms` of
    them, with 8 operations for the term itself and the division, errs by no more than ``2 u sqrt(terms + 8)`` of
    that in all but a few of a thousand worst-case inputs (Higham and Mary 2019, lambda = 2); ordinary rounding
    errors, half of whose bound is rarely met, stay far below.
    """
    return 6.0 * shift + 2.0 * u * float(np.sqrt(terms + 8)) * size + TINY


@dataclass(frozen=True)
class Sensitivity:
    """How far a layer's outputs move when its weights and inputs do, for each output tensor.

    Attributes
    ----------
    moved : tuple of (float, float)
        Movement in rms and in the maximum norm, divided by the relative perturbation.
    scale : tuple of (float, float)
        The outputs' own size in the same norms.
    """

    moved: tuple[tuple[float, float], ...]
    scale: tuple[tuple[float, float], ...]


#: What rounding may do beyond one perturbation of every input and weight: ``LAYER_ROUNDINGS`` of the like, one for
#: each operation on the way from input to output, added as random errors are (16 for 256 operations in a row).
LAYER_ROUNDINGS = 16.0
#: Largest sensitivity looked at, relative to the outputs: a fault that makes a layer erratic must not excuse itself.
MOST_SENSITIVE = 4096.0


def layer_sensitivity(outputs: Sequence[Array], perturbed: Sequence[Array], size: float) -> Sensitivity:
    """Return the sensitivity seen when inputs and weights were perturbed by a relative `size`, in float64."""
    scale = _sizes(outputs)
    moved = []
    for a, b, own in zip(outputs, perturbed, scale, strict=True):
        difference = np.abs(a - b)
        seen = [norm(difference) / size for norm in (rms, _largest)]
        moved.append(tuple(min(max(m, s), MOST_SENSITIVE * s) for m, s in zip(seen, own, strict=True)))
    return Sensitivity(tuple((a, b) for a, b in moved), scale)


def layer_rows(outputs: Sequence[Array], expected: Sequence[Array], sensitivity: Sensitivity, u: float) -> Deviation:
    """Compare rows of a layer's outputs with the rows they must be.

    In rms and in the maximum norm, ``|p - r| <= 16 u max(m, |r| m / |c|)``: ``m`` is how far the outputs ``c`` of the
    calibration rows move under a perturbation of every input and weight, divided by its relative size, and no less
    than ``|c| + 1e-3 |c_all|``. A layer of one operation per output errs by u m; 16 is the square root of 256
    operations in a row.
    """
    found = Deviation(0.0, 0, (), 0.0, 0.0, 0.0)
    own = _sizes(expected)
    for which, norm in enumerate((rms, _largest)):
        bounds = [
            LAYER_ROUNDINGS * u * moved[which] * max(1.0, size[which] / scale[which] if scale[which] else 1.0) + TINY
            for moved, scale, size in zip(sensitivity.moved, sensitivity.scale, own, strict=True)
        ]
        found = _worse(found, _worst_norm(outputs, expected, bounds, norm))
    return found


def _sizes(outputs: Sequence[Array]) -> tuple[tuple[float, float], ...]:
    everything = np.concatenate([o.ravel() for o in outputs]) if outputs else np.zeros(0)
    floors = [GLOBAL_FLOOR * norm(everything) for norm in (rms, _largest)]
    return tuple((rms(o) + floors[0], _largest(o) + floors[1]) for o in outputs)


def _largest(values: Array) -> float:
    return float(np.max(np.abs(values))) if values.size else 0.0


def _worst_norm(
    left: Sequence[Array],
    right: Sequence[Array],
    bounds: Sequence[float],
    norm: Callable[[Array], float] = rms,
) -> Deviation:
    found = Deviation(0.0, 0, (), 0.0, 0.0, 0.0)
    for t, (a, b, bound) in enumerate(zip(left, right, bounds, strict=True)):
        difference = np.abs(a - b)
        share = norm(difference) / bound
        if not np.isfinite(share):
            share = np.inf
        if share >= found.share and difference.size:
            at = np.unravel_index(int(np.argmax(np.where(np.isfinite(difference), difference, np.inf))), a.shape)
            index = tuple(int(i) for i in at)
            found = Deviation(float(share), t, index, float(difference[at]), rms(b), bound)
    return found


def _elementwise(tensor: int, left: Array, right: Array, bound: Array) -> Deviation:
    difference = np.abs(left - right)
    share = np.where(np.isfinite(difference), difference, np.inf) / bound
    at = np.unravel_index(int(np.argmax(share)), share.shape)
    index = tuple(int(i) for i in at)
    return Deviation(float(share[at]), tensor, index, float(difference[at]), rms(right), float(bound[at]))


def _worse(a: Deviation, b: Deviation) -> Deviation:
    return b if b.share > a.share else a


# Tiny batches ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The variance of mini-batch gradients beside the law's, for the variable that is worst.

    Attributes
    ----------
    share : float
        Difference as a share of the bound.
    tensor : int
        Index of the worst variable.
    seen, law : float
        Mean square (over mini-batches and elements) of the mini-batch gradients' distance from the full
        gradient, as enumerated and as the law says.
    bound : float
        What ``|seen - law|`` may be.
    """

    share: float
    tensor: int
    seen: float
    law: float
    bound: float


def gradient_rounding(size: Sequence[Array], arithmetic_gap: Sequence[float]) -> list[float]:
    """Return the rms rounding error ``e_t`` that a float64 gradient of each tensor may carry.

    ``e = 64 * 2**-29 * max(gap, 2**-24 (rms S + 1e-3 rms S_all))``, the second term of `mathematics`:
    float32's rounding of the subject at these weights (`arithmetic_gap`, the rms of f32 - f64) scaled by the
    ratio of the two roundoffs. Measured on the reference subjects with weights scaled 0.3 to 1000, the error
    of a mean over mini-batches is at most 0.15 e.
    """
    everything = rms(np.concatenate([s.ravel() for s in size]))
    return [
        64 * 2.0**-29 * max(gap, 2.0**-24 * (rms(s) + GLOBAL_FLOOR * everything)) + TINY
        for s, gap in zip(size, arithmetic_gap, strict=True)
    ]


def unbiased(mean: Sequence[Array], full: Sequence[Array], rounding: Sequence[float]) -> Deviation:
    """Compare the mean of mini-batch gradients with the full gradient: ``rms(mean - full) <= 2 e``.

    Each mini-batch's gradient errs by at most e in rms, hence their mean too, and so does the full gradient.
    """
    return _worst_norm(mean, full, [2 * e for e in rounding])


def variance_law(
    distances: Sequence[Array], single: Sequence[Array], factor: float, rounding: Sequence[float]
) -> Spread:
    """Compare the variance of mini-batch gradients with `factor` times that of single examples' gradients.

    Let V be the exact mean square. Every distance ``d = g - full`` errs by at most 2e in rms, so by Cauchy
    and Schwarz ``|mean (d + error)**2 - V| <= 4 e sqrt(V) + 4 e**2``. The law's side errs by `factor` times
    the same, where its V is ``V / factor``: together by
    ``4 e sqrt(V) (1 + sqrt(factor)) + 4 e**2 (1 + factor)``. Squaring and summing n terms on each side adds
    ``2 (n + 4) 2**-53 V``.

    Parameters
    ----------
    distances, single : sequence of array
        For each variable, rows of ``g_S - full`` over the mini-batches S, and of ``g_i - mean`` over the
        examples.
    factor : float
        The law's ``(N - B) / (B (N - 1))``.
    rounding : sequence of float
        What `gradient_rounding` returned.
    """
    found: Spread | None = None
    for t, (rows, ones, e) in enumerate(zip(distances, single, rounding, strict=True)):
        seen, law = float(np.mean(np.square(rows))), factor * float(np.mean(np.square(ones)))
        larger = max(seen, law)
        bound = 4 * e * np.sqrt(larger) * (1 + np.sqrt(factor)) + 4 * e**2 * (1 + factor)
        bound += 2 * (rows.size + ones.size + 8) * 2.0**-53 * larger
        share = abs(seen - law) / bound
        if found is None or not share <= found.share:
            found = Spread(float(share) if np.isfinite(share) else np.inf, t, seen, law, float(bound))
    assert found is not None, "a subject has at least one variable"
    return found
