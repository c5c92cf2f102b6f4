from __future__ import annotations

import pytest

from doratune.report.tables.calibration import calibration
from tests.report.sample_figures import eval_file, open_eval_file


def test_both_models_before_and_after_scaling() -> None:
    found = calibration(eval_file())
    assert found is not None
    assert [diagram.caption for diagram in found.diagrams] == [
        "Base as it is, ECE 0.312",
        "Base at temperature 2.41, ECE 0.021",
        "Tuned as it is, ECE 0.034",
        "Tuned at temperature 1.32, ECE 0.021",
    ]
    assert found.temperatures == [
        "Base: 2.413 (76 validation examples)",
        "Tuned: 1.318 (76 validation examples)",
    ]
    assert [row.key for row in found.scaled] == ["ece", "ece_mass", "brier", "label_nll"]
    assert found.scaled[3].figures == [
        ("2.214", "2.051 to 2.388"),
        ("0.213", "0.121 to 0.322"),
        ("0.241", "0.128 to 0.377"),
        ("0.213", "0.121 to 0.322"),
    ]


def test_without_a_temperature_there_is_no_second_diagram() -> None:
    file = eval_file()
    assert file.tuned.calibration
    file.tuned.calibration.temperature = None
    file.tuned.calibration.temperature_note = "There is no validation split."
    file.tuned.calibration.scaled = {}
    file.tuned.calibration.scaled_bins = []
    found = calibration(file)
    assert found is not None
    assert len(found.diagrams) == 3
    assert found.temperatures[1] == "Tuned: not measured (There is no validation split.)"
    assert found.scaled[0].figures[3] == ("not measured", "")


def test_coverage_starts_with_all_answers() -> None:
    file = eval_file()
    assert file.base.calibration
    assert file.tuned.calibration
    file.base.calibration.coverage = file.base.calibration.coverage[:1]
    found = calibration(file)
    assert found is not None
    shares = [row.coverage.replace("\xa0", " ") for row in found.coverage]
    assert shares == ["100 %", "90 %", "75 %", "50 %", "25 %"]
    point = file.tuned.calibration.coverage[0]
    assert found.coverage[0].figures[1][0] == f"{100 * point.accuracy.value:.1f}\xa0%"
    assert found.coverage[0].figures[1][2] == f"{100 * point.threshold:.0f}\xa0%"
    assert found.coverage[1].figures[0] == ("not measured", "", "")


@pytest.mark.parametrize("kind", ["open", "none"])
def test_no_calibration_has_no_section(kind: str) -> None:
    file = open_eval_file() if kind == "open" else eval_file()
    file.base.calibration = file.tuned.calibration = None
    assert calibration(file) is None
