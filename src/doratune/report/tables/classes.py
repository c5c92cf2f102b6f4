"""Figures by class, and which class was taken for which."""

from __future__ import annotations

from typing import NamedTuple

from doratune.record.evaluation import MODELS, ClassFigures, EvalFile, Model, ModelFigures
from doratune.report.text import percent

MAX_HEAT_LABELS = 20
"""A confusion matrix of more labels is told by its largest confusions."""
MAX_CONFUSIONS = 12
MAX_CLASSES = 60
"""Of more classes the most frequent have a row."""


def class_rows(file: EvalFile) -> list[tuple[str, ClassFigures | None, ClassFigures | None]]:
    """Label, figures of base, figures of tuned; the most frequent label first."""
    base = {row.label: row for row in file.base.classes}
    tuned = {row.label: row for row in file.tuned.classes}
    support = {label: row.support for label, row in {**base, **tuned}.items()}
    return [
        (label, base.get(label), tuned.get(label))
        for label in sorted(support, key=lambda name: (-support[name], name))
    ]


class HeatCell(NamedTuple):
    """One cell of a confusion matrix."""

    num_examples: int
    heat: int
    """Strength of the colour in percent, with the share of the row; text stays legible on it."""
    right: bool


class ConfusionRow(NamedTuple):
    """The examples of one label, by what the model said."""

    number: int
    """The column of the same label."""
    label: str
    cells: list[HeatCell]


class Mistake(NamedTuple):
    """One label taken for another."""

    reference: str
    prediction: str
    base: str
    """Examples, and their share of the label's."""
    tuned: str


class Confusion(NamedTuple):
    """Which label was taken for which; the matrices are empty where there are many labels."""

    matrices: dict[Model, list[ConfusionRow]]
    """By model."""
    mistakes: list[Mistake]
    """The most frequent of the tuned model; empty where the matrices are shown."""
    num_mistakes: int
    """Kinds of mistakes of the tuned model."""


def confusion(file: EvalFile) -> Confusion | None:
    """The confusion matrices of both models, or the largest confusions; None for open tasks."""
    if not file.labels or not file.tuned.confusion or not file.base.confusion:
        return None
    mistakes = [
        (count, i, j)
        for i, row in enumerate(file.tuned.confusion)
        for j, count in enumerate(row)
        if count and i != j
    ]
    if len(file.labels) <= MAX_HEAT_LABELS:
        matrices = {m: _matrix(file.labels, file.figures(m)) for m in MODELS}
        return Confusion(matrices, [], len(mistakes))
    mistakes.sort(key=lambda mistake: (-mistake[0], mistake[1:]))
    shown = [
        Mistake(
            file.labels[i],
            file.labels[j],
            *(_counted(file.figures(m).confusion[i], j) for m in MODELS),
        )
        for _, i, j in mistakes[:MAX_CONFUSIONS]
    ]
    return Confusion({}, shown, len(mistakes))


def _matrix(labels: list[str], figures: ModelFigures) -> list[ConfusionRow]:
    return [
        ConfusionRow(
            i + 1,
            label,
            [
                HeatCell(count, round(60 * count / (sum(row) or 1)), i == j)
                for j, count in enumerate(row)
            ],
        )
        for i, (label, row) in enumerate(zip(labels, figures.confusion, strict=True))
    ]


def _counted(row: list[int], column: int) -> str:
    return f"{row[column]:,} ({percent(row[column] / (sum(row) or 1), 0)})"
