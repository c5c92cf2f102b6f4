"""``chat``: a conversation in the column ``messages``, with ``tools`` where there are any."""

from __future__ import annotations

from collections.abc import Sequence

from doratune.data.formats import columns, turns
from doratune.data.formats.draft import Draft, content_digest
from doratune.data.read import Row
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message


def read(row: Row, section: DataSection) -> Draft:
    """Reads a row.

    Raises:
        DataError: The row does not fit.
    """
    return conversation(row, section, turns.read_turns(columns.column(row, "messages"), "messages"))


def conversation(row: Row, section: DataSection, messages: Sequence[Message]) -> Draft:
    """The draft of a whole conversation.

    Raises:
        DataError: The turns are in no order that can be learnt, or ``tools`` is no list of schemas.
    """
    turns.check_order(messages)
    group = columns.group(row, section, content_digest(messages[:-1]))
    return Draft(row, tuple(messages), None, group, tools=turns.read_tools(row))
