"""Whether a merged checkpoint is the model that base and adapter make together.

Two questions, each with its own sharpness. The weights are compared one by one with what the
adapter says they are (`compare_weights`): exact up to float32 arithmetic, in every precision. The
two models are then run on golden inputs, layer by layer (`compare_layers`) and as a whole: coarser,
for the merged weights are rounded, but with the layers used in training included. Limits on the
whole, with u the unit roundoff:

``mean_kl``: rounding every weight moves the logits in proportion to u, and KL with the square of
that. Measured on SmolLM2-135M with DoRA on all 210 linear layers: 21 u² in bfloat16, 11 u² in
float16, and 1.4e-11 in float32, which is the arithmetic of the two forward passes. Allowed is ten
times that, 200 u², and 1e-8 for the arithmetic. Alpha wrong by a factor of two gave 1.07.

``top1_agreement``: rounding turns near ties, in proportion to u. Measured: 2 of 627 positions in
bfloat16, none in the others. Allowed is 10 u, and 1 % because one position among few is much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from doratune.adapter.tuned import load_tuned
from doratune.base import load_base
from doratune.progress import track
from doratune.record.schemas import LayerCheck, Onto, VerifyFile
from doratune.ship.merging.onto import plan_onto
from doratune.ship.verification.compare_layers import output_limit
from doratune.ship.verification.compare_logits import logit_limits
from doratune.ship.verification.compare_models import compare_loaded
from doratune.ship.verification.compare_weights import (
    ARITHMETIC,
    WeightChecks,
    compare_weights,
    norm_threshold,
)
from doratune.ship.verification.roundoff import ROUNDOFF


def thresholds(dtype: str) -> dict[str, float]:
    """Limits of a correct merge into ``dtype``; all but ``top1_agreement`` are upper ones."""
    u = ROUNDOFF[dtype]
    return {
        "weight_error": ARITHMETIC,
        "norm_error": norm_threshold(dtype),
        "output_error": output_limit(u),
        **logit_limits(u),
    }


def verify(
    base_path: Path,
    adapter_path: Path,
    merged_path: Path,
    dtype: str,
    prompts: Sequence[list[int]],
    onto: Onto | None = None,
    weights_only: bool = False,
) -> VerifyFile:
    """Compares a merged checkpoint with base and adapter; both models are in memory together.

    Args:
        base_path: Folder of the base model.
        adapter_path: The adapter, or the fully fine-tuned model.
        merged_path: What `merge` wrote from them.
        dtype: Precision it was written in.
        prompts: Golden inputs, token ids.
        onto: Which weights of a base that training quantised it was merged onto.
        weights_only: Whether the outputs of layers and models are told and not judged.

    Returns:
        All figures, with a sentence for each limit that is crossed.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: A model is damaged or cannot be loaded.
        StorageError: The merged checkpoint lacks a tensor.
    """
    weights = compare_weights(plan_onto(base_path, adapter_path, onto), merged_path, dtype)
    models = compare_loaded(
        load_tuned(base_path, adapter_path, "float32"),
        load_base(merged_path, "float32"),
        track(prompts, "Comparing models", total=len(prompts)),
        getattr(torch, dtype),
    )
    limits = thresholds(dtype)
    if weights_only:
        limits = {key: limits[key] for key in ("weight_error", "norm_error")}
    failures = _weight_failures(weights, limits) + ([] if weights_only else models.failures)
    return VerifyFile(
        passed=not failures,
        dtype=dtype,
        num_prompts=len(prompts),
        **models.logits._asdict(),
        thresholds=limits,
        failures=failures,
        layers=weights.layers,
        outputs={layer.layer: layer.output_error for layer in models.layers},
    )


def _weight_failures(weights: WeightChecks, limits: dict[str, float]) -> list[str]:
    failures = []
    for figure, meaning in (
        ("weight_error", "its merged weight is not what base and adapter give"),
        ("norm_error", "the norms of its merged weight are not the adapter's magnitudes"),
    ):
        limit = limits[figure]
        errors = [(_figure(layer, figure), layer.layer) for layer in weights.layers]
        beyond = [(error, layer) for error, layer in errors if error > limit]
        if beyond:
            error, layer = max(beyond)
            failures.append(
                f"{figure} is {error:.3g} in layer {layer}; at most {limit:.3g} is allowed: "
                f"{meaning}. {len(beyond)} of {len(errors)} layers are beyond the limit, this one "
                "furthest."
            )
    if weights.changed:
        failures.append(
            f"{len(weights.changed)} tensors that the adapter does not change differ from their "
            f"source, the first of them {weights.changed[0]}; expected exact copies."
        )
    return failures


def _figure(layer: LayerCheck, figure: str) -> float:
    value = layer.weight_error if figure == "weight_error" else layer.norm_error
    return 0.0 if value is None else value
