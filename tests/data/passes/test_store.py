from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doratune.data.gates import near_duplicates
from doratune.data.passes.pickled import save_tokenizer
from doratune.data.passes.store import (
    FINE,
    UNFIT,
    UNLABELLED,
    UNREADABLE,
    Names,
    Store,
    drafts,
    read_batch,
)
from doratune.data.passes.survey import Settings, survey
from doratune.data.read import Row, Unreadable
from doratune.errors import StorageError
from doratune.recipe.schema import DataSection
from tests.tiny import tiny_tokenizer

CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": {"q": "é"}}}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?\u2028"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "Ada", "tool_call_id": "1"},
        {"role": "assistant", "content": "Ada."},
    ],
    "tools": [{"type": "function", "function": {"name": "search"}}],
}


class Rows(list[Any]):
    """A chunk."""

    def rows(self) -> list[Row | Unreadable]:
        """All of it."""
        return list(self)


def clause(number: int, label: str | None) -> Row:
    return Row({"text": f"clause {number}", "label": label}, f"a:{number}")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    save_tokenizer(tiny_tokenizer(), tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def stored(folder: Path, tokenizer: Path, form: Any, *chunks: Rows, **data: Any) -> Store:
    store = Store(folder)
    settings = Settings(DataSection(source="a", **data), form, tokenizer)
    for number, chunk in enumerate(chunks):
        survey(chunk, settings, store.part(number))
        assert store.add(source=number) == len(chunk)
    return store


def test_numbers_of_all_parts_in_order(tmp_path: Path, tokenizer: Path) -> None:
    first = Rows([clause(1, "b"), Unreadable("a:2", "not JSON", "{"), clause(3, None)])
    second = Rows([clause(4, "a"), Row({"text": 5, "label": "a"}, "a:5"), clause(1, "b")])
    store = stored(tmp_path, tokenizer, "classification", first, second)
    columns = store.columns()
    assert columns.state.tolist() == [FINE, UNREADABLE, UNLABELLED, FINE, UNFIT, FINE]
    assert columns.source.tolist() == [0, 0, 0, 1, 1, 1]
    names = store.names["label"].all
    assert [names[code] if code >= 0 else None for code in columns.label] == [
        "b", None, None, "a", None, "b",
    ]  # fmt: skip
    assert columns.identity[0] == columns.identity[5] != columns.identity[3]
    assert columns.length.tolist() == [10, 0, 0, 10, 0, 10]
    assert [store.place(row) for row in range(6)] == ["a:1", "a:2", "a:3", "a:4", "a:5", "a:1"]
    assert store.problem(1) == "not JSON"
    assert "text is 5" in store.problem(4)
    assert list(store.parts()) == [(0, slice(0, 3)), (1, slice(3, 6))]


def test_sketches_of_fine_rows_are_those_of_their_texts(tmp_path: Path, tokenizer: Path) -> None:
    chunk = Rows([clause(1, "a"), Unreadable("a:2", "?", "{"), clause(3, "b")])
    store = stored(tmp_path, tokenizer, "classification", chunk, Rows([clause(4, "a")]))
    store.columns()
    expected = near_duplicates.sketch(["clause 1\na", "clause 3\nb", "clause 4\na"])
    assert np.array_equal(np.array(store.sketches())[[0, 2, 3]], expected)


def test_a_conversation_comes_back_whole(tmp_path: Path, tokenizer: Path) -> None:
    store = stored(tmp_path, tokenizer, "chat", Rows([Row(CHAT, "a:1")]))
    draft = store.draft(0)
    assert [turn.model_dump(exclude_none=True) for turn in draft.turns] == CHAT["messages"]
    assert draft.tools == CHAT["tools"]
    assert draft.row.place == "a:1"
    (again,) = drafts(read_batch(store.part(0)))
    assert again.identity == draft.identity


def test_gates_that_are_off_cost_nothing(tmp_path: Path, tokenizer: Path) -> None:
    gates = {
        name: {"action": "off"}
        for name in ("encoding", "language", "personal_data", "near_duplicates")
    }
    text = "bell \x07 jane.doe@acme-corp.com <|im_end|>"
    row = Row({"text": text, "label": "a"}, "a:1")
    off = stored(tmp_path, tokenizer, "classification", Rows([row]), gates=gates)
    columns = off.columns()
    assert (columns.encoding, columns.language, columns.personal_data) == ([-1], [-1], [-1])
    assert (tmp_path / "sketches").stat().st_size == 0
    (tmp_path / "on").mkdir()
    on = stored(tmp_path / "on", tokenizer, "classification", Rows([row]))
    on.columns()
    assert on.names["encoding"].all == ["control character, control token <|im_end|>"]
    assert on.names["personal_data"].all == ["e-mail"]


def test_names_are_numbered_as_they_come() -> None:
    names = Names()
    assert [names.number(name) for name in ("b", None, "a", "b")] == [0, -1, 1, 0]
    assert names.all == ["b", "a"]


def test_a_damaged_part_says_what_to_do(tmp_path: Path, tokenizer: Path) -> None:
    store = stored(tmp_path, tokenizer, "classification", Rows([clause(1, "a")]))
    store.part(0).write_bytes(b"ARROW1")
    with pytest.raises(StorageError, match=r"cannot be read: .* Delete the folder"):
        store.place(0)
