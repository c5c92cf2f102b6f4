"""An ``export.json`` of plausible figures."""

from __future__ import annotations

from typing import Any

from doratune.record.export import (
    Approximation,
    ExportedFile,
    ExportedForm,
    ExportFile,
    Form,
    LayerApproximation,
    LogitCheck,
    RankError,
    TaskCost,
    TokenCheck,
)
from doratune.record.files import digest_json
from doratune.record.quantized import CalibrationData, LayerQuantization, Quantized
from doratune.record.verification import FormCheck, FormsFile


def form(name: Form, files: dict[str, int], **fields: Any) -> ExportedForm:
    """A form with its files and their sizes."""
    settings: dict[str, Any] = {
        "form": name,
        "approximate": name == "lora",
        "base_fingerprint": digest_json("base"),
        "adapter_digest": digest_json("adapter"),
        "files": [
            ExportedFile(name=file, num_bytes=size, sha256=digest_json(file))
            for file, size in files.items()
        ],
    }
    return ExportedForm.model_validate({**settings, **fields})


def approximation(num_layers: int = 30) -> Approximation:
    """Plain LoRA of rank 32, whose later layers are the worse ones."""
    return Approximation(
        rank=32,
        delta_error=0.164,
        weight_error=0.0016,
        without_magnitude=RankError(rank=16, delta_error=0.185, weight_error=0.0018),
        ranks=[
            RankError(rank=rank, delta_error=delta, weight_error=delta / 100)
            for rank, delta in ((8, 0.304), (16, 0.18), (32, 0.164), (64, 0.142))
        ],
        layers=[
            LayerApproximation(
                layer=f"model.layers.{i}.mlp.up_proj",
                delta_error=0.1 + 0.01 * i,
                weight_error=0.001 + 0.0001 * i,
            )
            for i in range(num_layers)
        ],
    )


def int4(num_layers: int = 30) -> Quantized:
    """Weights in 4 bits, of which every layer clips a few and loses one norm."""
    return Quantized(
        type="int4",
        library="auto-round 0.13.2",
        group_size=128,
        num_bytes=92_000_000,
        num_bytes_merged=269_000_000,
        calibration=CalibrationData(num_examples=128, num_tokens=9_000, digest=digest_json("ids")),
        weight_error=0.0731,
        layers=[
            LayerQuantization(
                layer=f"model.layers.{i}.mlp.up_proj",
                weight_error=0.07,
                norm_error=0.02,
                norm_limit=0.03,
                num_rows=1536,
                num_rows_beyond=1,
                num_weights=884_736,
                num_clipped=5,
            )
            for i in range(num_layers)
        ],
    )


def logits(what: str, **fields: Any) -> LogitCheck:
    """Logits of a form that differ a little."""
    settings: dict[str, Any] = {
        "what": what,
        "against": "sidecar",
        "num_tokens": 2431,
        "max_abs_difference": 0.91,
        "mean_abs_difference": 0.06,
        "mean_kl": 0.0013,
        "max_kl": 0.041,
        "top1_agreement": 0.988,
    }
    return LogitCheck.model_validate({**settings, **fields})


def export_file() -> ExportFile:
    """Five forms; one of them was not run by the engine it is for."""
    q8_0 = logits(
        "llama.cpp, q8_0",
        against="merged",
        mean_kl=0.0053,
        perplexity=24.46,
        reference_perplexity=24.29,
        thresholds={"mean_kl": 0.0122, "top1_agreement": 0.912},
    )
    forms = [
        form("peft", {"adapter_model.safetensors": 20_412_544, "README.md": 2_900}),
        form(
            "lora",
            {"adapter_model.safetensors": 39_100_000, "approximation.json": 31_000},
            approximation=approximation(),
            logits=[logits("PEFT, float32")],
            tasks=[
                TaskCost(
                    what="plain LoRA",
                    num_examples=120,
                    num_right=112,
                    num_right_approximate=110,
                    num_lost=3,
                    num_gained=1,
                )
            ],
        ),
        form(
            "gguf",
            {"clauses-dora-q8_0.gguf": 144_811_072, "Modelfile": 512},
            logits=[q8_0],
            tokens=[
                TokenCheck(what="llama.cpp, q8_0", num_texts=31, num_greedy=32, greedy_equal=True)
            ],
        ),
        form(
            "quantized",
            {"int4/model.safetensors": 92_000_000},
            approximate=True,
            quantized=[int4()],
        ),
        form("bundle", {"dora_scale.safetensors": 480_000}, notes=["No engine was asked."]),
    ]
    return ExportFile(forms={one.form: one for one in forms})


def forms_file() -> FormsFile:
    """Two forms as their users load them."""
    q8_0 = export_file().forms["gguf"].logits[0]
    scaled = logits("bundle, float32", mean_kl=0.00002, thresholds={"mean_kl": 0.0001})
    return FormsFile(
        checks={
            "clauses-dora-q8_0.gguf": FormCheck(
                form="gguf", approximate=False, logits=q8_0, inputs=digest_json("gguf")
            ),
            "bundle": FormCheck(
                form="bundle",
                approximate=False,
                logits=scaled,
                inputs=digest_json("bundle"),
            ),
        }
    )
