from __future__ import annotations

import pytest

from doratune.record.schemas import OntoFidelity, TaskCost
from doratune.report.tables.checks import check_rows, onto_rows
from tests.report.sample_run import verify_file


def test_checks_against_their_thresholds() -> None:
    rows = {row.key: row for row in check_rows(verify_file(2, mean_kl=0.002, top1_agreement=0.97))}
    assert rows["mean_kl"].passed is False
    assert (rows["top1_agreement"].allowed, rows["top1_agreement"].passed) == (
        "≥ 98.00\xa0%",
        False,
    )
    assert rows["layers.weight_error"].passed is True
    assert rows["max_kl"].passed is None


@pytest.mark.parametrize("key", ["norm_error", "max_norm_error"])
def test_lora_has_no_norm_error(key: str) -> None:
    verify = verify_file(2, thresholds={key: 0.001})
    for layer in verify.layers:
        layer.norm_error = None
    rows = {row.key: row for row in check_rows(verify)}
    assert rows["layers.norm_error"].value == "not measured"
    assert rows["layers.norm_error"].allowed == "≤ 0.0010"
    assert rows["layers.norm_error"].passed is None


def test_merges_onto_every_choice_of_a_quantised_base() -> None:
    task = TaskCost(
        what="merged",
        num_examples=80,
        num_right=53,
        num_right_approximate=51,
        num_lost=3,
        num_gained=1,
    )
    fidelity = OntoFidelity(
        num_bytes=269_000_000,
        num_tokens=767,
        max_abs_difference=0.8,
        mean_abs_difference=0.05,
        mean_kl=0.0012,
        max_kl=0.03,
        top1_agreement=0.97,
    )
    choices = {"dequantized": fidelity, "original": fidelity.model_copy(update={"task": task})}
    merged, other = onto_rows(verify_file(2, onto="dequantized", fidelity=choices))
    assert (merged.name, merged.is_merged, merged.right) == ("dequantized", True, "not measured")
    assert (other.name, other.is_merged, other.right) == (
        "original",
        False,
        "51 (trained 53) of 80",
    )
    assert [value for _, key, value in other.figures if key == "mean_kl"] == ["0.0012"]
    assert onto_rows(verify_file(2)) == []
