from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from doratune.errors import DataError
from doratune.evaluate.benchmarks.texts import out_of_domain, read_texts
from doratune.record.benchmarks import TextSample
from tests.evaluate.benchmarks.exams import write_lines


def write(path: Path, rows: list[dict[str, object]]) -> str:
    write_lines(path, rows)
    return str(path)


def test_a_column_of_texts_is_read_whatever_else_there_is(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"Text {n}.", "url": "x"} for n in range(5)]
    source = write(tmp_path / "t.jsonl.gz", [*rows, {"text": "  ", "url": "x"}])
    texts = read_texts(source, None, 0)
    assert [text.content for text in texts] == [f"Text {n}." for n in range(5)]
    assert texts[2].place == f"{source}:3"


def test_conversations_are_read_turn_after_turn(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"instruction": "Say hello.", "input": "", "output": "Hello!"},
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    ]
    texts = read_texts(write(tmp_path / "t.jsonl", rows), None, 0)
    assert [text.content for text in texts] == ["Say hello.\nHello!", "Add.\n\n1 and 2\n3"]


def test_a_subset_is_chosen_by_hash(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"Text {n}."} for n in range(30)]
    source = write(tmp_path / "t.jsonl", rows)
    few = {text.content for text in read_texts(source, 10, 0)}
    assert len(few) == 10
    assert few < {text.content for text in read_texts(source, 20, 0)}
    assert few != {text.content for text in read_texts(source, 10, 1)}


def test_no_text_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "t.jsonl", [{"text": " "}])
    with pytest.raises(DataError, match=r"t.jsonl \(eval.benchmarks.texts\) holds no text"):
        read_texts(source, None, 0)


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"instruction": "A", "output": "B"},
        {"instruction": "A", "output": None},
    ]
    with pytest.raises(DataError, match=r"has 1 problem:\n  .*t.jsonl:2: "):
        read_texts(write(tmp_path / "t.jsonl", rows), None, 0)


def test_lines_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"has 1 problem:\n  .*t.jsonl:2: "):
        read_texts(str(tmp_path / "t.jsonl"), None, 0)


def sample(model: str, n: int, tokens: int, logprob: float) -> TextSample:
    return TextSample.model_validate(
        {
            "place": f"t:{n:03}",
            "digest": str(n),
            "model": model,
            "num_tokens": tokens,
            "logprob": logprob,
        }
    )


def test_every_token_counts_alike() -> None:
    rows = [
        sample("base", 1, 10, -20.0), sample("base", 2, 90, -90.0),
        sample("tuned", 2, 90, -99.0), sample("tuned", 1, 10, -21.0),
    ]  # fmt: skip
    found = out_of_domain("texts", rows, 0)
    assert found.base.value == pytest.approx(math.exp(110 / 100))
    assert found.tuned.value == pytest.approx(math.exp(120 / 100))
    assert found.ratio.value == pytest.approx(math.exp(10 / 100))
    assert (found.num_texts, found.num_tokens, found.source) == (2, 100, "texts")


def test_the_ratio_is_of_the_same_texts() -> None:
    """Texts differ much more than the models do on one text."""
    rng = np.random.default_rng(0)
    rows, ratios = [], []
    for n in range(200):
        tokens, per_token = int(rng.integers(20, 200)), float(rng.uniform(1, 5))
        more = float(rng.normal(0.05, 0.02))
        ratios.append((tokens, more))
        rows.append(sample("base", n, tokens, -per_token * tokens))
        rows.append(sample("tuned", n, tokens, -(per_token + more) * tokens))
    found = out_of_domain("texts", rows, 0)
    tokens, more = np.array(ratios).T
    residual = tokens * (more - (tokens @ more) / tokens.sum())
    error = math.sqrt((residual**2).sum()) / tokens.sum()  # of a ratio of sums
    assert found.ratio.low == pytest.approx(found.ratio.value * math.exp(-1.96 * error), rel=1e-3)
    assert found.ratio.high == pytest.approx(found.ratio.value * math.exp(1.96 * error), rel=1e-3)
    assert found.base.high / found.base.low > 1.2
