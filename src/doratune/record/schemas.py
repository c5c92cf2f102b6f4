"""The schema of every JSON file in a run folder. A file that does not fit is refused, not guessed at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from doratune.errors import StorageError
from doratune.record.files import ORIGIN as ORIGIN
from doratune.record.files import append_lines, write_text

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Record(BaseModel):
    """Base of everything written: unknown keys are errors, NaN and infinity are written as null."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    @classmethod
    def read_lines(cls, path: Path) -> list[Self]:
        """Reads a file of one record a line; a file that is not there has none.

        What follows the last line end is a line that a kill cut short, and is left out.

        Raises:
            StorageError: The file cannot be read, or a line does not fit the schema.
        """
        if not path.exists():
            return []
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{path} cannot be read: {error}.") from error
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(cls.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, first["loc"])) or "the line"
                raise StorageError(
                    f"{path}:{number} is not a valid {cls.__name__} record ({key}: "
                    f"{first['msg']}). Run the stage that writes it again."
                ) from error
        return rows

    def append_to(self, path: Path) -> None:
        """Adds a line to such a file and waits until it is on the disk.

        Raises:
            StorageError: The file cannot be written.
        """
        append_lines(path, [self.model_dump_json()])


class RunFile(Record):
    """A record that is one JSON file."""

    schema_version: Literal[1] = 1

    def write(self, path: Path) -> None:
        """Writes the record atomically."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks a record.

        Raises:
            StorageError: The file is missing, is not JSON, or does not fit the schema.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()
            )
            raise StorageError(
                f"{path} is not a valid {cls.__name__} record ({problems}). "
                "Run the stage that writes it again."
            ) from error


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: list[dict[str, Any]] | None = None
    """Calls that an assistant turn makes, as the chat template takes them; content may be empty then."""
    tool_call_id: str | None = None
    name: str | None = None
    """Name of the tool whose result a tool turn is."""
    weight: Literal[0] | None = None
    """0 for an assistant turn that is not trained on; OpenAI's name for it."""


class Example(Record):
    """One line of ``data/<split>.jsonl``: a conversation whose assistant turns are trained on."""

    id: str
    """First 16 hexadecimal digits of the SHA-256 of the messages, rejected answer and tools."""
    messages: list[Message]
    """Ends with an assistant turn, the reference answer in evaluation. Plain text is one such turn."""
    rejected: list[Message] | None = None
    """For preference data, the answer that is not preferred, in place of the last turn."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools the conversation may use."""
    label: str | None = None
    """The class, for classification data; then equal to the last turn's content."""
    difficulty: str | None = None
    """Value of the difficulty column, where the recipe names one."""
    place: str
    """Where it came from, ``file:line``."""

    @property
    def prompt(self) -> list[Message]:
        """All turns before the answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.messages[-1].content


class GateExample(Record):
    """One of the examples that a gate found."""

    id: str
    """`Example.id`, or the place again where no example could be made of the row."""
    place: str
    why: str


class GateReport(Record):
    """What one gate found in the data."""

    gate: str
    action: Literal["off", "report", "mask", "drop", "fail"]
    thresholds: dict[str, float | int | str | list[str]] = {}
    num_checked: int
    num_found: int
    num_dropped: int
    kinds: dict[str, int] = {}
    """Examples found, by kind, such as ``e-mail``; an example may be of several."""
    examples: list[GateExample] = []
    """Three at most."""
    note: str = ""
    """One sentence where the figures need it, such as why the gate did not run."""

    @property
    def share(self) -> float:
        """Share of the checked examples that was found."""
        return self.num_found / self.num_checked if self.num_checked else 0.0


class SourceRecord(Record):
    """One source as it was read."""

    path: str
    kind: str
    """``jsonl``, ``csv``, ``parquet``, ``hub`` and so on."""
    weight: float
    num_rows: int
    digest: str
    """SHA-256 of the bytes read (of the generator's output for built-in data)."""


class SplitSummary(Record):
    """What one split holds."""

    num_examples: int
    num_tokens: int
    """Tokens of all rendered examples, prompt and answer."""
    max_tokens: int
    """Tokens of the longest example."""
    label_counts: dict[str, int] = {}
    digest: str
    """SHA-256 over the examples, independent of their order and of the source's file format."""
    ordered_digest: str
    """The same, dependent on their order."""


class DataFile(RunFile):
    """``data.json``: what went in and what was left out."""

    sources: list[SourceRecord]
    format: str
    format_reason: str
    """Why the data is read as this format."""
    digest: str
    """SHA-256 over the examples of all splits, independent of order, file format and compression."""
    ordered_digest: str
    """The same, dependent on the order."""
    gates: list[GateReport] = []
    labels: list[str] | None
    """The closed label set of a classification task, sorted; None for open tasks."""
    splits: dict[Split, SplitSummary]
    dropped: dict[str, int] = {}
    """Examples left out, by reason; each is a line of ``data/dropped.jsonl``."""


class Environment(RunFile):
    """``environment.json``: where the run took place."""

    doratune: str
    commit: str | None
    """Git commit of doratune's own source when it runs from a checkout."""
    python: str
    platform: str
    cpu: str
    num_cpus: int
    memory_bytes: int
    device: str
    packages: dict[str, str]


class Step(Record):
    """One line of ``steps.jsonl``: one optimizer step."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    num_tokens: int
    """Tokens seen since the start, prompt and padding excluded from neither."""
    grad_norm: float | None = None
    magnitude_change: float | None = None
    """Mean over output features of ``|‖W'‖ - ‖W‖| / ‖W‖``; None for full fine-tuning."""
    direction_change: float | None = None
    """Mean over output features of ``1 - cos(W', W)``; None for full fine-tuning."""
    seconds: float


class LayerChange(Record):
    """How far training moved one adapted layer from its base weight."""

    layer: str
    magnitude_change: float
    direction_change: float


class TrainFile(RunFile):
    """``train.json``: what training did."""

    method: Literal["dora", "lora", "full"]
    base_fingerprint: str
    dtype: str
    """Precision of the base weights in training."""
    num_steps: int
    num_trainable_parameters: int
    num_parameters: int
    num_tokens: int
    seconds: float
    """Wall-clock time of all sittings, resumed ones included."""
    peak_memory_bytes: int
    """Largest resident size of the process (CPU) or allocated device memory (GPU)."""
    final_loss: float
    validation_loss: float | None
    resumed_from_steps: list[int]
    """The checkpoints at which training was taken up again."""
    fast_layers: int
    """Adapted layers on doratune's path."""
    peft_layers: dict[str, int]
    """Adapted layers left on PEFT's own path, by reason."""
    layers: list[LayerChange]


class AdapterOrigin(RunFile):
    """``adapter/doratune.json``: what the adapter was trained on. Travels with the adapter."""

    method: Literal["dora", "lora", "full"]
    base_source: str
    base_fingerprint: str
    data_digest: str
    """`DataFile.digest`: the examples of all splits, however they are stored."""
    data_ordered_digest: str
    """The same, dependent on their order."""
    split_digests: dict[Split, str]
    """Digest of the examples of each split."""
    quantize: Literal["nf4", "int8"] | None = None
    """How the base was quantised in training; on another base the adapter is another model."""
    recipe_digest: str
    doratune: str
    """Version that trained it."""
    files: dict[str, str] = {}
    """SHA-256 of the files that make up the adapter, by name; none in adapters older than that."""
    figures: dict[str, float] = {}
    """What is known of its quality, such as ``task.accuracy``."""
    parents: list[str] = []
    """Names or digests of the adapters it was made from."""


Onto = Literal["dequantized", "original", "requantize"]
ONTO: tuple[Onto, ...] = ("dequantized", "original", "requantize")
MEANINGS = (
    "dequantized: the base as training saw it, in 16 or 32 bits, which makes the trained model; "
    "original: the base's own weights, which training did not see; requantize: as the first, and "
    "quantised again like the base, as small as that"
)
"""Of each, for messages."""


class MergeFile(RunFile):
    """``merge.json``: what ``merged/`` is made of."""

    method: Literal["dora", "lora", "full"]
    base_fingerprint: str
    adapter_digest: str
    dtype: str
    onto: Onto | None = None
    """Where training quantised the base, onto which weights the adapter was merged."""
    num_merged_tensors: int
    num_copied_tensors: int
    num_bytes: int


class LayerCheck(Record):
    """Merged against sidecar at one layer."""

    layer: str
    weight_error: float
    """How much further the merged weight is from W' (float64) than the nearest numbers of its
    precision are, over ``‖W'‖``."""
    norm_error: float | None
    """Largest ``|‖W_merged‖ / |m| - 1|`` over output features; None for LoRA."""


class TaskCost(Record):
    """Right answers on the test split, with the trained model and with a form of it."""

    what: str
    """The form that was asked, such as ``plain LoRA`` or ``llama.cpp, q8_0``."""
    num_examples: int
    num_right: int
    num_right_approximate: int
    num_lost: int
    """Right before and wrong now."""
    num_gained: int


class LogitDifference(Record):
    """How far the logits of a model are from a reference's, over all positions of all golden inputs."""

    num_tokens: int
    """Positions whose logits were compared."""
    max_abs_difference: float
    """Over all logits."""
    mean_abs_difference: float
    mean_kl: float
    """KL(reference || other), nats, mean over positions."""
    max_kl: float
    top1_agreement: float
    """Share of positions with the same most likely token."""


class OntoFidelity(LogitDifference):
    """A merge onto one choice of the base's weights, against base and adapter as trained."""

    num_bytes: int
    """Of the merged weights."""
    task: TaskCost | None = None
    """None where the test split was not asked."""


class VerifyFile(LogitDifference, RunFile):
    """``verify.json``: whether the merged model is the sidecar model, both computing in float32."""

    passed: bool
    dtype: str
    num_prompts: int
    thresholds: dict[str, float]
    failures: list[str]
    """One sentence for each threshold that was crossed."""
    layers: list[LayerCheck] = Field(default_factory=list)
    outputs: dict[str, float] = {}
    """Of every layer with weights, the relative difference of its outputs (``‖y' - y‖ / ‖y‖``) on the
    inputs that it has in the sidecar."""
    onto: Onto | None = None
    """As in `MergeFile`; but for ``dequantized`` no threshold is set."""
    fidelity: dict[Onto, OntoFidelity] = {}
    """Of every choice, where training quantised the base."""


class StageEntry(Record):
    """When and from what a stage last finished."""

    inputs: dict[str, str]
    """Digest of each thing the stage depends on."""
    outputs: dict[str, str]
    """Digest of each file or folder it wrote, by path within the run folder."""
    started_at: str
    finished_at: str
    seconds: float


class RecordFile(RunFile):
    """``record.json``: the run in one file."""

    name: str
    recipe_digest: str
    seed: int
    stages: dict[str, StageEntry] = {}
