"""Plausible records of other abilities, latency and completions."""

from __future__ import annotations

import random

from doratune.record.benchmarks import (
    BenchmarkFigures,
    BenchmarksFile,
    OutOfDomain,
    SubjectFigures,
)
from doratune.record.completions import BASE_ANSWER, REFERENCE, JudgeFile
from doratune.record.files import digest_json
from doratune.record.latency import LatencyFile, ModelLatency, PrefillFigures, Spread
from doratune.record.review import ReviewItem
from doratune.record.schemas import Message
from tests.report.sample_figures import interval

SUBJECTS = [
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
]


def benchmark(name: str = "mmlu", drop: float = 0.006, **changes: object) -> BenchmarkFigures:
    """A benchmark that lost ``drop``, with the subjects of MMLU."""
    rng = random.Random(5)
    subjects = []
    for subject in SUBJECTS if name == "mmlu" else ():
        base, lost = rng.uniform(0.2, 0.4), rng.gauss(drop, 0.04)
        subjects.append(
            SubjectFigures(
                subject=subject,
                num_questions=rng.randint(100, 900),
                base=base,
                tuned=base - lost,
                difference=interval(-lost, -lost - 0.05, -lost + 0.05),
            )
        )
    fields: dict[str, object] = {
        "benchmark": name,
        "version": "1.0 of lm-eval 0.4.12",
        "metric": "acc",
        "num_fewshot": 5,
        "num_questions": 14_042,
        "num_available": 14_042,
        "base": interval(0.284, 0.277, 0.292, "Wilson", 14_042),
        "tuned": interval(0.284 - drop, 0.277 - drop, 0.292 - drop, "Wilson", 14_042),
        "difference": interval(-drop, -drop - 0.006, -drop + 0.006, n=14_042),
        "p_value": 0.051,
        "smallest_detectable": 0.0086,
        "passed": drop <= 0.02,
        "subjects": subjects,
    }
    return BenchmarkFigures.model_validate({**fields, **changes})


def benchmarks_file(*benchmarks: BenchmarkFigures, **changes: object) -> BenchmarksFile:
    """MMLU in whole and a subset of ARC, both kept, and texts from elsewhere."""
    if not benchmarks:
        arc = benchmark("arc_easy", -0.01, num_fewshot=0, num_questions=400, num_available=2376)
        benchmarks = (benchmark(), arc)
    fields: dict[str, object] = {
        "max_drop_points": 2.0,
        "benchmarks": list(benchmarks),
        "out_of_domain": OutOfDomain(
            source="wikitext.jsonl",
            digest=digest_json("wikitext"),
            num_texts=200,
            num_tokens=51_200,
            base=interval(21.4, 20.1, 22.8, n=200),
            tuned=interval(22.1, 20.7, 23.6, n=200),
            ratio=interval(1.033, 1.021, 1.044, n=200),
        ),
        "passed": all(one.passed for one in benchmarks),
        "seconds": 812.0,
    }
    return BenchmarksFile.model_validate({**fields, **changes})


def latency_file(**changes: object) -> LatencyFile:
    def one(slower: float) -> ModelLatency:
        def spread(median: float) -> Spread:
            return Spread(median=median, p20=0.96 * median, p80=1.08 * median)

        return ModelLatency(
            num_bytes=269_060_552,
            prefill=[
                PrefillFigures(
                    num_tokens=n,
                    milliseconds=spread(0.41 * n * slower),
                    tokens_per_second=1000 / (0.41 * slower),
                )
                for n in (118, 512)
            ],
            decode_milliseconds=spread(31.2 * slower),
        )

    fields: dict[str, object] = {
        "device": "Intel(R) Xeon(R) Platinum 8481C",
        "num_threads": 2,
        "dtype": "bfloat16",
        "num_rounds": 12,
        "num_decoded": 16,
        "prompts_of": "test",
        "models": {"base": one(1.0), "sidecar": one(1.31), "merged": one(1.01)},
        "seconds": 34.0,
    }
    return LatencyFile.model_validate({**fields, **changes})


def completion_items(number: int = 30) -> list[ReviewItem]:
    return [
        ReviewItem(
            id=digest_json(i)[:16],
            split="test" if i < 20 else None,
            place=f"clauses:{i + 1}" if i < 20 else f"edge case {i - 19}",
            messages=[
                Message(role="user", content=f"Summarise clause {i}."),
                Message(role="assistant", content=f"Liability is capped ({i})."),
            ],
            beside={BASE_ANSWER: f"The clause, the clause ({i})", REFERENCE: f"A cap ({i})."},
        )
        for i in range(number)
    ]


def judge_file(**changes: object) -> JudgeFile:
    fields: dict[str, object] = {
        "url": "http://localhost:8000/v1",
        "model": "judge-8b",
        "criteria": "Which answer is more helpful, correct and to the point?",
        "num_pairs": 20,
        "num_identical": 1,
        "wins": interval(0.55, 0.342, 0.742, "Wilson", 20),
        "ties": interval(0.3, 0.145, 0.519, "Wilson", 20),
        "losses": interval(0.15, 0.052, 0.36, "Wilson", 20),
        "win_rate": interval(0.7, 0.55, 0.85, n=20),
        "p_value": 0.057,
        "flipped": interval(0.211, 0.085, 0.433, "Wilson", 19),
        "first_preferred": interval(0.581, 0.408, 0.736, "Wilson", 31),
        "num_unreadable": 0,
        "seconds": 41.0,
    }
    return JudgeFile.model_validate({**fields, **changes})
