"""The command line as a user meets it: a whole run on a tiny model, and everything that can go wrong."""

from __future__ import annotations

import gzip
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from doratune.cli.main import app
from doratune.record.evaluation import EvalFile
from doratune.record.review import ReviewVerdict, data_review
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile, VerifyFile
from tests.adapter.models import tokens
from tests.cli.conftest import Place
from tests.tiny import save_tiny

COMMANDS = {
    "quickstart": {"--runs"},
    "init": {"--to"},
    "run": {"--runs"},
    "check": set(),
    "train": {"--runs"},
    "eval": {"--runs"},
    "compare": {"--engine", "--runs"},
    "benchmarks": {"--runs"},
    "completions": {"--runs"},
    "merge": {"--onto", "--runs"},
    "verify": {
        "--accuracy",
        "--served",
        "--served_model",
        "--served_dtype",
        "--served_key",
        "--runs",
    },
    "export": {"--to", "--accuracy", "--runs"},
    "latency": {"--runs"},
    "report": {"--runs"},
    "inspect": {"--base", "--json"},
    "data prepare": {"--runs"},
    "data show": {"--index", "--split", "--runs"},
    "review data": {"--reviewer", "--runs"},
    "review completions": {"--reviewer", "--runs"},
    "adapter add": {"--parent", "--store"},
    "adapter list": {"--store"},
    "adapter attach": {"--base", "--force", "--store"},
    "adapter detach": {"--store"},
    "adapter rollback": {"--store"},
    "adapter merge": {"--base", "--into", "--in_turn", "--dtype"},  # BASE is an argument here
    "adapter convert": {"--alpha", "--base"},
}
ARGUMENTS = {"recipe", "name", "adapter", "adapters", "source", "target"}


def test_the_surface() -> None:
    """A new command or option edits this file."""
    found = {}
    for group, commands in (
        ("", app.registered_commands),
        *((f"{g.name} ", g.typer_instance.registered_commands) for g in app.registered_groups),
    ):
        for command in commands:
            assert command.callback is not None
            parameters = command.callback.__annotations__.keys() - {"return"}
            name = group + (command.name or command.callback.__name__)
            found[name] = {f"--{p}" for p in parameters - ARGUMENTS}
    assert found == COMMANDS


def test_a_whole_run_and_then_nothing_to_do(place: Place) -> None:
    first = place("run", place.recipe)
    assert first.code == 0, first.err
    assert "Difference on the same examples" in first.out
    figures = EvalFile.read(place.run / "eval" / "test.json")
    assert figures.differences["accuracy"].value.n == figures.num_examples
    verify = VerifyFile.read(place.run / "verify.json")
    assert verify.passed
    stages = RecordFile.read(place.run / "record.json").stages
    assert list(stages) == [
        "data",
        "train",
        "answers",
        "eval",
        "completions",
        "merge",
        "verify",
        "latency",
        "report",
    ]
    assert "<script" not in (place.run / "report.html").read_text()

    merged = AutoModelForCausalLM.from_pretrained(place.run / "merged")
    assert merged(tokens()).logits.shape == (3, 17, 400)

    again = place("run", place.recipe)
    assert again.code == 0
    assert again.err.count("is up to date; nothing to do") == 8
    assert RecordFile.read(place.run / "record.json").stages == stages

    place.edit("num_prompts: 2", "num_prompts: 3")
    third = place("run", place.recipe)
    assert re.findall(r"(\w+) done", third.err) == ["verify", "report"]
    from_folder = place("eval", place.run)
    assert "eval is up to date" in from_folder.err


def test_check_writes_nothing_and_says_what_training_takes(place: Place) -> None:
    before = sorted(place.path.rglob("*"))
    checked = place("check", place.recipe)
    assert checked.code == 0, checked.err
    assert "6 optimizer steps over" in checked.err
    assert sorted(place.path.rglob("*")) == before


def test_init_lists_and_copies(place: Place) -> None:
    listed = place("init")
    for name in ("quickstart", "clauses", "commonsense", "alpaca", "chat"):
        assert name in listed.out
    assert place("init", "clauses").code == 0
    assert (place.path / "clauses.yaml").exists()
    again = place("init", "clauses")
    assert (again.code, "clauses.yaml exists and is left as it is" in again.err) == (2, True)
    wrong = place("init", "claus")
    assert wrong.code == 2
    assert "There is no shipped recipe 'claus'. There are: alpaca" in wrong.err


FAULTS: dict[str, tuple[Callable[[Place], object], int, str]] = {
    "unknown key": (
        lambda p: p.edit("  r: 4", "  rank: 4"),
        2,
        r"tiny.yaml:7: adapter.rank is not a known key",
    ),
    "misspelt key": (
        lambda p: p.edit("batch_size", "batchsize"),
        2,
        r"tiny.yaml:11: train.batchsize is not a known key; did you mean 'batch_size'\?",
    ),
    "no such recipe": (lambda p: p.recipe.unlink(), 2, r"There is no recipe '.*tiny.yaml'"),
    "target that matches nothing": (
        lambda p: p.edit("  r: 4", "  r: 4\n  target_modules: [q_projj]"),
        7,
        r"'q_projj' matches no linear layer .* Did you mean 'q_proj' \(2 layers\)",
    ),
    "missing data": (lambda p: p.data.unlink(), 3, r"clauses.jsonl"),
    "empty data": (lambda p: p.data.write_text(""), 3, r"clauses.jsonl .*empty"),
    "broken line": (
        lambda p: p.data.write_text(p.data.read_text().replace("}\n", "}\n", 40) + '{"text": \n'),
        3,
        r"clauses.jsonl:61",
    ),
    "missing column": (
        lambda p: p.edit("data:\n", "data:\n  format: classification\n  label_column: lable\n"),
        3,
        r"clauses.jsonl:1: column 'lable' .* did you mean 'label'\?",
    ),
    "label never trained on": (
        lambda p: (
            (p.path / "test.jsonl").write_text('{"text": "x", "label": "novel"}\n'),
            p.edit("data:\n", "data:\n  test_source: test.jsonl\n"),
        ),
        3,
        r"The label 'novel' stands at 1 examples of test.jsonl but nowhere in",
    ),
    "too long": (
        lambda p: p.edit("data:\n", "data:\n  max_length: 20\n"),
        3,
        r"longer than data.max_length, 20 tokens; the longest, .*clauses.jsonl:\d+, has \d+",
    ),
    "no such model": (
        lambda p: p.recipe.write_text(
            re.sub("source: .*base", "source: ./nowhere", p.recipe.read_text())
        ),
        7,
        r"nowhere",
    ),
    "truncated gzip": (
        lambda p: (
            (p.path / "d.jsonl.gz").write_bytes(gzip.compress(p.data.read_bytes())[:-20]),
            p.edit(str(p.data), "d.jsonl.gz"),
        ),
        3,
        r"d.jsonl.gz",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_before_training(place: Place, fault: str) -> None:
    break_it, code, message = FAULTS[fault]
    break_it(place)
    result = place("run", place.recipe)
    assert result.code == code, result.err
    assert re.search(message, result.err), result.err
    assert "Traceback" not in result.err
    assert not (place.run / "adapter").exists()
    assert not list(place.path.rglob("*.tmp"))


def test_run_stops_for_the_review_and_goes_on_after_it(place: Place) -> None:
    place.edit("data:\n", "data:\n  gates: {review: {action: fail}}\n")
    first = place("run", place.recipe)
    assert first.code == 3
    assert "0 of 25 examples to be reviewed have a verdict" in first.err
    assert f"Run `doratune review data {place.run.relative_to(place.path)}`, then" in first.err
    assert "Traceback" not in first.err
    run = RunFolder(place.run)
    assert not run.adapter.exists()
    for item in data_review(run).read_items():
        line = ReviewVerdict(id=item.id, verdict="accept", reviewer="ada", given_at="now")
        line.append_to(run.verdicts)
    second = place("run", place.recipe)
    assert second.code == 0, second.err
    assert "data is up to date" in second.err
    assert (
        "25 of 25 examples have a verdict, by ada (25)" in (place.run / "report.html").read_text()
    )


def test_stages_out_of_order(place: Place) -> None:
    result = place("merge", place.recipe)
    assert result.code == 2
    assert "has no adapter yet, which `merge` starts from. Run `doratune train` first" in result.err


def test_an_adapter_that_lost_its_magnitudes_is_not_evaluated_or_merged(place: Place) -> None:
    place("data", place.recipe)
    place("train", place.recipe)
    file = place.run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k: t for k, t in tensors.items() if "magnitude" not in k}, file)
    lost = "says use_dora, but there is no lora_magnitude_vector"
    changed = "has been changed or added since doratune.json was written"
    for stage, said in (("eval", lost), ("merge", changed)):
        result = place(stage, place.recipe)
        assert result.code == 6
        assert said in result.err
    (place.run / "adapter" / "doratune.json").unlink()
    for stage in ("eval", "merge"):
        result = place(stage, place.recipe)
        assert result.code == 6
        assert lost in result.err
    assert not (place.run / "merged").exists()


def test_an_adapter_of_another_base_is_refused(place: Place, tmp_path: Path) -> None:
    place("data", place.recipe)
    place("train", place.recipe)
    other = save_tiny(tmp_path / "other", seed=1)
    place.recipe.write_text(re.sub("source: .*base", f"source: {other}", place.recipe.read_text()))
    result = place("merge", place.recipe)
    assert result.code == 6
    assert "An adapter works on its own base only" in result.err


def test_a_merge_that_is_not_the_sidecar_fails_with_its_own_code(place: Place) -> None:
    place("run", place.recipe)
    file = place.run / "merged" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.01
    save_file(tensors, file, metadata={"format": "pt"})
    result = place("verify", place.recipe)
    assert result.code == 4
    assert "model.layers.1.mlp.up_proj" in result.err
    assert not VerifyFile.read(place.run / "verify.json").passed


def test_a_second_command_in_the_same_folder_is_refused(place: Place) -> None:
    with RunFolder(place.run).locked():
        result = place("data", place.recipe)
    assert result.code == 8
    assert "Another doratune command is working in" in result.err


def doratune(
    place: Place, *arguments: str, limit_bytes: int | None = None
) -> subprocess.Popen[str]:
    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-m", "doratune", *arguments],
        cwd=place.path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        preexec_fn=limit,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_file_system_that_takes_no_more(place: Place) -> None:
    """RLIMIT_FSIZE makes real writes fail as a full disk does, in the middle of a checkpoint."""
    place.edit("max_steps: 6", "max_steps: 6\n  save_steps: 2")
    place("data", place.recipe)
    process = doratune(place, "run", str(place.recipe), limit_bytes=30_000)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 8, err
    assert "Traceback" not in err
    assert not (place.run / "adapter").exists()
    assert place("run", place.recipe).code == 0, "and then it goes on"


def test_ctrl_c(place: Place) -> None:
    place.edit("max_steps: 6", "max_steps: 3000")
    process = doratune(place, "run", str(place.recipe))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (place.run / "steps.jsonl").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted. Nothing finished is lost" in err
    assert "Traceback" not in err
    assert not (place.run / "adapter").exists()
