"""`doratune verify` after a real, tiny run: the table, exported forms, and a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from doratune.base import load_base, load_tokenizer
from doratune.cli.verify import print_forms, print_served
from doratune.record.export import LogitCheck
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import VerifyFile
from doratune.record.verification import FormCheck, FormsFile, ServedAnswer, ServedFile
from doratune.ship.export.in_llama import VARIABLE
from tests.cli.conftest import Place
from tests.ship.verification.served_server import serving


@pytest.fixture
def trained(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv(VARIABLE, raising=False)
    for command in ("data", "train"):
        assert place(command, place.recipe).code == 0
    return place


def test_forms_after_the_merge(trained: Place) -> None:
    trained("merge", trained.recipe)
    first = trained("verify", trained.recipe)
    assert first.code == 0, first.err
    assert "verify done" in first.err
    assert "merged" in first.out
    assert "same" in first.out
    assert "forms" not in first.err
    trained("export", trained.recipe, "--to", "peft,bundle")
    second = trained("verify", trained.recipe)
    assert second.code == 0, second.err
    assert "verify is up to date; nothing to do forms done" not in second.err
    assert "export/peft" in second.out
    assert "export/bundle" in second.out
    third = trained("verify", trained.recipe)
    assert "forms are up to date; nothing to do" in third.err
    assert "export is up to date" in trained("export", trained.recipe, "--to", "peft,bundle").err


def test_forms_need_no_merge_and_a_wrong_one_has_its_own_code(trained: Place) -> None:
    assert trained("verify", trained.recipe).code == 2  # nothing to verify yet
    trained("export", trained.recipe, "--to", "bundle")
    (trained.run / "export" / "bundle" / "dora_scale.safetensors").unlink()
    result = trained("verify", trained.recipe)
    assert result.code == 4
    assert "not run" in result.out
    assert "another" in result.out
    assert "dora_scale.safetensors is not there" in result.err


def test_a_server_of_the_bare_base(trained: Place, tiny_base: Path) -> None:
    model, tokenizer = load_base(tiny_base, "float32"), load_tokenizer(tiny_base)
    with serving(model, tokenizer) as server:
        result = trained("verify", trained.recipe, "--served", server.url)
    assert result.code == 4
    assert "base's" in result.out
    assert ServedFile.read(trained.run / "served.json").verdict != "same"
    lone = trained("verify", trained.recipe, "--served-model", "x")
    assert (lone.code, "add --served URL" in lone.err) == (2, True)


FIGURES = {
    "num_tokens": 627, "max_abs_difference": 0.1, "mean_abs_difference": 0.01, "max_kl": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_room(tmp_path: Path, width: int) -> None:
    """No figure and no verdict is cut, whatever the layer is called."""
    run = RunFolder(tmp_path)
    layer = "model.layers.15.self_attn.k_proj"
    VerifyFile(
        passed=True, dtype="bfloat16", num_prompts=19, mean_kl=2.1e-4, top1_agreement=0.9968,
        thresholds={}, failures=[], outputs={layer: 1.7e-3}, **FIGURES,
    ).write(run.verify)  # fmt: skip
    logits = LogitCheck(
        what="PEFT", against="sidecar", mean_kl=1.3e-11, top1_agreement=1.0, **FIGURES
    )
    FormsFile(
        checks={
            "bundle": FormCheck(form="bundle", approximate=False, logits=logits, inputs="",
                                outputs={layer: 0.3}, failures=["x"]),
            "lora": FormCheck(form="lora", approximate=True, logits=logits, inputs=""),
            "smollm2-q8_0.gguf": FormCheck(form="gguf", approximate=False, inputs="", logits=logits),
        }
    ).write(run.forms)  # fmt: skip
    console = Console(width=width, record=True, file=(tmp_path / "out").open("w"))
    print_forms(run, console)
    text = console.export_text()
    for wanted in (
        "merged", "2.1e-04", "99.68 %", "15.self_attn.k_proj", "1.7e-03", "same", "another",
        "approximate", "gguf q8_0", "100.00 %",
    ):  # fmt: skip
        assert wanted in text, text
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize("width", [80, 120])
def test_answers_of_a_server(tmp_path: Path, width: int) -> None:
    run = RunFolder(tmp_path)
    answer = ServedAnswer(
        prompt="Which label fits this clause?\n" * 5, text="[uncapped]", expected="capped " * 20,
        base="", num_tokens=3, departs_at=0, margin=0.123, base_margin=None,
    )  # fmt: skip
    ServedFile(
        url="u", model="m", api="completions", dtype="float32", answers=[answer], thresholds={},
        verdict="other", sentence="m is another model.",
    ).write(run.served)  # fmt: skip
    console = Console(width=width, record=True, file=(tmp_path / "out").open("w"))
    print_served(run, console)
    text = console.export_text()
    assert "[uncapped]" in text
    assert "0.12" in text
    assert text.rstrip().endswith("m is another model.")
    assert max(map(len, text.splitlines())) <= width
