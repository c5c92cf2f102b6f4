from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.adapter.folders import save_adapter, write_origin
from tests.adapter.test_convert import as_lycoris
from tests.cli.conftest import Place
from tests.tiny import save_tiny


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: Path) -> Path:
    folder = save_adapter(tmp_path / "adapter")
    write_origin(folder, tiny_base, figures={"clauses.accuracy": 0.75})
    return folder


def test_from_added_to_rolled_back(
    place: Place, adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    assert "holds no adapters. Add one with" in place("adapter", "list").out
    shown = place("adapter", "add", adapter, "--name", "contracts")
    assert (shown.code, shown.out) == (0, "Added contracts@1 at adapters/contracts/v1")
    second = save_adapter(tmp_path / "second", lora_alpha=9)
    write_origin(second, tiny_base)
    place("adapter", "add", second, "--name", "contracts", "--parent", "contracts@1")
    shown = place("adapter", "attach", "contracts@1", "--base", tiny_base)
    assert shown.out == "Attached contracts@1: adapters/contracts/v1"
    place("adapter", "attach", "contracts", "--base", tiny_base)
    listed = place("adapter", "list").out
    assert "contracts@1 dora the/base clauses.accuracy 0.75" in listed
    assert "-> contracts@2 dora the/base" in listed
    assert "rollback contracts` brings it back" in place("adapter", "detach", "contracts").out
    assert place("adapter", "rollback", "contracts").out.startswith("Attached contracts@2")
    assert place("adapter", "rollback", "contracts").out.startswith("Attached contracts@1")
    shown = place("adapter", "rollback", "contracts")
    assert shown.code == 6
    assert "there is no way back" in shown.err


def test_another_base(place: Place, adapter: Path, tmp_path: Path) -> None:
    place("adapter", "add", adapter, "--name", "contracts")
    other = save_tiny(tmp_path / "other", seed=1)
    shown = place("adapter", "attach", "contracts", "--base", other)
    assert shown.code == 6
    assert "was trained on the/base with fingerprint" in shown.err
    shown = place("adapter", "attach", "contracts", "--base", other, "--force")
    assert shown.code == 0
    assert "Forced, and written into the record." in shown.out
    assert "forced contracts@1" in place("adapter", "list").out


def test_convert(place: Place, adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    tensors = as_lycoris(load_file(adapter / "adapter_model.safetensors"))
    file = tmp_path / "lora.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    shown = place("adapter", "convert", file, tmp_path / "new", "--base", tiny_base)
    assert shown.code == 0
    assert "Read LyCORIS or kohya (dora_scale): 14 DoRA layers, r 4, alpha 8 (13 layers), 3 (1" in (
        shown.out
    )
    assert place("inspect", tmp_path / "new", "--base", tiny_base).code == 0
    shown = place("adapter", "convert", file, tmp_path / "new", "--base", tiny_base)
    assert shown.code == 6


def test_several_merged(place: Place, adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    second = save_adapter(tmp_path / "second", r=2)
    write_origin(second, tiny_base)
    into = tmp_path / "both"
    shown = place(
        "adapter",
        "merge",
        tiny_base,
        f"{adapter}=0.5",
        second,
        "--into",
        into,
        "--dtype",
        "float16",
    )
    assert shown.code == 0, shown.err
    assert "Merging 2 adapters with weights 0.5, 1 into" in shown.out
    assert "14 tensors changed" in shown.out
    assert {"merge.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in into.iterdir()}
    shown = place("adapter", "merge", tiny_base, adapter, second, "--into", into, "--in-turn")
    assert shown.code == 6
    assert "works on its own base only" in shown.err
    shown = place("adapter", "merge", tiny_base, f"{adapter}=much", "--into", into)
    assert (shown.code, "expected a number" in shown.err) == (2, True)
