"""The same gates the ordinary way: a script over `datasets`, with `datasketch` for near duplicates.

What finds something in one text is shared with doratune (regular expressions, phonenumbers, ftfy, the
language model), so that both look for the same; everything else is what such scripts do: `map` and
`filter` in two processes, MinHash LSH one text at a time, sets of digests, `apply_chat_template`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from doratune.data.gates import encoding, language, personal_data

NUM_PROC = 2
THRESHOLD, WIDTH, SHINGLE, NGRAM = 0.8, 128, 3, 13

_WORDS = re.compile(r"\w+")


def run(source: Path, base: Path, out: Path) -> dict[str, int]:
    """Reads, gates, splits and writes; returns what was found."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    data = load_dataset("json", data_files=str(source), split="train", cache_dir=str(out / "cache"))
    assert isinstance(data, Dataset)
    data = data.filter(_fits, num_proc=NUM_PROC)
    data = data.map(_look, num_proc=NUM_PROC)
    data = data.map(_detect, batched=True, num_proc=NUM_PROC)
    seen: set[str] = set()
    num_rows = len(data)
    data = data.filter(lambda row: not (row["digest"] in seen or seen.add(row["digest"])))
    found = {
        "duplicates": num_rows - len(data),
        "broken": sum(map(bool, data["encoding"])),
        "personal": sum(map(bool, data["personal"])),
    }
    data = data.map(_sketch, batched=True, num_proc=NUM_PROC)
    data, found["near_duplicates"] = _cluster(data)
    data = data.map(
        lambda row: {"tokens": len(tokenizer.apply_chat_template(_messages(row))["input_ids"])},
        num_proc=NUM_PROC,
    )
    splits = {
        "train": data.filter(lambda row: row["point"] >= 0.15, num_proc=NUM_PROC),
        "validation": data.filter(lambda row: 0.1 <= row["point"] < 0.15, num_proc=NUM_PROC),
        "test": data.filter(lambda row: row["point"] < 0.1, num_proc=NUM_PROC),
    }
    held_out: set[int] = set()
    for split in ("validation", "test"):
        for row in splits[split]:
            held_out |= _ngrams(row)
    # The set goes to the processes with the function, as it would in any script.
    splits["train"] = splits["train"].map(
        lambda row: {"leaks": len(_ngrams(row) & held_out)}, num_proc=NUM_PROC
    )
    found["leaks"] = sum(map(bool, splits["train"]["leaks"]))
    for name, split in splits.items():
        split.remove_columns(["sketch"]).to_json(out / f"{name}.jsonl")
    return found


def _text(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n{row['output']}"


def _messages(row: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": row["instruction"]},
        {"role": "assistant", "content": row["output"]},
    ]


def _fits(row: dict[str, Any]) -> bool:
    return all(
        isinstance(row[name], str) and row[name].strip() for name in ("instruction", "output")
    )


def _look(row: dict[str, Any]) -> dict[str, Any]:
    text = _text(row)
    group = hashlib.sha256(row["instruction"].encode()).hexdigest()
    return {
        "digest": hashlib.sha256(json.dumps(_messages(row)).encode()).hexdigest(),
        "point": int(group[:13], 16) / 16**13,
        "encoding": ", ".join(encoding.kinds(text)),
        "personal": ", ".join(sorted({find.kind for find in personal_data.find(text)})),
    }


def _detect(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    texts = [f"{a}\n{b}" for a, b in zip(batch["instruction"], batch["output"], strict=True)]
    return {"language": language.Detector().detect(texts)}


def _sketch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from datasketch import MinHash

    grams = []
    for asked, answer in zip(batch["instruction"], batch["output"], strict=True):
        words = _WORDS.findall(f"{asked}\n{answer}".lower())
        starts = range(max(1, len(words) - SHINGLE + 1))
        grams.append({" ".join(words[i : i + SHINGLE]).encode() for i in starts})
    sketches = MinHash.bulk(grams, num_perm=WIDTH)
    return {"sketch": [sketch.hashvalues for sketch in sketches]}


def _cluster(data: Dataset) -> tuple[Dataset, int]:
    """Gives each row the split point of the first row that it nearly repeats."""
    from datasketch import LeanMinHash, MinHash, MinHashLSH

    scheme = MinHash(num_perm=WIDTH).scheme
    index = MinHashLSH(threshold=THRESHOLD, num_perm=WIDTH)
    points: list[float] = []
    found = 0
    for number, row in enumerate(data.select_columns(["sketch", "point"])):
        sketch = LeanMinHash(seed=1, hashvalues=row["sketch"], scheme=scheme)
        point = row["point"]
        if near := index.query(sketch):
            found += 1
            point = points[min(near)]
        points.append(point)
        index.insert(number, sketch, check_duplication=False)
    return data.remove_columns("point").add_column("point", points), found


def _ngrams(row: dict[str, Any]) -> set[int]:
    words = _WORDS.findall(_text(row).lower())
    return {hash(tuple(words[i : i + NGRAM])) for i in range(max(1, len(words) - NGRAM + 1))}


def main() -> None:
    """Prints what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("source", "base", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    print(json.dumps(run(args.source, args.base, args.out)))


if __name__ == "__main__":
    main()
