"""Adapter and output scales in one folder: DoRA for an engine that can serve LoRA and multiply.

A layer's output is ``y = g (x W^T + s x A^T B^T) + bias`` with ``g = m / ||W + s B A||`` per output
feature: of an embedding per dimension, of a convolution per output channel. g needs the base's weight
once, here; an engine may hold that weight quantised, packed or in parts, and never looks at it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from doratune.adapter.config import CONFIG
from doratune.adapter.files import PREFIX, WEIGHTS
from doratune.progress import track
from doratune.record.files import digest_file
from doratune.ship.export.model_card import CARD
from doratune.ship.export.peft import copy_adapter, renew_origin
from doratune.ship.export.subject import Subject, Written, base_name, serving_quantize
from doratune.ship.merging.onto import plan_onto
from doratune.ship.merging.weight import mag_norm_scale
from doratune.ship.merging.write import check_fit

SCALES = "dora_scale.safetensors"
SUFFIX = "mag_norm_scale"
FORMAT = "doratune-scale-1"


@torch.no_grad()
def write_bundle(subject: Subject, folder: Path) -> Written:
    """Writes the adapter as it is and ``dora_scale.safetensors``, one base weight in memory at a time.

    The scales are float32, (out_features,), one for each adapted layer, under the names of the
    adapter's own tensors. The metadata names base and adapter file by their SHA-256.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base is stored quantised.
    """
    adapter = subject.run.adapter
    plan = plan_onto(subject.base_path, adapter, subject.onto)
    scales: dict[str, Tensor] = {}
    for name, delta in track(plan.deltas.items(), "Computing scales", total=len(plan.deltas)):
        layer, weight = plan.layers[name], plan.weight(name)
        check_fit(layer, weight, delta, adapter)
        scales[f"{PREFIX}{layer}.{SUFFIX}"] = mag_norm_scale(weight, delta).contiguous()
    copy_adapter(subject, folder)
    quantize = serving_quantize(subject)
    metadata = {
        "format": FORMAT,
        "base_source": base_name(subject),
        "base_fingerprint": subject.base_fingerprint,
        "adapter_sha256": digest_file(folder / WEIGHTS),
        **({"base_quantize": quantize} if quantize else {}),
    }
    save_file(scales, folder / SCALES, metadata=metadata)
    # safetensors writes for the owner only; an adapter is served by others too.
    shutil.copymode(folder / CONFIG, folder / SCALES)
    renew_origin(subject, folder, quantize=quantize)
    low = min(scale.min().item() for scale in scales.values())
    high = max(scale.max().item() for scale in scales.values())
    findings = [
        f"{len(scales)} layers with scales between {low:.4f} and {high:.4f}; leaving them out would "
        "leave the magnitude out."
    ]
    return Written({CARD: findings})
