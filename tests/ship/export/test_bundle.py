from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from doratune.base import fingerprint, load_base
from doratune.errors import AdapterError
from doratune.record.files import digest_file
from doratune.record.run_folder import RunFolder
from doratune.ship.export.bundle import write_bundle
from tests.adapter.models import tokens
from tests.ship.adapters import edit_tensors
from tests.ship.export.runs import recipe_for, seal, sealed_adapter, subject_of, trained_run
from tests.ship.kinds import KINDS, merged_by_peft, save_kind
from tests.tiny import save_tiny

PREFIX = "base_model.model."


def engine(base: Path, bundle: Path, scaling: float, with_scales: bool = True) -> nn.Module:
    """What an engine does: its own weights, LoRA as it knows it, and one product."""
    model = load_base(base, "float32")
    factors = load_file(bundle / "adapter_model.safetensors")
    scales = load_file(bundle / "dora_scale.safetensors")

    def hook(name: str):
        A, B = (factors[f"{PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        g = scales[f"{PREFIX}{name}.mag_norm_scale"] if with_scales else 1.0

        def after(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            bias = 0 if module.bias is None else module.bias
            return g * (output - bias + scaling * inputs[0] @ A.T @ B.T) + bias

        return after

    for name, module in model.named_modules():
        if f"{PREFIX}{name}.mag_norm_scale" in scales:
            module.register_forward_hook(hook(name))
    return model


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_base_and_bundle_make_the_model_with_plain_torch(tmp_path: Path, bias: bool) -> None:
    base = save_tiny(tmp_path / "base", attention_bias=bias)
    if bias:
        names = [f"model.layers.{i}.self_attn.{p}_proj.bias" for i in (0, 1) for p in "qkvo"]
        sizes = {"q": 32, "k": 16, "v": 16, "o": 32}
        torch.manual_seed(2)
        edit_tensors(
            base / "model.safetensors",
            **{name: torch.randn(sizes[name.split(".")[4][0]]) for name in names},
        )
    adapter = sealed_adapter(base, tmp_path / "adapter")
    run = trained_run(tmp_path / "run", adapter)
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(subject_of(run, recipe_for(base)), folder)
    ids = tokens()
    expected = (
        PeftModel.from_pretrained(load_base(base, "float32"), str(adapter)).eval()(ids).logits
    )
    found = engine(base, folder, scaling=3.0)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    without = engine(base, folder, scaling=3.0, with_scales=False)(ids).logits
    assert (without - expected).abs().max() > 0.1


def test_scales_are_float32_per_output_feature_and_name_their_base(
    base: Path, run: RunFolder, tmp_path: Path
) -> None:
    write_bundle(subject_of(run, recipe_for(base)), tmp_path)
    with safe_open(tmp_path / "dora_scale.safetensors", framework="pt") as tensors:
        metadata = tensors.metadata()
        shapes = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    assert metadata["base_fingerprint"] == fingerprint(base)
    assert metadata["adapter_sha256"] == digest_file(tmp_path / "adapter_model.safetensors")
    assert len(shapes) == 14
    for name, scale in shapes.items():
        magnitude = load_file(tmp_path / "adapter_model.safetensors")[
            name.replace("mag_norm_scale", "lora_magnitude_vector")
        ]
        assert scale.dtype == torch.float32
        assert scale.shape == magnitude.shape


@pytest.mark.parametrize("name", KINDS)
def test_scale_and_adapter_file_give_the_merged_weight(tmp_path: Path, name: str) -> None:
    """``g (W + s B A)`` from the bundle's files is PEFT's merged weight, for every kind of layer."""
    kind = KINDS[name]
    base, adapter = save_kind(kind, tmp_path)
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(subject_of(trained_run(tmp_path / "run", adapter), recipe_for(base)), folder)
    factors = load_file(folder / "adapter_model.safetensors")
    key = f"{PREFIX}{kind.layer}"
    A, B = (
        next(
            factors[k]
            for k in (f"{key}.lora_{x}.weight", f"{key}.lora_embedding_{x}")
            if k in factors
        )
        for x in "AB"
    )
    g = load_file(folder / "dora_scale.safetensors")[f"{key}.mag_norm_scale"].double()
    with torch.no_grad():
        W = kind.load(base).get_submodule(kind.layer).weight.double()
    change = 3.0 * B.flatten(1).double() @ A.flatten(1).double()
    if "Embedding" in name or name == "Conv1D":
        found = g * (W + change.T)
    else:
        found = (g[:, None] * (W.flatten(1) + change)).reshape(W.shape)
    torch.testing.assert_close(found, merged_by_peft(kind, base, adapter), rtol=0, atol=1e-6)
    assert (g - 1).abs().max() > 0.1


def test_pruned_rows_have_scale_one(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    name = "model.layers.0.mlp.up_proj.weight"
    weight = load_file(base / "model.safetensors")[name]
    weight[3] = 0
    edit_tensors(base / "model.safetensors", **{name: weight})
    adapter = sealed_adapter(base, tmp_path / "adapter")
    key = f"{PREFIX}model.layers.0.mlp.up_proj"
    B = load_file(adapter / "adapter_model.safetensors")[f"{key}.lora_B.weight"]
    B[3] = 0
    edit_tensors(adapter / "adapter_model.safetensors", **{f"{key}.lora_B.weight": B})
    seal(adapter)
    write_bundle(subject_of(trained_run(tmp_path / "run", adapter), recipe_for(base)), tmp_path)
    scale = load_file(tmp_path / "dora_scale.safetensors")[f"{key}.mag_norm_scale"]
    assert scale[3] == 1
    assert scale.isfinite().all()
    assert (scale != 1).sum() > 40


def test_another_base_is_refused(run: RunFolder, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=5)
    with pytest.raises(AdapterError, match="An adapter works on its own base only"):
        write_bundle(subject_of(run, recipe_for(other)), tmp_path)
