"""Text that was decoded wrongly, or that holds characters nobody sees."""

from __future__ import annotations


def kinds(text: str) -> list[str]:
    """What is wrong with a text, such as ``["control character"]``; nothing when it is fine."""
    raise NotImplementedError


def why(text: str) -> str:
    """One sentence on what is wrong and where; empty when the text is fine."""
    raise NotImplementedError
