"""Keys, tokens and passwords in a text: the part of the gate for personal data that knows secrets.

Most issuers mark their tokens, so a prefix and a length tell them. A password has no shape of its
own: it is found by the name it is assigned to, where it has letters and digits and is not one of
the stand-ins that examples use ("your_key_1", "password123").
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

_TOKENS = {
    "AWS key": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
    "GitHub token": r"gh[opsur]_[A-Za-z0-9]{36,255}+|github_pat_\w{36,255}+",
    "GitLab token": r"gl(?:pat|dt|rt|cbt|ptt|ft|soat)-[\w-]{20,255}+",
    "Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{16,255}+|xapp-\d-[A-Za-z0-9-]{16,255}+",
    "Google key": r"AIza[\w-]{35}|ya29\.[\w-]{20,255}+",
    "model provider key": r"sk-(?=[\w-]{0,64}\d)[\w-]{20,255}+",
    "Hugging Face token": r"hf_[A-Za-z0-9]{30,64}+",
    "Stripe key": r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}+",
    "package index token": r"npm_[A-Za-z0-9]{36}|pypi-AgEI[\w-]{50,255}+",
    "SendGrid key": r"SG\.[\w-]{22}\.[\w-]{43}",
    "JSON web token": r"eyJ[\w-]{8,4096}+\.eyJ[\w-]{8,4096}+\.[\w-]{8,4096}+",
}

_TOKEN_KINDS = list(_TOKENS)

_TOKEN = re.compile(
    rf"(?<![A-Za-z0-9])(?:{'|'.join(f'({rule})' for rule in _TOKENS.values())})(?![A-Za-z0-9])",
    re.ASCII,
)

_IN_TOKEN = bytes(chr(code).isalnum() or chr(code) in "_-." for code in range(128)) + bytes(128)
_LONG = b"\x01" * 20
"""Every token has so many such characters in a row. To look for that takes 1 microsecond for 500
characters; the pattern takes 10."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[A-Za-z0-9+/=\s:,.\\]|-(?!----)){0,16384}+-----END [A-Z0-9 ]{0,80}-----"
    # Without its end, a block is whatever looks like base64 after its beginning.
    r"|(?:\s{0,4}+[A-Za-z0-9+/=\\]{16,128}+)*+)"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{32}")

_NAME_PARTS = ("pass", "pwd", "secret", "token", "key")
_NAMES = r"pass(?:word|wd|phrase)|pwd|secret|token|(?:api|access|auth|private|account)[_-]?key"
_NAME = re.compile(_NAMES)
_ASSIGNED = re.compile(
    rf"(?:{_NAMES})"
    r"[\w-]{0,20}+[\"'`]?\s{0,3}+(?::=|=>|[:=]|is\b)\s{0,3}+(?P<quote>[\"'`]?)"
    r"(?P<value>[^\s\"'`<>(){}\[\],;]{8,512}+)(?![(\[{])",
    re.IGNORECASE,
)

_IN_ADDRESS = re.compile(r"[a-z]://[^\s:/@]{0,64}:(?P<value>[^\s:/@]{3,128}+)@", re.IGNORECASE)

_STAND_IN = re.compile(
    r"p[a@]ss|pwd|secret|key|token|your|user|example|sample|test|demo|dummy|change|xxx|\*\*|1234|^abc|123$",
    re.IGNORECASE,
)

_REFERENCE = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|->|::)[\w$]+)+|\$\w+|%\w+%?")

_MIN_BITS = 2.5
"""Entropy of a password's characters, bits each. Eight different ones have 3."""


def find_secrets(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of each, in no order; some may overlap."""
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            if _BASE64.search(match[0]):
                yield "private key", *match.span()
    if _LONG in text.encode("ascii", "replace").translate(_IN_TOKEN):
        for match in _TOKEN.finditer(text):
            yield _TOKEN_KINDS[int(match.lastindex or 1) - 1], *match.span()
    if "://" in text:
        for match in _IN_ADDRESS.finditer(text):
            if not _STAND_IN.search(match["value"]):
                yield "password", *match.span("value")
    lower = text.lower()
    if any(part in lower for part in _NAME_PARTS) and _NAME.search(lower):
        for match in _ASSIGNED.finditer(text):
            if _is_password(match["value"], quoted=bool(match["quote"])):
                yield "password", *match.span("value")


def _is_password(value: str, quoted: bool) -> bool:
    """Whether a value looks chosen by chance, rather than a word, a stand-in or a reference."""
    if not re.search(r"[0-9]", value) or not re.search(r"[A-Za-z]", value):
        return False
    if _STAND_IN.search(value) or (not quoted and _REFERENCE.fullmatch(value)):
        return False
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return bits >= _MIN_BITS
