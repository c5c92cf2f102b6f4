from __future__ import annotations

import os
from pathlib import Path

# Before any import of the Hugging Face stack: tests never reach a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton, transformers included

from tests.tiny import save_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny float32 Llama checkpoint; read only."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data beside the checkout; its tests are skipped where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.exists():
        pytest.skip("the folder ../shared/data with real public data is not beside this checkout")
    return path
