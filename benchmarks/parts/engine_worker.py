"""Training steps of one engine's models, in that engine's own environment, on command.

Runs in any interpreter that has the engine; needs nothing of this repository. `benchmarks/engines.py`
starts it with what to load as JSON, then writes one request a line and reads one answer a line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def with_peft(folder: str, r: int, dora: bool) -> Any:
    """PEFT's adapters on transformers' model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    options = {"lora_alpha": 2 * r, "lora_dropout": 0.0, "target_modules": TARGETS}
    config = LoraConfig(task_type="CAUSAL_LM", r=r, use_dora=dora, **options)
    return get_peft_model(base, config)


def with_doratune(folder: str, r: int, dora: bool) -> Any:
    """The same with fast layers."""
    import doratune

    model = with_peft(folder, r, dora)
    doratune.enable_fast_dora(model)
    return model


def with_unsloth(folder: str, r: int, dora: bool) -> Any:
    """Unsloth's loss and adapters. Its default would recompute every layer in the backward pass."""
    import torch
    from unsloth import FastLanguageModel

    options = {"use_gradient_checkpointing": False}
    base, _ = FastLanguageModel.from_pretrained(
        folder, max_seq_length=128, dtype=torch.float32, load_in_4bit=False, **options
    )
    options |= {"lora_alpha": 2 * r, "lora_dropout": 0.0, "target_modules": TARGETS}
    return FastLanguageModel.get_peft_model(base, r=r, use_dora=dora, **options)


def with_axolotl(folder: str, r: int, dora: bool) -> Any:
    """Axolotl's model of a recipe. Its fused MLP is Triton code for CUDA, so it is off."""
    os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
    import yaml
    from axolotl.cli.config import load_cfg
    from axolotl.train import setup_model_and_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        recipe = {
            "base_model": folder,
            "adapter": "lora",
            "peft_use_dora": dora,
            "lora_r": r,
            "lora_alpha": 2 * r,
            "lora_dropout": 0.0,
            "lora_target_linear": True,
            **dict.fromkeys(("lora_qkv_kernel", "lora_o_kernel"), True),
            **dict.fromkeys(
                ("lora_mlp_kernel", "bf16", "fp16", "tf32", "gradient_checkpointing"), False
            ),
            "datasets": [{"path": "never read", "type": "completion"}],
            "sequence_len": 128,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "num_epochs": 1,
            "learning_rate": 1e-6,
            "optimizer": "adamw_torch_fused",
            "output_dir": scratch,
        }
        path = Path(scratch) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return setup_model_and_tokenizer(load_cfg(str(path)))[0]


ENGINES: dict[str, Callable[[str, int, bool], Any]] = {
    "peft": with_peft,
    "doratune": with_doratune,
    "unsloth": with_unsloth,
    "axolotl": with_axolotl,
}


def serve(plan: dict[str, Any], requests: Iterator[str], answer: Callable[[Any], None]) -> None:
    """Loads, answers with the versions, then serves ``first`` and ``step``.

    Args:
        plan: ``engine``, ``folder`` of the checkpoint, ``ids`` of the tokens, ``r``, ``threads``, and
            ``starts``: by method, "LoRA" or "DoRA", a safetensors file with where its adapter starts.
        requests: Lines of JSON, ``[what, method]``.
        answer: Sends one answer.
    """
    if plan["engine"] == "unsloth":
        import unsloth  # noqa: F401  # wants to be before transformers
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(plan["threads"])
    ids = torch.tensor(plan["ids"])
    models, optimizers = {}, {}
    for method, start in plan["starts"].items():
        model = ENGINES[plan["engine"]](plan["folder"], plan["r"], method == "DoRA").train()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        values = load_file(start)
        if odd := set(trained) ^ set(values):
            raise ValueError(f"{method}: trained here or started from, not both: {sorted(odd)[:4]}")
        with torch.no_grad():
            for name, value in values.items():
                trained[name].copy_(value)
        models[method] = model
        optimizers[method] = torch.optim.AdamW(trained.values(), lr=1e-6, fused=True)
    packages = dict.fromkeys((plan["engine"], "peft", "transformers", "torch"))
    answer({package: metadata.version(package) for package in packages})
    for request in requests:
        what, method = json.loads(request)
        model, optimizer = models[method], optimizers[method]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if what == "step":
            optimizer.step()
        found = {"loss": loss.item()}
        if what == "first":
            for kind in ("lora_A", "lora_B", "magnitude"):
                named = model.named_parameters()
                grads = [p.grad.norm() for n, p in named if kind in n and p.requires_grad]
                if grads:
                    found[f"gradient of {kind}"] = torch.stack(grads).norm().item()
        optimizer.zero_grad()
        answer(found)


def main() -> None:
    """Serves on stdin and what stdout was: engines print, which must not get between the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    serve(json.loads(Path(sys.argv[1]).read_text()), iter(sys.stdin.readline, ""), answer)


if __name__ == "__main__":
    main()
