"""The definition, in float64 and with the adapted weight formed.

O out_features, I in_features, R rank.
"""

from __future__ import annotations

from torch import Tensor


def weight_norm(W_OI: Tensor, A_RI: Tensor, B_OR: Tensor, scaling: float) -> Tensor:
    """Norm of every output feature of ``W + scaling B A``.

    Returns:
        ``(O,)``, float64.
    """
    V_OI = W_OI.double() + scaling * (B_OR.double() @ A_RI.double())
    return V_OI.square().sum(1).sqrt()
