"""The layers that the installed Keras exports, and how each is made small.

Every exported layer is enumerated; `CONSTRUCTIONS` only says how to make it and what it takes. A layer without a line
there is told as not applicable by the gate, and fails the suite's own test of completeness.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bscheck.errors import BscheckError, unknown
from bscheck.runtime import keras_module
from bscheck.surface import parameters, takes

Array = np.ndarray[Any, Any]

#: Exported classes that compute nothing by themselves: bases to derive from, and the entrance of a model.
ABSTRACT = ("InputLayer", "Layer", "Wrapper")

#: Layers that mix the examples of a batch while training, as their documentation says.
COUPLED = ("BatchNormalization", "CutMix", "MixUp")


@dataclass(frozen=True)
class Feature:
    """One input array: its shape without the batch axis, and what its numbers are like.

    Attributes
    ----------
    shape : tuple of int
    kind : str
        ``normal``, ``large`` (normal, beyond float16: times 2^20), ``offset`` (normal, 1024 away from 0),
        ``positive`` (0.5 … 2), ``image`` (integers 0 … 255, as floats), ``unit`` (0 … 1), ``int``
        (below `below`), ``mask`` (at least one step is true, one of every three is not), ``tokens`` or ``text``.
    below : int
        Integers are drawn from 0 … below - 1.
    """

    shape: tuple[int, ...]
    kind: str = "normal"
    below: int = 5

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        """Return `n` examples; floats are exact in float32."""
        return _DRAWS[self.kind](self, rng, (n, *self.shape))


def _mask(feature: Feature, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    mask = rng.random(shape) < 2 / 3
    if mask.size:
        mask.reshape(len(mask), -1)[np.arange(len(mask)), rng.integers(0, mask[0].size, len(mask))] = True
    return mask


_WORDS = np.array(["a", "b", "c", "d", "e", "a b", "c a d", "e"])

_DRAWS: Mapping[str, Callable[[Feature, np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda f, rng, shape: rng.standard_normal(shape).astype("float32"),
    "large": lambda f, rng, shape: (2.0**20 * rng.standard_normal(shape)).astype("float32"),
    "offset": lambda f, rng, shape: (1024.0 + rng.standard_normal(shape)).astype("float32"),
    "positive": lambda f, rng, shape: rng.uniform(0.5, 2.0, shape).astype("float32"),
    "unit": lambda f, rng, shape: rng.uniform(0.0, 1.0, shape).astype("float32"),
    "image": lambda f, rng, shape: rng.integers(0, 256, shape).astype("float32"),
    "int": lambda f, rng, shape: rng.integers(0, f.below, shape).astype("int32"),
    "mask": _mask,
    "tokens": lambda f, rng, shape: _WORDS[rng.integers(0, 5, shape)],
    "text": lambda f, rng, shape: _WORDS[rng.integers(0, len(_WORDS), shape)],
}


@dataclass(frozen=True)
class Construction:
    """One way to make a layer, and what it is called with.

    Attributes
    ----------
    name : str
        ``plain``, or the option that selects another path through the code.
    make : callable
        ``make(keras) -> layer``.
    args : tuple
        Positional arguments: trees (lists, tuples, dicts) of `Feature`.
    kwargs : mapping
        Keyword arguments, the same.
    needs : tuple of str
        Constructor arguments that a release may lack; the construction is then left out.
    smooth : bool
        Whether outputs move little when inputs do: no counting, sorting or rounding to integers.
    steps : str
        Where the inputs have time steps and a mask says which to skip: what a step's output is. ``aligned`` (output
        step t belongs to input step t), ``reversed``, or ``whole`` (outputs have no steps); "" without mask.
    masked : tuple of int
        Positions among the input leaves (arguments first) that the mask speaks of.
    masks : tuple of str
        The keyword arguments that hold the masks of `masked`, one each, or one for all.
    backends : tuple of str
        Backends that the construction can run on; all by default.
    core : bool
        Whether every check takes it up; the others are left to some checks, and to what is drawn.
    float64 : bool
        False where float64 images meet float32 constants in what the layer draws at random.
    """

    name: str
    make: Callable[[Any], Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    smooth: bool = True
    steps: str = ""
    masked: tuple[int, ...] = (0,)
    masks: tuple[str, ...] = ("mask",)
    backends: tuple[str, ...] = ()
    core: bool = True
    float64: bool = True

    def draw(self, rng: np.random.Generator, n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call with `n` examples, as NumPy arrays."""
        args = tuple(_map(self.args, lambda f: f.draw(rng, n)))
        return args, dict(_map(dict(self.kwargs), lambda f: f.draw(rng, n)))


def _map(tree: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _map(part, function) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(part, function) for part in tree)
    return function(tree) if isinstance(tree, Feature) else tree


# The table ---------------------------------------------------------------------------------------------

_FLAT = Feature((4,))
_STEPS = Feature((3, 3))
_CHANNELS = {1: Feature((6, 4)), 2: Feature((5, 6, 4)), 3: Feature((4, 5, 4, 4))}
_SIGNALS = Feature((64,))
_IMAGE = Feature((8, 9, 3), "image")
_MASK = Feature((3,), "mask")
_STEPS_OF_IMAGES = {1: Feature((3, 5, 2)), 2: Feature((3, 4, 4, 2)), 3: Feature((3, 3, 3, 3, 2))}
_MASK_OF_IMAGES = {dims: Feature((3,), "mask") for dims in (1, 2, 3)}


def _first(feature: Feature) -> Feature:
    """Return the feature with its channels first."""
    return Feature((feature.shape[-1], *feature.shape[:-1]), feature.kind)


def _made(name: str, *args: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda keras: getattr(keras.layers, name)(*args, **options)


def _simple(name: str, *args: Any, x: Any = _FLAT, smooth: bool = True, **variants: Any) -> list[Construction]:
    """Return ``plain``, the class with `args`, and one construction a variant (``option={constructor arguments}``)."""
    shared = variants.pop("shared", {})
    plain = Construction("plain", _made(name, *args, **shared), (x,), smooth=smooth)
    return [
        plain,
        *(
            Construction(
                option,
                _made(name, *args, **{**shared, **options}),
                (_first(x) if options.get("data_format") == "channels_first" else x,),
                needs=tuple(options),
                smooth=smooth,
            )
            for option, options in variants.items()
        ),
    ]


_CHANNELS_FIRST = {"data_format": "channels_first"}


def _convolutions(dims: int) -> dict[str, list[Construction]]:
    x = _CHANNELS[dims]
    wide = Feature((6,) * dims + (4,)) if dims < 3 else Feature((4, 4, 4, 4))
    dilated = Feature((5,) * dims + (4,)) if dims == 3 else wide
    options: dict[str, Any] = {
        "same": {"padding": "same"},
        "strides": {"strides": 2, "padding": "same"},
        "dilation": {"dilation_rate": 2, "activation": "tanh"},
        "without_bias": {"use_bias": False},
    }
    causal: dict[str, Any] = {"causal": {"padding": "causal"}} if dims == 1 else {}
    return {
        f"Conv{dims}D": [
            *_simple(f"Conv{dims}D", 4, 2, x=dilated, **options, **causal, groups={"groups": 2}),
            _convolution_channels_first(dims),
        ],
        f"Conv{dims}DTranspose": _simple(
            f"Conv{dims}DTranspose",
            3,
            2,
            x=x,
            same={"padding": "same"},
            strides={"strides": 2},
            output_padding={"strides": 2, "padding": "same", "output_padding": 1},
            without_bias={"use_bias": False},
        ),
    }


def _convolution_channels_first(dims: int) -> Construction:
    # TensorFlow has no such kernel on a CPU.
    make = _made(f"Conv{dims}D", 4, 2, **_CHANNELS_FIRST)
    return Construction("channels_first", make, (_first(_CHANNELS[dims]),), backends=("jax", "torch"), core=False)


def _more_convolutions(dims: int) -> dict[str, list[Construction]]:
    x = Feature((6,) * dims + (4,))
    options: dict[str, Any] = {
        "same": {"padding": "same"},
        "strides": {"strides": 2, "padding": "same"},
        "dilation": {"dilation_rate": 2},
        "multiplier": {"depth_multiplier": 2},
        "without_bias": {"use_bias": False},
    }
    return {
        f"DepthwiseConv{dims}D": _simple(f"DepthwiseConv{dims}D", 2, x=x, **options),
        f"SeparableConv{dims}D": _simple(f"SeparableConv{dims}D", 3, 2, x=x, **options),
    }


def _pooling(dims: int) -> dict[str, list[Construction]]:
    x = _CHANNELS[dims]
    table = {}
    for kind in ("Average", "Max"):
        table[f"{kind}Pooling{dims}D"] = _simple(
            f"{kind}Pooling{dims}D",
            2,
            x=x,
            same={"padding": "same"},
            strides={"strides": 1, "padding": "same"},
            channels_first=_CHANNELS_FIRST,
        )
        table[f"Global{kind}Pooling{dims}D"] = _simple(
            f"Global{kind}Pooling{dims}D", x=x, keepdims={"keepdims": True}, channels_first=_CHANNELS_FIRST
        )
        table[f"Adaptive{kind}Pooling{dims}D"] = _simple(
            f"Adaptive{kind}Pooling{dims}D", 2, x=x, channels_first=_CHANNELS_FIRST
        )
    if dims == 1:
        pooled = Construction("mask", _made("GlobalAveragePooling1D"), (_STEPS,), {"mask": _MASK}, steps="whole")
        table["GlobalAveragePooling1D"].append(pooled)
    table[f"UpSampling{dims}D"] = _simple(f"UpSampling{dims}D", 2, x=x)
    table[f"ZeroPadding{dims}D"] = _simple(f"ZeroPadding{dims}D", 1, x=x)
    table[f"Cropping{dims}D"] = _simple(f"Cropping{dims}D", 1, x=x)
    table[f"SpatialDropout{dims}D"] = _simple(f"SpatialDropout{dims}D", 0.5, x=x, shared={"seed": 1})
    return table


def _recurrent(name: str, x: Feature, mask: Feature, *args: Any, **options: Any) -> list[Construction]:
    """Return a recurrent layer with what all of them have: its three kinds of output, directions, masks, dropout."""

    def made(option: str, steps: str = "", **more: Any) -> Construction:
        kwargs = {"mask": mask} if steps else {}
        core = option in ("plain", "mask", "dropout") and (option != "mask" or len(args) == 1)
        return Construction(
            option, _made(name, *args, **{**options, **more}), (x,), kwargs, needs=tuple(more), steps=steps, core=core
        )

    return [
        made("plain"),
        made("state", return_sequences=True, return_state=True),
        made("backwards", return_sequences=True, go_backwards=True, use_bias=False),
        made("mask", "whole", return_state=True),
        made("mask_sequences", "aligned", return_sequences=True),
        made("mask_backwards", "reversed", return_sequences=True, go_backwards=True),
        made("dropout", dropout=0.3, recurrent_dropout=0.2, seed=1),
    ]


def _unrolled(name: str) -> list[Construction]:
    return [
        Construction("unroll_mask", _made(name, 3, unroll=True), (_STEPS,), {"mask": _MASK}, steps="whole", core=False),
        Construction("initial_state", _made(name, 3), (_STEPS,), {"initial_state": _states(name)}, core=False),
    ]


def _states(name: str) -> list[Feature]:
    return [Feature((3,)), Feature((3,))] if name.startswith("LSTM") else [Feature((3,))]


def _stacked(keras: Any) -> Any:
    return keras.layers.StackedRNNCells([keras.layers.LSTMCell(3), keras.layers.GRUCell(2)])


def _recurrent_layers() -> dict[str, list[Construction]]:
    table = {name: _recurrent(name, _STEPS, _MASK, 3) + _unrolled(name) for name in ("LSTM", "GRU", "SimpleRNN")}
    table["GRU"].append(Construction("reset_before", _made("GRU", 3, reset_after=False), (_STEPS,)))
    table["GRU"].append(
        Construction(
            "reset_before_mask",
            _made("GRU", 3, reset_after=False),
            (_STEPS,),
            {"mask": _MASK},
            steps="whole",
            core=False,
        )
    )
    for dims, x in _STEPS_OF_IMAGES.items():
        name = f"ConvLSTM{dims}D"
        table[name] = _recurrent(name, x, _MASK_OF_IMAGES[dims], 2, 2)
        table[name].append(Construction("same", _made(name, 2, 2, padding="same", strides=1), (x,)))
        if dims != 2:  # the slowest layers: what they do not share with ConvLSTM2D
            table[name] = [c for c in table[name] if c.name in ("plain", "mask", "mask_sequences", "dropout")]
    for cell in ("LSTMCell", "GRUCell", "SimpleRNNCell"):
        table[cell] = [
            # Without dropout: a cell keeps its mask until the layer around it drops it.
            Construction("plain", _made(cell, 3), (_FLAT, _states(cell))),
        ]
    table["StackedRNNCells"] = [
        Construction("plain", _stacked, (_FLAT, [[Feature((3,)), Feature((3,))], [Feature((2,))]]))
    ]
    return {**table, "RNN": _rnns(), "Bidirectional": _bidirectionals(), "TimeDistributed": _time_distributed()}


def _rnns() -> list[Construction]:
    def made(option: str, cell: Callable[[Any], Any], steps: str = "", **options: Any) -> Construction:
        kwargs = {"mask": _MASK} if steps else {}
        return Construction(
            option,
            lambda keras: keras.layers.RNN(cell(keras), **options),
            (_STEPS,),
            kwargs,
            tuple(options),
            steps=steps,
            core=option in ("plain", "stacked_mask"),
        )

    lstm, gru = _made("LSTMCell", 3), _made("GRUCell", 3)
    return [
        made("plain", lstm),
        made("mask", gru, "whole"),
        made("mask_zero_output", gru, "aligned", return_sequences=True, zero_output_for_mask=True),
        made("stacked_mask", _stacked, "whole"),
        made("stacked_mask_sequences", _stacked, "aligned", return_sequences=True, return_state=True),
    ]


def _bidirectionals() -> list[Construction]:
    def made(option: str, inner: str, steps: str = "", mode: Any = "concat", **options: Any) -> Construction:
        kwargs = {"mask": _MASK} if steps else {}
        return Construction(
            option,
            lambda keras: keras.layers.Bidirectional(getattr(keras.layers, inner)(2, **options), merge_mode=mode),
            (_STEPS,),
            kwargs,
            steps=steps,
            core=option in ("plain", "mask_sum"),
        )

    return [
        made("plain", "LSTM"),
        made("state", "GRU", return_state=True),
        made("mask", "LSTM", "whole"),
        *(made(f"mask_{mode}", "SimpleRNN", "whole", mode) for mode in ("sum", "mul", "ave")),
        made("mask_lists", "GRU", "whole", None),
        made("mask_sequences", "LSTM", "aligned", return_sequences=True),
    ]


def _time_distributed() -> list[Construction]:
    def dense(keras: Any) -> Any:
        return keras.layers.TimeDistributed(keras.layers.Dense(2))

    def nested(keras: Any) -> Any:
        return keras.layers.TimeDistributed(keras.layers.LSTM(2))

    return [
        Construction("plain", dense, (_STEPS,)),
        Construction("mask", dense, (_STEPS,), {"mask": _MASK}, steps="aligned"),
        Construction("lstm", nested, (Feature((3, 4, 2)),)),
    ]


def _attention() -> dict[str, list[Construction]]:
    """Return the attention layers; a query step's output belongs to it, masked keys are skipped."""
    q, v, many = Feature((4, 3)), Feature((3, 3)), (Feature((4, 6)), Feature((3, 6)))
    several = {"query_mask": Feature((4,), "mask"), "value_mask": _MASK}

    def dot(name: str) -> list[Construction]:
        return [
            Construction("plain", _made(name), ([q, v],)),
            Construction("scale", _made(name, use_scale=True), ([q, v, v],)),
            Construction("causal", _made(name), ([q, v],), {"use_causal_mask": True}),
            Construction(
                "mask", _made(name), ([q, v],), {"mask": [Feature((4,), "mask"), _MASK]}, steps="aligned", masked=(0, 1)
            ),
            Construction("dropout", _made(name, dropout=0.3), ([q, v],)),
        ]

    def heads(name: str, *args: Any, **options: Any) -> list[Construction]:
        return [
            Construction("plain", _made(name, *args, **options), many),
            Construction("self", _made(name, *args, **options, use_bias=False), (many[0], many[0])),
            Construction("causal", _made(name, *args, **options), many, {"use_causal_mask": True}),
            Construction(
                "mask",
                _made(name, *args, **options),
                many,
                several,
                steps="aligned",
                masked=(0, 1),
                masks=("query_mask", "value_mask"),
            ),
            Construction(
                "attention_mask", _made(name, *args, **options), many, {"attention_mask": Feature((4, 3), "mask")}
            ),
            Construction("dropout", _made(name, *args, **options, dropout=0.3, seed=1), many),
        ]

    return {
        "Attention": [
            *dot("Attention"),
            Construction("concat", _made("Attention", score_mode="concat"), ([q, v],), needs=("score_mode",)),
        ],
        "AdditiveAttention": dot("AdditiveAttention"),
        "MultiHeadAttention": [
            *heads("MultiHeadAttention", 2, 3),
            Construction("value_dim", _made("MultiHeadAttention", 2, 3, value_dim=2, output_shape=5), many),
            Construction("gate", _made("MultiHeadAttention", 2, 3, use_gate=True), many, needs=("use_gate",)),
        ],
        "GroupQueryAttention": [
            *heads("GroupQueryAttention", 3, 4, 2),
            Construction("gate", _made("GroupQueryAttention", 3, 4, 2, use_gate=True), many, needs=("use_gate",)),
        ],
    }


def _merging() -> dict[str, list[Construction]]:
    two, three = [_FLAT, _FLAT], [_STEPS, _STEPS, _STEPS]
    table = {
        name: [Construction("plain", _made(name), (two,)), Construction("three", _made(name), (three,))]
        for name in ("Add", "Average", "Maximum", "Minimum", "Multiply")
    }
    table["Add"].append(Construction("broadcast", _made("Add"), ([_STEPS, Feature((1, 3))],)))
    table["Add"].append(Construction("columns", _made("Add"), ([_STEPS, Feature((3, 1))],), core=False))
    table["Subtract"] = [Construction("plain", _made("Subtract"), (two,))]
    table["Concatenate"] = [
        Construction("plain", _made("Concatenate"), ([_FLAT, Feature((3,))],)),
        Construction("axis", _made("Concatenate", axis=1), (three,)),
    ]
    table["Dot"] = [
        Construction("plain", _made("Dot", axes=1), (two,)),
        Construction("matrices", _made("Dot", axes=2), ([_STEPS, Feature((4, 3))],)),
        Construction("normalize", _made("Dot", axes=1, normalize=True), (two,)),
    ]
    return table


def _core() -> dict[str, list[Construction]]:
    ids = Feature((4,), "int")
    embedding = _simple("Embedding", 5, 3, x=ids, mask_zero={"mask_zero": True})
    reversible = _simple(
        "ReversibleEmbedding", 5, 3, x=ids, untied={"tie_weights": False}, capped={"logit_soft_cap": 2.0}
    )
    reversible.append(Construction("reverse", _made("ReversibleEmbedding", 5, 3), (_STEPS,), {"reverse": True}))

    def double(keras: Any) -> Any:
        return keras.layers.Lambda(lambda x: 2 * x + 1)

    def piped(keras: Any) -> Any:
        return keras.layers.Pipeline([keras.layers.Dense(3), keras.layers.ReLU()])

    return {
        "Dense": [
            *_simple("Dense", 3, relu={"activation": "relu"}, without_bias={"use_bias": False}),
            Construction("steps", _made("Dense", 3), (_STEPS,)),
        ],
        "EinsumDense": [
            Construction("plain", _made("EinsumDense", "ab,bc->ac", output_shape=3, bias_axes="c"), (_FLAT,)),
            Construction("heads", _made("EinsumDense", "abc,cde->abde", output_shape=(None, 2, 3)), (_STEPS,)),
        ],
        "Embedding": embedding,
        "ReversibleEmbedding": reversible,
        "Lambda": [Construction("plain", double, (_FLAT,))],
        "Identity": _simple("Identity"),
        "Masking": _simple("Masking", x=_STEPS),
        "Activation": [
            Construction("plain", _made("Activation", "tanh"), (_FLAT,)),
            *(Construction(a, _made("Activation", a), (_FLAT,)) for a in ("softmax", "gelu", "elu", "sigmoid", "relu")),
        ],
        "ActivityRegularization": _simple("ActivityRegularization", 0.1, 0.1),
        "Flatten": _simple("Flatten", x=_STEPS, channels_first=_CHANNELS_FIRST),
        "Permute": _simple("Permute", (2, 1), x=_STEPS),
        "RepeatVector": _simple("RepeatVector", 3),
        "Reshape": [
            *_simple("Reshape", (1, 9), x=_STEPS),
            Construction("inferred", _made("Reshape", (-1, 9)), (_STEPS,)),
        ],
        "Pipeline": [Construction("plain", piped, (_FLAT,))],
        "Softmax": [
            *_simple("Softmax"),
            Construction("mask", _made("Softmax"), (_FLAT,), {"mask": Feature((4,), "mask")}),
        ],
        **{name: _simple(name) for name in ("ELU", "LeakyReLU")},
        "PReLU": _simple("PReLU", x=_STEPS, shared_axes={"shared_axes": [1]}),
        "ReLU": _simple("ReLU", capped={"max_value": 1.0, "negative_slope": 0.1}),
        **{
            name: _simple(name, 0.4, shared={"seed": 1})
            for name in ("AlphaDropout", "GaussianDropout", "GaussianNoise")
        },
        "Dropout": _simple("Dropout", 0.4, x=_STEPS, shared={"seed": 1}, noise={"noise_shape": (None, 1, 3)}),
    }


def _far(name: str, x: Feature, **options: Any) -> list[Construction]:
    """Return a layer that Keras takes out of mixed precision, given what statistics in 16 bits could not hold."""
    return [
        Construction(kind, _made(name, **options), (replace(x, kind=kind),), core=False) for kind in ("large", "offset")
    ]


def _normalizing() -> dict[str, list[Construction]]:
    image = Feature((4, 3, 4))

    def spectral(keras: Any) -> Any:
        return keras.layers.SpectralNormalization(keras.layers.Dense(3))

    def spectral_convolution(keras: Any) -> Any:
        return keras.layers.SpectralNormalization(keras.layers.Conv2D(3, 2), power_iterations=2)

    return {
        "BatchNormalization": [
            *_simple("BatchNormalization", x=_FLAT, bare={"center": False, "scale": False}, renorm={"renorm": True}),
            Construction("image", _made("BatchNormalization", axis=1), (image,)),
            Construction("mask", _made("BatchNormalization"), (_STEPS,), {"mask": _MASK}, steps="aligned"),
        ],
        "LayerNormalization": [
            *_simple("LayerNormalization", x=_STEPS, axes={"axis": [1, 2]}, bare={"center": False}),
            *_far("LayerNormalization", Feature((3, 8))),
        ],
        "GroupNormalization": [
            *_simple(
                "GroupNormalization", x=image, shared={"groups": 2}, instance={"groups": -1}, bare={"scale": False}
            ),
            *_far("GroupNormalization", image, groups=2),
        ],
        "RMSNormalization": _simple("RMSNormalization", x=_STEPS),
        "UnitNormalization": _simple("UnitNormalization", x=_STEPS, axes={"axis": [1, 2]}),
        "SpectralNormalization": [
            Construction("plain", spectral, (_FLAT,)),
            Construction("convolution", spectral_convolution, (image,)),
        ],
        "Normalization": _simple(
            "Normalization",
            shared={"mean": [0.1, 0.2, 0.3, 0.4], "variance": [1.0, 2.0, 3.0, 4.0]},
            invert={"invert": True},
        ),
        "Rescaling": _simple("Rescaling", 1 / 255, offset={"offset": -1.0}),
        "MelSpectrogram": _simple(
            "MelSpectrogram",
            x=_SIGNALS,
            shared={"fft_length": 16, "sequence_stride": 8, "num_mel_bins": 4, "sampling_rate": 100, "max_freq": 50},
        ),
        "STFTSpectrogram": _simple(
            "STFTSpectrogram",
            x=Feature((64, 1)),
            shared={"frame_length": 16, "frame_step": 8},
            magnitude={"mode": "magnitude"},
            real={"mode": "real", "padding": "same"},
        ),
    }


def _preprocessing() -> dict[str, list[Construction]]:
    vocabulary = ["a", "b", "c"]
    tokens, text = Feature((4,), "tokens"), Feature((), "text")

    def encoded(keras: Any) -> Any:
        return keras.layers.CategoryEncoding(5, output_mode="multi_hot")

    table = {
        "CategoryEncoding": [
            Construction("plain", encoded, (Feature((3,), "int"),), smooth=False),
            Construction("one_hot", _made("CategoryEncoding", 5, output_mode="one_hot"), (Feature((1,), "int"),)),
            Construction(
                "count",
                _made("CategoryEncoding", 5, output_mode="count"),
                (Feature((3,), "int"),),
                {"count_weights": Feature((3,), "positive")},
            ),
        ],
        "Discretization": _simple(
            "Discretization", [-1.0, 0.0, 1.0], smooth=False, one_hot={"output_mode": "multi_hot"}
        ),
        "HashedCrossing": [
            Construction("plain", _made("HashedCrossing", 7), ((Feature((1,), "tokens"), Feature((1,), "int")),)),
            Construction(
                "one_hot",
                _made("HashedCrossing", 7, output_mode="one_hot"),
                ((Feature((1,), "tokens"), Feature((1,), "int")),),
            ),
        ],
        "Hashing": [
            Construction("plain", _made("Hashing", 7), (tokens,)),
            Construction("count", _made("Hashing", 7, output_mode="count"), (Feature((4,), "int", 50),)),
        ],
        "IntegerLookup": [
            Construction("plain", _made("IntegerLookup", vocabulary=[1, 2, 4]), (Feature((4,), "int"),)),
            Construction(
                "multi_hot",
                _made("IntegerLookup", vocabulary=[1, 2, 4], output_mode="multi_hot"),
                (Feature((4,), "int"),),
            ),
        ],
        "StringLookup": [
            Construction("plain", _made("StringLookup", vocabulary=vocabulary), (tokens,)),
            Construction("count", _made("StringLookup", vocabulary=vocabulary, output_mode="count"), (tokens,)),
        ],
        "TextVectorization": [
            Construction("plain", _made("TextVectorization", vocabulary=vocabulary, output_sequence_length=4), (text,)),
            Construction("count", _made("TextVectorization", vocabulary=vocabulary, output_mode="count"), (text,)),
        ],
    }
    discrete = {name: [_discrete(c) for c in constructions] for name, constructions in table.items()}
    return {**discrete, **_images(), "MaxNumBoundingBoxes": [_boxes()]}


def _discrete(construction: Construction) -> Construction:
    return replace(construction, smooth=False)


def _boxes() -> Construction:
    boxes = {"boxes": Feature((3, 4), "image"), "labels": Feature((3,), "int")}
    return Construction(
        "plain",
        lambda keras: keras.layers.MaxNumBoundingBoxes(2, bounding_box_format="xyxy"),
        ({"images": _IMAGE, "bounding_boxes": boxes},),
        smooth=False,
    )


def _images() -> dict[str, list[Construction]]:
    seed = {"seed": 1}
    small = Feature((6, 6, 3), "image")
    labelled = {"images": small, "labels": Feature((4,), "unit")}
    counting = {
        "AugMix": (), "AutoContrast": (), "ContrastLimitedAdaptiveHistogramEqualization": (), "Equalization": (),
        "RandomPosterization": (2,), "RandAugment": (), "Solarization": (0.1, 0.3),
    }  # fmt: skip
    smooth = {
        "RandomBrightness": (0.3,), "RandomColorDegeneration": (0.3,), "RandomContrast": (0.3,),
        "RandomElasticTransform": (), "RandomErasing": (), "RandomFlip": (), "RandomGaussianBlur": (),
        "RandomGrayscale": (), "RandomHue": (0.3,), "RandomInvert": (), "RandomPerspective": (),
        "RandomRotation": (0.2,), "RandomSaturation": (0.3,), "RandomSharpness": (0.3,), "RandomShear": (0.2, 0.2),
        "RandomTranslation": (0.2, 0.2), "RandomZoom": (0.2, 0.2),
    }  # fmt: skip
    without_seed = ("AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization")
    table = {
        name: _simple(name, *args, x=small, smooth=name in smooth, shared={} if name in without_seed else seed)
        for name, args in {**counting, **smooth}.items()
    }
    if "ContrastLimitedAdaptiveHistogramEqualization" in table:
        table["ContrastLimitedAdaptiveHistogramEqualization"] = _simple(
            "ContrastLimitedAdaptiveHistogramEqualization",
            x=Feature((8, 8, 1), "image"),
            smooth=False,
            shared={"tile_grid_size": (2, 2)},
        )
    jitter = {
        "brightness_factor": 0.1, "contrast_factor": 0.1, "saturation_factor": 0.1, "hue_factor": 0.1, **seed,
    }  # fmt: skip
    # JAX unrolls a loop over the bins.
    table["Equalization"] = _simple("Equalization", x=small, smooth=False, shared={"bins": 16})
    table["AugMix"] = [replace(c, float64=False) for c in table["AugMix"]]
    return {
        **table,
        "RandomColorJitter": _simple("RandomColorJitter", x=small, shared=jitter),
        "RandomCrop": _simple("RandomCrop", 4, 5, x=_IMAGE, shared=seed),
        "CenterCrop": [
            *_simple("CenterCrop", 4, 5, x=_IMAGE),
            Construction("larger", _made("CenterCrop", 10, 10), (_IMAGE,)),
        ],
        "Resizing": _simple(
            "Resizing",
            5,
            4,
            x=_IMAGE,
            nearest={"interpolation": "nearest"},
            crop={"crop_to_aspect_ratio": True},
            pad={"pad_to_aspect_ratio": True},
            bicubic={"interpolation": "bicubic"},
        ),
        "CutMix": [Construction("plain", _made("CutMix", **seed), (labelled,))],
        "MixUp": [Construction("plain", _made("MixUp", **seed), (labelled,))],
    }


def _foreign() -> dict[str, list[Construction]]:
    def jax_layer(keras: Any) -> Any:
        import jax.numpy as jnp  # type: ignore[import-not-found,unused-ignore]

        def call(params: Any, inputs: Any) -> Any:
            return jnp.tanh(inputs @ params["w"])

        return keras.layers.JaxLayer(call, params={"w": np.linspace(-1, 1, 12).reshape(4, 3).astype("float32")})

    def torch_layer(keras: Any) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        return keras.layers.TorchModuleWrapper(torch.nn.Linear(4, 3))

    return {
        "JaxLayer": [Construction("plain", jax_layer, (_FLAT,), backends=("jax",))],
        "TorchModuleWrapper": [Construction("plain", torch_layer, (_FLAT,), backends=("torch",))],
    }


#: Layers that wrap what another library has made: why they cannot be made here.
NOT_MADE = {
    "FlaxLayer": "wraps a module of Flax, which bscheck does not depend on",
    "TFSMLayer": "wraps a SavedModel on disk, whose code is not Keras's",
}

#: Layers that work on strings, or share code with those that do: Keras runs them on TensorFlow whatever the backend.
NEED_TENSORFLOW = ("HashedCrossing", "Hashing", "IntegerLookup", "StringLookup", "TextVectorization")


@functools.cache
def constructions() -> Mapping[str, Sequence[Construction]]:
    """Return the table of constructions by class name, for every release that bscheck knows."""
    table: dict[str, Sequence[Construction]] = {}
    for dims in (1, 2, 3):
        table |= {**_convolutions(dims), **_pooling(dims)}
    for dims in (1, 2):
        table |= _more_convolutions(dims)
    for part in (_core, _recurrent_layers, _attention, _merging, _normalizing, _preprocessing, _foreign):
        table |= part()
    return table


# The surface -------------------------------------------------------------------------------------------


@functools.cache
def layer_classes() -> Mapping[str, type]:
    """Return every exported layer class by name; aliases of one class are folded into the class's own name."""
    layers = keras_module().layers
    found: dict[type, list[str]] = {}
    for name in sorted(dir(layers)):
        exported = getattr(layers, name)
        if inspect.isclass(exported) and issubclass(exported, layers.Layer) and name not in ABSTRACT:
            found.setdefault(exported, []).append(name)
    named = ((c.__name__ if c.__name__ in names else names[0], c) for c, names in found.items())
    return dict(sorted(named))


def missing(name: str) -> str | None:
    """Return why a layer cannot be made here, or None."""
    if name in NOT_MADE:
        return NOT_MADE[name]
    if name in NEED_TENSORFLOW and importlib.util.find_spec("tensorflow") is None:
        return "needs TensorFlow installed, on every backend"
    if name not in constructions():
        return "no construction: bscheck does not know yet how to make this layer"
    if not options(name):
        known = sorted({b for c in constructions()[name] for b in c.backends})
        return f"needs Keras on {' or '.join(known)}" if known else "this release takes none of its options"
    return None


@functools.cache
def options(name: str) -> Sequence[Construction]:
    """Return the constructions of a layer that the installed Keras and its backend know."""
    if name not in layer_classes():
        raise BscheckError(unknown("layer", name, layer_classes()))
    backend = keras_module().backend.backend()
    return [
        c
        for c in constructions().get(name, ())
        if (not c.backends or backend in c.backends) and takes(layer_classes()[name], c.needs)
    ]


def option(name: str, construction: str) -> Construction:
    """Return the construction of this name, or raise an error that lists the valid ones."""
    known = {c.name: c for c in options(name)}
    if construction not in known:
        raise BscheckError(unknown(f"construction of {name}", construction, known))
    return known[construction]


def loops(name: str) -> bool:
    """Whether a layer loops over time steps, which is cheaper to trace once than to call often."""
    layers = keras_module().layers
    return issubclass(layer_classes()[name], (layers.RNN, layers.Bidirectional))


# Stateful layers ---------------------------------------------------------------------------------------


@functools.cache
def stateful_layers() -> Sequence[str]:
    """Return the exported layers that can keep their state from one batch to the next."""
    named = [n for n, exported in layer_classes().items() if "stateful" in parameters(exported)]
    return [*named, "Bidirectional", "StackedRNNCells"]


def stateful(name: str, keep: bool) -> tuple[Callable[[Any], Any], Feature] | None:
    """Return how to make a layer that keeps its state, or the same without, and its input; None where unknown."""
    options: dict[str, Any] = {"stateful": keep, "return_sequences": True}
    wrapped: Mapping[str, Callable[[Any], Any]] = {
        "RNN": lambda keras: keras.layers.RNN(keras.layers.GRUCell(3), **options),
        "StackedRNNCells": lambda keras: keras.layers.RNN(_stacked(keras), **options),
        "Bidirectional": lambda keras: keras.layers.Bidirectional(keras.layers.LSTM(2, **options)),
    }
    if name in wrapped:
        return wrapped[name], _STEPS
    if name.startswith("ConvLSTM"):
        return _made(name, 2, 2, **options), _STEPS_OF_IMAGES[int(name[8])]
    if name in ("LSTM", "GRU", "SimpleRNN"):
        return _made(name, 3, **options), _STEPS
    return None
