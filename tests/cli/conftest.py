from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from doratune.cli.main import main


class Place:
    """A folder with a recipe and data in it, and the command line at hand."""

    def __init__(self, path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys
        self.data = path / "clauses.jsonl"
        self.recipe = path / "tiny.yaml"
        self.run = path / "runs" / "tiny"
        rows = [
            {"text": f"Clause {n}: {kind} of liability.", "label": label}
            for n in range(30)
            for kind, label in (("limit", "capped"), ("exclusion", "excluded"))
        ]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.recipe.write_text(
            f"name: tiny\nmodel:\n  source: {base}\ndata:\n  source: {self.data}\n"
            "adapter:\n  r: 4\n  lora_alpha: 8\n"
            "train:\n  max_steps: 6\n  batch_size: 4\n  learning_rate: 5e-3\n"
            "verify:\n  num_prompts: 2\n"
            "eval:\n  completions: {num_prompts: 3, max_new_tokens: 4}\n"
            "  latency: {seconds: 0.1, long_prompt: 60, num_new_tokens: 2}\n"
        )

    def __call__(self, *arguments: object) -> SimpleNamespace:
        """Runs a command; its exit code and what it printed, white space folded."""
        self.capsys.readouterr()
        argv, sys.argv = sys.argv, ["doratune", *map(str, arguments)]
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = argv
        out, err = self.capsys.readouterr()
        return SimpleNamespace(code=code, out=" ".join(out.split()), err=" ".join(err.split()))

    def edit(self, old: str, new: str) -> None:
        """Changes the recipe."""
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, tiny_base, capsys)
