"""A model as lm-eval asks it, with its tokenisation and our batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.models.utils_hf import stop_sequences_criteria
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from doratune.base.continuations import score_continuations
from doratune.errors import ConfigError, DataError
from doratune.evaluate.generate import greedy_answers
from doratune.record.files import canonical_json

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pair = tuple[list[int], list[int]]
"""Token ids of a context and of what continues it."""


class BatchedLM(TemplateLM):
    """A causal language model for lm-eval: the answers of its ``HFLM``, in fewer passes.

    Tokenisation, truncation and stop sequences are those of ``lm_eval.models.huggingface.HFLM``:
    a context's trailing spaces go to the continuation, both are tokenised together, whatever the
    tokenizer puts before a text is before every context, and what is too long loses its beginning.

    Args:
        model: In eval mode; its own device is used.
        tokenizer: With a pad token.
        batch_size: Sequences per forward pass.
        advance: Told how many requests are finished, again and again.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        advance: Callable[[int], None] = lambda num: None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.advance = advance
        self.max_length: int = resolve_max_length(model.config, tokenizer)
        self._device = model.device
        ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        self._stop_ids = {*(ends if isinstance(ends, list) else [ends]), self.eot_token_id} - {None}

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of one text."""
        return self._encoded([string], add_special_tokens)[string]

    def _encoded(
        self, texts: Iterable[str], add_special_tokens: bool | None = None
    ) -> dict[str, list[int]]:
        """Token ids of many texts; those that begin with a BOS token get no second one."""
        groups: dict[bool | None, list[str]] = defaultdict(list)
        bos = self.tokenizer.decode(self.prefix_token_id)
        for text in dict.fromkeys(texts):
            has_bos = add_special_tokens is None and has_bos_prefix(text, bos)
            groups[False if has_bos else add_special_tokens].append(text)
        found: dict[str, list[int]] = {}
        for special, group in groups.items():
            words = {} if special is None else {"add_special_tokens": special}
            ids = self.tokenizer(group, verbose=False, **words)["input_ids"]
            found.update(zip(group, ids, strict=True))
        return found

    def pairs(self, requests: Sequence[Instance]) -> list[Pair]:
        """Token ids of context and continuation of each request, cut to what the model can hold.

        Raises:
            DataError: A continuation alone is longer than the model's context.
        """
        split = [_moved_spaces(*request.args) for request in requests]
        ids = self._encoded([t for c, text in split if c for t in (c, c + text)])
        alone = self._encoded([text for c, text in split if not c], add_special_tokens=False)
        return [
            self._cut(
                *(
                    (ids[context], ids[context + text][len(ids[context]) :])
                    if context
                    else self._after_prefix(alone[text])
                )
            )
            for context, text in split
        ]

    def _after_prefix(self, ids: list[int]) -> Pair:
        if ids[0] == self.prefix_token_id:
            return ids[:1], ids[1:]
        return [self.prefix_token_id], ids

    def _cut(self, context: list[int], continuation: list[int]) -> Pair:
        if not continuation or len(continuation) > self.max_length:
            raise DataError(
                f"A benchmark asks for a text of {len(continuation):,} tokens; the model can score "
                f"1 to {self.max_length:,} tokens at once. Leave that task out."
            )
        # The last token of the continuation is predicted, not read.
        return context[-(self.max_length + 1 - len(continuation)) :], continuation

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, nats, and whether greedy decoding would give it."""
        return self._scored(self.pairs(requests), self.advance)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self._scored([self._cut(context, ids) for _, context, ids in requests], self.advance)

    def _scored(
        self, pairs: Sequence[Pair], advance: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        scores = score_continuations(
            self.model,
            pairs,
            pad_id=self.tokenizer.pad_token_id,
            batch_size=self.batch_size,
            advance=advance,
        )
        return list(zip(scores.logprobs.tolist(), scores.greedy.tolist(), strict=True))

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-likelihood of each whole text, nats, in windows of the model's length."""
        return [logprob for logprob, _ in self.read([request.args[0] for request in requests])]

    def read(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Log-likelihood of each whole text, nats, and the number of its tokens.

        A text longer than the model's context is read in windows that together predict every token
        once; the first token follows `prefix_token_id`.
        """
        ids = self._encoded(texts)
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    ids[text], self.prefix_token_id, self.max_length, context_len=1
                )
            ]
            for text in texts
        ]
        scores = iter(self._scored([pair for own in windows for pair in own], lambda num: None))
        self.advance(len(texts))
        return [
            (float(sum(next(scores)[0] for _ in own)), sum(len(pair[1]) for pair in own))
            for own in windows
        ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy answers, each cut before the first of its stop sequences.

        Raises:
            ConfigError: The task draws its answers.
        """
        places: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            places[canonical_json(request.args[1])].append(place)
        answers = [""] * len(requests)
        eos = self.tokenizer.decode(self.eot_token_id)
        for group in places.values():
            settings = dict(normalize_gen_kwargs(requests[group[0]].args[1]))
            if settings["do_sample"]:
                raise ConfigError(
                    f"The task {requests[group[0]].task_name!r} draws its answers (temperature "
                    f"{settings.get('temperature')}); base and tuned are compared greedily. Leave "
                    "it out of eval.benchmarks.tasks."
                )
            stops = handle_stop_sequences(settings["until"], eos=eos)
            most = settings["max_gen_toks"]
            ids = self._encoded([requests[place].args[0] for place in group])
            texts = greedy_answers(
                self.model,
                self.tokenizer,
                [ids[requests[place].args[0]][-self._room(most) :] for place in group],
                stop_ids=self._stop_ids,
                max_new_tokens=most,
                batch_size=self.batch_size,
                stopping=partial(stop_sequences_criteria, self.tokenizer, stops),
                skip_special_tokens=True,
                description="",
            )
            for place, text in zip(group, texts, strict=True):
                answers[place] = postprocess_generated_text(text, stops, None)
            self.advance(len(group))
        return answers

    def _room(self, max_new_tokens: int) -> int:
        """Tokens that a prompt may have."""
        if max_new_tokens >= self.max_length:
            raise ConfigError(
                f"A task asks for answers of {max_new_tokens:,} tokens, but the model holds "
                f"{self.max_length:,} with the question. Leave it out of eval.benchmarks.tasks."
            )
        return self.max_length - max_new_tokens

    def count_tokens(self, requests: Sequence[Instance]) -> int:
        """Tokens of the requests, of generated answers those of their questions."""
        if requests[0].request_type == "generate_until":
            ids = self._encoded([request.args[0] for request in requests])
            return sum(len(ids[request.args[0]]) for request in requests)
        return sum(len(context) + len(text) for context, text in self.pairs(requests))


def _moved_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Trailing spaces of the context belong to the word that follows."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
