"""The bundle served on every kind of layer, against stock PEFT."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from doratune.base import load_base
from doratune.errors import AdapterError
from doratune.ship.export.bundle import write_bundle
from doratune.ship.verification import bundle_model
from doratune.ship.verification.bundle_model import load_bundle
from tests.adapter.models import tokens
from tests.ship.export.runs import recipe_for, subject_of, trained_run
from tests.ship.kinds import KINDS, save_kind


def bundle_of(base: Path, adapter: Path, folder: Path) -> Path:
    folder.mkdir()
    run = trained_run(folder / "run", adapter)
    write_bundle(subject_of(run, recipe_for(base)), folder)
    return folder


@pytest.mark.parametrize("name", [name for name in KINDS if name != "Conv1d"])
@torch.no_grad()
def test_logits_are_those_of_stock_peft(tmp_path: Path, name: str) -> None:
    base, adapter = save_kind(KINDS[name], tmp_path)
    given: dict[str, Any] = {"input_ids": tokens()}
    if name == "Conv2d":
        given["pixel_values"] = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on tied weights
        peft = PeftModel.from_pretrained(load_base(base, "float32"), str(adapter)).eval()
    expected = peft(**given).logits
    bundle = load_bundle(base, bundle_of(base, adapter, tmp_path / "bundle"))
    effect = (expected - load_base(base, "float32")(**given).logits).norm()
    assert (bundle(**given).logits - expected).norm() < 1e-4 * effect


def test_a_convolution_in_groups_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS["Conv2d"]
    base, adapter = save_kind(kind, tmp_path)
    folder = bundle_of(base, adapter, tmp_path / "bundle")

    def other(path: Path, *_: object) -> Any:
        model: Any = load_base(path, "float32")
        parent, _, last = kind.layer.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Conv2d(3, 16, 4, dilation=2))
        return model

    monkeypatch.setattr(bundle_model, "load_base", other)
    with pytest.raises(
        AdapterError, match=r"patch_embedding, a Conv2d, and dilated convolutions.*no"
    ):
        load_bundle(base, folder)
