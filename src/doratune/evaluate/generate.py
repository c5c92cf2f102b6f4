"""Greedy answers to open questions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from transformers import GenerationConfig

from doratune.base.batches import batches, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    batch_size: int,
    stopping: Callable[[int, int], StoppingCriteriaList] | None = None,
    skip_special_tokens: bool = False,
    description: str = "Generating",
) -> list[str]:
    """The most likely next token again and again, until the end of the turn.

    Replaces the model's ``generation_config``: ``generate`` would mix the sampling settings and
    penalties of the checkpoint into whatever it is given.

    Args:
        model: In eval mode; its own device is used.
        tokenizer: With a pad token.
        prompts: Token ids, none empty.
        stop_ids: Any of these ends an answer and is not part of it.
        max_new_tokens: Longest answer; a longer one is cut.
        batch_size: Prompts per batch.
        stopping: Makes further reasons to stop, from the width of a batch and its number of prompts.
        skip_special_tokens: Leave special tokens out of the text rather than write them out.
        description: Title of the progress bar; none is shown where it is empty.

    Returns:
        Decoded answers in the order of the input.
    """
    # PEFT's wrapper may not hand its generation_config on; the layers of the adapter are inside.
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    inner.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids),
        pad_token_id=tokenizer.pad_token_id,
    )
    answers = [""] * len(prompts)
    for rows in batches([len(prompt) for prompt in prompts], batch_size, description):
        batch = left_padded([prompts[i] for i in rows], tokenizer.pad_token_id, model.device)
        width = batch["input_ids"].shape[1]
        # `generate` makes the same position_ids from the mask.
        output = inner.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            stopping_criteria=stopping(width, len(rows)) if stopping else None,
        )
        for i, ids in zip(rows, output[:, width:].tolist(), strict=True):
            end = next((at for at, token in enumerate(ids) if token in stop_ids), len(ids))
            answers[i] = tokenizer.decode(
                ids[:end],
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
    return answers


def same_answer(answer: str, reference: str) -> bool:
    """Whether two texts are equal but for white space."""
    return answer.split() == reference.split()
