"""Labels that are too rare to be learnt, or too uneven.

Why it matters: of a label with nine examples, one or none is in the test set, so nothing can be
said about it; and where one label has most of the examples, always answering it looks like success.
By default labels under 10 examples are found, and a commonest label with more than 20 times the
examples of the rarest.

Limits: counts alone do not show whether a label is hard.
"""

from __future__ import annotations

from collections import Counter

_NAMED = 5
"""Rare labels named, so that a list of hundreds does not bury the rest."""


def find(counts: Counter[str], min_count: int, max_imbalance: float) -> list[str]:
    """One sentence for each problem: the label, its count, and what to do."""
    problems = []
    rare = sorted((count, label) for label, count in counts.items() if count < min_count)
    for count, label in rare[:_NAMED]:
        problems.append(
            f"The label {label!r} has {count:,} examples, expected {min_count:,} or more: add "
            "examples of it, or leave it out with data.min_label_count or data.exclude_labels."
        )
    if len(rare) > _NAMED:
        problems.append(
            f"{len(rare) - _NAMED:,} more labels have fewer than {min_count:,} examples: "
            "data.min_label_count leaves them all out."
        )
    if counts:
        most, fewest = max(counts.values()), min(counts.values())
        if most > max_imbalance * fewest:
            common = min(label for label, count in counts.items() if count == most)
            scarce = min(label for label, count in counts.items() if count == fewest)
            problems.append(
                f"The label {common!r} has {most:,} examples, {most / fewest:,.0f} times as many as "
                f"{scarce!r} ({fewest:,}); expected {max_imbalance:g} times or fewer: add examples "
                "of the rare labels, and judge by macro-F1 instead of accuracy."
            )
    return problems
