"""What a recipe may say of evaluation: the task, public benchmarks, completions to read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from doratune.recipe.section import Positive, Section


class BenchmarksSection(Section):
    """Abilities that were not trained: base against tuned on the same questions."""

    tasks: list[str] = []
    """lm-eval tasks or groups, such as ``mmlu`` or ``arc_easy``; ``commonsense`` for the eight tasks of
    the DoRA paper with its prompts and its search for the answer, ``commonsense_likelihood`` for the
    same by log-likelihood, ``commonsense_piqa`` and so on for one of them. None: not measured."""
    data: str | None = None
    """Folder with local data of ``mmlu`` (``dev`` and ``test``, ``.jsonl`` or ``.jsonl.gz``) and of
    ``commonsense`` (``<task>.test``, likewise). Other tasks, and all without a folder, are fetched."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before each question; the task's own number when null (5 for ``mmlu``)."""
    max_questions: Positive | None = None
    """A subset of each benchmark, spread over its subjects, and of the texts; the file says which change
    it could show. All when null."""
    texts: str | None = None
    """Texts from elsewhere, as in ``data.source``, whose perplexity is compared."""
    max_drop_points: Annotated[float, Field(ge=0)] = 2.0
    """A benchmark that loses more percentage points turns the verdict."""


class JudgeSection(Section):
    """A language model that compares the completions of base and tuned, pair by pair."""

    url: str = Field(min_length=1)
    """Base of an OpenAI-compatible API, such as ``http://localhost:8000/v1``."""
    model: str = Field(min_length=1)
    """Name of the model there."""
    api_key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable with the key, which is never written anywhere; null for a server without."""
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    """Null leaves it to the server; some models accept their own only."""
    criteria: str = "Which answer is more helpful, correct and to the point?"
    """What the judge is asked."""


class CompletionsSection(Section):
    """Answers of base and tuned side by side, to be read and reviewed."""

    num_prompts: Annotated[int, Field(ge=0)] = 30
    """Test prompts and fixed edge cases together; 0 writes none."""
    max_new_tokens: Positive = 128
    """Longest answer."""
    judge: JudgeSection | None = None
    """Who judges the answers to test prompts of open tasks, which are sent there; nobody when null."""


class LatencySection(Section):
    """How long base, base with adapter, and merged model take, one sequence at a time."""

    seconds: Annotated[float, Field(ge=0)] = 10.0
    """Time for rounds over all three, after loading; a few are done in any case. 0 measures nothing."""
    long_prompt: Positive = 512
    """Tokens of the long prompt, beside one of the median length; fewer where the model takes fewer."""
    num_new_tokens: Positive = 16
    """Tokens decoded in each round."""


class EvalSection(Section):
    """The evaluation of base and tuned model on the test split."""

    task: str = Field(default="test", pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the files in ``eval/``."""
    batch_size: Positive = 16
    """Sequences per forward pass."""
    max_new_tokens: Positive = 128
    """Longest generated answer; open tasks only."""
    answer_form: Literal["text", "json"] = "text"
    """``json``: reference answers are JSON objects, compared field by field as well; open tasks only."""
    num_bins: Positive = 10
    """Bins of the calibration errors."""
    num_strata: Annotated[int, Field(ge=0)] = 4
    """Quantiles of difficulty by the base model's own margin; 0 for none. Closed label sets only."""
    coverages: list[Annotated[float, Field(gt=0, le=1)]] = [1.0, 0.9, 0.75, 0.5, 0.25]
    """Shares of the most confident answers whose accuracy is told."""
    every_epoch: bool = False
    """Task, calibration and out-of-domain figures on the validation split after each epoch."""
    benchmarks: BenchmarksSection = BenchmarksSection()
    completions: CompletionsSection = CompletionsSection()
    latency: LatencySection = LatencySection()
