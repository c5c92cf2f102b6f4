"""What verification finds out about forms that others load: from folders, and from a server."""

from __future__ import annotations

from typing import Literal

from doratune.record.export import Form, LogitCheck
from doratune.record.schemas import Record, RunFile


class FormCheck(Record):
    """One exported form, loaded from its folder as its users load it."""

    form: Form
    approximate: bool
    """Its difference is told and not judged."""
    logits: LogitCheck | None = None
    """None where it could not be run, or failed before."""
    not_run: str | None = None
    """Why it cannot be run on this machine; None where it was."""
    outputs: dict[str, float] = {}
    """As `VerifyFile.outputs`; none of an engine that does not show its layers."""
    failures: list[str] = []
    """One sentence for each threshold that was crossed."""
    inputs: str
    """Digest of everything that the check depends on."""


class FormsFile(RunFile):
    """``forms.json``: the folders of ``export/`` against the trained model."""

    checks: dict[str, FormCheck] = {}
    """By what was run, such as ``peft`` or ``tiny-q8_0.gguf``."""


class ServedAnswer(Record):
    """What a server answered to one golden prompt, greedily."""

    prompt: str
    """The last turn before the answer; of plain text, its beginning."""
    text: str
    expected: str
    """The trained model's own answer, decoded greedily here in float32."""
    base: str
    """The bare base's."""
    num_tokens: int
    """Of ``text``."""
    departs_at: int | None
    """The first token that the trained model would not have chosen there; None where there is none."""
    margin: float | None
    """Nats by which it preferred its own choice there; the largest over all tokens. None where the
    answer has no token to be read and is not its own."""
    base_margin: float | None
    """The same for the bare base."""
    logprob_difference: float | None = None
    """Mean over tokens of ``|log p_server - log p_trained|``, nats; None where the server tells none."""
    base_logprob_difference: float | None = None


class ServedFile(RunFile):
    """``served.json``: whether a server answers as the trained model does."""

    url: str
    model: str
    api: Literal["chat/completions", "completions"]
    dtype: str
    """Precision in which it is taken to compute."""
    answers: list[ServedAnswer]
    thresholds: dict[str, float]
    verdict: Literal["same", "undecided", "base", "other"]
    """``undecided``: base and trained model answer these prompts alike."""
    sentence: str
