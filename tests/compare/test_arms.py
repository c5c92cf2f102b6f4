from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError

from doratune.compare.arms import arm_recipe, learning_rates, rate_name
from doratune.errors import ModelError
from doratune.recipe import Recipe
from doratune.recipe.comparison import TrainedArm
from doratune.recipe.schema import AdapterSection
from doratune.train.build import lora_config
from tests.compare.comparisons import recipe
from tests.tiny import save_tiny, tiny_model


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("deep") / "base", num_hidden_layers=7)


def adapted(adapter: AdapterSection, layers: int = 7) -> PeftModel:
    return get_peft_model(tiny_model(num_hidden_layers=layers), lora_config(adapter))


def lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


@pytest.mark.parametrize("rslora", [False, True])
def test_the_budget_of_dora_is_met_by_pefts_own_count(
    tmp_path: Path, deep: Path, rslora: bool
) -> None:
    settings = recipe(tmp_path, deep, adapter={"r": 3, "lora_alpha": 7, "use_rslora": rslora})
    models = {
        arm: adapted(arm_recipe(settings, arm, deep).adapter) for arm in ("lora-budget", "dora")
    }
    counts = {arm: model.get_nb_trainable_parameters()[0] for arm, model in models.items()}
    layers = lora_layers(models["lora-budget"])
    one_rank = {name: m.in_features + m.out_features for name, m in layers.items()}
    assert abs(counts["lora-budget"] - counts["dora"]) <= max(one_rank.values()) / 2
    assert not any(m.use_dora["default"] for m in layers.values())
    assert {m.r["default"] for m in layers.values()} == {3, 4}
    scaling = 7 / 3**0.5 if rslora else 7 / 3
    assert [m.scaling["default"] for m in layers.values()] == pytest.approx([scaling] * len(layers))
    larger = [list(layers).index(name) for name, m in layers.items() if m.r["default"] == 4]
    halves = [sum(i < len(layers) / 2 for i in larger), sum(i >= len(layers) / 2 for i in larger)]
    assert abs(halves[0] - halves[1]) <= 2, "spread over the depth"


def test_the_budget_with_ranks_of_the_users_own(tmp_path: Path, deep: Path) -> None:
    own = {"rank_pattern": {"q_proj": 9}, "alpha_pattern": {"q_proj": 18.0}}
    settings = recipe(tmp_path, deep, adapter={"r": 3, "lora_alpha": 7, **own})
    models = {
        arm: adapted(arm_recipe(settings, arm, deep).adapter)
        for arm in ("lora", "lora-budget", "dora")
    }
    counts = {arm: model.get_nb_trainable_parameters()[0] for arm, model in models.items()}
    assert abs(counts["lora-budget"] - counts["dora"]) <= 40, "half of 32 + 48"
    before, after = lora_layers(models["lora"]), lora_layers(models["lora-budget"])
    for name, module in after.items():
        assert module.r["default"] - before[name].r["default"] in (0, 1)
        assert module.scaling["default"] == pytest.approx(before[name].scaling["default"])


@pytest.mark.parametrize("rslora", [False, True])
def test_half_the_rank_keeps_the_scaling(tmp_path: Path, tiny_base: Path, rslora: bool) -> None:
    settings = recipe(tmp_path, tiny_base, adapter={"r": 8, "use_rslora": rslora})
    half = adapted(arm_recipe(settings, "dora-half-rank", tiny_base).adapter, 2)
    whole = adapted(arm_recipe(settings, "dora", tiny_base).adapter, 2)
    for name, module in lora_layers(half).items():
        assert module.r["default"] == 4
        assert module.use_dora["default"]
        assert module.scaling == pytest.approx(lora_layers(whole)[name].scaling)


def test_what_the_other_arms_change(tmp_path: Path, tiny_base: Path) -> None:
    settings = recipe(
        tmp_path,
        tiny_base,
        data={"gates": {"review": {"action": "fail"}}},
        eval={"every_epoch": True, "benchmarks": {"tasks": ["mmlu"]}},
    )
    expected: dict[TrainedArm, tuple[str, bool, str | None]] = {
        "lora": ("lora", False, None),
        "dora": ("dora", False, None),
        "rslora": ("lora", True, None),
        "qlora": ("lora", False, "nf4"),
        "qdora": ("dora", False, "nf4"),
        "full": ("full", False, None),
    }
    for arm, (method, rslora, quantize) in expected.items():
        own = arm_recipe(settings, arm, tiny_base)
        assert (own.adapter.method, own.adapter.use_rslora) == (method, rslora)
        assert own.model.quantize == quantize
        assert own.train == settings.train
        changed = {"method", "use_rslora"}
        assert own.adapter.model_dump(exclude=changed) == settings.adapter.model_dump(
            exclude=changed
        )
        assert not own.eval.every_epoch
        assert not own.eval.benchmarks.tasks
        assert own.data.gates.review.action == "off"


def test_a_target_that_matches_nothing_is_named(tmp_path: Path, tiny_base: Path) -> None:
    settings = recipe(tmp_path, tiny_base, adapter={"target_modules": ["q_poj"]})
    with pytest.raises(ModelError, match="'q_poj' matches no linear layer"):
        arm_recipe(settings, "lora-budget", tiny_base)


def test_learning_rates_of_the_arms(tmp_path: Path, tiny_base: Path) -> None:
    settings = recipe(tmp_path, tiny_base, compare={"learning_rates": [3e-4, 1.25e-4, 3e-4]})
    assert learning_rates(settings, "dora") == [1.25e-4, 3e-4]
    assert learning_rates(settings, "full") == [1.25e-5, 3e-5]
    around = recipe(
        tmp_path, tiny_base, train={"learning_rate": 2e-4}, compare={"learning_rates": None}
    )
    assert learning_rates(around, "lora") == [6.7e-5, 2e-4, 6e-4]


def test_names_of_learning_rates_are_short_and_exact() -> None:
    assert rate_name(5e-4) == "lr-5e-04"
    assert rate_name(1.25e-4) == "lr-1.25e-04"
    assert rate_name(2.0) == "lr-2e00"
    for rate in (1e-5, 1.0000001e-5, 6.7e-5):
        assert float(rate_name(rate).removeprefix("lr-")) == rate


def test_arms_that_would_be_one_are_refused(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ValidationError, match="use_rslora makes every arm that"):
        recipe(
            tmp_path,
            tiny_base,
            adapter={"use_rslora": True},
            compare={"arms": ["lora", "rslora"]},
        )
    with pytest.raises(ValidationError, match=r"has qdora, qlora, and model.quantize is 'nf4'"):
        recipe(
            tmp_path,
            tiny_base,
            model={"source": "x", "quantize": "nf4"},
            compare={"arms": ["lora", "qlora", "qdora"]},
        )
    with pytest.raises(
        ValidationError, match=r"halves adapter\.r and knows nothing of rank_pattern"
    ):
        recipe(
            tmp_path,
            tiny_base,
            adapter={"rank_pattern": {"q_proj": 2}},
            compare={"arms": ["lora", "dora-half-rank"]},
        )


def test_patterns_of_the_recipe_are_pefts(tmp_path: Path, tiny_base: Path) -> None:
    own = {"rank_pattern": {"q_proj": 9}, "alpha_pattern": {"down_proj": 18.0}}
    settings = recipe(tmp_path, tiny_base, adapter=own)
    theirs = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **own
    )
    expected = get_peft_model(tiny_model(), theirs)
    with torch.no_grad():
        found = adapted(settings.adapter, 2)
    shapes = {n: p.shape for n, p in found.named_parameters() if "magnitude" not in n}
    assert shapes == {n: p.shape for n, p in expected.named_parameters()}


def test_an_arm_neither_merges_nor_exports(tmp_path: Path, deep: Path) -> None:
    settings = recipe(
        tmp_path,
        deep,
        model={"source": str(deep), "quantize": "nf4"},
        merge={"onto": "original"},
        export={"forms": ["lora", "bundle"]},
    )
    for arm in ("lora", "full"):
        own = arm_recipe(settings, arm, deep)
        assert (own.merge.onto, own.export.forms) == (None, None)
        assert Recipe.model_validate(own.model_dump()) == own
