from __future__ import annotations

import pytest

from doratune.report.tables.checks import check_rows
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
