"""The merged model against the sidecar."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from doratune.record.schemas import LayerCheck, VerifyFile
from doratune.report.text import NOT_MEASURED, memory, percent, small


class OntoRow(NamedTuple):
    """A merge onto one choice of the base's weights."""

    name: str
    is_merged: bool
    size: str
    figures: list[tuple[str, str, str]]
    """Name, key and value."""
    right: str
    """Right answers on the test split, of the trained model's."""


class CheckRow(NamedTuple):
    """One figure of the verification against its threshold."""

    name: str
    key: str
    value: str
    allowed: str
    passed: bool | None
    """None where no threshold is set."""


_LOGIT_CHECKS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Largest difference of a logit", "max_abs_difference", small),
    ("Mean difference of a logit", "mean_abs_difference", small),
    ("KL divergence, mean, nats", "mean_kl", small),
    ("KL divergence, largest, nats", "max_kl", small),
    ("Same most likely token", "top1_agreement", lambda share: percent(share, 2)),
)
_CHECKS = (
    *_LOGIT_CHECKS,
    ("Weight error of the worst layer", "weight_error", small),
    ("Norm error of the worst layer", "norm_error", small),
)


def check_rows(verify: VerifyFile) -> list[CheckRow]:
    """The figures of the verification; agreement must reach its threshold, others stay under."""
    worst = {
        "weight_error": [layer.weight_error for layer in verify.layers],
        "norm_error": [e for layer in verify.layers if (e := layer.norm_error) is not None],
    }
    rows = []
    for name, key, written in _CHECKS:
        value = max(worst[key], default=None) if key in worst else getattr(verify, key)
        # A stage may name the threshold of a layer figure after its maximum.
        allowed = verify.thresholds.get(key, verify.thresholds.get(f"max_{key}"))
        at_least = key == "top1_agreement"
        passed = None
        if allowed is not None and value is not None:
            passed = value >= allowed if at_least else value <= allowed
        rows.append(
            CheckRow(
                name,
                key if key not in worst else f"layers.{key}",
                written(value) if value is not None else NOT_MEASURED,
                f"{'≥' if at_least else '≤'} {written(allowed)}" if allowed is not None else "—",
                passed,
            )
        )
    return rows


def worst_layers(verify: VerifyFile, most: int = 5) -> list[LayerCheck]:
    """The layers with the largest weight error."""
    return sorted(verify.layers, key=lambda layer: (-layer.weight_error, layer.layer))[:most]


def onto_rows(verify: VerifyFile) -> list[OntoRow]:
    """What merging onto each choice of a quantised base's weights makes of the model."""
    return [
        OntoRow(
            name,
            name == verify.onto,
            memory(found.num_bytes),
            [(title, key, written(getattr(found, key))) for title, key, written in _LOGIT_CHECKS],
            f"{found.task.num_right_approximate:,} (trained {found.task.num_right:,}) of "
            f"{found.task.num_examples:,}"
            if found.task
            else NOT_MEASURED,
        )
        for name, found in verify.fidelity.items()
    ]
