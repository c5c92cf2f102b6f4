"""Real engines as servers, in processes of their own. Skipped where they are not at hand."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from doratune.adapter.tuned import load_tuned
from doratune.base import load_tokenizer
from doratune.errors import VerificationError
from doratune.record.run_folder import RunFolder
from doratune.record.verification import ServedFile
from doratune.ship.export.gguf_file import Labels, write_gguf
from doratune.ship.export.in_llama import VARIABLE, interpreter
from doratune.ship.verification.served import verify_served
from tests.ship.export.runs import recipe_for, trained_run
from tests.ship.verification.speaking import speaking_adapter, speaking_base

pytestmark = pytest.mark.slow
START_SECONDS = 180
_LLAMA = """
import sys
import llama_cpp.llama_cpp as low
defaults = low.llama_model_default_params
def without_extra_buffers():  # as in llama_run.py
    params = defaults()
    params.use_extra_bufts = False
    return params
low.llama_model_default_params = without_extra_buffers
from llama_cpp.server.__main__ import main
sys.argv = ["server", "--model", sys.argv[1], "--port", sys.argv[2], "--n_ctx", "512",
            "--logits_all", "true", "--model_alias", "tiny"]
main()
"""


class Models:
    """Base, adapter and merged model, in folders and as GGUF."""

    def __init__(self, path: Path) -> None:
        self.base = speaking_base(path / "base")
        self.adapter = speaking_adapter(self.base, path / "adapter")
        self.merged = path / "merged"
        merged = load_tuned(self.base, self.adapter, "float32").merge_and_unload()
        merged.save_pretrained(self.merged)
        load_tokenizer(self.base).save_pretrained(self.merged)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("engines"))


@contextlib.contextmanager
def process(*command: object) -> Iterator[str]:
    """A server on a free port, which replaces ``PORT``; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(word).replace("PORT", str(port)) for word in command]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert running.poll() is None, f"{words} ended with code {running.returncode}"
            assert time.monotonic() < deadline, f"{words} does not answer"
            try:
                requests.get(f"{url}/models", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield url
    finally:
        running.terminate()
        running.wait()


def verdict(models: Models, folder: Path, url: str, name: str | None) -> ServedFile:
    run: RunFolder = trained_run(folder, models.adapter)
    with contextlib.suppress(VerificationError):  # what it found is in the file
        verify_served(run, recipe_for(models.base), url, name, "float32", None)
    return ServedFile.read(run.served)


@pytest.mark.parametrize("served", ["merged", "base"])
def test_llama(models: Models, tmp_path: Path, served: str) -> None:
    python = interpreter()
    if python is None:
        pytest.skip(f"no llama-cpp-python here, and {VARIABLE} names no interpreter that has it")
    needs = [python, "-c", "import llama_cpp.server.app, uvicorn"]
    if subprocess.run(needs, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{python} has no llama_cpp.server: pip install 'llama-cpp-python[server]'")
    file = tmp_path / "m.gguf"
    write_gguf(getattr(models, served), file, "f32", Labels("tiny", None, "f" * 64, "a" * 64))
    with process(python, "-c", _LLAMA, file, "PORT") as url:
        found = verdict(models, tmp_path / "run", url, None)
    assert found.verdict == ("same" if served == "merged" else "base"), found.sentence
    assert found.model == "tiny"
    differences = [
        a.logprob_difference if served == "merged" else a.base_logprob_difference
        for a in found.answers
    ]
    assert all(d is not None and d < 0.01 for d in differences)  # its cache is in fp16


@pytest.mark.parametrize("served", ["merged", "base"])
def test_transformers_serve(models: Models, tmp_path: Path, served: str) -> None:
    missing = [
        name for name in ("fastapi", "uvicorn", "openai") if not importlib.util.find_spec(name)
    ]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}, which are not installed")
    folder = getattr(models, served)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder]
    with process(*command, "--port", "PORT", "--device", "cpu", "--dtype", "float32") as url:
        found = verdict(models, tmp_path / "run", url, str(folder))
    assert found.verdict == ("same" if served == "merged" else "base"), found.sentence
    assert all(a.logprob_difference is None for a in found.answers)  # it tells none
