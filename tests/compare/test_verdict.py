from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from doratune.compare.statistics import Outcomes, compare_pair, holm
from doratune.compare.verdict import conclude, judge_pairs
from doratune.record.comparison import Arm, ArmFigures, CompareFile, JobRecord, PairFigures
from doratune.record.evaluation import Interval

SPACE = "\N{NO-BREAK SPACE}"


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high, n=500, method="t")


def arm(name: Arm, **fields: Any) -> ArmFigures:
    settings: dict[str, Any] = {
        "r": None if name in ("base", "full") else 16,
        "num_trainable_parameters": 0 if name == "base" else 1000,
        "learning_rate": None if name == "base" else 2e-4,
        "num_seeds": 1 if name == "base" else 3,
        "value": interval(0.8, 0.7, 0.9),
        "per_seed": [0.8] * (1 if name == "base" else 3),
        "seconds": None if name == "base" else 100.0,
        "peak_memory_bytes": None if name == "base" else 2000,
    }
    return ArmFigures(arm=name, **{**settings, **fields})


def pair(name: Arm = "dora", **fields: Any) -> PairFigures:
    settings: dict[str, Any] = {
        "difference": interval(0.021, 0.004, 0.038),
        "p_value": 0.016,
        "adjusted_p_value": 0.032,
        "mcnemar_p_value": 0.02,
        "smallest_detectable": 0.024,
        "verdict": "better",
        "time_ratio": 1.03,
        "memory_ratio": 1.0,
    }
    return PairFigures(arm=name, reference="lora", **{**settings, **fields})


def job(name: str, **fields: Any) -> JobRecord:
    settings: dict[str, Any] = {
        "arm": "dora",
        "stage": "final",
        "rung": None,
        "learning_rate": 2e-4,
        "seed": 0,
        "num_steps": 10,
        "status": "done",
        "seconds": 1.0,
    }
    return JobRecord(name=name, **{**settings, **fields})


SWEEP = [
    job(f"{name}/{rate}", arm=name, stage="sweep", rung=0, learning_rate=rate)
    for name in ("lora", "dora")
    for rate in (6e-5, 2e-4, 6e-4)
]


def comparison(
    pairs: list[PairFigures], arms: list[ArmFigures] | None = None, **fields: Any
) -> CompareFile:
    settings: dict[str, Any] = {
        "task": "cuad",
        "primary": "accuracy",
        "split": "test",
        "num_examples": 500,
        "reference": "lora",
        "verdict": "",
        "jobs": SWEEP,
        "budget": "",
        "engine": "local",
        "seconds": 1.0,
    }
    arms = arms or [arm("base"), arm("lora"), arm("dora")]
    return CompareFile(pairs=pairs, arms=arms, **{**settings, **fields})


def test_better() -> None:
    verdict = conclude(comparison([pair()]))
    assert verdict.sentence == (
        "On cuad, DoRA is better than LoRA: +2.1 points (95 % interval +0.4 to +3.8, corrected "
        f"p{SPACE}={SPACE}0.032, 3 seeds each, n{SPACE}={SPACE}500), at 1.03 times the training time "
        "and 1.00 times the peak memory."
    )
    assert verdict.cautions == []


def test_worse_and_the_base_at_the_end() -> None:
    base = pair(
        "base",
        difference=interval(-0.3, -0.34, -0.26),
        adjusted_p_value=1e-9,
        verdict="worse",
        time_ratio=None,
        memory_ratio=None,
    )
    worse = pair(difference=interval(-0.03, -0.05, -0.01), verdict="worse", memory_ratio=None)
    assert conclude(comparison([base, worse])).sentence == (
        "On cuad, DoRA is worse than LoRA: −3.0 points (95 % interval −5.0 to −1.0, corrected "
        f"p{SPACE}={SPACE}0.032, 3 seeds each, n{SPACE}={SPACE}500), at 1.03 times the training time; "
        "the base model is worse than LoRA: −30.0 points (95 % interval −34.0 to −26.0, corrected "
        f"p{SPACE}<{SPACE}0.001, 3 seeds, n{SPACE}={SPACE}500)."
    )


def test_not_distinguishable_names_what_could_have_been_seen() -> None:
    same = pair(
        difference=interval(0.004, -0.011, 0.019),
        adjusted_p_value=0.61,
        verdict="not distinguishable",
        time_ratio=None,
        memory_ratio=None,
    )
    arms = [arm("lora"), arm("dora", num_seeds=2)]
    assert conclude(comparison([same], arms)).sentence == (
        "On cuad, DoRA is not distinguishable from LoRA: +0.4 points (95 % interval −1.1 to +1.9, "
        f"corrected p{SPACE}={SPACE}0.610, 2 and 3 seeds, n{SPACE}={SPACE}500), where a true "
        "difference of 2.4 points would be found four times in five, at a cost that was not measured."
    )


def test_one_seed_is_said_and_decides() -> None:
    once = pair(adjusted_p_value=1e-6, verdict="not distinguishable", smallest_detectable=None)
    arms = [arm("lora", num_seeds=1), arm("dora", num_seeds=1)]
    verdict = conclude(comparison([once], arms))
    assert verdict.sentence == (
        "On cuad, DoRA and LoRA cannot be told apart with one seed, which leaves the method's part "
        "unknown: +2.1 points (95 % interval +0.4 to +3.8, 1 seed each, "
        f"n{SPACE}={SPACE}500), over examples only, at 1.03 times the training time and 1.00 times the "
        "peak memory."
    )
    assert verdict.cautions == [
        "One seed only: LoRA, DoRA. How much another seed would change is unknown, so no difference "
        "counts as shown; the intervals are over examples only. Use three seeds or more."
    ]


def test_losses_are_in_their_own_unit() -> None:
    lower = pair(difference=interval(-0.012, -0.02, -0.004))
    sentence = conclude(comparison([lower], primary="label_nll")).sentence
    assert "−0.012 (95 % interval −0.020 to −0.004, " in sentence
    assert "points" not in sentence


def test_nothing_to_compare() -> None:
    assert conclude(comparison([], [arm("lora")])).sentence == (
        "On cuad, only LoRA was trained, so nothing can be compared."
    )


@pytest.mark.parametrize(("rate", "which"), [(6e-5, "lowest"), (6e-4, "highest")])
def test_a_learning_rate_at_the_edge_of_the_sweep(rate: float, which: str) -> None:
    arms = [arm("lora"), arm("dora", learning_rate=rate)]
    assert conclude(comparison([pair()], arms)).cautions == [
        f"DoRA did best at the {which} learning rate that was tried ({rate:g}); one beyond it may be "
        "better."
    ]


def test_a_learning_rate_that_differs_in_its_last_bit_is_the_one_that_was_tried() -> None:
    rates = [6e-5, 2e-4, 6e-4]
    for rate, cautioned in zip(rates, (True, False, True), strict=True):
        for near in (math.nextafter(rate, 0), math.nextafter(rate, 1)):
            arms = [arm("lora"), arm("dora", learning_rate=near)]
            assert bool(conclude(comparison([pair()], arms)).cautions) == cautioned


def test_a_learning_rate_that_was_not_tuned() -> None:
    assert conclude(comparison([pair()], jobs=SWEEP[:1])).cautions == [
        "LoRA had one learning rate only (0.0002).",
        "DoRA had one learning rate only (0.0002).",
    ]


def test_rslora_keeps_its_small_letters() -> None:
    arms = [arm("lora"), arm("rslora")]
    assert conclude(comparison([pair("rslora")], arms, jobs=[])).cautions[1] == (
        "rsLoRA had one learning rate only (0.0002)."
    )


def test_failed_runs_are_named() -> None:
    failed = [job(name, status="failed", error="x") for name in ("b", "c", "d", "e")]
    assert conclude(comparison([pair()], jobs=[*SWEEP, *failed])).cautions == [
        "4 of 10 runs failed (b, c, d and others); the figures are of the others."
    ]
    assert conclude(comparison([pair()], jobs=[*SWEEP, failed[0]])).cautions == [
        "1 of 7 runs failed (b); the figures are of the others."
    ]


def test_a_small_test_split() -> None:
    assert conclude(comparison([pair()], num_examples=99)).cautions == [
        f"The test split is small (n{SPACE}={SPACE}99), its intervals are rough."
    ]
    assert conclude(comparison([pair()], num_examples=100)).cautions == []


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1031, f"DoRA trains 3.1{SPACE}% more parameters than LoRA."),
        (600, f"DoRA trains 40.0{SPACE}% fewer parameters than LoRA."),
        (12345, "DoRA trains 12.35 times the parameters of LoRA."),
        (1009, None),
    ],
    ids=["more", "fewer", "times", "same"],
)
def test_arms_of_different_sizes(size: int, text: str | None) -> None:
    arms = [arm("base"), arm("lora"), arm("dora", num_trainable_parameters=size)]
    assert conclude(comparison([pair()], arms)).cautions == ([text] if text else [])


def shifted(effect: float, num_seeds: int = 3, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    return Outcomes((rng.random((num_seeds, 400)) < 0.6 + effect).astype(float))


def test_pairs_are_judged_after_correction() -> None:
    outcomes: dict[Arm, Outcomes] = {
        "base": Outcomes(shifted(-0.4, 1, 1).values, trained=False),
        "lora": shifted(0, seed=2),
        "dora": shifted(0.2, seed=3),
        "rslora": shifted(0, seed=4),
        "full": shifted(-0.2, seed=5),
    }
    figures = [
        arm("base"),
        arm("lora", seconds=50.0),
        arm("dora"),
        arm("rslora", peak_memory_bytes=None),
        arm("full"),
    ]
    pairs = judge_pairs(outcomes, figures, "lora", "accuracy")
    assert [(p.arm, p.verdict) for p in pairs] == [
        ("base", "worse"),
        ("dora", "better"),
        ("rslora", "not distinguishable"),
        ("full", "worse"),
    ]
    assert [p.adjusted_p_value for p in pairs] == holm([p.p_value for p in pairs])
    truth = compare_pair(outcomes["dora"], outcomes["lora"])
    assert pairs[1].difference == truth.difference
    assert pairs[1].mcnemar_p_value == truth.mcnemar_p_value
    assert pairs[1].smallest_detectable == truth.smallest_detectable
    assert [p.time_ratio for p in pairs] == [None, 2.0, 2.0, 2.0]
    assert [p.memory_ratio for p in pairs] == [None, 1.0, None, 1.0]


def test_correction_can_take_a_win_away() -> None:
    """One pair at p = 0.03 is a win alone, and none among three."""
    rng = np.random.default_rng(0)
    lora = Outcomes(rng.normal(size=(3, 300)))
    for _ in range(200):
        dora = Outcomes(rng.normal(0.1, 1, size=(3, 300)))
        if 0.02 < compare_pair(dora, lora).p_value < 0.04:
            break
    alone = judge_pairs(
        {"lora": lora, "dora": dora}, [arm("lora"), arm("dora")], "lora", "token_f1"
    )
    assert alone[0].verdict == "better"
    same = Outcomes(lora.values + rng.normal(size=(3, 300)))
    outcomes: dict[Arm, Outcomes] = {"lora": lora, "dora": dora, "rslora": same, "full": same}
    among = judge_pairs(outcomes, [arm(name) for name in outcomes], "lora", "token_f1")
    assert among[0].p_value == alone[0].p_value
    assert among[0].verdict == "not distinguishable"


def test_less_is_better_for_losses() -> None:
    rng = np.random.default_rng(0)
    outcomes: dict[Arm, Outcomes] = {
        "lora": Outcomes(rng.normal(1.0, 0.1, size=(3, 200))),
        "dora": Outcomes(rng.normal(0.5, 0.1, size=(3, 200))),
    }
    figures = [arm("lora"), arm("dora")]
    assert judge_pairs(outcomes, figures, "lora", "label_nll")[0].verdict == "better"
    assert judge_pairs(outcomes, figures, "lora", "token_f1")[0].verdict == "worse"


@pytest.mark.parametrize("single", ["dora", "lora"])
def test_no_win_with_one_seed(single: Arm) -> None:
    """Nor a defeat, however clear the difference of these two models is."""
    outcomes: dict[Arm, Outcomes] = {"lora": shifted(0), "dora": shifted(0.4, seed=1)}
    outcomes[single] = Outcomes(outcomes[single].values[:1])
    (found,) = judge_pairs(outcomes, [arm("lora"), arm("dora")], "lora", "accuracy")
    assert found.p_value < 1e-5
    assert found.verdict == "not distinguishable"
    assert found.smallest_detectable is None
