"""Personal data and secrets in a text.

Why it matters: what is in the training data can come out of the model, word for word. By default it
is reported; ``mask`` puts a stand-in in its place. Found are

    e-mail                    but not at example.com and other names reserved for examples
    telephone number          valid by Google's rules (phonenumbers): international ones that begin
                              with +, and national ones of the US, Canada, Britain and Germany
    account number            IBAN with right length and checksum
    card number               of an issuer's range, with right checksum (Luhn)
    social security number    of the United States, as 123-45-6789
    IP address                public ones; not 192.168.0.1, nor what could be a version (1.2.3.4)
    keys and passwords        see `secret_keys`

Limits: names, postal addresses and other nations' numbers are not found, nor anything spelt out or
broken over lines. A number of 13 to 19 digits in an issuer's range passes for a card once in ten
times. Test numbers that shops print (4111 1111 1111 1111) are found like real ones.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import phonenumbers
from stdnum import iban, luhn
from stdnum.us import ssn

from doratune.data.gates.secret_keys import find_secrets

_TRUNK_ZERO = ("GB", "DE")
_NO_TRUNK_ZERO = ("US",)
"""Countries whose way of writing numbers without a country code is known, by whether it begins
with 0."""


class Found(NamedTuple):
    """A stretch of a text: ``text[start:end]``."""

    kind: str
    """Such as ``e-mail``."""
    start: int
    end: int


_MASKS = {
    "e-mail": "[EMAIL]",
    "telephone number": "[PHONE]",
    "account number": "[IBAN]",
    "card number": "[CARD]",
    "social security number": "[SSN]",
    "IP address": "[IP]",
    "password": "[PASSWORD]",
}
"""Whatever else is found is a key."""

_EMAIL = re.compile(
    r"(?<![\w.%+-])(?P<name>[a-z0-9_][\w.%+-]{0,63}+)@(?P<host>(?:[a-z0-9-]{1,63}+\.){1,8}[a-z]{2,24})(?![\w@-])",
    re.IGNORECASE | re.ASCII,
)
_NO_EMAIL = re.compile(
    r"(?:^|\.)(?:example\.(?:com|net|org|edu)|example|invalid|test|localhost|png|jpe?g|gif|svg)$",
    re.IGNORECASE,
)

_IN_NUMBER = bytes(chr(code) in "0123456789 ().-/?\xa0" for code in range(256))
_IN_IPV6 = bytes(chr(code) in "0123456789abcdefABCDEF:" for code in range(256))
_RUN = {7: b"\x01" * 7, 10: b"\x01" * 10}
"""Every number has 7 such characters in a row, every IPv6 address 10. To look for that takes 1
microsecond for 500 characters. The patterns take 100, and run where digits are only."""

_NUMBER = re.compile(r"[0-9](?:[ ().\-/\xa0\u2010\u2011\u2013]{0,3}+[0-9]){5,}+")
_BEFORE, _AFTER = 24, 34
"""Characters around digits that may belong to a number: "telephone", the letters of an IBAN."""

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
_CARD = re.compile(
    r"(?<![\w.-])(?:[0-9]{13,19}|[0-9]{4}(?P<a>[ -])[0-9]{4}(?P=a)[0-9]{4}(?P=a)[0-9]{4}"
    r"|[0-9]{4}(?P<b>[ -])[0-9]{6}(?P=b)[0-9]{4,5})(?![\w-])"
)
_ISSUERS = {
    13: r"4",
    14: r"3[068]",
    15: r"3[47]",
    16: r"4|5[1-5]|2[2-7]|35|6011|64[4-9]|65",
    19: r"4|6[2-9]",
}
"""How the numbers of each length begin."""
_SSN = re.compile(r"(?<![\w-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-])")
_IPV4 = re.compile(r"(?<![\w.-])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.IGNORECASE)

_GAP = "[ .\\-/\xa0\u2010\u2011\u2013]"
_INTERNATIONAL = re.compile(rf"(?<![\w+])\+[1-9](?:{_GAP}?[()]?{_GAP}?[0-9]){{6,16}}")
_NATIONAL = re.compile(
    rf"(?<![\w.,+#/-])(?:(?:1{_GAP})?(?:\([2-9][0-9]{{2}}\){_GAP}?|[2-9][0-9]{{2}}{_GAP})"
    rf"[2-9][0-9]{{2}}{_GAP}[0-9]{{4}}"
    rf"|(?<![0-9]{{4}}{_GAP})\(?0[1-9][0-9]{{1,4}}\)?{_GAP}[0-9]{{2,}}+(?:{_GAP}[0-9]{{2,}}+){{0,4}}+)(?![\w-]|[./][0-9])"
)
_ANNOUNCED = re.compile(
    r"\b(?:phone|tel|telephone|telefon|mobile|cell|fax|call|whatsapp|sms)\b[^0-9\n]{0,20}+"
    r"(?P<number>[0-9]{10,12}+)(?![\w.,-]?[0-9])",
    re.IGNORECASE,
)


def find(text: str) -> list[Found]:
    """All finds, in order, none overlapping another."""
    taken = bytearray()
    kept = []
    for kind, start, end in _candidates(text):
        taken = taken or bytearray(len(text))
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\x01" * (end - start)
            kept.append(Found(kind, start, end))
    return sorted(kept, key=lambda found: found.start)


def mask(text: str) -> str:
    """The text with every find replaced. Masking twice is masking once."""
    # What stands next to a find can become one by its going; then there is another round.
    while found := find(text):
        parts, end = [], 0
        for kind, start, stop in found:
            parts += [text[end:start], _MASKS.get(kind, "[KEY]")]
            end = stop
        text = "".join([*parts, text[end:]])
    return text


def _candidates(text: str) -> Iterator[tuple[str, int, int]]:
    """What each rule finds; where two overlap, the first one holds."""
    yield from find_secrets(text)
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if match["name"] != "git" and not _NO_EMAIL.search(match["host"]):
                yield "e-mail", *match.span()
    characters = text.encode("latin-1", "replace")
    if _RUN[10] in characters.translate(_IN_IPV6):
        for match in _IPV6.finditer(text):
            if _is_public(match[0]):
                yield "IP address", *match.span()
    if _RUN[7] in characters.translate(_IN_NUMBER):
        for digits in _NUMBER.finditer(text):
            yield from _numbers(text, *digits.span())


def _numbers(text: str, begin: int, end: int) -> Iterator[tuple[str, int, int]]:
    """What the rules find at the digits in ``text[begin:end]``."""

    def matches(rule: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for match in rule.finditer(text, max(0, begin - _BEFORE), end + _AFTER):
            # What begins behind them may be cut off; it has its own turn, as what ends before had.
            if match.start() < end and match.end() > begin:
                yield match

    for match in matches(_IBAN):
        yield from _longest("account number", match, _is_iban)
    for match in matches(_CARD):
        digits = re.sub(r"[ -]", "", match[0])
        beginning = _ISSUERS.get(len(digits))
        if beginning and re.match(beginning, digits) and luhn.is_valid(digits):
            yield "card number", *match.span()
    for match in matches(_SSN):
        if ssn.is_valid(match[0]):
            yield "social security number", *match.span()
    for match in matches(_IPV4):
        # With fewer than two parts above 9 it could as well be a version or a clause.
        if sum(len(part) > 1 for part in match[0].split(".")) >= 2 and _is_public(match[0]):
            yield "IP address", *match.span()
    for match in matches(_INTERNATIONAL):
        yield from _longest("telephone number", match, _is_telephone)
    for match in matches(_NATIONAL):
        if _is_telephone(match[0]):
            yield "telephone number", *match.span()
    for match in matches(_ANNOUNCED):
        if _is_telephone(match["number"]):
            yield "telephone number", *match.span("number")


def _longest(
    kind: str, match: re.Match[str], is_valid: Callable[[str], bool]
) -> Iterator[tuple[str, int, int]]:
    """The match, or as much of its beginning as is valid: the next words may look like a part."""
    start, end = match.span()
    while match.string[end : end + 1].isalnum() or not is_valid(match.string[start:end]):
        end = match.string.rfind(" ", start, end)
        if end < 0:
            return
    yield kind, start, end


@functools.lru_cache(4096)
def _is_iban(written: str) -> bool:
    return iban.is_valid(written)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


@functools.lru_cache(4096)
def _is_telephone(written: str) -> bool:
    digits = re.sub(r"[^0-9+]", "", written)
    if digits.startswith("+"):
        regions: tuple[str | None, ...] = (None,)
    else:
        regions = _TRUNK_ZERO if digits.startswith("0") else _NO_TRUNK_ZERO
    for region in regions:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(digits, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False
