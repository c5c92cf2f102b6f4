"""Which launch settings are fastest on this GPU? Prints the table; --write puts it into the repository.

    python benchmarks/tune_kernels.py --write

Every candidate is first compared with the eager backend and takes part only if it agrees. For one row of
the table the winner is the candidate with the least geometric mean of times, relative to the best of
each shape, over the shapes that the row stands for. Rows of other architectures are kept.

    TRITON_INTERPRET=1 python benchmarks/tune_kernels.py --smoke     runs it without a GPU, for no figure
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from doratune.ops import launch, launch_table
from doratune.ops.dora_linear import eager
from doratune.ops.launch_table import LAST, TABLE, Key

Settings = dict[str, int]
Run = Callable[[], Tensor]

FEATURES = [(4096, 4096), (4096, 1024), (14336, 4096), (4096, 14336)]
"""(O, I) of a Llama 8B layer: q and o, k and v, gate and up, down."""
TOKENS = {1024: [1, 512, 1024], LAST: [2048, 4096, 16384]}
RANKS = {64: [8, 16, 64], LAST: [128]}
WIDTHS = {2: torch.bfloat16, 4: torch.float32}


def candidates(kernel: str, width: int) -> Iterator[Settings]:
    """Settings worth a try; the compiler refuses some."""
    warps = [4, 8]
    if kernel == "scale_up":
        for t, o, w in itertools.product([16, 32, 64, 128], [64, 128, 256], warps):
            if t * o <= 16384:
                yield {"BLOCK_T": t, "BLOCK_O": o, "BLOCK_R": 128 // width, "num_warps": w}
    elif kernel == "scale_grad":
        for t, o, s, w in itertools.product(
            [8, 16, 32], [64, 128, 256], [64, 128, 256, 512], warps
        ):
            if t * o <= 8192:
                yield {"BLOCK_T": t, "BLOCK_O": o, "BLOCK_S": s, "num_warps": w}
    elif kernel == "dropout":
        for block, w in itertools.product([1024, 2048, 4096, 8192], warps):
            yield {"BLOCK": block, "num_warps": w}
    else:
        for o, r, w in itertools.product([16, 32, 64], [16, 32], warps):
            yield {"BLOCK_O": o, "BLOCK_R": r, "BLOCK_I": 64, "num_warps": w}


def cases(kernel: str, dtype: torch.dtype, limit: int, smoke: bool) -> Iterator[tuple[Run, Run]]:
    """The kernel and its eager twin on every shape for which a row of the table stands."""
    device = "cpu" if smoke else "cuda"
    shapes = [(100, 60)] if smoke else FEATURES
    tokens = [t for ts in TOKENS.values() for t in ts]
    if kernel == "scale_grad":
        tokens = TOKENS.get(limit, tokens)
    ranks = RANKS.get(limit, [r for rs in RANKS.values() for r in rs])
    for (O, I), T, R in itertools.product(
        shapes, [20] if smoke else tokens, ranks if kernel in {"scale_up", "finish_norm"} else [16]
    ):
        if kernel == "finish_norm" and not smoke and tokens[0] != T:
            continue
        yield case(kernel, T, O, I, R, dtype, device)


def case(
    kernel: str, T: int, O: int, I: int, R: int, dtype: torch.dtype, device: str
) -> tuple[Run, Run]:
    from doratune.ops.dora_linear import triton as kernels
    from doratune.ops.weight_norm.triton import finish_norm

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    g = torch.rand(O, device=device) + 0.5
    if kernel == "scale_up":
        y, h, gB = normal(T, O), normal(T, R), normal(O, R)
        # In place, again and again: |g| <= 1 keeps y finite.
        g = g.clamp_max(1)
        start = y.clone()

        def run(backend: object) -> Tensor:
            y.copy_(start) if not measuring else None
            backend.scale_up_(y, h, gB, g, None)  # type: ignore[attr-defined]
            return y

        return lambda: run(kernels), lambda: run(eager).clone()
    if kernel == "scale_grad":
        dy, y = normal(T, O), normal(T, O)
        return (
            lambda: kernels.scale_grad(dy, y, g, None, True)[1],
            lambda: eager.scale_grad(dy.float(), y.float(), g, None, True)[1],
        )
    if kernel == "dropout":
        x = normal(T, I)
        mask = kernels.draw_mask(x, 0.05)
        kept = kernels.dropout(x, 0.05, mask)
        return lambda: kernels.dropout(x, 0.05, mask), lambda: kept
    W, A, B = normal(O, I) / I**0.5, normal(R, I) / I**0.5, 0.1 * normal(O, R)
    w2, product, gram = W.float().square().sum(1), W @ A.T, A.float() @ A.float().T
    zero = torch.zeros((), device=device)
    V = W.float() + 2 * B.float() @ A.float()
    return (
        lambda: finish_norm(w2, product, gram, B, 2.0, W, A, zero),
        lambda: V.norm(dim=1),
    )


measuring = False
"""Whether a run is timed; if not, in-place kernels start from fresh inputs."""


def seconds(run: Run, smoke: bool) -> float:
    """Median of 20 runs, each of which finds a cold L2 cache, as in training."""
    global measuring
    measuring = True
    times = []
    if smoke:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    else:
        flush = torch.empty(1 << 26, dtype=torch.float32, device="cuda")
        for _ in range(25):
            flush.zero_()
            start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start_event.record()
            run()
            end_event.record()
            torch.cuda.synchronize()
            times.append(start_event.elapsed_time(end_event) / 1e3)
        times = times[5:]
    measuring = False
    return statistics.median(times)


def agrees(run: Run, twin: Run, dtype: torch.dtype) -> bool:
    found, expected = run().float().clone(), twin().float()
    return bool((found - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm())


def tune(key: Key, smoke: bool) -> Settings:
    """The best settings for a row of the table, which it holds while they are tried."""
    kernel, _, width, limit = key
    dtype = WIDTHS[width]
    tried = list(candidates(kernel, width))[: 2 if smoke else None]
    ratios: dict[int, list[float]] = {number: [] for number in range(len(tried))}
    before = TABLE[key]
    for run, twin in cases(kernel, dtype, limit, smoke):
        times = {}
        for number in list(ratios):
            TABLE[key] = tried[number]
            try:
                if agrees(run, twin, dtype):
                    times[number] = seconds(run, smoke)
            except (RuntimeError, ValueError) as error:
                print(f"  {kernel} {tried[number]}: {type(error).__name__}: {str(error)[:80]}")
            if number not in times:
                del ratios[number]  # out for every shape
        for number, taken in times.items():
            ratios[number].append(math.log(taken / min(times.values())))
    TABLE[key] = before
    if not ratios:
        raise SystemExit(f"no candidate for {key} agrees with eager: nothing is written")
    best = min(ratios, key=lambda number: statistics.mean(ratios[number]))
    print(f"{key}: {tried[best]}, {math.exp(statistics.mean(ratios[best])) - 1:.1%} above the best")
    return tried[best]


def render(table: dict[Key, Settings], origin: str) -> str:
    """The text of launch_table.py with these rows and the place where they were measured."""
    text = Path(launch_table.__file__).read_text()
    rows = []
    for (kernel, architecture, width, limit), settings in table.items():
        values = ", ".join(f'"{name}": {value}' for name, value in settings.items())
        last = "LAST" if limit == LAST else limit
        rows.append(f'    ("{kernel}", {architecture}, {width}, {last}): {{{values}}},\n')
    head, _ = text.split("TABLE: ")
    head = re.sub(r"Origin: .*", f"Origin: {origin}.", head)
    return head + "TABLE: dict[Key, dict[str, int]] = {\n" + "".join(rows) + "}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--write", action="store_true", help="rewrite src/doratune/ops/launch_table.py"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="run on a CPU, in Triton's interpreter"
    )
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        raise SystemExit(
            "there is no GPU here: nothing to tune (--smoke runs the script without one)"
        )
    torch.manual_seed(0)
    device = torch.device("cpu" if options.smoke else "cuda", None if options.smoke else 0)
    architecture = launch._architecture(device)
    tuned = {
        key: tune(key, options.smoke) if key[1] == architecture else settings
        for key, settings in list(TABLE.items())
    }
    name = "the interpreter" if options.smoke else torch.cuda.get_device_name()
    text = render(tuned, f"sm{architecture} measured on {name}, torch {torch.__version__}")
    if options.write and not options.smoke:
        Path(launch_table.__file__).write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
