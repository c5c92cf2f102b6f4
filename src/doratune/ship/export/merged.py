"""The merged checkpoint with its card, as a folder to pass on."""

from __future__ import annotations

import shutil
from pathlib import Path

from doratune.base import load_base
from doratune.record.files import link_or_copy, write_text
from doratune.record.schemas import ORIGIN, MergeFile, VerifyFile
from doratune.ship.export.model_card import model_card
from doratune.ship.export.subject import Subject, Written, copy_license
from doratune.ship.task import ask_form, task_sentence


def write_merged(subject: Subject, folder: Path) -> Written:
    """Links the weights of ``merged/``, so that they take no space twice, and adds the card."""
    for file in sorted(subject.run.merged.iterdir()):
        if file.suffix == ".safetensors":
            link_or_copy(file, folder / file.name)
        elif file.name != "README.md":
            shutil.copyfile(file, folder / file.name)
    if (subject.run.adapter / ORIGIN).exists():
        shutil.copyfile(subject.run.adapter / ORIGIN, folder / ORIGIN)
    copy_license(subject, folder)
    sentence = verified(subject)
    tasks = ask_form(subject, "the merged model", lambda: load_base(folder))
    findings = [sentence, *map(task_sentence, tasks)]
    write_text(folder / "README.md", model_card(subject, "merged", findings))
    return Written(tasks=tasks, notes=() if subject.run.verify.exists() else (sentence,))


def verified(subject: Subject) -> str:
    """What is known of the merged weights, in a sentence."""
    merged = MergeFile.read(subject.run.merge)
    if not subject.run.verify.exists():
        return (
            f"Merged into {merged.dtype}; not compared with base and adapter: `doratune verify` "
            "did not run."
        )
    verify = VerifyFile.read(subject.run.verify)
    return (
        f"Merged into {merged.dtype} and compared with base and adapter in float32: mean KL "
        f"{verify.mean_kl:.1e} nats, the same most likely token at {verify.top1_agreement:.2%} of "
        f"{verify.num_tokens:,} positions."
    )
