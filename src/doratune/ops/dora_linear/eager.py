"""The (T, O) and (T, I) work of `dora_linear` as plain PyTorch, for every device.

T tokens, O out_features, I in_features, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

RANDOM_BITS = 16
"""Random bits that decide on one element. ``bernoulli_`` draws 32 and takes 9.0 ms for 512 x 1536
elements on two CPU cores; four decisions from one 64-bit draw take 1.7."""

PIECE = 1 << 21
"""Elements of a narrow type that are made float32 at a time, 8 MiB: few enough to stay in the cache, as
new pages cost more than the arithmetic (35 ms for 2048 x 4096 at once, 5 in pieces), and enough for two
cores: an operation on a piece of 1 MiB waits longer for its threads than it computes."""


def scale_up_(
    y_TO: Tensor, h_TR: Tensor, gB_OR: Tensor, g_O: Tensor, bias_O: Tensor | None
) -> None:
    """``y := g (y - bias) + bias + h gB^T`` in place, so arranged that g = 1 and gB = 0 change no bit.

    Rounded once, at the end: in bf16 2.35e-3 from float64 in one layer; after the scale too, 2.87e-3.

    Args:
        y_TO: Base result, overwritten.
        h_TR: Low-rank activations, dtype of y.
        gB_OR: ``scaling g B``, dtype of y.
        g_O: Scale, float32.
        bias_O: Bias that the base result holds.
    """
    rest_O = None if bias_O is None else (1 - g_O) * bias_O
    wide = torch.promote_types(y_TO.dtype, torch.float32)
    gB_RO = gB_OR.T.to(wide)
    for y_KO, h_KR in _pieces(y_TO, h_TR):
        wide_KO = y_KO.to(wide).mul_(g_O)
        if rest_O is not None:
            wide_KO.add_(rest_O)
        wide_KO.addmm_(h_KR.to(wide), gB_RO)
        if wide_KO is not y_KO:
            y_KO.copy_(wide_KO)


def scale_grad(
    dy_TO: Tensor, y_TO: Tensor, g_O: Tensor, bias_O: Tensor | None, needs_base: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradient of the base result, ``g dy``, and of the scale times the scale, ``Σ_t dy (y - bias)``.

    Returns:
        (T, O) in dtype of dy, None unless ``needs_base``; and (O,), float32.
    """
    if dy_TO.is_cpu and dy_TO.itemsize < 4 and dy_TO.numel():  # the batch norm divides by T
        return _scale_narrow_grad(dy_TO, y_TO, g_O, bias_O, needs_base)
    wide = torch.promote_types(dy_TO.dtype, torch.float32)
    dbase_TO = torch.empty_like(dy_TO) if needs_base else None
    # The products lie in the memory of g dy before that is made: a new one costs its pages.
    place = dbase_TO if dy_TO.dtype is wide else None
    if bias_O is None:
        product_TO = torch.mul(dy_TO.to(wide), y_TO, out=place)
    else:
        # Before the product: a bias of ten times the rest would leave its rounding in every term.
        product_TO = torch.sub(y_TO.to(wide), bias_O, out=place).mul_(dy_TO)
    sums_O = product_TO.sum(0)
    if dbase_TO is not None:
        torch.mul(dy_TO, g_O, out=dbase_TO)
    return dbase_TO, sums_O.float()


def _scale_narrow_grad(
    dy_TO: Tensor, y_TO: Tensor, g_O: Tensor, bias_O: Tensor | None, needs_base: bool
) -> tuple[Tensor | None, Tensor]:
    """The same, for bf16 and fp16 on a CPU, as the gradients of a batch norm.

    With mean ``bias``, variance 1 and weight g they are these two, and PyTorch takes them in one pass
    that sums in float32: 0.52 ms for 1024 x 1536 on one core, where separate operations take 2.2.
    """
    mean_O = torch.zeros_like(g_O) if bias_O is None else bias_O.to(g_O.dtype)
    dbase_TO, sums_O, _ = torch.ops.aten.native_batch_norm_backward(
        dy_TO.contiguous(), y_TO.contiguous(), g_O, mean_O, torch.ones_like(g_O), None, None, False, 0.0,
        [needs_base, True, False],
    )  # fmt: skip
    return (dbase_TO if needs_base else None), sums_O


def infer_(
    y_TO: Tensor,
    x_TI: Tensor,
    A_IR: Tensor,
    B_RO: Tensor,
    scaling: float,
    g_O: Tensor,
    rest_O: Tensor | None,
) -> None:
    """The output in place of the base result y, where no gradient is wanted.

    The products run in the dtype of A and B. On a CPU float32 is the faster one: a bf16 product takes
    15 µs to start, in float32 2, and the output is rounded once. ``B`` is read instead of ``g B``, which
    would be one more thing to fetch for every token.

    Args:
        y_TO: Base result, overwritten.
        x_TI: Input of the layer, any float dtype.
        A_IR: ``lora_A``, transposed.
        B_RO: ``lora_B``, transposed, dtype of A.
        scaling: Factor of the low-rank branch.
        g_O: Scale, float32.
        rest_O: ``(1 - g) bias``, float32.
    """
    dtype = A_IR.dtype
    for y_KO, x_KI in _pieces(y_TO, x_TI):
        wide_KO = y_KO if y_KO.dtype is dtype else y_KO.to(dtype)
        h_KR = torch.mm(x_KI if x_KI.dtype is dtype else x_KI.to(dtype), A_IR)
        wide_KO.addmm_(h_KR, B_RO, alpha=scaling).mul_(g_O)
        if rest_O is not None:
            wide_KO.add_(rest_O)
        if wide_KO is not y_KO:
            y_KO.copy_(wide_KO)


def _pieces(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Some rows of all of them, then the next ones; all at once on a GPU, or if wide already."""
    one = tensors[0]
    if one.numel() <= PIECE or not one.is_cpu or one.itemsize >= 4:
        return (tensors,)
    step = max(1, PIECE // one.shape[1])
    return zip(*[tensor.split(step) for tensor in tensors], strict=True)


def draw_mask(x_TI: Tensor, dropout_p: float) -> Tensor:
    """Which elements dropout keeps, bool, from PyTorch's default generator of the device.

    An element is dropped with probability ``dropout_p``, a multiple of 2^-RANDOM_BITS.
    """
    elements = x_TI.numel()
    per_draw = 64 // RANDOM_BITS
    bits = torch.empty(-(-elements // per_draw), dtype=torch.int64, device=x_TI.device)
    bits.random_(-(1 << 63), None)
    dropped = round(dropout_p * (1 << RANDOM_BITS)) - (1 << (RANDOM_BITS - 1))
    return (bits.view(torch.int16)[:elements] >= dropped).view(x_TI.shape)


def dropout(x_TI: Tensor, dropout_p: float, mask_TI: Tensor, out: Tensor | None = None) -> Tensor:
    """Keeps what the mask keeps of x, and 0 elsewhere; not scaled. ``out`` may be x itself."""
    return torch.mul(x_TI, mask_TI, out=out)
