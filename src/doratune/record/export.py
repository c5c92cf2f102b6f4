"""What an export leaves: the forms, their files, and how far each is from the trained model."""

from __future__ import annotations

from typing import Literal

from doratune.record.quantized import Quantized
from doratune.record.schemas import LogitDifference, Record, RunFile
from doratune.record.schemas import TaskCost as TaskCost

Form = Literal["peft", "lora", "merged", "gguf", "bundle", "quantized"]
FORMS: tuple[Form, ...] = ("peft", "lora", "merged", "gguf", "bundle", "quantized")


class ExportedFile(Record):
    """One file of a form."""

    name: str
    """Within ``export/<form>/``."""
    num_bytes: int
    sha256: str


class LayerApproximation(Record):
    """How well a LoRA of limited rank stands for one DoRA layer."""

    layer: str
    delta_error: float
    """``‖ΔW_R - ΔW‖ / ‖ΔW‖`` with ΔW = W' - W, Frobenius norms."""
    weight_error: float
    """``‖ΔW_R - ΔW‖ / ‖W'‖``."""


class RankError(Record):
    """What a rank would cost, all layers taken as one matrix."""

    rank: int
    delta_error: float
    weight_error: float


class Approximation(Record):
    """Plain LoRA in place of DoRA."""

    rank: int
    delta_error: float
    """At this rank, all layers taken as one matrix."""
    weight_error: float
    without_magnitude: RankError
    """The same for A and B as they are, which converters that drop the magnitude write."""
    ranks: list[RankError]
    layers: list[LayerApproximation]


class LogitCheck(LogitDifference):
    """An exported form against the trained model on golden inputs."""

    what: str
    """The form that was run, such as ``llama.cpp, q8_0``."""
    against: Literal["sidecar", "merged"]
    perplexity: float | None = None
    """Of the golden inputs, in the exported form."""
    reference_perplexity: float | None = None
    thresholds: dict[str, float] = {}
    """Empty where the form is an approximation, whose difference is only reported."""


class TokenCheck(Record):
    """An engine's own tokenizer and greedy decoding against transformers'."""

    what: str
    num_texts: int
    """Texts that both tokenizers read to the same ids."""
    num_greedy: int
    """Tokens decoded greedily from one golden input, the same in both."""
    greedy_equal: bool
    """False is no failure: a near tie may turn with rounding."""


class ExportedForm(Record):
    """One form."""

    form: Form
    approximate: bool
    """Whether it is another model than the trained one, within what its figures say."""
    base_fingerprint: str
    adapter_digest: str
    """Of the folder ``adapter/``."""
    files: list[ExportedFile]
    approximation: Approximation | None = None
    quantized: list[Quantized] = []
    logits: list[LogitCheck] = []
    tokens: list[TokenCheck] = []
    tasks: list[TaskCost] = []
    notes: list[str] = []
    """What was not checked, and why."""
    findings: dict[str, list[str]] = {}
    """How near it is to the trained model, in sentences, by the model card that tells them; a card is
    written anew from these when figures of other stages change."""


class ExportFile(RunFile):
    """``export.json``: everything in ``export/``."""

    forms: dict[Form, ExportedForm] = {}
