"""Models timed in turns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from doratune.progress import progress_bar
from doratune.recipe.evaluation import LatencySection
from doratune.record.latency import LatencyModel

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    Models = dict[LatencyModel, PreTrainedModel | PeftModel]

MIN_ROUNDS, MAX_ROUNDS = 3, 20
"""Rounds after the first, which warms up and does not count."""


class Times(NamedTuple):
    """One model in one round, in seconds."""

    prefill: list[float]
    """For each length of prompt."""
    decode: float
    """For a token."""


def time_rounds(
    models: Models, inputs: list[torch.Tensor], settings: LatencySection
) -> list[dict[LatencyModel, Times]]:
    """Every model in every round; who begins changes, so that none always has the warmer machine.

    Args:
        models: All on one device, in eval mode.
        inputs: Prompts to read, (1, length), the shortest first: decoding goes on from it.
        settings: Say for how long.

    Returns:
        The times of all rounds but the first.
    """
    names = list(models)
    rounds: list[dict[LatencyModel, Times]] = []
    started = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("Measuring latency", total=settings.seconds, note="")
        while True:
            at = len(rounds) % len(names)
            rounds.append(
                {
                    name: time_once(models[name], inputs, settings.num_new_tokens)
                    for name in names[at:] + names[:at]
                }
            )
            passed = time.monotonic() - started
            bar.update(task, completed=int(min(passed, settings.seconds)))
            done = len(rounds) - 1
            if done >= MIN_ROUNDS and (passed >= settings.seconds or done >= MAX_ROUNDS):
                return rounds[1:]


@torch.inference_mode()
def time_once(
    model: PreTrainedModel | PeftModel, inputs: list[torch.Tensor], num_new_tokens: int
) -> Times:
    """One model in one round."""
    prefill: list[float] = []
    for ids in reversed(inputs):  # the answer goes on from the shortest
        started = _now(model.device)
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        prefill.insert(0, _now(model.device) - started)
    started = _now(model.device)
    for _ in range(num_new_tokens):
        output = model(
            input_ids=output.logits[:, -1:].argmax(-1),
            past_key_values=output.past_key_values,
            use_cache=True,
        )
    return Times(prefill, (_now(model.device) - started) / num_new_tokens)


def _now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
