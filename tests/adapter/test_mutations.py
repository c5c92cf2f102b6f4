from __future__ import annotations

import copy
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from doratune import load_adapter
from doratune.base import load_base
from doratune.errors import AdapterError
from tests.adapter.folders import save_adapter, write_origin
from tests.adapter.literal import literal_model
from tests.adapter.models import tokens, with_dora
from tests.adapter.mutations import CONFIG, MUTATIONS, WEIGHTS, Seeds, mutate
from tests.tiny import tiny_model

SAME = 1e-5
"""Relative distance of logits in float32 from those of the same weights in float64; measured 3.5e-7."""

PARTS = 8


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> nn.Module:
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    folder = tmp_path_factory.mktemp("seeds")
    other = with_dora(tiny_model(), trained=True, lora_alpha=12)
    draw = torch.Generator().manual_seed(9)
    for name, parameter in other.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    other.save_pretrained(folder / "training")
    with_dora(tiny_model(seed=1), trained=True).save_pretrained(folder / "base")
    return Seeds(
        save_adapter(folder / "adapter"),
        folder / "training",
        folder / "base",
        save_adapter(folder / "lora", use_dora=False),
    )


@torch.no_grad()
def distance(model: nn.Module, expected: torch.Tensor) -> float:
    return ((model(tokens()).logits.double() - expected).norm() / expected.norm()).item()


def judge(folder: Path, name: str, base: nn.Module, whole: torch.Tensor, recorded: bool) -> str:
    """``refused``, ``same`` or ``as written``; anything else fails."""
    try:
        model = load_adapter(copy.deepcopy(base), folder)
    except AdapterError:
        return "refused"
    if distance(model, whole) < SAME:
        return "same"
    assert not recorded, f"{name}: another model than the record speaks of was accepted"
    assert not MUTATIONS[name].shows, f"{name} was accepted, and the model is another one"
    with torch.no_grad():
        literal = literal_model(folder, copy.deepcopy(base))(tokens()).logits
    assert distance(model, literal) < SAME, f"{name} was accepted, and not applied as written"
    return "as written"


def run(
    base: nn.Module, seeds: Seeds, tmp_path: Path, numbers: range, recorded: bool
) -> dict[str, Counter[str]]:
    with torch.no_grad():
        whole = literal_model(seeds.adapter, copy.deepcopy(base))(tokens()).logits
    if recorded:
        shutil.copytree(seeds.adapter, tmp_path / "seed")
        write_origin(tmp_path / "seed", Path(base.name_or_path))
        seeds = seeds._replace(adapter=tmp_path / "seed")
    outcomes: dict[str, Counter[str]] = {}
    for number in numbers:
        folder = tmp_path / str(number)
        name = mutate(folder, seeds, number)
        outcome = judge(folder, name, base, whole, recorded)
        outcomes.setdefault(name, Counter())[outcome] += 1
        shutil.rmtree(folder)
    return outcomes


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "made elsewhere"])
def test_every_kind_of_mutation(
    base: nn.Module, seeds: Seeds, tmp_path: Path, recorded: bool, part: int
) -> None:
    numbers = range(part, len(MUTATIONS), PARTS)
    outcomes = run(base, seeds, tmp_path, numbers, recorded)
    assert len(outcomes) == len(numbers)
    total = sum(outcomes.values(), Counter())
    assert total["refused"] > len(numbers) / 2
    assert outcomes.get("harmless", {}) in ({}, {"refused" if recorded else "same": 1})


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "made elsewhere"])
def test_two_thousand_mutations(
    base: nn.Module, seeds: Seeds, tmp_path: Path, recorded: bool
) -> None:
    outcomes = run(base, seeds, tmp_path, range(2000), recorded)
    for name, counts in sorted(outcomes.items()):
        print(f"{name:32} {dict(counts)}")
    total = sum(outcomes.values(), Counter())
    print(dict(total))
    assert sum(total.values()) == 2000
    assert total["as written"] == 0 or not recorded


def test_the_judge_sees_a_lost_magnitude(
    base: nn.Module, seeds: Seeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT's own loading in place of ours is found out."""
    from peft import PeftModel

    monkeypatch.setattr(
        "tests.adapter.test_mutations.load_adapter",
        lambda model, path: PeftModel.from_pretrained(model, str(path)).eval(),
    )
    number = sorted(MUTATIONS).index("no_dora")
    with pytest.raises(AssertionError, match="no_dora was accepted, and the model is another"):
        run(base, seeds, tmp_path, range(number, number + 1), recorded=False)


def test_the_seeds_differ(seeds: Seeds) -> None:
    contents = {folder: (folder / WEIGHTS).read_bytes() for folder in seeds}
    assert len(set(contents.values())) == 4
    assert (seeds.lora / CONFIG).read_text() != (seeds.adapter / CONFIG).read_text()
