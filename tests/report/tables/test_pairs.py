from __future__ import annotations

from xml.etree import ElementTree

from doratune.report.tables.pairs import pair_forest, pair_rows
from tests.report.sample_comparison import compare_file


def test_pairs_with_all_their_p_values() -> None:
    dora, full, base = pair_rows(compare_file())
    assert dora.name == "DoRA against LoRA"
    assert dora.difference == ("+2.3 points", "−0.9 to +5.5")
    assert (dora.p_value, dora.adjusted) == ("p\xa0=\xa00.154", "p\xa0=\xa00.308")
    assert (dora.detectable, dora.verdict) == ("4.7 points", "not distinguishable")
    assert (full.time, full.memory) == ("1.62 ×", "2.31 ×")
    assert (base.time, base.adjusted) == ("—", "p\xa0<\xa00.001")


def test_one_seed_shows_nothing() -> None:
    file = compare_file()
    file.pairs[0].smallest_detectable = file.pairs[0].mcnemar_p_value = None
    row = pair_rows(file)[0]
    assert (row.detectable, row.mcnemar) == ("none with one seed", "—")


def test_pairs_are_coloured_by_their_verdict() -> None:
    file = compare_file()
    found = pair_forest(file)
    root = ElementTree.fromstring(found.charts[0])
    assert [dot.get("class") for dot in root.findall("circle")] == ["base", "tuned"]
    assert found.note == "Off this scale: The base model − LoRA, −65.1 points (−73.1 to −57.1)"
    file.pairs[0].verdict = "worse"
    root = ElementTree.fromstring(pair_forest(file).charts[0])
    assert root.find("circle").get("class") == "lost"  # type: ignore[union-attr]
