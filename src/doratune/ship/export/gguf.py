"""The form `gguf`: one file a precision, an Ollama Modelfile, and what llama.cpp makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer
from doratune.data.render.spoken import ALPACA_PROMPT
from doratune.errors import DependencyError
from doratune.recipe.export import GgufType
from doratune.record.export import LogitCheck, TaskCost, TokenCheck
from doratune.record.files import digest_path, write_text
from doratune.record.schemas import DataFile
from doratune.ship.export.ask import task_sentence, trained_answers
from doratune.ship.export.in_llama import (
    VARIABLE,
    check_in_llama,
    interpreter,
    label_logprobs_in_llama,
    reference_of,
)
from doratune.ship.export.model_card import CARD
from doratune.ship.export.modelfile import modelfile
from doratune.ship.export.subject import Subject, Written, base_license, copy_license
from doratune.ship.stage import golden_inputs
from doratune.ship.task import task_cost

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def write_gguf_form(subject: Subject, folder: Path) -> Written:
    """Writes the merged model as GGUF files and checks each of them.

    Every tensor is read back. Where llama-cpp-python is at hand, llama.cpp runs every file on the
    golden inputs; else the record says that it did not.

    Raises:
        DependencyError: The package gguf is missing.
        ModelError: llama.cpp has no place for this model.
        VerificationError: llama.cpp computes something else than transformers.
        StorageError: A file cannot be written, or was not written right.
    """
    try:
        from doratune.ship.export.gguf_file import Labels, check_gguf, write_gguf
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"GGUF files are written with the package {error.name!r}, which is not installed. Run: "
            "pip install 'doratune[train]'"
        ) from error
    run, recipe = subject.run, subject.recipe
    labels = Labels(
        name=recipe.name,
        license=base_license(subject).name,
        base_fingerprint=subject.base_fingerprint,
        adapter_digest=digest_path(run.adapter),
    )
    files = {kind: folder / f"{recipe.name}-{kind}.gguf" for kind in recipe.export.gguf_types}
    findings = []
    for kind, file in files.items():
        write_gguf(run.merged, file, kind, labels)
        count = check_gguf(run.merged, file, kind)
        findings.append(
            f"`{file.name}`: {count} tensors read back, none further off than {kind} rounds."
        )
    logits, tokens = _in_llama(subject, files)
    tasks = _task_costs(subject, files)
    findings += [_sentence(check) for check in logits]
    findings += [_token_sentence(check) for check in tokens]
    findings += map(task_sentence, tasks)
    missing = (
        "Not run in llama.cpp: llama-cpp-python is not installed. Install doratune[llama], or name an "
        f"interpreter that has it in {VARIABLE}, and export again."
    )
    findings += [] if logits else [missing]
    tokenizer = load_tokenizer(run.merged)
    first = next(iter(files.values())).name
    write_text(folder / "Modelfile", _modelfile(subject, tokenizer, first))
    copy_license(subject, folder)
    return Written(
        {CARD: findings},
        logits=tuple(logits),
        tokens=tuple(tokens),
        tasks=tuple(tasks),
        notes=() if logits else (missing,),
    )


def _in_llama(
    subject: Subject, files: dict[GgufType, Path]
) -> tuple[list[LogitCheck], list[TokenCheck]]:
    python = interpreter()
    if python is None:
        return [], []
    prompts = golden_inputs(subject.run, subject.recipe, subject.base_path)
    reference = reference_of(load_base(subject.run.merged, "float32"), prompts)
    tokenizer = load_tokenizer(subject.run.merged)
    checks = [
        check_in_llama(python, file, kind, reference, tokenizer, prompts)
        for kind, file in files.items()
    ]
    return [logits for logits, _ in checks], [tokens for _, tokens in checks]


def _task_costs(subject: Subject, files: dict[GgufType, Path]) -> list[TaskCost]:
    """What llama.cpp answers to questions with a closed label set."""
    python, task = interpreter(), subject.task
    if python is None or task is None or task.questions.labels is None:
        return []
    before = trained_answers(subject, task)
    costs = []
    for kind, file in files.items():
        logprobs = label_logprobs_in_llama(python, file, task.questions)
        after = (logprobs.argmax(1) == np.array(task.questions.truth)).tolist()
        costs.append(task_cost(f"llama.cpp, {kind}", before, after))
    return costs


def _sentence(check: LogitCheck) -> str:
    return (
        f"{check.what}: on {check.num_tokens:,} positions mean KL {check.mean_kl:.1e} nats against the "
        f"merged model in float32, the same most likely token at {check.top1_agreement:.2%}, perplexity "
        f"{check.perplexity:.4g} ({check.reference_perplexity:.4g} in transformers)."
    )


def _token_sentence(check: TokenCheck) -> str:
    greedy = "the same" if check.greedy_equal else "not the same (a near tie turned)"
    return (
        f"{check.what}: {check.num_texts} texts read to the same tokens; {check.num_greedy} tokens "
        f"generated greedily are {greedy}."
    )


def _modelfile(subject: Subject, tokenizer: PreTrainedTokenizerBase, file: str) -> str:
    data = subject.recipe.data
    plain = subject.run.data.exists() and DataFile.read(subject.run.data).format == "text"
    if plain:
        return modelfile(tokenizer, file, None, [tokenizer.eos_token], "{{ .Prompt }}")
    ends = [Renderer(tokenizer, data.template).end_of_turn, tokenizer.eos_token]
    stops = list(dict.fromkeys(filter(None, ends)))
    if data.template == "alpaca":
        template = ALPACA_PROMPT.replace("{instruction}", "{{ .Prompt }}")
        return modelfile(tokenizer, file, None, stops, template)
    return modelfile(tokenizer, file, data.system, stops)
