"""The forms that were exported, and how far each is from the trained model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from doratune.record.export import (
    Approximation,
    ExportedForm,
    LayerApproximation,
    LogitCheck,
    RankError,
    TaskCost,
    TokenCheck,
)
from doratune.record.quantized import Quantized
from doratune.record.verification import FormCheck
from doratune.report.records import Records
from doratune.report.text import count, memory, percent, plain, small

WORST_LAYERS = 5

Cell = tuple[str, str]
"""A figure, and what stands small beneath it."""


class FormRow(NamedTuple):
    """One form in ``export/``."""

    name: str
    files: list[tuple[str, str, str]]
    """Name, size and SHA-256 of each."""
    size: str
    is_approximate: bool
    is_current: bool
    """False where the run has trained another adapter since."""


class LogitRow(NamedTuple):
    """A form that was run beside the trained model."""

    form: str
    what: str
    key: str
    """Where its figures are."""
    against: Cell
    figures: list[tuple[str, Cell]]
    """Key, figure and threshold, in the order of `LOGIT_COLUMNS`."""
    perplexity: Cell
    passed: bool | None
    """None where no threshold is set."""


class TokenRow(NamedTuple):
    """An engine's own tokenizer and greedy decoding."""

    form: str
    what: str
    num_texts: int
    greedy: str


class RankRow(NamedTuple):
    """What plain LoRA of one rank leaves out."""

    name: str
    about: str
    key: str
    delta_error: str
    weight_error: str
    is_written: bool


class QuantizedRow(NamedTuple):
    """The merged model in 8 or 4 bits."""

    type: str
    about: str
    """Library and group."""
    size: Cell
    """Of the weights, and as a share of the merged model's."""
    weight_error: str
    rows_beyond: Cell
    """Output features whose norm is off by more than the steps explain."""
    clipped: Cell
    calibration: str


class TaskRow(NamedTuple):
    """The test questions, asked of a form."""

    form: str
    what: str
    trained: Cell
    exported: Cell
    lost: str
    gained: str


class Exports(NamedTuple):
    """The section of the exported forms."""

    forms: list[FormRow]
    logits: list[LogitRow]
    """Measured when a form was written."""
    loaded: list[LogitRow]
    """Measured on the folders, as their users load them."""
    failures: list[str]
    tokens: list[TokenRow]
    quantized: list[QuantizedRow]
    ranks: list[RankRow]
    worst_layers: list[LayerApproximation]
    tasks: list[TaskRow]
    notes: list[tuple[str, str]]
    """Form, and what was not checked of it or is wrong with it elsewhere."""


_SHOWN: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Largest difference", "max_abs_difference", small),
    ("Mean KL, nats", "mean_kl", small),
    ("Largest KL, nats", "max_kl", small),
    ("Same token", "top1_agreement", lambda share: percent(share, 2)),
)
LOGIT_COLUMNS = [title for title, _, _ in _SHOWN]


def exports(records: Records) -> Exports | None:
    """Everything that ``export.json`` tells; None where nothing was exported."""
    forms = list(records.exported.forms.values()) if records.exported else []
    checks = records.forms.checks if records.forms else {}
    if not forms:
        return None
    approximations = [one.approximation for one in forms if one.approximation]
    return Exports(
        forms=[_form_row(form, _trained_adapter(records)) for form in forms],
        logits=[
            _logit_row(form.form, f"export.json: forms.{form.form}.logits", check)
            for form in forms
            for check in form.logits
        ],
        loaded=[
            _logit_row(name, f"forms.json: checks.{name}.logits", check.logits)
            for name, check in checks.items()
            if check.logits
        ],
        failures=[failure for check in checks.values() for failure in check.failures],
        tokens=[_token_row(form, check) for form in forms for check in form.tokens],
        quantized=[_quantized_row(one) for form in forms for one in form.quantized],
        ranks=[row for one in approximations for row in _rank_rows(one)],
        worst_layers=[layer for one in approximations for layer in _worst_layers(one)],
        tasks=[_task_row(form, task) for form in forms for task in form.tasks],
        notes=_notes(forms, list(checks.values())),
    )


def _notes(forms: list[ExportedForm], checks: list[FormCheck]) -> list[tuple[str, str]]:
    """Each once, though a form may have been kept from both exporting and verifying."""
    notes = [(form.form, note) for form in forms for note in form.notes]
    notes += [(check.form, check.not_run) for check in checks if check.not_run]
    return list(dict.fromkeys(notes))


def _trained_adapter(records: Records) -> str | None:
    entry = records.record.stages.get("train") if records.record else None
    return entry.outputs.get("adapter") if entry else None


def _form_row(form: ExportedForm, trained: str | None) -> FormRow:
    return FormRow(
        form.form,
        [(file.name, memory(file.num_bytes), file.sha256) for file in form.files],
        memory(sum(file.num_bytes for file in form.files)),
        form.approximate,
        trained in (None, form.adapter_digest),
    )


def _logit_row(form: str, key_of_all: str, check: LogitCheck) -> LogitRow:
    figures, kept = [], []
    for _, key, written in _SHOWN:
        value, allowed = getattr(check, key), check.thresholds.get(key)
        bound = ""
        if allowed is not None:
            at_least = key == "top1_agreement"
            bound = f"{'≥' if at_least else '≤'} {written(allowed)}"
            kept.append(value >= allowed if at_least else value <= allowed)
        figures.append((key, (written(value), bound)))
    return LogitRow(
        form,
        check.what,
        key_of_all,
        (check.against, f"{count(check.num_tokens)} positions"),
        figures,
        _perplexities(check),
        all(kept) if kept else None,
    )


def _perplexities(check: LogitCheck) -> Cell:
    if check.perplexity is None or check.reference_perplexity is None:
        return "—", ""
    return plain(check.perplexity, 2), plain(check.reference_perplexity, 2)


def _token_row(form: ExportedForm, check: TokenCheck) -> TokenRow:
    alike = "the same" if check.greedy_equal else "not the same, as after a near tie"
    return TokenRow(form.form, check.what, check.num_texts, f"{check.num_greedy}: {alike}")


def _quantized_row(one: Quantized) -> QuantizedRow:
    rows, beyond = (
        sum(getattr(layer, key) for layer in one.layers) for key in ("num_rows", "num_rows_beyond")
    )
    weights, clipped = (
        sum(getattr(layer, key) for layer in one.layers) for key in ("num_weights", "num_clipped")
    )
    group = (
        "one scale an output feature" if one.group_size is None else f"groups of {one.group_size}"
    )
    return QuantizedRow(
        one.type,
        f"{one.library}, {group}",
        (memory(one.num_bytes), f"{percent(one.num_bytes / one.num_bytes_merged)} of merged"),
        percent(one.weight_error, 2),
        (f"{beyond:,}", f"of {count(rows)}"),
        (f"{clipped:,}", f"of {count(weights)}"),
        f"{one.calibration.num_examples:,} examples" if one.calibration else "—",
    )


def _rank_rows(approximation: Approximation) -> list[RankRow]:
    bare = approximation.without_magnitude
    rows = [_rank_row("A and B as they are", "magnitude left out", "without_magnitude", bare)]
    for one in approximation.ranks:
        is_written = one.rank == approximation.rank
        about = "as exported" if is_written else ""
        rows.append(_rank_row(f"Rank {one.rank}", about, "ranks", one, is_written))
    return rows


def _rank_row(
    name: str, about: str, key: str, error: RankError, is_written: bool = False
) -> RankRow:
    errors = percent(error.delta_error), percent(error.weight_error, 2)
    return RankRow(name, about, key, *errors, is_written)


def _worst_layers(approximation: Approximation) -> list[LayerApproximation]:
    layers = sorted(approximation.layers, key=lambda one: (-one.delta_error, one.layer))
    return layers[:WORST_LAYERS]


def _task_row(form: ExportedForm, task: TaskCost) -> TaskRow:
    return TaskRow(
        form.form,
        task.what,
        _right(task.num_right, task.num_examples),
        _right(task.num_right_approximate, task.num_examples),
        f"{task.num_lost:,}",
        f"{task.num_gained:,}",
    )


def _right(number: int, num_examples: int) -> Cell:
    return f"{number:,} of {num_examples:,}", percent(number / num_examples) if num_examples else ""
