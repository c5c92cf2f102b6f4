"""A JSON list of objects, read element by element."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from doratune.data.read.json_value import parse_object
from doratune.data.read.rows import MAX_ROW_BYTES, Row, Unreadable, excerpt, too_large
from doratune.data.read.streams import BLOCK_BYTES, DataFile
from doratune.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")


class Element(NamedTuple):
    """One element of the list, as text."""

    number: int
    """From 0."""
    line: int
    column: int
    text: str


class JsonList(NamedTuple):
    """Some elements of a JSON list."""

    name: str
    elements: list[Element]

    def rows(self) -> list[Row | Unreadable]:
        """One for each element."""
        return [
            parse_object(e.text.encode(), f"{self.name}[{e.number}]", (e.line, e.column))
            for e in self.elements
        ]


def read_json_list(file: DataFile, size: int) -> Iterator[JsonList]:
    """Cuts a list into chunks of ``size`` elements at most.

    Raises:
        DataError: The file is no list, or a list that breaks somewhere: nothing says where the next
            element would start.
    """
    elements: list[Element] = []
    held = 0
    for element in _Reader(file).elements():
        elements.append(element)
        held += len(element.text)
        if len(elements) == size or held >= BLOCK_BYTES:
            yield JsonList(file.name, elements)
            elements, held = [], 0
    if elements:
        yield JsonList(file.name, elements)


class _Reader:
    """Takes a JSON list apart with the standard library's scanner, which says where a value ends.

    The scanner is laxer than `parse_object`, which reads every element again: it lets NaN and keys
    given twice pass.
    """

    def __init__(self, file: DataFile) -> None:
        self.name = file.name
        self.blocks = file.blocks()
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.scan = json.JSONDecoder().raw_decode
        self.text = ""
        """What is decoded and not taken yet, from `at` on."""
        self.at = 0
        self.line, self.column = 1, 1
        """Of `at`."""
        self.ended = False

    def elements(self) -> Iterator[Element]:
        """All elements of the list.

        Raises:
            DataError: The text is not a JSON list.
        """
        self._more()
        self._take(len("\ufeff") if self.text.startswith("\ufeff") else 0)
        self.column = 1
        if self._peek() != "[":
            raise self._no_list()
        self._take(1)
        number = 0
        mark = self._peek()
        if mark == "]":
            self._take(1)
        while mark != "]":
            self._peek()
            line, column = self.line, self.column
            yield Element(number, line, column, self._value())
            mark = self._peek()
            if mark not in (",", "]"):
                raise self._broken(f"not JSON: expected ',' or ']' after element {number}", self.at)
            self._take(1)
            number += 1
        if self._peek():
            raise self._broken("not JSON: expected nothing after the list", self.at)

    def _value(self) -> str:
        """The text of the value that starts here."""
        while True:
            try:
                _, end = self.scan(self.text, self.at)
            except RecursionError:
                raise self._broken("nested too deeply", self.at) from None
            except json.JSONDecodeError as error:
                problem, position = f"not JSON: {error.msg}", error.pos
            except ValueError:  # Python's limit, against attackers
                problem, position = "holds an integer of more than 4,300 digits", self.at
            else:
                # A number may go on in the next block; all other values show their end.
                if end < len(self.text) or self.ended:
                    return self._take(end - self.at)
                problem, position = "not JSON: expected ',' or ']'", end
            if self.ended:
                raise self._broken(problem, position)
            if len(self.text) - self.at > MAX_ROW_BYTES:
                # So far the scanner has looked, and what is wrong may be far before it.
                if position < len(self.text) - BLOCK_BYTES:
                    raise self._broken(f"{problem}, or more than 16 MiB", position)
                raise too_large(f"{self.name}:{self.line}", "element")
            self._more()

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None  # it matches nothing, too
            self._take(found.end() - self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._more()

    def _take(self, length: int) -> str:
        taken = self.text[self.at : self.at + length]
        self.at += length
        if ends := taken.count("\n"):
            self.line += ends
            self.column = length - taken.rfind("\n")
        else:
            self.column += length
        return taken

    def _more(self) -> None:
        """Decodes another block."""
        block = next(self.blocks, b"")
        self.ended = not block
        try:
            text = self.decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            self.text, self.at = self.text[self.at :] + error.object[: error.start].decode(), 0
            found = error.object[error.start]
            raise self._broken(
                f"not UTF-8 (save the file as UTF-8): byte 0x{found:02x}", len(self.text)
            ) from error
        self.text, self.at = self.text[self.at :] + text, 0

    def _no_list(self) -> DataError:
        text = self.text[self.at :].strip()
        if not text:
            return DataError(f"{self.name} is empty; at least one example is needed.")
        return DataError(
            f"{self.name} starts with {excerpt(text)}; expected a JSON list of objects. For one "
            "object a line, name the file .jsonl."
        )

    def _broken(self, problem: str, position: int) -> DataError:
        """An error that says where, ``position`` being an index into the text held."""
        near = excerpt(self.text, position)
        self._take(position - self.at)
        at = f"{self.name}:{self.line}"
        return DataError(f"{at}: {problem} at column {self.column:,}, near {near}")
