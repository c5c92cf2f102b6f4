"""What evaluation leaves: figures of base and tuned on the same questions, and every answer."""

from __future__ import annotations

from typing import Literal, NamedTuple

from doratune.record.schemas import Record, RunFile, Split

Model = Literal["base", "tuned"]
MODELS: tuple[Model, ...] = ("base", "tuned")


class Interval(Record):
    """A figure with its uncertainty."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    n: int
    """Number of examples behind the figure."""
    method: str
    """How the interval was made, such as ``Wilson`` or ``bootstrap (1000 draws, seed 0)``."""


class Metric(NamedTuple):
    """How a metric is called and read."""

    title: str
    better: Literal["higher", "lower"]
    unit: Literal["share", "nats", "number"]
    """``share`` lies in [0, 1] and is written in percent."""


METRICS: dict[str, Metric] = {
    "accuracy": Metric("Accuracy", "higher", "share"),
    "macro_f1": Metric("Macro-F1", "higher", "number"),
    "weighted_f1": Metric("Weighted F1", "higher", "number"),
    "matthews": Metric("Matthews correlation", "higher", "number"),
    "exact_match": Metric("Exact match", "higher", "share"),
    "json_fields": Metric("JSON fields right", "higher", "share"),
    "token_f1": Metric("Token F1", "higher", "number"),
    "rouge_l": Metric("ROUGE-L", "higher", "number"),
    "answer_nll": Metric("Answer loss, nats per token", "lower", "nats"),
    "perplexity": Metric("Perplexity of the answers", "lower", "number"),
    "ece": Metric("Calibration error (ECE, equal width)", "lower", "number"),
    "ece_mass": Metric("Calibration error (ECE, equal mass)", "lower", "number"),
    "brier": Metric("Brier score", "lower", "number"),
    "label_nll": Metric("Label loss, nats", "lower", "nats"),
}
"""Every metric there is, in the order of tables. A file has those that its kind of task allows."""


def primary_metric(labels: list[str] | None) -> str:
    """The metric that verdicts are about, of a closed label set or of open tasks."""
    return "exact_match" if labels is None else "accuracy"


class Difference(Record):
    """Tuned minus base on the same examples."""

    value: Interval
    """Paired bootstrap."""
    p_value: float | None = None
    """Exact McNemar test, for figures that count right answers; None for others."""


class ClassFigures(Record):
    """Row of the per-class table."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class CalibrationBin(Record):
    """One bin of the reliability diagram."""

    low: float
    high: float
    n: int
    confidence: float | None
    """Mean confidence of the examples in the bin; None when it is empty."""
    accuracy: float | None


class CoveragePoint(Record):
    """Accuracy where only the most confident answers are given."""

    coverage: float
    """Share of the questions that are answered."""
    threshold: float
    """Lowest confidence among them."""
    accuracy: Interval


class Calibration(Record):
    """How far a model's confidence can be believed; the figures themselves are in ``metrics``."""

    bins: list[CalibrationBin]
    """Of equal width."""
    mass_bins: list[CalibrationBin]
    """Of equally many examples, as far as equal confidences allow."""
    temperature: float | None
    """Fitted on the validation split, for the label loss; None where there is none."""
    temperature_note: str = ""
    """Why there is none."""
    num_validation: int = 0
    """Validation examples that were asked."""
    scaled: dict[str, Interval] = {}
    """``ece``, ``ece_mass``, ``brier`` and ``label_nll`` on the test split at that temperature."""
    scaled_bins: list[CalibrationBin] = []
    """Of equal width, at that temperature."""
    coverage: list[CoveragePoint] = []


class ModelFigures(Record):
    """How one model did on one task."""

    metrics: dict[str, Interval]
    """Keys of `METRICS`."""
    classes: list[ClassFigures] = []
    confusion: list[list[int]] = []
    """Examples by reference (rows) and prediction (columns), both in the order of the labels."""
    calibration: Calibration | None = None
    """None for open tasks."""
    seconds: float


class Stratum(Record):
    """The primary metric on some of the examples."""

    by: Literal["label", "difficulty", "base margin"]
    """``difficulty`` is a column of the data; ``base margin`` is how much more likely the base model
    found the right label than the best wrong one, in quantiles, the hardest first."""
    name: str
    base: Interval
    tuned: Interval
    difference: Interval


class EvalFile(RunFile):
    """``eval/<task>.json``: base and tuned on the same rows."""

    task: str
    kind: Literal["labels", "generation"]
    primary: str
    """The metric that the verdict is about: ``accuracy`` or ``exact_match``."""
    split: Split
    num_examples: int
    labels: list[str] | None
    base: ModelFigures
    tuned: ModelFigures
    differences: dict[str, Difference]
    """Tuned minus base, for every metric of both."""
    strata: list[Stratum] = []

    def figures(self, model: Model) -> ModelFigures:
        """The figures of one model."""
        return self.base if model == "base" else self.tuned


class Sample(Record):
    """One line of ``eval/<task>.samples.jsonl``: one model on one example.

    All that metrics are made of, so that another one can be computed without running the model again.
    """

    id: str
    split: Split
    model: Model
    reference: str
    prediction: str
    correct: bool
    answer_nll: float
    """Nats per answer token."""
    num_answer_tokens: int
    label_logprobs: dict[str, float] | None = None
    """Log-likelihood of each label's text with its end-of-turn token; None for open tasks."""
    difficulty: str | None = None
    """Value of the data's difficulty column."""


class ModelAnswers(RunFile):
    """One model's answers, kept until those of both models are there."""

    dtype: str
    """Precision of the weights while it answered."""
    device: str
    seconds: float
    samples: list[Sample]


class AnswersFile(RunFile):
    """``eval/<task>.answers.json``: how the answers in ``eval/<task>.samples.jsonl`` were had."""

    task: str
    kind: Literal["labels", "generation"]
    labels: list[str] | None
    template: str
    max_new_tokens: int | None
    """None where the answer is the most likely label."""
    num_questions: dict[Split, int]
    """Questions to each model. Those of the validation split are for the temperature."""
    dtype: dict[Model, str]
    device: dict[Model, str]
    seconds: dict[Model, float]


class EpochFigures(Record):
    """One line of ``epochs.jsonl``: the model in mid-training, on the validation split."""

    epoch: float
    step: int
    metrics: dict[str, float]
    """Keys of `METRICS`, and ``out_of_domain_perplexity`` where texts are given."""
    num_examples: int
    seconds: float
