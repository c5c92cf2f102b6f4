from __future__ import annotations

from pathlib import Path

import pytest
import torch

from doratune.adapter.describe import describe
from doratune.base import load_base
from tests.adapter.folders import Q, edit_config, edit_tensors, save_adapter, write_origin
from tests.adapter.models import with_dora
from tests.tiny import save_tiny, tiny_model


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", rank_pattern={"down_proj": 2})


def test_layer_by_layer(adapter: Path, tiny_base: Path) -> None:
    facts = describe(adapter, tiny_base)
    assert facts.problems == []
    assert (facts.method, len(facts.layers), facts.belongs) == ("dora", 14, "magnitudes")
    layers = {layer.layer: layer for layer in facts.layers}
    down = layers["model.layers.0.mlp.down_proj"]
    assert (down.r, down.scaling, down.out_features, down.in_features) == (2, 4.0, 32, 48)
    assert (down.dtype, down.magnitude_dtype) == ("float32", "float32")
    q = layers["model.layers.0.self_attn.q_proj"]
    weight = load_base(tiny_base).model.layers[0].self_attn.q_proj.weight.detach()
    m = with_dora(tiny_model(), trained=True).state_dict()[
        f"{Q}.lora_magnitude_vector.default.weight"
    ]
    assert q.magnitude_min == pytest.approx(m.min().item())
    assert q.ratio_max == pytest.approx((m / weight.norm(dim=1)).max().item(), rel=1e-5)
    assert facts.num_bytes == 4 * facts.num_parameters
    assert any(note.startswith("Made elsewhere") for note in facts.notes)


def test_without_a_base(adapter: Path) -> None:
    facts = describe(adapter)
    assert facts.problems == []
    assert facts.belongs is None
    assert facts.layers[0].ratio_min is None


def test_with_its_record(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    write_origin(adapter, tiny_base)
    facts = describe(adapter, tiny_base)
    assert (facts.belongs, facts.base, facts.problems) == ("fingerprint", "the/base", [])
    other = save_tiny(tmp_path / "other", seed=1)
    assert "with fingerprint" in describe(adapter, other).problems[0]


def test_every_problem_is_listed(adapter: Path, tiny_base: Path) -> None:
    edit_tensors(adapter, lambda t: [t.pop(k) for k in list(t) if "magnitude" in k and "q_p" in k])
    edit_tensors(adapter, lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(32, 9)}))
    problems = describe(adapter, tiny_base).problems
    assert len(problems) == 2
    assert problems[0].startswith("layer model.layers.0.self_attn.q_proj: lora_A has shape")
    edit_config(adapter, r=0)
    assert "says r 0" in describe(adapter).problems[0]
    assert describe(adapter).layers[0].scaling is None


def test_problems_beside_the_base(adapter: Path, tmp_path: Path) -> None:
    narrow = save_tiny(tmp_path / "narrow", intermediate_size=56)
    assert "fits a weight of shape" in describe(adapter, narrow).problems[0]
    other = save_tiny(tmp_path / "other", seed=1)
    facts = describe(adapter, other)
    assert "do not belong to the weights of" in facts.problems[0]
    assert facts.distance is not None
    assert facts.distance > 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    facts = describe(tmp_path)
    assert facts.method is None
    assert "is no adapter folder" in facts.problems[0]


def test_a_full_fine_tuning(tmp_path: Path, tiny_base: Path) -> None:
    folder = save_tiny(tmp_path / "full", seed=3)
    write_origin(folder, tiny_base, method="full")
    facts = describe(folder, tiny_base)
    assert (facts.method, facts.problems) == ("full", [])
    assert "whole model of a full fine-tuning" in facts.notes[0]


def test_notes(tmp_path: Path, tiny_base: Path) -> None:
    with_dora(tiny_model(), trained=False).save_pretrained(tmp_path / "fresh")
    notes = " ".join(describe(tmp_path / "fresh", tiny_base).notes)
    assert "All magnitudes are the norms of the base" in notes
    assert "lora_B is zero in all layers" in notes
    folder = save_adapter(tmp_path / "half")
    edit_tensors(folder, lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    edit_tensors(folder, lambda t: t[f"{Q}.lora_magnitude_vector"][3:5].zero_())
    notes = " ".join(describe(folder).notes)
    assert "magnitudes of 14 layers are stored in bfloat16" in notes
    assert "2 magnitudes are zero" in notes
    write_origin(folder, tiny_base, files={})
    assert "holds no digests" in " ".join(describe(folder).notes)
