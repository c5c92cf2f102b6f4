"""One tensor of a merged checkpoint, formed and rounded in blocks of rows that stay in the cache.

A block is read, widened to float32, changed, rounded to the merged precision and handed on before the
next is touched. The norms of DoRA are those of output features. Where these are the rows of the stored
weight, one pass does all; where they are its columns (`fan_in_fan_out`), a first pass takes the norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from doratune.adapter import LayerDelta
from doratune.errors import ModelError
from doratune.ops import ZERO_NORM
from doratune.ship.merging.weight import mag_norm_scale_of, stored_factors

BLOCK_ELEMENTS = 1 << 18
"""1 MB in float32. Handed on in pieces of 4 MB, a merge took 1.7 times as long, in the kernel."""


class Rows(Protocol):
    """A base tensor, by its elements."""

    def read(self, start: int, stop: int) -> Tensor:
        """Elements as a flat tensor, in stored precision; valid until the next call."""


Write = Callable[[int, Tensor], None]
"""Takes the first element's number and a block, which may change again once the call is back."""


class Part(NamedTuple):
    """An adapter's change of one tensor, and how much of it is wanted."""

    delta: LayerDelta
    weight: float = 1.0


def cast_rows(name: str, rows: Rows, size: int, dtype: torch.dtype, write: Write) -> None:
    """Copies a tensor into another precision.

    Raises:
        ModelError: A finite value would become infinite.
    """
    for start in range(0, size, BLOCK_ELEMENTS):
        write(start, rounded(name, rows.read(start, min(size, start + BLOCK_ELEMENTS)), dtype))


def merge_rows(
    name: str, rows: Rows, parts: Sequence[Part], dtype: torch.dtype, write: Write
) -> None:
    """Forms ``W + sum_i weight_i (W'_i - W)`` with ``W'_i = (m_i / n_i) (W + s_i B_i A_i)``.

    Every n_i is taken of W with that adapter alone. One adapter of weight 1 gives W' itself.

    Args:
        name: The tensor, for messages.
        rows: The base weight.
        parts: All adapters that change it, their shapes fit.
        dtype: Precision of the result.
        write: Takes the result.

    Raises:
        ModelError: A finite value would become infinite.
    """
    matrix = _Matrix(name, rows, parts, dtype, write)
    by_columns = parts[0].delta.fan_in_fan_out
    scales = [matrix.column_scale(part) if by_columns else None for part in matrix.parts]
    for block in matrix.blocks():
        matrix.write_block(block, scales)
    if not by_columns:
        matrix.rewrite_zero_rows()


class _Span(NamedTuple):
    """Rows of one expert's matrix."""

    expert: int
    start: int
    stop: int


class _Factors(NamedTuple):
    """One adapter's factors in stored layout, float32."""

    left: Tensor
    """(experts, rows, r)."""
    right: Tensor
    """(experts, r, columns)."""
    scaling: float
    magnitude: Tensor | None
    weight: float
    norms: Tensor
    """Of the adapted rows, as far as they have been computed; LoRA has none."""


class _Matrix:
    """A weight as rows of stored layout, and the buffers for one block of it."""

    def __init__(
        self, name: str, rows: Rows, parts: Sequence[Part], dtype: torch.dtype, write: Write
    ) -> None:
        self.name, self.rows, self.dtype, self.write = name, rows, dtype, write
        self.parts = [_factors(part) for part in parts]
        self.num_experts, self.height = self.parts[0].left.shape[:2]
        self.width = self.parts[0].right.shape[2]
        block = self._block_rows()
        self.base = torch.empty(block, self.width)
        self.total = torch.empty(block, self.width)
        self.adapted = torch.empty(block, self.width) if self._is_sum() else self.total
        self.out = torch.empty(block, self.width, dtype=dtype)
        self.may_overflow = self._is_sum() or not _is_bounded(self.parts[0], dtype)

    def _is_sum(self) -> bool:
        return len(self.parts) > 1 or self.parts[0].weight != 1

    def _block_rows(self) -> int:
        return min(self.height, max(1, BLOCK_ELEMENTS // self.width))

    def blocks(self) -> Iterator[_Span]:
        """The whole weight, a block after the other."""
        step = self._block_rows()
        for expert in range(self.num_experts):
            for start in range(0, self.height, step):
                yield _Span(expert, start, min(self.height, start + step))

    def write_block(self, span: _Span, scales: Sequence[Tensor | None]) -> None:
        """Forms and hands on one block; ``scales`` are those of columns, rows find their own."""
        stored, count = self._read(span), span.stop - span.start
        total, out = self.total[:count], self.out[:count]
        if self._is_sum():
            self.base[:count].copy_(stored)
            total.copy_(stored)
        for part, scale in zip(self.parts, scales, strict=True):
            adapted = self.adapt(stored, part, span)
            if scale is not None:
                adapted *= scale
            elif part.magnitude is not None:
                n_K = torch.linalg.vector_norm(adapted, dim=1)
                part.norms[span.start : span.stop] = n_K
                g_K = torch.where(n_K > 0, part.magnitude[span.start : span.stop] / n_K, 1.0)
                adapted *= g_K[:, None]
            if self._is_sum():
                total.add_(adapted.sub_(self.base[:count]), alpha=part.weight)
        out.copy_(total)
        # A finite sum is one of finite values: one pass, where comparing every value takes three.
        if self.may_overflow and not out.sum(dtype=torch.float32).isfinite():
            _refuse_overflow(self.name, total, out)
        self.write((span.expert * self.height + span.start) * self.width, out)

    def _read(self, span: _Span) -> Tensor:
        first = (span.expert * self.height + span.start) * self.width
        count = span.stop - span.start
        return self.rows.read(first, first + count * self.width).view(count, self.width)

    def adapt(self, stored: Tensor, part: _Factors, span: _Span) -> Tensor:
        """``W + s B A`` of one block, in the buffer for it."""
        expert, start, stop = span
        V_KC = self.adapted[: stop - start].copy_(stored)
        return V_KC.addmm_(part.left[expert, start:stop], part.right[expert], alpha=part.scaling)

    def column_scale(self, part: _Factors) -> Tensor | None:
        """G of every column, from a pass over the whole weight; None for LoRA."""
        if part.magnitude is None:
            return None
        squares_C = torch.zeros(self.width, dtype=torch.float64)
        for block in self.blocks():
            V_KC = self.adapt(self._read(block), part, block)
            # Down the rows, float32 loses a bit with every doubling of their number.
            squares_C += V_KC.double().square().sum(0)
        return mag_norm_scale_of(squares_C.sqrt().float(), part.magnitude)

    def rewrite_zero_rows(self) -> None:
        """Writes again the rows whose norm turned out to count as zero beside the others'."""
        zero = torch.zeros(self.height, dtype=torch.bool)
        for part in self.parts:
            if part.magnitude is not None:
                zero |= (part.norms > 0) & (part.norms <= ZERO_NORM * part.norms.amax())
        scales = [
            None if p.magnitude is None else mag_norm_scale_of(p.norms, p.magnitude)
            for p in self.parts
        ]
        self.may_overflow = True  # they are not bounded by their magnitudes
        for row in zero.nonzero().flatten().tolist():
            of_row = [None if scale is None else scale[row] for scale in scales]
            self.write_block(_Span(0, row, row + 1), of_row)


def _is_bounded(part: _Factors, dtype: torch.dtype) -> bool:
    """Whether the magnitudes keep every value of the weight within ``dtype``."""
    if part.magnitude is None:
        return False
    return part.magnitude.abs().max().item() < torch.finfo(dtype).max / 2


def _factors(part: Part) -> _Factors:
    delta = part.delta
    left, right = stored_factors(delta)
    magnitude = delta.magnitude
    return _Factors(
        left.float().contiguous(),
        right.float().contiguous(),
        delta.scaling,
        None if magnitude is None else magnitude.float(),
        part.weight,
        torch.zeros(0 if magnitude is None else len(magnitude)),
    )


def rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts floating-point values to the nearest in ``dtype``; other tensors stay.

    Raises:
        ModelError: A finite value has become infinite.
    """
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    _refuse_overflow(name, tensor, cast)
    return cast


def _refuse_overflow(name: str, tensor: Tensor, cast: Tensor) -> None:
    if (cast.isinf() & tensor.isfinite()).any():
        raise ModelError(
            f"{name} holds values up to {tensor.abs().max().item():.6g}, and {cast.dtype} ends at "
            f"{torch.finfo(cast.dtype).max:.6g}. Set merge.dtype to bfloat16 or float32."
        )
