"""auto-round in a process of its own, for it changes classes of transformers where it is imported."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from doratune.base import load_base, load_tokenizer

FORMAT = "llm_compressor"
"""auto-round's name for folders of compressed-tensors, which transformers and vLLM load."""
PER_FEATURE = -1
"""auto-round's group size for one scale per output feature."""
_GROUP_SIZES = (128, 64, 32)
"""What serving kernels for 4 bits have, largest first."""
_BATCH = 8
"""Blocks of tokens at each of auto-round's steps; its own default."""


def main(request: Path) -> None:
    """Quantises the checkpoint ``model`` into a folder within ``target``.

    ``bits`` and ``steps`` say how; without steps values are rounded to the nearest level, with one
    scale per output feature. ``blocks`` are token ids, all of one length: auto-round silently leaves
    out what is shorter than the length it is told.
    """
    from auto_round import AutoRound, RTNConfig, SignRoundConfig

    asked: dict[str, Any] = json.loads(request.read_text(encoding="utf-8"))
    logging.getLogger("autoround").setLevel(logging.WARNING)
    path = Path(asked["model"])
    model, blocks = load_base(path), torch.tensor(asked["blocks"])
    steps = asked["steps"]
    quantizer = AutoRound(
        model,
        load_tokenizer(path),
        scheme={
            "bits": asked["bits"],
            "group_size": group_size(model) if steps else PER_FEATURE,
            "sym": True,
            "data_type": "int",
            "act_bits": 16,
        },
        alg_configs=SignRoundConfig(iters=steps) if steps else RTNConfig(disable_opt_rtn=True),
        # With a mask of its own: the mask it makes leaves out every end of a turn, where that is also
        # the token that pads.
        dataset=[
            {"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in blocks
        ],
        seqlen=blocks.shape[1],
        nsamples=len(blocks),
        batch_size=min(_BATCH, len(blocks)),
        device_map="cuda" if torch.cuda.is_available() else "cpu",
        enable_torch_compile=False,
        amp=model.dtype != torch.float32,
        seed=asked["seed"],
    )
    quantizer.quantize_and_save(asked["target"], format=FORMAT)


def group_size(model: PreTrainedModel) -> int:
    """The largest size of group into which the rows of every matrix can be cut."""
    head = model.get_output_embeddings()
    widths = [m.in_features for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    common = math.gcd(*widths)
    return next((size for size in _GROUP_SIZES if common % size == 0), PER_FEATURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
