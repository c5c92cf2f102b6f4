from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from doratune.errors import ModelError
from doratune.ship.merging import tensor_file
from doratune.ship.merging.tensor_file import (
    copy_bytes,
    plan_file,
    read_header,
    read_into,
    write_bytes,
    write_from,
)

TENSORS = {
    "wörter.weight": torch.randn(7, 3),
    "b": torch.randn(5).bfloat16(),
    "a": torch.randn(2, 3, 4).half(),
    "double": torch.randn(3).double(),
    "ids": torch.arange(9, dtype=torch.int32),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "packed": torch.arange(5, dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "theirs", metadata={"format": "pt"})
    return tmp_path / "theirs"


def test_a_file_written_in_pieces_is_the_librarys_own_byte_for_byte(
    file: Path, tmp_path: Path
) -> None:
    layout = plan_file(read_header(file))
    with (tmp_path / "ours").open("wb") as ours:
        write_bytes(ours.fileno(), 0, layout.header)
        for name in sorted(TENSORS):
            write_from(ours.fileno(), layout.tensors[name].start, TENSORS[name])
    assert (tmp_path / "ours").read_bytes() == file.read_bytes()
    assert layout.num_bytes == sum(tensor.nbytes for tensor in TENSORS.values())


def test_every_tensor_is_found_where_it_lies(file: Path) -> None:
    held = read_header(file)
    assert held.keys() == TENSORS.keys()
    descriptor = os.open(file, os.O_RDONLY)
    for name, tensor in TENSORS.items():
        found = torch.empty_like(tensor)
        read_into(descriptor, held[name].start, found, file)
        assert torch.equal(found, tensor), name
        assert held[name].shape == tuple(tensor.shape)
    os.close(descriptor)


@pytest.mark.parametrize("in_kernel", [True, False])
def test_bytes_are_copied_to_their_place(
    file: Path, tmp_path: Path, in_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "_PIECE_BYTES", 100)
    if not in_kernel:
        # What a kernel says that cannot copy between these file systems.
        monkeypatch.setattr(os, "copy_file_range", refuse)
    with file.open("rb") as source, (tmp_path / "copy").open("w+b") as target:
        target.write(b"x" * 700)
        target.flush()
        copy_bytes(source.fileno(), 8, target.fileno(), 3, 650)
    data = file.read_bytes()
    assert (tmp_path / "copy").read_bytes() == b"xxx" + data[8:658] + b"x" * 47


def refuse(*args: object) -> int:
    raise OSError(18, "Invalid cross-device link")


def test_a_file_that_ends_early_is_named(file: Path, tmp_path: Path) -> None:
    with file.open("rb") as source, pytest.raises(ModelError, match="theirs ends before its last"):
        read_into(source.fileno(), file.stat().st_size - 3, torch.empty(4), file)
    with (
        file.open("rb") as source,
        (tmp_path / "copy").open("wb") as target,
        pytest.raises(ModelError, match="file of the base ends before its last tensor"),
    ):
        copy_bytes(source.fileno(), file.stat().st_size - 3, target.fileno(), 0, 4)


def test_metadata_and_padding_are_as_transformers_expects(tmp_path: Path) -> None:
    layout = plan_file({"w": tensor_file.Stored("F32", (2,), 0, 8)})
    assert len(layout.header) % 8 == 0
    (tmp_path / "f").write_bytes(layout.header + torch.tensor([1.0, 2.0]).numpy().tobytes())
    assert load_file(tmp_path / "f")["w"].tolist() == [1, 2]
