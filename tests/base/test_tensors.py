from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from doratune.base import num_bytes, tensor_files
from doratune.errors import ModelError
from tests.tiny import tiny_model


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    return tmp_path / "shards"


def edit_index(folder: Path, name: str, file: str) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][name] = file
    path.write_text(json.dumps(index))


def test_single_file(tiny_base: Path) -> None:
    places = tensor_files(tiny_base)
    expected = set(tiny_model().state_dict()) - {"lm_head.weight"}
    assert places == dict.fromkeys(expected, tiny_base / "model.safetensors")


def test_shards(shards: Path) -> None:
    places = tensor_files(shards)
    assert places.keys() == set(tiny_model().state_dict()) - {"lm_head.weight"}
    assert set(places.values()) == set(shards.glob("*.safetensors"))
    assert len(set(places.values())) > 1


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither model.safetensors nor model.safetensors.index"):
        tensor_files(tmp_path)


def test_missing_shard(shards: Path) -> None:
    file = max(shards.glob("*.safetensors"))
    file.unlink()
    message = f"index.json names {file.name!r}, which is not in the folder. Fetch it."
    with pytest.raises(ModelError, match=re.escape(message)):
        tensor_files(shards)


def test_index_of_another_model(shards: Path) -> None:
    file = max(shards.glob("*.safetensors")).name
    edit_index(shards, "model.no.weight", file)
    message = f"says that {file!r} holds 'model.no.weight', which it does not"
    with pytest.raises(ModelError, match=re.escape(message)):
        tensor_files(shards)


@pytest.mark.parametrize("text", ["{", "[]", '{"metadata": {}}'])
def test_damaged_index(shards: Path, text: str) -> None:
    (shards / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"index.json is no index of safetensors files \(.*Error"):
        tensor_files(shards)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_file(base_copy: Path, kept: int) -> None:
    file = base_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = f"{file} is not a whole safetensors file"
    with pytest.raises(ModelError, match=re.escape(message)):
        tensor_files(base_copy)


def test_size_in_another_precision(shards: Path) -> None:
    tied = {"lm_head.weight"}
    numbers = sum(t.numel() for name, t in tiny_model().state_dict().items() if name not in tied)
    files = tensor_files(shards)
    assert (num_bytes(files, 4), num_bytes(files, 2)) == (4 * numbers, 2 * numbers)
    save_file({"steps": torch.zeros(3, dtype=torch.int64)}, shards / "model.safetensors")
    assert num_bytes(tensor_files(shards), 2) == 3 * 8, "what is no floating-point number stays"
