from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer
from doratune.errors import AdapterError, StorageError
from doratune.evaluate import latency, latency_rounds
from doratune.evaluate.latency import measure_latency
from doratune.recipe.schema import Recipe
from doratune.record.latency import LatencyFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ORIGIN, AdapterOrigin
from tests.evaluate.small_run import conversations, small_recipe, small_run, texts, write_data
from tests.tiny import save_tiny


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path) -> RunFolder:
    run = small_run(tmp_path / "run", tiny_base)
    save_tiny(run.merged, seed=1)
    write_data(run, conversations(8))
    return run


def quick(base: Path, **settings: object) -> Recipe:
    return small_recipe(
        base, latency={"seconds": 0.01, "long_prompt": 90, "num_new_tokens": 2, **settings}
    )


def test_three_models_at_two_lengths(run: RunFolder, tiny_base: Path) -> None:
    assert measure_latency(run, quick(tiny_base))
    file = LatencyFile.read(run.latency)
    assert list(file.models) == ["base", "sidecar", "merged"]
    assert (file.skipped, file.prompts_of, file.num_decoded) == ({}, "test", 2)
    assert (file.dtype, file.num_threads) == ("float32", torch.get_num_threads())
    assert file.num_rounds == latency_rounds.MIN_ROUNDS
    assert file.device
    renderer = Renderer(load_tokenizer(tiny_base))
    median = int(np.median([len(renderer.prompt(e.prompt)) for e in conversations(8)]))
    size = sum(p.nbytes for p in load_base(tiny_base).parameters())
    assert [figures.num_bytes for figures in file.models.values()][::2] == [size, size]
    assert file.models["sidecar"].num_bytes > size
    for figures in file.models.values():
        assert [row.num_tokens for row in figures.prefill] == [median, 90]
        for row in figures.prefill:
            seconds = row.milliseconds.median / 1000
            assert row.tokens_per_second == pytest.approx(row.num_tokens / seconds)
        spread = figures.decode_milliseconds
        assert 0 < spread.p20 <= spread.median <= spread.p80
    assert not measure_latency(run, quick(tiny_base)), "up to date"


def test_models_take_turns_and_who_begins_changes(
    run: RunFolder, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    lengths: list[list[int]] = []
    real = latency_rounds.time_once

    def noted(
        model: torch.nn.Module, inputs: list[torch.Tensor], number: int
    ) -> latency_rounds.Times:
        kind = "sidecar" if hasattr(model, "peft_config") else "other"
        asked.append(kind)
        lengths.append([ids.shape[1] for ids in inputs])
        assert not model.training
        return real(model, inputs, number)

    monkeypatch.setattr(latency_rounds, "time_once", noted)
    monkeypatch.setattr(latency_rounds, "MIN_ROUNDS", 2)
    measure_latency(run, quick(tiny_base))
    places = [asked[start : start + 3].index("sidecar") for start in (0, 3, 6)]
    assert (len(asked), places) == (9, [1, 0, 2])
    assert len(set(map(tuple, lengths))) == 1


def test_what_is_measured_is_each_model(run: RunFolder, tiny_base: Path) -> None:
    """The sidecar shares the base's memory, and does not change the base."""
    models, skipped = latency._load(run, tiny_base, "float32")
    assert not skipped
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        logits = {name: model(ids).logits for name, model in models.items()}
        plain = load_base(tiny_base)(ids).logits
        assert torch.equal(logits["base"], plain)
        assert torch.equal(logits["merged"], load_base(run.merged)(ids).logits)
        assert not torch.allclose(logits["sidecar"], plain, atol=1e-2)
    at = {name: {p.data_ptr() for p in model.parameters()} for name, model in models.items()}
    assert at["base"] < at["sidecar"]
    assert not at["base"] & at["merged"]


def test_decoding_goes_on_from_the_shorter_prompt(tiny_base: Path) -> None:
    model, seen = load_base(tiny_base), []
    model.register_forward_pre_hook(
        lambda _, __, kw: seen.append((kw["input_ids"].shape[1], kw.get("past_key_values"))),
        with_kwargs=True,
    )
    inputs = [torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7, 8, 9]])]
    times = latency_rounds.time_once(model, inputs, 2)
    assert [number for number, _ in seen] == [5, 3, 1, 1]
    assert seen[-1][1].get_seq_length() == 3 + 2
    assert len(times.prefill) == 2


def test_a_merged_model_that_does_not_fit_is_left_out(
    run: RunFolder,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(latency, "_free_bytes", lambda _: 1000)
    measure_latency(run, quick(tiny_base))
    file = LatencyFile.read(run.latency)
    assert list(file.models) == ["base", "sidecar"]
    assert "beside the base, and 1,000 are free" in file.skipped["merged"]
    assert "Latency: merged is left out: it would take about" in capsys.readouterr().err


def test_full_fine_tuning_has_no_sidecar(run: RunFolder, tiny_base: Path) -> None:
    for path in run.adapter.iterdir():
        path.unlink()
    save_tiny(run.adapter, seed=1)
    measure_latency(run, quick(tiny_base))
    file = LatencyFile.read(run.latency)
    assert list(file.models) == ["base", "merged"]
    assert "has no adapter" in file.skipped["sidecar"]


@pytest.mark.parametrize(
    ("examples", "form", "split"),
    [(conversations(0), "chat", "train"), (texts(3), "text", "test")],
    ids=["no test split", "plain text"],
)
def test_other_data(examples: list, form: str, split: str, run: RunFolder, tiny_base: Path) -> None:  # type: ignore[type-arg]
    write_data(run, examples, form)
    measure_latency(run, quick(tiny_base))
    file = LatencyFile.read(run.latency)
    assert file.prompts_of == split
    assert file.models["base"].prefill[0].num_tokens > 5


def test_the_long_prompt_is_as_long_as_the_model_goes(run: RunFolder, tiny_base: Path) -> None:
    measure_latency(run, quick(tiny_base, long_prompt=9999))
    lengths = [row.num_tokens for row in LatencyFile.read(run.latency).models["base"].prefill]
    assert lengths[1] == 512 - 2
    measure_latency(run, quick(tiny_base, long_prompt=1))
    lengths = [row.num_tokens for row in LatencyFile.read(run.latency).models["base"].prefill]
    assert len(lengths) == 1, "the median is longer"


def test_rounds_end_with_the_time(run: RunFolder, tiny_base: Path) -> None:
    measure_latency(run, quick(tiny_base, seconds=60.0))
    file = LatencyFile.read(run.latency)
    assert file.num_rounds == latency_rounds.MAX_ROUNDS
    assert file.seconds < 30


def test_none_is_wanted(run: RunFolder, tiny_base: Path) -> None:
    assert not measure_latency(run, quick(tiny_base, seconds=0.0))
    assert not run.latency.exists()


def test_another_base(run: RunFolder, tmp_path: Path, tiny_base: Path) -> None:
    AdapterOrigin(
        method="dora",
        base_source="elsewhere",
        base_fingerprint="0" * 64,
        data_digest="",
        data_ordered_digest="",
        split_digests={},
        recipe_digest="",
        doratune="0",
    ).write(run.adapter / ORIGIN)
    with pytest.raises(AdapterError, match="was trained on elsewhere with fingerprint 0000"):
        measure_latency(run, quick(tiny_base))


@pytest.mark.parametrize(("folder", "stage"), [("adapter", "train"), ("merged", "merge")])
def test_stages_out_of_order(folder: str, stage: str, run: RunFolder, tiny_base: Path) -> None:
    (run.path / folder).rename(run.path / "elsewhere")
    with pytest.raises(StorageError, match=rf"{folder} does not exist\. Run `doratune {stage}`"):
        measure_latency(run, quick(tiny_base))
