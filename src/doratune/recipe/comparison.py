"""What a recipe may say of the A/B: its arms, and what it may spend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from doratune.recipe.section import Positive, Section

TrainedArm = Literal[
    "lora", "dora", "rslora", "lora-budget", "dora-half-rank", "qlora", "qdora", "full"
]


class CompareSection(Section):
    """``doratune compare``: the same data, the same steps, each arm at its own best learning rate."""

    arms: Annotated[list[TrainedArm], Field(min_length=1)] = ["lora", "dora"]
    """``lora`` and ``dora`` have the recipe's rank; ``lora-budget`` is LoRA with as many trainable
    parameters as DoRA; ``dora-half-rank`` is DoRA at half the rank; ``qlora`` and ``qdora`` train over
    an NF4 base. The base itself is always an arm."""
    reference: TrainedArm = "lora"
    """The arm that the others are compared with."""
    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = (
        None
    )
    """Tried for every arm, on the validation split; when null a third of ``train.learning_rate``, that
    itself, and three times it. Full fine-tuning tries a tenth of these."""
    sweep_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the optimizer steps in the first rung of the sweep. The better half goes on with twice
    as many, until one is left."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Final runs of each arm, at seeds ``seed``, ``seed + 1`` and so on."""
    engine: Literal["local", "ray"] = "local"
    """``ray``: a Ray cluster, from ``doratune[ray]``."""
    workers: Positive | None = None
    """Jobs side by side; when null as many as there are GPUs, or one on a CPU."""
    keep: Literal["adapters", "figures"] = "figures"
    """What stays of a finished final run, besides its records."""

    @model_validator(mode="after")
    def _reference_is_an_arm(self) -> CompareSection:
        if self.reference not in self.arms:
            raise ValueError(
                f"reference {self.reference!r} is not among the arms ({', '.join(self.arms)})"
            )
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"an arm is named twice in {', '.join(self.arms)}")
        return self
