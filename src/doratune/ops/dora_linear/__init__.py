"""The DoRA epilogue of a linear layer: low-rank branch, scale and bias, on top of the base result."""

from doratune.ops.dora_linear.eager import infer_
from doratune.ops.dora_linear.function import dora_linear, mag_norm_scale

__all__ = ["dora_linear", "infer_", "mag_norm_scale"]
