"""DoRA as tensors in, tensors out. One folder per op; ``reference.py`` is the definition."""

from doratune.ops.dora_linear import dora_linear, infer_, mag_norm_scale
from doratune.ops.weight_norm import ZERO_NORM, BaseWeight, direction_change, weight_norm

__all__ = [
    "ZERO_NORM",
    "BaseWeight",
    "direction_change",
    "dora_linear",
    "infer_",
    "mag_norm_scale",
    "weight_norm",
]
