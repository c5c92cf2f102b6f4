"""A tiny base and a DoRA adapter that say something: random models speak no text to be read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from doratune.base import load_base, load_tokenizer
from tests.ship.adapters import peft_model, write_origin
from tests.tiny import save_tiny

QUESTION = "Is clause {} capped?"
CLAUSES = (1, 2, 3)


def chat_ids(tokenizer: Any, question: str) -> list[int]:
    """A question in the base's template, up to where the answer begins."""
    message = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text).input_ids
    return ids


def teach(model: nn.Module, tokenizer: Any, answer: str, learning_rate: float) -> None:
    """Trains what is trainable until the model gives the answer, with the clause's number in it."""
    rows = [
        chat_ids(tokenizer, QUESTION.format(n))
        + tokenizer(answer.format(n) + "<|im_end|>").input_ids
        for n in CLAUSES
    ]
    batch = torch.tensor(rows)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    for _ in range(60):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def speaking_base(path: Path) -> Path:
    """Says that the clause is not."""
    save_tiny(path)
    model = load_base(path, "float32")
    teach(model, load_tokenizer(path), "No, clause {} is not, the agreement says.", 3e-3)
    model.save_pretrained(path)
    return path


def speaking_adapter(base: Path, path: Path) -> Path:
    """Says that it is."""
    torch.manual_seed(0)
    model = peft_model(load_base(base, "float32"), r=8, lora_alpha=16)
    teach(model, load_tokenizer(base), "The limit of clause {} shall exceed the fees.", 1e-2)
    model.save_pretrained(str(path))
    write_origin(base, path, "dora")
    return path
