"""Questions from files rather than from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

from doratune.data.texts import read_source
from doratune.errors import DataError

_SUFFIXES = (".jsonl.gz", ".jsonl")


def find_file(folder: Path, name: str) -> Path | None:
    """``<name>.jsonl.gz`` or ``<name>.jsonl`` in a folder; None where neither is."""
    return next((p for s in _SUFFIXES if (p := folder / f"{name}{s}").is_file()), None)


def read_file(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a file that `find_file` finds.

    Raises:
        DataError: There is none, or a line of it cannot be read.
    """
    file = find_file(folder, name)
    if file is None:
        raise DataError(
            f"The folder {str(folder)!r} (eval.benchmarks.data) has neither "
            f"{' nor '.join(name + suffix for suffix in _SUFFIXES)}."
        )
    return [row.content for row in read_source(str(file))]


def fetch(address: str) -> list[dict[str, Any]]:
    """Rows of a JSON file on the network, or in the cache of an earlier fetch.

    Raises:
        DataError: It cannot be had.
    """
    try:
        rows: list[dict[str, Any]] = load_dataset(
            "json", data_files=address, split="train"
        ).to_list()
    except Exception as error:  # of httpx, fsspec, pyarrow and others: no common base
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"{address} cannot be had: {type(error).__name__}: {first}. Check the network, or put "
            "the questions into a folder and name it as eval.benchmarks.data."
        ) from error
    return rows


def dataset(splits: dict[str, list[dict[str, Any]]]) -> DatasetDict:
    """What lm-eval takes for a data set."""
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})
