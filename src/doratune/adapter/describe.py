"""What an adapter folder is, layer by layer, and for what it would be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from doratune.adapter.config import CONFIG, config_problems, scaling_of
from doratune.adapter.files import (
    MAGNITUDE,
    AdapterFolder,
    AdapterWeights,
    open_adapter,
)
from doratune.adapter.fit import LayerFit, distance, fit_problems, fit_to_folder
from doratune.adapter.origin import check_name, check_origin, read_origin
from doratune.adapter.parameters import Parameter, parameter_problems, targeted_parameters
from doratune.adapter.place import place_problems, skeleton
from doratune.adapter.problems import find_problems
from doratune.adapter.read import weights_of
from doratune.errors import AdapterError
from doratune.record.adapters import AdapterFacts, LayerFacts

UNTRAINED = 1e-3
"""Magnitudes nearer to the norms than this have not been trained: one step of a usual learning rate
goes further, and rounding to 16 bits and back about as far."""


def describe(path: Path, base_path: Path | None = None) -> AdapterFacts:
    """Reads an adapter folder, and compares it with a base if one is given; refuses nothing.

    Args:
        path: The adapter.
        base_path: Folder of a base model.

    Raises:
        ModelError: The base cannot be read.
    """
    facts = AdapterFacts(path=str(path))
    try:
        if not (path / CONFIG).exists() and (origin := read_origin(path)):
            facts.origin, facts.method, facts.base = origin, origin.method, origin.base_source
            check_origin(path, base_path)
            facts.notes.append(
                "The whole model of a full fine-tuning; there are no layers to show."
            )
            return facts
        folder = open_adapter(path)
        facts.origin = read_origin(path)
    except AdapterError as error:
        facts.problems.append(str(error))
        return facts
    config = folder.config
    facts.problems += find_problems(folder)
    has_magnitudes = any(MAGNITUDE in found for found in folder.parts.values())
    facts.method = "dora" if has_magnitudes else "lora"
    facts.base = facts.origin.base_source if facts.origin else config.get("base_model_name_or_path")
    targets = config.get("target_modules")
    facts.target_modules = sorted(targets) if isinstance(targets, list) else str(targets)
    facts.saved_modules = sorted(folder.saved)
    facts.num_parameters = sum(tensor.numel() for tensor in folder.tensors.values())
    facts.num_bytes = sum(tensor.nbytes for tensor in folder.tensors.values())
    if not facts.problems:
        facts.problems += _origin_problems(path, base_path, facts)
    fits: dict[str, LayerFit] = {}
    parameters: dict[str, Parameter] = {}
    if not facts.problems and base_path is not None:
        parameters = targeted_parameters(config, base_path)
        facts.problems += parameter_problems(folder, parameters)
        if not facts.problems:
            fits = _compare(weights_of(folder, parameters), path, base_path, facts)
    facts.layers = [
        _layer(folder, key, fits.get(key), parameters.get(key), is_named=bool(parameters))
        for key in sorted(folder.parts)
    ]
    facts.notes += _notes(folder, facts)
    return facts


def _origin_problems(path: Path, base_path: Path | None, facts: AdapterFacts) -> list[str]:
    try:
        if check_origin(path, base_path):
            facts.belongs = "fingerprint"
    except AdapterError as error:
        return [str(error)]
    return []


def _compare(
    weights: AdapterWeights, path: Path, base_path: Path, facts: AdapterFacts
) -> dict[str, LayerFit]:
    from doratune.base.tensors import tensor_files  # more than the core packages

    facts.compared_with = str(base_path)
    model = skeleton(base_path)
    if model is not None:
        facts.problems += place_problems(model, weights, tensor_files(base_path))
    fits = list(fit_to_folder(weights, base_path))
    facts.distance = distance(fits)
    if facts.belongs is None:
        try:
            check_name(weights, str(base_path), path)
        except AdapterError as error:
            facts.problems.append(str(error))
        facts.problems += fit_problems(fits, str(base_path))
        facts.belongs = "magnitudes" if fits and not facts.problems else "no evidence"
    return {fit.layer: fit for fit in fits}


def _layer(
    folder: AdapterFolder,
    key: str,
    fit: LayerFit | None,
    parameter: Parameter | None,
    is_named: bool,
) -> LayerFacts:
    found = folder.parts[key]
    layer = parameter.name if parameter else key
    num_experts = parameter.num_experts if parameter else 1
    A, B, m = found.get("lora_A"), found.get("lora_B"), found.get(MAGNITUDE)
    ratio = None if fit is None else fit.ratio_O[fit.ratio_O.isfinite()]
    return LayerFacts(
        layer=layer,
        method="lora" if m is None else "dora",
        r=_size(A, 0) // num_experts,
        num_experts=num_experts,
        scaling=_scaling(folder.config, layer, is_named),
        out_features=_size(B, 0),
        in_features=_size(A, 1),
        dtype=_dtype(A if A is not None else B) or "none",
        magnitude_dtype=_dtype(m),
        magnitude_min=None if m is None or not m.numel() else m.float().min().item(),
        magnitude_max=None if m is None or not m.numel() else m.float().max().item(),
        ratio_min=None if ratio is None or not len(ratio) else ratio.min().item(),
        ratio_max=None if ratio is None or not len(ratio) else ratio.max().item(),
    )


def _size(tensor: Tensor | None, dim: int) -> int:
    return tensor.shape[dim] if tensor is not None and tensor.ndim > dim else 0


def _scaling(config: dict[str, Any], layer: str, is_named: bool) -> float | None:
    """None where the patterns of the configuration are for names of parameters, not known here."""
    if list(config_problems(config)):
        return None
    by_name = config.get("rank_pattern") or config.get("alpha_pattern")
    if by_name and config.get("target_parameters") and not is_named:
        return None
    return scaling_of(config, layer)


def _dtype(tensor: Tensor | None) -> str | None:
    return None if tensor is None else str(tensor.dtype).removeprefix("torch.")


def _notes(folder: AdapterFolder, facts: AdapterFacts) -> list[str]:
    notes = []
    if facts.origin is None:
        notes.append(
            "Made elsewhere: no doratune.json says what it was trained on, and nothing would show "
            "that its numbers have been changed."
        )
    elif not facts.origin.files:
        notes.append("Its doratune.json holds no digests of the files; they may have been changed.")
    if parameters := folder.config.get("target_parameters"):
        note = f"Parameters are adapted (target_parameters): {', '.join(map(str, parameters))}."
        if not facts.compared_with:
            note += (
                " Which layer is which, only --base shows; r is here that of all experts together."
            )
        notes.append(note)
    rounded = [n for n in facts.layers if n.magnitude_dtype in ("bfloat16", "float16")]
    if rounded:
        notes.append(
            f"The magnitudes of {len(rounded)} layers are stored in {rounded[0].magnitude_dtype}. In "
            "bfloat16 steps of training below 0.4 % are lost; expected float32."
        )
    zeros = sum(
        int((found[MAGNITUDE] == 0).sum()) for found in folder.parts.values() if MAGNITUDE in found
    )
    if zeros:
        notes.append(
            f"{zeros} magnitudes are zero: right only where the base's weights are zero too."
        )
    compared = [n for n in facts.layers if n.ratio_min is not None and n.ratio_max is not None]
    if compared and all(
        abs((ratio or 0) - 1) < UNTRAINED for n in compared for ratio in (n.ratio_min, n.ratio_max)
    ):
        notes.append("All magnitudes are the norms of the base: they have not been trained.")
    if folder.parts and all(
        not found["lora_B"].any() for found in folder.parts.values() if "lora_B" in found
    ):
        notes.append("lora_B is zero in all layers: no direction has been trained.")
    return notes
