"""The tokenizer as workers get it."""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Writes a tokenizer for other processes: loading it from its checkpoint would import torch."""
    path.write_bytes(pickle.dumps(tokenizer))


@lru_cache(maxsize=1)
def saved_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that `save_tokenizer` wrote, read once by each process."""
    return cast(PreTrainedTokenizerBase, pickle.loads(path.read_bytes()))
