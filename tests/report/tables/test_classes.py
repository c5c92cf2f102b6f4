from __future__ import annotations

from doratune.report.tables.classes import MAX_CONFUSIONS, class_rows, confusion
from tests.report.sample_figures import LABELS, SUPPORT, eval_file, open_eval_file


def test_class_rows_start_with_the_most_frequent() -> None:
    file = eval_file()
    file.base.classes = file.base.classes[:3]
    rows = class_rows(file)
    assert [label for label, _, _ in rows] == LABELS
    assert rows[5][1] is None
    assert rows[5][2] == file.tuned.classes[5]


def test_a_matrix_of_few_labels_has_every_count_and_is_warm_by_share() -> None:
    file = eval_file()
    found = confusion(file)
    assert found is not None
    assert list(found.matrices) == ["base", "tuned"]
    for model, rows in found.matrices.items():
        counts = [[cell.num_examples for cell in row.cells] for row in rows]
        assert counts == (file.base if model == "base" else file.tuned).confusion
        assert [sum(row) for row in counts] == list(SUPPORT)
    first = found.matrices["tuned"][0]
    assert (first.number, first.label) == (1, LABELS[0])
    assert first.cells[0].heat == round(60 * first.cells[0].num_examples / 25)
    assert [cell.right for cell in first.cells] == [True] + [False] * 5


def test_of_many_labels_the_largest_confusions_are_listed() -> None:
    labels = [f"label {i}" for i in range(25)]
    file = eval_file(labels=labels)
    tuned = [[10 if i == j else 0 for j in range(25)] for i in range(25)]
    tuned[3][7], tuned[2][1] = 30, 6
    for i in range(8, 25):
        tuned[i][0] = 1
    file.tuned.confusion, file.base.confusion = tuned, [[1] * 25 for _ in range(25)]
    found = confusion(file)
    assert found is not None
    assert found.matrices == {}
    assert found.num_mistakes == 19
    assert len(found.mistakes) == MAX_CONFUSIONS
    first = found.mistakes[0]
    assert (first.reference, first.prediction) == ("label 3", "label 7")
    assert (first.base, first.tuned) == ("1 (4\xa0%)", "30 (75\xa0%)")
    assert [row.reference for row in found.mistakes[1:3]] == ["label 2", "label 8"]


def test_an_open_task_and_one_without_a_matrix_have_no_confusion() -> None:
    assert confusion(open_eval_file()) is None
    file = eval_file()
    file.tuned.confusion = []
    assert confusion(file) is None
