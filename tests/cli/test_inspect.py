from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.adapter.folders import edit_config, edit_tensors, save_adapter, write_origin
from tests.cli.conftest import Place
from tests.experts import save_adapter as save_adapter_of_experts
from tests.experts import save_base
from tests.tiny import tiny_tokenizer


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: Path) -> Path:
    folder = save_adapter(tmp_path / "run" / "adapter", rank_pattern={"down_proj": 2})
    write_origin(folder, tiny_base, figures={"clauses.accuracy": 0.75}, parents=["older@1"])
    return folder


def test_a_sound_adapter(place: Place, adapter: Path, tiny_base: Path) -> None:
    shown = place("inspect", adapter.parent, "--base", tiny_base)
    assert shown.code == 0
    assert "DoRA, 14 layers, 3,840 parameters (0.0154 MB)" in shown.out
    assert "Base: the/base, fingerprint" in shown.out
    assert "made from older@1; clauses.accuracy 0.75" in shown.out
    assert "it was trained on exactly these weights (distance 0." in shown.out
    assert (
        "All layers: kind DoRA, dtype float32, magnitudes float32; below model.layers" in shown.out
    )
    assert "layer r scaling out x in m m / ‖W‖" in shown.out
    assert "0.mlp.down_proj 2 4 32 x 48" in shown.out
    assert "Problem" not in shown.out


@pytest.mark.parametrize("columns", [80, 120])
def test_rows_are_not_cut(
    place: Place, adapter: Path, tiny_base: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = place("inspect", adapter, "--base", tiny_base)
    assert "…" not in shown.out


def test_a_refused_adapter(place: Place, adapter: Path) -> None:
    edit_tensors(adapter, lambda t: [t.pop(key) for key in list(t) if "magnitude" in key])
    shown = place("inspect", adapter)
    assert shown.code == 6
    assert shown.out.count("Problem: layer") == 14
    assert "would be refused: 14 problems, as printed" in shown.err
    edit_config(adapter, use_dora=False)
    shown = place("inspect", adapter)
    assert shown.code == 6
    assert "has been changed or added since doratune.json was written" in shown.out


def test_many_problems_are_cut_short(place: Place, adapter: Path) -> None:
    edit_tensors(adapter, lambda t: [v.fill_(float("nan")) for v in t.values()])
    shown = place("inspect", adapter)
    assert shown.out.count("Problem: layer") == 20
    assert "... and 22 more; --json prints all." in shown.out


def test_json_has_everything(place: Place, adapter: Path, tiny_base: Path) -> None:
    facts = json.loads(place("inspect", adapter, "--base", tiny_base, "--json").out)
    assert len(facts["layers"]) == 14
    assert facts["belongs"] == "fingerprint"
    edit_config(adapter, r=0)
    shown = place("inspect", adapter, "--json")
    assert shown.code == 6
    assert "says r 0" in json.loads(shown.out)["problems"][0]


def test_no_adapter_at_all(place: Place, tmp_path: Path) -> None:
    shown = place("inspect", tmp_path / "none")
    assert shown.code == 6
    assert "no adapter Base: not named" in shown.out
    assert "is no adapter folder" in shown.out


def test_names_cannot_steer_the_terminal(place: Place, adapter: Path) -> None:
    edit_config(adapter, target_modules=["\x1b[31mred[/red]"])
    assert "\x1b" not in place("inspect", adapter).out


def test_experts(place: Place, tmp_path: Path) -> None:
    base = save_base("mixtral", tmp_path / "base")
    tiny_tokenizer().save_pretrained(base)
    adapter = save_adapter_of_experts(base, tmp_path / "adapter", ["experts.down_proj"])
    shown = place("inspect", adapter, "--base", base)
    assert shown.code == 0
    assert "kind LoRA, r 2, experts 3, scaling 1.5" in shown.out
    assert "0.mlp.experts.down_proj 16 x 24" in shown.out
    assert "Parameters are adapted (target_parameters): experts.down_proj." in shown.out
