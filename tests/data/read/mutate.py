"""Data files as they should not be: a seed gives a file, the same one every time."""

from __future__ import annotations

import codecs
import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from tests.data.read.sources import arrow, packed, parquet

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
TEXTS = (
    "plain",
    "é, ü and 漢字",
    'he said "no"',
    "two\nlines",
    "tab\there",
    "",
    "\u2028 \x85",
    "😀",
)


def case(seed: int) -> tuple[str, bytes]:
    """The name and the content of a damaged file.

    One case in a hundred is left as it is, so that the check of rows is exercised, too.
    """
    draw = random.Random(seed)
    suffix = draw.choice(SUFFIXES)
    data = whole(suffix, draw)
    if draw.random() < 0.01:
        return f"a{suffix}", data
    mutations = TEXT if suffix in (".jsonl", ".json", ".csv", ".tsv") else BYTES
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(mutations)(data, draw)
    packing = draw.choice(("", "", ".gz", ".zst"))
    if packing:
        data = packed(data, packing)
        if draw.random() < 0.5:
            data = draw.choice(PACKED)(data, draw)
    if draw.random() < 0.05:
        suffix = draw.choice(SUFFIXES)
    if draw.random() < 0.03:
        packing = draw.choice(("", ".gz", ".zst"))
    return f"a{suffix}{packing}", data


def whole(suffix: str, draw: random.Random) -> bytes:
    """A file as it should be."""
    rows = [row(draw) for _ in range(draw.choice((1, 3, 20, 200)))]
    if suffix == ".jsonl":
        return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    if suffix == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=draw.choice((None, 1)))
        return text.encode()
    if suffix in (".csv", ".tsv"):
        sink = io.StringIO()
        writer = csv.writer(sink, delimiter="," if suffix == ".csv" else "\t")
        writer.writerow(rows[0])
        writer.writerows([str(value) for value in r.values()] for r in rows)
        return sink.getvalue().encode()
    table = pa.Table.from_pylist(rows)
    if suffix == ".parquet":
        size = draw.choice((7, 1000))
        compression = draw.choice(("none", "snappy", "zstd", "gzip"))
        return parquet(table, row_group_size=size, compression=compression)
    return arrow(table, draw.choice(("stream", "file")), rows=draw.choice((7, 1000)))


def row(draw: random.Random) -> dict[str, Any]:
    return {
        "text": draw.choice(TEXTS) * draw.choice((1, 1, 10)) + str(draw.randrange(1000)),
        "label": draw.choice(("x", "y", "z")),
        "number": draw.choice((0, 1.5, -3e10)) * 1.0,
        "messages": [
            {"role": "user", "content": f"{draw.choice(TEXTS)} {draw.randrange(1000)}"},
            {"role": "assistant", "content": draw.choice(TEXTS[:5])},
        ],
    }


def flip(data: bytes, draw: random.Random) -> bytes:
    """Changes some bits."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 30)) if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def cut_a_little(data: bytes, draw: random.Random) -> bytes:
    return data[: -draw.randrange(1, 20)]


def lose(data: bytes, draw: random.Random) -> bytes:
    """Removes a stretch."""
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.choice((1, 5, 100)) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """Says a stretch twice."""
    start = draw.randrange(len(data) + 1)
    stop = start + draw.choice((1, 10, 1000))
    return data[:stop] + data[start:]


def insert(*pieces: bytes) -> Callable[[bytes, random.Random], bytes]:
    """Puts pieces at random places."""

    def mutation(data: bytes, draw: random.Random) -> bytes:
        for _ in range(draw.choice((1, 1, 2, 20))):
            at = draw.randrange(len(data) + 1)
            data = data[:at] + draw.choice(pieces) + data[at:]
        return data

    return mutation


def noise(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.randbytes(draw.choice((1, 4, 500))) + data[at:]


def replace(*pairs: tuple[bytes, bytes]) -> Callable[[bytes, random.Random], bytes]:
    """Puts one piece in the place of another, at some of its places."""

    def mutation(data: bytes, draw: random.Random) -> bytes:
        old, new = draw.choice(pairs)
        parts = data.split(old)
        likely = draw.choice((0.05, 0.5, 1.0))
        joins = [new if draw.random() < likely else old for _ in parts[1:]]
        return b"".join(part + join for part, join in zip(parts, [*joins, b""], strict=True))

    return mutation


def encode_otherwise(data: bytes, draw: random.Random) -> bytes:
    """Writes a part, or all, in another encoding."""
    encoding = draw.choice(("latin-1", "cp1252", "utf-16", "utf-16-be", "utf-32", "shift_jis"))
    start = draw.choice((0, draw.randrange(len(data) + 1)))
    stop = draw.choice((len(data), draw.randrange(len(data) + 1)))
    text = data[start:stop].decode(errors="replace")
    return data[:start] + text.encode(encoding, errors="replace") + data[stop:]


def nest(data: bytes, draw: random.Random) -> bytes:
    """Puts a deeply nested value somewhere."""
    depth = draw.choice((150, 300, 3000, 100_000))
    start, stop = draw.choice(((b"[", b"]"), (b'{"a":', b"}")))
    value = start * depth + b"1" + stop * draw.choice((0, depth - 1, depth))
    return replace((b'"x"', value), (b"null", value), (b"1.5", value))(data, draw) + (
        value if draw.random() < 0.2 else b""
    )


def long_line(data: bytes, draw: random.Random) -> bytes:
    """Makes one line of 17 MiB, a little more than is allowed."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice((b"x", b" ", b"[", b'"', b"0")) * (17 << 20) + data[at:]


def rarely(
    mutation: Callable[[bytes, random.Random], bytes],
) -> Callable[[bytes, random.Random], bytes]:
    """One time in a hundred, since it takes long."""
    return lambda data, draw: mutation(data, draw) if draw.random() < 0.01 else flip(data, draw)


BYTES = (flip, flip, flip, cut, cut_a_little, lose, repeat, noise, insert(b"\0", b"\0" * 100))
PACKED = (flip, cut, cut_a_little, lose, repeat, noise, lambda data, draw: data * 2)
TEXT = (
    *BYTES,
    encode_otherwise,
    nest,
    rarely(long_line),
    insert(codecs.BOM_UTF8, codecs.BOM_UTF16_LE, b"\xff", b"\xc3", b"\xed\xa0\x80"),
    insert(b'"', b",", b"\t", b"\r", b"\n", b"\r\n", b'""', b'"\n', b"\\", b"{", b"}", b"[", b"]"),
    lambda data, draw: codecs.BOM_UTF8 + data,
    replace((b"\n", b"\r\n"), (b"\n", b"\r"), (b"\n", b"\n\n"), (b"\n", b""), (b"\n", b"\0")),
    replace((b'"', b"'"), (b'"', b'""'), (b'"', b""), (b",", b";"), (b",", b",,"), (b":", b"=")),
    replace(
        (b'"label"', b'"text"'), (b'"label": ', b'"label": "x", "label": '), (b"label", b"text")
    ),
    replace((b'"x"', b"NaN"), (b'"x"', b"-Infinity"), (b"1.5", b"1e999"), (b"1.5", b"9" * 5000)),
    replace((b'"x"', b"null"), (b'"x"', b"[]"), (b'"x"', b"7"), (b'"plain"', b"{}"), (b"{", b"[")),
    replace((b"plain", rb"\ud800"), (b"plain", rb"\udc00\ud800"), (b"plain", rb"\u0000")),
)
