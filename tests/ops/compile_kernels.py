"""Compiles every kernel with every setting of the launch table, one JSON line each; no GPU needed.

python -m tests.ops.compile_kernels 90
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from doratune.ops.dora_linear import triton as dora_linear
from doratune.ops.dora_linear import triton_small
from doratune.ops.launch_table import TABLE
from doratune.ops.weight_norm import triton as weight_norm

FLOAT = "*fp32"
ALWAYS_FLOAT = {"g_ptr", "part_ptr", "w2_ptr", "gram_ptr", "zero_ptr", "n2_ptr", "dg_ptr", "sB_ptr"}
SCALARS = {"scaling": "fp32", "limit": "fp32", "seed_ptr": "*i64", "threshold": "i32"}
UNIT_STRIDES = {
    f"{tensor}_stride_{axis}": 1
    for axis, tensors in {
        "O": ["y", "dy"],
        "I": ["W", "A", "x"],
        "R": ["h", "gB", "B", "sB", "product"],
    }.items()
    for tensor in tensors
}
OPTIONS = {"num_warps", "num_stages"}


def compile_kernel(
    kernel: Any, architecture: int, width: int, settings: dict[str, object]
) -> dict[str, int]:
    """Registers, spilled and shared bytes of a kernel for contiguous, aligned tensors."""
    constants = UNIT_STRIDES | {k: v for k, v in settings.items() if k not in OPTIONS}
    signature: dict[str, str] = {}
    for name in kernel.arg_names:
        element = FLOAT if width == 4 or name in ALWAYS_FLOAT else "*bf16"
        kind = SCALARS.get(name, element if name.endswith("_ptr") else "i32")
        signature[name] = "constexpr" if name in constants else kind
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={places[n]: constants[n] for n in signature if n in constants},
        attrs={
            places[n]: [["tt.divisibility", 16]]
            for n, kind in signature.items()
            if kind not in {"constexpr", "fp32"} and n != "threshold"
        },
    )
    options = {k: v for k, v in settings.items() if k in OPTIONS}
    built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    registers, stack = _usage(built.asm["cubin"])
    return {"registers": registers, "stack_bytes": stack, "shared_bytes": built.metadata.shared}


def _usage(cubin: bytes) -> tuple[int, int]:
    tool = Path(nvidia.__path__[0]) / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def variants(name: str, row: dict[str, int]) -> Iterator[tuple[Any, dict[str, object]]]:
    """A kernel with what its wrapper adds to a row of the table."""
    if name == "scale_up":
        dot = {"PRECISION": "ieee", "UPCAST": False}
        for rank in (16, 64, 128):
            block = {"BLOCK_R": min(row["BLOCK_R"], rank)}
            yield dora_linear._scale_up_kernel, row | {"R": rank} | block | dot
    elif name == "scale_grad":
        for absent in ({}, {"bias_ptr": None}, {"dbase_ptr": None}):
            yield dora_linear._scale_grad_kernel, row | absent
    elif name == "dropout":
        yield dora_linear._dropout_kernel, row
    else:
        for rank in (16, 64, 128):
            block = {"BLOCK_R": min(row["BLOCK_R"], rank)}
            more = {"R": rank, "CANCELLED": 0.25, "num_stages": 1}
            yield weight_norm._finish_norm_kernel, row | block | more


def main(architecture: int) -> None:
    for (name, of, width, limit), row in TABLE.items():
        if of == architecture:
            for kernel, settings in variants(name, row):
                found = compile_kernel(kernel, architecture, width, settings)
                print(json.dumps({"kernel": name, "width": width, "limit": limit} | found))
    small = {"R": 16, "BLOCK_O": 16, "BLOCK": 32, "num_warps": 4, "num_stages": 1}
    for width in (2, 4):
        found = compile_kernel(triton_small._repair_small_kernel, architecture, width, dict(small))
        print(json.dumps({"kernel": "repair_small", "width": width} | found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
