"""A plausible comparison: LoRA, DoRA and full fine-tuning over three seeds, one job failed."""

from __future__ import annotations

import math
import random
from pathlib import Path

from doratune.record.comparison import (
    Arm,
    ArmFigures,
    ChangeCorrelation,
    CompareFile,
    JobRecord,
    MatrixChange,
    PairFigures,
)
from doratune.record.evaluation import Interval
from doratune.record.files import write_jsonl
from doratune.record.run_folder import RunFolder
from tests.report import sample_run
from tests.report.sample_figures import interval

RATES: dict[Arm, list[float]] = {
    "lora": [6.7e-5, 2e-4, 6e-4],
    "dora": [6.7e-5, 2e-4, 6e-4],
    "full": [6.7e-6, 2e-5, 6e-5],
}
BEST: dict[Arm, float] = {"lora": 2e-4, "dora": 2e-4, "full": 6e-5}
ACCURACY: dict[Arm, float] = {"base": 0.24, "lora": 0.891, "dora": 0.914, "full": 0.936}
OVER = "t over 3 seeds and 120 examples (14.2 degrees of freedom)"
VERDICT = (
    "On test, DoRA is not distinguishable from LoRA: +2.3 points (95 % interval −0.9 to +5.5, "
    "corrected p = 0.154, 3 seeds each, n = 120), where a true difference of 4.7 points would be found "
    "four times in five, at 1.07 times the training time and 1.04 times the peak memory; full "
    "fine-tuning is better than LoRA: +4.5 points (95 % interval +1.1 to +7.9, corrected p = 0.024, 3 "
    "seeds each, n = 120), at 1.62 times the training time and 2.31 times the peak memory."
)


def write_comparison_run(path: Path, *, num_layers: int = 30) -> RunFolder:
    """A run folder with a comparison and the steps of its final trainings."""
    run = sample_run.write_run(path, num_layers=num_layers)
    file = compare_file(num_layers)
    file.write(run.compare)
    for job in file.jobs:
        if job.stage == "final" and job.status == "done":
            rows = [step.model_dump() for step in sample_run.steps(264, seed=job.seed)]
            write_jsonl(RunFolder(run.jobs / job.name).steps, rows)
    return run


def compare_file(num_layers: int = 30, **changes: object) -> CompareFile:
    fields: dict[str, object] = {
        "task": "test",
        "primary": "accuracy",
        "split": "test",
        "num_examples": 120,
        "reference": "lora",
        "arms": [
            arm("base", None, 0),
            arm("lora", 16, 4_884_480),
            arm("dora", 16, 5_048_064),
            arm("full", None, 134_515_008),
        ],
        "pairs": [
            pair("dora", 0.023, 0.032, 0.154, "not distinguishable", 1.07, 1.04),
            pair("full", 0.045, 0.034, 0.012, "better", 1.62, 2.31),
            pair("base", -0.651, 0.08, 1e-9, "worse", None, None),
        ],
        "verdict": VERDICT,
        "cautions": ["1 of 19 runs failed (dora/sweep-0/lr-6e-04); the figures are of the others."],
        "jobs": jobs(),
        "sweep": {
            name: {f"{rate:g}": 0.6 + 0.2 * i * (i - 1.3) for i, rate in enumerate(rates)}
            for name, rates in RATES.items()
        },
        "changes": changes_of(num_layers),
        "correlations": [
            correlation(name, kind, value)
            for name, value in (("lora", 0.83), ("dora", -0.31), ("full", -0.62))
            for kind in ("all", "q_proj", "up_proj")
        ],
        "budget": "9 sweep and 9 final trainings, 2,970 optimizer steps, about 41 min.",
        "engine": "local",
        "seconds": 2512.0,
    }
    return CompareFile.model_validate({**fields, **changes})


def arm(name: Arm, r: int | None, num_parameters: int) -> ArmFigures:
    value = ACCURACY[name]
    trained = name != "base"
    slower = {"base": 0.0, "lora": 1.0, "dora": 1.07, "full": 1.62}[name]
    return ArmFigures(
        arm=name,
        r=r,
        num_trainable_parameters=num_parameters,
        learning_rate=BEST[name] if trained else None,
        num_seeds=3 if trained else 1,
        value=interval(value, value - 0.05, value + 0.04, OVER),
        per_seed=[value - 0.012, value + 0.002, value + 0.01] if trained else [value],
        metrics={"macro_f1": value - 0.01, "ece": 0.04, "answer_nll": 0.08},
        seconds=180.0 * slower if trained else None,
        answer_seconds=41.0 if trained else 32.0,
        peak_memory_bytes=int(2e9 * (2.31 if name == "full" else 1.0)) if trained else None,
    )


def pair(
    name: Arm,
    value: float,
    half: float,
    p_value: float,
    verdict: str,
    time: float | None,
    memory: float | None,
) -> PairFigures:
    return PairFigures.model_validate(
        {
            "arm": name,
            "reference": "lora",
            "difference": interval(value, value - half, value + half, OVER),
            "p_value": p_value,
            "adjusted_p_value": min(1.0, 2 * p_value),
            "mcnemar_p_value": p_value / 2,
            "smallest_detectable": 0.047,
            "verdict": verdict,
            "time_ratio": time,
            "memory_ratio": memory,
        }
    )


def jobs() -> list[JobRecord]:
    found = []
    for name, rates in RATES.items():
        for rate in rates:
            fails = name == "dora" and rate == 6e-4
            found.append(
                JobRecord(
                    name=f"{name}/sweep-0/lr-{rate:.0e}",
                    arm=name,
                    stage="sweep",
                    rung=0,
                    learning_rate=rate,
                    seed=0,
                    num_steps=66,
                    status="failed" if fails else "done",
                    error="The loss is not finite after step 31." if fails else "",
                    validation_loss=None if fails else 0.4,
                    seconds=45.0,
                    peak_memory_bytes=2_000_000_000,
                )
            )
        found += [
            JobRecord(
                name=f"{name}/lr-{BEST[name]:.0e}/seed-{seed}",
                arm=name,
                stage="final",
                rung=None,
                learning_rate=BEST[name],
                seed=seed,
                num_steps=264,
                status="done",
                validation_loss=0.09,
                test_metric=ACCURACY[name],
                seconds=181.0,
                peak_memory_bytes=2_000_000_000,
            )
            for seed in range(3)
        ]
    return found


def changes_of(num_layers: int) -> list[MatrixChange]:
    """LoRA moves both together; DoRA and full fine-tuning do not."""
    rng = random.Random(6)
    found = []
    slopes: tuple[tuple[Arm, float], ...] = (("lora", 1.0), ("dora", -0.3), ("full", -0.6))
    for name, slope in slopes:
        for layer in range(num_layers):
            for module in ("q_proj", "v_proj", "up_proj"):
                place = rng.random()
                direction = 0.004 + 0.02 * place
                magnitude = 0.03 + 0.02 * slope * (place - 0.5) + rng.gauss(0, 0.004)
                found += [
                    MatrixChange(
                        arm=name,
                        layer=f"model.layers.{layer}.self_attn.{module}",
                        seed=seed,
                        magnitude_change=abs(magnitude * (1 + 0.02 * seed)),
                        direction_change=direction * math.exp(0.02 * seed),
                    )
                    for seed in range(3)
                ]
    return found


def correlation(name: str, kind: str, value: float) -> ChangeCorrelation:
    found = Interval(
        value=value, low=value - 0.11, high=value + 0.09, n=90, method="bootstrap over matrices"
    )
    return ChangeCorrelation.model_validate(
        {
            "arm": name,
            "kind": kind,
            "correlation": found,
            "slope": value,
            "num_matrices": 90 if kind == "all" else 30,
        }
    )
