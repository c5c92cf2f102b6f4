from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from doratune.base import fingerprint
from doratune.errors import ModelError
from tests.tiny import save_tiny, tiny_model

pytestmark = pytest.mark.usefixtures("cache")


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_value_by_hand(tmp_path: Path) -> None:
    tensors = {"b": torch.tensor(1.5), "a": torch.tensor([[1, 2]], dtype=torch.bfloat16)}
    expected = b'["a", "BF16", [1, 2]]' + bytes.fromhex("803f0040")
    expected += b'["b", "F32", []]' + bytes.fromhex("0000c03f")
    assert fingerprint(save(tmp_path / "m", tensors)) == hashlib.sha256(expected).hexdigest()


def test_sharding_does_not_matter(tiny_base: Path, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert fingerprint(tmp_path / "shards") == fingerprint(tiny_base)


def test_one_bit_matters(base_copy: Path) -> None:
    before = fingerprint(base_copy)
    file = base_copy / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert fingerprint(base_copy) != before


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "tensor"])
def test_name_dtype_and_shape_matter(base_copy: Path, tmp_path: Path, change: str) -> None:
    tensors = load_file(base_copy / "model.safetensors")
    weight = tensors.pop("model.norm.weight")
    changed = {
        "name": {"model.morn.weight": weight},
        "dtype": {"model.norm.weight": weight.view(torch.int32)},
        "shape": {"model.norm.weight": weight.view(1, -1)},
        "tensor": {},
    }[change]
    other = save(tmp_path / "other", {**tensors, **changed})
    assert fingerprint(other) != fingerprint(base_copy)


def test_config_and_tokenizer_do_not_matter(base_copy: Path, tiny_base: Path) -> None:
    (base_copy / "tokenizer.json").unlink()
    (base_copy / "config.json").write_text("{}")
    assert fingerprint(base_copy) == fingerprint(tiny_base)


def test_is_remembered(base_copy: Path, cache: Path) -> None:
    value = fingerprint(base_copy)
    notes = json.loads((cache / "fingerprints.json").read_text())
    assert list(notes.values()) == [value]
    (cache / "fingerprints.json").write_text(json.dumps(dict.fromkeys(notes, "remembered")))
    assert fingerprint(base_copy) == "remembered"
    os.utime(base_copy / "model.safetensors", ns=(1, 1))
    assert fingerprint(base_copy) == value


def test_a_file_of_this_moment_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    folder = save(tmp_path / "m", {"a": torch.zeros(3)})
    fingerprint(folder)
    assert not (cache / "fingerprints.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_cache_is_replaced(base_copy: Path, cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / "fingerprints.json").write_text(text)
    value = fingerprint(base_copy)
    assert value in (cache / "fingerprints.json").read_text()


def test_works_without_a_cache(base_copy: Path, cache: Path, tiny_base: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert fingerprint(base_copy) == fingerprint(tiny_base)


def test_concurrent_writers_lose_nothing(tmp_path: Path, cache: Path) -> None:
    folders = []
    for number in range(8):
        folders.append(save(tmp_path / f"m{number}", {"a": torch.full((3,), float(number))}))
        os.utime(folders[-1] / "model.safetensors", (1, 1))
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(fingerprint, folders))
    assert sorted(json.loads((cache / "fingerprints.json").read_text()).values()) == sorted(values)
    assert len(set(values)) == 8


def test_seed_and_dtype_give_other_models(tmp_path: Path) -> None:
    folders = [
        save_tiny(tmp_path / "a"),
        save_tiny(tmp_path / "b", seed=1),
        save_tiny(tmp_path / "c", dtype=torch.bfloat16),
    ]
    assert len({fingerprint(folder) for folder in folders}) == 3


def test_damaged_weights(base_copy: Path) -> None:
    (base_copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"model.safetensors is not a whole safetensors file"):
        fingerprint(base_copy)
