"""Norm of every output feature of an adapted weight, without forming it."""

from doratune.ops.weight_norm.eager import ZERO_NORM, BaseWeight, direction_change, weight_norm

__all__ = ["ZERO_NORM", "BaseWeight", "direction_change", "weight_norm"]
