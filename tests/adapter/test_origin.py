from __future__ import annotations

import json
from pathlib import Path

import pytest

from doratune import load_adapter
from doratune.adapter.origin import check_name, check_origin
from doratune.adapter.read import read_adapter
from doratune.adapter.tuned import check_base
from doratune.base import load_base
from doratune.errors import AdapterError
from doratune.record.schemas import ORIGIN
from tests.adapter.folders import Q, edit_config, edit_tensors, save_adapter, write_origin
from tests.tiny import save_tiny, tiny_model


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: Path) -> Path:
    folder = save_adapter(tmp_path / "adapter")
    write_origin(folder, tiny_base)
    return folder


def test_the_record_proves_base_and_files(adapter: Path, tiny_base: Path) -> None:
    assert check_origin(adapter, tiny_base)
    assert not check_origin(adapter, None)
    write_origin(adapter, tiny_base, files={})  # older than these digests
    assert check_origin(adapter, tiny_base)


def test_changed_files_are_refused(adapter: Path, tiny_base: Path) -> None:
    """Changes that no look at the numbers could show."""
    edit_tensors(adapter, lambda t: t[f"{Q}.lora_A.weight"].mul_(1.001))
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors has been changed or added"):
        load_adapter(load_base(tiny_base), adapter)
    write_origin(adapter, tiny_base)
    edit_config(adapter, lora_alpha=9)
    with pytest.raises(AdapterError, match=r"adapter_config.json has been changed or added since"):
        check_base(tiny_base, adapter)
    (adapter / ORIGIN).unlink()
    check_base(tiny_base, adapter)


def test_a_missing_file_of_a_full_fine_tuning(tmp_path: Path, tiny_base: Path) -> None:
    folder = save_tiny(tmp_path / "full", seed=3)
    write_origin(folder, tiny_base, method="full")
    assert check_origin(folder, tiny_base)
    (folder / "model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"model.safetensors is missing since doratune.json"):
        check_base(tiny_base, folder)


def test_a_broken_record_is_refused(adapter: Path, tiny_base: Path) -> None:
    record = json.loads((adapter / ORIGIN).read_text())
    (adapter / ORIGIN).write_text(json.dumps({**record, "extra": 1}))
    with pytest.raises(AdapterError, match=r"doratune.json is no record of an adapter: .*extra"):
        check_base(tiny_base, adapter)


def test_a_quantised_base_is_another_base(adapter: Path, tiny_base: Path) -> None:
    write_origin(adapter, tiny_base, quantize="nf4")
    with pytest.raises(
        AdapterError,
        match=r"trained over a base in 4 bits \(NF4\), and this one is in its own prec",
    ):
        load_adapter(load_base(tiny_base), adapter)
    assert load_adapter(load_base(tiny_base), adapter, any_base=True)
    write_origin(adapter, tiny_base)
    base = load_base(tiny_base)
    base.is_loaded_in_8bit = True
    with pytest.raises(AdapterError, match="in its own precision, and this one is in 8 bits"):
        load_adapter(base, adapter)


def test_without_record_the_magnitudes_tell(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    (adapter / ORIGIN).unlink()
    check_base(tiny_base, adapter)
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match=f"do not belong to the weights of {other}"):
        check_base(other, adapter)
    with pytest.raises(AdapterError, match=f"do not belong to the weights of {other}"):
        load_adapter(load_base(other), adapter)
    narrow = save_tiny(tmp_path / "narrow", intermediate_size=56)
    with pytest.raises(AdapterError, match=r"fits a weight of shape \(32, 48\), but this model's"):
        check_base(narrow, adapter)


@pytest.mark.parametrize(
    ("said", "given", "fits"),
    [
        ("org/model", "org/other", False),
        ("org/model", "Org/Model", True),
        ("org/model", "/cache/models--org--model/snapshots/0123/", True),
        ("org/model", "/cache/models--org--other/snapshots/0123/", False),
        ("org/model", "/somewhere/else/model", True),
        ("./base", "org/model", True),
        (None, "org/model", True),
        ("org/model", "", True),
    ],
)
def test_lora_is_told_apart_by_name_only(
    tmp_path: Path, said: str | None, given: str, fits: bool
) -> None:
    folder = save_adapter(tmp_path, use_dora=False)
    edit_config(folder, base_model_name_or_path=said)
    model = tiny_model()
    model.name_or_path = given
    if fits:
        load_adapter(model, folder)
        return
    with pytest.raises(AdapterError, match=r"is a LoRA adapter of org/model, and the base is org/"):
        load_adapter(model, folder)


def test_copies_of_a_model_have_many_names(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path)
    edit_config(folder, base_model_name_or_path="org/model")
    check_name(read_adapter(folder), "elsewhere/copy-of-model", folder)
