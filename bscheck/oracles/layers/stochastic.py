"""Layers that draw at random in training: identity at inference, a law in training.

The draw itself is read from the layer's own outputs (what was dropped is 0 there); the definition says what the rest
must be, and how often chance may drop. Sources: Srivastava et al. (2014), Tompson et al. (2015, spatial), Klambauer
et al. (2017, alpha dropout), keras.io/api/layers/regularization_layers.
"""

from __future__ import annotations

import numpy as np

from bscheck.oracles.layers import Call, Outcome, defines
from bscheck.oracles.layers.activations import SELU_ALPHA, SELU_SCALE
from bscheck.oracles.layers.tracked import Array, Tracked, constant, select

#: The natural logarithm of 2e12: what is asked of chance happens but once in 1e12 calls.
RARE = float(np.log(2e12))


def dropped_share(kept: Array, rate: float) -> float:
    """Return how far a count of independent drops is from its expectation, as a share of Bernstein's bound."""
    n, away = kept.size, abs(int(np.sum(~kept)) - kept.size * rate)
    return float(away / (np.sqrt(2 * RARE * n * rate * (1 - rate)) + 2 * RARE / 3))


def _pairs(draws: Array) -> tuple[Array, Array]:
    """Return the draws of every second example, and those of the example after each: no draw is in two pairs."""
    even = len(draws) // 2 * 2
    return draws[0:even:2], draws[1:even:2]


def alike_share(kept: Array, told: Array, rate: float) -> float:
    """Return how far the agreement of neighbouring examples' drops is from that of independent ones."""
    (one, other), (here, there) = _pairs(kept), _pairs(told)
    return dropped_share((one != other)[here & there], rate**2 + (1 - rate) ** 2)


def _unchanged(call: Call) -> bool:
    return not call.training or call.get("rate", call.get("stddev")) == 0


def _once(call: Call) -> tuple[int, ...]:
    """Return the axes over which one draw holds."""
    if call.spec.name.startswith("Spatial"):
        first = 2 if call.get("data_format") == "channels_first" else 1
        return tuple(range(first, first + call.x.ndim - 2))
    shape = call.get("noise_shape") or (None,) * call.x.ndim
    return tuple(a for a, n in enumerate(shape) if n == 1)


@defines("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
def dropout(call: Call) -> Outcome:
    """Dropout: in training each entry (spatially: each channel) is 0 with probability `rate`, else x / (1 - rate)."""
    if _unchanged(call):
        return Outcome([call.x])
    rate, once = call.get("rate"), _once(call)
    kept = np.any(call.seen[0] != 0, axis=once, keepdims=True)
    # An input of 0 tells nothing of the draw.
    told = np.any(call.x.value != 0, axis=once, keepdims=True)
    y = select(np.broadcast_to(kept, call.x.shape), call.x / (1 - rate), 0.0, call.u)
    return Outcome([y], chance=max(dropped_share(kept[told], rate), alike_share(kept, told, rate)))


@defines("AlphaDropout")
def alpha_dropout(call: Call) -> Outcome:
    """AlphaDropout: dropped entries become ``-scale alpha``; ``a y + b`` keeps mean 0 and variance 1."""
    if _unchanged(call):
        return Outcome([call.x])
    rate, low = call.get("rate"), -SELU_SCALE * SELU_ALPHA
    a = 1 / np.sqrt((1 - rate) * (1 + rate * low**2))
    floor = constant(low, call.u) * a - constant(a * low * rate, call.u)
    floor = _constants_rounded(floor, abs(a * low))
    kept = np.abs(call.seen[0] - floor.value) > floor.error
    y = select(kept, call.x * a - constant(a * low * rate, call.u), floor, call.u)
    chance = max(dropped_share(kept, rate), alike_share(kept, np.ones_like(kept), rate))
    return Outcome([_constants_rounded(y, abs(a * low))], chance=chance)


def _constants_rounded(y: Tracked, size: float) -> Tracked:
    """Return y with room for constants of this size computed in a few operations."""
    return Tracked(y.value, y.error + 8 * y.u * size, y.tangent, y.size, y.slack, y.u)


def _noise_share(noise: Array, told: Array, spread: float) -> float:
    """Return how far normal noise is from its law, where it can be told, as a share of what chance makes of it.

    The difference of two examples' noise has twice the variance, if they are independent.
    """
    (one, other), (here, there) = _pairs(noise), _pairs(told)
    apart = (one - other)[here & there]
    return max(_normal_share(noise[told], spread), _normal_share(apart, spread * float(np.sqrt(2))))


def _normal_share(noise: Array, spread: float) -> float:
    """Return how far normal noise is from mean 0 and its variance, as a share of what chance makes of it.

    The mean of n is normal with ``spread / sqrt(n)``; the sum of squares obeys Laurent and Massart's (2000) bound
    ``2 sqrt(n t) + 2 t``, both but once in 1e12.
    """
    n, standard = noise.size, noise.ravel() / spread
    off_mean = abs(standard.mean()) / np.sqrt(2 * RARE / n)
    off_square = abs(np.sum(standard**2) - n) / (2 * np.sqrt(n * RARE) + 2 * RARE)
    return float(max(off_mean, off_square))


@defines("GaussianNoise")
def gaussian_noise(call: Call) -> Outcome:
    """GaussianNoise: in training x + normal noise of standard deviation `stddev`."""
    if _unchanged(call):
        return Outcome([call.x])
    noise = call.seen[0] - call.x.value
    chance = _noise_share(noise, np.ones(noise.shape, bool), call.get("stddev"))
    return Outcome([call.x + constant(noise, call.u)], chance=chance)


@defines("GaussianDropout")
def gaussian_dropout(call: Call) -> Outcome:
    """GaussianDropout: in training x times normal noise of mean 1 and variance rate / (1 - rate)."""
    if _unchanged(call):
        return Outcome([call.x])
    rate = call.get("rate")
    factor = call.seen[0] / np.where(call.x.value == 0, 1.0, call.x.value)
    chance = _noise_share(factor - 1.0, call.x.value != 0, float(np.sqrt(rate / (1 - rate))))
    return Outcome([call.x * constant(factor, call.u)], chance=chance)


@defines(
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale",
    "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation",
    "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom", "Solarization",
)  # fmt: skip
def augmentation(call: Call) -> Outcome:
    """Augmentations: keras.io/api/layers/preprocessing_layers/image_augmentation: inactive at inference."""
    return Outcome([call.x])
