"""Random DoRA layers for the op tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from doratune.ops import BaseWeight

SCALING = 2.0


class Layer(NamedTuple):
    W: Tensor
    A: Tensor
    B: Tensor
    m: Tensor
    bias: Tensor | None

    @property
    def base(self) -> BaseWeight:
        return BaseWeight(
            self.W.float().square().sum(1),
            lambda A: self.W @ A.to(self.W.dtype).T,
            lambda rows: self.W[rows],
        )


def random_layer(
    O: int, I: int, R: int, dtype: torch.dtype, bias: bool = False, seed: int = 0
) -> Layer:
    """Weights of the usual sizes: W about 1/sqrt(I), an update of some percent, g within 10 %."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    W = (normal(O, I) / I**0.5).to(dtype)
    A = normal(R, I) / I**0.5
    B = 0.1 * normal(O, R)
    m = W.double().norm(dim=1) * (1 + 0.1 * normal(O)).double()
    return Layer(W, A, B, m.float(), normal(O).to(dtype) if bias else None)


def plain_weight_norm(layer: Layer) -> Tensor:
    """Dense, in the precision of W."""
    dtype = layer.W.dtype
    V = layer.W + SCALING * (layer.B.to(dtype) @ layer.A.to(dtype))
    return torch.linalg.norm(V, dim=1)
