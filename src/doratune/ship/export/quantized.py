"""The form `quantized`: the merged model in 8 or 4 bits, a folder for each, and what that costs."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from doratune.adapter import read_adapter
from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.config import CONFIG
from doratune.base import load_base, tensor_files
from doratune.record.export import LogitCheck, TaskCost
from doratune.record.quantized import Quantized, QuantizedType
from doratune.record.schemas import ORIGIN
from doratune.ship.export.ask import ask_form, task_sentence
from doratune.ship.export.model_card import CARD
from doratune.ship.export.quantized_check import compare_quantized
from doratune.ship.export.quantized_make import make_quantized, require
from doratune.ship.export.subject import Subject, Written, copy_license
from doratune.ship.stage import golden_inputs
from doratune.ship.verification.compare_logits import compare_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_quantized(subject: Subject, folder: Path) -> Written:
    """Writes the merged model in each of ``export.quantized_types``, and measures what was lost.

    Measured are every weight and norm against the merged ones, the logits on golden inputs, and where
    `Subject.task` is there the right answers on the test split.

    Raises:
        DependencyError: A package is missing.
        ModelError: The merged model cannot be quantised, or the result cannot be loaded.
        StorageError: There is no training data, or a file cannot be written.
    """
    kinds = subject.recipe.export.quantized_types
    for kind in kinds:
        require(kind)
    records: list[Quantized] = []
    logits: list[LogitCheck] = []
    tasks: list[TaskCost] = []
    findings: dict[str, list[str]] = {}
    for kind in kinds:
        target = folder / kind
        target.mkdir()
        record, check = _write(subject, target, kind)
        dtype = subject.recipe.model.dtype
        asked = ask_form(subject, f"the model in {kind}", lambda: load_quantized(target, dtype))  # noqa: B023
        records.append(record)
        logits.append(check)
        tasks += asked
        findings[f"{kind}/{CARD}"] = [*describe(record, check), *map(task_sentence, asked)]
    return Written(findings, logits=tuple(logits), tasks=tuple(tasks), quantized=tuple(records))


def _write(subject: Subject, target: Path, kind: QuantizedType) -> tuple[Quantized, LogitCheck]:
    merged = subject.run.merged
    made = make_quantized(subject, target, kind)
    _copy_others(subject, target)
    prompts = golden_inputs(subject.run, subject.recipe, subject.base_path)
    before, after = load_base(merged, "float32"), load_quantized(target)
    figures = compare_logits(before, after, prompts)
    found = compare_quantized(before, after, _magnitudes(subject))
    del before, after
    gc.collect()
    record = Quantized(
        type=kind,
        **made._asdict(),
        num_bytes=_num_bytes(target),
        num_bytes_merged=_num_bytes(merged),
        **found._asdict(),
    )
    return record, LogitCheck(what=f"transformers, {kind}", against="merged", **figures._asdict())


def load_quantized(folder: Path, dtype: str = "float32") -> PreTrainedModel:
    """Loads a quantised folder so that its weights can still be read after it has run."""
    model = load_base(folder, dtype)
    forbid_repacking(model)
    return model


def _magnitudes(subject: Subject) -> dict[str, Tensor]:
    if not (subject.run.adapter / CONFIG).exists():
        return {}
    layers = read_adapter(subject.run.adapter).layers
    return {n: delta.magnitude for n, delta in layers.items() if delta.magnitude is not None}


def _copy_others(subject: Subject, target: Path) -> None:
    """Tokenizer, template and licence as they lie beside the merged weights."""
    for file in sorted(subject.run.merged.iterdir()):
        weights = file.suffix == ".safetensors" or file.name.endswith(".index.json")
        if not weights and file.name not in ("config.json", CARD):
            shutil.copyfile(file, target / file.name)
    if (subject.run.adapter / ORIGIN).exists():
        shutil.copyfile(subject.run.adapter / ORIGIN, target / ORIGIN)
    copy_license(subject, target)
    for file in set(tensor_files(target).values()):
        # safetensors writes for the owner only.
        shutil.copymode(target / "config.json", file)


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in set(tensor_files(folder).values()))


def describe(record: Quantized, logits: LogitCheck) -> list[str]:
    """The findings in sentences."""
    worst = max(record.layers, key=lambda layer: layer.weight_error)
    each = "an output feature" if record.group_size is None else f"{record.group_size} weights"
    data = record.calibration
    tuned = (
        f"Rounding was tuned on {data.num_examples:,} training examples ({data.num_tokens:,} tokens, "
        f"digest `{data.digest[:16]}`)."
        if data
        else "Values are rounded to the nearest level; no data was used."
    )
    left = record.unquantized
    return [
        f"Made by {record.library} with one scale for {each}: {record.num_bytes / 2**20:,.0f} MiB "
        f"instead of {record.num_bytes_merged / 2**20:,.0f}. {tuned}",
        f"{record.weight_error:.2%} of the weights is lost (Frobenius norm over all quantised layers), "
        f"most in {worst.layer}: {worst.weight_error:.2%}.",
        norms_sentence(record),
        *(
            [f"{len(left)} linear layers were left as they are: {', '.join(left[:3])}."]
            if left
            else []
        ),
        f"On {logits.num_tokens:,} positions of golden inputs: mean KL {logits.mean_kl:.2e} nats to the "
        f"merged model, the same most likely token at {logits.top1_agreement:.2%}.",
    ]


def norms_sentence(record: Quantized) -> str:
    """Whether the magnitudes are still there, and what was clipped."""
    worst = max(record.layers, key=lambda layer: layer.norm_error / layer.norm_limit)
    beyond = sum(layer.num_rows_beyond for layer in record.layers)
    rows = sum(layer.num_rows for layer in record.layers)
    place = "furthest beyond" if beyond else "nearest to that"
    text = (
        f"Magnitudes: {beyond:,} of {rows:,} output features have another norm than the steps of the "
        f"quantiser allow; {place} is {worst.layer}, off by {worst.norm_error:.2%} where "
        f"{worst.norm_limit:.2%} is allowed. "
    )
    if record.clipped is None:
        return text + "No weight was clipped."
    lost, weights = record.clipped, sum(layer.num_weights for layer in record.layers)
    count = sum(layer.num_clipped for layer in record.layers)
    return text + (
        f"{count:,} of {weights:,} weights were clipped; most was lost in {lost.layer}, output feature "
        f"{lost.row}: {lost.weight:.4g} became {lost.quantized:.4g}."
    )
