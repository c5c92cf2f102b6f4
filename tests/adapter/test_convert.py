from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from doratune import load_adapter
from doratune.adapter.convert import convert_adapter
from doratune.base import load_base
from doratune.errors import AdapterError
from tests.adapter.folders import Tensors, edit_config, save_adapter
from tests.adapter.models import tokens

START = "base_model.model."


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """r 4, alpha 8; layer 1's q_proj has r 4 and alpha 3."""
    return save_adapter(tmp_path / "adapter", alpha_pattern={"1.self_attn.q_proj": 3})


def logits(base_path: Path, folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_adapter(load_base(base_path), folder)(tokens()).logits


def as_lycoris(tensors: Tensors) -> Tensors:
    """What `LycorisNetwork` saves with ``wd_on_output=True``."""
    written = {}
    for key, tensor in tensors.items():
        module, _, end = key.removeprefix(START).rpartition(".lora_")
        name = f"lycoris_{module.replace('.', '_')}"
        kind = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}.get(end)
        written[f"{name}.{kind or 'dora_scale'}"] = tensor if kind else tensor[:, None]
        alpha = 3.0 if module == "model.layers.1.self_attn.q_proj" else 8.0
        written[f"{name}.alpha"] = torch.tensor(alpha)
    return written


def as_ai_toolkit(tensors: Tensors) -> Tensors:
    return {
        key.removeprefix(START).replace("lora_magnitude_vector", "magnitude"): tensor
        for key, tensor in tensors.items()
    }


def in_memory(tensors: Tensors) -> Tensors:
    return {
        re.sub(r"(lora_[AB])\.weight|(vector)$", lambda m: f"{m[1] or m[2]}.default.weight", key): t
        for key, t in tensors.items()
    }


def as_columns(tensors: Tensors) -> Tensors:
    return {key: t[:, None] if t.ndim == 1 else t for key, t in tensors.items()}


def as_rows(tensors: Tensors) -> Tensors:
    return {key: t[None] if t.ndim == 1 else t for key, t in tensors.items()}


@pytest.mark.parametrize(
    ("write", "form"),
    [
        (as_lycoris, "LyCORIS or kohya (dora_scale)"),
        (in_memory, "PEFT's names in memory (lora_A.default)"),
        (as_columns, "PEFT"),
        (as_rows, "PEFT"),
    ],
)
def test_the_same_model_after_conversion(
    adapter: Path,
    tiny_base: Path,
    tmp_path: Path,
    write: Callable[[Tensors], Tensors],
    form: str,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tensors = write(load_file(adapter / "adapter_model.safetensors"))
    save_file({k: t.contiguous() for k, t in tensors.items()}, source / "lora.safetensors")
    if write is not as_lycoris:
        (source / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    done = convert_adapter(source, tiny_base, "the/base", tmp_path / "converted")
    assert done.form.startswith(form[:10])
    assert (done.num_dora, done.num_lora, done.ranks) == (14, 0, {4: 14})
    assert done.alphas == {8.0: 13, 3.0: 1}
    converted = logits(tiny_base, tmp_path / "converted")
    torch.testing.assert_close(converted, logits(tiny_base, adapter), rtol=1e-5, atol=1e-5)


def test_ai_toolkit_does_not_say_its_alpha(tiny_base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    file = tmp_path / "lora.safetensors"
    save_file(as_ai_toolkit(load_file(adapter / "adapter_model.safetensors")), file)
    with pytest.raises(
        AdapterError, match=r"does not say the alpha of .* with --alpha; .* it was the rank, 4"
    ):
        convert_adapter(file, tiny_base, "the/base", tmp_path / "converted")
    done = convert_adapter(file, tiny_base, "the/base", tmp_path / "converted", alpha=8)
    assert done.form == "ai-toolkit (magnitude)"
    converted = logits(tiny_base, tmp_path / "converted")
    torch.testing.assert_close(converted, logits(tiny_base, adapter), rtol=1e-5, atol=1e-5)


Q = "lycoris_model_layers_0_self_attn_q_proj"
DOWN = "lycoris_model_layers_0_mlp_down_proj"
FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "input axis": (
        lambda t: t.update({f"{DOWN}.dora_scale": torch.ones(1, 48)}),
        r"dora_scale of .*down_proj has shape \(1, 48\): one value for every input feature",
    ),
    "no axis": (
        lambda t: t.update({f"{Q}.dora_scale": torch.ones(32)}),
        r"has shape \(32,\), which does not say whether it is for output or input features",
    ),
    "Tucker": (
        lambda t: t.update({f"{Q}.lora_mid.weight": torch.ones(4, 4)}),
        r"holds .*lora_mid.weight, which belongs to no form of LoRA or DoRA that can be converted",
    ),
    "unknown module": (
        lambda t: t.update({"lycoris_model_layers_7_x.alpha": torch.tensor(1.0)}),
        "adapts lycoris_model_layers_7_x, and the base has no matrix of that name",
    ),
    "no alpha": (
        lambda t: t.pop(f"{Q}.alpha"),
        r"does not say the alpha of model.layers.0.self_attn.q_proj",
    ),
    "bad alpha": (
        lambda t: t.update({f"{Q}.alpha": torch.tensor(-1.0)}),
        r"alpha of model.layers.0.self_attn.q_proj is -1.0; expected one positive number",
    ),
    "no B": (
        lambda t: t.pop(f"{Q}.lora_up.weight"),
        "holds no B of model.layers.0.self_attn.q_proj",
    ),
    "some magnitudes": (
        lambda t: t.pop(f"{Q}.dora_scale"),
        "holds magnitudes for 13 of 14 layers, and none for model.layers.0.self_attn.q_proj",
    ),
    "shape": (
        lambda t: t.update({f"{Q}.lora_up.weight": torch.ones(31, 4)}),
        r"fit a weight of shape \(31, 32\); the base's has \(32, 32\)",
    ),
    "length": (
        lambda t: t.update({f"{Q}.dora_scale": torch.ones(31, 1)}),
        "has 31 values; the base's weight has 32 output features",
    ),
    "convolution": (
        lambda t: t.update({f"{Q}.lora_down.weight": torch.ones(4, 32, 1, 1)}),
        r"have shapes \(4, 32, 1, 1\) and \(32, 4\)",
    ),
    "twice": (
        lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 32)}),
        "holds A of .* twice",
    ),
    "another base": (
        lambda t: t.update({k: v.roll(5) for k, v in t.items() if k.endswith("dora_scale")}),
        "does not belong to this base: its magnitudes do not belong to the weights of the/base",
    ),
    "nothing": (lambda t: t.clear(), "holds nothing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_clear_is_refused(
    adapter: Path, tiny_base: Path, tmp_path: Path, fault: str
) -> None:
    change, message = FAULTS[fault]
    tensors = as_lycoris(load_file(adapter / "adapter_model.safetensors"))
    change(tensors)
    file = tmp_path / "lora.safetensors"
    save_file({k: t.contiguous() for k, t in tensors.items()}, file)
    with pytest.raises(AdapterError, match=message):
        convert_adapter(file, tiny_base, "the/base", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_places_that_cannot_be_read_or_written(
    adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=r"exists already. Name a folder that does not"):
        convert_adapter(adapter, tiny_base, "the/base", adapter)
    (tmp_path / "lora.pt").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"lora.pt is no .safetensors file. Pickle files can"):
        convert_adapter(tmp_path / "lora.pt", tiny_base, "the/base", tmp_path / "new")
    with pytest.raises(AdapterError, match=r"holds 0 .safetensors files; expected one"):
        convert_adapter(tmp_path / "none", tiny_base, "the/base", tmp_path / "new")
    edit_config(adapter, use_dora=False)
    with pytest.raises(AdapterError, match="says use_dora False, and 14 of 14 layers have a mag"):
        convert_adapter(adapter, tiny_base, "the/base", tmp_path / "new")
    edit_config(adapter, use_dora=True, r=5)
    with pytest.raises(AdapterError, match=r"has rank 4, but adapter_config.json says 5"):
        convert_adapter(adapter, tiny_base, "the/base", tmp_path / "new")


def test_a_name_that_two_modules_have(tmp_path: Path) -> None:
    save_file(
        {"a.b_c.weight": torch.ones(2, 2), "a_b.c.weight": torch.ones(2, 2)},
        tmp_path / "model.safetensors",
    )
    save_file({"lora_a_b_c.alpha": torch.tensor(1.0)}, tmp_path / "lora.safetensors")
    with pytest.raises(AdapterError, match=r"adapts lora_a_b_c, which may be a.b_c or a_b.c"):
        convert_adapter(tmp_path / "lora.safetensors", tmp_path, "the/base", tmp_path / "new")


def test_the_input_axis_is_another_model(tiny_base: Path) -> None:
    """Why it is refused: no magnitude per output feature gives the weight that LyCORIS would."""
    weight = load_base(tiny_base).model.layers[0].mlp.down_proj.weight.double()
    delta = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    V = weight + delta
    scale = weight.norm(dim=0, keepdim=True) / V.norm(dim=0, keepdim=True)
    wanted = V * scale
    best = (wanted * V).sum(1, keepdim=True) / (V * V).sum(1, keepdim=True) * V
    assert isinstance(best, torch.Tensor)
    assert ((best - wanted).norm() / wanted.norm()).item() > 0.01
    assert nn.functional.cosine_similarity(best, wanted).min() < 0.9999
