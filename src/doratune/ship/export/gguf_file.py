"""A merged checkpoint as one GGUF file, with one tensor in memory at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
from gguf.constants import MODEL_ARCH_NAMES
from gguf.quants import dequantize, quantize
from safetensors import safe_open
from torch import Tensor

from doratune.base import load_tokenizer, tensor_files
from doratune.errors import ModelError, StorageError
from doratune.progress import track
from doratune.recipe.export import GgufType
from doratune.ship.export.gguf_model import add_settings, extra_tensors, gguf_model
from doratune.ship.export.gguf_tokenizer import add_tokenizer
from doratune.ship.merging.checkpoint import read_tensor

_F32, _F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
_KINDS: dict[GgufType, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "f32": (_F32, LlamaFileType.ALL_F32),
    "f16": (_F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_QUANTIZATION_VERSION = 2
_Q8_0_STEP = 1 / 127
"""Step of Q8_0 as a share of the largest value of 32."""


class Labels(NamedTuple):
    """What the file says of itself."""

    name: str
    license: str | None
    base_fingerprint: str
    adapter_digest: str


def write_gguf(checkpoint: Path, file: Path, kind: GgufType, labels: Labels) -> None:
    """Writes weights, hyperparameters, tokenizer and chat template of a checkpoint folder.

    Matrices get the precision asked, vectors stay in float32, and rows that are no multiple of 32
    long are stored in f16 where q8_0 is asked, as llama.cpp's own tools do.

    Args:
        checkpoint: A folder that plain transformers loads.
        file: The file to write.
        kind: Precision of the matrices.
        labels: Name, licence and origin.

    Raises:
        ModelError: The architecture, a setting or the tokenizer has no place in GGUF, or a value is
            too large for f16.
    """
    files = tensor_files(checkpoint)
    model = gguf_model(checkpoint, files)
    writer = GGUFWriter(file, MODEL_ARCH_NAMES[model.arch])
    try:
        _add_labels(writer, kind, labels)
        add_settings(writer, model.config)
        add_tokenizer(writer, load_tokenizer(checkpoint), checkpoint, model.config.vocab_size)
        extra = extra_tensors(model)
        for name, tensor in extra.items():
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.nbytes, _F32)
        for name, target in model.names.items():
            shape = _shape(files[name], name)
            stored = _stored(shape, kind)
            size = _num_bytes(shape, stored)
            # The data type counts only for values that are packed already.
            writer.add_tensor_info(target, shape, np.dtype(np.float32), size, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in extra.values():
            writer.write_tensor_data(tensor.numpy())
        title = f"Writing {file.name}"
        for name in track(model.names, title, total=len(model.names)):
            tensor = model.converted(name, read_tensor(files, name))
            writer.write_tensor_data(_packed(name, tensor, _stored(list(tensor.shape), kind)))
    finally:
        writer.close()


def _add_labels(writer: GGUFWriter, kind: GgufType, labels: Labels) -> None:
    writer.add_type("model")
    writer.add_name(labels.name)
    if labels.license:
        writer.add_license(labels.license)
    writer.add_file_type(_KINDS[kind][1])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_string("doratune.base_fingerprint", labels.base_fingerprint)
    writer.add_string("doratune.adapter_digest", labels.adapter_digest)


def _shape(file: Path, name: str) -> list[int]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.get_slice(name).get_shape())


def _stored(shape: list[int], kind: GgufType) -> GGMLQuantizationType:
    if len(shape) < 2:
        return _F32
    stored = _KINDS[kind][0]
    return stored if shape[-1] % GGML_QUANT_SIZES[stored][0] == 0 else _F16


def _num_bytes(shape: list[int], stored: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[stored]
    return math.prod(shape) // block * size


def _packed(name: str, tensor: Tensor, stored: GGMLQuantizationType) -> np.ndarray:
    if stored == GGMLQuantizationType.BF16:
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if stored == _F16 and (half := tensor.half()).isinf().any():
        raise ModelError(
            f"{name} holds values up to {tensor.abs().max().item():.6g}, and f16 ends at "
            f"{torch.finfo(half.dtype).max:g}. Set export.gguf_types to bf16 or f32."
        )
    return np.ascontiguousarray(quantize(tensor.float().contiguous().numpy(), stored))


@torch.no_grad()
def check_gguf(checkpoint: Path, file: Path, kind: GgufType) -> int:
    """Reads the file back and compares every tensor with the checkpoint's.

    f32 and f16, bf16 from a checkpoint of that precision or one below, are equal; a value of q8_0 is
    within half a step of its block, and the scale's own rounding to f16.

    Returns:
        Number of tensors compared.

    Raises:
        StorageError: One is missing, or off by more.
    """
    files = tensor_files(checkpoint)
    model = gguf_model(checkpoint, files)
    found = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    expected_names = {*model.names.values(), *extra_tensors(model)}
    if found.keys() != expected_names:
        raise StorageError(
            f"{file} holds other tensors than it should, such as "
            f"{min(found.keys() ^ expected_names)}. Export again."
        )
    for name, target in track(model.names.items(), f"Reading {file.name}", total=len(model.names)):
        stored = found[target].tensor_type
        values = torch.from_numpy(np.array(dequantize(found[target].data, stored)))
        expected = model.converted(name, read_tensor(files, name)).float()
        off = _beyond(values.reshape(expected.shape), expected, stored)
        if off > 0:
            raise StorageError(
                f"{file} holds {target} with a value {off:.3g} further from that of {checkpoint} than "
                f"{stored.name} rounds. Export again."
            )
    return len(model.names)


def _beyond(found: Tensor, expected: Tensor, stored: GGMLQuantizationType) -> float:
    """How much further apart two tensors are than rounding makes them."""
    if stored == GGMLQuantizationType.Q8_0:
        largest = expected.reshape(-1, 32).abs().amax(1).repeat_interleave(32).view_as(expected)
        # Half a step, and 127 steps of a scale that is itself rounded to f16.
        allowed = largest * (_Q8_0_STEP / 2 + 2.0**-11 + 2.0**-20) + 127 * 2.0**-25
    elif stored == GGMLQuantizationType.BF16:
        allowed = (expected.bfloat16().float() - expected).abs()
    elif stored == _F16:
        allowed = (expected.half().float() - expected).abs()
    else:
        allowed = torch.zeros(())
    return max(0.0, ((found - expected).abs() - allowed).max().item())
