"""Real trainings that take a second: a tiny Llama with DoRA learns a noisy rule about sequences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from doratune.adapter import enable_fast_dora
from tests.tiny import tiny_model

NUM_TRAIN, NUM_TEST, LENGTH = 400, 4000, 4
STEPS = 16
LABELS = [2, 3]
"""Tokens of the two answers."""
FIRST, NUM_SYMBOLS = 10, 12
FLIPPED = 0.1
"""Share of wrong labels: no model can be right everywhere."""


def examples(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sequences (num, LENGTH), and which label: whether their symbols' hidden weights sum above 0."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(NUM_SYMBOLS, generator=torch.Generator().manual_seed(0))
    symbols = torch.randint(NUM_SYMBOLS, (num, LENGTH), generator=draw)
    labels = weights[symbols].sum(1) > 0
    flipped = torch.rand(num, generator=draw) < FLIPPED
    return FIRST + symbols, (labels ^ flipped).long()


def trained(seed: int, num_steps: int = STEPS) -> NDArray[np.float64]:
    """Trains one model and says which of the NUM_TEST test examples it gets right, 0 or 1.

    The seed decides the adapter's start, the order of the examples and the dropout; base and data are
    the same for all seeds, as in a comparison.
    """
    base = tiny_model()
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.05, use_dora=True, target_modules="all-linear"
    )
    model = get_peft_model(base, config)
    enable_fast_dora(model)
    inputs, labels = examples(NUM_TRAIN, seed=1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    model.train()
    for _ in range(num_steps):
        rows = torch.randint(NUM_TRAIN, (32,))
        logits = model(input_ids=inputs[rows]).logits[:, -1, LABELS]
        optimizer.zero_grad()
        cross_entropy(logits, labels[rows]).backward()
        optimizer.step()
    model.eval()
    inputs, labels = examples(NUM_TEST, seed=2)
    with torch.no_grad():
        answers = torch.cat(
            [model(input_ids=part).logits[:, -1, LABELS].argmax(1) for part in inputs.split(500)]
        )
    right: NDArray[np.float64] = (answers == labels).double().numpy()
    return right


def trainings(seeds: Iterable[int], num_steps: int = STEPS) -> NDArray[np.float64]:
    """Right answers by seed and test example."""
    return np.stack([trained(seed, num_steps) for seed in seeds])
