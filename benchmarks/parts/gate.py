"""No figure without this: every provider computes what its definition says, or nothing is reported.

A provider may be at most `FACTOR` times as far from the float64 model as plain PyTorch in the
base's dtype is, in outputs and in the gradients of the input, of all A, of all B and of all
magnitudes. Plain PyTorch is PEFT's code with adapters in the base's own dtype; the float64 model is
PEFT's code in float64.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.parts.providers import (
    PEFT_DORA,
    PEFT_LORA,
    adapted,
    copy_adapter,
    is_dora,
    trainable,
)

FACTOR = 4
"""The same rule, and the same number, as in tests/accuracy.py."""

Run = Callable[[nn.Module], dict[str, Tensor]]
"""Runs forward and backward of a model; returns outputs, and gradients of inputs, by name."""


class RedGateError(Exception):
    """A provider does not compute what it should."""


def check(
    base: nn.Module,
    models: Mapping[str, nn.Module],
    run: Run,
    r: int,
    reference: nn.Module | None = None,
    targets: str = "all-linear",
    evaluating: bool = False,
) -> None:
    """Compares every model, dropout off, with the float64 one.

    Args:
        base: The frozen model that plain PyTorch adapts.
        models: What is about to be measured, by provider.
        run: A small batch.
        r: Rank of the adapters.
        reference: The frozen model that is made float64, when it is not ``base``.
        targets: PEFT's ``target_modules``.
        evaluating: In eval mode, which the models must be in already.

    Raises:
        RedGateError: At least one is too far from it; names all of them.
    """
    problems = []
    for kind in (PEFT_LORA, PEFT_DORA):
        chosen = {name: m for name, m in models.items() if is_dora(name) == is_dora(kind)}
        if not chosen:
            continue
        exact = adapted(copy.deepcopy(reference or base), kind, r, targets=targets).double()
        exact.train(not evaluating)
        truth = results(exact, run)
        plain = adapted(base, kind, r, targets=targets, autocast_adapter_dtype=False)
        plain.train(not evaluating)
        for model in (plain, *chosen.values()):
            copy_adapter(exact, model)
        del exact
        _free()
        allowed = distances(results(plain, run), truth)
        # On a single number plain code may be exact by luck: there, two roundings pass.
        lucky = 2 * torch.finfo(next(base.parameters()).dtype).eps
        limit = {
            part: max(FACTOR * allowed[part], lucky if truth[part].numel() == 1 else 0.0)
            for part in truth
        }
        for name, model in chosen.items():
            found = distances(results(model, run), truth)
            worst = max(FACTOR * found[part] / limit[part] for part in truth)
            print(f"  gate: {name} at most {worst:.2f} x as far from float64 as plain PyTorch")
            problems += [
                f"{name}: {part} is {found[part]:.2e} from float64, plain PyTorch {allowed[part]:.2e}"
                for part in truth
                if not found[part] <= limit[part]
            ]
    if problems:
        raise RedGateError("\n".join(problems))


def results(model: nn.Module, run: Run) -> dict[str, Tensor]:
    """Outputs and gradients of one run without dropout, joined by kind, in float64."""
    with _no_dropout(model):
        parts = run(model)
    for kind, group in trainable(model).items():
        gradients = [p.grad.flatten() for p in group if p.grad is not None]
        parts[f"gradient of {kind}"] = torch.cat(gradients)
    model.zero_grad()
    return {name: value.detach().double() for name, value in parts.items()}


def distances(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative distance of every part; NaN and infinity stay what they are."""
    return {
        name: ((found[name] - truth[name]).norm() / truth[name].norm()).item() for name in truth
    }


def ids_run(ids: Tensor) -> Run:
    """A causal language model on these tokens, which are their own labels."""

    def run(model: nn.Module) -> dict[str, Tensor]:
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
        return {"logits": output.logits}

    return run


def layer_run(x: Tensor, dy: Tensor) -> Run:
    """One layer on this input and this gradient of its output, in the dtype of its weight."""

    def run(model: nn.Module) -> dict[str, Tensor]:
        dtype = next(p.dtype for p in model.parameters() if not p.requires_grad)
        leaf = x.to(dtype, copy=True).requires_grad_()
        y = model(leaf)
        y.backward(dy.to(dtype))
        assert leaf.grad is not None
        return {"output": y, "gradient of the input": leaf.grad}

    return run


@contextmanager
def _no_dropout(model: nn.Module) -> Iterator[None]:
    """Training mode, but nothing is dropped: every provider draws its own mask."""
    dropouts: Sequence[nn.Dropout] = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    kept = [m.p for m in dropouts]
    for module in dropouts:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in zip(dropouts, kept, strict=True):
            module.p = p


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
