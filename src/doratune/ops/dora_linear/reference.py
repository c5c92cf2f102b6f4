"""The definition, in float64 and through autograd.

T tokens, O out_features, I in_features, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from doratune.ops.weight_norm.reference import weight_norm


def dora_linear(
    x_TI: Tensor,
    W_OI: Tensor,
    A_RI: Tensor,
    B_OR: Tensor,
    m_O: Tensor,
    scaling: float,
    bias_O: Tensor | None = None,
    dropped_x_TI: Tensor | None = None,
) -> Tensor:
    """``y = g (x W^T + scaling drop(x) A^T B^T) + bias`` with ``g = m / n`` and n constant for autograd.

    Args:
        x_TI: Input.
        W_OI: Base weight.
        A_RI: ``lora_A``.
        B_OR: ``lora_B``.
        m_O: Magnitude.
        scaling: Factor of the low-rank branch.
        bias_O: Bias of the base layer, outside the scale.
        dropped_x_TI: Input of the low-rank branch after dropout; ``x_TI`` itself when None.

    Returns:
        (T, O), float64. Rows of the adapted weight with norm 0 have ``g = 1``.
    """
    x_TI, W_OI, A_RI, B_OR, m_O = (t.double() for t in (x_TI, W_OI, A_RI, B_OR, m_O))
    low_TI = x_TI if dropped_x_TI is None else dropped_x_TI.double()
    n_O = weight_norm(W_OI, A_RI, B_OR, scaling).detach()
    g_O = torch.where(n_O > 0, m_O / n_O, 1.0)
    y_TO = g_O * (x_TI @ W_OI.T + scaling * (low_TI @ A_RI.T) @ B_OR.T)
    return y_TO if bias_O is None else y_TO + bias_O.double()
