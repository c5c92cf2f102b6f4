"""A real, tiny Llama checkpoint with a trained byte-level tokenizer and a ChatML template."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from doratune.base import load_base

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = [
    "The supplier's total liability shall not exceed the fees paid in the twelve months before.",
    "Nothing in this agreement limits liability for fraud, death or personal injury.",
    "system user assistant Answer with one of these labels: capped uncapped excluded.",
    "The quick brown fox jumps over the lazy dog 0123456789.",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """About 400 tokens; eos and pad are ``<|im_end|>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        model_max_length=512,
    )
    fast.chat_template = CHATML
    return fast


def tiny_model(seed: int = 0, **config: object) -> LlamaForCausalLM:
    """Two layers, hidden size 32, random weights large enough that logits differ."""
    settings: dict[str, object] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **config})).eval()


def save_tiny(
    path: Path, dtype: torch.dtype = torch.float32, seed: int = 0, **config: object
) -> Path:
    """Writes model and tokenizer as an ordinary checkpoint folder."""
    tiny_model(seed, **config).to(dtype).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def clauses_file(folder: Path) -> Path:
    """A file of 60 clauses with two labels that a tiny model can learn."""
    file = folder / "clauses.jsonl"
    if not file.exists():
        rows = [
            {"text": f"Clause {n}: {kind} of liability.", "label": label}
            for n in range(30)
            for kind, label in (("limit", "capped"), ("exclusion", "excluded"))
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def save_moved_adapter(folder: Path, base: Path, *, seed: int, std: float, spread: float) -> None:
    """A DoRA adapter far from the identity, written by PEFT itself.

    Args:
        folder: To write.
        base: The base's folder.
        seed: Of all draws.
        std: Of the elements of B.
        spread: Magnitudes are multiplied by at most so much more or less than 1.
    """
    torch.manual_seed(seed)
    config = LoraConfig(use_dora=True, r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(load_base(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
        if "lora_magnitude_vector" in name:
            parameter.data *= torch.empty_like(parameter).uniform_(1 - spread, 1 + spread)
    model.save_pretrained(folder)
