"""The libraries that quantise a checkpoint, each into a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer, read_examples
from doratune.data.questions import some_of
from doratune.errors import DependencyError, ModelError
from doratune.progress import console
from doratune.record.files import digest_json
from doratune.record.quantized import CalibrationData, QuantizedType
from doratune.ship.export.subject import Subject

BLOCK_TOKENS = 256
"""Length of the pieces that examples are cut into, laid end to end, for calibration."""
_NF4_GROUP = 64
"""bitsandbytes' own: weights with one scale."""
_NEEDS = {
    "int8": ("auto-round", "compressed-tensors"),
    "int4": ("auto-round", "compressed-tensors"),
    "nf4": ("bitsandbytes",),
}


class Made(NamedTuple):
    """How a folder was made."""

    library: str
    group_size: int | None
    calibration: CalibrationData | None


class Calibration(NamedTuple):
    """Training examples as auto-round takes them."""

    blocks: list[list[int]]
    """Token ids, all of one length."""
    data: CalibrationData


def require(kind: QuantizedType) -> None:
    """Makes sure that what quantises is there.

    Raises:
        DependencyError: A package is missing.
    """
    for package in _NEEDS[kind]:
        try:
            version(package)
        except PackageNotFoundError as error:
            raise DependencyError(
                f"A model in {kind} is made with the package {package}, which is not installed. "
                "Install it with: pip install 'doratune[quant]'"
            ) from error


def make_quantized(subject: Subject, target: Path, kind: QuantizedType) -> Made:
    """Writes config and weights of the merged model into an empty folder.

    Raises:
        ModelError: The model cannot be quantised.
        StorageError: There is no training data.
    """
    if kind == "nf4":
        load_base(subject.run.merged, quantize="nf4").save_pretrained(target)
        return Made(f"bitsandbytes {version('bitsandbytes')}", _NF4_GROUP, None)
    library = f"auto-round {version('auto-round')}"
    calibration = calibration_data(subject)
    told = f" on {calibration.data.num_tokens:,} tokens of training examples"
    console.print(f"Quantising to {kind} with {library}{told if kind == 'int4' else ''} ...")
    _run_auto_round(subject, target, kind, calibration.blocks)
    return Made(library, _group_size(target), calibration.data if kind == "int4" else None)


def _run_auto_round(
    subject: Subject, target: Path, kind: QuantizedType, blocks: list[list[int]]
) -> None:
    merged, export = subject.run.merged, subject.recipe.export
    with TemporaryDirectory(prefix=".auto-round-", dir=target.parent) as folder:
        request, out = Path(folder).absolute() / "request.json", Path(folder).absolute() / "out"
        asked = {
            "model": str(merged.absolute()),
            "target": str(out),
            "bits": 4 if kind == "int4" else 8,
            "steps": export.calibration_steps if kind == "int4" else 0,
            "blocks": blocks,
            "seed": subject.recipe.seed,
        }
        request.write_text(json.dumps(asked), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "doratune.ship.export.quantized_run", str(request)], check=False
        )
        found = list(out.glob("*/config.json"))
        if done.returncode != 0 or len(found) != 1:
            raise ModelError(
                f"auto-round could not quantise {merged} to {kind}: it ended with code "
                f"{done.returncode}, and what it said stands above. Leave {kind} out of "
                "export.quantized_types, or take nf4."
            )
        for file in found[0].parent.iterdir():
            shutil.move(file, target / file.name)


def calibration_data(subject: Subject) -> Calibration:
    """Some training examples in the model's template, end to end, in pieces of one length.

    Which examples is decided by their hash. What is left at the end is left out.
    """
    renderer = Renderer(load_tokenizer(subject.run.merged), subject.recipe.data.template)
    most = subject.recipe.export.calibration_examples
    examples = some_of(read_examples(subject.run, "train"), most)
    pairs = [(example.messages, example.tools) for example in examples]
    ids = [token for rendered in renderer.examples(pairs) for token in rendered.input_ids]
    length = min(BLOCK_TOKENS, len(ids))
    blocks = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
    return Calibration(
        blocks,
        CalibrationData(
            num_examples=len(examples),
            num_tokens=sum(map(len, blocks)),
            digest=digest_json(blocks),
        ),
    )


def _group_size(folder: Path) -> int | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (group,) = config["quantization_config"]["config_groups"].values()
    size: int | None = group["weights"]["group_size"]
    return size
