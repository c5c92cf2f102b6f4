"""What rounding to a precision costs: the unit roundoff, from which all limits follow."""

from __future__ import annotations

import torch

ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Largest relative error of rounding to nearest."""

Q8_0 = 2.0**-6
"""Of llama.cpp's 8 bits, that of bf16 times 4, by the mean square: a step of 1/127 of the largest of 32
normal values (2.07 deviations) is off by 0.47 % of a deviation, bf16 by 0.17 % of a value, and llama.cpp
rounds what a layer is given to q8_0 too. So 21 u squared would be a mean KL of 5.1e-3; SmolLM2-135M
showed 5.9e-3."""


def roundoff_of(dtype: torch.dtype) -> float:
    """The unit roundoff of a tensor's precision; 0 for one that no model computes in."""
    return ROUNDOFF.get(str(dtype).removeprefix("torch."), 0.0)
