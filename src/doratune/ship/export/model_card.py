"""README.md of an exported form: what it is, how good it is, what it was made from, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from doratune import __version__
from doratune.record.evaluation import METRICS, EvalFile, Interval
from doratune.record.export import Form
from doratune.record.files import write_text
from doratune.record.schemas import ORIGIN, AdapterOrigin, DataFile, TrainFile
from doratune.ship.export.subject import (
    FROM_MERGED,
    License,
    Subject,
    base_license,
    base_name,
    is_approximate,
    standing,
    verified,
)

CARD = "README.md"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_LIBRARY = {"peft": "peft", "lora": "peft", "merged": "transformers", "gguf": "gguf",
            "quantized": "transformers"}  # fmt: skip
_RELATION = {"peft": "adapter", "lora": "adapter", "bundle": "adapter", "merged": "finetune",
             "gguf": "quantized", "quantized": "quantized"}  # fmt: skip

_LOADING = {
    "peft": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

`doratune.load_adapter(base, folder)` does the same on faster layers, and refuses the folder if a
magnitude was lost.""",
    "merged": """```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
```""",
    "quantized": """```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
```

`quantization_config` in config.json names the package that this needs besides transformers:
compressed-tensors, or bitsandbytes. vLLM has both formats (not tried by doratune).""",
    "gguf": """`llama-cli -m FILE.gguf`, or `ollama create NAME -f Modelfile` in this folder.""",
    "bundle": """`adapter_model.safetensors` is the adapter in PEFT's format. `dora_scale.safetensors`
holds, for every adapted layer, `g = m / ||W + s B A||` per output feature in float32, computed against
the base named below. An engine that serves LoRA serves this with one product more and no look at the
base's weights:

    y = g * (x W^T + s x A^T B^T) + bias        s = lora_alpha / r

On an embedding `x A^T` is a look-up in A^T, on a convolution the convolution by A. It is right for that
base only: compare `base_fingerprint` in the file's metadata.""",
}
_LOADING["lora"] = _LOADING["peft"].partition("\n\n`doratune")[0]

_FORMS = {
    "peft": "The adapter in PEFT's format.",
    "lora": "**An approximation**: the DoRA adapter as plain LoRA, for engines without DoRA.",
    "merged": "The whole model, the adapter merged into its base.",
    "gguf": "The whole model for llama.cpp and Ollama.",
    "quantized": "**An approximation**: the whole model in fewer bits.",
    "bundle": "The adapter with its output scales, for serving engines.",
}


def write_cards(
    subject: Subject, form: Form, folder: Path, findings: Mapping[str, Sequence[str]]
) -> None:
    """Writes the cards of a form that lies in ``folder``, by what was found out when it was made."""
    of_merged = [verified(subject)] if form in FROM_MERGED else []
    for name, sentences in findings.items():
        write_text(folder / name, model_card(subject, form, [*of_merged, *sentences]))


def model_card(subject: Subject, form: Form, findings: Sequence[str]) -> str:
    """The whole card.

    Args:
        subject: What is exported.
        form: The form it stands beside.
        findings: Sentences on how near the form is to the trained model.
    """
    recipe, run = subject.recipe, subject.run
    path = run.eval_file(recipe.eval.task)
    figures = EvalFile.read(path) if path.exists() else None
    terms = base_license(subject)
    parts = [
        f"---\n{_metadata(subject, form, figures, terms).to_yaml()}\n---",
        f"# {recipe.name}{' (approximate LoRA)' if form == 'lora' else ''}",
        f"{_FORMS[form]} {_made(subject)}",
        "## Figures",
        _figures(figures) if figures else "The model was not evaluated.",
        "## How near this form is to the trained model",
        "\n".join(f"- {sentence}" for sentence in [*standing(subject, form), *findings]),
        "## Loading",
        _LOADING[form].replace("{base}", base_name(subject)),
        "## What it was made from",
        _origin(subject),
        "## Licence",
        _license(terms, base_name(subject)),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(
    subject: Subject, form: Form, figures: EvalFile | None, terms: License
) -> ModelCardData:
    recipe = subject.recipe
    source = recipe.model.source
    is_hub = _HUB_ID.fullmatch(source) and "/" in base_name(subject)
    data = DataFile.read(subject.run.data) if subject.run.data.exists() else None
    datasets = [s.path for s in data.sources if s.kind == "hub"] if data else []
    fields: dict[str, str] = {"base_model_relation": _RELATION[form]} if is_hub else {}
    if terms.name == "other" and terms.files:
        fields |= {"license_name": "base-license", "license_link": terms.files[0].name}
    return ModelCardData(
        base_model=source if is_hub else None,
        library_name=_LIBRARY.get(form),
        license=terms.name,
        pipeline_tag="text-generation",
        datasets=datasets or None,
        tags=[
            "doratune",
            subject.method,
            *(["approximation"] if is_approximate(subject, form) else []),
        ],
        model_name=recipe.name,
        eval_results=_results(subject, figures, datasets) if figures else None,
        **fields,
    )


def _results(subject: Subject, figures: EvalFile, datasets: list[str]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification" if figures.kind == "labels" else "text-generation",
            dataset_type=datasets[0] if datasets else "private",
            dataset_name=f"{figures.split} split of {subject.recipe.name}",
            metric_type=key,
            metric_name=METRICS[key].title,
            metric_value=round(figures.tuned.metrics[key].value, 4),
        )
        for key in METRICS
        if key in figures.tuned.metrics
    ]


def _made(subject: Subject) -> str:
    section = subject.recipe.adapter
    how = {
        "dora": f"with DoRA (r = {section.r}, alpha = {section.lora_alpha:g})",
        "lora": f"with LoRA (r = {section.r}, alpha = {section.lora_alpha:g})",
        "full": "with all of its weights",
    }
    return f"`{base_name(subject)}`, fine-tuned {how[subject.method]} by doratune {__version__}."


def _figures(file: EvalFile) -> str:
    rows = [
        f"{file.num_examples} examples of the {file.split} split; brackets are 95 % intervals, the "
        "difference is on the same examples.",
        "",
        "| | base | tuned | difference |",
        "|---|---|---|---|",
    ]
    for key, metric in METRICS.items():
        if key in file.base.metrics and key in file.tuned.metrics:
            cells = [_show(file.base.metrics[key]), _show(file.tuned.metrics[key])]
            change = file.differences.get(key)
            cells.append(_show(change.value, signed=True) if change else "")
            rows.append(f"| {metric.title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _show(figure: Interval, signed: bool = False) -> str:
    value = f"{figure.value:+.3f}" if signed else f"{figure.value:.3f}"
    return f"{value} ({figure.low:.3f} to {figure.high:.3f})"


def _origin(subject: Subject) -> str:
    run, recipe = subject.run, subject.recipe
    rows = [
        ("base", f"`{base_name(subject)}`"),
        ("base fingerprint (SHA-256 of its weights)", f"`{subject.base_fingerprint}`"),
    ]
    if recipe.model.revision:
        rows.append(("base revision", f"`{recipe.model.revision}`"))
    if (run.adapter / ORIGIN).exists():
        origin = AdapterOrigin.read(run.adapter / ORIGIN)
        rows += [
            ("data digest", f"`{origin.data_digest}`"),
            ("recipe digest", f"`{origin.recipe_digest}`"),
        ]
    if run.data.exists():
        splits = DataFile.read(run.data).splits.items()
        counts = ", ".join(f"{name} {split.num_examples:,}" for name, split in splits)
        rows.append(("examples", counts))
    if run.train.exists():
        train = TrainFile.read(run.train)
        rows.append(
            (
                "training",
                f"{train.num_steps:,} steps, {train.num_tokens:,} tokens, base in {train.dtype}",
            )
        )
    rows.append(("seed", str(recipe.seed)))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _license(terms: License, base: str) -> str:
    if terms.name is None:
        return f"`{base}` came without one here. Look it up before you pass this on."
    names = ", ".join(f"`{file.name}`" for file in terms.files)
    text = f" The base's text is in {names}." if names else ""
    return ("That of the base." if terms.name == "other" else f"`{terms.name}`.") + text
