"""Adapters of other trainers made ones of PEFT's, when asked to; nothing is guessed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from doratune.adapter.config import CONFIG, config_problems, rank_of, read_config, scaling_of
from doratune.adapter.files import MAGNITUDE, PREFIX, WEIGHTS, read_tensors
from doratune.adapter.fit import fit_problems, fit_to_folder
from doratune.adapter.formats import ENDS, FACTORS, MAGNITUDES, recognise, split_key
from doratune.adapter.read import read_adapter
from doratune.base.tensors import tensor_files
from doratune.errors import AdapterError
from doratune.record.files import replacing

_PREFIXES = ("base_model.model.", "lycoris_", "lora_unet_", "lora_te_", "lora_", "")


class Conversion(NamedTuple):
    """What a conversion found and wrote."""

    form: str
    num_dora: int
    num_lora: int
    ranks: dict[int, int]
    """Layers by rank."""
    alphas: dict[float, int]
    """Layers by alpha."""


def convert_adapter(
    source: Path, base_path: Path, base_name: str, target: Path, alpha: float | None = None
) -> Conversion:
    """Writes another trainer's adapter as a folder of PEFT's; nothing is guessed.

    Args:
        source: Its safetensors file, or the folder with that and perhaps an ``adapter_config.json``.
        base_path: Folder of the base model, whose names and shapes decide what a tensor belongs to.
        base_name: What the base is called in the new configuration.
        target: Folder to write; it must not exist.
        alpha: For files that do not say their alpha, the one used in training.

    Raises:
        AdapterError: The file holds something unknown, does not fit the base, does not say its alpha,
            or has a magnitude for every input feature.
        StorageError: The folder cannot be written.
    """
    if target.exists():
        raise AdapterError(f"{target} exists already. Name a folder that does not, or delete it.")
    file = _file_of(source)
    config = read_config(file.parent) if (file.parent / CONFIG).exists() else None
    for problem in () if config is None else config_problems(config):
        raise AdapterError(f"{file.parent}: {problem}")
    tensors = read_tensors(file)
    modules = _modules_of(base_path)
    layers = {
        module: _Layer.of(module, parts, config, alpha)
        for module, parts in _parts_of(tensors, modules).items()
    }
    if not layers:
        raise AdapterError(f"{file} holds nothing. Take a complete copy.")
    for module, layer in layers.items():
        _check_shapes(module, layer, modules[module])
    num_dora = sum(layer.m is not None for layer in layers.values())
    if config is not None and bool(config.get("use_dora")) != bool(num_dora):
        raise AdapterError(
            f"adapter_config.json says use_dora {config.get('use_dora')!r}, and {num_dora} of "
            f"{len(layers)} layers have a magnitude. Take config and weights of one training."
        )
    with replacing(target) as folder:
        folder.mkdir()
        _write(layers, base_name, folder)
        for problem in fit_problems(fit_to_folder(read_adapter(folder), base_path), base_name):
            raise AdapterError(f"{file} does not belong to this base: {problem}")
    return Conversion(
        recognise(tensors) or "PEFT",
        num_dora,
        len(layers) - num_dora,
        dict(Counter(layer.A.shape[0] for layer in layers.values())),
        dict(Counter(layer.alpha for layer in layers.values())),
    )


def _file_of(source: Path) -> Path:
    if source.is_file():
        if source.suffix != ".safetensors":
            raise AdapterError(
                f"{source} is no .safetensors file. Pickle files can run code when they are opened "
                "and are refused; save the adapter as safetensors with the trainer that wrote it."
            )
        return source
    files = sorted(source.glob("*.safetensors"))
    if len(files) != 1:
        raise AdapterError(
            f"{source} holds {len(files)} .safetensors files; expected one. Name the file itself."
        )
    return files[0]


def _parts_of(
    tensors: dict[str, Tensor], modules: dict[str, tuple[int, ...]]
) -> dict[str, dict[str, Tensor]]:
    """``A``, ``B``, ``m`` and ``alpha`` by module of the base."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        name, end = split_key(key)
        if not end:
            raise AdapterError(
                f"The file holds {key}, which belongs to no form of LoRA or DoRA that can be "
                f"converted; expected endings {', '.join(ENDS)}. Merge it with the trainer that "
                "wrote it."
            )
        part = "m" if end in MAGNITUDES else FACTORS.get(end, ("alpha",))[0]
        parts = found.setdefault(_module_of(name, modules), {})
        if part in parts:
            raise AdapterError(f"The file holds {part} of {name} twice, the second time as {key}.")
        parts[part] = _one_axis(name, end, tensor) if part == "m" else tensor
    return found


class _Layer(NamedTuple):
    A: Tensor
    B: Tensor
    m: Tensor | None
    alpha: float

    @classmethod
    def of(
        cls,
        module: str,
        parts: dict[str, Tensor],
        config: dict[str, Any] | None,
        alpha: float | None,
    ) -> _Layer:
        missing = [part for part in "AB" if part not in parts]
        if missing:
            raise AdapterError(
                f"The file holds no {' and no '.join(missing)} of {module}. Take a complete copy."
            )
        A, B, m = parts["A"], parts["B"], parts.get("m")
        if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
            raise AdapterError(
                f"The factors of {module} have shapes {tuple(A.shape)} and {tuple(B.shape)}; "
                "expected (r, in_features) and (out_features, r). Convolutions are not converted."
            )
        if "alpha" in parts:
            stored = parts["alpha"].double()
            if stored.numel() != 1 or not (stored.isfinite().all() and stored.item() > 0):
                raise AdapterError(
                    f"The alpha of {module} is {stored.tolist()}; expected one positive number."
                )
            value = stored.item()
        elif config is not None:
            value = _alpha_of(config, module, A.shape[0])
        elif alpha is not None:
            value = alpha
        else:
            raise AdapterError(
                f"The file does not say the alpha of {module}, and what B A counts for depends on "
                f"it. Give the alpha of the training with --alpha; where none was set it was "
                f"the rank, {A.shape[0]}."
            )
        return cls(A, B, m, value)


def _alpha_of(config: dict[str, Any], module: str, rank: int) -> float:
    if rank_of(config, module) != rank:
        raise AdapterError(
            f"{module} has rank {rank}, but adapter_config.json says {rank_of(config, module)}."
        )
    return scaling_of(config, module) * rank


def _modules_of(base_path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the base's matrices by module."""
    shapes: dict[str, tuple[int, ...]] = {}
    files = tensor_files(base_path)
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shape = tuple(tensors.get_slice(name).get_shape())
                if name.endswith(".weight") and len(shape) == 2:
                    shapes[name.removesuffix(".weight")] = shape
    return shapes


def _module_of(name: str, modules: dict[str, tuple[int, ...]]) -> str:
    """The base's module that a file calls ``name``: kohya and LyCORIS write _ for dots."""
    for prefix in _PREFIXES:
        if not name.startswith(prefix):
            continue
        rest = name.removeprefix(prefix)
        same = [module for module in modules if rest in (module, module.replace(".", "_"))]
        if len(same) == 1:
            return same[0]
        if len(same) > 1:
            raise AdapterError(
                f"The file adapts {name}, which may be {' or '.join(sorted(same))} of this base. "
                "Rename the tensors so that it is clear."
            )
    raise AdapterError(
        f"The file adapts {name}, and the base has no matrix of that name; it has, for one, "
        f"{next(iter(sorted(modules)), 'none')}. Give the base it was trained on."
    )


def _one_axis(name: str, end: str, tensor: Tensor) -> Tensor:
    """A magnitude with one value for every output feature, flat."""
    shape = tuple(tensor.shape)
    if end == "dora_scale":
        if len(shape) == 2 and shape[0] == 1 and shape[1] > 1:
            raise AdapterError(
                f"The dora_scale of {name} has shape {shape}: one value for every input feature "
                "(LyCORIS with wd_on_output=False). PEFT's DoRA has one for every output feature "
                "and cannot express this. Merge it with LyCORIS, or train again with "
                "wd_on_output=True."
            )
        if len(shape) != 2 or shape[1] != 1:
            raise AdapterError(
                f"The dora_scale of {name} has shape {shape}, which does not say whether it is for "
                "output or input features; LyCORIS writes (out_features, 1) or (1, in_features). "
                "Give it the shape that is meant."
            )
    elif len(shape) > 1 and max(shape) != tensor.numel():
        raise AdapterError(
            f"The magnitude of {name} has shape {shape}; expected one value for every output "
            "feature. Take the original file."
        )
    return tensor.flatten()


def _check_shapes(module: str, layer: _Layer, shape: tuple[int, ...]) -> None:
    expected = (layer.B.shape[0], layer.A.shape[1])
    if expected != shape:
        raise AdapterError(
            f"The factors of {module} fit a weight of shape {expected}; the base's has {shape}. "
            "Give the base it was trained on."
        )
    if layer.m is not None and layer.m.numel() != expected[0]:
        raise AdapterError(
            f"The magnitude of {module} has {layer.m.numel()} values; the base's weight has "
            f"{expected[0]} output features."
        )


def _write(layers: dict[str, _Layer], base_name: str, folder: Path) -> None:
    ranks = Counter(layer.A.shape[0] for layer in layers.values())
    alphas = Counter(layer.alpha for layer in layers.values())
    (rank, _), (alpha, _) = ranks.most_common(1)[0], alphas.most_common(1)[0]
    has_m = [layer.m is not None for layer in layers.values()]
    if any(has_m) and not all(has_m):
        lacking = next(module for module, layer in layers.items() if layer.m is None)
        raise AdapterError(
            f"The file holds magnitudes for {sum(has_m)} of {len(has_m)} layers, and none for "
            f"{lacking}. PEFT has DoRA in all layers of an adapter or in none; a layer without "
            "magnitude cannot be put there. Take a complete copy, or train all layers alike."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_dora=all(has_m),
        target_modules=sorted(layers),
        rank_pattern={n: v.A.shape[0] for n, v in layers.items() if v.A.shape[0] != rank},
        alpha_pattern={n: v.alpha for n, v in layers.items() if v.alpha != alpha},
        base_model_name_or_path=base_name,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    tensors = {}
    for module, layer in layers.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = layer.A.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = layer.B.contiguous()
        if layer.m is not None:
            tensors[f"{PREFIX}{module}.{MAGNITUDE}"] = layer.m.to(torch.float32).contiguous()
    config.save_pretrained(str(folder))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
