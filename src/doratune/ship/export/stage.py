"""The door of exporting: each form in a folder of its own, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from doratune.adapter import read_adapter
from doratune.adapter.config import CONFIG
from doratune.adapter.tuned import check_base
from doratune.base import fingerprint, resolve_base
from doratune.errors import ConfigError, StorageError, VerificationError
from doratune.progress import console
from doratune.recipe.schema import Recipe
from doratune.record.export import ExportedFile, ExportedForm, ExportFile, Form
from doratune.record.files import digest_file, digest_path, replacing
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import VerifyFile
from doratune.ship.export.bundle import write_bundle
from doratune.ship.export.gguf import write_gguf_form
from doratune.ship.export.inputs import but_for_figures, inputs_of
from doratune.ship.export.lora import write_approximation
from doratune.ship.export.merged import write_merged
from doratune.ship.export.model_card import write_cards
from doratune.ship.export.peft import write_peft
from doratune.ship.export.quantized import write_quantized
from doratune.ship.export.subject import (
    FROM_MERGED,
    Subject,
    Written,
    chosen_onto,
    is_approximate,
    verified,
)
from doratune.ship.merging.onto import check_onto
from doratune.ship.task import Task

_WRITERS: dict[Form, Callable[[Subject, Path], Written]] = {
    "peft": write_peft,
    "lora": write_approximation,
    "merged": write_merged,
    "gguf": write_gguf_form,
    "bundle": write_bundle,
    "quantized": write_quantized,
}
_FROM_DENSE: tuple[Form, ...] = ("gguf", "quantized")


def export_forms(
    run: RunFolder,
    recipe: Recipe,
    forms: Sequence[Form] | None = None,
    task: Task | None = None,
) -> bool:
    """Writes ``export/<form>/`` for each form, and notes them in ``export.json``.

    Forms that are up to date are left as they are, and where only figures of other stages have
    changed, their model cards are written anew. After an interruption those that were finished stay,
    and the others are written.

    Args:
        run: A trained run; for the forms ``merged`` and ``gguf`` also merged.
        recipe: Its recipe.
        forms: What to write; None takes ``export.forms`` of the recipe.
        task: The test questions; with them every form is asked that is not exactly the trained model.

    Returns:
        Whether anything was done.

    Raises:
        ConfigError: A form does not go with the training method.
        StorageError: There is no adapter or merged model yet, or a file cannot be written.
        VerificationError: Verification of the merged model failed, or llama.cpp computes another model.
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had, or has no place in a form.
    """
    if not run.adapter.is_dir():
        raise StorageError(f"{run.adapter} does not exist. Run `doratune train` first.")
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    check_base(base_path, run.adapter)
    subject = Subject(
        run,
        recipe,
        base_path,
        fingerprint(base_path),
        _method(run.adapter),
        task,
        chosen_onto(run, recipe),
    )
    chosen = list(forms or recipe.export.forms or _default(subject))
    _check_forms(subject, chosen)
    done = [_export(subject, form) for form in chosen]
    return any(done)


def _method(adapter: Path) -> Literal["dora", "lora", "full"]:
    return read_adapter(adapter).method if (adapter / CONFIG).exists() else "full"


def _default(subject: Subject) -> list[Form]:
    return ["merged"] if subject.method == "full" else ["peft"]


def _check_forms(subject: Subject, forms: Sequence[Form]) -> None:
    run, method = subject.run, subject.method
    for form in forms:
        if method == "full" and form not in FROM_MERGED:
            raise ConfigError(
                f"The form {form!r} needs an adapter, and this run trained the whole model "
                "(adapter.method: full). Export merged, gguf or quantized."
            )
        if method == "lora" and form in ("lora", "bundle"):
            raise ConfigError(
                f"The form {form!r} is made from a DoRA adapter, and this run trained LoRA: its adapter "
                "is plain LoRA already. Export peft."
            )
        if form != "peft":
            check_onto(run.adapter, subject.onto)
        if form in _FROM_DENSE and subject.onto == "requantize":
            raise ConfigError(
                f"The form {form!r} is made from weights in 16 or 32 bits, and {run.merged} was "
                "quantised again (merge.onto: requantize). Merge onto dequantized or original."
            )
        if form in FROM_MERGED and not run.merged.is_dir():
            raise StorageError(
                f"{run.merged} does not exist, which the form {form!r} is made from. Run `doratune "
                "merge` first."
            )
        if form in FROM_MERGED and run.verify.exists() and not VerifyFile.read(run.verify).passed:
            raise VerificationError(
                f"{run.verify} says that the merged model is not the trained one; the form {form!r} "
                "would carry the fault on. Run `doratune merge` and `doratune verify` again."
            )


def _export(subject: Subject, form: Form) -> bool:
    run = subject.run
    folder = run.export / form
    stage = f"export {form}"
    inputs, noted = inputs_of(subject, form), run.made_from(stage)
    if form not in _read(run).forms and folder.is_dir():
        shutil.rmtree(folder)  # of unknown content: export.json was lost, or never knew it
    if but_for_figures(noted) == but_for_figures(inputs) | {"asked": "yes"}:
        inputs["asked"] = "yes"  # answers that were given are not thrown away
    same = inputs != noted and but_for_figures(inputs) == but_for_figures(noted)
    only_cards = same and run.is_current(stage, noted) and _read(run).forms[form].findings

    def work() -> None:
        if only_cards:
            record = _renew_cards(subject, form, folder)
        else:
            console.print(f"Exporting {form} to {folder} ...")
            with replacing(folder) as temporary:
                temporary.mkdir()
                written = _WRITERS[form](subject, temporary)
                write_cards(subject, form, temporary, written.findings)
                record = _record(subject, form, temporary, written)
        file = _read(run)
        ExportFile(forms={**file.forms, form: record}).write(run.exported)

    return run.run_stage(stage, inputs, [folder], work)


def _renew_cards(subject: Subject, form: Form, folder: Path) -> ExportedForm:
    """Writes the model cards of a form anew, for the figures that they tell are others now."""
    console.print(f"Writing the model card of {folder} anew ...")
    record = _read(subject.run).forms[form]
    write_cards(subject, form, folder, record.findings)
    files = [
        _file(folder, folder / file.name) if file.name in record.findings else file
        for file in record.files
    ]
    notes = _unverified(subject, form) if form == "merged" else record.notes
    return record.model_copy(update={"files": files, "notes": notes})


def _read(run: RunFolder) -> ExportFile:
    return ExportFile.read(run.exported) if run.exported.exists() else ExportFile()


def _record(subject: Subject, form: Form, folder: Path, written: Written) -> ExportedForm:
    return ExportedForm(
        form=form,
        approximate=is_approximate(subject, form),
        base_fingerprint=subject.base_fingerprint,
        adapter_digest=digest_path(subject.run.adapter),
        files=[_file(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()],
        approximation=written.approximation,
        quantized=list(written.quantized),
        logits=list(written.logits),
        tokens=list(written.tokens),
        tasks=list(written.tasks),
        notes=[*written.notes, *_unverified(subject, form)],
        findings=written.findings,
    )


def _file(folder: Path, file: Path) -> ExportedFile:
    return ExportedFile(
        name=file.relative_to(folder).as_posix(),
        num_bytes=file.stat().st_size,
        sha256=digest_file(file),
    )


def _unverified(subject: Subject, form: Form) -> list[str]:
    unknown = form == "merged" and not subject.run.verify.exists()
    return [verified(subject)] if unknown else []
