"""The difficulty column: from the row to the example, and into nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doratune.data import read_examples
from doratune.data.formats import Format
from doratune.errors import DataError
from doratune.record.schemas import SPLITS
from tests.data.preparing import Prepared
from tests.data.test_formats import read

ROWS: dict[Format, dict[str, Any]] = {
    "classification": {"text": "a", "label": "yes"},
    "alpaca": {"instruction": "a", "output": "b"},
    "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "completion": {"prompt": "a", "completion": "b"},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "text": {"text": "a"},
}


@pytest.mark.parametrize("form", ROWS)
def test_every_format_has_it(form: Format) -> None:
    found = read(form, {**ROWS[form], "level": "hard"}, difficulty_column="level")
    assert found.difficulty == "hard"
    plain = read(form, ROWS[form])
    assert found.model_copy(update={"difficulty": None}) == plain, "the id, too"


@pytest.mark.parametrize(
    ("value", "text"),
    [("hard", "hard"), (" 3 ", "3"), (3, "3"), (0.5, "0.5"), (True, "True"), (None, None), (" ", None)],
)  # fmt: skip
def test_words_and_numbers(value: Any, text: str | None) -> None:
    row = {"text": "a", "label": "yes", "level": value}
    assert read("classification", row, difficulty_column="level").difficulty == text


def test_other_values_are_refused() -> None:
    row = {"text": "a", "label": "yes", "level": ["hard"]}
    with pytest.raises(
        DataError,
        match=r"level \(data.difficulty_column\) is \['hard'\]; expected a string or a nu",
    ):
        read("classification", row, difficulty_column="level")
    with pytest.raises(
        DataError, match=r"'levels' \(data.difficulty_column\) is missing.*did you mean 'level'"
    ):
        read("classification", row, difficulty_column="levels")


@pytest.mark.parametrize("masked", [False, True], ids=["as it is", "masked"])
def test_the_stage_keeps_it_and_no_digest_depends_on_it(
    tmp_path: Path, tiny_base: Path, masked: bool
) -> None:
    prepared = Prepared(tmp_path, tiny_base)
    rows = [
        {"text": f"Clause {n} by a{n}@example.org", "label": "ab"[n % 2], "level": n % 3}
        for n in range(100)
    ]
    gates = {"personal_data": {"action": "mask" if masked else "report"}}
    without = prepared(rows, gates=gates)
    plain = {s: read_examples(prepared.run, s) for s in SPLITS}
    file = prepared(rows, gates=gates, difficulty_column="level")
    for split in SPLITS:
        examples = read_examples(prepared.run, split)
        assert len(examples) > 0
        for example, bare in zip(examples, plain[split], strict=True):
            number = int(example.messages[0].content.split()[1])
            assert example.difficulty == str(number % 3)
            assert example.model_copy(update={"difficulty": None}) == bare
    assert (file.digest, file.ordered_digest) == (without.digest, without.ordered_digest)
