"""Text that was decoded wrongly, or that holds characters nobody sees.

Why it matters: a tokenizer turns such characters into rare tokens, the model learns to write them,
and what is invisible can carry instructions past a reviewer. Found are

    control character       C0 and C1, other than tab, newline and carriage return
    replacement character   U+FFFD, what a decoder puts where bytes made no sense
    invalid character       lone surrogates, noncharacters, private use (icons of one font)
    invisible character     zero-width spaces, soft hyphens, tag characters
    bidirectional control   overrides and embeddings; direction marks in text without Arabic or Hebrew
    mojibake                UTF-8 read as another encoding, "fianceÃ©" (by ftfy's rules)

Joiners are left alone after letters beyond Latin, as Persian, Indic scripts and emoji need them.

Limits: of 169,000 public examples 30 are found, all of them rightly. Mojibake of one character, and
between encodings that are not UTF-8, is mostly missed.
"""

from __future__ import annotations

import re

import ftfy
from ftfy.badness import BADNESS_RE

_PRINTABLE = bytes([*b"\t\n\r", *range(0x20, 0x7F)])

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_PATTERNS = {
    "control character": _CONTROL,
    "replacement character": re.compile("\ufffd"),
    "invalid character": re.compile(
        "[\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]"
    ),
    "invisible character": re.compile(
        "[\u00ad\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb]"
        "|(?<![\u0300-\U0010ffff])[\u200c\u200d]"
        # The flags of England, Scotland and Wales are spelt with tag characters.
        "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
    ),
    "bidirectional control": re.compile("[\u202a-\u202e\u2066-\u2069]"),
}

_DIRECTION_MARK = re.compile("[\u061c\u200e\u200f]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc]")

_MAYBE_MOJIBAKE = re.compile("[^\x00-\x7f]{2}|[ÃÂ] ")
"""All of ftfy's rules want two such characters in a row, or the à that lost its second half."""


def kinds(text: str) -> list[str]:
    """What is wrong with a text, such as ``["control character"]``; nothing when it is fine."""
    return [kind for kind, _ in _places(text)]


def why(text: str) -> str:
    """What is wrong and where, in one line; empty when the text is fine."""
    return "; ".join(
        f"{kind} {_shown(kind, text, match)} at character {match.start()}"
        for kind, match in _places(text)
    )


def _places(text: str) -> list[tuple[str, re.Match[str]]]:
    """Each kind with its first place."""
    if text.isascii():
        # A quarter of a microsecond for 200 characters, where the pattern takes 0.6.
        if not text.encode().translate(None, _PRINTABLE):
            return []
        match = _CONTROL.search(text)
        return [("control character", match)] if match else []
    found = [(kind, match) for kind, rule in _PATTERNS.items() if (match := rule.search(text))]
    mark = _DIRECTION_MARK.search(text)
    if mark and not _RIGHT_TO_LEFT.search(text):
        found.append(("bidirectional control", mark))
    # ftfy's rules take 40 microseconds for 200 characters.
    if _MAYBE_MOJIBAKE.search(text) and (match := BADNESS_RE.search(text)):
        found.append(("mojibake", match))
    return found


def _shown(kind: str, text: str, match: re.Match[str]) -> str:
    if kind != "mojibake":
        return f"U+{ord(match[0]):04X}"
    near = text[max(0, match.start() - 10) : match.end() + 10]
    better = ftfy.fix_encoding(near)
    return repr(near) if better == near else f"{near!r} (perhaps {better!r})"
