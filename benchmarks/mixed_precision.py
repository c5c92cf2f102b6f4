"""bf16 training as GPUs compute it, on a CPU that cannot; and what becomes of a small update.

T tokens, O out_features, I in_features, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from doratune.ops.dora_linear import eager

BF16 = torch.bfloat16
aten = torch.ops.aten
_PRODUCTS = {
    aten.mm,
    aten.bmm,
    aten.addmm,
    aten.addmm_,
    aten.baddbmm,
    aten.baddbmm_,
    aten.linear,
    aten.mv,
    aten.dot,
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
}
_IN_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}


class Bf16Products(TorchDispatchMode):
    """Every product of bf16 tensors in float32 arithmetic, rounded once to bf16 at its end.

    That is what tensor cores and AMX do: exact products, float32 sums, for `addmm` the addend in the sum
    as well. All other operations are PyTorch's own. Emulated bf16 products run at 0.4 GFLOP/s a core.
    """

    def __init__(self, frozen: Iterator[Tensor] | None = None) -> None:
        super().__init__()
        self.products = 0
        # By address: W.T is another tensor on the same storage.
        self._wide = {
            weight.untyped_storage().data_ptr(): weight.detach().float().flatten()
            for weight in frozen or ()
            if weight.dtype == BF16 and weight.is_contiguous()
        }

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in _PRODUCTS or not any(_is_bf16(a) for a in args):
            return func(*args, **kwargs)
        if "out" in kwargs:
            raise NotImplementedError(f"{func} with out= is not emulated")
        self.products += 1
        result = _IN_PLACE.get(packet, packet)(*map(self._widen, args), **kwargs)
        if packet in _IN_PLACE:
            return args[0].copy_(result)
        return _round(result, packet)

    def _widen(self, value: Any) -> Any:
        if not _is_bf16(value):
            return value
        wide = self._wide.get(value.untyped_storage().data_ptr())
        if wide is None:
            return value.float()
        return wide.as_strided(value.shape, value.stride(), value.storage_offset())


def _is_bf16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == BF16


def _round(result: Any, packet: Any) -> Any:
    if isinstance(result, Tensor):
        return result.to(BF16)
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return result[0].to(BF16), *result[1:]  # the logarithms of the sums stay float32
    return tuple(r.to(BF16) if isinstance(r, Tensor) else r for r in result)


def two_roundings(
    y_TO: Tensor, h_TR: Tensor, gB_OR: Tensor, g_O: Tensor, bias_O: Tensor | None
) -> None:
    """`eager.scale_up_` in PyTorch's operations on bf16: rounded after the scale and after the sum."""
    y_TO.mul_(g_O)
    if bias_O is not None:
        y_TO.add_((1 - g_O) * bias_O)
    y_TO.addmm_(h_TR, gB_OR.T)


def stochastic_rounding(
    y_TO: Tensor, h_TR: Tensor, gB_OR: Tensor, g_O: Tensor, bias_O: Tensor | None
) -> None:
    """In float32, then rounded up or down at random, so that the mean is exact."""
    wide = y_TO.float() * g_O
    if bias_O is not None:
        wide += (1 - g_O) * bias_O.float()
    wide.addmm_(h_TR.float(), gB_OR.float().T)
    bits = wide.view(torch.int32)
    bits += torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32)
    bits &= -(1 << 16)
    y_TO.copy_(wide)


REMEDIES: dict[str, Callable[..., None]] = {
    "two roundings": two_roundings,
    "stochastic rounding": stochastic_rounding,
}


@contextmanager
def remedy(name: str) -> Iterator[None]:
    """Doratune's epilogue in another rounding; its own for ``""``."""
    own = eager.scale_up_
    eager.scale_up_ = REMEDIES.get(name, own)
    try:
        yield
    finally:
        eager.scale_up_ = own


class Survival:
    """How much of the exact update of every adapted layer is in its output, over one forward.

    With base result b, L = g s B A x and S = (g - 1) b in float64, the least squares fit of ``y - b`` by
    ``u L + v S`` gives the shares u and v that survived the rounding. Forward with gradients on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.changed: list[float] = []
        self.low_rank: list[float] = []
        self.size: list[float] = []
        self._handles = []
        for module in model.modules():
            if hasattr(module, "base_layer") and "default" in getattr(module, "lora_A", {}):
                kept: list[Tensor] = []
                # A copy: doratune works in the base result's memory.
                self._handles += [
                    module.base_layer.register_forward_hook(
                        lambda _m, _x, out, kept=kept: kept.append(out.detach().clone())
                    ),
                    module.register_forward_hook(
                        lambda m, x, y, kept=kept: self._see(m, x[0], y, kept)
                    ),
                ]

    @torch.no_grad()
    def _see(self, module: Any, x: Tensor, y: Tensor, kept: list[Tensor]) -> None:
        b_TO = kept.pop().flatten(0, -2)
        kept.clear()
        exact_b_TO, x_TI = b_TO.double(), x.detach().flatten(0, -2).double()
        A_RI, B_OR = (f["default"].weight.double() for f in (module.lora_A, module.lora_B))
        low_TO = module.scaling["default"] * (x_TI @ A_RI.T) @ B_OR.T
        scale_TO = torch.zeros_like(low_TO)
        if "default" in module.lora_magnitude_vector:
            W_OI = module.base_layer.weight.double()
            norm_O = (W_OI + module.scaling["default"] * B_OR @ A_RI).norm(dim=1)
            g_O = module.lora_magnitude_vector["default"].weight.double() / norm_O
            low_TO, scale_TO = g_O * low_TO, (g_O - 1) * exact_b_TO
        y_TO = y.detach().flatten(0, -2)
        self.changed.append((y_TO != b_TO).double().mean().item())
        moved = (y_TO.double() - exact_b_TO).flatten()
        low, scale = low_TO.flatten(), scale_TO.flatten()
        ll, ls, ss = low @ low, low @ scale, scale @ scale
        lm, sm = low @ moved, scale @ moved
        alone = ss * ll - ls * ls <= 1e-9 * ss * ll  # no scale to speak of
        share = lm / ll if alone else (ss * lm - ls * sm) / (ss * ll - ls * ls)
        self.low_rank.append(share.item())
        self.size.append((low.norm() / exact_b_TO.norm()).item())

    def summary(self) -> dict[str, float]:
        """Medians over the layers: share of outputs that changed, share of the low-rank update that
        survived, and its norm in units of the base result's. Takes the hooks out.
        """
        for handle in self._handles:
            handle.remove()
        names = {"changed": self.changed, "low_rank": self.low_rank, "size": self.size}
        return {name: round(torch.tensor(v).median().item(), 6) for name, v in names.items()}
