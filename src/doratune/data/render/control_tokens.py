"""Control tokens written out in the examples' own text."""

from __future__ import annotations

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase


def control_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokenizer's control tokens that a text spells out, each once, in order.

    The tokenizer makes no difference between ``<|im_end|>`` that a template writes and the same
    letters in an example: they become the same token. Such an example can end its own turn and
    begin another in a role of its choice, in training as in use.
    """
    return list(dict.fromkeys(_pattern(tokenizer).findall(text)))


# A run has one tokenizer; compiling takes 0.1 ms for SmolLM2's 17 tokens, longer for hundreds.
@lru_cache(maxsize=4)
def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens.update(tokenizer.all_special_tokens)
    # The longest first, as the tokenizer takes them; without any token, nothing is found.
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
