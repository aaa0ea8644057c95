"""How layers are made to be held to their definitions: options, inputs and the ways to call them, as data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bscheck.oracles.layers import Spec, spec
from bscheck.oracles.layers.activations import ACTIVATIONS
from bscheck.runtime import current, keras_module
from bscheck.surface import takes


@dataclass(frozen=True)
class Input:
    """One input of a layer.

    Attributes
    ----------
    shape : tuple of int
        Without the examples.
    kind : str
        ``float``; ``apart``: floats no two of which are close, in random order; ``whole``: integers below `high`;
        ``adapt``: floats that the layer is adapted to, not called with.
    high : int
    """

    shape: tuple[int, ...]
    kind: str = "float"
    high: int = 0


@dataclass(frozen=True)
class Construction:
    """One way to make and call a layer.

    Attributes
    ----------
    spec : Spec
        The layer.
    inputs : tuple of Input
    passing : str
        ``one``: the input alone; ``list``: all in a list; ``spread``: as arguments of their own; ``states``: the
        first, then ``initial_state``; ``cell``: the first, then the list of states.
    masks : mapping
        Keyword to the number of the input whose first two axes the mask has; ``entries`` in place of a number is a
        mask of the first input's own shape, ``pairs`` one over the first two inputs' steps.
    options : mapping
        Further keywords of the call.
    training : tuple of bool
        The modes that differ.
    gradients : bool
        Whether the derivative is compared too.
    only : tuple of str
        The backends that have it, where not all do.
    gpu_only : tuple of str
        Backends that compute it on a GPU alone.
    narrow : tuple of str
        Backends that compute it in single precision at most, whatever is asked for: the case is one in float32.
    examples : int
        Examples in the batch, where a law of chance needs more than a case has.
    computes_mask : bool
        Whether the mask that the layer computes counts as a further output.
    refusable : bool
        Whether releases refuse these options together, as they document.
    """

    spec: Spec
    inputs: tuple[Input, ...]
    passing: str = "one"
    masks: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    training: tuple[bool, ...] = (False,)
    gradients: bool = True
    only: tuple[str, ...] = ()
    gpu_only: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    examples: int = 0
    computes_mask: bool = False
    refusable: bool = False

    def __str__(self) -> str:
        said = [f"{k}={v}" for k, v in self.options.items()]
        return f"{self.spec}{' called with ' + ', '.join(said) if said else ''}"


def _make(name: str, /, *shapes: tuple[int, ...], call: Mapping[str, Any] = {}, **options: Any) -> Construction:
    """Return a construction with float inputs; `call` holds further attributes."""
    more = dict(call)
    inputs = more.pop("inputs", tuple(Input(shape) for shape in shapes))
    return Construction(spec(name, **options), inputs, **more)


BOTH: Mapping[str, Any] = {"training": (False, True)}
#: What is drawn is read from the outputs, and drawn anew for a gradient; the laws of chance need many entries.
DRAWN: Mapping[str, Any] = {**BOTH, "gradients": False, "examples": 8}
MASKED: Mapping[str, Any] = {"masks": {"mask": 0}}
FIRST: Mapping[str, Any] = {"gpu_only": ("tensorflow",)}
#: Until 3.14 no convolution took strides together with dilation.
REFUSABLE: Mapping[str, Any] = {"refusable": True}
#: TensorFlow has no float64 kernels for these.
NARROW: Mapping[str, Any] = {"narrow": ("tensorflow",)}

#: Options that every recurrent layer has, alone and together.
SEQUENCES: tuple[Mapping[str, Any], ...] = (
    {},
    {"return_sequences": True, "return_state": True},
    {"go_backwards": True, "return_sequences": True, "use_bias": False},
    {"go_backwards": True, "return_state": True},
)


def _recurrent(name: str, states: int, **options: Any) -> list[Construction]:
    found = [_make(name, (5, 3), call=MASKED, units=2, **options, **more) for more in SEQUENCES]
    given = {"inputs": (Input((4, 3)), *(Input((2,)) for _ in range(states))), "passing": "states", **MASKED}
    return [*found, _make(name, call=given, units=2, return_sequences=True, **options)]


def _dropping(name: str, size: int, **options: Any) -> Construction:
    """Return a recurrent layer that drops, of few features and units: every draw of theirs is tried."""
    call = {**BOTH, "gradients": False, "examples": 16}
    rates = {"dropout": 0.2, "recurrent_dropout": 0.6}
    return _make(name, (4, size), call=call, units=size, return_sequences=True, **rates, seed=1, **options)


def _rnn(cell: Any, **options: Any) -> Construction:
    return _make("RNN", (4, 3), call=MASKED, cell=cell, **options)


def _cell(name: str, states: int, **options: Any) -> Construction:
    call = {"inputs": (Input((3,)), *(Input((2,)) for _ in range(states))), "passing": "cell"}
    return _make(name, call=call, units=2, **options)


_LSTM_CELL = spec("LSTMCell", units=2, name="first")
_GRU_CELL = spec("GRUCell", units=3, name="second")
_SIMPLE_CELL = spec("SimpleRNNCell", units=2, name="third")


def _bidirectional(inner: str, merge_mode: str | None, **options: Any) -> Construction:
    layer = spec(inner, units=2, name="inner", **options)
    return _make("Bidirectional", (4, 3), call=MASKED, layer=layer, merge_mode=merge_mode)


_BIDIRECTIONAL = [
    _bidirectional("LSTM", "concat", return_sequences=True),
    _bidirectional("LSTM", "sum"),
    _bidirectional("GRU", "ave", return_sequences=True, return_state=True),
    _bidirectional("GRU", "mul", return_sequences=True),
    _bidirectional("SimpleRNN", None, return_sequences=True, return_state=True),
    _bidirectional("LSTM", "mul"),
    _make(
        "Bidirectional", (4, 3), call=MASKED, merge_mode="sum",
        layer=spec("SimpleRNN", units=2, return_sequences=True, name="inner"),
        backward_layer=spec("GRU", units=2, return_sequences=True, go_backwards=True, name="other"),
    ),
    _make(
        "Bidirectional", merge_mode="concat", layer=spec("LSTM", units=2, return_sequences=True, name="inner"),
        call={"inputs": (Input((3, 2)), *(Input((2,)),) * 4), "passing": "states", **MASKED},
    ),
]  # fmt: skip

#: A low-rank adaptation: Keras keeps its factors in float32, whatever the layer's precision is.
ADAPTED: Mapping[str, Any] = {"lora_rank": 2}
FACTORS: Mapping[str, Any] = {"narrow": ("tensorflow", "jax", "torch")}

#: What convolutions over every number of axes are asked: strides, dilation, padding, groups, layout.
_GEOMETRIES: tuple[Mapping[str, Any], ...] = (
    {"kernel_size": 2},
    {"kernel_size": 3, "strides": 2, "padding": "same"},
    {"kernel_size": 2, "dilation_rate": 2, "padding": "same", "activation": "tanh"},
    {"kernel_size": 3, "padding": "same", "use_bias": False},
)

_SIZES = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}


def _convolutions(name: str, dimensions: int, groups: bool = False, **options: Any) -> list[Construction]:
    shape = (*_SIZES[dimensions], 4)
    found = [
        _make(name, shape, call=FIRST if "Transpose" in name and "dilation_rate" in given else {}, **options, **given)
        for given in _GEOMETRIES
    ]
    if groups:
        found.append(_make(name, shape, **options, kernel_size=2, groups=2, strides=2))
    if name == "Conv2D":
        found.append(_make(name, shape, call=FACTORS, **options, kernel_size=2, **ADAPTED))
    if name == "Conv1D":
        found.append(_make(name, shape, **options, kernel_size=3, padding="causal", dilation_rate=2))
    first = (4, *_SIZES[dimensions])
    more = {**options, "kernel_size": 2, "padding": "same", "data_format": "channels_first"}
    found.append(_make(name, first, call=FIRST, **more))
    if name.startswith(("Depthwise", "Separable")):
        both = {"kernel_size": 2, "strides": 2, "dilation_rate": 3}
        found += [_make(name, shape, call=REFUSABLE, **options, **both, padding=p) for p in ("same", "valid")]
    return found


def _conv_lstm(dimensions: int) -> list[Construction]:
    shape = (3, *_SIZES[dimensions], 2)
    name = f"ConvLSTM{dimensions}D"
    return [
        _make(name, shape, call=MASKED, filters=2, kernel_size=2, return_sequences=True, return_state=True),
        _make(name, shape, call=MASKED, filters=2, kernel_size=3, padding="same", strides=2, go_backwards=True),
    ]


def _pooling(name: str, dimensions: int) -> list[Construction]:
    kind, sizes = "apart" if name.startswith("Max") else "float", _SIZES[dimensions]
    call = {**(NARROW if dimensions == 3 else {}), "inputs": (Input((*sizes, 2), kind),)}
    found = [
        _make(name, call=call, pool_size=2),
        _make(name, call=call, pool_size=3, strides=2, padding="same"),
        _make(name, call=call, pool_size=2, strides=1, padding="same"),
        _make(name, call=call, pool_size=2, strides=3),
    ]
    first = {**FIRST, **call, "inputs": (Input((2, *sizes), kind),)}
    return [*found, _make(name, call=first, pool_size=2, padding="same", data_format="channels_first")]


def _global(name: str, dimensions: int) -> list[Construction]:
    shape = (*_SIZES[dimensions], 2)
    call = MASKED if name == "GlobalAveragePooling1D" else {}
    first = (2, *_SIZES[dimensions])
    return [
        _make(name, shape, call=call),
        _make(name, shape, call=call, keepdims=True),
        _make(name, first, data_format="channels_first"),
    ]


def _adaptive(name: str, dimensions: int) -> list[Construction]:
    kind, sizes = "apart" if "Max" in name else "float", _SIZES[dimensions]
    call = {**(NARROW if dimensions == 3 else {}), "inputs": (Input((*sizes, 2), kind),)}
    first = {**FIRST, **call, "inputs": (Input((2, *sizes), kind),)}
    return [
        _make(name, call=call, output_size=2),
        _make(name, call=call, output_size=3),
        _make(name, call=first, output_size=2, data_format="channels_first"),
    ]


def _attention(name: str, **options: Any) -> Construction:
    """Return a construction with three inputs; the masks belong to the query and the value."""
    call = {"passing": "list", "masks": {"mask": (0, 1)}, **options.pop("call", {})}
    return _make(name, (4, 3), (5, 3), (5, 3), call=call, **options)


def _heads(name: str, *masks: str, **options: Any) -> Construction:
    """Return multi-head attention of a query (4 steps) over values and keys (5 steps)."""
    about: dict[str, Any] = {"query_mask": 0, "value_mask": 1, "key_mask": 1, "attention_mask": "pairs"}
    call = {"passing": "spread", "masks": {m: about[m] for m in masks}, **options.pop("call", {})}
    shapes = options.pop("shapes", ((4, 3), (5, 3), (5, 3)))
    return _make(name, *shapes, call=call, **options)


_SCORES = {"options": {"return_attention_scores": True}}
_CAUSAL = {"options": {"use_causal_mask": True}}
_CAUSAL_SCORES = {"options": {"use_causal_mask": True, "return_attention_scores": True}}
#: Dropped weights of the values: fewer values, of all heads, than outputs, so that each is read off.
_DROPPED: Mapping[str, Any] = {**DRAWN, "examples": 64}
_FEW_VALUES = ((3, 5), (2, 5))
_ALL_SAME = ((4, 3), (4, 3), (4, 3))
_MERGED = ((4, 3), (4, 3), (4, 3))

_WHOLE = Input((4,), "whole", 6)
_IMAGE = (5, 4, 3)
#: Lookups are made of TensorFlow's operations.
_LOOKUP: Mapping[str, Any] = {"inputs": (_WHOLE,), "gradients": False, "only": ("tensorflow",)}

CONSTRUCTIONS: Mapping[str, Sequence[Construction]] = {
    # Feed-forward
    "Dense": [
        _make("Dense", (3,), units=4),
        _make("Dense", (3,), units=2, activation="tanh"),
        _make("Dense", (4, 3), units=2, use_bias=False),
        _make("Dense", (2, 2, 3), units=5, activation="softmax"),
        _make("Dense", (3,), call=FACTORS, units=4, **ADAPTED),
    ],
    "EinsumDense": [
        _make("EinsumDense", (3,), equation="ab,bc->ac", output_shape=4, bias_axes="c"),
        _make("EinsumDense", (4, 3), equation="abc,cd->abd", output_shape=(None, 2), bias_axes="d", activation="tanh"),
        _make("EinsumDense", (4, 3), equation="abc,cde->adbe", output_shape=(2, 4, 3), bias_axes="de"),
        _make("EinsumDense", (4, 3), equation="...x,xy->...y", output_shape=5),
        _make("EinsumDense", (4, 3), call=FACTORS, equation="abc,cde->adbe", output_shape=(2, 4, 3), **ADAPTED),
    ],
    "Embedding": [
        _make("Embedding", call={"inputs": (_WHOLE,)}, input_dim=6, output_dim=3),
        _make(
            "Embedding", call={"inputs": (_WHOLE,), "computes_mask": True}, input_dim=6, output_dim=2, mask_zero=True,
        ),
        _make("Embedding", call={"inputs": (_WHOLE,), **FACTORS}, input_dim=6, output_dim=4, **ADAPTED),
    ],
    "ReversibleEmbedding": [
        _make("ReversibleEmbedding", call={"inputs": (_WHOLE,)}, input_dim=6, output_dim=3),
        _make("ReversibleEmbedding", (4, 3), call={"options": {"reverse": True}}, input_dim=6, output_dim=3),
        _make(
            "ReversibleEmbedding", (4, 3), call={"options": {"reverse": True}}, input_dim=6, output_dim=3,
            tie_weights=False, logit_soft_cap=2.0,
        ),
    ],
    "Identity": [_make("Identity", (4, 3), call=BOTH)],
    "ActivityRegularization": [_make("ActivityRegularization", (3,), call=BOTH, l1=0.5, l2=0.25)],
    "Lambda": [_make("Lambda", (3,), arguments={"factor": 2.0})],
    "Masking": [
        _make("Masking", (5, 2), call={"computes_mask": True}),
        _make("Masking", (5, 1), call={"computes_mask": True}, mask_value=0.5),
    ],
    # Activations
    "ReLU": [
        _make("ReLU", (7,)),
        _make("ReLU", (7,), negative_slope=0.2, threshold=0.3, max_value=1.1),
        _make("ReLU", (7,), negative_slope=0.1),
        _make("ReLU", (7,), max_value=0.7, threshold=0.25),
    ],
    "LeakyReLU": [_make("LeakyReLU", (7,)), _make("LeakyReLU", (2, 7), negative_slope=0.07)],
    "ELU": [_make("ELU", (7,)), _make("ELU", (2, 7), alpha=0.3)],
    "PReLU": [_make("PReLU", (7,)), _make("PReLU", (3, 4, 2), shared_axes=[1, 2])],
    "Softmax": [
        _make("Softmax", (5,), call={"masks": {"mask": "entries"}}),
        _make("Softmax", (3, 4), call={"masks": {"mask": "entries"}}, axis=1),
        _make("Softmax", (3, 2, 2), axis=(1, 2)),
        _make("Softmax", (3, 2, 2), axis=(1, 3)),
    ],
    # Recurrent
    "SimpleRNN": [
        *_recurrent("SimpleRNN", 1),
        _make("SimpleRNN", (4, 3), call=MASKED, units=2, activation="relu"),
        _dropping("SimpleRNN", 2),
        _make("SimpleRNN", (4, 3), call=MASKED, units=2, unroll=True, go_backwards=True, return_sequences=True),
        _make("SimpleRNN", (4, 3), units=2, unroll=True),
    ],
    "LSTM": [
        *_recurrent("LSTM", 2),
        _make("LSTM", (4, 3), call=MASKED, units=2, activation="softsign", recurrent_activation="hard_sigmoid"),
        _make("LSTM", (4, 3), call=MASKED, units=2, unroll=True, return_sequences=True),
        _dropping("LSTM", 1),
        _dropping("LSTM", 1, implementation=1),
    ],
    "GRU": [
        *_recurrent("GRU", 1),
        *_recurrent("GRU", 1, reset_after=False)[1:3],
        _make("GRU", (4, 3), call=MASKED, units=2, unroll=True, reset_after=False),
        _make("GRU", (4, 3), units=2, unroll=True, go_backwards=True, return_sequences=True),
        _dropping("GRU", 1),
        _dropping("GRU", 1, implementation=1),
    ],
    "SimpleRNNCell": [_cell("SimpleRNNCell", 1)],
    "LSTMCell": [_cell("LSTMCell", 2), _cell("LSTMCell", 2, use_bias=False)],
    "GRUCell": [_cell("GRUCell", 1), _cell("GRUCell", 1, reset_after=False)],
    "StackedRNNCells": [
        _make(
            "StackedRNNCells", cells=[_LSTM_CELL, _GRU_CELL],
            call={"inputs": (Input((3,)), Input((2,)), Input((2,)), Input((3,))), "passing": "nested"},
        ),
    ],
    "RNN": [
        _rnn(_LSTM_CELL, return_sequences=True, return_state=True),
        _rnn([_LSTM_CELL, _GRU_CELL, _SIMPLE_CELL], return_sequences=True),
        _rnn(_GRU_CELL, return_sequences=True, zero_output_for_mask=True),
        _rnn(_SIMPLE_CELL, go_backwards=True),
    ],
    "Bidirectional": _BIDIRECTIONAL,
    "TimeDistributed": [
        _make("TimeDistributed", (4, 3), layer=spec("Dense", units=2, activation="tanh", name="inner")),
        _make("TimeDistributed", (3, 5, 2), layer=spec("Conv1D", filters=2, kernel_size=2, name="inner")),
        _make("TimeDistributed", (4, 3), call={"masks": {"mask": "entries"}}, layer=spec("Softmax", name="inner")),
    ],
    **{f"ConvLSTM{d}D": _conv_lstm(d) for d in (1, 2, 3)},
    # Convolutions
    **{f"Conv{d}D": _convolutions(f"Conv{d}D", d, True, filters=6) for d in (1, 2, 3)},
    **{f"Conv{d}DTranspose": _convolutions(f"Conv{d}DTranspose", d, filters=3) for d in (1, 2, 3)},
    **{f"DepthwiseConv{d}D": _convolutions(f"DepthwiseConv{d}D", d, depth_multiplier=2) for d in (1, 2)},
    **{f"SeparableConv{d}D": _convolutions(f"SeparableConv{d}D", d, filters=3, depth_multiplier=2) for d in (1, 2)},
    # Pooling
    **{f"MaxPooling{d}D": _pooling(f"MaxPooling{d}D", d) for d in (1, 2, 3)},
    **{f"AveragePooling{d}D": _pooling(f"AveragePooling{d}D", d) for d in (1, 2, 3)},
    **{f"GlobalMaxPooling{d}D": _global(f"GlobalMaxPooling{d}D", d) for d in (1, 2, 3)},
    **{f"GlobalAveragePooling{d}D": _global(f"GlobalAveragePooling{d}D", d) for d in (1, 2, 3)},
    **{f"AdaptiveMaxPooling{d}D": _adaptive(f"AdaptiveMaxPooling{d}D", d) for d in (1, 2, 3)},
    **{f"AdaptiveAveragePooling{d}D": _adaptive(f"AdaptiveAveragePooling{d}D", d) for d in (1, 2, 3)},
    # Normalization
    "BatchNormalization": [
        _make("BatchNormalization", (3,), call=BOTH, momentum=0.7),
        _make("BatchNormalization", (4, 3), call={**BOTH, **MASKED}, momentum=0.9, epsilon=0.01),
        _make("BatchNormalization", (3,), call=BOTH, center=False),
        _make("BatchNormalization", (4, 3), call={**BOTH, **MASKED}, axis=1),
        _make("BatchNormalization", (2, 2, 3), call=BOTH, scale=False, axis=1),
        _make("BatchNormalization", (3,), call=BOTH, trainable=False),
    ],
    "LayerNormalization": [
        _make("LayerNormalization", (5,)),
        _make("LayerNormalization", (3, 4), axis=[1, 2], epsilon=0.02),
        _make("LayerNormalization", (3, 4), center=False),
        _make("LayerNormalization", (3, 4), scale=False, axis=1),
        _make("LayerNormalization", (3, 4, 2), axis=[1, 3]),
    ],
    "RMSNormalization": [
        _make("RMSNormalization", (5,)),
        _make("RMSNormalization", (3, 4), epsilon=0.1),
    ],
    "GroupNormalization": [
        _make("GroupNormalization", (6,), groups=3),
        _make("GroupNormalization", (3, 4), groups=2, epsilon=0.02),
        _make("GroupNormalization", (4, 3, 2), groups=-1, axis=1, center=False),
        _make("GroupNormalization", (3, 4), groups=1, scale=False),
    ],
    "UnitNormalization": [_make("UnitNormalization", (5,)), _make("UnitNormalization", (3, 4), axis=[1, 2])],
    "SpectralNormalization": [
        _make("SpectralNormalization", (3,), call={**BOTH, "gradients": False},
              layer=spec("Dense", units=4, name="inner")),
        _make("SpectralNormalization", (5, 2), call={**BOTH, "gradients": False}, power_iterations=3,
              layer=spec("Conv1D", filters=3, kernel_size=2, name="inner")),
    ],
    # Attention
    "Attention": [
        _attention("Attention", call=_SCORES),
        _attention("Attention", use_scale=True),
        _attention("Attention", score_mode="concat", use_scale=True),
        _make("Attention", *_ALL_SAME, call={"passing": "list", **_CAUSAL, "masks": {"mask": (0, 1)}}, use_scale=True),
        _make("Attention", *_FEW_VALUES, call={"passing": "list", **_DROPPED}, dropout=0.4, seed=1),
    ],
    "AdditiveAttention": [
        _attention("AdditiveAttention", call=_SCORES),
        _attention("AdditiveAttention", use_scale=False),
        _make("AdditiveAttention", *_ALL_SAME, call={"passing": "list", **_CAUSAL}),
        _make("AdditiveAttention", *_FEW_VALUES, call={"passing": "list", **_DROPPED}, dropout=0.4, seed=1),
    ],
    "MultiHeadAttention": [
        _heads("MultiHeadAttention", "value_mask", num_heads=2, key_dim=3),
        _heads("MultiHeadAttention", "query_mask", "key_mask", num_heads=2, key_dim=2, value_dim=3, call=_SCORES),
        _heads("MultiHeadAttention", "attention_mask", num_heads=1, key_dim=2, use_bias=False, output_shape=5),
        _heads("MultiHeadAttention", num_heads=3, key_dim=1, call=_CAUSAL, shapes=_ALL_SAME),
        _heads("MultiHeadAttention", "value_mask", num_heads=2, key_dim=2, call=_CAUSAL_SCORES, shapes=_ALL_SAME),
        _heads(
            "MultiHeadAttention", num_heads=2, key_dim=3, call=_DROPPED, shapes=_FEW_VALUES, dropout=0.4, seed=1
        ),
    ],
    **{
        name: [
            _heads(name, "value_mask", head_dim=3, num_query_heads=4, num_key_value_heads=2),
            _heads(name, "attention_mask", head_dim=2, num_query_heads=3, num_key_value_heads=1, call=_SCORES),
            _heads(name, head_dim=2, num_query_heads=2, num_key_value_heads=2, call=_CAUSAL, shapes=_ALL_SAME),
            _heads(name, head_dim=2, num_query_heads=4, num_key_value_heads=2, call=_CAUSAL_SCORES, shapes=_ALL_SAME),
            _heads(
                name, head_dim=3, num_query_heads=2, num_key_value_heads=1, call=_DROPPED, shapes=_FEW_VALUES,
                dropout=0.4, seed=1,
            ),
        ]
        for name in ("GroupQueryAttention", "GroupedQueryAttention")
    },
    # Merging
    **{name: [_make(name, *_MERGED, call={"passing": "list"})] for name in ("Add", "Multiply", "Average")},
    **{name: [_make(name, *_MERGED, call={"passing": "list"})] for name in ("Maximum", "Minimum")},
    "Subtract": [_make("Subtract", (4, 3), (4, 3), call={"passing": "list"})],
    "Concatenate": [
        _make("Concatenate", (4, 3), (4, 2), call={"passing": "list"}),
        _make("Concatenate", (2, 3), (4, 3), (1, 3), call={"passing": "list"}, axis=1),
    ],
    "Dot": [
        _make("Dot", (3,), (3,), call={"passing": "list"}, axes=1),
        _make("Dot", (4, 3), (5, 3), call={"passing": "list"}, axes=2),
        _make("Dot", (4, 3), (3, 5), call={"passing": "list"}, axes=(2, 1), normalize=True),
    ],
    # Reshaping
    "Reshape": [_make("Reshape", (4, 3), target_shape=(2, 6)), _make("Reshape", (4, 3), target_shape=(-1, 2))],
    "Flatten": [
        _make("Flatten", (4, 3)),
        _make("Flatten", (2, 4, 3), data_format="channels_first"),
        _make("Flatten", ()),
    ],
    "Permute": [_make("Permute", (4, 3), dims=(2, 1)), _make("Permute", (4, 3, 2), dims=(3, 1, 2))],
    "RepeatVector": [_make("RepeatVector", (3,), n=4)],
    "Cropping1D": [_make("Cropping1D", (6, 2), cropping=(1, 2)), _make("Cropping1D", (6, 2), cropping=(2, 0))],
    "Cropping2D": [
        _make("Cropping2D", (6, 5, 2), cropping=((1, 2), (0, 3))),
        _make("Cropping2D", (2, 6, 5), cropping=(1, 2), data_format="channels_first"),
    ],
    "Cropping3D": [_make("Cropping3D", (5, 4, 6, 2), cropping=((1, 2), (0, 3), (2, 1)))],
    "ZeroPadding1D": [_make("ZeroPadding1D", (4, 2), padding=2), _make("ZeroPadding1D", (4, 2), padding=(1, 2))],
    "ZeroPadding2D": [
        _make("ZeroPadding2D", (3, 4, 2), padding=((1, 2), (0, 3))),
        _make("ZeroPadding2D", (2, 3, 4), padding=(1, 2), data_format="channels_first"),
    ],
    "ZeroPadding3D": [_make("ZeroPadding3D", (2, 3, 2, 2), padding=((1, 2), (0, 1), (2, 0)))],
    "UpSampling1D": [_make("UpSampling1D", (4, 2), size=3)],
    "UpSampling2D": [
        _make("UpSampling2D", (3, 4, 2), size=(2, 3)),
        # TensorFlow's image operations interpolate in single precision.
        _make("UpSampling2D", (3, 4, 2), call=NARROW, size=(2, 3), interpolation="bilinear"),
    ],
    "UpSampling3D": [_make("UpSampling3D", (2, 3, 2, 2), size=(2, 1, 3))],
    # At random in training
    "Dropout": [
        _make("Dropout", (40, 50), call=DRAWN, rate=0.3),
        _make("Dropout", (40, 30), call=DRAWN, rate=0.6, noise_shape=(None, 1, None)),
    ],
    "SpatialDropout1D": [_make("SpatialDropout1D", (4, 60), call=DRAWN, rate=0.3)],
    "SpatialDropout2D": [_make("SpatialDropout2D", (2, 3, 60), call=DRAWN, rate=0.3)],
    "SpatialDropout3D": [_make("SpatialDropout3D", (2, 2, 2, 60), call=DRAWN, rate=0.3)],
    "AlphaDropout": [_make("AlphaDropout", (40, 50), call=DRAWN, rate=0.3)],
    "GaussianDropout": [
        _make("GaussianDropout", (40, 50), call=DRAWN, rate=0.3)
    ],
    "GaussianNoise": [_make("GaussianNoise", (40, 50), call=DRAWN, stddev=0.7)],
    # Preprocessing
    "Rescaling": [_make("Rescaling", (4, 3), scale=0.3, offset=-1.7), _make("Rescaling", _IMAGE, scale=1 / 255)],
    "Normalization": [
        _make("Normalization", (3,), mean=[0.5, -0.25, 1.5], variance=[2.0, 0.5, 3.0]),
        _make("Normalization", (3,), mean=[0.5, -0.25, 1.5], variance=[2.0, 0.5, 3.0], invert=True),
        _make("Normalization", (3, 4), axis=1, mean=[0.5, -0.25, 1.5], variance=[2.0, 0.5, 3.0]),
        _make("Normalization", call={"inputs": (Input((4, 3)), Input((4, 3), "adapt")), "gradients": False}),
        _make("Normalization", call={"inputs": (Input((4,)), Input((4,), "adapt")), "gradients": False}, axis=None),
    ],
    "Discretization": [
        _make("Discretization", (6,), call={"gradients": False}, bin_boundaries=[-1.0, -0.25, 0.0, 0.5, 2.0]),
        _make("Discretization", (6,), call={"gradients": False}, bin_boundaries=[-0.5, 0.5], output_mode="multi_hot"),
    ],
    "CategoryEncoding": [
        _make("CategoryEncoding", call={"inputs": (_WHOLE,), "gradients": False}, num_tokens=6),
        _make("CategoryEncoding", call={"inputs": (_WHOLE,), "gradients": False}, num_tokens=6, output_mode="count"),
        _make("CategoryEncoding", call={"inputs": (_WHOLE,), "gradients": False}, num_tokens=6, output_mode="one_hot"),
    ],
    "IntegerLookup": [
        _make("IntegerLookup", call=_LOOKUP, vocabulary=[3, 1, 4]),
        _make("IntegerLookup", call=_LOOKUP, vocabulary=[3, 1, 4], mask_token=0),
        _make(
            "IntegerLookup", call=_LOOKUP, vocabulary=[5, 2],
            output_mode="multi_hot",
        ),
    ],
    "CenterCrop": [_make("CenterCrop", (6, 5, 2), call={"gradients": False}, height=3, width=2)],
}  # fmt: skip

#: Layers that augment images in training, and leave them alone at inference: how each is made.
AUGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "RandomBrightness": {"factor": 0.5},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomColorJitter": {"brightness_factor": 0.5, "hue_factor": 0.2},
    "RandomContrast": {"factor": 0.5},
    "RandomElasticTransform": {"factor": 0.5},
    "RandomErasing": {"factor": 0.5},
    "RandomFlip": {},
    "RandomGaussianBlur": {"factor": 0.5},
    "RandomGrayscale": {"factor": 0.5},
    "RandomHue": {"factor": 0.5},
    "RandomInvert": {"factor": 0.5},
    "RandomPerspective": {"factor": 0.5},
    "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.5},
    "RandomSaturation": {"factor": 0.5},
    "RandomSharpness": {"factor": 0.5},
    "RandomShear": {"x_factor": 0.5, "y_factor": 0.25},
    "RandomTranslation": {"height_factor": 0.5, "width_factor": 0.25},
    "RandomZoom": {"height_factor": 0.5},
    "RandAugment": {},
    "AugMix": {},
    "CutMix": {},
    "MixUp": {},
    "Solarization": {"addition_factor": 0.5},
}

#: Activations that need an argument, or have one that is worth another value.
ACTIVATION_ARGUMENTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "threshold": ({"threshold": 0.3, "default_value": -1.5},),
    "relu": ({}, {"negative_slope": 0.2, "threshold": 0.3, "max_value": 1.1}),
    "gelu": ({}, {"approximate": True}),
    "elu": ({}, {"alpha": 0.3}),
    "celu": ({}, {"alpha": 0.3}),
    "leaky_relu": ({}, {"negative_slope": 0.07}),
    "hard_shrink": ({}, {"threshold": 0.7}),
    "soft_shrink": ({}, {"threshold": 0.7}),
    "squareplus": ({}, {"b": 0.7}),
    "softmax": ({}, {"axis": 1}),
    "log_softmax": ({}, {"axis": 1}),
    "sparsemax": ({}, {"axis": 1}),
    "glu": ({}, {"axis": 1}),
}

#: What `keras.activations` exports that is no activation.
NOT_ACTIVATIONS = ("deserialize", "get", "serialize")

#: The parameter of an activation function is its name after this.
ACTIVATION = "activation-"

#: Activations over an axis, whose input has one of even length before the last.
_SHAPE = (4, 6)


@functools.cache
def exported_layers() -> Mapping[str, type]:
    """Return every layer class that the installed Keras exports, by its name; synonyms once."""
    layers = keras_module().layers
    found = {}
    for name in sorted(dir(layers)):
        exported = getattr(layers, name)
        if inspect.isclass(exported) and issubclass(exported, layers.Layer):
            synonym = exported.__name__ != name and getattr(layers, exported.__name__, None) is exported
            if not synonym:
                found[name] = exported
    return found


def exported_activations() -> list[str]:
    """Return the name of every activation function that the installed Keras exports."""
    module = keras_module().activations
    return [n for n in sorted(dir(module)) if callable(getattr(module, n)) and n not in NOT_ACTIVATIONS]


@functools.cache
def constructions(name: str) -> tuple[Construction, ...]:
    """Return the constructions of a layer, or of ``activation-NAME``, that the installed release and backend have."""
    if name.startswith(ACTIVATION):
        function = name.removeprefix(ACTIVATION)
        if function not in exported_activations():
            return ()
        return tuple(
            _make("Activation", _SHAPE, activation=function, arguments=dict(given))
            for given in ACTIVATION_ARGUMENTS.get(function, ({},))
            if takes(getattr(keras_module().activations, function), given)
        )
    if name in AUGMENTATIONS:
        call = {"options": {"training": False}, "gradients": False}
        return (_make(name, _IMAGE, call=call, **AUGMENTATIONS[name]),) if name in exported_layers() else ()
    return tuple(c for c in CONSTRUCTIONS[name] if name in exported_layers() and _available(c))


def _available(construction: Construction) -> bool:
    """Whether the class has the options, and the backend the layout (TensorFlow has it on a GPU alone)."""
    runtime = current()
    if construction.only and runtime.name not in construction.only:
        return False
    if runtime.name in construction.gpu_only and runtime.describe()["device"] != "gpu":
        return False
    exported: Any = exported_layers()[construction.spec.name]
    # What every layer takes is passed on by its keywords.
    own = {k: v for k, v in construction.spec.options.items() if k not in ("name", "trainable")}
    if not takes(exported, own):
        return False
    return not construction.refusable or _accepted(construction.spec)


def _accepted(layer: Spec) -> bool:
    """Whether the class takes these options together; what else is wrong with them is for the check to say."""
    try:
        build(layer)
    except ValueError as error:
        return "not supported in conjunction" not in str(error)
    return True


def defined_layers() -> list[str]:
    """Return what is held to a definition: layers by name, activation functions as ``activation-NAME``."""
    layers = [n for n in exported_layers() if n in CONSTRUCTIONS or n in AUGMENTATIONS]
    return [*layers, *(ACTIVATION + n for n in exported_activations() if n in ACTIVATIONS)]


def build(layer: Spec, seed: int = 0) -> Any:
    """Return the Keras layer that a spec describes; random ones draw from the seed."""
    keras = keras_module()
    options = {key: _built(value) for key, value in layer.options.items()}
    if layer.name == "Activation":
        arguments = options.pop("arguments", {})
        function = getattr(keras.activations, options["activation"])
        options["activation"] = functools.partial(function, **arguments) if arguments else options["activation"]
    if layer.name == "Lambda":
        return keras.layers.Lambda(lambda x, factor: x * factor + x * x, **options)
    exported = getattr(keras.layers, layer.name)
    if takes(exported, {"seed": 0}) and "Dropout" in layer.name + layer.name.replace("Noise", "Dropout"):
        options["seed"] = seed
    return exported(**options)


def _built(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], Spec):
        return [build(v) for v in value]
    return build(value) if isinstance(value, Spec) else value


def arguments(construction: Construction, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs as the layer's call takes them, positionally and by keyword."""
    first, rest = inputs[0], list(inputs[1:])
    if construction.passing == "list":
        return (list(inputs),), {}
    if construction.passing == "spread":
        return tuple(inputs), {}
    if construction.passing == "states":
        return (first,), {"initial_state": rest}
    if construction.passing == "cell":
        return (first, rest), {}
    if construction.passing == "nested":  # each cell's own states in a list of their own
        return (first, [rest[:2], rest[2]]), {}
    return (first,), {}


def build_for(layer: Any, construction: Construction) -> None:
    """Make the layer's weights; one that is adapted has them already."""
    shapes = [(None, *i.shape) for i in construction.inputs]
    if construction.passing == "list":
        layer.build(shapes)
    elif construction.passing == "spread":
        layer.build(*shapes)
    elif not layer.built:
        layer.build(*shapes[: len(inspect.signature(layer.build).parameters)][:1])
