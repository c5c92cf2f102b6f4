from __future__ import annotations

from doratune.report.tables.latency import latency_rows, prompt_lengths
from tests.report.sample_abilities import latency_file


def test_every_model_has_a_row_with_its_spread() -> None:
    file = latency_file()
    assert prompt_lengths(file) == [118, 512]
    base, sidecar, merged = latency_rows(file)
    assert [row.name for row in (base, sidecar, merged)] == ["base", "sidecar", "merged"]
    assert base.prefill[0] == ("48.38 (46.44 to 52.25)", "2,439 tokens/s")
    assert sidecar.decode == "40.87 (39.24 to 44.14)"
    assert (base.ratio, sidecar.ratio, merged.ratio) == ("—", "1.31", "1.01")
    assert merged.memory == "256.6\xa0MiB"


def test_models_that_were_not_measured_have_no_row() -> None:
    file = latency_file()
    del file.models["base"]
    assert [(row.name, row.ratio) for row in latency_rows(file)] == [
        ("sidecar", "—"),
        ("merged", "—"),
    ]
    file.models.clear()
    assert prompt_lengths(file) == []
    assert latency_rows(file) == []
