"""DoRA as tensors in, tensors out. One folder per op; ``reference.py`` is the definition."""

from doratune.ops.dora_linear import ZERO_NORM, dora_linear
from doratune.ops.weight_norm import BaseWeight, direction_change, weight_norm

__all__ = ["ZERO_NORM", "BaseWeight", "direction_change", "dora_linear", "weight_norm"]
