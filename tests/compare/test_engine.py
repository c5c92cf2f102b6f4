"""Jobs as processes, here and on a Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doratune.compare import stage
from doratune.compare.engine import open_engine
from doratune.compare.engine.local import LocalEngine, _environment, visible_gpus
from doratune.compare.engine.process import describe_exit, run_process
from doratune.compare.jobs import Jobs
from doratune.compare.setting import make_setting
from doratune.compare.sweep import final_jobs
from doratune.errors import DependencyError
from doratune.recipe import write_recipe
from doratune.record.comparison import CompareFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, TrainFile
from tests.compare.comparisons import InlineEngine, prepared, recipe


def test_places_of_a_pool_have_a_gpu_and_a_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert _environment(0, 1, []) == {}
    assert _environment(1, 3, []) == {"OMP_NUM_THREADS": "2"}
    assert _environment(3, 4, ["2", "5"]) == {"CUDA_VISIBLE_DEVICES": "5", "OMP_NUM_THREADS": "2"}
    assert _environment(0, 16, []) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert _environment(1, 3, []) == {}, "the user's own number stays"


def test_gpus_are_named_as_the_user_named_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    assert visible_gpus() == ["4", "7"]
    assert LocalEngine(None).workers == 2
    assert LocalEngine(5).workers == 5
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert LocalEngine(None).workers == 1


def test_why_a_silent_process_ended() -> None:
    assert describe_exit(3) == "The process ended with exit code 3"
    assert describe_exit(-signal.SIGKILL) == (
        "The process was ended by SIGKILL, which is what a system does that is out of memory"
    )
    assert describe_exit(-signal.SIGSEGV) == "The process was ended by SIGSEGV"


def test_a_process_ends_by_itself_and_says_how(tmp_path: Path) -> None:
    """Not aborted by the thread that watches its standard input."""
    assert run_process(str(tmp_path), {}) == 1
    log = (tmp_path / "log.txt").read_text()
    assert "job.json cannot be read" in log
    assert "Fatal Python error" not in log


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"pip install 'doratune\[ray\]'"):
        open_engine("ray", None)


@pytest.mark.slow
def test_a_job_ends_with_the_process_that_waits_for_it(tmp_path: Path, tiny_base: Path) -> None:
    """SIGKILL of the comparison leaves no job behind, and a job that is stopped leaves no error."""
    settings = recipe(tmp_path, tiny_base, train={"max_steps": 100_000})
    run = prepared(tmp_path / "run", settings)
    setting = make_setting(settings, tiny_base, DataFile.read(run.data))
    jobs = Jobs(run, settings, setting.recipes, {"base": "b", "data": "d"})
    (job, *_) = final_jobs(setting.plans[0], 1e-3)
    folder = jobs.prepare(job)
    module = "doratune.compare.engine.process"
    code = f"from {module} import run_process; run_process({str(folder.path)!r}, {{}})"
    parent = subprocess.Popen([sys.executable, "-c", code])
    _wait_for(folder.steps.exists)
    parent.kill()
    parent.wait()
    _wait_for(lambda: _unlocked(folder))
    assert jobs.look_up(job) is job


@pytest.mark.slow
def test_stopping_the_engine_stops_its_jobs(tmp_path: Path, tiny_base: Path) -> None:
    settings = recipe(tmp_path, tiny_base, train={"max_steps": 100_000})
    run = prepared(tmp_path / "run", settings)
    setting = make_setting(settings, tiny_base, DataFile.read(run.data))
    jobs = Jobs(run, settings, setting.recipes, {"base": "b", "data": "d"})
    engine = LocalEngine(2)
    folders = [jobs.prepare(job) for job in final_jobs(setting.plans[0], 1e-3)]
    futures = [engine.submit(folder.path) for folder in folders]
    _wait_for(lambda: all(folder.steps.exists() for folder in folders))
    started = time.monotonic()
    engine.stop()
    assert time.monotonic() - started < 20
    assert all(future.result() != 0 for future in futures)
    assert all(_unlocked(folder) for folder in folders)


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(tmp_path: Path, tiny_base: Path) -> None:
    """Real processes; SIGKILL of the command in the middle of its only training."""
    settings = recipe(
        tmp_path,
        tiny_base,
        train={"max_steps": 60, "save_steps": 5},
        compare={"arms": ["lora"], "learning_rates": [5e-3], "seeds": 1},
    )
    write_recipe(tmp_path / "tiny.yaml", settings)
    run = RunFolder(tmp_path / "runs" / "tiny")
    job = RunFolder(run.jobs / "lora" / "lr-5e-03" / "seed-0")
    command = [sys.executable, "-m", "doratune", "compare", str(tmp_path / "tiny.yaml")]
    command += ["--runs", str(tmp_path / "runs")]
    parent = subprocess.Popen(command)
    _wait_for(lambda: any(job.checkpoints.glob("checkpoint-*")))
    parent.kill()
    parent.wait()
    _wait_for(lambda: _unlocked(job))
    assert not job.adapter.exists()
    base = run.jobs / "base" / "job.json"
    before = base.stat().st_mtime_ns

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert base.stat().st_mtime_ns == before, "done once"
    assert TrainFile.read(job.train).resumed_from_steps
    assert [j.status for j in CompareFile.read(run.compare).jobs] == ["done", "done"]
    assert run.compare_report.exists()


@pytest.mark.slow
def test_a_ray_cluster_gives_the_figures_of_one_machine(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local cluster of two nodes with a core each, against the same jobs in this process."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    settings = recipe(
        tmp_path,
        tiny_base,
        train={"max_steps": 4},
        compare={"arms": ["lora"], "learning_rates": [5e-3], "seeds": 1},
    )
    here, there = (prepared(tmp_path / name, settings) for name in ("here", "there"))
    with monkeypatch.context() as patch:
        patch.setattr(stage, "open_engine", lambda *_: InlineEngine())
        stage.compare_recipe(here, settings)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        section = settings.compare.model_copy(update={"engine": "ray"})
        stage.compare_recipe(there, settings.model_copy(update={"compare": section}))
    finally:
        cluster.shutdown()
    local, ray = CompareFile.read(here.compare), CompareFile.read(there.compare)
    assert ray.engine == "ray"
    assert "2 at a time on a Ray cluster of 2 machines (2 cores, 0 GPUs)" in ray.budget
    assert [arm.per_seed for arm in ray.arms] == [arm.per_seed for arm in local.arms]
    losses = [job.validation_loss for job in local.jobs if job.arm == "lora"]
    found = [job.validation_loss for job in ray.jobs if job.arm == "lora"]
    assert found == pytest.approx(losses, rel=1e-5)
    assert (there.jobs / "base" / "log.txt").exists()


def _unlocked(folder: RunFolder) -> bool:
    try:
        with folder.locked():
            return True
    except OSError:
        return False


def _wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
