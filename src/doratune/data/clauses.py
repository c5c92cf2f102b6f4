"""Built-in data: liability clauses in six buckets, made in near-miss pairs.

What a limitation clause does is decided in this order:

    no cap          Liability has no limit at all.
    loss exclusion  A kind of loss is excluded altogether; no limit is set to the rest.
    carve-out cap   A limit, from which at least one matter is expressly excepted.
    mutual cap      A limit without exceptions that protects both parties alike.
    fee cap         A limit without exceptions for one party, measured by fees or charges.
    fixed cap       A limit without exceptions for one party, a fixed sum of money.

Every clause has a twin in another bucket that differs from it only in what decides: a number, a
measure, an exception, a negation. Parties, sums, fees and matters stand in all buckets, so that no
single word gives the answer away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

LABELS = ("carve-out cap", "fee cap", "fixed cap", "loss exclusion", "mutual cap", "no cap")

PAIRS_PER_KIND = 34

# Every bucket in three kinds of pairs; twins differ in what stands in brackets: [left|right].
_KINDS: dict[tuple[str, str], str] = {
    ("fee cap", "fixed cap"): "{Party}'s total liability {scope} shall not exceed [{fees}|{sum}].",
    ("fee cap", "no cap"): (
        "{Party}'s liability {scope} is [|unlimited and not ]limited to {fees}."
    ),
    ("fee cap", "loss exclusion"): (
        "{Party} shall not be liable to {other} for any [loss in excess of {fees}|{kind}] {scope}."
    ),
    ("fixed cap", "mutual cap"): (
        "The total liability of [{party} to {other}|either party to the other] {scope} shall not "
        "exceed {sum}."
    ),
    ("fixed cap", "carve-out cap"): (
        "[As|Except as] provided in clause {clause} for {matter}, the liability of {party} {scope} "
        "shall not exceed {sum}."
    ),
    ("mutual cap", "carve-out cap"): (
        "Each party's liability {scope}, [including|save] for {matter}, shall not exceed {sum}."
    ),
    ("mutual cap", "no cap"): (
        "The liability of each party {scope} is [|unlimited and not ]limited to {sum}."
    ),
    ("carve-out cap", "loss exclusion"): (
        "{Party} shall not be liable {scope} for any [loss above {sum}, except for {matter}|"
        "{kind}, including for {matter}]."
    ),
    ("loss exclusion", "no cap"): (
        "{Party} shall [not be liable|be liable without limit] to {other} for any {kind} {scope}."
    ),
}

_PARTIES = (
    ("the Supplier", "the Customer"),
    ("the Contractor", "the Client"),
    ("the Licensor", "the Licensee"),
    ("the Service Provider", "the Buyer"),
    ("the Consultant", "the Company"),
    ("the Vendor", "the Purchaser"),
    ("Northgate Systems", "Alder Bank"),
    ("Halden Analytics", "the Borrower"),
    ("Meridian Cloud", "Kestrel Insurance"),
)
_SCOPES = (
    "under this Agreement",
    "arising out of this Agreement",
    "in any contract year",
    "under or in connection with this Agreement",
    "in contract, tort or otherwise",
    "under the relevant Order",
    "in connection with the Services",
)
_FEES = (
    "{percent} per cent of the fees paid in the preceding {months} months",
    "the charges payable in the {months} months before the claim",
    "the fees paid for the Services in the last {months} months",
    "{percent} per cent of the annual charges",
)
_MATTERS = (
    "breach of confidentiality",
    "fraud or wilful misconduct",
    "infringement of intellectual property rights",
    "death or personal injury",
    "breach of data protection law",
    "gross negligence",
)
_KINDS_OF_LOSS = (
    "indirect or consequential loss",
    "loss of profit, revenue or goodwill",
    "loss of data or business interruption",
    "special or punitive damages",
    "loss of anticipated savings",
)


def clauses(seed: int = 0) -> list[dict[str, str]]:
    """Makes 612 different clauses, 102 for each label.

    Returns:
        Rows with ``text``, ``label`` and ``group``; the twins of a near-miss pair share their
        ``group``, which keeps them in the same split.
    """
    rng = random.Random(seed)
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for labels, template in _KINDS.items():
        pairs = _pairs(template, rng)
        for number in range(PAIRS_PER_KIND):
            texts = next(pair for pair in pairs if seen.isdisjoint(pair))
            seen.update(texts)
            group = f"{labels[0]} / {labels[1]} / {number}"
            rows += [
                {"text": text, "label": label, "group": group}
                for text, label in zip(texts, labels, strict=True)
            ]
    return rows


def _pairs(template: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless near-miss pairs."""
    while True:
        filled = _fill(template, rng)
        yield _side(filled, 1), _side(filled, 2)


def _fill(template: str, rng: random.Random) -> str:
    """Fills every slot with one draw, the same for both twins."""
    party, other = rng.choice(_PARTIES)
    slots = {
        "party": party,
        "Party": party[0].upper() + party[1:],
        "other": other,
        "Other": other[0].upper() + other[1:],
        "scope": rng.choice(_SCOPES),
        "fees": rng.choice(_FEES),
        "matter": rng.choice(_MATTERS),
        "kind": rng.choice(_KINDS_OF_LOSS),
        "percent": str(rng.choice((50, 75, 100, 110, 125, 150, 200))),
        "months": rng.choice(("three", "six", "12", "18", "24")),
        "clause": f"{rng.randint(5, 19)}.{rng.randint(1, 6)}",
    }

    def value(match: re.Match[str]) -> str:
        return _sum(rng) if match[1] == "sum" else slots[match[1]]

    return re.sub(r"\{(\w+)\}", value, re.sub(r"\{(fees)\}", value, template))


def _sum(rng: random.Random) -> str:
    currency = rng.choice(("EUR", "USD", "GBP", "CHF"))
    if rng.random() < 0.4:
        return f"{currency} {rng.choice((1, 2, 3, 5, 10, 1.5, 2.5))} million"
    return f"{currency} {rng.choice((25, 40, 50, 75, 100, 150, 200, 250, 400, 500, 750)):,},000"


def _side(text: str, side: int) -> str:
    """One of the two twins: the left or the right of every bracket."""
    chosen = re.sub(r"\[([^|\]]*)\|([^|\]]*)\]", lambda match: match[side], text)
    return re.sub(r" +", " ", chosen)
