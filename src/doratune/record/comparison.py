"""What an A/B leaves: every job, every arm, and one verdict by fixed rules."""

from __future__ import annotations

from textwrap import shorten
from typing import Literal

from doratune.record.evaluation import Interval
from doratune.record.schemas import Record, RunFile

Arm = Literal[
    "base", "lora", "dora", "rslora", "lora-budget", "dora-half-rank", "qlora", "qdora", "full"
]

ARMS: dict[Arm, str] = {
    "base": "the base model",
    "lora": "LoRA",
    "dora": "DoRA",
    "rslora": "rsLoRA",
    "lora-budget": "LoRA at DoRA's budget",
    "dora-half-rank": "DoRA at half the rank",
    "qlora": "QLoRA",
    "qdora": "QDoRA",
    "full": "full fine-tuning",
}
"""How the arms are called in sentences and tables."""


class JobRecord(Record):
    """One job of the comparison: a training, or the base's answers."""

    name: str
    """Its run folder in ``compare/``, such as ``base``, ``dora/lr-5e-04/seed-1`` or
    ``dora/sweep-1/lr-5e-04``."""
    arm: Arm
    stage: Literal["sweep", "final"]
    rung: int | None
    """Rung of the successive halving, from 0; None for final runs."""
    learning_rate: float | None
    """None for the base."""
    seed: int
    num_steps: int
    """Optimizer steps; 0 for the base."""
    status: Literal["waiting", "done", "failed"]
    """``compare.json`` holds no waiting ones."""
    error: str = ""
    """What a failed job said."""
    diverged: bool = False
    """Training diverged, which is what this learning rate does; other failures are tried again by the
    next command."""
    validation_loss: float | None = None
    test_metric: float | None = None
    """The primary metric on the test split; None in sweeps, which never see it."""
    seconds: float = 0.0
    """Training alone; of the base, its answers; of a failed job, all of it."""
    peak_memory_bytes: int | None = None
    workers: int = 1
    """Jobs that could run at the same time, this one among them."""

    @property
    def reason(self) -> str:
        """The error on one line."""
        return shorten(self.error, 240, placeholder=" ...") or "no reason given"


class JobFile(RunFile):
    """``compare/<job>/job.json``: what a job is to do, and once it is over how it went."""

    inputs: str
    """Digest of all that the outcome depends on."""
    job: JobRecord


class ArmFigures(Record):
    """One arm at its best learning rate, over all seeds."""

    arm: Arm
    r: int | None
    """Rank; None for base and full fine-tuning."""
    num_trainable_parameters: int
    learning_rate: float | None
    """Chosen on the validation split; None for the base."""
    num_seeds: int
    value: Interval
    """Primary metric, over examples and seeds."""
    per_seed: list[float]
    metrics: dict[str, float] = {}
    """Means over seeds of the other metrics, keys of `doratune.record.evaluation.METRICS`."""
    seconds: float | None = None
    """Training, median over seeds."""
    answer_seconds: float | None = None
    """Answering the test questions, adapters unmerged, median over seeds."""
    peak_memory_bytes: int | None = None
    """Median over seeds."""


class PairFigures(Record):
    """One arm against the reference arm, on the same examples."""

    arm: Arm
    reference: Arm
    difference: Interval
    """Arm minus reference in the primary metric, over examples and seeds, not corrected."""
    p_value: float
    """Of that difference."""
    adjusted_p_value: float
    """Holm-Bonferroni over all pairs of the file."""
    mcnemar_p_value: float | None
    """Exact, on the number of examples that each arm gets right in more of its seeds; about these
    trained models only. None where answers are not right or wrong."""
    smallest_detectable: float | None
    """Smallest true difference that this comparison would show (two-sided 5 %, power 80 %); None with
    one seed, where none would."""
    verdict: Literal["better", "not distinguishable", "worse"]
    time_ratio: float | None = None
    """Training time, arm over reference."""
    memory_ratio: float | None = None


class MatrixChange(Record):
    """How training moved one weight matrix, in the decomposition of the DoRA paper, section 3."""

    arm: Arm
    layer: str
    seed: int
    magnitude_change: float
    """Mean over output features of ``|m' - m|``."""
    direction_change: float
    """Mean over output features of ``1 - cos(V', W0)``."""


class ChangeCorrelation(Record):
    """Whether an arm moves magnitude and direction together (paper, Figure 2)."""

    arm: Arm
    kind: str
    """Last name of the matrices, such as ``q_proj``, or ``all``. Norms differ between kinds, so that the
    correlation over all of them can say the opposite of each kind's own (Simpson's paradox); the paper
    shows query matrices."""
    correlation: Interval
    """Pearson's r over the weight matrices."""
    slope: float
    """Change of magnitude per change of direction, least squares."""
    num_matrices: int


class CompareFile(RunFile):
    """``compare.json``: the whole comparison."""

    task: str
    primary: str
    """Key of `doratune.record.evaluation.METRICS`."""
    split: Literal["test"]
    num_examples: int
    reference: Arm
    """The arm that the others are compared with."""
    arms: list[ArmFigures]
    pairs: list[PairFigures]
    verdict: str
    """One sentence, by fixed rules."""
    cautions: list[str] = []
    """Sentences on what limits the verdict."""
    jobs: list[JobRecord]
    """All of them, failed ones too."""
    sweep: dict[str, dict[str, float]] = {}
    """Validation loss by arm and learning rate, of the last rung that each took part in."""
    changes: list[MatrixChange] = []
    correlations: list[ChangeCorrelation] = []
    budget: str
    """What was said before it started."""
    engine: str
    seconds: float
    """Of the command that ended it."""
    num_earlier: int = 0
    """Jobs that were over before it."""
