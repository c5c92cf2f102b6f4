from __future__ import annotations

import json
from pathlib import Path

import pytest

from doratune.record.export import LogitCheck
from doratune.record.schemas import OntoFidelity, Record, VerifyFile

FIGURES = {
    "num_tokens": 31, "max_abs_difference": 0.25, "mean_abs_difference": 0.125, "mean_kl": 0.5,
    "max_kl": 2.5, "top1_agreement": 0.75,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (OntoFidelity, {"num_bytes": 9}, {"task": None}),
        (
            LogitCheck,
            {"what": "PEFT, float32", "against": "sidecar"},
            {"perplexity": None, "reference_perplexity": None, "thresholds": {}},
        ),
        (
            VerifyFile,
            {"schema_version": 1, "passed": True, "dtype": "bfloat16", "num_prompts": 2},
            {
                "thresholds": {}, "failures": [], "layers": [], "outputs": {}, "onto": None,
                "fidelity": {},
            },
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)  # fmt: skip
def test_figures_of_logits_have_the_names_of_files_that_are_there(
    kind: type[Record], before: dict[str, object], after: dict[str, object]
) -> None:
    """Not in an object of their own, but among the other keys."""
    written = {**before, **FIGURES, **after}
    assert json.loads(kind.model_validate(written).model_dump_json()) == written


def test_a_file_of_before_is_read(tmp_path: Path) -> None:
    file = tmp_path / "verify.json"
    head = {"schema_version": 1, "passed": True, "dtype": "float32", "num_prompts": 2}
    file.write_text(json.dumps({**head, **FIGURES, "thresholds": {}, "failures": []}))
    assert VerifyFile.read(file).mean_kl == 0.5
