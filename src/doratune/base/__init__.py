"""Base models: from a name to a folder of safetensors, its fingerprint, and the loaded model."""

from doratune.base.identity import fingerprint
from doratune.base.load import empty_model, load_base, load_tokenizer
from doratune.base.source import resolve_base
from doratune.base.tensors import num_bytes, tensor_files

__all__ = [
    "empty_model",
    "fingerprint",
    "load_base",
    "load_tokenizer",
    "num_bytes",
    "resolve_base",
    "tensor_files",
]
