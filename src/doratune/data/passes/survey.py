"""The first pass, in workers: rows are parsed, understood and looked at, each by itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from doratune.data.formats import Draft, Format, to_draft
from doratune.data.formats.draft import turn_json
from doratune.data.gates import encoding, language, near_duplicates, personal_data
from doratune.data.passes.pickled import saved_tokenizer
from doratune.data.passes.store import (
    FINE,
    KINDS,
    ROWS,
    UNFIT,
    UNLABELLED,
    UNREADABLE,
    write_batch,
)
from doratune.data.read import Chunk, Row, Unreadable
from doratune.data.render.control_tokens import control_tokens
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message


class Settings(NamedTuple):
    """What the survey depends on besides the rows."""

    section: DataSection
    form: Format
    tokenizer: Path
    """Written by `save_tokenizer`."""


def survey(chunk: Chunk, settings: Settings, path: Path) -> None:
    """Makes the part of a chunk, unless it is there."""
    if path.exists():
        return
    gates = settings.section.gates
    rows = list(chunk.rows())
    read = [_read(row, settings) for row in rows]
    fine = [index for index, (state, _, _) in enumerate(read) if state == FINE]
    drafts = [draft for _, _, draft in read if draft is not None]
    texts = [draft.text for draft in drafts]
    spoken = [draft.spoken for draft in drafts]
    columns: dict[str, list[Any]] = {
        "identity": [_part_of(draft.identity) for draft in drafts],
        "asked": [_part_of(draft.asked) for draft in drafts],
        "group": [_hashed(draft.group) for draft in drafts],
        "length": [len(text) for text in texts],
        "label": [draft.label for draft in drafts],
    }
    if gates.encoding.action != "off":
        tokenizer = saved_tokenizer(settings.tokenizer)
        columns["encoding"] = [
            _joined(
                encoding.kinds(text) + [control_kind(t) for t in control_tokens(text, tokenizer)]
            )
            for text in texts
        ]
    if gates.language.action != "off":
        columns["language"] = list(_detector(gates.language.min_confidence).detect(spoken))
    if gates.personal_data.action != "off":
        found = [sorted({find.kind for find in personal_data.find(text)}) for text in texts]
        columns["personal_data"] = [_joined(kinds) for kinds in found]
        if gates.personal_data.action == "mask":
            drafts = [_masked(d) if kinds else d for d, kinds in zip(drafts, found, strict=True)]
    columns["draft"] = [_written(draft) for draft in drafts]
    arrays = [
        pa.array([row.place for row in rows], pa.string()),
        pa.array([_json(_content(row)) for row in rows], pa.string()),
        pa.array([state for state, _, _ in read], pa.uint8()),
        pa.array([problem for _, problem, _ in read], pa.string()),
        *(_spread(columns.get(f.name), fine, len(rows), f.type) for f in list(ROWS)[4:-1]),
        _sketches(spoken if gates.near_duplicates.action != "off" else None, fine, len(rows)),
    ]
    write_batch(path, pa.record_batch(arrays, schema=ROWS))


def control_kind(token: str) -> str:
    """The kind under which a text with a special token of the tokenizer is found."""
    return f"control token {token}"


def _read(row: Row | Unreadable, settings: Settings) -> tuple[int, str | None, Draft | None]:
    """State of a row, what is wrong with it, and its draft."""
    if isinstance(row, Unreadable):
        return UNREADABLE, row.problem, None
    try:
        draft = to_draft(row, settings.form, settings.section)
    except DataError as error:
        return UNFIT, str(error), None
    if draft is None:
        return UNLABELLED, None, None
    return FINE, None, draft


def _spread(values: list[Any] | None, fine: list[int], length: int, kind: pa.DataType) -> pa.Array:
    """A column of all rows from the values of the fine ones; the others have 0 or null."""
    whole: list[Any] = [0 if pa.types.is_integer(kind) else None] * length
    for index, value in zip(fine, values or [], strict=values is not None):
        whole[index] = value
    if pa.types.is_dictionary(kind):
        return pa.array(whole, pa.string()).dictionary_encode()
    return pa.array(whole, kind)


def _sketches(texts: list[str] | None, fine: list[int], length: int) -> pa.Array:
    kind = ROWS.field("sketch").type
    if texts is None:
        return pa.nulls(length, kind)
    whole = np.zeros((length, near_duplicates.WIDTH), np.uint16)
    whole[fine] = near_duplicates.sketch(texts)
    return pa.Array.from_buffers(kind, length, [None, pa.py_buffer(whole)])


@lru_cache(maxsize=1)
def _detector(min_confidence: float) -> language.Detector:
    return language.Detector(min_confidence)


def _masked(draft: Draft) -> Draft:
    """The draft with personal data replaced, but for its label."""
    turns = [_masked_turn(turn) for turn in draft.turns]
    if draft.label is not None:
        turns[-1] = draft.turns[-1]
    rejected = draft.rejected and tuple(map(_masked_turn, draft.rejected))
    return replace(draft, turns=tuple(turns), rejected=rejected)


def _masked_turn(turn: Message) -> Message:
    return turn.model_copy(
        update={
            "content": personal_data.mask(turn.content),
            "tool_calls": _masked_value(turn.tool_calls),
        }
    )


def _masked_value(value: Any) -> Any:
    if isinstance(value, str):
        return personal_data.mask(value)
    if isinstance(value, list):
        return [_masked_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _masked_value(item) for key, item in value.items()}
    return value


def _written(draft: Draft) -> str:
    turns = map(_written_turn, draft.turns, draft.said)
    parts = [f'"turns":[{",".join(turns)}]']
    if draft.rejected is not None:
        rejected = map(_written_turn, draft.rejected, map(turn_json, draft.rejected))
        parts.append(f'"rejected":[{",".join(rejected)}]')
    if draft.tools is not None:
        parts.append(f'"tools":{_json(draft.tools)}')
    if draft.difficulty is not None:
        parts.append(f'"difficulty":{_json(draft.difficulty)}')
    return f"{{{','.join(parts)}}}"


def _written_turn(turn: Message, canonical: str) -> str:
    """A turn for the second pass: what a call says in which order is what the model learns to say."""
    return _json(turn.model_dump(exclude_none=True)) if turn.tool_calls else canonical


def _content(row: Row | Unreadable) -> Any:
    return row.raw if isinstance(row, Unreadable) else row.content


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _joined(kinds: list[str]) -> str | None:
    return KINDS.join(kinds) or None


def _part_of(digest: str) -> int:
    """64 bits of a hexadecimal digest."""
    return int(digest[:16], 16)


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
