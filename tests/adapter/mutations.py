"""Ways in which an adapter folder can be wrong, drawn at random.

Every way is of one of two kinds. What *shows* can be seen in the folder or beside the base: it must be
refused, or change nothing. What is only *numbers* makes another adapter that is as good a folder as
the first one: without a record nobody can tell, and then the folder must be applied as it is written.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
START = "base_model.model."


class Seeds(NamedTuple):
    """Whole folders that mutations start from or take parts of."""

    adapter: Path
    other_training: Path
    """Same base and shapes, other numbers."""
    other_base: Path
    """Same shapes, trained on another base."""
    lora: Path
    """Same shapes, no magnitudes."""


Change = Callable[[Path, Seeds, random.Random], None]


class Mutation(NamedTuple):
    change: Change
    shows: bool


MUTATIONS: dict[str, Mutation] = {}


def mutation(shows: bool = True) -> Callable[[Change], Change]:
    def add(change: Change) -> Change:
        MUTATIONS[change.__name__] = Mutation(change, shows)
        return change

    return add


def on_tensors(
    name: str, change: Callable[[Tensors, random.Random], object], shows: bool = True
) -> None:
    def apply(folder: Path, _: Seeds, draw: random.Random) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors, draw)
        whole = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
        save_file(whole, folder / "new")
        (folder / "new").replace(folder / WEIGHTS)

    MUTATIONS[name] = Mutation(apply, shows)


def on_config(
    name: str, change: Callable[[dict[str, Any], random.Random], object], shows: bool = True
) -> None:
    def apply(folder: Path, _: Seeds, draw: random.Random) -> None:
        config = json.loads((folder / CONFIG).read_text())
        change(config, draw)
        (folder / CONFIG).write_text(json.dumps(config))

    MUTATIONS[name] = Mutation(apply, shows)


def pick(tensors: Tensors, draw: random.Random, part: str = "") -> str:
    return draw.choice(sorted(key for key in tensors if part in key))


def index(tensor: torch.Tensor, draw: random.Random) -> tuple[int, ...]:
    return tuple(draw.randrange(size) for size in tensor.shape)


# Bytes.


def on_bytes(file: str, change: Callable[[bytearray, random.Random], object]) -> Change:
    def apply(folder: Path, _: Seeds, draw: random.Random) -> None:
        data = bytearray((folder / file).read_bytes())
        change(data, draw)
        (folder / file).write_bytes(data)

    return apply


def flip(data: bytearray, draw: random.Random, low: int = 0, high: int | None = None) -> None:
    place = draw.randrange(low, len(data) if high is None else high)
    data[place] ^= 1 << draw.randrange(8)


def header_end(data: bytearray) -> int:
    return 8 + struct.unpack("<Q", data[:8])[0]


def flip_in_header(data: bytearray, draw: random.Random) -> None:
    flip(data, draw, 0, header_end(data))


def byte_in_header(data: bytearray, draw: random.Random) -> None:
    data[draw.randrange(header_end(data))] = draw.randrange(256)


def flip_in_numbers(data: bytearray, draw: random.Random) -> None:
    flip(data, draw, header_end(data))


def zeros_in_numbers(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(header_end(data), len(data) - 64)
    data[place : place + 64] = bytes(64)


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def huge_header(data: bytearray, draw: random.Random) -> None:
    data[:8] = struct.pack("<Q", draw.choice([2**63, 2**40, 10**8 + 1, len(data) * 2]))


for each in (flip_in_header, byte_in_header, cut, huge_header):
    MUTATIONS[each.__name__] = Mutation(on_bytes(WEIGHTS, each), shows=False)
for each in (flip_in_numbers, zeros_in_numbers):
    MUTATIONS[each.__name__] = Mutation(on_bytes(WEIGHTS, each), shows=False)
MUTATIONS["tail_on_weights"] = Mutation(on_bytes(WEIGHTS, lambda d, _: d.extend(b"x" * 9)), True)
MUTATIONS["flip_in_config"] = Mutation(on_bytes(CONFIG, flip), shows=False)
MUTATIONS["cut_config"] = Mutation(on_bytes(CONFIG, cut), shows=True)


# Keys.

on_tensors("drop_a_tensor", lambda t, d: t.pop(pick(t, d)))
on_tensors("drop_a_magnitude", lambda t, d: t.pop(pick(t, d, "magnitude")))
on_tensors(
    "drop_all_magnitudes", lambda t, _: [t.pop(key) for key in list(t) if "magnitude" in key]
)


def drop_a_layer(tensors: Tensors, draw: random.Random) -> None:
    layer = pick(tensors, draw).rpartition(".lora_")[0]
    for key in [key for key in tensors if key.startswith(f"{layer}.")]:
        tensors.pop(key)


on_tensors("drop_a_layer", drop_a_layer)
RENAMES: dict[str, Callable[[str], str]] = {
    "without_prefix": lambda key: key.removeprefix(START),
    "prefix_twice": lambda key: START + key,
    "with_default": lambda key: re.sub(r"(lora_[AB]|vector)", r"\1.default", key),
    "other_module": lambda key: key.replace("self_attn", "attn"),
    "layer_beyond": lambda key: re.sub(r"layers\.\d", "layers.7", key),
    "other_projection": lambda key: key.replace("_proj", "_projection"),
    "as_kohya": lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
    "as_lycoris": lambda key: key.replace("lora_magnitude_vector", "dora_scale"),
    "as_ai_toolkit": lambda key: key.replace("lora_magnitude_vector", "magnitude"),
    "no_suffix": lambda key: key.removesuffix(".weight"),
    "suffix": lambda key: key + ("" if key.endswith(".weight") else ".weight"),
    "upper": str.upper,
    "as_embedding": lambda key: key.replace("lora_", "lora_embedding_"),
    "as_bias": lambda key: key.replace("lora_B.weight", "lora_B.bias"),
}


def rename(name: str, one: bool) -> None:
    def change(tensors: Tensors, draw: random.Random) -> None:
        keys = [key for key in sorted(tensors) if RENAMES[name](key) != key]
        for key in [draw.choice(keys)] if one else keys:
            tensors[RENAMES[name](key)] = tensors.pop(key)

    on_tensors(f"rename_{'one' if one else 'all'}_{name}", change)


for each_name in RENAMES:
    rename(each_name, one=True)
    rename(each_name, one=False)
on_tensors(
    "add_another_method", lambda t, d: t.update({pick(t, d)[:-8] + "C.weight": torch.ones(2)})
)
on_tensors(
    "add_base_weight", lambda t, _: t.update({f"{START}model.norm.weight": 1.5 * torch.ones(32)})
)
on_tensors("add_unknown", lambda t, _: t.update({"optimizer.state": torch.ones(3)}))
on_tensors(
    "add_a_layer",
    lambda t, d: t.update({f"{START}lm_head.lora_A.weight": torch.ones(4, 32)}),
)
on_tensors("nothing_left", lambda t, _: t.clear())


def swap(part: str) -> Callable[[Tensors, random.Random], None]:
    def change(tensors: Tensors, draw: random.Random) -> None:
        one = pick(tensors, draw, part)
        same = [k for k in sorted(tensors) if part in k and k != one]
        other = draw.choice([key for key in same if tensors[key].shape == tensors[one].shape])
        tensors[one], tensors[other] = tensors[other], tensors[one]

    return change


on_tensors("swap_magnitudes", swap("magnitude"), shows=False)
on_tensors("swap_factors", swap("lora_A"), shows=False)


# Shapes and numbers.


def reshape(change: Callable[[torch.Tensor], torch.Tensor], part: str) -> Any:
    def apply(tensors: Tensors, draw: random.Random) -> None:
        key = pick(tensors, draw, part)
        tensors[key] = change(tensors[key])

    return apply


def value(number: float, part: str = "") -> Any:
    def apply(tensors: Tensors, draw: random.Random) -> None:
        tensor = tensors[pick(tensors, draw, part)]
        tensor[index(tensor, draw)] = number

    return apply


def times(factor: float, part: str, whole: bool) -> Any:
    def apply(tensors: Tensors, draw: random.Random) -> None:
        tensor = tensors[pick(tensors, draw, part)]
        place = ... if whole else index(tensor, draw)
        tensor[place] *= factor

    return apply


on_tensors("magnitude_as_row", reshape(lambda m: m[None], "magnitude"))
on_tensors("magnitude_as_column", reshape(lambda m: m[:, None], "magnitude"))
on_tensors("magnitude_short", reshape(lambda m: m[1:], "magnitude"))
on_tensors("magnitude_one", reshape(lambda m: m[:1], "magnitude"))
on_tensors("magnitude_scalar", reshape(lambda m: m[0], "magnitude"))
on_tensors("factor_transposed", reshape(lambda a: a.T, "lora_A"))
on_tensors("factor_short", reshape(lambda a: a[:-1], "lora_A"))
on_tensors("factor_narrow", reshape(lambda a: a[:, :-1], "lora_A"))
on_tensors("output_short", reshape(lambda b: b[:-1], "lora_B"))
on_tensors("factor_flat", reshape(torch.flatten, "lora_"))
on_tensors("factor_deep", reshape(lambda a: a[..., None, None], "lora_A"))
on_tensors("factor_empty", reshape(lambda a: a[:0], "lora_A"))
for number in (math.nan, math.inf, -math.inf):
    on_tensors(f"one_{number}", value(number))
on_tensors("magnitude_zero", value(0.0, "magnitude"))
on_tensors("magnitude_huge", value(1e30, "magnitude"))
on_tensors("magnitude_turned", times(-1.0, "magnitude", whole=False))
on_tensors("magnitudes_turned", times(-1.0, "magnitude", whole=True))
on_tensors("magnitudes_zero", times(0.0, "magnitude", whole=True))
on_tensors("magnitude_times_32", times(32.0, "magnitude", whole=False))
on_tensors("magnitude_over_32", times(1 / 32, "magnitude", whole=False))
on_tensors("magnitudes_times_32", times(32.0, "magnitude", whole=True))
on_tensors("magnitude_times_1_1", times(1.1, "magnitude", whole=False), shows=False)
on_tensors("factor_times_2", times(2.0, "lora_A", whole=True), shows=False)
on_tensors("output_zero", times(0.0, "lora_B", whole=True), shows=False)
on_tensors("magnitudes_rolled", reshape(lambda m: m.roll(1), "magnitude"), shows=False)
on_tensors(
    "all_magnitudes_rolled",
    lambda t, _: t.update({key: m.roll(7) for key, m in t.items() if "magnitude" in key}),
)
on_tensors(
    "all_magnitudes_one",
    lambda t, _: t.update({key: m * 0 + 1 for key, m in t.items() if "magnitude" in key}),
)
for dtype in (torch.int8, torch.int64, torch.bool, torch.float64, torch.float8_e4m3fn):
    on_tensors(f"all_{dtype}", lambda t, _, d=dtype: t.update({k: v.to(d) for k, v in t.items()}))
for dtype in (torch.bfloat16, torch.float16):
    on_tensors(
        f"all_{dtype}",
        lambda t, _, d=dtype: t.update({k: v.to(d) for k, v in t.items()}),
        shows=False,
    )


# Configuration.

on_config("no_dora", lambda c, _: c.update(use_dora=False))
on_config("dora_left_out", lambda c, _: c.pop("use_dora"))
on_config("dora_as_word", lambda c, d: c.update(use_dora=d.choice(["true", "", 1, 0, None, []])))
on_config("other_rank", lambda c, d: c.update(r=d.choice([1, 2, 3, 5, 8, 4.5, "4", None, -4, 0])))
on_config("rank_left_out", lambda c, _: c.pop("r"))
on_config("other_alpha", lambda c, d: c.update(lora_alpha=d.choice([4, 7.5, 9, 16])), shows=False)
on_config(
    "no_alpha", lambda c, d: c.update(lora_alpha=d.choice([0, -8, None, "8", True, math.nan, [8]]))
)
on_config("alpha_left_out", lambda c, _: c.pop("lora_alpha"))
on_config("rslora", lambda c, _: c.update(use_rslora=True), shows=False)
on_config("rslora_as_word", lambda c, d: c.update(use_rslora=d.choice(["no", 1, {}])))
on_config("fan_in", lambda c, _: c.update(fan_in_fan_out=True))
on_config(
    "rank_pattern", lambda c, d: c.update(rank_pattern={"q_proj": d.choice([2, 0, "4", None])})
)
on_config(
    "alpha_pattern", lambda c, _: c.update(alpha_pattern={"q_proj": 3, "1.mlp.up_proj": 20}), False
)
on_config("broken_pattern", lambda c, _: c.update(alpha_pattern={"q_proj(": 3}))
on_config(
    "targets",
    lambda c, d: c.update(target_modules=d.choice([[], None, "", 3, ["q_proj"], "(", ".*q"])),
)
on_config("a_target_less", lambda c, d: c["target_modules"].remove(d.choice(c["target_modules"])))
on_config(
    "a_target_more", lambda c, d: c["target_modules"].append(d.choice(["lm_head", "norm", ""]))
)
on_config("layers_to_transform", lambda c, d: c.update(layers_to_transform=d.choice([[0], 1, [7]])))
on_config(
    "exclude_modules", lambda c, d: c.update(exclude_modules=d.choice([["q_proj"], ".*mlp.*"]))
)
on_config(
    "modules_to_save", lambda c, d: c.update(modules_to_save=d.choice([["norm"], ["q_proj"]]))
)
on_config("bias", lambda c, d: c.update(bias=d.choice(["some", 1, None])))
on_config("peft_type", lambda c, d: c.update(peft_type=d.choice(["LOHA", "lora", None, "ADALORA"])))
on_config("peft_type_left_out", lambda c, _: c.pop("peft_type"))
on_config(
    "init",
    lambda c, d: c.update(
        init_lora_weights=d.choice(["pissa", "olora", "corda", "loftq", "x", None])
    ),
)
SETTINGS: dict[str, Any] = {
    "layer_replication": [[0, 2], [1, 2]],
    "use_qalora": True,
    "alora_invocation_tokens": [3],
    "trainable_token_indices": [1],
    "target_parameters": ["x"],
    "lora_bias": True,
    "megatron_config": {"a": 1},
    "kasa_config": {"a": 1},
    "arrow_config": {"top_k": 2},
    "use_bdlora": {"nblocks": 2},
    "ensure_weight_tying": True,
    "use_future": True,
}
on_config("a_setting_more", lambda c, d: c.update([d.choice(sorted(SETTINGS.items(), key=str))]))
on_config("harmless", lambda c, d: c.update(d.choice([{"lora_dropout": 0.3}, {"revision": "x"}])))
on_config("a_key_less", lambda c, d: c.pop(d.choice(sorted(c))), shows=False)
on_config("task_type", lambda c, d: c.update(task_type=d.choice(["SEQ_CLS", "NONE", 3, None])))
on_config(
    "nonsense",
    lambda c, d: c.update({d.choice(sorted(c)): d.choice([7, "x", [1], {"a": 1}])}),
    False,
)


@mutation()
def not_json(folder: Path, _: Seeds, draw: random.Random) -> None:
    texts = ["", "[]", "null", "{", "3", '"LORA"', "[" * 100_000, "\x00"]
    (folder / CONFIG).write_text(draw.choice(texts))


# Files.


@mutation()
def no_config(folder: Path, _: Seeds, draw: random.Random) -> None:
    (folder / CONFIG).unlink()


@mutation()
def no_weights(folder: Path, _: Seeds, draw: random.Random) -> None:
    (folder / WEIGHTS).unlink()


@mutation()
def empty_file(folder: Path, _: Seeds, draw: random.Random) -> None:
    (folder / draw.choice([WEIGHTS, CONFIG])).write_bytes(b"")


@mutation()
def pickle(folder: Path, _: Seeds, draw: random.Random) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / draw.choice(["adapter_model.bin", "adapter_model.pt"]))


@mutation()
def pickle_in_disguise(folder: Path, _: Seeds, draw: random.Random) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "new")  # the tensors lie in the old file
    (folder / "new").replace(folder / WEIGHTS)


@mutation()
def weights_are_a_folder(folder: Path, _: Seeds, draw: random.Random) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


@mutation()
def dangling_link(folder: Path, _: Seeds, draw: random.Random) -> None:
    name = draw.choice([WEIGHTS, CONFIG])
    (folder / name).unlink()
    (folder / name).symlink_to(draw.choice(["gone", name, "/dev/null"]))


@mutation()
def link_to_the_same(folder: Path, seeds: Seeds, draw: random.Random) -> None:
    name = draw.choice([WEIGHTS, CONFIG])
    (folder / name).unlink()
    (folder / name).symlink_to(seeds.adapter / name)


@mutation(shows=False)
def weights_of_other_training(folder: Path, seeds: Seeds, draw: random.Random) -> None:
    shutil.copyfile(seeds.other_training / WEIGHTS, folder / WEIGHTS)


@mutation(shows=False)
def config_of_other_training(folder: Path, seeds: Seeds, draw: random.Random) -> None:
    shutil.copyfile(seeds.other_training / CONFIG, folder / CONFIG)


@mutation()
def weights_of_other_base(folder: Path, seeds: Seeds, draw: random.Random) -> None:
    shutil.copyfile(seeds.other_base / WEIGHTS, folder / WEIGHTS)


@mutation()
def weights_of_lora(folder: Path, seeds: Seeds, draw: random.Random) -> None:
    shutil.copyfile(seeds.lora / WEIGHTS, folder / WEIGHTS)


@mutation()
def config_of_lora(folder: Path, seeds: Seeds, draw: random.Random) -> None:
    shutil.copyfile(seeds.lora / CONFIG, folder / CONFIG)


@mutation()
def record_edited(folder: Path, _: Seeds, draw: random.Random) -> None:
    file = folder / "doratune.json"
    record = json.loads(file.read_text()) if file.exists() else {"method": "dora"}
    key = draw.choice(["base_fingerprint", "files", "schema_version", "method", "extra"])
    record[key] = draw.choice(["0" * 64, 2, {"adapter_config.json": "0"}, None])
    file.write_text(json.dumps(record))


@mutation()
def record_left_out(folder: Path, _: Seeds, draw: random.Random) -> None:
    (folder / "doratune.json").unlink(missing_ok=True)


@mutation()
def files_beside(folder: Path, _: Seeds, draw: random.Random) -> None:
    torch.save({"a": torch.ones(1)}, folder / "training_args.bin")
    (folder / "README.md").write_text("other words")


def mutate(folder: Path, seeds: Seeds, seed: int) -> str:
    """Copies the seed adapter to ``folder``, spoils it, and says how."""
    draw = random.Random(seed)
    name = sorted(MUTATIONS)[seed % len(MUTATIONS)]
    shutil.copytree(seeds.adapter, folder)
    MUTATIONS[name].change(folder, seeds, draw)
    os.utime(folder)
    return name
