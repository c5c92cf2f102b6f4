"""Answers of base and tuned to the same prompts, for people to read and to review."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transformers import AutoConfig

from doratune.base import fingerprint, load_tokenizer, resolve_base
from doratune.data import Renderer, read_examples
from doratune.data.questions import reference_text
from doratune.data.review import choose_stratified
from doratune.errors import StorageError
from doratune.evaluate.answers import load_model
from doratune.evaluate.completions_page import completions_page
from doratune.evaluate.edge_cases import EDGE_CASES, VERY_LONG, edge_cases
from doratune.evaluate.generate import greedy_answers
from doratune.evaluate.judge import judge_completions, judged_file
from doratune.progress import console
from doratune.recipe.schema import Recipe
from doratune.record.completions import BASE_ANSWER, REFERENCE
from doratune.record.evaluation import MODELS, Model
from doratune.record.files import digest_json, digest_path, write_jsonl, write_text
from doratune.record.review import ReviewItem, completions_review
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example, Message, Split

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_EDGE_SHARE = 0.4
"""Edge cases' share of the prompts: all 12 of 30."""
_MAX_BEGINNING = 256
"""Longest beginning of a plain text that is to be continued, in tokens."""


class Prompt(NamedTuple):
    """One prompt, as people and as the models see it."""

    place: str
    split: Split | None
    label: str | None
    messages: list[Message]
    ids: list[int]
    reference: str | None


def write_completions(run: RunFolder, recipe: Recipe) -> bool:
    """Lets base and tuned answer test prompts and edge cases, one model in memory at a time.

    Reads ``data.json``, the test examples and ``adapter/``; writes ``completions/review.jsonl`` and
    ``completions/completions.md``. Where the recipe names a judge and the task is open, it is asked.

    Returns:
        Whether anything was done; False when all is up to date, or no prompts are wanted.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had.
        StorageError: There is no adapter yet, or a file of the run folder cannot be read or written.
        ConfigError: The judge refuses what it is asked, or its key is missing.
        DoratuneError: The judge does not answer.
    """
    if recipe.eval.completions.num_prompts == 0:
        return False
    if not run.adapter.is_dir():
        raise StorageError(f"{run.adapter} does not exist. Run `doratune train` first.")
    data = DataFile.read(run.data)
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    settings = {
        "completions": recipe.eval.completions.model_dump(exclude={"judge"}),
        "template": recipe.data.template,
        "system": recipe.data.system,
        "max_length": recipe.data.max_length,
        "dtype": recipe.model.dtype,
        "quantize": recipe.model.quantize,
        "edge_cases": EDGE_CASES,
        "seed": recipe.seed,
    }
    files = completions_review(run)
    page = run.completions / "completions.md"
    done = run.run_stage(
        "completions",
        inputs={
            "base": fingerprint(base_path),
            "adapter": digest_path(run.adapter),
            "data": data.splits["test"].digest if "test" in data.splits else "",
            "settings": digest_json(settings),
        },
        outputs=[files.items, page],
        work=lambda: _write(run, recipe, base_path, data, page),
    )
    judge = recipe.eval.completions.judge
    if judge is None:
        return done
    if data.labels is not None or data.format == "text":
        why = "has a closed set of answers" if data.labels else "is plain text"
        console.print(f"[bold]judge[/] left out: the data {why}, which needs no judge")
        return done
    return judge_completions(run, judge, recipe.seed) or done


def _write(run: RunFolder, recipe: Recipe, base_path: Path, data: DataFile, page: Path) -> None:
    tokenizer = load_tokenizer(base_path)
    renderer = Renderer(tokenizer, recipe.data.template)
    has_test = "test" in data.splits and data.splits["test"].num_examples > 0
    examples = read_examples(run, "test") if has_test else []
    if data.format == "text":
        prompts, stop_ids = _beginnings(renderer, examples, recipe), set[int]()
    else:
        prompts = _test_prompts(renderer, examples, recipe)
        prompts += _edge_prompts(renderer, prompts, recipe, _positions(base_path))
        stop_ids = {int(tokenizer.convert_tokens_to_ids(renderer.end_of_turn))}
    stop_ids |= {tokenizer.eos_token_id} - {None}

    found: dict[Model, list[str]] = {}
    for name in reversed(MODELS):
        model = load_model(name, base_path, run.adapter, recipe.model)
        found[name] = _answers(model, tokenizer, prompts, stop_ids, recipe, f"the {name} model")
        del model
        gc.collect()

    judged_file(run).unlink(missing_ok=True)  # it speaks of other answers
    items = [_item(*row) for row in zip(prompts, found["tuned"], found["base"], strict=True)]
    write_jsonl(completions_review(run).items, [item.model_dump() for item in items])
    write_text(page, completions_page(items, run, recipe))


def _answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    stop_ids: set[int],
    recipe: Recipe,
    who: str,
) -> list[str]:
    """One model's answers. A very long prompt goes alone: the others would be padded to its length."""
    alone = [i for i, prompt in enumerate(prompts) if prompt.place.endswith(VERY_LONG)]
    rest = [i for i in range(len(prompts)) if i not in alone]
    answers = [""] * len(prompts)
    for rows in filter(None, (alone, rest)):
        found = greedy_answers(
            model,
            tokenizer,
            [prompts[i].ids for i in rows],
            stop_ids=stop_ids,
            max_new_tokens=recipe.eval.completions.max_new_tokens,
            batch_size=recipe.eval.batch_size,
            description=f"Completions of {who}",
        )
        for i, answer in zip(rows, found, strict=True):
            answers[i] = answer
    return answers


def _chosen(examples: list[Example], number: int, recipe: Recipe) -> list[Example]:
    ids, labels = [e.id for e in examples], [e.label for e in examples]
    return [examples[i] for i in choose_stratified(ids, labels, number, recipe.seed)]


def _num_edge_cases(recipe: Recipe) -> int:
    return min(len(EDGE_CASES), int(recipe.eval.completions.num_prompts * _EDGE_SHARE))


def _test_prompts(renderer: Renderer, examples: list[Example], recipe: Recipe) -> list[Prompt]:
    number = recipe.eval.completions.num_prompts - _num_edge_cases(recipe)
    return [
        Prompt(
            place=example.place,
            split="test",
            label=example.label,
            messages=example.prompt,
            ids=renderer.prompt(example.prompt, example.tools),
            reference=reference_text(
                renderer,
                example,
                renderer.answer(example.prompt, example.messages[-1], example.tools),
            ),
        )
        for example in _chosen(examples, number, recipe)
    ]


def _edge_prompts(
    renderer: Renderer, test_prompts: list[Prompt], recipe: Recipe, positions: int | None
) -> list[Prompt]:
    turns = test_prompts[0].messages if test_prompts else []
    asked = next((turn.content for turn in reversed(turns) if turn.role == "user"), None)
    before = [turn for turn in turns if turn.role == "system"][:1]
    if not turns and recipe.data.system:
        before = [Message(role="system", content=recipe.data.system)]
    prompts = []
    for case in edge_cases(_num_edge_cases(recipe), asked, renderer.end_of_turn):
        messages = [*before, Message(role="user", content=case.text)]
        ids = renderer.prompt(messages)
        if case.name == VERY_LONG:
            messages[-1] = _repeated(renderer, messages[-1], len(ids), recipe, positions)
            ids = renderer.prompt(messages)
        prompts.append(Prompt(f"edge case: {case.name}", None, None, messages, ids, None))
    return prompts


def _repeated(
    renderer: Renderer, turn: Message, length: int, recipe: Recipe, positions: int | None
) -> Message:
    """A turn again and again, to twice the longest training example or what the model can take.

    Args:
        renderer: Of the run.
        turn: The turn.
        length: Of the prompt with this turn, in tokens.
        recipe: Of the run.
        positions: How far the model goes.
    """
    wanted = 2 * recipe.data.max_length
    if positions is not None:
        wanted = min(wanted, positions - recipe.eval.completions.max_new_tokens)
    ids = renderer.tokenizer(f"{turn.content}\n\n", add_special_tokens=False).input_ids
    more = max(0, wanted - length) // max(1, len(ids))
    return turn.model_copy(update={"content": "\n\n".join([turn.content] * (1 + more))})


def _beginnings(renderer: Renderer, examples: list[Example], recipe: Recipe) -> list[Prompt]:
    """First halves of plain texts, which the models are to continue."""
    prompts = []
    for example in _chosen(examples, recipe.eval.completions.num_prompts, recipe):
        ids = renderer.example(example.messages).input_ids[:-1]
        cut = max(1, min(len(ids) // 2, _MAX_BEGINNING))
        begun, rest = (renderer.tokenizer.decode(part) for part in (ids[:cut], ids[cut:]))
        turns = [Message(role="user", content=begun)]
        prompts.append(Prompt(example.place, "test", None, turns, ids[:cut], rest))
    return prompts


def _positions(base_path: Path) -> int | None:
    config = AutoConfig.from_pretrained(base_path, local_files_only=True).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def _item(prompt: Prompt, tuned: str, base: str) -> ReviewItem:
    messages = [*prompt.messages, Message(role="assistant", content=tuned)]
    beside = {} if prompt.reference is None else {REFERENCE: prompt.reference}
    beside[BASE_ANSWER] = base
    return ReviewItem(
        # Another answer has another id, so that no verdict is taken for one on it.
        id=digest_json([[m.model_dump() for m in messages], beside])[:16],
        split=prompt.split,
        place=prompt.place,
        label=prompt.label,
        messages=messages,
        beside=beside,
    )
