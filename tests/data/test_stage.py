from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doratune.data import prepare_data, read_examples
from doratune.errors import ConfigError, DataError, StorageError
from doratune.recipe import shipped_recipe
from doratune.recipe.schema import DataSection, ModelSection, Recipe
from doratune.record.files import digest_file, read_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import SPLITS, DataFile, RecordFile
from tests.tiny import save_tiny


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    RecordFile(name="run", recipe_digest="", seed=0).write(folder.record)
    return folder


def recipe(base: Path, source: Path | str, seed: int = 0, **data: Any) -> Recipe:
    section = DataSection(source=str(source), **data)
    return Recipe(name="run", seed=seed, model=ModelSection(source=str(base)), data=section)


def rows(number: int, labels: str = "ab") -> list[dict[str, Any]]:
    return [{"text": f"clause {n}", "label": labels[n % len(labels)]} for n in range(number)]


def write(path: Path, values: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def texts(run: RunFolder) -> dict[str, set[str]]:
    return {
        split: {
            example.messages[0].content.partition("\n")[0] for example in read_examples(run, split)
        }
        for split in SPLITS
    }


def dropped(run: RunFolder) -> list[tuple[str, str]]:
    return [(Path(row["place"]).name, row["reason"]) for row in read_jsonl(run.dropped)]


def test_writes_what_it_says(run: RunFolder, tiny_base: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [*rows(200), {"text": "odd", "label": None}, rows(1)[0]])
    assert prepare_data(run, recipe(tiny_base, source))
    file = DataFile.read(run.data)
    assert (file.format, file.labels) == ("classification", ["a", "b"])
    assert [(s.num_rows, s.digest) for s in file.sources] == [(202, digest_file(source))]
    assert file.dropped == {"label is null": 1, "exact duplicate": 1}
    assert dropped(run) == [("a.jsonl:201", "label is null"), ("a.jsonl:202", "exact duplicate")]
    assert read_jsonl(run.dropped)[0]["row"] == {"text": "odd", "label": None}
    assert sum(summary.num_examples for summary in file.splits.values()) == 200
    for split in SPLITS:
        examples, summary = read_examples(run, split), file.splits[split]
        assert len(examples) == summary.num_examples > 0
        assert sum(summary.label_counts.values()) == len(examples)
        assert summary.num_tokens > summary.max_tokens > 0
        assert all(example.answer == example.label for example in examples)


def test_is_up_to_date_until_an_input_changes(
    run: RunFolder, tiny_base: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.jsonl", rows(200))
    assert prepare_data(run, recipe(tiny_base, source))
    assert not prepare_data(run, recipe(tiny_base, source))
    assert prepare_data(run, recipe(tiny_base, source, seed=1))
    assert prepare_data(run, recipe(tiny_base, source, seed=1, max_length=500))
    write(source, rows(201))
    assert prepare_data(run, recipe(tiny_base, source, seed=1, max_length=500))
    run.examples("test").unlink()
    assert prepare_data(run, recipe(tiny_base, source, seed=1, max_length=500))


def test_another_chat_template_is_another_input(run: RunFolder, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    source = write(tmp_path / "a.jsonl", rows(100))
    assert prepare_data(run, recipe(base, source))
    template = base / "chat_template.jinja"
    template.write_text("{{ '' }}" + template.read_text())
    assert prepare_data(run, recipe(base, source))


def test_new_rows_move_no_old_ones(run: RunFolder, tiny_base: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(200))
    prepare_data(run, recipe(tiny_base, source))
    before = texts(run)
    # A third label changes every prompt, and still moves no example.
    write(source, [*rows(200), *({"text": f"new {n}", "label": "c"} for n in range(50))])
    prepare_data(run, recipe(tiny_base, source))
    after = texts(run)
    assert all(before[split] <= after[split] for split in SPLITS)


def test_one_text_stays_in_one_split(run: RunFolder, tiny_base: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{**r, "label": x} for r in rows(200) for x in "ab"])
    prepare_data(run, recipe(tiny_base, source, validation_share=0.3, test_share=0.3))
    found = texts(run)
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert sum(map(len, found.values())) == 200


def test_digests_do_not_depend_on_the_order(
    run: RunFolder, tiny_base: Path, tmp_path: Path
) -> None:
    """Of all examples; and of each split, where no labels have to be kept in proportion."""
    values = [{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(200)]
    for labelled in (True, False):
        files = []
        for ordered in (rows(200), rows(200)[::-1]) if labelled else (values, values[::-1]):
            prepare_data(run, recipe(tiny_base, write(tmp_path / "a.jsonl", ordered)))
            files.append(DataFile.read(run.data))
        straight, backwards = files
        assert straight.digest == backwards.digest
        assert straight.ordered_digest != backwards.ordered_digest
        if not labelled:
            digests = [split.digest for split in straight.splits.values()]
            assert digests == [split.digest for split in backwards.splits.values()]
            assert len({*digests, straight.digest}) == 4


def test_prompts_of_the_test_source_leave_training(
    run: RunFolder, tiny_base: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.jsonl", rows(100))
    test = write(tmp_path / "t.jsonl", [{"text": "clause 7", "label": "a"}, *rows(300)[200:]])
    prepare_data(run, recipe(tiny_base, source, test_source=str(test)))
    assert dropped(run) == [("a.jsonl:8", "prompt also in test")]
    found = texts(run)
    assert len(found["test"]) == 101
    assert "clause 7" not in found["train"] | found["validation"]


def test_labels_are_excluded_and_rare_ones_left_out(
    run: RunFolder, tiny_base: Path, tmp_path: Path
) -> None:
    extra = [{"text": f"rare {n}", "label": "rare"} for n in range(9)]
    meta = [{"text": f"meta {n}", "label": "meta"} for n in range(50)]
    enough = [{"text": f"enough {n}", "label": "enough"} for n in range(10)]
    source = write(tmp_path / "a.jsonl", [*rows(200), *extra, *enough, *meta])
    test = write(tmp_path / "t.jsonl", [*rows(300)[200:], *meta[:2], {"text": "?", "label": "new"}])
    settings = {"exclude_labels": ["meta"], "min_label_count": 10, "test_source": str(test)}
    prepare_data(run, recipe(tiny_base, source, **settings))
    file = DataFile.read(run.data)
    assert file.labels == ["a", "b", "enough"]
    assert file.dropped == {
        "label is excluded": 52,
        "label has fewer than 10 training examples": 10,
    }


def test_max_examples_and_too_long_ones_are_recorded(
    run: RunFolder, tiny_base: Path, tmp_path: Path
) -> None:
    long = [{"text": f"{n} long " * 200, "label": "a"} for n in range(5)]
    source = write(tmp_path / "a.jsonl", [*rows(300), *long])
    with pytest.raises(DataError, match=r"5 of \d+ examples are longer than data.max_length, 120 "
                       r"tokens; the longest, .*a\.jsonl:30\d, has \d"):  # fmt: skip
        prepare_data(run, recipe(tiny_base, source, max_length=120))
    assert not run.data.exists()
    assert not run.examples("train").exists()
    settings: dict[str, Any] = {
        "max_length": 120,
        "on_too_long": "drop",
        "max_examples": {"test": 9},
    }
    prepare_data(run, recipe(tiny_base, source, **settings))
    file = DataFile.read(run.data)
    assert file.splits["test"].num_examples == 9
    assert file.dropped["longer than 120 tokens"] > 0
    assert file.dropped["beyond max_examples of test"] > 0
    assert max(summary.max_tokens for summary in file.splits.values()) <= 120


def test_answers_as_labels(run: RunFolder, tiny_base: Path, tmp_path: Path) -> None:
    values = [{"instruction": f"q {n}", "input": "", "output": "ny"[n % 2]} for n in range(200)]
    source = write(tmp_path / "a.jsonl", values)
    prepare_data(run, recipe(tiny_base, source, labels_from_answers=True, template="alpaca"))
    assert DataFile.read(run.data).labels == ["n", "y"]
    write(source, [{**value, "output": f"answer {n}"} for n, value in enumerate(values)])
    with pytest.raises(
        DataError, match=r"200 distinct answers, such as 'answer 0'; .* may have 64"
    ):
        prepare_data(run, recipe(tiny_base, source, labels_from_answers=True))
    prepare_data(run, recipe(tiny_base, source))
    assert DataFile.read(run.data).labels is None


@pytest.mark.parametrize(
    ("values", "settings", "match"),
    [
        (rows(9, "a"), {}, r"closed label set is \['a'\]; at least two"),
        (rows(9), {"exclude_labels": ["aa"]}, "names 'aa', which is no label .*; did you mean 'a'"),
        ([*rows(200), {"text": "lonely 4", "label": "c"}],
         {"validation_share": 0.5, "test_share": 0.0},
         "The label 'c' has no example in the train split and 1 in validation"),
        (rows(8)[6:], {"validation_share": 0.0},
         r"test split is empty \(train 2, val.* 0, test 0\)"),
    ],
)  # fmt: skip
def test_refuses(
    run: RunFolder, tiny_base: Path, tmp_path: Path, values: Any, settings: Any, match: str
) -> None:
    with pytest.raises(DataError, match=match):
        prepare_data(run, recipe(tiny_base, write(tmp_path / "a.jsonl", values), **settings))
    assert not run.data.exists()


def test_a_label_of_the_test_source_alone_is_refused(
    run: RunFolder, tiny_base: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.jsonl", rows(100))
    test = write(tmp_path / "t.jsonl", [*rows(4), {"text": "?", "label": "new"}])
    with pytest.raises(
        DataError, match=r"label 'new' stands at 1 examples of .*t\.jsonl but nowhere"
    ):
        prepare_data(run, recipe(tiny_base, source, test_source=str(test)))


def test_an_unknown_builtin_is_refused(run: RunFolder, tiny_base: Path) -> None:
    with pytest.raises(DataError, match=r"no 'builtin:clause'\. Built in are: builtin:clauses"):
        prepare_data(run, recipe(tiny_base, "builtin:clause"))


def test_builtin_twins_share_their_split(run: RunFolder, tiny_base: Path) -> None:
    prepare_data(run, recipe(tiny_base, "builtin:clauses"))
    for split in SPLITS:
        # Twins stand on neighbouring lines, the left one on an odd line.
        lines = {int(example.place.rpartition(":")[2]) for example in read_examples(run, split)}
        assert {line + 1 if line % 2 else line - 1 for line in lines} == lines
    assert len(DataFile.read(run.data).labels or []) == 6


def test_what_a_template_refuses_has_its_place(
    run: RunFolder, tiny_base: Path, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
    source = write(tmp_path / "a.jsonl", [{"messages": turns}])
    settings = {"template": "alpaca", "validation_share": 0.0, "test_share": 0.0}
    with pytest.raises(DataError, match=r"a\.jsonl:1: The conversation has the turns system, user"):
        prepare_data(run, recipe(tiny_base, source, **settings))


def test_a_base_without_a_chat_template_is_refused(run: RunFolder, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    source = write(tmp_path / "a.jsonl", rows(100))
    with pytest.raises(ConfigError, match="no chat template"):
        prepare_data(run, recipe(base, source))


def test_reading_before_writing_says_what_to_do(run: RunFolder) -> None:
    with pytest.raises(
        StorageError, match=r"train\.jsonl cannot be read: No such.*`doratune data`"
    ):
        read_examples(run, "train")
    run.examples("train").parent.mkdir()
    run.examples("train").write_text('{"id": 3}\n')
    with pytest.raises(StorageError, match=r"train\.jsonl:1 is not an example"):
        read_examples(run, "train")


def test_unicode_line_separators_survive(run: RunFolder, tiny_base: Path, tmp_path: Path) -> None:
    values = [{**row, "text": row["text"] + "\u2028\u0085 end"} for row in rows(100)]
    prepare_data(run, recipe(tiny_base, write(tmp_path / "a.jsonl", values)))
    assert "\u2028\u0085 end" in read_examples(run, "train")[0].messages[0].content


def test_real_clauses(run: RunFolder, tiny_base: Path, shared_data: Path) -> None:
    legal = shared_data / "legal"
    settings = {
        "test_source": str(legal / "cuad_clauses.test.jsonl.gz"),
        "exclude_labels": ["Parties"],
        "min_label_count": 200,
        "max_examples": {"train": 400, "validation": 100, "test": 100},
        "max_length": 4096,
    }
    source = legal / "cuad_clauses.train.jsonl.gz"
    prepare_data(run, recipe(tiny_base, source, **settings))
    file = DataFile.read(run.data)
    assert [file.splits[split].num_examples for split in SPLITS] == [400, 100, 100]
    # 867 + 212 rows without a single category, by the README beside the files.
    assert file.dropped["label is null"] == 1079
    assert "Parties" not in (file.labels or [])
    assert {"Governing Law", "Insurance"} < set(file.labels or [])


@pytest.mark.slow
def test_the_quickstart_fits_two_cores(run: RunFolder) -> None:
    """Short examples of the real model: prompt and answer stay within 130 tokens."""
    prepare_data(run, shipped_recipe("quickstart"))
    file = DataFile.read(run.data)
    assert max(summary.max_tokens for summary in file.splits.values()) <= 130
    assert file.splits["train"].num_examples == 216
    assert file.dropped == {}
