"""Optimizers as float64 NumPy recurrences, written from the papers, with the rounding each step may show.

Every recurrence follows its paper's equations; where Keras documents or does something else, the recurrence
does what Keras does and `Recurrence.differences` says so. `rounding_bound` runs the *same* recurrence on
numbers that carry their error, so a bound can never belong to another formula than the value it bounds.

Nothing here imports Keras: an optimizer is only ever handed in, and read.
"""

from bscheck.oracles.optimizers.bounds import rounding_bound
from bscheck.oracles.optimizers.held import hyperparameters, keras_slots
from bscheck.oracles.optimizers.recurrence import Recurrence
from bscheck.oracles.optimizers.table import RECURRENCES, recurrence_of, with_weight_decay

__all__ = [
    "RECURRENCES",
    "Recurrence",
    "hyperparameters",
    "keras_slots",
    "recurrence_of",
    "rounding_bound",
    "with_weight_decay",
]
