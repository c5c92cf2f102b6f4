"""The door of training: examples in, adapter out."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from doratune import __version__
from doratune.adapter import layer_states
from doratune.adapter.origin import file_digests
from doratune.base import fingerprint, load_tokenizer, resolve_base
from doratune.data import Renderer, read_examples
from doratune.data.review import require_review
from doratune.errors import StorageError
from doratune.progress import console, progress_bar
from doratune.recipe import Recipe
from doratune.recipe.schema import TrainSection
from doratune.record.files import digest_json, replacing
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import (
    ORIGIN,
    AdapterOrigin,
    DataFile,
    LayerChange,
    Split,
    Step,
    TrainFile,
)
from doratune.train.build import build_model
from doratune.train.checkpoints import resumable_checkpoint
from doratune.train.epochs import EpochLog
from doratune.train.optimizer import build_optimizer
from doratune.train.plan import check_trainable, num_learned, plan_training
from doratune.train.steps import StepLog
from doratune.train.validation import Validation


def train_model(run: RunFolder, recipe: Recipe) -> bool:
    """Trains what the recipe says, from the last checkpoint where there is one.

    Reads ``data/train.jsonl`` and ``data/validation.jsonl``; writes ``adapter/``, ``steps.jsonl``,
    ``train.json`` and, where the recipe says so, ``epochs.jsonl``.

    Returns:
        Whether anything was done.

    Raises:
        ConfigError: The data is of a kind that cannot be trained on.
        DataError: The recipe demands a review of the data that is not finished or not good enough.
            Or it wants figures of every epoch, and there is nothing to measure them on.
    """
    data = DataFile.read(run.data)
    check_trainable(data)
    require_review(run, recipe.data.gates.review)
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    inputs = {
        "base": fingerprint(base_path),
        "data": digest_json({name: split.digest for name, split in data.splits.items()}),
        "recipe": digest_json(
            {
                **recipe.model_dump(include={"seed", "adapter", "train"}),
                "dtype": recipe.model.dtype,
                "quantize": recipe.model.quantize,
                "template": recipe.data.template,
            }
        ),
    }

    def work() -> None:
        checkpoint = resumable_checkpoint(run.checkpoints, inputs)
        _Training(run, recipe, base_path, inputs).run_from(checkpoint)
        shutil.rmtree(run.checkpoints)

    outputs = [run.adapter, run.steps, run.train]
    if recipe.eval.every_epoch:
        outputs.append(run.epochs)
    done = run.run_stage("train", inputs, outputs, work)
    if recipe.eval.every_epoch and not run.epochs.exists():
        # They change nothing of the adapter, which is therefore not trained again for them.
        console.print(
            "There are no figures of every epoch: the adapter was trained without eval.every_epoch. "
            f"Remove {run.adapter} to train it again."
        )
    return done


class _Training:
    """One sitting of a training run."""

    def __init__(
        self, run: RunFolder, recipe: Recipe, base_path: Path, inputs: dict[str, str]
    ) -> None:
        self.run, self.recipe, self.inputs = run, recipe, inputs
        self.tokenizer = load_tokenizer(base_path)
        self.train_set = _token_dataset(run, recipe, self.tokenizer, "train")
        self.validation_set = _token_dataset(run, recipe, self.tokenizer, "validation")
        self.validation = (
            Validation(run, recipe, self.tokenizer) if recipe.eval.every_epoch else None
        )
        self.model, self.fast = build_model(recipe, base_path)

    def run_from(self, checkpoint: Path | None) -> None:
        """Trains to the end and writes the results."""
        lengths = [len(ids) for ids in self.train_set["input_ids"]]
        longest_answer = max(map(num_learned, self.train_set["labels"]))
        plan = plan_training(self.model, self.recipe, lengths, longest_answer)
        console.print(f"Training: {plan}")
        done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
        sittings = self.run.checkpoints / "resumed.txt"
        if checkpoint:
            console.print(f"Resuming after step {done} of {plan.num_steps}.")
            with sittings.open("a") as file:
                file.write(f"{done}\n")
        with progress_bar() as progress, _full_disk_as_storage_error(self.run.checkpoints):
            callbacks: list[TrainerCallback] = [
                StepLog(self.run.steps, done, progress, plan.num_steps)
            ]
            if self.validation is None:
                self.run.epochs.unlink(missing_ok=True)
            else:
                callbacks.append(EpochLog(self.run.epochs, done, progress, self.validation))
            trainer = SFTTrainer(
                model=self.model,
                args=_trainer_config(self.run, self.recipe, self.tokenizer),
                train_dataset=self.train_set,
                eval_dataset=self.validation_set,
                processing_class=self.tokenizer,
                optimizers=build_optimizer(self.model, self.recipe.train, plan.num_steps),
                callbacks=callbacks,
            )
            _restore_adapter_precision(self.model)
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            validation_loss = trainer.evaluate()["eval_loss"] if self.validation_set else None
            self._save()
        steps = Step.read_lines(self.run.steps)
        TrainFile(
            method=self.recipe.adapter.method,
            base_fingerprint=self.inputs["base"],
            dtype=str(self.model.dtype).removeprefix("torch."),
            num_steps=plan.num_steps,
            num_trainable_parameters=plan.num_trainable,
            num_parameters=plan.num_parameters,
            num_tokens=steps[-1].num_tokens,
            seconds=sum(step.seconds for step in steps),
            peak_memory_bytes=_peak_memory(),
            final_loss=steps[-1].loss,
            validation_loss=validation_loss,
            resumed_from_steps=[int(s) for s in sittings.read_text().split()]
            if sittings.exists()
            else [],
            fast_layers=len(self.fast.fast),
            peft_layers={reason: len(names) for reason, names in self.fast.left_to_peft.items()},
            layers=_layer_changes(self.model),
        ).write(self.run.train)

    def _save(self) -> None:
        with replacing(self.run.adapter) as folder:
            if isinstance(self.model, PeftModel):
                # The path of this machine's copy means nothing to whoever loads the adapter.
                config = self.model.peft_config["default"]
                config.base_model_name_or_path = self.recipe.model.source
                self.model.save_pretrained(folder, save_embedding_layers=False)
            else:
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            data = DataFile.read(self.run.data)
            AdapterOrigin(
                method=self.recipe.adapter.method,
                base_source=self.recipe.model.source,
                base_fingerprint=self.inputs["base"],
                data_digest=data.digest,
                data_ordered_digest=data.ordered_digest,
                split_digests={split: summary.digest for split, summary in data.splits.items()},
                recipe_digest=self.inputs["recipe"],
                quantize=self.recipe.model.quantize,
                doratune=__version__,
                files=file_digests(folder),
            ).write(folder / ORIGIN)


def _trainer_config(
    run: RunFolder, recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> SFTConfig:
    section: TrainSection = recipe.train
    return SFTConfig(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=section.batch_size,
        per_device_eval_batch_size=section.batch_size,
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        num_train_epochs=section.epochs,
        max_steps=section.max_steps or -1,
        max_grad_norm=section.max_grad_norm,
        gradient_checkpointing=section.gradient_checkpointing,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=section.save_steps,
        save_total_limit=2,
        seed=recipe.seed,
        # The model's own precision is used as it is: no autocast on top.
        bf16=False,
        fp16=False,
        use_cpu=not torch.cuda.is_available(),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        eos_token=tokenizer.eos_token,
        report_to="none",
        disable_tqdm=True,
    )


def _token_dataset(
    run: RunFolder, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, split: Split
) -> Dataset:
    renderer = Renderer(tokenizer, recipe.data.template)
    examples = read_examples(run, split)
    rendered = renderer.examples([(example.messages, example.tools) for example in examples])
    return Dataset.from_list([example._asdict() for example in rendered])


def _layer_changes(model: nn.Module) -> list[LayerChange]:
    return [
        LayerChange(
            layer=state.layer,
            magnitude_change=state.magnitude_change.mean().item(),
            direction_change=state.direction_change.mean().item(),
        )
        for state in layer_states(model)
    ]


def _restore_adapter_precision(model: PreTrainedModel | PeftModel) -> None:
    """Undoes what SFTTrainer does to adapters on a quantised base: it casts A and B to bfloat16.

    The same steps would then move them less than on any other base, as updates of the usual size vanish
    in bfloat16 (TRL 1.16).
    """
    if isinstance(model, PeftModel):
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.float()


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _full_disk_as_storage_error(folder: Path) -> Iterator[None]:
    """Torch and safetensors report a full disk each in their own way."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = shutil.disk_usage(folder).free < 1 << 20
        signs = ("No space left", "File too large", "inline_container")
        if full or any(sign in str(error) for sign in signs):
            raise StorageError(
                f"No space is left for {folder} ({error}). Free some and run the same command "
                "again: training goes on from the last complete checkpoint."
            ) from error
        raise
