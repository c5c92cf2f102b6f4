"""A checkpoint folder as a model and a tokenizer in memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from doratune.base.tensors import tensor_files
from doratune.errors import DependencyError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_base(
    path: Path, dtype: str = "auto", quantize: Literal["nf4", "int8"] | None = None
) -> PreTrainedModel:
    """Loads a causal language model from a local folder, in eval mode, on the CPU.

    Code that comes with the checkpoint is never run.

    Args:
        path: What `resolve_base` returned.
        dtype: ``"auto"`` is `natural_dtype`; else ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        quantize: ``"nf4"`` holds the linear layers in 4 bits, ``"int8"`` in 8, and brings the model
            to the GPU where there is one. Call `enable_fast_dora` before the first forward, whatever
            the adapter: it keeps bitsandbytes from repacking 4-bit weights for inference, after which
            they cannot be trained.

    Raises:
        ModelError: ``dtype`` is another, a file is missing or damaged, tensors are missing or have
            the wrong shape, the folder holds no causal language model that transformers knows, or a
            layer in 4 bits cannot be read right on a CPU.
        DependencyError: Quantising needs bitsandbytes, which is missing.
    """
    if dtype not in _DTYPES:
        raise ModelError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}.")
    tensor_files(path)
    if quantize:
        require_bitsandbytes()
    try:
        with _quiet():
            dtype = natural_dtype(path) if dtype == "auto" else dtype
            model, loading = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **({} if quantize is None else {"quantization_config": _bits(quantize, dtype)}),
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"{path} cannot be loaded as a causal language model: {_first_line(error)} Expected a "
            "checkpoint that this version of transformers can load without code of its own."
        ) from error
    _check_complete(path, loading)
    _check_rows(model)
    if getattr(model, "is_loaded_in_8bit", False):
        # It tells of every layer that inputs are rounded to float16, which is how LLM.int8 works.
        getLogger("bitsandbytes.autograd").setLevel(ERROR)
    return model.eval()


def empty_model(path: Path) -> PreTrainedModel:
    """The layers of a checkpoint without their weights, for checks and plans."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(path, local_files_only=True)
        )


def natural_dtype(path: Path) -> str:
    """The checkpoint's own precision, or float32 where this machine has no arithmetic for that.

    A CPU without bf16 instructions emulates them: a training step of a 135M model took 337 s in bf16
    and 5 s in float32 (AMD EPYC with AVX2, two cores, torch 2.13).
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    stored = str(config.dtype or torch.float32).removeprefix("torch.")
    if torch.cuda.is_available() or stored == "float32":
        return stored
    return stored if _cpu_computes(stored) else "float32"


def require_bitsandbytes() -> None:
    """Makes sure that a base can be quantised.

    Raises:
        DependencyError: bitsandbytes is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise DependencyError(
            "A quantised base needs the package bitsandbytes, which is not installed. "
            "Install it with: pip install 'doratune[quant]'"
        )


def _bits(quantize: Literal["nf4", "int8"], dtype: str) -> BitsAndBytesConfig:
    """As in QLoRA (Dettmers et al. 2023): NF4 with double quantisation; or LLM.int8 (2022)."""
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _cpu_computes(dtype: str) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == "bfloat16":
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a checkpoint folder; where it has no pad token, eos becomes that.

    Raises:
        ModelError: The tokenizer is missing or damaged, or has neither a pad nor an eos token.
    """
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the tokenizers library raises Exception itself
        raise ModelError(
            f"The tokenizer in {path} cannot be loaded ({type(error).__name__}): "
            f"{_first_line(error)} Save it there again with `tokenizer.save_pretrained(folder)`."
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"The tokenizer in {path} has neither a pad nor an eos token. Name one of them in "
                "its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_complete(path: Path, loading: dict[str, Any]) -> None:
    """Refuses what transformers only warns of: it fills such tensors with random numbers."""
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            f"{path} lacks tensors of the model that its config.json describes, {len(missing)} in "
            f"all: {', '.join(missing[:3])}. Fetch the whole checkpoint again."
        )
    if loading["mismatched_keys"]:
        name, found, expected = min(loading["mismatched_keys"])
        raise ModelError(
            f"{path} holds {name!r} with the shape {tuple(found)}, where its config.json describes "
            f"{tuple(expected)}. Fetch config and weights again; they belong to different models."
        )


def _check_rows(model: PreTrainedModel) -> None:
    """Refuses 4-bit layers that bitsandbytes reads wrong on a CPU.

    Its blocks go on from one row into the next, and its CPU kernel begins a new one with every row:
    with rows of 96, say, dequantised weights are off by a quarter, without a word (0.50.2).
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None or not module.weight.is_cpu or state.shape[-1] % state.blocksize == 0:
            continue
        raise ModelError(
            f"{name} has rows of {state.shape[-1]} weights. On a CPU, bitsandbytes reads weights in 4 "
            f"bits right only where rows are a multiple of its blocks of {state.blocksize}. Use a GPU, "
            "or leave this model unquantised."
        )


def _first_line(error: Exception) -> str:
    # The rest of transformers' messages is advice on its own options, and lists of all its classes.
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0].rstrip(" .:") + "."


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and warnings of transformers; what matters of them is checked instead."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
