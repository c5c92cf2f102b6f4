"""What a recipe may say of the forms in which a model leaves doratune."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from doratune.recipe.section import Positive, Section

Form = Literal["peft", "lora", "merged", "gguf", "bundle"]
GgufType = Literal["f32", "f16", "bf16", "q8_0"]


class ExportSection(Section):
    """``doratune export``: the forms that others load."""

    forms: Annotated[list[Form], Field(min_length=1)] | None = None
    """``peft``: adapter folder; ``lora``: plain LoRA, an approximation of DoRA; ``merged``: checkpoint;
    ``gguf``: for llama.cpp and Ollama; ``bundle``: adapter and its output scales for serving. When null
    ``peft``, or ``merged`` after full fine-tuning."""
    lora_rank: Positive | None = None
    """Rank of the plain LoRA; twice ``adapter.r`` when null."""
    gguf_types: Annotated[list[GgufType], Field(min_length=1)] = ["q8_0"]
    """Precisions of the GGUF files, one file each."""
    license: Annotated[str, Field(min_length=1)] | None = None
    """Licence of the result as the hub names it, such as ``apache-2.0``; when null that of the base's
    model card."""

    @field_validator("forms", "gguf_types")
    @classmethod
    def _none_twice(cls, names: list[str] | None) -> list[str] | None:
        twice = sorted({name for name in names or [] if (names or []).count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice in {', '.join(names or [])}")
        return names
