"""Exported folders against the trained model, each loaded as its users load it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.tuned import load_tuned
from doratune.base import fingerprint, load_base, load_tokenizer, resolve_base
from doratune.errors import DoratuneError, VerificationError
from doratune.progress import console, track
from doratune.recipe.export import GgufType
from doratune.recipe.schema import Recipe
from doratune.record.export import ExportFile, Form, LogitCheck
from doratune.record.files import digest_json, digest_path
from doratune.record.run_folder import RunFolder
from doratune.record.verification import FormCheck, FormsFile
from doratune.ship.export.in_llama import check_in_llama, interpreter, reference_of
from doratune.ship.export.model_card import CARD
from doratune.ship.merging.checkpoint import stored_dtype
from doratune.ship.stage import golden_inputs
from doratune.ship.stock_peft import load_in_stock_peft, why_not
from doratune.ship.verification.bundle_model import load_bundle
from doratune.ship.verification.compare_layers import output_limit
from doratune.ship.verification.compare_logits import logit_limits
from doratune.ship.verification.compare_models import compare_loaded
from doratune.ship.verification.roundoff import ROUNDOFF


class _Subject:
    """The trained run, and what all forms are compared with, made when it is first needed."""

    def __init__(self, run: RunFolder, recipe: Recipe) -> None:
        self.run, self.recipe = run, recipe
        self.base_path = resolve_base(recipe.model.source, recipe.model.revision)

    @cached_property
    def prompts(self) -> list[list[int]]:
        return golden_inputs(self.run, self.recipe, self.base_path)

    @cached_property
    def sidecar(self) -> Any:
        return load_tuned(self.base_path, self.run.adapter, "float32")


class _Found(NamedTuple):
    """What can be verified."""

    name: str
    form: Form
    path: Path
    """Folder or file."""
    obstacle: str | None = None
    """Why it cannot be run here; None where it can."""


def verify_forms(run: RunFolder, recipe: Recipe) -> bool:
    """Compares what lies in ``export/`` with base and adapter; writes ``forms.json``.

    A form that passed and has not changed since is not compared again. Each is noted as soon as it is
    known, so that an interruption loses only the one in work.

    Returns:
        Whether anything was done.

    Raises:
        VerificationError: A form is not the trained model, though it should be.
        AdapterError: The run's own adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had.
    """
    forms = list(exported_forms(run))
    if not forms:
        return False
    subject = _Subject(run, recipe)
    common = _common_inputs(subject)
    inputs = {found.name: _inputs(common, found) for found in forms}
    file = FormsFile.read(run.forms) if run.forms.exists() else FormsFile()
    kept = {
        found.name: file.checks[found.name]
        for found in forms
        if found.name in file.checks
        and not file.checks[found.name].failures
        and file.checks[found.name].inputs == inputs[found.name]
    }
    waiting = [found for found in forms if found.name not in kept]
    for found in waiting:
        console.print(f"Comparing export/{found.path.relative_to(run.export)} ...")
        kept[found.name] = _check(subject, found, inputs[found.name])
        _in_order(forms, kept).write(run.forms)
        gc.collect()  # models hold cycles, and two of them fill the memory already
    if not waiting and kept.keys() != file.checks.keys():
        _in_order(forms, kept).write(run.forms)
    _raise_failures(run, kept)
    return bool(waiting)


def _in_order(forms: list[_Found], checks: dict[str, FormCheck]) -> FormsFile:
    return FormsFile(checks={f.name: checks[f.name] for f in forms if f.name in checks})


def exported_forms(run: RunFolder) -> Iterator[_Found]:
    """What lies in ``export/``; GGUF files where llama.cpp is at hand."""
    folders: tuple[Form, ...] = ("peft", "bundle", "merged", "lora")
    for form in folders:
        if (run.export / form).is_dir():
            path = run.export / form
            yield _Found(form, form, path, why_not(path) if form == "peft" else None)
    if interpreter() is not None:
        for file in sorted((run.export / "gguf").glob("*.gguf")):
            yield _Found(file.name, "gguf", file)


def _common_inputs(subject: _Subject) -> dict[str, Any]:
    run, recipe = subject.run, subject.recipe
    return {
        "base": fingerprint(subject.base_path),
        "adapter": digest_path(run.adapter),
        "test": digest_path(run.examples("test")),
        "verify": recipe.verify.model_dump(),
        "template": recipe.data.template,
        "limits": [_limits(u) for u in ROUNDOFF.values()],
    }


def _inputs(common: dict[str, Any], found: _Found) -> str:
    python = interpreter() if found.form == "gguf" else None
    form = digest_path(found.path, but_for=CARD)  # a new figure in it makes no other model
    return digest_json({**common, "form": form, "llama": python, "obstacle": found.obstacle})


def _check(subject: _Subject, found: _Found, inputs: str) -> FormCheck:
    check = FormCheck(
        form=found.form, approximate=_is_approximate(subject.run, found.form), inputs=inputs
    )
    if found.obstacle is not None:
        return check.model_copy(update={"not_run": found.obstacle})
    try:
        if found.form == "gguf":
            return check.model_copy(update={"logits": _in_llama(subject, found.path)})
        return check.model_copy(update=_in_torch(subject, found, check.approximate))
    except DoratuneError as error:  # told with the others, when all forms have been compared
        return check.model_copy(update={"failures": [str(error)]})


def _is_approximate(run: RunFolder, form: Form) -> bool:
    forms = ExportFile.read(run.exported).forms if run.exported.exists() else {}
    return forms[form].approximate if form in forms else form == "lora"


def _in_torch(subject: _Subject, found: _Found, approximate: bool) -> dict[str, Any]:
    """The fields of `FormCheck` that are measured."""
    model = _load(subject, found)
    # The precision that weights were rounded to; of approximations nothing is judged.
    dtype = stored_dtype(found.path) if found.form == "merged" and not approximate else "float32"
    result = compare_loaded(
        subject.sidecar,
        model,
        track(subject.prompts, f"Comparing {found.name}", total=len(subject.prompts)),
        getattr(torch, dtype),
    )
    logits = LogitCheck(
        what="transformers, float32" if found.form == "merged" else "PEFT, float32",
        against="sidecar",
        **result.logits._asdict(),
        thresholds=_limits(ROUNDOFF[dtype]) if not approximate else {},
    )
    return {
        "logits": logits,
        "outputs": {layer.layer: layer.output_error for layer in result.layers},
        "failures": result.failures if not approximate else [],
    }


def _load(subject: _Subject, found: _Found) -> Any:
    """The form as its users load it."""
    base_path, path = subject.base_path, found.path
    if found.form == "merged":
        model = load_base(path, "float32")
        forbid_repacking(model)
        return model
    if found.form == "bundle":
        return load_bundle(base_path, path)
    return load_in_stock_peft(base_path, path, "float32")


def _limits(roundoff: float) -> dict[str, float]:
    return {"output_error": output_limit(roundoff), **logit_limits(roundoff)}


def _in_llama(subject: _Subject, file: Path) -> LogitCheck:
    """llama.cpp against the merged checkpoint, which is compared with the sidecar itself."""
    python, merged, prompts = interpreter(), subject.run.merged, subject.prompts
    assert python is not None
    kinds: tuple[GgufType, ...] = ("f32", "bf16", "f16", "q8_0")
    kind = next(kind for kind in kinds if file.stem.endswith(f"-{kind}"))
    reference = reference_of(load_base(merged, "float32"), prompts)
    return check_in_llama(python, file, kind, reference, load_tokenizer(merged), prompts)[0]


def _raise_failures(run: RunFolder, checks: dict[str, FormCheck]) -> None:
    wrong = {name: check.failures for name, check in checks.items() if check.failures}
    if wrong:
        told = " ".join(f"{name}: {' '.join(failures)}" for name, failures in wrong.items())
        raise VerificationError(
            f"{run.export} holds forms that are not the trained model. {told} Do not use them; delete "
            f"their folders and run `doratune export` again. All figures are in {run.forms}."
        )
