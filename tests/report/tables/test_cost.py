from __future__ import annotations

from doratune.record.run_folder import RunFolder
from doratune.report.records import read_records
from doratune.report.tables.cost import cost_rows
from tests.report.sample_run import train_file


def test_cost_names_slow_layers_and_resumes(run: RunFolder) -> None:
    train = train_file(num_layers=2, resumed_from_steps=[50, 100], peft_layers={"Conv2d": 3})
    train.write(run.train)
    rows = {name: value.replace("\xa0", " ") for name, value, _ in cost_rows(read_records(run))}
    assert rows["Training time"] == "3 min 12 s"
    assert rows["Tokens per second"] == "11.1 k"
    assert rows["Trainable parameters"] == "5.0 M (3.62 %)"
    assert rows["Layers on the fast path"] == "14; 3 on PEFT's: Conv2d"
    assert rows["Resumed at steps"] == "50, 100"
