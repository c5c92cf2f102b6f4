"""Launch settings of the GPU kernels; `benchmarks/tune_kernels.py --write` rewrites this file.

Keys are (kernel, architecture, bytes per element, limit); the first row whose limit is not below the
size in question applies. The limit is the rank for ``scale_up`` and ``finish_norm``, the number of
tokens for ``scale_grad`` and the number of elements for ``dropout``. Values are block sizes and
``num_warps``. Origin: chosen by counting bytes and registers, not yet measured.
"""

from __future__ import annotations

LAST = 1 << 62
"""Limit of the last row of a kernel."""

Key = tuple[str, int, int, int]

TABLE: dict[Key, dict[str, int]] = {
    # One tile is read and written once; 32 x 128 keeps 32 accumulators a thread at 4 warps.
    ("scale_up", 80, 2, 64): {"BLOCK_T": 32, "BLOCK_O": 128, "BLOCK_R": 64, "num_warps": 4},
    ("scale_up", 80, 2, LAST): {"BLOCK_T": 32, "BLOCK_O": 128, "BLOCK_R": 64, "num_warps": 8},
    ("scale_up", 80, 4, LAST): {"BLOCK_T": 32, "BLOCK_O": 64, "BLOCK_R": 32, "num_warps": 4},
    ("scale_up", 90, 2, 64): {"BLOCK_T": 64, "BLOCK_O": 128, "BLOCK_R": 64, "num_warps": 8},
    ("scale_up", 90, 2, LAST): {"BLOCK_T": 64, "BLOCK_O": 128, "BLOCK_R": 64, "num_warps": 8},
    ("scale_up", 90, 4, LAST): {"BLOCK_T": 32, "BLOCK_O": 64, "BLOCK_R": 32, "num_warps": 4},
    # BLOCK_S tokens are summed by one program: few for small batches, so that all SMs have work.
    ("scale_grad", 80, 2, 1024): {"BLOCK_T": 16, "BLOCK_O": 128, "BLOCK_S": 64, "num_warps": 4},
    ("scale_grad", 80, 2, LAST): {"BLOCK_T": 16, "BLOCK_O": 128, "BLOCK_S": 256, "num_warps": 4},
    ("scale_grad", 80, 4, 1024): {"BLOCK_T": 16, "BLOCK_O": 64, "BLOCK_S": 64, "num_warps": 4},
    ("scale_grad", 80, 4, LAST): {"BLOCK_T": 16, "BLOCK_O": 64, "BLOCK_S": 256, "num_warps": 4},
    ("scale_grad", 90, 2, 1024): {"BLOCK_T": 16, "BLOCK_O": 128, "BLOCK_S": 64, "num_warps": 4},
    ("scale_grad", 90, 2, LAST): {"BLOCK_T": 16, "BLOCK_O": 256, "BLOCK_S": 256, "num_warps": 8},
    ("scale_grad", 90, 4, 1024): {"BLOCK_T": 16, "BLOCK_O": 64, "BLOCK_S": 64, "num_warps": 4},
    ("scale_grad", 90, 4, LAST): {"BLOCK_T": 16, "BLOCK_O": 128, "BLOCK_S": 256, "num_warps": 8},
    ("dropout", 80, 2, LAST): {"BLOCK": 2048, "num_warps": 4},
    ("dropout", 80, 4, LAST): {"BLOCK": 2048, "num_warps": 4},
    ("dropout", 90, 2, LAST): {"BLOCK": 2048, "num_warps": 4},
    ("dropout", 90, 4, LAST): {"BLOCK": 2048, "num_warps": 4},
    # Float32 products on plain cores: small tiles, many programs. BLOCK_I is for rare rows only.
    ("finish_norm", 80, 4, LAST): {"BLOCK_O": 32, "BLOCK_R": 32, "BLOCK_I": 64, "num_warps": 4},
    ("finish_norm", 90, 4, LAST): {"BLOCK_O": 32, "BLOCK_R": 32, "BLOCK_I": 64, "num_warps": 4},
}
