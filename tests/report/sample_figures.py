"""Plausible figures of an evaluation, made of schema objects."""

from __future__ import annotations

import random

from doratune.record.evaluation import (
    Calibration,
    CalibrationBin,
    ClassFigures,
    CoveragePoint,
    Difference,
    EpochFigures,
    EvalFile,
    Interval,
    ModelFigures,
    Stratum,
)

LABELS = [
    "capped at a fixed amount",
    "capped at the fees paid",
    "cap with carve-outs",
    "excluded for indirect loss",
    "mutual cap",
    "uncapped",
]
SUPPORT = (25, 21, 20, 19, 18, 17)
BOOTSTRAP = "bootstrap (1000 draws, seed 0)"


def interval(
    value: float, low: float, high: float, method: str = BOOTSTRAP, n: int = 120
) -> Interval:
    return Interval(value=value, low=low, high=high, n=n, method=method)


def difference(value: float, low: float, high: float, p_value: float | None) -> Difference:
    return Difference(
        value=interval(value, low, high, "paired bootstrap (1000 draws, seed 0)"), p_value=p_value
    )


def metrics(**values: tuple[float, float, float]) -> dict[str, Interval]:
    """Value, low and high by metric."""
    return {
        key: interval(*ends, "Wilson" if key in ("accuracy", "exact_match") else BOOTSTRAP)
        for key, ends in values.items()
    }


def eval_file(**changes: object) -> EvalFile:
    """Labels, tuned far better than base. ``difference`` is that of accuracy."""
    rng = random.Random(1)
    fields: dict[str, object] = {
        "task": "test",
        "kind": "labels",
        "primary": "accuracy",
        "split": "test",
        "num_examples": 120,
        "labels": LABELS,
        "base": ModelFigures(
            metrics=metrics(
                accuracy=(0.24, 0.172, 0.324),
                macro_f1=(0.181, 0.132, 0.236),
                weighted_f1=(0.188, 0.139, 0.246),
                matthews=(0.094, 0.012, 0.178),
                answer_nll=(1.874, 1.781, 1.967),
                perplexity=(6.514, 5.936, 7.149),
                ece=(0.312, 0.241, 0.385),
                ece_mass=(0.304, 0.236, 0.379),
                brier=(0.871, 0.812, 0.934),
                label_nll=(2.214, 2.051, 2.388),
            ),
            classes=classes(rng, 0.1, 0.4),
            confusion=confusion(rng, 0.24),
            calibration=calibration([0, 9, 41, 38, 19, 8, 4, 1, 0, 0], -0.25, 2.413),
            seconds=21.4,
        ),
        "tuned": ModelFigures(
            metrics=metrics(
                accuracy=(0.931, 0.869, 0.964),
                macro_f1=(0.928, 0.874, 0.967),
                weighted_f1=(0.930, 0.877, 0.968),
                matthews=(0.917, 0.858, 0.962),
                answer_nll=(0.062, 0.031, 0.104),
                perplexity=(1.064, 1.031, 1.110),
                ece=(0.034, 0.021, 0.071),
                ece_mass=(0.041, 0.024, 0.076),
                brier=(0.118, 0.066, 0.183),
                label_nll=(0.241, 0.128, 0.377),
            ),
            classes=classes(rng, 0.86, 1.0),
            confusion=confusion(rng, 0.93),
            calibration=calibration([0, 0, 0, 1, 2, 3, 4, 7, 12, 91], -0.02, 1.318),
            seconds=22.9,
        ),
        "differences": {
            "accuracy": difference(0.691, 0.602, 0.77, 3e-18),
            "macro_f1": difference(0.747, 0.658, 0.809, None),
            "weighted_f1": difference(0.742, 0.651, 0.806, None),
            "matthews": difference(0.823, 0.717, 0.906, None),
            "answer_nll": difference(-1.812, -1.912, -1.704, None),
            "perplexity": difference(-5.45, -6.08, -4.861, None),
            "ece": difference(-0.278, -0.354, -0.196, None),
            "ece_mass": difference(-0.263, -0.341, -0.189, None),
            "brier": difference(-0.753, -0.837, -0.664, None),
            "label_nll": difference(-1.973, -2.181, -1.766, None),
        },
        "strata": strata(),
    }
    if "difference" in changes:
        differences = {**fields["differences"], "accuracy": changes.pop("difference")}  # type: ignore[dict-item]
        fields["differences"] = differences
    return EvalFile.model_validate({**fields, **changes})


def open_eval_file(**changes: object) -> EvalFile:
    """An open task, where neither model ever hits the reference's wording."""

    def figures(loss: tuple[float, float, float], seconds: float) -> ModelFigures:
        return ModelFigures(
            metrics=metrics(
                exact_match=(0.0, 0.0, 0.031),
                token_f1=(0.31, 0.27, 0.35),
                rouge_l=(0.28, 0.24, 0.32),
                answer_nll=loss,
            ),
            seconds=seconds,
        )

    fields: dict[str, object] = {
        "kind": "generation",
        "primary": "exact_match",
        "labels": None,
        "strata": [],
        "base": figures((2.31, 2.2, 2.43), 80.0),
        "tuned": figures((1.52, 1.44, 1.61), 81.0),
        "differences": {
            "exact_match": difference(0.0, 0.0, 0.0, 1.0),
            "answer_nll": difference(-0.79, -0.88, -0.7, None),
        },
    }
    return eval_file(**{**fields, **changes})


def classes(rng: random.Random, low: float, high: float) -> list[ClassFigures]:
    rows = []
    for label, support in zip(LABELS, SUPPORT, strict=True):
        precision, recall = rng.uniform(low, high), rng.uniform(low, high)
        f1 = 2 * precision * recall / (precision + recall)
        rows.append(
            ClassFigures(label=label, precision=precision, recall=recall, f1=f1, support=support)
        )
    return rows


def confusion(rng: random.Random, right: float) -> list[list[int]]:
    """Rows that sum to the support of each label."""
    rows = []
    for i, support in enumerate(SUPPORT):
        row = [0] * len(SUPPORT)
        for _ in range(support):
            row[i if rng.random() < right else rng.choice([0, 1, 1, 3, 5])] += 1
        rows.append(row)
    return rows


def calibration(counts: list[int], gap: float, temperature: float) -> Calibration:
    return Calibration(
        bins=bins(counts, gap),
        mass_bins=bins([12] * 10, gap),
        temperature=temperature,
        num_validation=76,
        scaled=metrics(
            ece=(0.021, 0.014, 0.058),
            ece_mass=(0.026, 0.016, 0.061),
            brier=(0.114, 0.064, 0.176),
            label_nll=(0.213, 0.121, 0.322),
        ),
        scaled_bins=bins(counts, gap / 4),
        coverage=[
            CoveragePoint(
                coverage=coverage,
                threshold=0.95 - 0.6 * coverage,
                accuracy=interval(1 - rest, 1 - 1.6 * rest, min(1.0, 1 - 0.5 * rest), "Wilson"),
            )
            for coverage in (1.0, 0.9, 0.75, 0.5, 0.25)
            for rest in [-0.3 * gap * (0.2 + coverage) + 0.06 * coverage]
        ],
    )


def bins(counts: list[int], gap: float) -> list[CalibrationBin]:
    return [
        CalibrationBin(
            low=i / 10,
            high=(i + 1) / 10,
            n=n,
            confidence=(i + 0.55) / 10 if n else None,
            accuracy=min(1.0, max(0.0, (i + 0.55) / 10 + gap)) if n else None,
        )
        for i, n in enumerate(counts)
    ]


def strata() -> list[Stratum]:
    """By label, by a column of the data, and by the base's margin in quarters."""
    parts = [
        *(("label", label, n) for label, n in zip(LABELS, SUPPORT, strict=True)),
        *(("difficulty", name, 40) for name in ("easy", "medium", "hard")),
        *(("base margin", f"quarter {i}", 30) for i in (1, 2, 3, 4)),
    ]
    return [
        Stratum.model_validate(
            {
                "by": by,
                "name": name,
                "base": interval(base, max(base - 0.12, 0), base + 0.14, "Wilson", n),
                "tuned": interval(tuned, tuned - 0.13, min(tuned + 0.05, 1), "Wilson", n),
                "difference": interval(tuned - base, tuned - base - 0.2, tuned - base + 0.15, n=n),
            }
        )
        for number, (by, name, n) in enumerate(parts)
        for base, tuned in [(0.05 + 0.03 * number, 0.97 - 0.02 * number)]
    ]


def epochs(number: int = 3) -> list[EpochFigures]:
    return [
        EpochFigures(
            epoch=float(i + 1),
            step=88 * (i + 1),
            metrics={
                "accuracy": 0.94 - 0.4 / (i + 1) ** 2,
                "answer_nll": 0.06 + 0.5 / (i + 1) ** 2,
                "ece": 0.03 + 0.02 * i,
                "out_of_domain_perplexity": 21.4 + 0.35 * i,
            },
            num_examples=76,
            seconds=4.1,
        )
        for i in range(number)
    ]
