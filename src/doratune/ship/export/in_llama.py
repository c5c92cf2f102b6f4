"""GGUF files run by llama.cpp itself, beside the checkpoint they were made of.

llama.cpp need not be installed with doratune: `interpreter` finds one that has it. The limits, with
u the largest relative error of a weight's rounding, follow those of `ship.verify`: KL grows with u
squared. What llama.cpp adds of its own was measured on SmolLM2-135M with float32 weights and cache.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from doratune.data.questions import Questions
from doratune.errors import DependencyError, VerificationError
from doratune.recipe.export import GgufType
from doratune.record.export import LogitCheck, TokenCheck
from doratune.ship.verification.compare_logits import compare_logits, logit_limits
from doratune.ship.verification.roundoff import Q8_0, ROUNDOFF

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VARIABLE = "DORATUNE_LLAMA_PYTHON"
NUM_GREEDY = 32
_SCRIPT = Path(__file__).with_name("llama_run.py")
_ROUNDOFF: dict[GgufType, float] = {
    "f32": ROUNDOFF["float32"],
    "f16": ROUNDOFF["float16"],
    "bf16": ROUNDOFF["bfloat16"],
    "q8_0": Q8_0,
}


class Reference(NamedTuple):
    """What the checkpoint says in transformers, once for all files that are made of it."""

    logits: list[Tensor]
    """Of every prompt, (T, V), float32."""
    greedy: list[int]
    """What follows the first prompt."""


class LlamaResult(NamedTuple):
    """What llama.cpp said."""

    logits: list[Tensor]
    """Of every prompt, (T, V), float32."""
    ids: list[list[int]]
    """Of every text."""
    greedy: list[int]


def interpreter() -> str | None:
    """A Python with llama-cpp-python: that of ``$DORATUNE_LLAMA_PYTHON``, or this one; None if neither.

    Raises:
        DependencyError: The variable names no file.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return sys.executable if importlib.util.find_spec("llama_cpp") else None
    if not Path(chosen).is_file():
        raise DependencyError(
            f"{VARIABLE} is {chosen!r}, which is no file. Set it to a Python interpreter with "
            "llama-cpp-python, or unset it."
        )
    return str(Path(chosen).absolute())


def run_llama(
    python: str, file: Path, prompts: Sequence[list[int]], texts: Sequence[str], num_greedy: int
) -> LlamaResult:
    """Runs a GGUF file in a process of its own.

    Args:
        python: What `interpreter` found.
        file: The model.
        prompts: Token ids whose logits are wanted; after the first, text is generated.
        texts: Texts to read with llama.cpp's tokenizer, special tokens among them.
        num_greedy: Tokens to generate.

    Raises:
        VerificationError: llama.cpp cannot load or run the file.
    """
    request = {"prompts": prompts, "texts": texts, "greedy": num_greedy}
    found = _run(python, file, request)
    return LlamaResult(
        [torch.from_numpy(found[f"logits_{i}"]) for i in range(len(prompts))],
        [found[f"ids_{i}"].tolist() for i in range(len(texts))],
        found["greedy"].tolist(),
    )


def label_logprobs_in_llama(python: str, file: Path, questions: Questions) -> NDArray[np.float64]:
    """Scores every label of every question as `base.label_likelihood` does, nats, (n, num_labels).

    Raises:
        VerificationError: llama.cpp cannot load or run the file.
    """
    pairs = zip(questions.prompts, questions.label_ids, strict=True)
    asked = [{"prompt": prompt, "labels": labels} for prompt, labels in pairs]
    return _run(python, file, {"questions": asked})["logprobs"]


def _run(python: str, file: Path, request: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """What `llama_run` answers to a request."""
    with TemporaryDirectory(prefix="doratune-llama-") as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.npz"
        asked.write_text(json.dumps({"model": str(file.absolute()), **request}), encoding="utf-8")
        done = subprocess.run(
            [python, "-", str(asked), str(answer)],
            # By its text: beside its file lie modules of the names that it imports.
            input=_SCRIPT.read_text(encoding="utf-8"),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise VerificationError(
                f"llama.cpp could not run {file.name}: {python} ended with code {done.returncode} and "
                f"said {last!r}. Try the file with llama-cli; unset {VARIABLE} to export unchecked."
            )
        with np.load(answer) as found:
            return dict(found)


def check_in_llama(
    python: str,
    file: Path,
    kind: GgufType,
    reference: Reference,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
) -> tuple[LogitCheck, TokenCheck]:
    """Compares logits, token ids and greedy text of llama.cpp and transformers.

    Args:
        python: What `interpreter` found.
        file: The GGUF file.
        kind: Its precision.
        reference: Of the checkpoint it was made of, computed in float32.
        tokenizer: Of that checkpoint.
        prompts: Token ids; the first is also the beginning of a generated text.

    Raises:
        VerificationError: llama.cpp cannot run it, reads a text to other tokens, or its logits differ by
            more than the precision explains.
    """
    texts = [tokenizer.decode(ids) for ids in prompts]
    result = run_llama(python, file, prompts, texts, NUM_GREEDY)
    what = f"llama.cpp, {kind}"
    for text, found in zip(texts, result.ids, strict=True):
        expected = tokenizer(text, add_special_tokens=False).input_ids
        if found != expected:
            at = next(
                (
                    i
                    for i, pair in enumerate(zip(found, expected, strict=False))
                    if len({*pair}) > 1
                ),
                min(len(found), len(expected)),
            )
            raise VerificationError(
                f"llama.cpp reads {text[:60]!r} with {file.name} to other tokens from token {at} on: "
                f"{found[at : at + 4]}; transformers has {expected[at : at + 4]}. The pre-tokenizer's "
                "name does not fit this tokenizer; do not use the file."
            )
    ours, theirs = _Replay(prompts, reference.logits), _Replay(prompts, result.logits)
    figures = compare_logits(ours, theirs, prompts)
    limits = thresholds(kind)
    check = LogitCheck(
        what=what,
        against="merged",
        **figures._asdict(),
        perplexity=perplexity(theirs, prompts),
        reference_perplexity=perplexity(ours, prompts),
        thresholds=limits,
    )
    if check.mean_kl > limits["mean_kl"] or check.top1_agreement < limits["top1_agreement"]:
        raise VerificationError(
            f"{file.name} in llama.cpp is not the merged model: mean KL {check.mean_kl:.3g} nats (at "
            f"most {limits['mean_kl']:.3g}), the same most likely token at {check.top1_agreement:.2%} "
            f"of {check.num_tokens} positions (at least {limits['top1_agreement']:.2%}). Do not use it."
        )
    return check, TokenCheck(
        what=what,
        num_texts=len(texts),
        num_greedy=NUM_GREEDY,
        greedy_equal=result.greedy == reference.greedy,
    )


@torch.no_grad()
def reference_of(model: PreTrainedModel, prompts: Sequence[list[int]]) -> Reference:
    """Runs the checkpoint on the prompts."""
    logits = [model(torch.tensor([ids])).logits[0] for ids in prompts]
    return Reference(logits, greedy(model, prompts[0], NUM_GREEDY))


def thresholds(kind: GgufType) -> dict[str, float]:
    """Limits on a GGUF file against its checkpoint, as in `ship.verify.thresholds`."""
    return logit_limits(_ROUNDOFF[kind])


class _Replay:
    """Logits that are known already, in the place of a model."""

    device = torch.device("cpu")

    def __init__(self, prompts: Sequence[list[int]], logits: Sequence[Tensor]) -> None:
        self.known = {tuple(ids): found for ids, found in zip(prompts, logits, strict=True)}

    def __call__(self, batch: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            logits=torch.stack([self.known[tuple(row.tolist())] for row in batch])
        )


@torch.no_grad()
def perplexity(model: PreTrainedModel | _Replay, prompts: Sequence[list[int]]) -> float:
    """``exp`` of the mean loss over all tokens but the first of each prompt."""
    total, count = 0.0, 0
    for ids in prompts:
        row = torch.tensor([ids])
        log_p = model(row).logits[0, :-1].double().log_softmax(-1)
        total -= log_p.gather(1, row[0, 1:, None]).sum().item()
        count += len(ids) - 1
    return float(np.exp(total / count))


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """The ``count`` most likely tokens one after the other, past any end of text."""
    ids, cache, found = torch.tensor([prompt]), None, []
    for _ in range(count):
        output = model(ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        ids = output.logits[:, -1:].argmax(-1)
        found.append(int(ids))
    return found
