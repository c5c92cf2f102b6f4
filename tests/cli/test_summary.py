from __future__ import annotations

import io

import pytest
from rich.console import Console

from doratune.cli.summary import print_figures, print_latency
from doratune.evaluate.figures import make_figures
from doratune.record.evaluation import EvalFile, Model
from doratune.record.latency import LatencyFile, ModelLatency, PrefillFigures, Spread
from tests.evaluate.test_figures import LABELS, SETTINGS, asked, open_samples, two_models


def labels_file(validation: int = 200) -> EvalFile:
    samples, _, _ = two_models(validation=validation)
    return make_figures(asked(LABELS, 300, validation), samples, SETTINGS, seed=0)


def open_file() -> EvalFile:
    answers: dict[Model, list[str]] = {"base": ["a"] * 4, "tuned": ["b", "b", "c", "d"]}
    samples = open_samples(answers, ["b", "b", "b", "d"])
    samples = [
        s.model_copy(update={"answer_nll": 9.0}) if s.model == "base" else s for s in samples
    ]
    return make_figures(asked(None, 4), samples, SETTINGS, seed=0)


def printed(figures: EvalFile, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_figures(figures, console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", ["labels", "open"])
def test_one_line_a_metric_within_the_terminal(kind: str, width: int) -> None:
    figures = labels_file() if kind == "labels" else open_file()
    lines = printed(figures, width)
    assert max(map(len, lines)) <= width
    below = lines[next(n for n, line in enumerate(lines) if "───" in line) + 1 :]
    body = below[: [line.strip() for line in below].index("")]
    rows = [line for line in body if " to " in line]
    assert len(rows) == len(figures.differences)
    # Intervals of base and tuned only where there is room for them.
    assert {row.count(" to ") for row in rows} == {3 if width == 120 else 1}
    assert not any("…" in line for line in lines)


def test_what_is_said() -> None:
    figures = labels_file()
    text = " ".join(" ".join(printed(figures, 200)).split())
    base, tuned = (figures.figures(m).metrics["accuracy"] for m in ("base", "tuned"))
    assert "300 test examples, with 95 % intervals; lower is better for ↓" in text
    assert (
        f"Accuracy % {100 * base.value:.1f} ({100 * base.low:.1f} to {100 * base.high:.1f}) "
        f"{100 * tuned.value:.1f} ({100 * tuned.low:.1f} to {100 * tuned.high:.1f})"
    ) in text
    assert "Brier score ↓" in text
    points = 100 * figures.differences["accuracy"].value.value
    assert f"Difference on the same examples: {points:+.1f} points of accuracy (" in text
    calibration = figures.tuned.calibration
    assert calibration is not None
    assert (
        f"Tuned, at a temperature of {calibration.temperature:.2f} fitted on 200 validation examples: "
        f"calibration error {calibration.scaled['ece'].value:.3f} ("
    ) in text


def test_why_there_is_no_temperature() -> None:
    text = " ".join(printed(labels_file(validation=0), 120))
    assert "No temperature: there are no validation examples to fit it on" in text
    assert "temperature" not in " ".join(printed(open_file(), 120))


def test_latency_is_told_in_medians() -> None:
    spread = Spread(median=12.34, p20=1, p80=99)
    model = ModelLatency(
        num_bytes=1,
        prefill=[
            PrefillFigures(num_tokens=n, milliseconds=spread, tokens_per_second=1) for n in (7, 90)
        ],
        decode_milliseconds=spread,
    )
    console = Console(file=io.StringIO(), width=200)
    file = LatencyFile(
        device="x",
        num_threads=1,
        dtype="float32",
        num_rounds=3,
        num_decoded=2,
        prompts_of="test",
        models={"base": model, "merged": model},
        seconds=1,
    )
    print_latency(file, console)
    assert console.file.getvalue().splitlines() == [
        "Latency, ms to read 7 tokens: base 12, merged 12",
        "Latency, ms to read 90 tokens: base 12, merged 12",
        "Latency, ms a decoded token: base 12.3, merged 12.3",
    ]
