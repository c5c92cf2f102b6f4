"""`adapter_config.json`, read strictly: what PEFT does not know it leaves out, and goes on."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from doratune.errors import AdapterError

CONFIG = "adapter_config.json"

_CHANGES_MORE = {
    "alora_invocation_tokens": "adapts only from certain tokens on",
    "arrow_config": "mixes several adapters",
    "ensure_weight_tying": "adapts tied weights together",
    "kasa_config": "adapts with a diagonal between the factors",
    "layer_replication": "repeats layers of the base",
    "lora_bias": "adds a bias to lora_B",
    "megatron_config": "adapts Megatron's layers",
    "monteclora_config": "draws its weights at random",
    "trainable_token_indices": "changes single rows of the embedding",
    "use_bdlora": "adapts with block-diagonal factors",
    "use_qalora": "pools the inputs",
    "velora_config": "compresses what the backward keeps",
}
"""Settings of PEFT 0.21 under which the adapted weight is not ``(m / n) (W + scaling B A)``."""

_KEEPS_BASE = ("gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights``, besides true and false, that leave the base weights alone. PiSSA,
OLoRA, CorDA, LoRA-GA and LoftQ change them when the adapter is put on."""


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of an adapter folder, as it is written.

    Raises:
        AdapterError: There is none, or it is not that of a LoRA or DoRA adapter.
    """
    file = path / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise AdapterError(
            f"{path} is no adapter folder: it has no {CONFIG}. Give the folder that holds it; "
            "a single file of another trainer goes through `doratune adapter convert` first."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file} cannot be read: {error}. Take the original file.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(
            f"{file} says peft_type {found!r}; expected 'LORA', which includes DoRA. Adapters of "
            "other methods are not supported."
        )
    return config


def config_problems(config: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a configuration, or beyond what doratune can apply."""
    yield from _wrong_values(config)
    known = {field.name for field in fields(LoraConfig)}
    for key in sorted(config.keys() - known):
        if config[key]:
            yield (
                f"{CONFIG} sets {key} to {config[key]!r}, which PEFT here does not know and would "
                "ignore. The adapter comes from a newer PEFT; expected settings of this one. "
                "Upgrade PEFT."
            )
    for key, meaning in _CHANGES_MORE.items():
        if config.get(key):
            yield (
                f"{CONFIG} sets {key} to {config[key]!r}, which {meaning}. Expected plain LoRA or "
                "DoRA; doratune does not support this."
            )
    for key in ("use_dora", "fan_in_fan_out"):
        if config.get("target_parameters") and config.get(key):
            yield (
                f"{CONFIG} sets target_parameters and {key}; expected plain LoRA there, as PEFT has "
                f"no {key} for parameters. Take the config that the adapter was trained with."
            )
    init = config.get("init_lora_weights", True)
    if not (isinstance(init, bool) or init in _KEEPS_BASE):
        yield (
            f"{CONFIG} says init_lora_weights {init!r}, an initialisation that changes the base "
            "weights when the adapter is loaded. Convert it with PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=...) first."
        )


def _wrong_values(config: dict[str, Any]) -> Iterator[str]:
    def wrong(key: str, expected: str) -> str:
        return f"{CONFIG} says {key} {config.get(key)!r}; expected {expected}."

    if not _positive(config.get("r")) or not isinstance(config.get("r"), int):
        yield wrong("r", "a positive number that is whole")
    if not _positive(config.get("lora_alpha")):
        yield wrong("lora_alpha", "a positive number")
    for key in ("use_dora", "use_rslora", "fan_in_fan_out"):
        if not isinstance(config.get(key, False), bool):
            yield wrong(key, "true or false")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(_positive, pattern.values())):
            yield wrong(key, "positive numbers by module name")
        elif not all(map(_is_pattern, pattern)):
            yield wrong(key, "names that are regular expressions")
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        yield wrong("bias", "'none', 'all' or 'lora_only'")
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(map(_is_name, saved)):
        yield wrong("modules_to_save", "module names")
    parameters = config.get("target_parameters")
    if parameters and not (isinstance(parameters, list) and all(map(_is_name, parameters))):
        yield wrong("target_parameters", "names of parameters")
    targets = config.get("target_modules")
    names = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if not (targets or parameters) or not (isinstance(targets, str) or names or targets is None):
        yield wrong("target_modules", "module names, or one regular expression")


def _positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def peft_config(config: dict[str, Any]) -> LoraConfig:
    """The same as PEFT's own object; unknown settings are left out.

    Raises:
        AdapterError: PEFT does not accept it.
    """
    known = {field.name for field in fields(LoraConfig)} - {"runtime_config"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LoraConfig(**{key: value for key, value in config.items() if key in known})
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        raise AdapterError(
            f"PEFT does not accept this {CONFIG}: {error}. Take the original file."
        ) from error


def is_targeted(config: LoraConfig, module: str) -> bool:
    """Whether the configuration adapts a module of this name.

    Raises:
        AdapterError: A name in the configuration is no regular expression.
    """
    if config.target_modules == "all-linear":
        return True
    try:
        return bool(check_target_module_exists(config, module))
    except (re.error, TypeError, AttributeError, UnboundLocalError) as error:
        raise AdapterError(
            f"{CONFIG} does not say which modules it adapts: {error}. Take the original file."
        ) from error


def may_be_parameter(config: LoraConfig, layer: str) -> bool:
    """Whether LoRA of this name can be on one of `target_parameters`; the base model decides.

    Raises:
        AdapterError: A name in the configuration is no regular expression.
    """
    if not config.target_parameters or is_targeted(config, layer):
        return False
    module = re.sub(r"(\.base_layer)+$", "", layer)
    owners = {parameter.rpartition(".")[0] for parameter in config.target_parameters}
    return any(not owner or f".{module}".endswith(f".{owner}") for owner in owners)


def rank_of(config: dict[str, Any], layer: str) -> float:
    """The rank that the configuration gives a layer."""
    return _by_pattern(config.get("rank_pattern"), layer, config["r"])


def scaling_of(config: dict[str, Any], layer: str) -> float:
    """The factor of ``B A`` in a layer."""
    rank = rank_of(config, layer)
    alpha = _by_pattern(config.get("alpha_pattern"), layer, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(pattern: dict[str, float] | None, layer: str, default: float) -> float:
    """PEFT's ``rank_pattern`` and ``alpha_pattern``: a regular expression for the end of the name."""
    pattern = pattern or {}
    return pattern.get(get_pattern_key(list(pattern), layer), default)
