"""Records of runs that nobody made: the figures are illustrations, the shapes are those of real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bscheck.results.curves import Curve, Exhibits, Series, Table, point
from bscheck.results.record import write_record
from bscheck.results.verdict import Failure, Reading, Result, Verdict

ENVIRONMENT = {
    "keras": "3.15.1", "backend": "tensorflow", "backend_version": "2.21.0", "device": "cpu", "device_name": "",
    "threads": "2", "tf32": "off", "dtype": "float32", "numpy": "2.4.6", "python": "3.11.7", "platform": "Linux x86_64",
}  # fmt: skip
OPTIONS = {"profile": "default", "seed": 0, "known_issues": [], "timing": "auto", "require_gpu": False, "check": []}
ISSUE = {
    "id": "average-per-micro-step",
    "check": "moving_average_advances_once_per_update",
    "reason": "use_ema advances the moving average of the weights on every micro-batch",
    "link": "https://example.org/issues/1",
    "when": {"keras": ">=3.15"},
    "param": {"optimizer": "sgd"},
    "case": {},
}


def result(
    check: str = "a_promise", verdict: str = "passed", share: float = 0.1, family: str = "accumulation", **more: Any
) -> dict[str, Any]:
    """Return a result as a run records it."""
    param = more.pop("param", {"subject": "dense"})
    figures = more.pop("figures", {})
    reading = Reading(share, "kernel[3,0]", more.pop("seen", "off by 3.1e-4: 30 % of the update"), "1e-4", "", figures)
    failure = Failure({"seed": 0}, "dense, seed 0", reading, ("decay=none: passes",)) if verdict == "failed" else None
    fields = {"reason": "", "cases": 12, "worst_case": "dense, seed 0, float32", "failure": failure, "seconds": 1.5}
    told = Result(check, family, param, Verdict(verdict), worst=reading, **{**fields, **more})
    nodeid = f"bscheck/gate/test_{family.replace(' ', '_')}.py::{check}[{'-'.join(param.values())}]"
    return {**told.to_json(), "nodeid": nodeid}


def write(path: Path, *results: Mapping[str, Any], **changes: Any) -> Path:
    """Write a record of these results and return its path."""
    fields: dict[str, Any] = {
        "environment": ENVIRONMENT,
        "options": OPTIONS,
        "started": "2026-01-01T10:00:00+00:00",
        "finished": "2026-01-01T10:04:00+00:00",
        "interrupted": False,
        "results": results,
        "known_issues": [ISSUE],
        "checks": {each["check"]: wording(each["check"]) for each in results},
        "selection": selection(len(results)),
    }
    write_record(path, **(fields | changes))
    return path


def selection(collected: int, **more: Any) -> dict[str, Any]:
    """Return what a run says that it collected, all of it selected unless told."""
    return {"collected": collected, "digest": "d", "skipped": [], "selected": collected, **more}


def wording(check: str) -> dict[str, str]:
    """Return what is said of a check."""
    exception = "keras.io says so" if check.endswith("as_documented") else ""
    return {"promise": check.replace("_", " ").capitalize(), "exception": exception}


def curves() -> Exhibits:
    """Return a picture of each kind."""
    sizes = (1, 2, 3, 4, 8, 16, 17, 32, 33, 64, 128)
    step = [point(b, 1e-3 + 4e-5 * b, 0.9e-3 + 4e-5 * b, 1.12e-3 + 4e-5 * b) for b in sizes]
    line = [point(b, 1e-3 + 4e-5 * b) for b in range(1, 129, 3)]
    runs = [
        [point(n, 2.3 * math.exp(-n / 150) + 0.3 + 0.02 * math.sin(n / 9 + k)) for n in range(0, 600, 10)]
        for k in (0, 2)
    ]
    far = [point(n, 2.3 * math.exp(-n / 150) + 0.35) for n in range(0, 60, 2)]
    threshold = [point(b, 0.97 / (1 + 4.2 / b)) for b in range(1, 17)]
    inside, outside = ([point(b, k * 0.97 / (1 + 4.2 / b)) for b in (1, 2, 3, 16)] for k in (0.9, 1.1))
    table = Table(
        "loss",
        "Epochs, batch size and the final loss",
        ("epochs", "batch size", "updates", "final loss", "seconds"),
        (
            (15, 16, 480, "0.56 [0.51, 0.61]", 1.46),
            (15, 160, 60, "1.27 [1.21, 1.33]", 0.3),
            (150, 160, 600, "0.55 [0.50, 0.60]", 1.74),
        ),
        "95 % intervals over 8 seeds.",
    )
    given = (
        Curve(
            "time",
            "Seconds of a step by batch size",
            "batch size",
            "seconds a step",
            (Series("measured", tuple(step), "points"), Series("a + b B, from powers of two", tuple(line))),
            True,
            True,
            note="95 % intervals over 12 instances.",
        ),
        Curve(
            "memory",
            "Peak memory by batch size",
            "batch size",
            "MiB",
            (
                Series("direct", tuple(point(b, 200 + 30 * b) for b in sizes)),
                Series("accumulated from 16s", (point(32, 720), point(64, 730), point(128, 735))),
            ),
            True,
            True,
        ),
        Curve(
            "loss",
            "Loss against updates",
            "updates",
            "loss",
            (
                Series("15 epochs at 16", tuple(runs[0])),
                Series("150 epochs at 160", tuple(runs[1])),
                Series("15 epochs at 160", tuple(far)),
            ),
            note="Equal updates end at equal losses; equal epochs do not.",
        ),
        Curve(
            "loss",
            "Final loss",
            "epochs x batch size",
            "final loss",
            (
                Series(
                    "rmsprop",
                    (point(0, 0.56, 0.51, 0.61), point(1, 1.27, 1.21, 1.33), point(2, 0.55, 0.5, 0.6)),
                    "bars",
                ),
                Series("sgd", (point(0, 0.8, 0.7, 0.9), point(1, 1.6, 1.5, 1.7), point(2, 0.82, 0.7, 0.92)), "bars"),
            ),
            ticks=("15 x 16", "15 x 160", "150 x 160"),
        ),
        Curve(
            "loss",
            "Stability by batch size",
            "batch size",
            "learning rate",
            (
                Series("threshold, computed", tuple(threshold)),
                Series("Keras stays", tuple(inside), "points"),
                Series("Keras leaves", tuple(outside), "points"),
            ),
            True,
            note="Above the line training leaves the optimum.",
        ),
        Curve(
            "noise",
            "Runs that left the shallow well",
            "batch size",
            "share of runs",
            (Series("after 120 updates", (point(1, 0.63), point(2, 0.57), point(4, 0.17), point(16, 0)), "bars"),),
            True,
        ),
    )
    return Exhibits(given, (table,))


def whole() -> list[dict[str, Any]]:
    """Return results of every verdict, with every kind of picture."""
    told = curves()
    timed = {"ratio": 1.02, "low": 0.99, "high": 1.05, "allowed": 1.046}
    return [
        result("weight_decay_acts_once_per_update", "failed", 5220.0, param={"optimizer": "adamw"}),
        result("weight_decay_acts_once_per_update", share=0.02, param={"optimizer": "sgd"}),
        result("predictions_do_not_depend_on_batch_size", "failed", math.inf, "independence", seen="raised ValueError"),
        result("accumulated_gradient_matches_large_batch", share=0.41, param={"subject": "lstm"}),
        result("moving_average_advances_once_per_update", "known issue", 0.3, held={ISSUE["id"]: 5}),
        result(
            "moving_average_advances_once_per_update",
            "known issue",
            9e4,
            "known issues",
            param={"issue": ISSUE["id"]},
            reason=f"{ISSUE['id']}: still fails",
            held={ISSUE["id"]: 1},
        ),
        result("schedules_count_micro_steps_as_documented", "contract exception", 0.31),
        result("padding_does_not_change_the_output", "not applicable", 0.0, "independence", reason="no mask", cases=0),
        result("examples_do_not_influence_each_other", "reported", 0.0, "independence", reason="moves by 240 %"),
        result("learning", "passed", 0.29, "tiny batches", exhibits=told),
        result("variance_law", share=1e-9, family="tiny batches", figures={"variance": 4.9}),
        result(
            "one_more_costs_one_more", "reported", 0.97, "timing", figures=timed, seen="16 vs 17: +2.0 % [-1.0, 5.0]"
        ),
        result(
            "odd_is_not_dearer",
            "inconclusive",
            0.99,
            "timing",
            figures={**timed, "ratio": 0.8, "low": 0.7, "high": 0.91, "allowed": 1.02},
            seen="32 vs 17: -20.0 % [-30.0, -9.0]",
            reason="the two identical sizes differ",
        ),
    ]
