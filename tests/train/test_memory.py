"""The estimate of a training's memory against what trainings took, and against what autograd keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import LlamaConfig

from doratune.recipe import Recipe
from doratune.train.build import build_model
from doratune.train.memory import HEAP, peak_bytes
from doratune.train.plan import empty_training_model
from tests.tiny import save_tiny

GIB = 1 << 30

# Peaks of the process in GiB: float32, r = 16 on all linear layers, batches of that many tokens with
# their padding, of which about 6 an example are learnt. The range is that of trainings alike.
MEASURED = [
    ("dora", 172, 1.85, 1.85),
    ("dora", 352, 2.34, 2.34),
    ("dora", 368, 2.49, 2.49),
    ("dora", 500, 2.70, 2.70),
    ("dora", 756, 3.55, 3.75),
    ("lora", 756, 3.79, 4.02),
    ("dora", 2024, 6.68, 6.68),
]


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def recipe(method: str = "dora", dropout: float = 0.0, **sections: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"source": "base", "dtype": "float32"},
            "data": {"source": "d.jsonl"},
            "adapter": {"method": method, "lora_dropout": dropout},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes of SmolLM2-135M, stored in bf16."""
    path = tmp_path_factory.mktemp("smollm2")
    LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        dtype="bfloat16",
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def dora(smollm2: Path) -> PeftModel:
    model = empty_training_model(recipe(), smollm2)
    assert isinstance(model, PeftModel)
    assert model.dtype == torch.float32  # as the recipe says, not as the checkpoint is stored
    assert model.num_parameters() == 139_555_008
    return model


@pytest.mark.parametrize(("method", "num_tokens", "low", "high"), MEASURED)
def test_trainings_that_were_measured(
    method: str, num_tokens: int, low: float, high: float, dora: PeftModel
) -> None:
    # LoRA has 0.1 million parameters less.
    estimate = peak_bytes(dora, recipe(method), num_tokens, 24) / GIB
    assert 0.85 * high < estimate < 1.2 * low


def test_weights_have_the_precision_of_training(smollm2: Path) -> None:
    settings = recipe(model={"source": "b", "dtype": "bfloat16"})
    assert empty_training_model(settings, smollm2).dtype == torch.bfloat16
    auto = recipe("full", model={"source": "b"})
    assert empty_training_model(auto, smollm2).dtype == torch.float32
    named = recipe("full", model={"source": "b", "dtype": "bfloat16"})
    assert empty_training_model(named, smollm2).dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["dora", "lora", "full"])
def test_the_empty_model_is_the_loaded_one(method: str, tiny_base: Path) -> None:
    settings = recipe(method)
    loaded, _ = build_model(settings, tiny_base)
    empty = empty_training_model(settings, tiny_base)
    for model in (loaded, empty):
        assert all(p.is_meta for p in model.parameters()) == (model is empty)
    assert peak_bytes(empty, settings, 100, 10) == peak_bytes(loaded, settings, 100, 10)


@pytest.mark.parametrize(
    ("quantize", "bits"),
    # QLoRA, section 3: 0.127 bits of scales for a weight of 4.
    [("nf4", 4.127), ("int8", 8)],
)
def test_weights_in_few_bits(quantize: str, bits: float, dora: PeftModel) -> None:
    few = recipe(model={"source": "b", "dtype": "float32", "quantize": quantize})
    saved = peak_bytes(dora, recipe(), 100, 10) - peak_bytes(dora, few, 100, 10)
    linear = 30 * 576 * (2 * 576 + 2 * 192 + 3 * 1536)  # q and o, k and v, the three of the MLP
    assert saved == pytest.approx(linear * (32 - bits) / 8, rel=1e-4)


def test_what_the_estimate_grows_with(dora: PeftModel, smollm2: Path) -> None:
    plain = recipe()
    base = peak_bytes(dora, plain, 1000, 0)
    tile = 32768 * 4 * 8  # of a vocabulary of 49,152; logits are made in two pieces
    assert peak_bytes(dora, plain, 1000, 500) - base == 500 * tile
    assert peak_bytes(dora, plain, 9000, 9000) - peak_bytes(dora, plain, 9000, 0) == 4096 * tile
    checkpointed = recipe(train={"gradient_checkpointing": True})
    assert peak_bytes(dora, checkpointed, 1000, 0) < 0.6 * base
    full = recipe("full")
    trained = peak_bytes(empty_training_model(full, smollm2), full, 1000, 0)
    # A gradient and two moments of each weight instead of each number of the adapter; no adapter.
    assert trained - base == 134_515_008 * 12 - 5_040_000 * (4 + 12)
    dropped, lora = recipe("lora", dropout=0.05), recipe("lora")
    masks = 1000 * 30 * (10 * 576 + 1536) * 4 * HEAP
    assert peak_bytes(dora, dropped, 1000, 0) - peak_bytes(dora, lora, 1000, 0) == round(masks)


def test_on_a_gpu_there_is_neither_a_process_nor_its_heap(
    dora: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe()
    on_cpu = peak_bytes(dora, settings, 1000, 100)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    weights = 139_555_008 * 4 + 5_040_000 * 12
    kept = 1000 * 30 * (11 * 576 + 4 * 1536) * 4
    assert peak_bytes(dora, settings, 1000, 100) == weights + kept + 100 * 32768 * 4 < on_cpu


@pytest.mark.parametrize(
    ("method", "hidden", "inner"), [("dora", 10.6, 4.15), ("lora", 6.7, 4.0), ("full", 8.7, 4.0)]
)
def test_what_autograd_keeps_of_a_block(
    method: str, hidden: float, inner: float, tmp_path: Path
) -> None:
    def kept(num_layers: int) -> float:
        base = save_tiny(
            tmp_path / str(num_layers),
            hidden_size=192,
            intermediate_size=512,
            num_attention_heads=3,
            num_key_value_heads=1,
            num_hidden_layers=num_layers,
        )
        # Of rank 2, so that little is left of the low-rank branch.
        adapter = {"method": method, "r": 2, "lora_dropout": 0.0}
        model, _ = build_model(recipe(adapter=adapter), base)
        model.train()
        return _saved_per_token(model, num_tokens=256) / 4

    assert kept(2) - kept(1) == pytest.approx(192 * hidden + 512 * inner, rel=0.03)


def _saved_per_token(model: nn.Module, num_tokens: int) -> float:
    """Bytes of the tensors that a forward pass saves, parameters left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(input_ids=torch.arange(num_tokens)[None]).logits
    assert output.requires_grad
    return sum(saved.values()) / num_tokens
