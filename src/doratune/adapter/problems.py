"""For what an adapter folder is refused, whatever base it is for."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from doratune.adapter.config import (
    config_problems,
    is_targeted,
    may_be_parameter,
    peft_config,
    rank_of,
)
from doratune.adapter.files import MAGNITUDE, PREFIX, WEIGHTS, AdapterFolder
from doratune.adapter.formats import recognise
from doratune.errors import AdapterError

_TURNED = 0.1
"""A magnitude below zero turns its feature round. Training starts from a norm and moves all
magnitudes of a layer about equally far, so it carries only those past zero that began near it:
refused where it is further below zero than this part of the layer's median."""


def find_problems(folder: AdapterFolder) -> Iterator[str]:
    """Everything for which the adapter is refused, without looking at any base."""
    wrong = list(config_problems(folder.config))
    yield from wrong
    if wrong:
        return
    form = recognise(folder.tensors)
    if form is not None:
        yield (
            f"it is in another format: {form}. PEFT would drop the magnitudes without a word. "
            "Convert it with `doratune adapter convert`."
        )
        return
    for key in folder.strange:
        yield (
            f"{WEIGHTS} holds {key}, which is no tensor of a LoRA or DoRA layer ({PREFIX}... with "
            f"lora_A.weight and lora_B.weight, or lora_embedding_A and lora_embedding_B, {MAGNITUDE}). "
            "Was it trained with another method?"
        )
    if not folder.parts:
        yield f"it holds no lora_A or lora_B tensor and adapts nothing. Expected {WEIGHTS} of PEFT."
    try:
        of_peft = peft_config(folder.config)
        outside = [layer for layer in sorted(folder.parts) if not is_targeted(of_peft, layer)]
        of_parameters = {layer for layer in outside if may_be_parameter(of_peft, layer)}
    except AdapterError as error:
        yield str(error)
        return
    for layer, found in sorted(folder.parts.items()):
        rank = None if layer in of_parameters else rank_of(folder.config, layer)
        for problem in _layer_problems(folder, layer, found, rank):
            yield f"layer {layer}: {problem}"
    for layer in outside:
        if layer not in of_parameters:
            yield (
                f"layer {layer}: adapter_config.json does not adapt it (target_modules "
                f"{folder.config['target_modules']!r}), so that PEFT would drop its tensors. Take "
                "config and weights of one training."
            )
    yield from _whole_problems(folder)


def _layer_problems(
    folder: AdapterFolder, layer: str, found: dict[str, Tensor], rank: float | None
) -> Iterator[str]:
    """``rank`` is None where lora_A has it once for every expert."""
    config = folder.config
    missing = [name for name in ("lora_A", "lora_B") if name not in found]
    if missing:
        yield f"{' and '.join(missing)} missing; the file is not a complete adapter."
        return
    A, B = found["lora_A"], found["lora_B"]
    dims = (2,) if layer in folder.embeddings else (2, 3, 4, 5)
    if (
        A.ndim not in dims
        or B.ndim != A.ndim
        or A.shape[0] != B.shape[1]
        or any(size != 1 for size in B.shape[2:])
    ):
        yield (
            f"lora_A has shape {tuple(A.shape)} and lora_B {tuple(B.shape)}; expected (r, "
            "in_features) and (out_features, r), and of convolutions (r, in_channels, *kernel) and "
            "(out_channels, r, 1, ...)."
        )
        return
    if rank is not None and A.shape[0] != rank:
        yield f"lora_A has rank {A.shape[0]}, but adapter_config.json says {rank}."
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            yield (
                f"{name} holds values that are not finite. Training diverged, or the file is "
                "damaged."
            )
    # PEFT keeps the magnitudes of a convolution in the shape in which its output is scaled.
    expected = (len(B),) if B.ndim == 2 else (1, len(B), *B.shape[2:])
    yield from _magnitude_problems(bool(config.get("use_dora")), expected, found.get(MAGNITUDE))


def _magnitude_problems(
    use_dora: bool, expected: tuple[int, ...], magnitude: Tensor | None
) -> Iterator[str]:
    if magnitude is None:
        if use_dora:
            yield (
                f"adapter_config.json says use_dora, but there is no {MAGNITUDE}. The magnitude was "
                "lost when the adapter was saved or converted; without it the model is another one. "
                "Take the original adapter."
            )
        return
    if not use_dora:
        yield (
            f"there is a {MAGNITUDE}, but adapter_config.json says use_dora false. Loading it so "
            "would drop the magnitude; set use_dora to true."
        )
    if magnitude.shape != expected:
        flat = magnitude.numel() == expected[0]
        how = " `doratune adapter convert` writes it so." if flat else ""
        yield f"{MAGNITUDE} has shape {tuple(magnitude.shape)}; expected {expected}.{how}"
    elif not magnitude.any():
        yield "every magnitude is zero, which makes the layer's output zero."
    else:
        median = magnitude.abs().median().item()
        lowest = magnitude.min().item()
        if lowest < -_TURNED * median:
            yield (
                f"the magnitude of output feature {int(magnitude.flatten().argmin())} is "
                f"{lowest:.6g}, where the layer's median is {median:.6g}; expected norms, which "
                "training does not carry so far below zero. Training diverged, or the file is damaged."
            )


def _whole_problems(folder: AdapterFolder) -> Iterator[str]:
    """Whole tensors, of which the configuration must ask for each."""
    config = folder.config
    modules: list[str] = config.get("modules_to_save") or []  # PEFT compares the ends of names
    for name, tensor in sorted(folder.saved.items()):
        ends = (*modules, "embed_tokens", "lm_head")  # the last two as PEFT saves resized ones
        parts = name.split(".")
        above = [".".join(parts[:length]) for length in range(1, len(parts))]
        of_bias = parts[-1] == "bias" and config.get("bias", "none") != "none"
        if not of_bias and not any(module.endswith(ends) for module in above):
            yield (
                f"{WEIGHTS} holds {PREFIX}{name} whole, but adapter_config.json has no such module "
                f"in modules_to_save ({modules!r}). Take config and weights of one training."
            )
        if not tensor.isfinite().all():
            yield f"{name} holds values that are not finite. Training diverged, or the file is damaged."
    for layer, tensor in sorted(folder.copies.items()):
        if not tensor.isfinite().all():
            yield f"{layer}.base_layer.weight holds values that are not finite. The file is damaged."
