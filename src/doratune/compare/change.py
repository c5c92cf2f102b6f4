"""What was learned: how far training moved each weight matrix in magnitude and in direction.

The analysis of the DoRA paper, section 3.2 and Figure 2, for every matrix ``W0`` that an arm trained,
with ``W'`` its weight afterwards:

    magnitude change  mean over output features of | ||W'|| - ||W0|| |
    direction change  mean over output features of 1 - cos(W', W0)

The paper writes these per column; its code and PEFT's take the norm over the inputs of each output
feature, a row of the stored (out, in) weight, and so does this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor

from doratune.adapter.files import PREFIX
from doratune.base import empty_model, tensor_files
from doratune.errors import ModelError
from doratune.recipe import load_recipe
from doratune.record.comparison import Arm, ChangeCorrelation, MatrixChange
from doratune.record.evaluation import Interval
from doratune.record.run_folder import RunFolder
from doratune.ship.merging.checkpoint import Plan, plan_merge, read_tensor
from doratune.ship.merging.onto import QuantizedBase
from doratune.ship.merging.weight import as_matrix, merged_weight
from doratune.ship.merging.write import check_fit
from doratune.train.build import lora_config

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_DRAWS = 1000
MIN_MATRICES = 5
"""Fewer give no correlation worth an interval."""
_PIECE_ELEMENTS = 1 << 22
"""Of a matrix that are made float64 at a time, 32 MiB."""


def matrix_changes(run: RunFolder, base_path: Path, arm: Arm, seed: int) -> list[MatrixChange]:
    """How far one training moved every weight matrix it was given; one matrix at a time in float32.

    Needs the run's ``adapter/`` folder, or for full fine-tuning the model there: call it before that is
    deleted. Of a fully fine-tuned model, the matrices are those that the recipe's ``target_modules``
    name. Over a quantised base, which is loaded for it, W0 is what a layer multiplies with.

    Args:
        run: The run folder of the job, trained.
        base_path: Folder of the base model.
        arm: The job's arm.
        seed: The job's seed.

    Raises:
        AdapterError: The adapter is incomplete, or was trained on another base.
        ModelError: Weights are missing, damaged or quantised.
    """
    plan = plan_merge(base_path, run.adapter)
    quantize = load_recipe(run.recipe).model.quantize
    if quantize is not None:
        plan = QuantizedBase(base_path, quantize).plan(plan)
    pairs = _full(run, base_path) if plan.method == "full" else _adapted(plan, run.adapter)
    return [
        MatrixChange(
            arm=arm,
            layer=layer,
            seed=seed,
            magnitude_change=magnitude_O.mean().item(),
            direction_change=direction_O.mean().item(),
        )
        for layer, (magnitude_O, direction_O) in pairs
    ]


def correlate_changes(changes: Iterable[MatrixChange], seed: int) -> list[ChangeCorrelation]:
    """Pearson's r of magnitude and direction change over an arm's matrices, each averaged over seeds.

    For all matrices, and for each kind where there are several. Kinds with fewer than five matrices, or
    in which nothing varies, are left out.

    Args:
        changes: Of any arms and seeds.
        seed: Of the bootstrap over matrices.
    """
    by_arm: dict[Arm, dict[str, list[MatrixChange]]] = defaultdict(lambda: defaultdict(list))
    for change in changes:
        by_arm[change.arm][change.layer].append(change)
    found = []
    for arm, by_layer in by_arm.items():
        means = {
            layer: (
                float(np.mean([c.direction_change for c in group])),
                float(np.mean([c.magnitude_change for c in group])),
            )
            for layer, group in by_layer.items()
        }
        kinds: dict[str, list[tuple[float, float]]] = {"all": list(means.values())}
        if len({_kind(layer) for layer in means}) > 1:
            for layer, point in means.items():
                kinds.setdefault(_kind(layer), []).append(point)
        for kind, points in kinds.items():
            if correlation := _correlation(arm, kind, points, seed):
                found.append(correlation)
    return found


def changed(W_OI: Tensor, tuned_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Change of magnitude and of direction of every output feature.

    Args:
        W_OI: The weight before, (out_features, in_features).
        tuned_OI: The weight afterwards.

    Returns:
        Two of (out_features,), float64. The direction change of a row that is zero before or
        afterwards is 0.
    """
    magnitudes, directions = [], []
    step = max(1, _PIECE_ELEMENTS // W_OI.shape[1])
    for before_KI, after_KI in zip(W_OI.split(step), tuned_OI.split(step), strict=True):
        before_KI, after_KI = before_KI.double(), after_KI.double()
        m0_K = torch.linalg.vector_norm(before_KI, dim=1)
        m_K = torch.linalg.vector_norm(after_KI, dim=1)
        magnitudes.append((m_K - m0_K).abs())
        # 1 - cos(a, b) = |a/|a| - b/|b||² / 2, which keeps its digits where the cosine is nearly 1.
        gap_KI = after_KI / m_K[:, None] - before_KI / m0_K[:, None]
        directions.append(torch.where((m0_K > 0) & (m_K > 0), gap_KI.square().sum(1) / 2, 0.0))
    return torch.cat(magnitudes), torch.cat(directions)


_Changes = Iterator[tuple[str, tuple[Tensor, Tensor]]]


def _adapted(plan: Plan, adapter_path: Path) -> _Changes:
    for name, layer in plan.layers.items():
        delta = plan.deltas[name]
        weight = plan.weight(name)
        check_fit(layer, weight, delta, adapter_path)
        tuned = merged_weight(weight, delta)
        yield layer, changed(as_matrix(weight.float(), delta), as_matrix(tuned, delta))


def _full(run: RunFolder, base_path: Path) -> _Changes:
    before, after = tensor_files(base_path), tensor_files(run.adapter)
    adapter = load_recipe(run.recipe).adapter.model_copy(update={"method": "lora"})
    with torch.device("meta"):
        model = get_peft_model(empty_model(base_path), lora_config(adapter))
    for path, module in model.named_modules():
        if not isinstance(module, Linear):
            continue
        layer = path.removeprefix(PREFIX)
        W = _weight(before, layer, base_path)
        tuned = _weight(after, layer, run.adapter)
        if W.shape != tuned.shape:
            raise ModelError(
                f"{layer} has a weight of shape {tuple(tuned.shape)} in {run.adapter} and of "
                f"{tuple(W.shape)} in {base_path}. It was trained on another base."
            )
        yield layer, changed(W.T, tuned.T) if module.fan_in_fan_out else changed(W, tuned)


def _weight(files: dict[str, Path], layer: str, path: Path) -> Tensor:
    """The weight of a layer, float32; GPT-2's checkpoints leave out the model's own prefix."""
    wanted = f"{layer}.weight"
    for name in (wanted, wanted.partition(".")[2]):
        if name in files:
            return read_tensor(files, name).float()
    raise ModelError(
        f"{path} holds no {wanted}, which the model's config.json describes. Save the model again with "
        "`model.save_pretrained(folder)`."
    )


def _kind(layer: str) -> str:
    return layer.rpartition(".")[2]


def _correlation(
    arm: Arm, kind: str, points: list[tuple[float, float]], seed: int
) -> ChangeCorrelation | None:
    if len(points) < MIN_MATRICES:
        return None
    direction, magnitude = np.array(points).T
    value = float(_pearson(direction, magnitude))
    if not np.isfinite(value):
        return None
    num = len(points)
    rows = np.random.default_rng(seed).integers(num, size=(NUM_DRAWS, num))
    # A draw of one matrix again and again has no correlation.
    low, high = np.nanquantile(_pearson(direction[rows], magnitude[rows]), [0.025, 0.975])
    return ChangeCorrelation(
        arm=arm,
        kind=kind,
        correlation=Interval(
            value=value,
            low=float(low),
            high=float(high),
            n=num,
            method=f"bootstrap over matrices ({NUM_DRAWS} draws, seed {seed})",
        ),
        slope=float(value * magnitude.std() / direction.std()),
        num_matrices=num,
    )


def _pearson(x: Floats, y: Floats) -> Floats:
    """Along the last axis; NaN where x or y does not vary."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Floats = (x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return r
