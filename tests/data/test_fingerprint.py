from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from doratune.data.fingerprint import BYTES, example_digest, fingerprint
from doratune.record.files import digest_json
from doratune.record.schemas import Example, Message

DIGESTS = np.frombuffer(
    b"".join(hashlib.sha256(bytes([n])).digest() for n in range(50)), np.uint8
).reshape(-1, BYTES)


def example(**changes: Any) -> Example:
    turns = [Message(role="user", content="q"), Message(role="assistant", content="a")]
    return Example(**{"id": "0" * 16, "messages": turns, "place": "a:1", **changes})


def test_order_counts_for_the_ordered_digest_alone() -> None:
    straight, reversed_ = fingerprint([DIGESTS]), fingerprint([DIGESTS[::-1]])
    assert straight.digest == reversed_.digest
    assert straight.ordered_digest != reversed_.ordered_digest


def test_batches_do_not_count() -> None:
    assert fingerprint([DIGESTS]) == fingerprint([DIGESTS[:7], DIGESTS[7:7], DIGESTS[7:]])


def test_a_repeat_and_a_lost_example_count() -> None:
    found = {
        fingerprint(batches).digest
        for batches in ([], [DIGESTS], [DIGESTS, DIGESTS[:1]], [DIGESTS[1:]])
    }
    assert len(found) == 4


def test_it_is_what_it_says() -> None:
    digests = sorted(digest.tobytes() for digest in DIGESTS)
    assert fingerprint([DIGESTS]).digest == hashlib.sha256(b"".join(digests)).hexdigest()
    assert fingerprint([DIGESTS]).ordered_digest == hashlib.sha256(DIGESTS.tobytes()).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"label": "a"},
        {"rejected": [Message(role="assistant", content="b")]},
        {"tools": [{"name": "search"}]},
        {"messages": [Message(role="assistant", content="a")]},
        {"messages": [*example().messages[:1], Message(role="assistant", content="a", weight=0)]},
    ],
)
def test_all_that_an_example_says_counts(changes: dict[str, Any]) -> None:
    assert example_digest(example(**changes)) != example_digest(example())


def test_an_example_is_its_canonical_json() -> None:
    """Keys sorted, nothing between them, nothing that is None: anybody can compute it again."""
    call = {"type": "function", "function": {"name": "é", "arguments": {"b": 1, "a": [None]}}}
    for one in (
        example(),
        example(label='"\n\u2028'),
        example(
            messages=[
                Message(role="user", content='tab\t"quote"\\ \x07é\u2028😀'),
                Message(role="assistant", content="", tool_calls=[call]),
                Message(role="tool", content="r", tool_call_id="1", name="é"),
                Message(role="assistant", content="b", tool_calls=[]),
                Message(role="assistant", content="a", weight=0),
            ],
            rejected=[Message(role="assistant", content="b")],
            tools=[call],
        ),
    ):
        said = one.model_dump(exclude_none=True, exclude={"id", "place"})
        assert example_digest(one).hex() == digest_json(said)


def test_where_it_stands_does_not_count() -> None:
    assert example_digest(example(place="b:9", id="1" * 16)) == example_digest(example())
