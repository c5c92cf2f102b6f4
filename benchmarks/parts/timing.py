"""Providers take turns in one process, so that a slow minute of the machine slows them all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

SAMPLE_SECONDS = 0.02
"""Short work is repeated until a sample takes about this long, 1000 times what a launch costs."""


class Action(NamedTuple):
    """What is timed, and what must happen between two timed runs without being timed."""

    run: Callable[[], object]
    after: Callable[[], object] = lambda: None


def take_turns(
    actions: Mapping[str, Action], seconds: float, device: str, min_rounds: int = 3
) -> dict[str, list[float]]:
    """Seconds of one run of every action, one figure a round.

    The order rotates from round to round. All actions repeat equally often within a sample.

    Args:
        actions: By provider.
        seconds: Rounds go on until this much time has passed, warm-up included.
        device: ``"cpu"`` or ``"cuda"``.
        min_rounds: Rounds that are made however long they take.
    """
    sample = _sample_cuda if device == "cuda" else _sample_cpu
    started = time.perf_counter()
    for action in actions.values():  # compiles, allocates
        sample(action, 1)
    repeats = 1
    if device == "cuda" or time.perf_counter() - started < len(actions):  # long work needs none
        fastest = min(sample(action, 1) for action in actions.values())
        repeats = max(1, math.ceil(SAMPLE_SECONDS / fastest))
    names = list(actions)
    samples: dict[str, list[float]] = {name: [] for name in names}
    rounds = 0
    while rounds < min_rounds or time.perf_counter() - started < seconds:
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(sample(actions[name], repeats))
        rounds += 1
    return samples


def _sample_cpu(action: Action, repeats: int) -> float:
    total = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        action.run()
        total += time.perf_counter() - started
        action.after()
    return total / repeats


def _sample_cuda(action: Action, repeats: int) -> float:
    """Between events on the stream, which is never waited for within a sample, as in training."""
    marks = []
    torch.cuda.synchronize()
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        action.run()
        end.record()
        action.after()
        marks.append((start, end))
    torch.cuda.synchronize()
    return sum(start.elapsed_time(end) for start, end in marks) / 1000 / repeats
