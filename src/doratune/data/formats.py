"""Rows to examples: classification, alpaca and chat."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from doratune.data.load import Row, refuse
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.files import digest_json
from doratune.record.schemas import Example, Message

Format = Literal["classification", "alpaca", "chat"]


@dataclass(frozen=True)
class Draft:
    """A row understood, before the label set is known."""

    row: Row
    turns: tuple[Message, ...]
    """For classification the bare text and the label; the prompt is filled in later."""
    label: str | None
    group: str
    """Drafts of one group go to one split: the row's own group, or else the text asked."""

    @cached_property
    def identity(self) -> str:
        """Digest of what the example says."""
        return digest_json([turn.model_dump() for turn in self.turns])

    @cached_property
    def asked(self) -> str:
        """Digest of all turns before the answer."""
        return digest_json([turn.model_dump() for turn in self.turns[:-1]])


def detect_format(row: Row, section: DataSection) -> Format:
    """The format that the recipe names, or else the one that the columns of a row fit.

    Raises:
        DataError: The columns fit no format, or several.
    """
    if section.format != "auto":
        return section.format
    needed: dict[Format, set[str]] = {
        "classification": {section.text_column, section.label_column},
        "alpaca": {"instruction", "output"},
        "chat": {"messages"},
    }
    fitting = [name for name, columns in needed.items() if columns <= row.content.keys()]
    if len(fitting) == 1:
        return fitting[0]
    known = "; ".join(f"{name} has {' and '.join(sorted(c))}" for name, c in needed.items())
    problem = f"fit {' and '.join(fitting)}" if fitting else "fit no known format"
    raise DataError(
        f"{row.place}: the columns {_columns(row)} {problem} ({known}). Set data.format, or for "
        "classification data.text_column and data.label_column."
    )


def read_drafts(
    rows: list[Row], form: Format, section: DataSection
) -> tuple[list[Draft], list[tuple[Row, str]]]:
    """Understands every row.

    Returns:
        The drafts, and the rows left out with the reason.

    Raises:
        DataError: Rows that do not fit the format; the first of them are listed with their places.
    """
    drafts: list[Draft] = []
    dropped: list[tuple[Row, str]] = []
    problems: list[str] = []
    for row in rows:
        try:
            if form == "classification":
                draft = _classification(row, section)
            elif form == "alpaca":
                draft = _alpaca(row, section.labels_from_answers)
            else:
                draft = _chat(row)
        except DataError as error:
            problems.append(f"{row.place}: {error}")
            continue
        if draft is None:
            dropped.append((row, "label is null"))
        else:
            drafts.append(draft)
    refuse(problems, f"The data, read as {form},")
    return drafts, dropped


def to_example(draft: Draft, form: Format, section: DataSection, labels: list[str]) -> Example:
    """Makes the example; for classification the prompt is filled in."""
    messages = list(draft.turns)
    if form == "classification":
        # The text last, so that braces in it stay what they are.
        prompt = section.prompt.replace("{labels}", ", ".join(labels))
        prompt = prompt.replace("{text}", messages[0].content)
        messages[0] = Message(role="user", content=prompt)
    if section.system is not None and messages[0].role != "system":
        messages.insert(0, Message(role="system", content=section.system))
    return Example(
        id=digest_json([message.model_dump() for message in messages])[:16],
        messages=messages,
        label=draft.label,
        place=draft.row.place,
    )


def _classification(row: Row, section: DataSection) -> Draft | None:
    text = _text(row, section.text_column, "data.text_column")
    label = _column(row, section.label_column, "data.label_column")
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise DataError(
            f"{section.label_column} is {label!r}; expected a string or an integer. "
            "Write the classes as strings."
        )
    label = str(label).strip()
    if not label:
        raise DataError(f"{section.label_column} is an empty string; use null to leave a row out")
    turns = (Message(role="user", content=text), Message(role="assistant", content=label))
    return Draft(row, turns, label, row.group or text)


def _alpaca(row: Row, labelled: bool) -> Draft:
    asked = _text(row, "instruction")
    more = row.content.get("input")
    if more is not None and not isinstance(more, str):
        raise DataError(f"input is {_short(more)}; expected a string, null, or no such column")
    if more and more.strip():
        asked = f"{asked}\n\n{more}"
    answer = _text(row, "output")
    if labelled:
        answer = answer.strip()
    turns = (Message(role="user", content=asked), Message(role="assistant", content=answer))
    return Draft(row, turns, answer if labelled else None, asked)


def _chat(row: Row) -> Draft:
    values = _column(row, "messages")
    if not isinstance(values, list) or not values:
        raise DataError(f"messages is {_short(values)}; expected a list of turns")
    turns = tuple(_turn(value, number) for number, value in enumerate(values, 1))
    spoken = [turn.role for turn in turns]
    if spoken[0] == "system":
        spoken = spoken[1:]
    expected = ["user", "assistant"] * (len(spoken) // 2 + 1)
    for number, (found, wanted) in enumerate(
        zip(spoken, expected, strict=False), len(turns) - len(spoken) + 1
    ):
        if found != wanted:
            raise DataError(
                f"turn {number} is {found}, expected {wanted}; after an optional system turn, user "
                "and assistant must alternate"
            )
    if not spoken or spoken[-1] != "assistant":
        raise DataError(
            f"the last turn, {len(turns)}, is {turns[-1].role}; a conversation must end with the "
            "assistant's answer, which is what is learnt. Remove the trailing turn"
        )
    asked = digest_json([turn.model_dump() for turn in turns[:-1]])
    return Draft(row, turns, None, asked)


def _turn(value: Any, number: int) -> Message:
    if not isinstance(value, dict):
        raise DataError(
            f"turn {number} is {_short(value)}; expected an object with role and content"
        )
    role, content = value.get("role"), value.get("content")
    if role in ("tool", "function") or value.get("tool_calls"):
        raise DataError(f"turn {number} uses tools (role {role!r}); tools are not supported yet")
    if role not in ("system", "user", "assistant"):
        raise DataError(f"turn {number} has role {role!r}; expected system, user or assistant")
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"turn {number} has content {_short(content)}; expected text")
    return Message(role=role, content=content)


def _column(row: Row, name: str, key: str | None = None) -> Any:
    if name in row.content:
        return row.content[name]
    near = difflib.get_close_matches(name, row.content, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    where = f" ({key})" if key else ""
    raise DataError(f"column {name!r}{where} is missing; found {_columns(row)}{hint}")


def _text(row: Row, name: str, key: str | None = None) -> str:
    value = _column(row, name, key)
    if not isinstance(value, str):
        raise DataError(f"{name} is {_short(value)}; expected text")
    if not value.strip():
        raise DataError(f"{name} is empty; fill it in, or remove the row")
    return value


def _columns(row: Row) -> str:
    return ", ".join(map(repr, row.content)) or "none"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
