"""Merging adapters of a quantised base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from doratune.adapter import read_adapter
from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.tuned import load_tuned
from doratune.base import load_base
from doratune.data.questions import Questions
from doratune.errors import ConfigError, VerificationError
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ONTO, MergeFile, Onto, VerifyFile
from doratune.ship import merge_adapter, verify_merged
from doratune.ship.merging.merge import merge
from doratune.ship.merging.onto import plan_onto
from doratune.ship.task import Task
from tests.adapter.models import tokens
from tests.ship.adapters import edit_tensors, save_adapter
from tests.ship.export.runs import recipe_for, trained_run
from tests.ship.quantized import save_quantized_adapter, wide_base

bnb = pytest.importorskip("bitsandbytes.functional")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_base(tmp_path_factory.mktemp("onto") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_quantized_adapter(base, tmp_path_factory.mktemp("onto") / "adapter", "nf4")


@pytest.fixture
def run(adapter: Path, tmp_path: Path) -> RunFolder:
    return trained_run(tmp_path / "run", adapter)


def recipe(base: Path, onto: Onto | None, quantize: str = "nf4", dtype: str = "float32"):  # type: ignore[no-untyped-def]
    merging = {"dtype": dtype, **({"onto": onto} if onto else {})}
    return recipe_for(base, model={"quantize": quantize}, merge=merging)


def dequantized(W: Tensor) -> Tensor:
    packed, state = bnb.quantize_4bit(W, quant_type="nf4", compress_statistics=True)
    return bnb.dequantize_4bit(packed, state)


def logits(model: torch.nn.Module) -> Tensor:
    forbid_repacking(model)
    with torch.no_grad():
        return model(tokens()).logits


@pytest.mark.parametrize("onto", ["dequantized", "original"])
def test_the_weight_is_the_formula_on_the_chosen_base(
    base: Path, adapter: Path, tmp_path: Path, onto: Onto
) -> None:
    merge(base, adapter, tmp_path / "merged", "float32", onto)
    found, before = (
        load_file(tmp_path / "merged/model.safetensors"),
        load_file(base / "model.safetensors"),
    )
    layers = read_adapter(adapter).layers
    assert len(layers) == 14
    for layer, delta in layers.items():
        W = before[f"{layer}.weight"]
        V = (dequantized(W) if onto == "dequantized" else W).double()
        V += delta.scaling * delta.B.double() @ delta.A.double()
        expected = delta.magnitude.double()[:, None] * V / V.norm(dim=1, keepdim=True)
        torch.testing.assert_close(
            found[f"{layer}.weight"].double(), expected, rtol=1e-5, atol=1e-6
        )
    assert torch.equal(found["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_onto_the_dequantised_base_it_is_the_trained_model(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    trained = logits(load_tuned(base, adapter, "float32"))
    differences = {}
    for onto in ONTO:
        merge(base, adapter, tmp_path / onto, "float32", onto)
        found = logits(load_base(tmp_path / onto, "float32"))
        differences[onto] = (found - trained).norm() / trained.norm()
    assert differences["dequantized"] < 1e-5
    assert differences["requantize"] > 0.01
    assert differences["original"] > 0.01


def test_layers_that_were_quantised_and_not_adapted(base: Path, tmp_path: Path) -> None:
    adapter = save_quantized_adapter(
        base, tmp_path / "adapter", "nf4", target_modules=["q_proj", "v_proj"]
    )
    merge(base, adapter, tmp_path / "merged", "float32", "dequantized")
    name = "model.layers.1.mlp.down_proj.weight"
    found = load_file(tmp_path / "merged/model.safetensors")[name]
    assert torch.equal(found, dequantized(load_file(base / "model.safetensors")[name]))
    trained = logits(load_tuned(base, adapter, "float32"))
    torch.testing.assert_close(
        logits(load_base(tmp_path / "merged")), trained, rtol=1e-4, atol=1e-4
    )


def test_requantised_it_is_the_merged_model_in_4_bits(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merge(base, adapter, tmp_path / "dense", "float32", "dequantized")
    merged = merge(base, adapter, tmp_path / "small", "float32", "requantize")
    config = json.loads((tmp_path / "small/config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    expected = logits(load_base(tmp_path / "dense", "float32", "nf4"))
    assert torch.equal(logits(load_base(tmp_path / "small", "float32")), expected)
    assert merged.num_bytes == (tmp_path / "small/model.safetensors").stat().st_size
    names = {path.name for path in (tmp_path / "dense").iterdir()}
    assert {path.name for path in (tmp_path / "small").iterdir()} == names
    assert not list(tmp_path.glob(".*"))


def test_verification_tells_all_three_and_judges_one(base: Path, run: RunFolder) -> None:
    questions = Questions([[1]] * 3, ["a"] * 3, [[2]] * 3, None, [])

    def ask(model: object, title: str) -> list[bool]:
        return [True, "original" not in title, "requantize" in title]

    for onto in ("dequantized", "original"):
        settings = recipe(base, onto)
        assert merge_adapter(run, settings)
        assert MergeFile.read(run.merge).onto == onto
        assert verify_merged(run, settings, Task(questions, ask))
        assert not verify_merged(run, settings, Task(questions, ask))
        assert not verify_merged(run, settings)  # which keeps the answers
        file = VerifyFile.read(run.verify)
        assert (file.passed, file.onto) == (True, onto)
        assert bool(file.thresholds) == bool(file.layers) == (onto == "dequantized")
        assert file.mean_kl == pytest.approx(file.fidelity[onto].mean_kl, abs=1e-9)
        exact, others = file.fidelity["dequantized"], [file.fidelity[o] for o in ONTO[1:]]
        assert all(exact.mean_kl < 1e-8 < 1e-4 < other.mean_kl for other in others)
        assert file.fidelity["requantize"].num_bytes < exact.num_bytes
        tasks = [file.fidelity[o].task for o in ONTO]
        assert [(t.num_lost, t.num_gained) for t in tasks if t] == [(0, 0), (1, 0), (0, 1)]
    assert not list(run.path.glob(".*.tmp"))


def test_a_wrong_merge_onto_the_dequantised_base_fails(base: Path, run: RunFolder) -> None:
    settings = recipe(base, "dequantized")
    merge_adapter(run, settings)
    name = "model.layers.0.mlp.up_proj.weight"
    file = run.merged / "model.safetensors"
    edit_tensors(file, **{name.replace(".", "__"): load_file(base / "model.safetensors")[name]})
    with pytest.raises(VerificationError, match=r"weight_error is .* in layer .*\.0\.mlp\.up"):
        verify_merged(run, settings)


def test_without_a_choice_the_message_tells_what_each_means(base: Path, run: RunFolder) -> None:
    with pytest.raises(ConfigError) as caught:
        merge_adapter(run, recipe(base, None))
    text = str(caught.value)
    assert "was trained over a base in 4 bits (nf4), and merge.onto does not say" in text
    assert all(f"{onto}: " in text for onto in ONTO)
    assert not run.merged.exists()


def test_a_choice_where_there_is_none_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"merge\.onto is 'original', but model\.quant"):
        recipe_for(base, merge={"onto": "original"})
    adapter = save_adapter(base, tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"merge\.onto is 'requantize', but the base of"):
        merge(base, adapter, tmp_path / "merged", "float32", "requantize")
    with pytest.raises(ConfigError, match=r"only one to merge onto\. Remove it"):
        plan_onto(base, adapter, "original")


def test_over_8_bits_the_weights_are_judged_and_not_the_logits(base: Path, tmp_path: Path) -> None:
    adapter = save_quantized_adapter(base, tmp_path / "adapter", "int8")
    run, settings = trained_run(tmp_path / "run", adapter), recipe(base, "dequantized", "int8")
    merge_adapter(run, settings)
    verify_merged(run, settings)
    file = VerifyFile.read(run.verify)
    assert set(file.thresholds) == {"weight_error", "norm_error"}
    assert max(layer.weight_error for layer in file.layers) < file.thresholds["weight_error"]
    W = load_file(base / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    step = W.half().float().abs().amax(dim=1, keepdim=True) / 127
    found = plan_onto(base, adapter, "dequantized").weight("model.layers.0.mlp.up_proj.weight")
    assert ((found / step).round() - found / step).abs().max() < 0.01
    assert ((found - W).abs() <= 0.57 * step).all()  # first to float16
    assert file.fidelity["requantize"].num_bytes < file.fidelity["original"].num_bytes
