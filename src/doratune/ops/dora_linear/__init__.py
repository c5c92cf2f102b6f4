"""The DoRA epilogue of a linear layer: low-rank branch, scale and bias, on top of the base result."""

from doratune.ops.dora_linear.eager import ZERO_NORM, dora_linear

__all__ = ["ZERO_NORM", "dora_linear"]
