"""How small a difference a paired comparison of right answers can show."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm

ASSUMED_DISCORDANCE = 0.2
"""Share of questions that one model answers right and the other wrong, before it is known."""
_Z_SIGNIFICANT = float(norm.ppf(0.975))
_Z_POWER = float(norm.ppf(0.8))


def smallest_detectable(num_questions: float, discordance: float) -> float:
    """Smallest true difference that McNemar's test finds in 80 % of all samples, two-sided at 5 %.

    Solves Connor's formula (Biometrics 43, 1987) for the difference d at discordance p and n questions:
    ``sqrt(n) d = 1.96 sqrt(p) + 0.84 sqrt(p - d^2)``. Where p is too small for any difference to be
    found, all discordant questions are taken to be in favour of one model, so that p is d.

    Args:
        num_questions: At least 1.
        discordance: Share of questions that exactly one of the models answers right, in [0, 1].

    Returns:
        A share of the questions, in (0, 1]; 1 where even that would not be found.
    """

    def lack(difference: float) -> float:
        share = max(discordance, difference)
        spread = _Z_SIGNIFICANT * math.sqrt(share)
        spread += _Z_POWER * math.sqrt(share - difference**2)
        return math.sqrt(num_questions) * difference - spread

    if lack(1.0) <= 0:
        return 1.0
    return float(brentq(lack, 1e-9, 1.0))
