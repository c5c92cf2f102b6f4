"""What a recipe may say of the forms in which a model leaves doratune."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from doratune.recipe.section import Positive, Section

Form = Literal["peft", "lora", "merged", "gguf", "bundle", "quantized"]
GgufType = Literal["f32", "f16", "bf16", "q8_0"]
QuantizedType = Literal["int8", "int4", "nf4"]


class ExportSection(Section):
    """``doratune export``: the forms that others load."""

    forms: Annotated[list[Form], Field(min_length=1)] | None = None
    """``peft``: adapter folder; ``lora``: plain LoRA, an approximation of DoRA; ``merged``: checkpoint;
    ``gguf``: for llama.cpp and Ollama; ``bundle``: adapter and its output scales for serving;
    ``quantized``: the checkpoint in 8 or 4 bits. When null ``peft``, or ``merged`` after full
    fine-tuning."""
    lora_rank: Positive | None = None
    """Rank of the plain LoRA; twice ``adapter.r`` when null."""
    gguf_types: Annotated[list[GgufType], Field(min_length=1)] = ["q8_0"]
    """Precisions of the GGUF files, one file each."""
    quantized_types: Annotated[list[QuantizedType], Field(min_length=1)] = ["int4"]
    """``int8`` and ``int4``: weights in compressed-tensors' format, by auto-round; ``nf4``: by
    bitsandbytes. A folder each."""
    calibration_examples: Positive = 128
    """Training examples on which auto-round tunes the rounding of ``int4``."""
    calibration_steps: Positive = 50
    """Steps of auto-round for each of the model's blocks; 200 is its own default, and takes four times
    as long."""
    license: Annotated[str, Field(min_length=1)] | None = None
    """Licence of the result as the hub names it, such as ``apache-2.0``; when null that of the base's
    model card."""

    @field_validator("forms", "gguf_types", "quantized_types")
    @classmethod
    def _none_twice(cls, names: list[str] | None) -> list[str] | None:
        twice = sorted({name for name in names or [] if (names or []).count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice in {', '.join(names or [])}")
        return names
