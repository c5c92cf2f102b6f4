"""What llama.cpp itself says of the files. Skipped where it is not at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from doratune.base import load_base
from doratune.base.label_likelihood import label_logprobs
from doratune.data.questions import Questions
from doratune.errors import DependencyError, VerificationError
from doratune.ship.export import in_llama
from doratune.ship.export.gguf_file import Labels, write_gguf
from doratune.ship.export.in_llama import (
    VARIABLE,
    check_in_llama,
    greedy,
    interpreter,
    label_logprobs_in_llama,
    perplexity,
    reference_of,
    run_llama,
)
from tests.ship.adapters import edit_tensors
from tests.ship.export.models import FAMILIES, save_family
from tests.ship.export.tokenizers import BYTE_LEVEL, JUMBLED, TEXTS, byte_level
from tests.tiny import tiny_model

LABELS = Labels("tiny", None, "f" * 64, "a" * 64)


def prompts(length: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 258, (n,), generator=generator).tolist() for n in (length, 1, 7)]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path, llama: str) -> None:
    """Every family, with biases, rotary scaling and norms far from their defaults."""
    source = save_family(name, tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)
    asked = prompts(120)
    found = run_llama(llama, tmp_path / "m.gguf", asked, [], 8)
    model = load_base(source, "float32")
    for ids, logits in zip(asked, found.logits, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0]
        assert (logits - expected).abs().max() < 2e-4 * expected.abs().max()
    assert found.greedy == greedy(model, asked[0], 8)


@pytest.mark.parametrize("kind", [*BYTE_LEVEL, "sentencepiece"])
def test_texts_are_read_to_the_same_tokens(kind: str, tmp_path: Path, llama: str) -> None:
    name = "llama2" if kind == "sentencepiece" else "smollm"
    source = save_family(name, tmp_path / "source")
    if kind != "sentencepiece":
        byte_level(kind).save_pretrained(source)
    write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)
    texts = (
        [*TEXTS[:4], JUMBLED] if kind == "sentencepiece" else [*TEXTS, JUMBLED, "<tool> a<tool>b"]
    )
    found = run_llama(llama, tmp_path / "m.gguf", [[3, 4]], texts, 1)
    tokenizer = AutoTokenizer.from_pretrained(source)
    for text, ids in zip(texts, found.ids, strict=True):
        assert ids == tokenizer(text, add_special_tokens=False).input_ids, text


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_every_precision_passes_the_check(kind: str, tmp_path: Path, llama: str) -> None:
    source = save_family("smollm", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", kind, LABELS)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    check, tokens = check_in_llama(
        llama,
        tmp_path / "m.gguf",
        kind,
        reference_of(load_base(source, "float32"), ids),
        tokenizer,
        ids,  # type: ignore[arg-type]
    )
    assert check.num_tokens == sum(map(len, ids))
    assert check.perplexity == pytest.approx(check.reference_perplexity, rel=0.02)
    assert tokens.num_texts == len(TEXTS)
    assert tokens.greedy_equal or kind != "f32"


def test_labels_are_scored_as_in_transformers(tmp_path: Path, llama: str) -> None:
    """Long and short labels, one that begins like another, and a prompt that is asked twice."""
    source = save_family("smollm", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)
    labels = [[7], [9, 4, 5], [9, 4]]
    asked = [*prompts(), prompts()[-1]]
    questions = Questions(asked, ["a"] * 4, [labels[0]] * 4, ["a", "b", "c"], [labels] * 4)
    found = label_logprobs_in_llama(llama, tmp_path / "m.gguf", questions)
    model = load_base(source, "float32")
    expected = label_logprobs(model, asked, questions.label_ids, pad_id=0, batch_size=2)
    assert found == pytest.approx(expected, rel=1e-4)


def test_another_model_is_found(tmp_path: Path, llama: str) -> None:
    source = save_family("smollm", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", "q8_0", LABELS)
    name = "model.layers.1.mlp.down_proj.weight"
    edit_tensors(source / "model.safetensors", **{name: torch.zeros(64, 96)})
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    reference = reference_of(load_base(source, "float32"), ids)
    with pytest.raises(VerificationError, match=r"m\.gguf in llama\.cpp is not the merged model"):
        check_in_llama(llama, tmp_path / "m.gguf", "q8_0", reference, tokenizer, ids)


def test_a_wrong_pre_tokenizer_is_found(
    tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_family("smollm", tmp_path / "source")
    monkeypatch.setattr(
        "doratune.ship.export.gguf_tokenizer.pre_tokenizer", lambda state, folder: "llama-bpe"
    )
    write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    reference = reference_of(load_base(source, "float32"), ids)
    with pytest.raises(VerificationError, match=r"reads .* to other tokens from token \d+ on"):
        check_in_llama(llama, tmp_path / "m.gguf", "f32", reference, tokenizer, ids)


def test_relative_paths(tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process works in a folder of its own."""
    source = save_family("smollm", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", "q8_0", LABELS)
    monkeypatch.chdir(tmp_path)
    assert run_llama(llama, Path("m.gguf"), [[3, 4]], [], 2).logits[0].shape == (2, 448)


def test_a_file_that_llama_cannot_load(tmp_path: Path, llama: str) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(VerificationError, match=r"llama\.cpp could not run m\.gguf: .* said"):
        run_llama(llama, tmp_path / "m.gguf", [[1]], [], 1)


def test_the_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, sys.executable)
    assert interpreter() == sys.executable
    monkeypatch.chdir(Path(sys.executable).parent)
    monkeypatch.setenv(VARIABLE, Path(sys.executable).name)
    assert interpreter() == sys.executable
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(
        DependencyError, match=r"DORATUNE_LLAMA_PYTHON is '.*python', which is no file"
    ):
        interpreter()
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(in_llama.importlib.util, "find_spec", lambda _: None)
    assert interpreter() is None
    monkeypatch.setattr(in_llama.importlib.util, "find_spec", lambda _: object())
    assert interpreter() == sys.executable


def test_an_interpreter_without_the_package(tmp_path: Path) -> None:
    """The message ends with what Python said."""
    with pytest.raises(VerificationError, match=r"ended with code 1 and said .*No module named"):
        run_llama(sys.executable, tmp_path / "m.gguf", [[1]], [], 1)


def test_perplexity_and_greedy_text(tmp_path: Path) -> None:
    """Against transformers' own loss and generation."""
    model = tiny_model()
    ids = [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    losses = [
        model(torch.tensor([row]), labels=torch.tensor([row])).loss.double().item() for row in ids
    ]
    assert perplexity(model, ids) == pytest.approx(
        torch.tensor(losses).mean().exp().item(), rel=1e-5
    )
    generated = model.generate(
        torch.tensor([ids[0]]), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert greedy(model, ids[0], 12) == generated[0, 5:].tolist()
