"""Built-in data: liability clauses in six buckets, made in near-miss pairs.

What a limitation clause does is decided in this order:

    no cap          Liability has no limit at all.
    loss exclusion  A kind of loss is excluded altogether; no limit is set to the rest.
    carve-out cap   A limit, from which at least one matter is expressly excepted.
    mutual cap      A limit without exceptions that protects both parties alike.
    fee cap         A limit without exceptions for one party, measured by fees or charges.
    fixed cap       A limit without exceptions for one party, a fixed sum of money.

Every clause has a twin in another bucket that differs from it only in what decides: a number, a
measure, an exception, a negation. Distracting facts (fees, sums, insurance, clause numbers) stand
in all buckets, so no single word gives the answer away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

LABELS = ("carve-out cap", "fee cap", "fixed cap", "loss exclusion", "mutual cap", "no cap")

PAIRS_PER_KIND = 30

# One kind for every two buckets; twins differ in what stands in brackets: [left|right].
_KINDS: dict[tuple[str, str], tuple[str, str]] = {
    ("fee cap", "fixed cap"): (
        "{Party}'s total liability {scope} shall not exceed [{fees}|{sum}].",
        "If {party} is in breach, {other} may recover its proven losses up to "
        "[{fees}|{sum}] and no more.",
    ),
    ("fee cap", "mutual cap"): (
        "The aggregate liability of [{party}|each party] {scope} is limited to {fees}.",
        "In no event shall [{party}|either party] be liable for more than {fees} {scope}.",
    ),
    ("fee cap", "carve-out cap"): (
        "{Party}'s liability {scope}, [including|except] for {matter}, shall not exceed {fees}.",
        "The liability of {party} {scope} is limited to {fees}. This limit [also|does not] "
        "[applies|apply] to {matter}.",
    ),
    ("fee cap", "no cap"): (
        "{Party}'s liability {scope} is [|not] limited to {fees}[| and shall be without limit].",
        "{Party} shall compensate {other} for every loss {scope}, [up to|even beyond] {fees}.",
    ),
    ("fee cap", "loss exclusion"): (
        "{Party} shall not be liable to {other} for any [loss in excess of {fees}|{kind}] {scope}.",
        "{Other} waives every claim {scope} against {party} for [amounts above {fees}|{kind}].",
    ),
    ("fixed cap", "mutual cap"): (
        "The total liability of [{party} to {other}|either party to the other] {scope} shall not "
        "exceed {sum}.",
        "[{Party}|Each party] shall be liable {scope} only up to {sum} in the aggregate.",
    ),
    ("fixed cap", "carve-out cap"): (
        "{Party}'s liability {scope} shall be limited to {sum}, and this limit [includes|excludes] "
        "{matter}.",
        "[Including|Except] for claims under clause {clause} concerning {matter}, the liability of "
        "{party} {scope} shall not exceed {sum}.",
    ),
    ("fixed cap", "no cap"): (
        "{Party}'s liability {scope} [ends at|is not confined to] {sum}[| and has no upper limit].",
        "{Other} may recover from {party} all losses {scope}, [but not|also] beyond {sum}.",
    ),
    ("fixed cap", "loss exclusion"): (
        "{Party} shall in no event be liable {scope} for any [damages above {sum}|{kind}].",
        "The liability of {party} for [any loss exceeding {sum}|any {kind}] {scope} is excluded.",
    ),
    ("mutual cap", "carve-out cap"): (
        "Each party's liability {scope}, [including|save] for {matter}, shall not exceed {sum}.",
        "Neither party shall be liable for more than {fees} {scope}; the same [applies|does not "
        "apply] to {matter}.",
    ),
    ("mutual cap", "no cap"): (
        "The liability of each party {scope} is [|not] limited to {sum}[|; it is unlimited].",
        "Each party shall indemnify the other against all losses {scope}, [only up to|even "
        "above] {fees}.",
    ),
    ("mutual cap", "loss exclusion"): (
        "Neither party shall be liable to the other for any [loss exceeding {sum}|{kind}] {scope}.",
        "Each party waives all claims {scope} for [amounts above {fees}|{kind}].",
    ),
    ("carve-out cap", "no cap"): (
        "{Party}'s liability {scope} is unlimited for {matter} [but otherwise limited to {sum}|and "
        "for all else, also beyond {sum}].",
        "[Only for|Not only for] {matter} shall the liability of {party} be unlimited[; all other "
        "liability {scope} ends at {sum}|; all other liability {scope} is unlimited too].",
    ),
    ("carve-out cap", "loss exclusion"): (
        "{Party} shall not be liable {scope} for any [loss above {sum}, except for {matter}|"
        "{kind}, including for {matter}].",
        "Save for [{matter}, {party} shall not be liable for more than {fees}|agreed service "
        "credits, {party} shall not be liable for {kind}] {scope}.",
    ),
    ("loss exclusion", "no cap"): (
        "{Party} shall [not be liable|be liable without limit] {scope} for {kind} suffered "
        "by {other}.",
        "{Party} shall [be exempt from compensating|compensate in full and without limit] any "
        "{kind} {scope}.",
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
_HEADS = (
    "In consideration of the fees set out in Schedule {schedule}, the parties agree as follows.",
    "The contract value is {sum}.",
    "The fees under this Agreement are due within {days} days of invoice.",
    "This clause {clause} allocates risk between the parties.",
    "{Party} maintains insurance cover of {sum}.",
    "Clause {clause} deals with invoices and is not affected.",
)
_TAILS = (
    "Claims must be notified within {days} days.",
    "The parties consider this allocation of risk reasonable.",
    "This clause survives termination of the Agreement.",
    "{Party} carries insurance of {sum} with a reputable insurer.",
    "The annual charges were agreed with this in mind.",
    "Invoices are due under clause {clause} within {days} days.",
)


def clauses(seed: int = 0) -> list[dict[str, str]]:
    """Makes 900 different clauses, 150 for each label.

    Returns:
        Rows with ``text``, ``label`` and ``group``; the twins of a near-miss pair share their
        ``group``, which keeps them in the same split.
    """
    rng = random.Random(seed)
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for labels, templates in _KINDS.items():
        pairs = _pairs(templates, rng)
        for number in range(PAIRS_PER_KIND):
            texts = next(pair for pair in pairs if seen.isdisjoint(pair))
            seen.update(texts)
            group = f"{labels[0]} / {labels[1]} / {number}"
            rows += [
                {"text": text, "label": label, "group": group}
                for text, label in zip(texts, labels, strict=True)
            ]
    return rows


def _pairs(templates: tuple[str, str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless near-miss pairs, of each template in turn."""
    while True:
        for template in templates:
            # Few words of context, so that clause and labels stay within 130 tokens.
            before, after = rng.choice([(1, 0), (0, 1)])
            parts = [*rng.sample(_HEADS, before), template, *rng.sample(_TAILS, after)]
            filled = _fill(" ".join(parts), rng)
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
        "schedule": str(rng.randint(1, 9)),
        "days": str(rng.choice((10, 14, 30, 45, 60))),
        "clause": f"{rng.randint(5, 19)}.{rng.randint(1, 6)}",
    }

    def value(match: re.Match[str]) -> str:
        # Sums are drawn anew at each place: the contract value is not the limit.
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
