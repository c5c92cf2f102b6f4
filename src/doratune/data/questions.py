"""Examples as questions: prompts, reference answers and the labels to choose from, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doratune.data.render import Renderer
from doratune.record.schemas import Example

VALIDATION_QUESTIONS = 500
"""Most validation examples that are asked, for a temperature or in mid-training: one number is fitted
on them, or a curve is watched, and the test split is what decides."""


class Questions(NamedTuple):
    """The examples as token ids, all lists in one order."""

    prompts: list[list[int]]
    references: list[str]
    answers: list[list[int]]
    """Ids of the references, end-of-turn token included."""
    labels: list[str] | None
    """The closed label set; None for open tasks."""
    label_ids: list[list[list[int]]]
    """For each prompt the ids of each label, end-of-turn token included; empty for open tasks."""

    @property
    def truth(self) -> list[int]:
        """Index of each right label; closed label sets only."""
        assert self.labels is not None
        index = {label: i for i, label in enumerate(self.labels)}
        return [index[reference] for reference in self.references]


def make_questions(
    renderer: Renderer, examples: Sequence[Example], labels: list[str] | None
) -> Questions:
    """Renders the examples. An answer that calls tools is compared as the text of its calls."""
    answers = [renderer.answer(e.prompt, e.messages[-1], e.tools) for e in examples]
    label_ids = []
    if labels is not None and examples:
        # All labels of every prompt would take milliseconds each to render, and practically always
        # come out the same. The reference tells where they do not.
        common = [renderer.answer(examples[0].prompt, label) for label in labels]
        for example, answer in zip(examples, answers, strict=True):
            if answer == common[labels.index(example.answer)]:
                label_ids.append(common)
            else:
                label_ids.append([renderer.answer(example.prompt, label) for label in labels])
    return Questions(
        prompts=[renderer.prompt(example.prompt, example.tools) for example in examples],
        references=[
            reference_text(renderer, example, answer)
            for example, answer in zip(examples, answers, strict=True)
        ],
        answers=answers,
        labels=labels,
        label_ids=label_ids,
    )


def reference_text(renderer: Renderer, example: Example, answer: list[int]) -> str:
    """The reference answer; calls of tools as the model would write them.

    Args:
        renderer: That made the ids.
        example: The example.
        answer: Ids of its answer, end-of-turn token included.
    """
    if not example.messages[-1].tool_calls:
        return example.answer
    text: str = renderer.tokenizer.decode(answer[:-1])
    return text


def some_of(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many examples, in their order; which ones is decided by their ids, all digests."""
    return [examples[i] for i in lowest([example.id for example in examples], most)]


def lowest(keys: Sequence[str], most: int | None) -> list[int]:
    """Positions of so many of the lowest keys, in ascending order; of equal keys the first count."""
    return sorted(sorted(range(len(keys)), key=lambda i: (keys[i], i))[:most])
