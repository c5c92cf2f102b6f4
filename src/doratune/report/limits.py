"""What the records do not say."""

from __future__ import annotations

from doratune.record.comparison import CompareFile
from doratune.report.records import Records
from doratune.report.text import count, equals, listed


def limits(records: Records) -> list[str]:
    """What this run does not show."""
    seed = records.record.seed if records.record else None
    sentences = [
        f"One seed{'' if seed is None else f' ({seed})'}. The intervals cover the choice of test "
        "examples, not the chance in training; another seed gives another model."
    ]
    compared = {arm.arm for arm in records.compare.arms} if records.compare else set()
    if records.method == "dora" and not compared >= {"lora", "dora"}:
        sentences.append(
            "No rank-matched LoRA was trained. Nothing here says that DoRA rather than LoRA made "
            "the difference; `doratune compare` does."
        )
    sentences += _abilities(records) + _sources(records)
    kinds = {evaluation.file.kind for evaluation in records.evaluations}
    if "labels" in kinds:
        sentences.append(
            "Labels were chosen by likelihood among the closed set. Freely generated answers may "
            "fall outside it."
        )
    if "generation" in kinds:
        sentences.append(
            "Exact match counts any other wording as wrong, and so says little about free text."
        )
    if records.judge:
        sentences.append(
            f"{records.judge.model} is a language model, not a person: it may prefer long or "
            "familiar answers in both orders."
        )
    if records.latency:
        sentences.append(
            f"Latency was measured on {records.latency.device}, one sequence at a time; a server "
            "that batches has other figures."
        )
    if records.verify:
        sentences.append(
            f"Merged and sidecar were compared at {count(records.verify.num_tokens)} positions of "
            f"{records.verify.num_prompts} prompts."
        )
    forms = records.exported.forms.values() if records.exported else ()
    if approximate := [form.form for form in forms if form.approximate]:
        sentences.append(
            f"The figures are the trained model's. What was exported as {listed(approximate)} is "
            "another model, as near as its own section says."
        )
    return sentences


def _abilities(records: Records) -> list[str]:
    file = records.benchmarks
    if file is None or not file.benchmarks:
        return [
            "General abilities, by MMLU for instance, were not measured. The model may have "
            "forgotten what the task does not ask for."
        ]
    subsets = [one.benchmark for one in file.benchmarks if one.num_questions < one.num_available]
    names = listed([one.benchmark for one in file.benchmarks])
    sentence = (
        f"Of other abilities, {names} alone was measured: multiple choice, in one prompt form."
    )
    if subsets:
        sentence += f" Of {listed(subsets)} only some questions were asked."
    return [sentence]


def _sources(records: Records) -> list[str]:
    made = [s.path for s in records.data.sources if s.kind == "builtin"] if records.data else []
    if made:
        return [
            f"The examples come from a generator ({', '.join(made)}). They show that the path "
            "works, not how the model does on texts of your own."
        ]
    if records.recipe and records.recipe.data.test_source is None:
        return [
            "Test and training examples come from the same source. Texts from elsewhere may be "
            "harder."
        ]
    return []


def comparison_limits(records: Records, file: CompareFile) -> list[str]:
    """What this comparison does not show, beside the cautions in its file."""
    sentences = [
        f"One base model and one task, with {equals('n', file.num_examples)} test examples. Another "
        "may order the arms otherwise."
    ]
    if any(pair.verdict == "not distinguishable" for pair in file.pairs):
        sentences.append(
            "“Not distinguishable” does not mean equal: a difference below the smallest "
            "detectable one may be there."
        )
    return sentences + _sources(records)
