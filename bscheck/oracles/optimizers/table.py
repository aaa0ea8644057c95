"""Every recurrence with its source, and where Keras departs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from bscheck.oracles.optimizers import rules
from bscheck.oracles.optimizers.recurrence import Array, Now, Recurrence, Rule, Slots, State

_KINGMA = "Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, arXiv:1412.6980"
_GRAVES = "Graves 2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850, equations 38-41"
_HINTON = "Hinton 2012, Neural Networks for Machine Learning, lecture 6e, slide 29"
_DECAY_SOURCE = "Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101, Algo. 2"

_CAST_NOTE = (
    "on TensorFlow {0} passes through float32 before it reaches the weights' dtype, so float64 training uses "
    "the float32 value."
)
_MEAN_NOTE = "on JAX and torch its means are taken in float32, also for float64 weights (seen in 3.15.1)."
_OPERAND_NOTE = "on torch its Python floats are rounded to float32, also for float64 weights."
_EPSILON_HAT = "epsilon is the paper's epsilon hat: added to sqrt(v) outside the bias correction, not to sqrt(v hat)."
_ADAM_CAST = _CAST_NOTE.format("beta in the bias corrections (not in the moving averages)")
_DECAY_DIFFERENCES = (
    "the decay is multiplied by the learning rate, where only the paper's schedule multiplier eta scales it.",
    "the decay is applied before the update and rounded on its own, where the paper subtracts one sum.",
    _CAST_NOTE.format("weight_decay"),
    "on torch the factor 1 - weight_decay * learning_rate is formed in float32, also for float64 weights.",
)
_INSIDE_ROOT = "epsilon is added inside the square root, where the source {0}."
_ADAM_DIFFERENCES = (_EPSILON_HAT, _ADAM_CAST)


def _entry(
    name: str,
    keras_class: str,
    rule: Rule,
    hyper: str = "",
    slots: str = "",
    *,
    source: str,
    differences: tuple[str, ...] = (),
    **options: object,
) -> Recurrence:
    return Recurrence(
        name=name,
        keras_class=keras_class,
        options=MappingProxyType(options),
        hyperparameters=tuple(hyper.split()),
        slots=tuple(slots.split()),
        source=source,
        differences=differences,
        step=rules.as_step(rule),
    )


def with_weight_decay(recurrence: Recurrence, weight_decay: float = 0.004) -> Recurrence:
    """The recurrence with Keras's `weight_decay` option: decoupled, applied before the update.

    Parameters
    ----------
    recurrence : Recurrence
        Any entry of `RECURRENCES` that does not decay already.
    weight_decay : float, default 0.004
        Value for the constructor option; the value used by `step` is ``hyper["weight_decay"]``.

    Returns
    -------
    Recurrence
        Named ``"<name>_decayed"``.

    Raises
    ------
    ValueError
        If the recurrence decays already.
    """
    if "weight_decay" in recurrence.hyperparameters:
        raise ValueError(f"recurrence {recurrence.name!r} decays already")

    def rule(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
        return recurrence.step(
            rules.decayed(weight, now),
            slots,
            gradient,
            update=now.update,
            learning_rate=now.learning_rate,
            hyper=now.hyper,
        )

    return replace(
        recurrence,
        name=f"{recurrence.name}_decayed",
        options={**recurrence.options, "weight_decay": weight_decay},
        hyperparameters=(*recurrence.hyperparameters, "weight_decay"),
        source=f"{recurrence.source}; decay: {_DECAY_SOURCE}",
        differences=(*recurrence.differences, *_DECAY_DIFFERENCES),
        step=rules.as_step(rule),
    )


_ADAM = _entry(
    "adam", "Adam", rules.adam_step, "beta_1 beta_2 epsilon", "momentum velocity",
    source=f"{_KINGMA}, Algorithm 1 and section 2", differences=_ADAM_DIFFERENCES,
)  # fmt: skip

_ENTRIES = (
    _entry(
        "sgd", "SGD", rules.sgd_step,
        source="Goodfellow, Bengio & Courville 2016, Deep Learning, Algorithm 8.1",
    ),
    _entry(
        "momentum", "SGD", rules.momentum_step, "momentum", "momentum",
        source="Sutskever, Martens, Dahl & Hinton 2013, On the importance of initialization and momentum in "
        "deep learning, ICML, equations 1-2 (Polyak 1964)",
        differences=(_CAST_NOTE.format("momentum"),), momentum=0.9,
    ),
    _entry(
        "nesterov", "SGD", rules.nesterov_step, "momentum", "momentum",
        source="Bengio, Boulanger-Lewandowski & Pascanu 2013, Advances in Optimizing Recurrent Networks, "
        "arXiv:1212.0901, section 3.5",
        differences=(
            ("the weights held are the look-ahead weights, as in Bengio et al.: Sutskever et al. 2013 "
            "(equations 3-4) hold the others and evaluate the gradient ahead of them."),
            "the momentum is constant, where the paper lets it follow a schedule.",
            _CAST_NOTE.format("momentum"),
        ),
        momentum=0.9, nesterov=True,
    ),
    _ADAM,
    _entry(
        "amsgrad", "Adam", rules.amsgrad_step, "beta_1 beta_2 epsilon", "momentum velocity velocity_hat",
        source="Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond, arXiv:1904.09237, "
        "Algorithm 2",
        differences=(
            "the rate carries Adam's bias corrections; the paper's algorithm has none.",
            "the maximum is taken over v before the bias correction.",
            "epsilon is added to sqrt(v hat); the paper divides by sqrt(v hat) alone.",
            "the learning rate is as given, where the paper divides it by sqrt(t); there is no projection.",
            _ADAM_CAST,
        ),
        amsgrad=True,
    ),
    replace(
        with_weight_decay(_ADAM), name="adamw", keras_class="AdamW",
    ),
    _entry(
        "rmsprop", "RMSprop", rules.rmsprop_step, "rho epsilon", "velocity",
        source=_HINTON, differences=(_INSIDE_ROOT.format("has no epsilon"),),
    ),
    _entry(
        "rmsprop_centered", "RMSprop", rules.rmsprop_centered_step, "rho epsilon", "velocity average_gradient",
        source=_GRAVES,
        differences=(
            "without the momentum option the step is not smoothed; Graves always has a momentum of 0.9.",
            ("the default epsilon is 1e-7, Graves's 1e-4: when gradients repeat, v - mean^2 + epsilon can "
            "round to a negative number, and the step to NaN."),
        ),
        centered=True,
    ),
    _entry(
        "rmsprop_momentum", "RMSprop", rules.rmsprop_step, "rho epsilon momentum", "velocity momentum",
        source=f"{_HINTON}; momentum: {_GRAVES}",
        differences=(
            _INSIDE_ROOT.format("(Hinton) has no epsilon"),
            "the momentum slot holds the negative of Graves's, and is subtracted.",
        ),
        momentum=0.9,
    ),
    _entry(
        "adagrad", "Adagrad", rules.adagrad_step, "epsilon", "accumulator",
        source="Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods, JMLR 12, Figure 1 (diagonal)",
        differences=(
            _INSIDE_ROOT.format("adds delta outside it"),
            "the accumulator starts at initial_accumulator_value (0.1), the paper's sum at zero.",
        ),
    ),
    _entry(
        "adadelta", "Adadelta", rules.adadelta_step, "rho epsilon", "accumulated_grad accumulated_delta_var",
        source="Zeiler 2012, ADADELTA: An Adaptive Learning Rate Method, arXiv:1212.5701, Algorithm 1",
        differences=(
            ("the update is multiplied by a learning rate (default 0.001; the paper has none, that is 1), "
            "and the accumulated updates are those before that factor."),
        ),
    ),
    _entry(
        "adamax", "Adamax", rules.adamax_step, "beta_1 beta_2 epsilon", "momentum norm",
        source=f"{_KINGMA}, Algorithm 2",
        differences=(
            "epsilon is added to the infinity norm; the paper has none.",
            _CAST_NOTE.format("beta_1 in the bias correction (not in the moving average)"),
        ),
    ),
    _entry(
        "nadam", "Nadam", rules.nadam_step, "beta_1 beta_2 epsilon", "momentum velocity u_product",
        source="Dozat 2016, Incorporating Nesterov Momentum into Adam, ICLR workshop, Algorithm 2",
        differences=(
            "the momentum schedule is mu (1 - 0.5 * 0.96^t), where the paper's exponent is t / 250.",
            "the first moment decays with the constant beta_1; only the look-ahead follows the schedule.",
            "the second moment's correction is v / (1 - beta_2^t), without the paper's factor nu.",
            _CAST_NOTE.format("beta_1, beta_2 and the 0.96 of the schedule (but not in the running product)"),
        ),
    ),
    _entry(
        "lion", "Lion", rules.lion_step, "beta_1 beta_2", "momentum",
        source="Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, "
        "Algorithm 2",
        differences=(
            "weight decay is not part of the step: it is Keras's own option, taken before the update.",
            _CAST_NOTE.format("beta_1 and beta_2"),
        ),
    ),
    _entry(
        "ftrl", "Ftrl", rules.ftrl_step,
        "learning_rate_power l1_regularization_strength l2_regularization_strength "
        "l2_shrinkage_regularization_strength beta",
        "accumulator linear",
        source="McMahan et al. 2013, Ad Click Prediction: a View from the Trenches, KDD, Algorithm 1",
        differences=(
            "the weights are solved for after the update, the paper does so before the next prediction.",
            "l2_regularization_strength counts twice (2 * lambda_2 in the denominator).",
            ("sums of squares start at initial_accumulator_value (0.1) and weights at their initial values, "
            "which the first update then forgets: the paper starts both at zero."),
            "the power of the accumulator is an option (the paper's is 1/2).",
            ("l2_shrinkage_regularization_strength adds 2 * strength * weight to the gradient in the linear "
            "term only; the paper has none."),
            _OPERAND_NOTE,
        ),
    ),
    _entry(
        "lamb", "Lamb", rules.lamb_step, "beta_1 beta_2 epsilon", "momentum velocity",
        source="You et al. 2020, Large Batch Optimization for Deep Learning, arXiv:1904.00962, Algorithm 2",
        differences=(
            "weight decay stays outside the trust ratio: it is Keras's own option, taken before the update.",
            "phi is the identity, and the ratio is 1 where either norm is zero.",
            "a layer is one variable, so a kernel and its bias have a ratio each.",
            _CAST_NOTE.format("beta in the bias corrections (not in the moving averages)"),
            _OPERAND_NOTE,
        ),
    ),
    _entry(
        "adafactor", "Adafactor", rules.adafactor_step,
        "beta_2_decay epsilon_1 epsilon_2 clip_threshold relative_step", "r c velocity",
        source="Shazeer & Stern 2018, Adafactor, arXiv:1804.04235, Algorithms 4-6",
        differences=(
            "rho_t = min(learning_rate, 1/sqrt(t)), where the paper's constant is 1e-2.",
            "relative_step=False changes nothing: the minimum with 1/sqrt(t) is taken all the same.",
            "row and column means stand for the paper's sums, which leaves their outer product unchanged.",
            "the second moment of a matrix is stored too, which gives up the memory the factoring saves.",
            _CAST_NOTE.format("epsilon_2"),
            _MEAN_NOTE,
            _OPERAND_NOTE,
        ),
    ),
    _entry(
        "muon", "Muon", rules.muon_step,
        "momentum nesterov ns_steps muon_a muon_b muon_c rms_rate weight_decay "
        "adam_beta_1 adam_beta_2 epsilon adam_lr_ratio adam_weight_decay",
        "momentum velocity",
        source="Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks; step size: Liu et al. "
        f"2025, Muon is Scalable for LLM Training, arXiv:2502.16982, equation 4; AdamW: {_KINGMA}",
        differences=(
            "the iteration runs in the weights' dtype, not in bfloat16.",
            "the step size sqrt(max(n, m)) * 0.2 is Liu et al.'s; rms_rate=None leaves it out.",
            "tables called embedding, and what is no matrix, are updated by AdamW in the same optimizer.",
            _EPSILON_HAT, _CAST_NOTE.format("beta in AdamW's bias corrections and both weight decays"),
        ),
    ),
    _entry(
        "schedulefreeadamw", "ScheduleFreeAdamW", rules.schedule_free_step, "beta_1 beta_2 epsilon warmup_steps",
        "momentum velocity",
        source="Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682, Algorithm 1",
        differences=(
            "the average's weights are 1/t, the paper's the squared rates: they differ under warm-up and schedules.",
            "the bias correction is taken of v, with epsilon outside it; the paper's is in the rate.",
            "weight decay is Keras's own option: it shrinks y before the step, the paper subtracts it from z.",
            _CAST_NOTE.format("beta_1, beta_2 and epsilon"),
        ),
    ),
)  # fmt: skip

_RMSPROP_CENTERED_MOMENTUM = _entry(
    "rmsprop_centered_momentum", "RMSprop", rules.rmsprop_centered_step,
    "rho epsilon momentum", "velocity momentum average_gradient",
    source=_GRAVES,
    differences=(
        "the momentum slot holds the negative of Graves's, and is subtracted.",
        "the default epsilon is 1e-7, Graves's 1e-4.",
    ),
    centered=True, momentum=0.9,
)  # fmt: skip

RECURRENCES: Mapping[str, Recurrence] = MappingProxyType(
    {entry.name: entry for entry in (*_ENTRIES, _RMSPROP_CENTERED_MOMENTUM)}
)
"""Every recurrence by name."""


#: Options that make another recurrence of the same class.
_SELECTING = ("momentum", "nesterov", "centered", "amsgrad")


def recurrence_of(keras_class: str, options: Mapping[str, object]) -> Recurrence | None:
    """Return the recurrence of an optimizer class with these constructor options, None where none is written."""
    if keras_class == "AdamW" and options.get("amsgrad"):
        return replace(with_weight_decay(RECURRENCES["amsgrad"]), keras_class="AdamW")
    found = [entry for entry in RECURRENCES.values() if entry.keras_class == keras_class]
    if len(found) < 2:
        return found[0] if found else None
    wanted = {name for name in _SELECTING if options.get(name)}
    return next((entry for entry in found if {n for n in _SELECTING if entry.options.get(n)} == wanted), None)
