"""Whether two models are one: a call for any code, and an assertion for tests.

The limits follow from the coarsest precision on either side: `compare_layers` for each layer,
`compare_logits.logit_limits` for the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doratune.errors import ModelError
from doratune.eval_mode import evaluating
from doratune.ship.verification.compare_layers import (
    LayerOutput,
    Watch,
    inner_model,
    is_compiled,
)
from doratune.ship.verification.compare_logits import (
    LogitFigures,
    compare_logits,
    logit_failures,
    logit_limits,
)
from doratune.ship.verification.roundoff import roundoff_of

Model = nn.Module | str | Path | tuple[str | Path, str | Path]
"""A model, a checkpoint folder, an adapter folder that names a base folder, or (base, adapter)."""

_SHOWN = 8
"""Layers in a table; all of them are in `ModelComparison.layers`."""


@dataclass(frozen=True)
class ModelComparison:
    """How far another model is from a reference; ``str`` of it is a table."""

    failures: list[str]
    """One sentence for each limit that is crossed."""
    logits: LogitFigures
    limits: dict[str, float]
    """Of ``mean_kl`` and ``top1_agreement``; each layer has its own."""
    layers: list[LayerOutput]
    """Everything that holds weights, in the order of the model, on the inputs of the reference.
    Empty where one model is the other one compiled."""

    @property
    def passed(self) -> bool:
        """Whether rounding explains every difference."""
        return not self.failures

    def __str__(self) -> str:
        logits = self.logits
        summary = (
            f"mean KL {logits.mean_kl:.2e} nats, the same most likely token at "
            f"{logits.top1_agreement:.2%} of {logits.num_tokens} positions, logits at most "
            f"{logits.max_abs_difference:.2e} apart"
        )
        return "\n".join([*self.failures, summary, *_table(self.layers)])


def compare_models(
    reference: Model,
    other: Model,
    inputs: Iterable[Sequence[int]],
    *,
    dtype: torch.dtype | None = None,
) -> ModelComparison:
    """Compares two models on the same tokens: the logits, and every layer for itself.

    Each layer of ``other`` is given what the reference gives its own layer of that name, so that only
    the layer that is another one departs. Names are those of the base model, whatever wraps it: PEFT,
    `torch.compile`, data parallel. Both models compute as in eval mode.

    Args:
        reference: The model that is right. Folders are loaded in float32.
        other: The other, on any device and in any precision.
        inputs: Token ids: lists, or the rows of a tensor. None empty.
        dtype: Precision to which the weights of ``other`` were rounded, where it is held in a finer
            one. A folder's own is known.

    Returns:
        All figures, and a sentence for each limit that is crossed.

    Raises:
        ModelError: The two share layers or have none of the same name, have other vocabularies, or
            give logits that are not finite; there are no inputs; or a folder cannot be loaded.
        AdapterError: An adapter folder is incomplete or belongs to another base.
    """
    prompts = [[int(token) for token in ids] for ids in inputs]
    if not prompts or not all(prompts):
        raise ModelError(
            f"inputs are {len(prompts)} sequences, {sum(not ids for ids in prompts)} of them empty; "
            "expected at least one, and a token or more in each."
        )
    ours, _ = _load(reference)
    theirs, stored = _load(other)
    with evaluating(ours), evaluating(theirs):  # dropout would tell any two models apart
        return compare_loaded(ours, theirs, prompts, dtype or stored)


def assert_same_model(
    reference: Model,
    other: Model,
    inputs: Iterable[Sequence[int]],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Asserts that two models are one, up to rounding; the message is the table of the layers.

    Args:
        reference: As in `compare_models`.
        other: As in `compare_models`.
        inputs: As in `compare_models`.
        dtype: As in `compare_models`.

    Raises:
        AssertionError: They are not; it names the layers that depart.
        ModelError: They cannot be compared.
        AdapterError: An adapter folder is incomplete or belongs to another base.
    """
    __tracebackhide__ = True
    result = compare_models(reference, other, inputs, dtype=dtype)
    if not result.passed:
        raise AssertionError(f"These are two different models.\n{result}")


def compare_loaded(
    reference: Any, other: Any, prompts: Iterable[list[int]], dtype: torch.dtype | None
) -> ModelComparison:
    """`compare_models` for models in eval mode; ``prompts`` may report progress."""
    prompts = list(prompts) if is_compiled(reference) else prompts
    watch = Watch(reference, other, dtype)
    _check_pair(watch, reference, other)
    if watch.shared:
        logits = compare_logits(reference, other, prompts)
    elif is_compiled(reference):
        # What is compiled does not run hooks that came later: once more without compilation.
        logits = compare_logits(reference, other, prompts)
        with watch.running(), torch.compiler.set_stance("force_eager"), torch.no_grad():
            for ids in prompts:
                inner_model(reference)(torch.tensor([ids], device=reference.device))
    else:
        with watch.running():
            logits = compare_logits(reference, other, prompts)
    layers = watch.layers()
    limits = logit_limits(max(watch.roundoff, *map(_roundoff, (reference, other))))
    failures = [*layer_failures(layers), *logit_failures(logits, limits)]
    if watch.unmatched:
        failures.insert(
            0,
            f"{len(watch.unmatched)} layers are in one of the models only, the first of them "
            f"{watch.unmatched[0]}.",
        )
    return ModelComparison(failures, logits, limits, layers)


def layer_failures(layers: Sequence[LayerOutput]) -> list[str]:
    """A sentence that names the layers that depart."""
    apart = sorted((x for x in layers if x.departs), key=lambda x: x.output_error / x.limit)[::-1]
    if not apart:
        return []
    more = f" {len(apart)} of {len(layers)} layers depart." if len(apart) > 1 else ""
    return [
        f"Layer {apart[0].layer} departs: on the same inputs its output is "
        f"{apart[0].output_error:.3g} of its size away from the reference's; rounding explains "
        f"{apart[0].limit:.3g}.{more}"
    ]


def _check_pair(watch: Watch, reference: Any, other: Any) -> None:
    if not watch.num_pairs:
        raise ModelError(
            f"{type(inner_model(reference)).__name__} and {type(inner_model(other)).__name__} have no "
            f"layer of the same name; one of them has {', '.join(watch.unmatched[:3])}. Compare forms "
            "of one architecture."
        )
    if watch.shared and is_compiled(reference) == is_compiled(other):
        raise ModelError(
            "The two models share their layers, so that they cannot differ. merge_and_unload and "
            "merge_adapter change a model in place: merge a copy (copy.deepcopy), or load it again."
        )


def _load(model: Model) -> tuple[Any, torch.dtype | None]:
    """The model, and the precision its weights were stored in where it was loaded here."""
    if isinstance(model, nn.Module):
        return model, None
    from doratune.adapter.tuned import load_tuned
    from doratune.base import load_base
    from doratune.ship.merging.checkpoint import stored_dtype

    if isinstance(model, tuple):
        base, adapter = map(Path, model)
        return load_tuned(base, adapter, "float32"), None
    folder = Path(model)
    if (folder / "adapter_config.json").is_file():
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = Path(config.get("base_model_name_or_path") or "")
        if not (base / "config.json").is_file():
            raise ModelError(
                f"{folder} is an adapter, and its base {str(base)!r} is no folder here. Give both, as "
                "(base, adapter)."
            )
        return load_tuned(base, folder, "float32"), None
    return load_base(folder, "float32"), getattr(torch, stored_dtype(folder))


def _roundoff(model: nn.Module) -> float:
    return max((roundoff_of(p.dtype) for p in model.parameters()), default=0.0)


def _table(layers: Sequence[LayerOutput]) -> list[str]:
    """The layers that are furthest from their reference, measured by their limits."""
    worst = sorted(layers, key=lambda x: x.output_error / x.limit)[::-1][:_SHOWN]
    if not worst:
        return []
    width = max(len(x.layer) for x in worst)
    head = f"{'layer':{width}}  output error     limit"
    rows = [
        f"{x.layer:{width}}  {x.output_error:12.2e}  {x.limit:.2e}{'  departs' * x.departs}"
        for x in worst
    ]
    rest = len(layers) - len(worst)
    return [head, *rows, *([f"... and {rest} layers nearer"] if rest else [])]
