"""Calls of an OpenAI-compatible chat API."""

from __future__ import annotations

import os
from typing import Any

import requests

from doratune.endpoint import Bearer, reason_of
from doratune.errors import ConfigError, DoratuneError
from doratune.recipe.evaluation import JudgeSection

TIMEOUT_SECONDS = 120.0


def key_of(judge: JudgeSection) -> str | None:
    """The key for the server; None where it needs none.

    Raises:
        ConfigError: The environment variable is not set.
    """
    if judge.api_key_variable is None:
        return None
    key = os.environ.get(judge.api_key_variable, "").strip()
    if not key:
        raise ConfigError(
            f"The environment variable {judge.api_key_variable}, which "
            "eval.completions.judge.api_key_variable names, is not set. Set it to the key of "
            f"{judge.url}, or write null for a server that needs none."
        )
    return key


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
    url = judge.url.rstrip("/") + "/chat/completions"
    kept = "Every judgement so far is kept: the same command asks for the rest only."
    try:
        answer = session.post(
            url,
            json=body,
            auth=Bearer(key),
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,  # the data goes where the recipe says, and nowhere else
        )
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema) as error:  # fmt: skip
        raise ConfigError(
            f"eval.completions.judge.url is {judge.url!r}, which is no web address ({error}). "
            "Expected one such as http://localhost:8000/v1."
        ) from error
    except requests.RequestException as error:
        raise DoratuneError(
            f"The judge at {url} does not answer: {reason_of(error)}. Is the server there? {kept}"
        ) from error
    if answer.status_code == 200:
        return _content(answer)
    said = f"{url} answers with status {answer.status_code}: {answer.text[:300]!r}."
    if answer.status_code >= 500 or answer.status_code in (408, 429):
        raise DoratuneError(f"{said} It did so several times. Try later. {kept}")
    raise ConfigError(
        f"{said} Check url, model and temperature in eval.completions.judge, and the key in "
        f"{judge.api_key_variable or 'api_key_variable, which is null'}. {kept}"
    )


def _content(answer: requests.Response) -> str:
    """The reply; where the answer is not of the form that was asked for, the answer itself."""
    try:
        content = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return answer.text
    return content if isinstance(content, str) else answer.text
