"""Recurrent layers, their cells and the wrappers over time.

Sources: Elman (1990); Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000); Cho et al. (2014),
``reset_after`` as in version 3 of that paper's preprint has it and cuDNN computes it; Schuster and Paliwal (1997) for
bidirectional ones; Shi et al. (2015) for convolutional ones, without peepholes. The order of the gates within a kernel
is the layout that the layers' weights have: input, forget, cell, output; update, reset, candidate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, Outcome, Spec, Weights, defines
from bscheck.oracles.layers.activations import activate
from bscheck.oracles.layers.convolution import convolve
from bscheck.oracles.layers.stochastic import dropped_share
from bscheck.oracles.layers.tracked import Tracked, concatenate, constant, einsum, matmul, select, stack
from bscheck.tolerance import TINY

#: ``step(x, states) -> (output, new states)``.
Step = Callable[[Tracked, list[Tracked]], tuple[Tracked, list[Tracked]]]

#: How inputs and states meet their kernels: a product, in which dropout may leave some out.
Product = Callable[[Tracked, Tracked], Tracked]


def simple_step(cell: Spec, weights: Weights, by_input: Product = matmul, by_state: Product = matmul) -> Step:
    """Return ``h' = tanh(x W + h U + b)``."""

    def step(x: Tracked, states: list[Tracked]) -> tuple[Tracked, list[Tracked]]:
        y = by_input(x, weights["kernel"]) + by_state(states[0], weights["recurrent_kernel"])
        if cell.options.get("use_bias", True):
            y = y + weights["bias"]
        h = activate(cell.options.get("activation", "tanh"), y)
        return h, [h]

    return step


def _parts(x: Tracked, count: int) -> list[Tracked]:
    """Return equal parts of the last axis."""
    size = x.shape[-1] // count
    return [x[..., i * size : (i + 1) * size] for i in range(count)]


def _lstm(cell: Spec, gates: Tracked, c: Tracked) -> tuple[Tracked, list[Tracked]]:
    """Return ``c' = f c + i g`` and ``h' = o tanh(c')`` from the gates before their activations."""
    inner = cell.options.get("activation", "tanh")
    gate = cell.options.get("recurrent_activation", "sigmoid")
    i, f, g, o = _parts(gates, 4)
    new = activate(gate, f) * c + activate(gate, i) * activate(inner, g)
    h = activate(gate, o) * activate(inner, new)
    return h, [h, new]


def lstm_step(cell: Spec, weights: Weights, by_input: Product = matmul, by_state: Product = matmul) -> Step:
    """Return the LSTM's step."""

    def step(x: Tracked, states: list[Tracked]) -> tuple[Tracked, list[Tracked]]:
        gates = by_input(x, weights["kernel"]) + by_state(states[0], weights["recurrent_kernel"])
        if cell.options.get("use_bias", True):
            gates = gates + weights["bias"]
        return _lstm(cell, gates, states[1])

    return step


def gru_step(cell: Spec, weights: Weights, by_input: Product = matmul, by_state: Product = matmul) -> Step:
    """Return the GRU's step: ``h' = z h + (1 - z) g``.

    The candidate is ``g = tanh(x W + b + r (h U + b'))`` where the reset gate acts after the product, and
    ``g = tanh(x W + b + (r h) U)`` where it acts before; in the first form there are two biases.
    """
    after = cell.options.get("reset_after", True)
    inner = cell.options.get("activation", "tanh")
    gate = cell.options.get("recurrent_activation", "sigmoid")
    recurrent = _parts(weights["recurrent_kernel"], 3)

    def step(x: Tracked, states: list[Tracked]) -> tuple[Tracked, list[Tracked]]:
        h = states[0]
        given = by_input(x, weights["kernel"])
        moved = _parts(by_state(h, weights["recurrent_kernel"]), 3)
        if cell.options.get("use_bias", True):
            bias = weights["bias"]
            given = given + (bias[0] if after else bias)
            if after:
                moved = [k + b for k, b in zip(moved, _parts(bias[1], 3), strict=True)]
        xz, xr, xg = _parts(given, 3)
        z, r = activate(gate, xz + moved[0]), activate(gate, xr + moved[1])
        g = activate(inner, xg + (r * moved[2] if after else matmul(r * h, recurrent[2])))
        new = z * h + (1.0 - z) * g
        return new, [new]

    return step


def stacked_step(steps: Sequence[Step], counts: Sequence[int]) -> Step:
    """Return cells one upon the other, each with its own states."""

    def step(x: Tracked, states: list[Tracked]) -> tuple[Tracked, list[Tracked]]:
        found, start = [], 0
        for one, count in zip(steps, counts, strict=True):
            x, new = one(x, states[start : start + count])
            found += new
            start += count
        return x, found

    return step


CELLS: dict[str, tuple[Callable[..., Step], int]] = {
    "SimpleRNN": (simple_step, 1),
    "LSTM": (lstm_step, 2),
    "GRU": (gru_step, 1),
}


def _cells(cell: Any, weights: Weights) -> tuple[Step, list[int]]:
    """Return the step and the width of each state of a cell, of stacked cells, or of a list of them."""
    if isinstance(cell, Spec) and cell.name == "StackedRNNCells":
        cell = cell.options["cells"]
    if isinstance(cell, Spec):
        make, count = CELLS[cell.name.removesuffix("Cell")]
        return make(cell, weights), [cell.options["units"]] * count
    made = [_cells(c, weights.under(c.options["name"])) for c in cell]
    step = stacked_step([s for s, _ in made], [len(w) for _, w in made])
    return step, [width for _, widths in made for width in widths]


@defines("SimpleRNNCell", "LSTMCell", "GRUCell", "StackedRNNCells")
def cell(call: Call) -> Outcome:
    """Cells: one step; the output, then the new states."""
    step, _ = _cells(call.spec, call.weights)
    y, states = step(call.x, list(call.inputs[1:]))
    return Outcome([y, *states])


def run(call: Call, step: Step, states: list[Tracked]) -> Outcome:
    """Return what the step makes of a sequence.

    At a masked time step the states stay as they were and the output is the one before (at first zeros), or zeros
    under ``zero_output_for_mask``. ``go_backwards`` takes the steps in reverse, and so come its outputs.
    """
    times = list(range(call.x.shape[1]))
    if call.get("go_backwards", False):
        times.reverse()
    # The option is documented for sequences only.
    zero = call.get("zero_output_for_mask", False) and call.get("return_sequences", False)
    outputs: list[Tracked] = []
    for t in times:
        y, new = step(call.x[:, t], states)
        if call.mask is not None:
            on = np.asarray(call.mask, bool)[:, t].reshape(-1, *(1,) * (y.ndim - 1))
            hold = outputs[-1] if outputs and not zero else constant(0.0, call.u)
            y = select(on, y, hold, call.u)
            new = [select(on, a, b, call.u) for a, b in zip(new, states, strict=True)]
        outputs.append(y)
        states = new
    y = stack(outputs, 1) if call.get("return_sequences", False) else outputs[-1]
    return Outcome([y, *(states if call.get("return_state", False) else [])])


def _zeros(call: Call, widths: Sequence[int]) -> list[Tracked]:
    return [constant(np.zeros((call.x.shape[0], width)), call.u) for width in widths]


@defines("SimpleRNN", "LSTM", "GRU", "RNN")
def recurrent(call: Call) -> Outcome:
    """Recurrent layers: the cell, over time, from the initial states given after the input, or from zeros."""
    if call.training and (call.get("dropout", 0.0) or call.get("recurrent_dropout", 0.0)):
        return _dropped(call)
    step, widths = _cells(call.get("cell", call.spec), call.weights)
    return run(call, step, list(call.inputs[1:]) or _zeros(call, widths))


#: Gates of a cell, each of which may drop for itself.
GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}


def _dropped(call: Call) -> Outcome:
    """Return what a layer that drops makes of a sequence: the draw is the one that explains an example's outputs.

    Gal and Ghahramani (2016): where a gate's kernels meet an example's features and the units of its state, each of
    these is 0 with the rate of its kind, else divided by 1 - rate, all the sequence long. Every draw is tried.
    """
    make, states = CELLS[call.spec.name]
    gates, features, units = GATES[call.spec.name], call.x.shape[-1], call.get("units")
    rates = (call.get("dropout", 0.0), call.get("recurrent_dropout", 0.0))
    draws = np.array(list(itertools.product((True, False), repeat=gates * (features + units))))
    draws = draws.reshape(-1, gates, features + units)
    # What has no rate is never left out.
    never = [rate == 0 for rate, size in zip(rates, (features, units), strict=True) for _ in range(size)]
    draws = draws[np.all(draws[..., never], axis=(1, 2))]
    examples, count = call.x.shape[0], len(draws)
    keep = np.tile(draws, (examples, 1, 1))
    products = [
        _left_out(keep[..., part], rate, call.u)
        for part, rate in zip((slice(0, features), slice(features, None)), rates, strict=True)
    ]
    tried = replace(call, inputs=[call.x[np.repeat(np.arange(examples), count)]])
    found = run(tried, make(call.spec, call.weights, *products), _zeros(tried, [units] * states)).outputs
    share = np.zeros((examples, count))
    for y, seen in zip(found, call.seen, strict=True):
        away = np.abs(y.value.reshape(examples, count, -1) - seen.reshape(examples, 1, -1))
        share = np.maximum(share, np.max(away / (2 * y.error.reshape(away.shape) + TINY), axis=-1))
    best = np.argmin(share, axis=1)
    # What explains the outputs either way tells nothing of its draw.
    could = share <= np.maximum(1.0, share.min(axis=1, keepdims=True))
    told = np.array([np.all(draws[c] == draws[b], axis=0) for c, b in zip(could, best, strict=True)])
    drawn = [draws[best][..., part][told[..., part]] for part in (slice(0, features), slice(features, None))]
    chance = max(dropped_share(kept, rate) for kept, rate in zip(drawn, rates, strict=True) if rate)
    return Outcome([y[np.arange(examples) * count + best] for y in found], chance=chance)


def _left_out(keep: Any, rate: float, u: float) -> Product:
    """Return the product of each gate's part of a kernel with what that gate keeps (rows, gates, entries)."""
    scale = constant(1.0 / (1.0 - rate), u)

    def product(x: Tracked, kernel: Tracked) -> Tracked:
        _, gates, entries = keep.shape
        left = x.reshape(-1, 1, entries) * keep * scale
        y = einsum("ngf,fgu->ngu", left, kernel.reshape(entries, gates, -1))
        return y.reshape(y.shape[0], -1)

    return product


@defines("Bidirectional")
def bidirectional(call: Call) -> Outcome:
    """Bidirectional: one layer forwards and one backwards, whose outputs are put in the order of time and merged."""
    inner: Spec = call.get("layer")
    # At masked steps of sequences both directions give zeros: what came before is not the same for the two.
    options = {**inner.options, "zero_output_for_mask": inner.options.get("return_sequences", False)}
    inner = Spec(inner.name, options)
    other: Spec = call.get("backward_layer") or inner
    back = Spec(other.name, {**options, **other.options, "go_backwards": True})
    states = list(call.inputs[1:])
    half = len(states) // 2
    one = call.of(inner, call.x, *states[:half], weights=call.weights.under(f"forward_{options['name']}"))
    name = other.options["name"] if call.get("backward_layer") else f"backward_{options['name']}"
    two = call.of(back, call.x, *states[half:], weights=call.weights.under(name))
    y, z = one.outputs[0], two.outputs[0]
    if options.get("return_sequences", False):
        z = z[:, ::-1]
    return Outcome([*_merged(call.get("merge_mode", "concat"), y, z), *one.outputs[1:], *two.outputs[1:]])


def _merged(mode: str | None, y: Tracked, z: Tracked) -> list[Tracked]:
    if mode is None:
        return [y, z]
    if mode == "concat":
        return [concatenate([y, z], -1)]
    return [{"sum": lambda: y + z, "ave": lambda: (y + z) / 2.0, "mul": lambda: y * z}[mode]()]


@defines("TimeDistributed")
def time_distributed(call: Call) -> Tracked:
    """TimeDistributed: the layer on every time step, with that step's mask."""
    mask = call.mask

    def step(t: int) -> Tracked:
        masks = {} if mask is None else {"mask": mask[:, t]}
        return call.of(call.get("layer"), call.x[:, t], masks=masks).outputs[0]

    return stack([step(t) for t in range(call.x.shape[1])], 1)


@defines("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def conv_lstm(call: Call) -> Outcome:
    """ConvLSTM: the LSTM's step with convolutions for products; the one over the state keeps its size."""
    weights = call.weights

    def of_input(x: Tracked) -> Tracked:
        y = convolve(
            x, weights["kernel"], strides=call.get("strides", 1), padding=call.get("padding", "valid"),
            dilation=call.get("dilation_rate", 1),
        )  # fmt: skip
        return y + weights["bias"] if call.get("use_bias", True) else y

    def step(x: Tracked, states: list[Tracked]) -> tuple[Tracked, list[Tracked]]:
        gates = of_input(x) + convolve(states[0], weights["recurrent_kernel"], padding="same")
        return _lstm(call.spec, gates, states[1])

    shape = of_input(call.x[:, 0]).shape
    zeros = constant(np.zeros((*shape[:-1], shape[-1] // 4)), call.u)
    return run(call, step, [zeros, zeros])
