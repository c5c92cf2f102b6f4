"""How long base, base with adapter, and merged model take, in turns in one process."""

from __future__ import annotations

import copy
import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from doratune.adapter import load_adapter
from doratune.adapter.tuned import check_base
from doratune.base import (
    fingerprint,
    load_base,
    load_tokenizer,
    num_bytes,
    resolve_base,
    tensor_files,
)
from doratune.base.load import natural_dtype
from doratune.data import Renderer, read_examples
from doratune.data.questions import some_of
from doratune.errors import StorageError
from doratune.evaluate.latency_rounds import time_rounds
from doratune.progress import console
from doratune.recipe.evaluation import LatencySection
from doratune.recipe.schema import Recipe
from doratune.record.environment import read_environment
from doratune.record.files import digest_json, digest_path
from doratune.record.latency import (
    LatencyFile,
    LatencyModel,
    ModelLatency,
    PrefillFigures,
    Spread,
)
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Split

if TYPE_CHECKING:
    from doratune.evaluate.latency_rounds import Models

_NUM_PROMPTS = 200
"""Prompts whose median length is taken."""
_HEADROOM = 1.2
"""What a model takes over the size of its weights: a part twice while it is loaded, the key-value
cache and the activations of one sequence."""


class Prompts(NamedTuple):
    """What the models read."""

    split: Split
    median: int
    """Length of the split's prompts, in tokens."""
    ids: list[int]
    """All of them in a row."""

    def first(self, number: int, device: torch.device) -> torch.Tensor:
        """So many tokens, (1, number): the prompts again and again."""
        ids = itertools.islice(itertools.cycle(self.ids), number)
        return torch.tensor([list(ids)], device=device)


def measure_latency(run: RunFolder, recipe: Recipe) -> bool:
    """Measures the models in turns, round by round; writes ``latency.json``.

    Prefill is one pass over a prompt, up to the logits of its last position; decode is a greedy loop
    over the key-value cache. Both without ``generate``, whose own time is no model's.

    Returns:
        Whether anything was done; False when the figures are up to date, or none are wanted.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: Base or merged model cannot be loaded.
        StorageError: Adapter or merged model are not there yet, or a file cannot be written.
    """
    if recipe.eval.latency.seconds == 0:
        return False
    for folder, stage in ((run.adapter, "train"), (run.merged, "merge")):
        if not folder.is_dir():
            raise StorageError(f"{folder} does not exist. Run `doratune {stage}` first.")
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    settings = {
        "latency": recipe.eval.latency.model_dump(),
        "dtype": recipe.model.dtype,
        "template": recipe.data.template,
        "device": _device_name(),
        "threads": torch.get_num_threads(),
    }
    return run.run_stage(
        "latency",
        inputs={
            "base": fingerprint(base_path),
            "adapter": digest_path(run.adapter),
            "merged": digest_path(run.merged),
            "data": DataFile.read(run.data).digest,
            "settings": digest_json(settings),
        },
        outputs=[run.latency],
        work=lambda: _measure(run, recipe, base_path).write(run.latency),
    )


def _measure(run: RunFolder, recipe: Recipe, base_path: Path) -> LatencyFile:
    started = time.monotonic()
    settings = recipe.eval.latency
    dtype = natural_dtype(base_path) if recipe.model.dtype == "auto" else recipe.model.dtype
    prompts = _prompts(run, recipe, base_path)
    models, skipped = _load(run, base_path, dtype)
    for name, why in skipped.items():
        console.print(f"Latency: {name} is left out: {why}", markup=False, soft_wrap=True)
    lengths = _lengths(models, prompts, settings)
    inputs = [prompts.first(length, models["base"].device) for length in lengths]
    rounds = time_rounds(models, inputs, settings)
    return LatencyFile(
        device=_device_name(),
        num_threads=torch.get_num_threads(),
        dtype=dtype,
        num_rounds=len(rounds),
        num_decoded=settings.num_new_tokens,
        prompts_of=prompts.split,
        models={
            name: ModelLatency(
                num_bytes=sum(tensor.nbytes for tensor in model.parameters()),
                prefill=[
                    _prefill(length, [times[name].prefill[i] for times in rounds])
                    for i, length in enumerate(lengths)
                ],
                decode_milliseconds=_spread([times[name].decode for times in rounds]),
            )
            for name, model in models.items()
        },
        skipped=skipped,
        seconds=time.monotonic() - started,
    )


def _load(run: RunFolder, base_path: Path, dtype: str) -> tuple[Models, dict[LatencyModel, str]]:
    """The models that fit into memory together, all in one precision, and why others are left out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load_base(base_path, dtype).to(device)
    models: Models = {"base": base}
    skipped: dict[LatencyModel, str] = {}
    if (run.adapter / "adapter_config.json").exists():
        # Another module tree on the same weights: the memory of one model, and no adapter in the base.
        tensors = itertools.chain(base.parameters(), base.buffers())
        twin = copy.deepcopy(base, {id(tensor): tensor for tensor in tensors})
        models["sidecar"] = load_adapter(twin, run.adapter).to(device)
    else:
        check_base(base_path, run.adapter)
        skipped["sidecar"] = "full fine-tuning has no adapter; the merged model is the tuned one."
    needed = int(_HEADROOM * num_bytes(tensor_files(run.merged), base.dtype.itemsize))
    free = _free_bytes(device)
    if needed <= free:
        models["merged"] = load_base(run.merged, dtype).to(device)
    else:
        skipped["merged"] = (
            f"it would take about {needed:,} bytes beside the base, and {free:,} are free. "
            "It has the layers of the base, and takes the base's time."
        )
    return models, skipped


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _prompts(run: RunFolder, recipe: Recipe, base_path: Path) -> Prompts:
    """Those of the test split, or of the first one that has any."""
    splits = DataFile.read(run.data).splits
    order: tuple[Split, ...] = ("test", "validation", "train")
    split = next(name for name in order if name in splits and splits[name].num_examples)
    renderer = Renderer(load_tokenizer(base_path), recipe.data.template)
    rendered = [
        renderer.prompt(example.prompt, example.tools)
        # Plain text is prompt and answer in one.
        if example.prompt
        else renderer.example(example.messages).input_ids
        for example in some_of(read_examples(run, split), _NUM_PROMPTS)
    ]
    return Prompts(
        split,
        median=int(np.median([len(ids) for ids in rendered])),
        ids=[token for ids in rendered for token in ids],
    )


def _lengths(models: Models, prompts: Prompts, settings: LatencySection) -> list[int]:
    """The median, and the long one as far as the model goes."""
    config = models["base"].config.get_text_config()
    longest = settings.long_prompt
    if positions := getattr(config, "max_position_embeddings", None):
        longest = min(longest, positions - settings.num_new_tokens)
    return sorted({prompts.median, max(prompts.median, longest)})


def _prefill(length: int, seconds: list[float]) -> PrefillFigures:
    return PrefillFigures(
        num_tokens=length,
        milliseconds=_spread(seconds),
        tokens_per_second=length / float(np.median(seconds)),
    )


def _spread(seconds: list[float]) -> Spread:
    p20, median, p80 = (1000 * np.quantile(seconds, [0.2, 0.5, 0.8])).tolist()
    return Spread(median=median, p20=p20, p80=p80)


def _device_name() -> str:
    environment = read_environment()
    return environment.cpu if environment.device == "cpu" else environment.device
