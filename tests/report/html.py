"""Pages taken apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Balanced(HTMLParser):
    """Fails on an end tag that does not match, and collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str | None] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [v for k, v in attrs if k in {"src", "href", "xlink:href", "srcset"}]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parse(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def drawings(page: str) -> list[ElementTree.Element]:
    """The drawings of a page, each of which must be XML with a label and without NaN."""
    found = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert not any("nan" in one for one in found)
    roots = [ElementTree.fromstring(one) for one in found]
    assert all(root.get("aria-label") for root in roots)
    return roots


def prose(page: str) -> str:
    """A page without its style sheet and recipe."""
    return re.sub(r"<style>.*?</style>|<pre.*?</pre>", "", page, flags=re.S)
