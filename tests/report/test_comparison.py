from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from doratune.errors import StorageError
from doratune.record.run_folder import RunFolder
from doratune.report import render, render_comparison
from tests.report.html import drawings, parse, prose
from tests.report.sample_comparison import VERDICT, compare_file, write_comparison_run
from tests.report.sample_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A comparison, whose files a test may change."""
    return write_comparison_run(tmp_path / "clauses-dora", num_layers=2)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a comparison, with ordinary spaces."""
    run = write_comparison_run(tmp_path_factory.mktemp("report") / "clauses-dora")
    return render_comparison(run).replace("\N{NO-BREAK SPACE}", " ")


def test_page_is_well_formed_and_refers_to_nothing(page: str) -> None:
    parser = parse(page)
    assert parser.references == []
    assert parser.handlers == []
    assert not parser.tags & {"script", "link", "iframe", "img", "object", "embed"}
    assert "http" not in page
    assert "url(" not in page


def test_drawings_are_xml_and_few(page: str) -> None:
    # Two forests of two widths, three arms in sweep, curves, and scatters of all and of q_proj.
    assert len(drawings(page)) == 4 + 3 + 3 + 6
    assert len(page.encode()) < 200_000


def test_sections_come_in_order(page: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Arms",
        "Against the reference",
        "How the verdict was made",
        "Learning rates",
        "Learning curves",
        "What each arm learned",
        "All jobs",
        "Data",
        "Provenance",
        "What this comparison does not show",
    ]


@pytest.mark.parametrize(
    "expected",
    [
        f'<p class="headline long">{VERDICT}</p>',
        "1 of 19 runs failed",
        "4 arms",
        "3 seeds",
        "n = 120 of test",
        "86.4 to 95.4",
        'title="compare.json: arms.per_seed">90.2 %, 91.6 %, 92.4 %',
        'title="compare.json: pairs.adjusted_p_value">p = 0.308',
        "9 sweep and 9 final trainings, 2,970 optimizer steps, about 41 min.",
        "The last command took 41 min 52 s with the engine local.",
        "r 0.83 (0.72 to 0.92), 90 of 90 matrices",
        "r −0.31 (−0.42 to −0.22), 30 of 30 matrices",
        "The loss is not finite after step 31.",
        "18 in all, failed ones too.",
        "From compare.json: jobs",
        "From compare.json: sweep, arms.learning_rate",
    ],
    ids=range(16),
)
def test_page_says(page: str, expected: str) -> None:
    assert expected in page


def test_complete_page_has_nothing_unmeasured(page: str) -> None:
    assert "not measured" not in page


def test_same_folder_same_bytes(tmp_path: Path) -> None:
    first = render_comparison(write_comparison_run(tmp_path / "a", num_layers=2))
    assert first == render_comparison(write_comparison_run(tmp_path / "b", num_layers=2))


def test_a_comparison_alone_has_a_page_that_says_what_is_missing(
    run: RunFolder, tmp_path: Path
) -> None:
    alone = RunFolder(tmp_path / "alone")
    alone.path.mkdir()
    shutil.copy(run.compare, alone.compare)
    page = render_comparison(alone)
    parse(page)
    assert "None" not in prose(page)
    assert "Training loss: not measured. The folders of the final runs are gone." in page
    assert "What went in: not measured." in page
    assert "Environment</dt><dd>not measured" in page


def test_what_a_comparison_lacks_is_not_measured(run: RunFolder) -> None:
    compare_file(2, pairs=[], sweep={}, changes=[], correlations=[]).write(run.compare)
    page = render_comparison(run)
    parse(page)
    for what in ("Differences", "The sweep", "Change of magnitude and direction"):
        assert f"{what}: not measured." in page


def test_hostile_text_stays_text(run: RunFolder) -> None:
    evil = "</style><script>alert(1)</script>"
    file = compare_file(2, verdict=evil, cautions=[evil], budget=evil, engine=evil)
    file.jobs[0].error = file.jobs[0].name = evil
    file.changes = [one.model_copy(update={"layer": f"a.1.{evil}"}) for one in file.changes]
    file.correlations[0].kind = evil
    file.write(run.compare)
    page = render_comparison(run)
    parser = parse(page)
    assert "script" not in parser.tags
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 7


def test_no_comparison_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_layers=2)
    with pytest.raises(StorageError, match=r"compare\.json is not there, .*doratune compare"):
        render_comparison(run)


def test_the_page_of_the_run_tells_the_verdict(run: RunFolder) -> None:
    page = render(run)
    parse(page)
    assert f'<p class="said">{VERDICT}</p>' in page
    assert "all of it is in compare.html beside this page" in page
