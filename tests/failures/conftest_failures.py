"""A failure as a record has it."""

ENVIRONMENT = {"keras": "3.15.1", "backend": "tensorflow", "backend_version": "2.21.0", "device": "cpu"}


def failure(**changes):
    """Return a failed result as JSON: weight decay of SGD."""
    told = {
        "check": "weight_decay_acts_once_per_update", "family": "accumulation", "param": {"optimizer": "sgd"},
        "verdict": "failed", "cases": 1, "worst": {"share": 3.0, "seen": "off by 2"},
        "failure": {
            "case": {"seed": 0, "micro_batches": 2, "updates": 1, "decay": "on", "mode": "eager"},
            "situation": "sgd, seed 0, decay=on", "reading": {"share": 3.0, "seen": "off by 2"},
            "ablation": ["decay=none: passes"],
        },
    }  # fmt: skip
    return {**told, **changes}
