from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from doratune.data.passes.store import write_batch
from doratune.data.passes.workers import Workers
from doratune.errors import DataError, DoratuneError
from doratune.record.files import digest_path
from tests.data.passes.tasks import about, die, refuse
from tests.data.preparing import Prepared, question


def test_few_tasks_are_done_here() -> None:
    with Workers(2) as workers:
        found = list(workers.map(about, ((n,) for n in range(3))))
    assert [(number, pid) for number, pid, _ in found] == [(n, os.getpid()) for n in range(3)]


def test_one_process_does_everything_itself() -> None:
    with Workers(1) as workers:
        assert {pid for _, pid, _ in workers.map(about, ((n,) for n in range(9)))} == {os.getpid()}


def test_results_come_in_order_from_processes_without_torch() -> None:
    taken = []

    def tasks() -> Iterator[tuple[int]]:
        for number in count():
            taken.append(number)
            yield (number,)

    with Workers(2) as workers:
        results = workers.map(about, tasks())
        found = [next(results)]
        assert len(taken) == 1, "no more is read than is needed"
        elsewhere = []
        while len(elsewhere) < 20:
            found.append(next(results))
            if found[-1][1] != os.getpid():
                elsewhere.append(found[-1])
            else:
                time.sleep(0.01)
        assert len(taken) - len(found) <= 5, "nor much more than the workers can take"
        results.close()
        assert [number for number, _, _ in found] == list(range(len(found)))
        assert 1 <= len({pid for _, pid, _ in elsewhere}) <= 2
        assert not any(torch for _, _, torch in elsewhere)
        with pytest.raises(DataError, match="row 3 is odd"):
            list(workers.map(refuse, [(3,)]))
        with pytest.raises(DoratuneError, match="worker process of the data stage died"):
            list(workers.map(die, [(1,)]))
    family = psutil.Process().children()
    assert all("resource_tracker" in " ".join(child.cmdline()) for child in family)


SCRIPT = """
import sys
from pathlib import Path

if __name__ == "__main__":
    from doratune.data.passes import reading
    from tests.data.preparing import Prepared

    reading.CHUNK_ROWS = 20
    prepared = Prepared(Path(sys.argv[1]), Path(sys.argv[2]))
    prepared(sys.argv[3], workers=2)
"""


@pytest.mark.parametrize(
    "killed_by", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_killed_run_leaves_nobody_and_the_next_one_goes_on(
    killed_by: signal.Signals,
    prepare: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = prepare.write("rows.jsonl", [question(number) for number in range(800)])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[3])
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(prepare.base), source],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    work = prepare.run.path / "data" / ".work"
    deadline = time.monotonic() + 60
    while len(list(work.glob("parts/*/rows-*.arrow"))) < 9 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, killed_by) if killed_by == signal.SIGINT else process.kill()
    assert process.wait(timeout=30) != 0, process.stderr.read() if process.stderr else ""
    _, alive = psutil.wait_procs(family, timeout=20)
    assert family
    assert not alive
    assert not prepare.run.data.exists()
    assert {path.name for path in (prepare.run.path / "data").iterdir()} == {".work"}
    before = set(work.glob("parts/*/rows-*.arrow"))
    assert before

    monkeypatch.setattr("doratune.data.passes.reading.CHUNK_ROWS", 20)
    rewritten = []

    def write(path: Path, batch: pa.RecordBatch) -> None:
        rewritten.append(path)
        write_batch(path, batch)

    monkeypatch.setattr("doratune.data.passes.survey.write_batch", write)
    interrupted = prepare(source)
    assert rewritten
    assert not before & set(rewritten)
    outputs = digest_path(prepare.run.path / "data")
    monkeypatch.setattr("doratune.data.passes.reading.CHUNK_ROWS", 4096)
    prepare.run.data.unlink()
    assert prepare(source) == interrupted
    assert digest_path(prepare.run.path / "data") == outputs
    assert not work.exists()
