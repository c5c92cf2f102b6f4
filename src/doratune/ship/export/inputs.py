"""What an exported form is made from: while none of it changes, the form is up to date."""

from __future__ import annotations

from typing import Any

from doratune.record.export import Form
from doratune.record.files import digest_file, digest_json, digest_path
from doratune.ship.export.in_llama import interpreter
from doratune.ship.export.subject import FROM_MERGED, Subject


def inputs_of(subject: Subject, form: Form) -> dict[str, str]:
    """A digest of each thing that a form depends on.

    ``figures`` are those of other stages, which only its model card tells. ``asked`` is there where the
    test questions are put to it.
    """
    run, recipe = subject.run, subject.recipe
    settings: dict[str, Any] = {
        "license": recipe.export.license,
        "model": recipe.model.model_dump(),
        "data": recipe.data.model_dump(include={"template", "system"}),
        "name": recipe.name,
        **({"onto": subject.onto} if subject.onto else {}),
    }
    if form == "lora":
        settings |= {
            "rank": recipe.export.lora_rank or 2 * recipe.adapter.r,
            "prompts": recipe.verify.num_prompts,
        }
    elif form == "gguf":
        settings |= {
            "types": recipe.export.gguf_types,
            "prompts": recipe.verify.num_prompts,
            "llama": interpreter(),
        }
    elif form == "quantized":
        settings |= recipe.export.model_dump(
            include={"quantized_types", "calibration_examples", "calibration_steps"}
        )
        settings |= {"prompts": recipe.verify.num_prompts, "seed": recipe.seed}
    # The card tells figures of other stages.
    told = [run.train, run.eval_file(recipe.eval.task), run.verify]
    return {
        "base": subject.base_fingerprint,
        "adapter": digest_path(run.adapter),
        "settings": digest_json(settings),
        **({"data": digest_file(run.data)} if run.data.exists() else {}),
        **({"merged": digest_path(run.merged)} if form in FROM_MERGED else {}),
        **({"asked": "yes"} if _is_asked(subject, form) else {}),
        "figures": digest_json([digest_file(path) for path in told if path.exists()]),
    }


def _is_asked(subject: Subject, form: Form) -> bool:
    """Whether the test questions are put to a form."""
    if subject.task is None or form == "bundle":
        return False
    in_llama = interpreter() is not None and subject.task.questions.labels is not None
    return form != "gguf" or in_llama


def but_for_figures(inputs: dict[str, str]) -> dict[str, str]:
    """What the form itself depends on, without what only its card tells."""
    return {name: digest for name, digest in inputs.items() if name != "figures"}
