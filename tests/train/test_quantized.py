"""Training over an NF4 base: the recipe's `model.quantize`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from doratune.adapter import load_adapter
from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.tuned import load_tuned
from doratune.base import load_base
from doratune.errors import ConfigError, DependencyError
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ORIGIN, AdapterOrigin, Step, TrainFile
from doratune.ship import merge_adapter
from doratune.train import train_model
from tests.adapter.models import tokens
from tests.tiny import save_tiny, tiny_model
from tests.train.test_stage import prepared, recipe

bnb = pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the block size of NF4, in bfloat16, whose adapters TRL would train in bfloat16."""
    folder = tmp_path_factory.mktemp("nf4") / "base"
    return save_tiny(folder, torch.bfloat16, hidden_size=64, intermediate_size=128)


@pytest.fixture(params=["dora", "lora"])
def trained(request: pytest.FixtureRequest, tmp_path: Path, base: Path) -> tuple[str, RunFolder]:
    settings = recipe(
        tmp_path,
        base,
        model={"source": str(base), "quantize": "nf4", "dtype": "float32"},
        adapter={"method": request.param},
        train={"max_steps": 12},
    )
    run = prepared(tmp_path, settings)
    train_model(run, settings)
    return request.param, run


def test_the_adapter_learns_in_float32_over_the_dequantised_base(
    trained: tuple[str, RunFolder], base: Path
) -> None:
    method, run = trained
    steps = Step.read_lines(run.steps)
    assert steps[-1].loss < 0.9 * steps[0].loss
    record = TrainFile.read(run.train)
    assert record.fast_layers == (14 if method == "dora" else 0)
    weights = sum(p.numel() for p in tiny_model(hidden_size=64, intermediate_size=128).parameters())
    assert record.num_parameters - record.num_trainable_parameters == weights
    tensors = load_file(run.adapter / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert AdapterOrigin.read(run.adapter / ORIGIN).quantize == "nf4"

    tuned = load_tuned(base, run.adapter, "float32")
    kinds = {type(m).__name__ for n, m in tuned.named_modules() if n.endswith("base_layer")}
    assert kinds == {"Linear4bit"}
    with torch.no_grad():
        found = tuned(tokens()).logits
        dense = load_base(base, "float32")
        for name, module in tuned.named_modules():
            if not name.endswith("base_layer"):
                continue
            weight = bnb.functional.dequantize_4bit(module.weight, module.weight.quant_state)
            layer = name.removeprefix("base_model.model.").removesuffix(".base_layer")
            dense.get_submodule(layer).weight.copy_(weight)
        expected = load_adapter(dense, run.adapter, any_base=True)(tokens()).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_merging_wants_to_know_what_onto(
    trained: tuple[str, RunFolder], tmp_path: Path, base: Path
) -> None:
    _, run = trained
    with pytest.raises(ConfigError, match=r"trained over a base in 4 bits \(nf4\)"):
        merge_adapter(run, recipe(tmp_path, base))
    assert not run.merged.exists()


def test_training_over_8_bits(tmp_path: Path, base: Path) -> None:
    """The layers round what they are given to 8 bits, too; gradients and magnitudes stay float32."""
    settings = recipe(
        tmp_path,
        base,
        model={"source": str(base), "quantize": "int8", "dtype": "float32"},
        train={"max_steps": 12},
    )
    run = prepared(tmp_path, settings)
    train_model(run, settings)
    steps = Step.read_lines(run.steps)
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert TrainFile.read(run.train).fast_layers == 14
    assert AdapterOrigin.read(run.adapter / ORIGIN).quantize == "int8"
    tensors = load_file(run.adapter / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    tuned = load_tuned(base, run.adapter, "float32")
    kinds = {type(m).__name__ for n, m in tuned.named_modules() if n.endswith("base_layer")}
    assert kinds == {"Linear8bitLt"}


def test_the_first_step_is_that_of_the_quantised_base(base: Path) -> None:
    plain, quantised = load_base(base, "float32"), load_base(base, "float32", "nf4")
    forbid_repacking(quantised)
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            packed, state = bnb.functional.quantize_4bit(
                module.weight.data, quant_type="nf4", compress_statistics=True
            )
            module.weight.data = bnb.functional.dequantize_4bit(packed, state)
            assert isinstance(quantised.get_submodule(name), bnb.nn.Linear4bit)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(tokens()).logits, quantised(tokens()).logits, rtol=1e-4, atol=1e-4
        )


def test_full_fine_tuning_cannot_be_quantised(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ValidationError, match="quantised weights cannot be trained"):
        recipe(
            tmp_path,
            base,
            model={"source": str(base), "quantize": "nf4"},
            adapter={"method": "full"},
        )


def test_without_bitsandbytes_the_message_says_how_to_install_it(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'doratune\[quant\]'"):
        load_base(base, "float32", "nf4")
