from __future__ import annotations

from xml.etree import ElementTree

from doratune.report.tables.arms import arm_forest, arm_name, arm_rows, metric_table
from tests.report.sample_comparison import compare_file


def test_arms_with_what_they_cost() -> None:
    base, lora, dora, full = arm_rows(compare_file())
    assert (base.name, base.about, base.parameters, base.time) == (
        "The base model",
        "not trained",
        "—",
        "—",
    )
    assert lora.about == "r 16, learning rate 2e-04, 3 seeds"
    assert full.about == "learning rate 6e-05, 3 seeds"
    assert dora.value == ("91.4\xa0%", "86.4 to 95.4")
    assert dora.per_seed == "90.2\xa0%, 91.6\xa0%, 92.4\xa0%"
    assert (dora.parameters, dora.time) == ("5.0\xa0M", "3\xa0min\xa013\xa0s")
    assert (base.answering, dora.answering) == ("32\xa0s", "41\xa0s")


def test_the_forest_of_arms_has_a_dot_for_each_seed() -> None:
    found = arm_forest(compare_file())
    root = ElementTree.fromstring(found.charts[0])
    assert len(root.findall("circle[@class='tuned']")) == 3
    assert len(root.findall("circle[@class='single']")) == 9


def test_a_base_that_would_stretch_the_scale_is_told_instead() -> None:
    file = compare_file()
    found = arm_forest(file)
    assert found.note == "Off this scale: The base model, 24.0\xa0% (19.0 to 28.0)"
    assert "base model" not in found.charts[0]
    file.arms[0].value = file.arms[1].value
    found = arm_forest(file)
    assert found.note == ""
    root = ElementTree.fromstring(found.charts[0])
    assert len(root.findall("circle[@class='base']")) == 1


def test_the_base_alone_is_drawn() -> None:
    file = compare_file()
    found = arm_forest(file.model_copy(update={"arms": file.arms[:1]}))
    assert (found.note, "The base model" in found.charts[0]) == ("", True)


def test_other_metrics_leave_out_the_primary_one() -> None:
    file = compare_file()
    file.arms[0].metrics = {"accuracy": 0.24, "ece": 0.3}
    rows = metric_table(file)
    assert [key for _, key, _ in rows] == ["macro_f1", "answer_nll", "ece"]
    assert rows[0][2] == ["—", "0.881", "0.904", "0.926"]


def test_names_begin_with_a_capital_unless_they_are_written_otherwise() -> None:
    assert arm_name("full") == "Full fine-tuning"
    assert arm_name("rslora") == "rsLoRA"
