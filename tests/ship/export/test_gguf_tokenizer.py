from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from doratune.errors import ModelError
from doratune.ship.export.gguf_tokenizer import PRE_TOKENIZERS, add_tokenizer, pre_tokenizer
from tests.ship.export.tokenizers import BYTE_LEVEL, byte_level, sentencepiece, with_bos


def written(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, size: int = 440
) -> dict[str, object]:
    """The keys that a reader finds."""
    writer = GGUFWriter(tmp_path / "t.gguf", "llama")
    add_tokenizer(writer, tokenizer, tmp_path, size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    fields = GGUFReader(tmp_path / "t.gguf").fields
    return {
        name.removeprefix("tokenizer.ggml."): field.contents() for name, field in fields.items()
    }


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_each_way_of_splitting_has_llama_cpps_name(kind: str, tmp_path: Path) -> None:
    keys = written(byte_level(kind), tmp_path)
    assert (keys["model"], keys["pre"]) == ("gpt2", kind)


def test_every_name_of_the_table_is_tested() -> None:
    assert set(BYTE_LEVEL) == set(PRE_TOKENIZERS.values())


def test_vocabulary_kinds_and_special_tokens(tmp_path: Path) -> None:
    tokenizer = byte_level("smollm")
    keys = written(tokenizer, tmp_path, size=440)
    tokens, kinds = keys["tokens"], keys["token_type"]
    assert isinstance(tokens, list)
    assert isinstance(kinds, list)
    vocabulary = tokenizer.get_vocab()
    assert len(tokens) == len(kinds) == 440
    assert all(tokens[number] == token for token, number in vocabulary.items())
    assert tokens[439] == "[PAD439]"
    assert kinds[439] == 5  # unused
    assert kinds[0] == kinds[1] == 3  # control
    assert kinds[vocabulary["<tool>"]] == 4  # user-defined
    assert kinds[2] == 1
    assert keys["eos_token_id"] == keys["padding_token_id"] == 1
    assert "bos_token_id" not in keys
    assert keys["add_bos_token"] is False
    assert keys["tokenizer.chat_template"] == tokenizer.chat_template
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert keys["merges"] == [" ".join(pair) for pair in merges]


def test_what_begins_every_text(tmp_path: Path) -> None:
    keys = written(with_bos(byte_level("llama-bpe")), tmp_path)
    assert keys["add_bos_token"] is True
    assert keys["add_eos_token"] is False
    assert keys["bos_token_id"] == 0


def test_a_second_end_of_turn(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    keys = written(byte_level("llama-bpe"), tmp_path)
    assert (keys["eos_token_id"], keys["eot_token_id"]) == (1, 7)


def test_sentencepiece_has_scores_in_the_order_of_merges(tmp_path: Path) -> None:
    tokenizer = sentencepiece()
    keys = written(tokenizer, tmp_path, size=600)
    assert (keys["model"], keys["add_space_prefix"]) == ("llama", True)
    assert "merges" not in keys
    tokens, scores, kinds = keys["tokens"], keys["scores"], keys["token_type"]
    assert isinstance(tokens, list)
    assert isinstance(scores, list)
    assert isinstance(kinds, list)
    assert kinds[:4] == [2, 3, 3, 6]  # unknown, control, control, byte
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    made = list(dict.fromkeys(first + second for first, second in merges))
    ranked = [scores[tokens.index(token)] for token in made]
    assert ranked == sorted(
        set(ranked), reverse=True
    )  # the first merge has the highest, none twice
    assert keys["bos_token_id"] == 1
    assert keys["add_bos_token"] is True


def test_an_unknown_way_of_splitting_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level("smollm")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    with pytest.raises(
        ModelError,
        match=r'splits text by \{"type": "Sequence".*"Punctuation".*with ignore_merges False; '
        r"llama\.cpp's name for it is not known here\. Known are those of gpt-2, smollm, llama-bpe",
    ):
        written(tokenizer, tmp_path)


def test_a_changed_pattern_or_rule_is_another_one(tmp_path: Path) -> None:
    """Fewer digits a token, or merges before whole words: other tokens, so no known name."""
    state = json.loads(byte_level("qwen2").backend_tokenizer.to_str())
    assert pre_tokenizer(state, tmp_path) == "qwen2"
    state["model"]["ignore_merges"] = True
    with pytest.raises(ModelError, match="ignore_merges True"):
        pre_tokenizer(state, tmp_path)
    state["model"]["ignore_merges"] = False
    pattern = state["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = pattern["Regex"].replace(r"\p{N}|", r"\p{N}{1,2}|")
    with pytest.raises(ModelError, match=r"1,2"):
        pre_tokenizer(state, tmp_path)


def test_other_models_of_tokenizer_are_refused(tmp_path: Path) -> None:
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="a")
    with pytest.raises(ModelError, match="is of the type Unigram; GGUF files are written for byte"):
        written(tokenizer, tmp_path)


def test_byte_fallback_without_sentencepieces_spaces_is_refused(tmp_path: Path) -> None:
    tokenizer = sentencepiece()
    tokenizer.backend_tokenizer.normalizer = None
    with pytest.raises(ModelError, match="has byte fallback but does not write spaces as '▁'"):
        written(tokenizer, tmp_path, size=600)


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=re.escape("has the id 418, but the embedding has 400 rows")
    ):
        written(byte_level("smollm"), tmp_path, size=400)
