"""Runs llama.cpp on a GGUF file; a program of its own, for an interpreter that has llama-cpp-python.

    python - REQUEST.json ANSWER.npz < llama_run.py

It knows nothing of doratune and runs in another process: llama.cpp ends a process that it cannot serve,
and its package is compiled where it is installed, often in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

F32 = 0  # ggml's number of the type


def main(request: Path, answer: Path) -> None:
    """Answers a request: a ``model`` and what to do with it, `logits_of` or `label_logprobs`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    if "questions" in asked:
        np.savez(answer, logprobs=label_logprobs(asked["model"], asked["questions"]))
    else:
        np.savez(answer, **logits_of(asked))


def logits_of(asked: dict[str, Any]) -> dict[str, Any]:
    """Logits of ``prompts`` (ids), ids of ``texts``, and what ``greedy`` decoding adds to the first."""
    model = load(asked["model"], max(map(len, asked["prompts"])) + asked["greedy"])
    arrays: dict[str, Any] = {}
    for number, ids in enumerate(asked["prompts"]):
        model.reset()
        model.eval(ids)
        arrays[f"logits_{number}"] = np.array(model.scores[: len(ids)], dtype=np.float32)
    for number, text in enumerate(asked["texts"]):
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        arrays[f"ids_{number}"] = np.array(ids, dtype=np.int64)
    arrays["greedy"] = np.array(greedy(model, asked["prompts"][0], asked["greedy"]), dtype=np.int64)
    return arrays


def label_logprobs(file: str, questions: list[dict[str, Any]]) -> Any:
    """Sums of log P(token) of the ``labels`` after each ``prompt``, all of them ids."""
    longest = max(len(q["prompt"]) + max(map(len, q["labels"])) for q in questions)
    model = load(file, longest)
    return np.array([[score(model, q["prompt"], ids) for ids in q["labels"]] for q in questions])


def score(model: Any, prompt: list[int], label: list[int]) -> float:
    """Sum of log P(token) of a label; a prompt that was there just before is not computed again."""
    if model.input_ids[: min(len(prompt), model.n_tokens)].tolist() != prompt:
        model.reset()
        model.eval(prompt)
    model.n_tokens = len(prompt)  # what `eval` keeps of its cache
    if label[:-1]:
        model.eval(label[:-1])
    logits = np.array(
        model.scores[len(prompt) - 1 : len(prompt) - 1 + len(label)], dtype=np.float64
    )
    logits -= logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits).sum(-1))
    return float((logits[np.arange(len(label)), label] - total).sum())


def load(file: str, length: int) -> Any:
    """The model with a context of ``length`` positions, all of its logits and a float32 cache."""
    library = import_module("llama_cpp")
    low = library.llama_cpp
    defaults = low.llama_model_default_params

    def without_extra_buffers() -> Any:
        # gcc 12.2 compiles llama.cpp's matrix tiles (AMX) wrongly, and quantised models crash. Without
        # the extra buffers they are not used. To be deleted when gcc 12 is no longer in use.
        params = defaults()
        params.use_extra_bufts = False
        return params

    low.llama_model_default_params = without_extra_buffers
    size = -(-max(length, 64) // 64) * 64
    # Its threads wait for each other by spinning: as many as PyTorch is told to take.
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return library.Llama(
        file, n_ctx=size, n_batch=size, n_ubatch=size, logits_all=True, verbose=False,
        type_k=F32, type_v=F32, n_threads=threads,
    )  # fmt: skip


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The ``count`` most likely tokens one after the other."""
    model.reset()
    model.eval(prompt)
    found: list[int] = []
    for _ in range(count):
        found.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(found[-1:])
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
