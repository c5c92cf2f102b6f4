"""What is exported, and what goes along with every form of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import ModelCard

from doratune.recipe.schema import Recipe
from doratune.record.export import Approximation, Form, LogitCheck, TaskCost, TokenCheck
from doratune.record.quantized import Quantized
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import MergeFile, Onto, VerifyFile
from doratune.ship.merging.onto import Quantize, bits, quantized_in_training
from doratune.ship.task import Task

FROM_MERGED: tuple[Form, ...] = ("merged", "gguf", "quantized")
"""Forms that are made from the merged checkpoint."""

_LICENSES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


class Subject(NamedTuple):
    """A trained run, and the base it was trained on."""

    run: RunFolder
    recipe: Recipe
    base_path: Path
    base_fingerprint: str
    method: Literal["dora", "lora", "full"]
    task: Task | None
    """None where the test split is not to be asked."""
    onto: Onto | None = None
    """Where training quantised the base: what the merged model stands on, else what the recipe says."""


class Written(NamedTuple):
    """What writing a form found out about it."""

    findings: dict[str, list[str]]
    """How near it is to the trained model, in sentences, by the name of the card that tells them."""
    approximation: Approximation | None = None
    logits: tuple[LogitCheck, ...] = ()
    tokens: tuple[TokenCheck, ...] = ()
    tasks: tuple[TaskCost, ...] = ()
    quantized: tuple[Quantized, ...] = ()
    notes: tuple[str, ...] = ()


def chosen_onto(run: RunFolder, recipe: Recipe) -> Onto | None:
    """What a run whose base training quantised is merged onto."""
    return MergeFile.read(run.merge).onto if run.merge.exists() else recipe.merge.onto


def stands_on(subject: Subject, form: Form) -> Onto | None:
    """Which of a quantised base's weights a form is made with; None where there is only one base."""
    if form == "peft" or quantized_in_training(subject.run.adapter) is None:
        return None
    # An adapter on the quantised base is what requantising comes near to.
    on_adapter = form in ("lora", "bundle") and subject.onto == "requantize"
    return "dequantized" if on_adapter else subject.onto


def is_approximate(subject: Subject, form: Form) -> bool:
    """Whether a form is another model than the trained one.

    So is a dense one after training over int8, where layers round what they are given, too.
    """
    onto, quantize = stands_on(subject, form), quantized_in_training(subject.run.adapter)
    dense = quantize == "int8" and form in ("merged", "gguf")
    return form in ("lora", "quantized") or onto in ("original", "requantize") or dense


def standing(subject: Subject, form: Form) -> list[str]:
    """For the card: which base's weights a form stands on; nothing where there is only one."""
    onto, quantize = stands_on(subject, form), quantized_in_training(subject.run.adapter)
    if onto is None or quantize is None:
        return []
    base = f"Trained over the base in {bits(quantize)} ({quantize})"
    inputs = (
        "; the rounding of inputs there is left out"
        if quantize == "int8" and form != "bundle"
        else ""
    )
    return [
        {
            "dequantized": f"{base}, and made with the weights that this stands for{inputs}.",
            "original": f"{base}, but made with the base's own weights: **another model** than the "
            "trained one.",
            "requantize": f"{base}, merged, and quantised again in the same way: **another model** than "
            "the trained one.",
        }[onto]
    ]


def verified(subject: Subject) -> str:
    """What is known of the merged weights, in a sentence."""
    merged = MergeFile.read(subject.run.merge)
    if not subject.run.verify.exists():
        return (
            f"Merged into {merged.dtype}; not compared with base and adapter: `doratune verify` "
            "did not run."
        )
    verify = VerifyFile.read(subject.run.verify)
    return (
        f"Merged into {merged.dtype} and compared with base and adapter in float32: mean KL "
        f"{verify.mean_kl:.1e} nats, the same most likely token at {verify.top1_agreement:.2%} of "
        f"{verify.num_tokens:,} positions."
    )


def serving_quantize(subject: Subject) -> Quantize | None:
    """How the base is quantised that an adapter's form is served on."""
    return None if subject.onto == "original" else quantized_in_training(subject.run.adapter)


class License(NamedTuple):
    """Under which terms the result is passed on, as far as the base tells."""

    name: str | None
    """As the hub names it; ``other`` where there is only a text."""
    files: list[Path]


def base_license(subject: Subject) -> License:
    """The recipe's ``export.license``, or else what the base folder says."""
    files = sorted({f for pattern in _LICENSES for f in subject.base_path.glob(pattern)})
    name = subject.recipe.export.license
    card = subject.base_path / "README.md"
    if name is None and card.is_file():
        found = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True)
        name = found.data.license
    return License(name or ("other" if files else None), files)


def copy_license(subject: Subject, folder: Path) -> None:
    """Puts the base's licence texts into a form's folder."""
    for file in base_license(subject).files:
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def base_name(subject: Subject) -> str:
    """What to call the base in public: a hub id or package, or the last part of a folder's path."""
    source = subject.recipe.model.source
    is_path = source.startswith(("/", "./", "../", "~"))
    return Path(source).name if is_path else source
