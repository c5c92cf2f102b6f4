"""An adapter folder as the deltas of its layers, read whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from doratune.adapter.config import scaling_of
from doratune.adapter.files import (
    MAGNITUDE,
    AdapterFolder,
    AdapterWeights,
    LayerDelta,
    open_adapter,
)
from doratune.adapter.parameters import Parameter, parameter_problems, targeted_parameters
from doratune.adapter.problems import find_problems
from doratune.errors import AdapterError


def read_adapter(path: Path, base: nn.Module | Path | None = None) -> AdapterWeights:
    """Reads a LoRA or DoRA adapter folder, on the CPU.

    Args:
        path: The folder.
        base: Model or model folder that an adapter of parameters (`target_parameters`) is read with;
            others do not need it.

    Raises:
        AdapterError: The folder is not a complete adapter: a file is missing or broken, a tensor is
            missing, misshapen or not finite, or tensors and configuration contradict each other. It
            adapts parameters, and no base is given.
    """
    folder = open_adapter(path)
    problems = list(find_problems(folder))
    parameters = {}
    if folder.config.get("target_parameters") and not problems:
        if base is None:
            raise AdapterError(
                f"{path} adapts parameters (target_parameters "
                f"{folder.config['target_parameters']!r}), which are known only together with their "
                "base model. Expected an adapter of layers here; what can be done with this one is "
                "`doratune adapter merge`, `doratune inspect --base` and doratune.load_adapter."
            )
        parameters = targeted_parameters(folder.config, base)
        problems = list(parameter_problems(folder, parameters))
    if problems:
        more = f" There are {len(problems)} problems; see `doratune inspect {path}`."
        joint = ", " if problems[0].startswith(("layer ", "parameter ")) else ": "
        raise AdapterError(f"{path}{joint}{problems[0]}{more if len(problems) > 1 else ''}")
    return weights_of(folder, parameters)


def weights_of(folder: AdapterFolder, parameters: Mapping[str, Parameter]) -> AdapterWeights:
    """The content of a folder that has no problems.

    Args:
        folder: The adapter.
        parameters: Those of its base that it adapts, by the names of their factors.
    """
    config = folder.config
    layers = {}
    for layer, found in sorted(folder.parts.items()):
        if layer in parameters:
            layers[parameters[layer].name] = parameters[layer].delta(config, found)
            continue
        A, B, magnitude = found["lora_A"], found["lora_B"], found.get(MAGNITUDE)
        is_embedding = layer in folder.embeddings
        layers[layer] = LayerDelta(
            A.flatten(1),
            B.flatten(1),
            None if magnitude is None else magnitude.float().flatten(),
            scaling_of(config, layer),
            is_embedding or (bool(config.get("fan_in_fan_out")) and A.ndim == 2),
            kernel=tuple(A.shape[2:]),
            is_embedding=is_embedding,
        )
    return AdapterWeights(config, layers, folder.saved, folder.copies)
