from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from peft import PeftModel

from doratune import load_adapter
from doratune.adapter import store as store_module
from doratune.adapter.store import AdapterStore
from doratune.base import fingerprint, load_base
from doratune.errors import AdapterError
from doratune.record.evaluation import EvalFile, Interval, ModelFigures
from doratune.record.schemas import ORIGIN, AdapterOrigin
from tests.adapter.folders import edit_config, save_adapter, write_origin
from tests.tiny import save_tiny


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: Path) -> Path:
    folder = save_adapter(tmp_path / "adapter")
    write_origin(folder, tiny_base)
    return folder


@pytest.fixture
def second(tmp_path: Path, tiny_base: Path) -> Path:
    folder = save_adapter(tmp_path / "second", lora_alpha=9)
    write_origin(folder, tiny_base)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


def test_versions_are_whole_adapters(
    store: AdapterStore, adapter: Path, second: Path, tiny_base: Path
) -> None:
    (adapter / "training_args.bin").write_bytes(b"pickle")
    (adapter / "chat_template.jinja").write_text("x")
    assert store.add(adapter, "contracts", []).version == 1
    added = store.add(second, "contracts", ["contracts@1"])
    assert (added.version, added.method, added.base) == (2, "dora", "the/base")
    assert added.base_fingerprint == fingerprint(tiny_base)
    folder = store.folder("contracts", 2)
    assert AdapterOrigin.read(folder / ORIGIN).parents == ["contracts@1"]
    assert load_adapter(load_base(tiny_base), folder)
    assert PeftModel.from_pretrained(load_base(tiny_base), str(folder))
    files = {file.name for file in store.folder("contracts", 1).iterdir()}
    assert "chat_template.jinja" in files
    assert "training_args.bin" not in files
    assert [len(each.versions) for each in store.adapters()] == [2]


def test_the_figures_of_a_run_come_along(
    store: AdapterStore, adapter: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "eval").mkdir(parents=True)
    shutil.copytree(adapter, run / "adapter")
    value = Interval(value=0.75, low=0.7, high=0.8, n=100, method="Wilson")
    figures = ModelFigures(metrics={"accuracy": value}, seconds=1)
    EvalFile(
        task="clauses", kind="labels", primary="accuracy", split="test", num_examples=100,
        labels=["a", "b"], base=figures, tuned=figures, differences={},
    ).write(run / "eval" / "clauses.json")  # fmt: skip
    (run / "eval" / "clauses.answers.json").write_text("{}")  # how the answers were had: no figures
    assert store.add(run, "contracts", []).figures == {"clauses.accuracy": 0.75}
    origin = AdapterOrigin.read(store.folder("contracts", 1) / ORIGIN)
    assert origin.figures == {"clauses.accuracy": 0.75}


def test_attach_detach_rollback(
    store: AdapterStore, adapter: Path, second: Path, tiny_base: Path
) -> None:
    store.add(adapter, "contracts", [])
    store.add(second, "contracts", [])

    def attached() -> int | None:
        event = store.adapter("contracts").attached
        return event.version if event else None

    assert attached() is None
    assert store.attach("contracts", 1, tiny_base, "the/base").forced is None
    assert attached() == 1
    store.attach("contracts", None, tiny_base, "the/base")
    assert attached() == 2
    store.detach("contracts")
    assert attached() is None
    assert store.rollback("contracts").version == 2
    assert store.rollback("contracts").version == 1
    assert attached() == 1
    with pytest.raises(AdapterError, match="Nothing was attached of contracts before what is now"):
        store.rollback("contracts")
    store.attach("contracts", 2, tiny_base, "the/base")
    assert store.rollback("contracts").version == 1
    actions = [event.action for event in store.adapter("contracts").events]
    assert actions == ["attach", "attach", "detach", "rollback", "rollback", "attach", "rollback"]


def test_another_base_only_by_force(store: AdapterStore, adapter: Path, tmp_path: Path) -> None:
    store.add(adapter, "contracts", [])
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="was trained on the/base with fingerprint"):
        store.attach("contracts", 1, other, "other")
    assert store.adapter("contracts").events == []
    store.attach("contracts", 1, other, "other", force=True)
    event = store.adapter("contracts").attached
    assert event is not None
    assert event.base_fingerprint == fingerprint(other)
    assert event.forced is not None
    assert "was trained on the/base with fingerprint" in event.forced


def test_a_changed_version_is_not_attached(
    store: AdapterStore, adapter: Path, second: Path, tiny_base: Path
) -> None:
    """Not by force either: it is not what the record speaks of."""
    store.add(adapter, "contracts", [])
    store.add(second, "contracts", [])
    store.attach("contracts", 1, tiny_base, "the/base")
    store.attach("contracts", 2, tiny_base, "the/base")
    edit_config(store.folder("contracts", 1), lora_alpha=1)
    with pytest.raises(AdapterError, match="is not what was added to the store on"):
        store.rollback("contracts")
    with pytest.raises(AdapterError, match="is not what was added to the store on"):
        store.attach("contracts", 1, tiny_base, "the/base", force=True)


def test_what_cannot_be_added(store: AdapterStore, adapter: Path, tmp_path: Path) -> None:
    store.add(adapter, "contracts", [])
    with pytest.raises(AdapterError, match=r"is in .*adapters already, as contracts@1"):
        store.add(adapter, "contracts", [])
    with pytest.raises(AdapterError, match=r"cannot be called '../x'; expected letters"):
        store.add(adapter, "../x", [])
    with pytest.raises(AdapterError, match="holds no version 7 of contracts; it holds 1"):
        store.add(adapter, "other", ["contracts@7"])
    with pytest.raises(AdapterError, match=r"holds no adapter 'none'; it holds contracts"):
        store.attach("none", None, tmp_path, "x")
    with pytest.raises(AdapterError, match="'contracts@new' names no version"):
        store.parse("contracts@new")
    with pytest.raises(AdapterError, match="No version of contracts is attached"):
        store.detach("contracts")
    edit_config(adapter, use_dora=False)
    with pytest.raises(AdapterError, match="says use_dora false"):
        store.add(adapter, "other", [])
    assert [each.name for each in store.adapters()] == ["contracts"]


def test_nothing_is_left_of_an_interrupted_copy(
    store: AdapterStore, adapter: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(adapter, "contracts", [])
    copied: list[str] = []

    def cut_off(source: Path, target: Path) -> None:
        if len(copied) == 1:
            raise KeyboardInterrupt
        copied.append(source.name)
        target.write_bytes(source.read_bytes())

    with monkeypatch.context() as patched:
        patched.setattr(store_module.shutil, "copyfile", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.add(second, "contracts", [])
    assert sorted(file.name for file in (store.path / "contracts").iterdir()) == [
        ".lock", "v1", "versions.json",
    ]  # fmt: skip
    assert len(store.adapter("contracts").versions) == 1
    assert store.add(second, "contracts", []).version == 2
