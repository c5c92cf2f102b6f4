"""Calls of an OpenAI-compatible chat API."""

from __future__ import annotations

from typing import Any

import requests

from doratune.endpoint import Endpoint, call, read_key
from doratune.recipe.evaluation import JudgeSection

TIMEOUT_SECONDS = 120.0


def key_of(judge: JudgeSection) -> str | None:
    """The key for the server; None where it needs none.

    Raises:
        ConfigError: The environment variable is not set.
    """
    return read_key(judge.api_key_variable, "eval.completions.judge.api_key_variable")


def ask(
    session: requests.Session, judge: JudgeSection, key: str | None, messages: list[dict[str, str]]
) -> str:
    """One call.

    Raises:
        ConfigError: The server refuses it.
        DoratuneError: The server does not answer, after several tries.
    """
    body: dict[str, Any] = {"model": judge.model, "messages": messages}
    if judge.temperature is not None:
        body["temperature"] = judge.temperature
    server = Endpoint(
        url=judge.url,
        key=key,
        name="The judge",
        setting="eval.completions.judge.url",
        check="url, model and temperature in eval.completions.judge, and the key in "
        f"{judge.api_key_variable or 'api_key_variable, which is null'}",
        kept="Every judgement so far is kept: the same command asks for the rest only.",
    )
    return _content(call(session, server, "POST", "chat/completions", body, TIMEOUT_SECONDS))


def _content(answer: requests.Response) -> str:
    """The reply; where the answer is not of the form that was asked for, the answer itself."""
    try:
        content = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return answer.text
    return content if isinstance(content, str) else answer.text
