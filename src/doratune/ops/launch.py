"""How the GPU kernels are launched: settings from a table in the repository, never tuned while running.

A tuner at run time would stall first steps and could pick another tile, and with it other roundings,
in every process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os

import torch
from torch import Tensor

from doratune.ops.launch_table import TABLE

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels compute; everything else, float64 among it, belongs to the eager backend."""


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on any device (tests without a GPU)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def uses_triton(like: Tensor) -> bool:
    """Whether the GPU kernels run for a tensor: on a GPU, with Triton installed, in their dtypes."""
    return like.is_cuda and like.dtype in DTYPES and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def on(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes a tensor's GPU the current one, where Triton launches; does nothing for a CPU tensor."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def settings(kernel: str, like: Tensor, size: int) -> dict[str, int]:
    """Block sizes and ``num_warps`` for a launch.

    Args:
        kernel: Name of a kernel in `launch_table`.
        like: Tensor whose device and bytes per element count.
        size: What the limits of this kernel's rows are compared with.
    """
    return _row(kernel, _architecture(like.device), like.element_size(), size)


@functools.cache
def _architecture(device: torch.device) -> int:
    """The newest architecture in the table that is not newer than the device: 80 or 90."""
    if device.type != "cuda" or torch.version.hip:
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return max((key[1] for key in TABLE if key[1] <= 10 * major + minor), default=80)


def _row(kernel: str, architecture: int, width: int, size: int) -> dict[str, int]:
    limits = [key for key in TABLE if key[:3] == (kernel, architecture, width) and size <= key[3]]
    return dict(TABLE[min(limits)])


def dot_options() -> dict[str, object]:
    """How a kernel multiplies tiles: as exactly as PyTorch would, per its float32 precision setting."""
    exact = torch.get_float32_matmul_precision() == "highest"
    # Triton 3.9's interpreter multiplies bf16 tiles as if they were integers (error 1e11).
    return {"PRECISION": "ieee" if exact else "tf32", "UPCAST": interpreted()}


def check_dtypes(*tensors: Tensor | None) -> None:
    """Raises on a dtype that the kernels would round.

    Raises:
        TypeError: Neither float32, bfloat16 nor float16.
    """
    for tensor in tensors:
        if tensor is not None and tensor.dtype not in DTYPES:
            raise TypeError(f"the GPU kernels compute {DTYPES}, not {tensor.dtype}: use eager")
