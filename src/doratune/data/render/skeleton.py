"""Chat templates that do nothing with a turn's content but put it between other texts.

Most are of this kind (ChatML, SmolLM2, Qwen2.5 without tools, Llama 3, Gemma). Of such a template it is
enough to know what it writes around the contents of, say, a user and an assistant turn: the next
conversation of these roles needs no template, only its contents put in. That takes 1 microsecond where
running the template takes 19 (SmolLM2, two turns, one core of an AMD EPYC).

Whether a template is of this kind is read off its syntax tree, and nothing is taken on trust: content
may only be written, joined with other text, trimmed, or kept in a variable that is used in these ways.
A template that looks into it, calls a macro with it or hands whole messages to a filter is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes

# What stands in for a content: the number of its turn, in spaces that `trim` takes away.
_SPACE, _OPEN, _CLOSE = "\u2003", "\ue000", "\ue001"
_HOLE = re.compile(f"({_SPACE}?){_OPEN}(\\d+){_CLOSE}({_SPACE}?)")

_NOT_FOLLOWED = (
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block, nodes.Include,
    nodes.Import, nodes.FromImport, nodes.Extends, nodes.With,
)  # fmt: skip

# Of a loop over messages: the messages before and after, which no name in the template holds.
_OTHER_WAYS = ("previtem", "nextitem")

Turn = Mapping[str, Any]


class Skeletons:
    """What a template writes around the contents of conversations, by their roles.

    Args:
        template: Source of the template.
        render: Runs it on turns, with or without the beginning of an answer after them.
    """

    def __init__(self, template: str, render: Callable[[list[dict[str, Any]], bool], str]) -> None:
        self._render = render
        self._usable = only_writes_contents(template)
        self._known: dict[tuple[bool, tuple[str, ...]], _Skeleton] = {}

    def fill(self, turns: Sequence[Turn], add_generation_prompt: bool) -> str | None:
        """The text of some turns; None where the template has to be run.

        Raises:
            TemplateError: The template refuses the roles.
        """
        if not self._usable or any(len(turn) != 2 for turn in turns):  # more than role and content
            return None
        key = (add_generation_prompt, tuple([turn["role"] for turn in turns]))
        if key not in self._known:
            self._known[key] = self._skeleton(*key)
        texts, holes = self._known[key]
        parts = [texts[0]]
        for text, (turn, trimmed) in zip(texts[1:], holes, strict=True):
            content = turns[turn]["content"]
            parts += (content.strip() if trimmed else content, text)
        return "".join(parts)

    def _skeleton(self, add_generation_prompt: bool, roles: tuple[str, ...]) -> _Skeleton:
        turns = [
            {"role": role, "content": f"{_SPACE}{_OPEN}{number}{_CLOSE}{_SPACE}"}
            for number, role in enumerate(roles)
        ]
        found = _Skeleton([], [])
        text, done = self._render(turns, add_generation_prompt), 0
        for hole in _HOLE.finditer(text):
            found.texts.append(text[done : hole.start()])
            found.holes.append((int(hole[2]), not hole[1]))
            done = hole.end()
        found.texts.append(text[done:])
        return found


class _Skeleton(NamedTuple):
    """What a template makes of some roles: text, a hole, text, a hole, text."""

    texts: list[str]
    holes: list[tuple[int, bool]]
    """The turn whose content stands there, and whether it is trimmed."""


def only_writes_contents(template: str) -> bool:
    """Whether a template does nothing with the contents of turns but write them, trimmed or not."""
    if any(mark in template for mark in (_SPACE, _OPEN, _CLOSE)):
        return False
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except jinja2.TemplateError:
        return False
    if next(tree.find_all(_NOT_FOLLOWED), None) is not None:
        return False
    if any(name in template for name in _OTHER_WAYS):
        return False
    return _Flow(tree).is_plain()


class _Flow:
    """Follows the messages, and the contents in them, through the names of a template."""

    def __init__(self, tree: nodes.Template) -> None:
        self._names = [name for name in tree.find_all(nodes.Name) if name.ctx == "load"]
        self._parents: dict[int, nodes.Node] = {}
        self._note_parents(tree)
        self._messages = {"messages"}
        """Names of what holds messages, or is one."""
        self._texts: set[str] = set()
        """Names of what holds contents."""

    def is_plain(self) -> bool:
        """Whether nothing is done with contents that depends on them."""
        size = -1
        while size < len(self._messages) + len(self._texts):
            size = len(self._messages) + len(self._texts)
            for name in self._names:
                if name.name in self._messages and not self._message_may_be(name):
                    return False
                if name.name in self._texts and not self._text_may_be(name):
                    return False
        return not self._messages & self._texts

    def _note_parents(self, node: nodes.Node) -> None:
        for child in node.iter_child_nodes():
            self._parents[id(child)] = node
            self._note_parents(child)

    def _message_may_be(self, node: nodes.Node) -> bool:
        """Whether messages, or one of them, may be used as here; learns new names for them."""
        parent = self._parents[id(node)]
        while isinstance(parent, nodes.Getattr | nodes.Getitem) and parent.node is node:
            field = _field(parent)
            if field == "content":
                return self._text_may_be(parent)
            if field is not None:
                # What is no method, such as `get` or `items`, is other data.
                return not hasattr(dict, field) and not hasattr(list, field)
            node, parent = parent, self._parents[id(parent)]
        if isinstance(parent, nodes.For) and parent.iter is node and not parent.recursive:
            return _learn(parent.target, self._messages)
        if isinstance(parent, nodes.Assign):
            return _learn(parent.target, self._messages)
        if isinstance(parent, nodes.Filter):
            return parent.name in ("length", "count")
        # A message is never false, and a list of them is by its length.
        while isinstance(parent, nodes.Test | nodes.Not | nodes.And | nodes.Or):
            node, parent = parent, self._parents[id(parent)]
        return isinstance(parent, nodes.If | nodes.CondExpr) and parent.test is node

    def _text_may_be(self, node: nodes.Node) -> bool:
        """Whether text may be used as here; learns new names for it."""
        parent = self._parents[id(node)]
        if isinstance(parent, nodes.Filter) and parent.name == "trim":
            if parent.args or parent.kwargs:
                return False
            if not isinstance(node, nodes.Getattr | nodes.Getitem):
                return False  # it may have been joined with other text, of which the end is trimmed
            node, parent = parent, self._parents[id(parent)]
        while isinstance(parent, nodes.Add | nodes.Concat):
            node, parent = parent, self._parents[id(parent)]
        if isinstance(parent, nodes.Assign):
            return _learn(parent.target, self._texts)
        return isinstance(parent, nodes.Output)


def _field(node: nodes.Getattr | nodes.Getitem) -> str | None:
    """The field of a message that is read; None where a message or some of them are."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        return node.arg.value
    # A computed key may be "content".
    computed = not isinstance(node.arg, nodes.Const | nodes.Slice | nodes.Neg)
    return "content" if computed else None


def _learn(target: nodes.Node, names: set[str]) -> bool:
    if isinstance(target, nodes.Name):
        names.add(target.name)
        return True
    return False
