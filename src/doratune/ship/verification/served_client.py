"""Greedy completions of a server with OpenAI's API, whatever serves it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from doratune.endpoint import Endpoint, call, open_session, read_key
from doratune.errors import ConfigError, DoratuneError

TIMEOUT_SECONDS = 600.0
"""A server on a CPU reads a long prompt for minutes."""

Api = Literal["chat/completions", "completions"]
CUT = "\N{REPLACEMENT CHARACTER}"
"""What is left of a character that the last token does not finish."""


class Reply(NamedTuple):
    """What the server answered."""

    text: str
    finished: bool
    """By a token that ends the turn, and not by the limit."""
    logprobs: list[float] | None
    """Of each token, nats; None where the server tells none."""


class Server:
    """One model of a server.

    Args:
        url: Base of the API, such as ``http://localhost:8000/v1``.
        key_variable: Environment variable with the key; None for a server that needs none.

    Raises:
        ConfigError: The variable is not set.
    """

    def __init__(self, url: str, key_variable: str | None) -> None:
        self.url = url.rstrip("/")
        self._session = open_session()
        self._endpoint = Endpoint(
            url=self.url,
            key=read_key(key_variable, "--served-key"),
            name="The server",
            setting="--served",
            check="--served, --served-model and --served-key",
        )
        self._logprobs = True

    def only_model(self) -> str:
        """The name of the one model that it serves.

        Raises:
            ConfigError: It serves several, or does not tell.
            DoratuneError: It does not answer.
        """
        found = self._call("GET", "models", None)
        names = [str(model.get("id")) for model in _listed(found)]
        if len(names) != 1:
            raise ConfigError(
                f"{self.url} serves {len(names)} models ({', '.join(names[:8]) or 'none are listed'}). "
                "Name the one to verify with --served-model."
            )
        return names[0]

    def complete(self, model: str, api: Api, prompt: Any, max_tokens: int) -> Reply:
        """Asks for the most likely tokens.

        Args:
            model: Its name there.
            api: Which way to ask.
            prompt: Messages, or a text for ``completions``.
            max_tokens: Longest answer.

        Raises:
            ConfigError: The server refuses, or has no such model or API.
            DoratuneError: It does not answer, or not in this API's form.
        """
        body: dict[str, Any] = {
            "model": model, "temperature": 0, "max_tokens": max_tokens, "stream": False,
            ("messages" if api == "chat/completions" else "prompt"): prompt,
        }  # fmt: skip
        asked = (
            {"logprobs": True, "top_logprobs": 1} if api == "chat/completions" else {"logprobs": 1}
        )
        if self._logprobs:
            try:
                return _reply(self._call("POST", api, {**body, **asked}), f"{self.url}/{api}")
            except ConfigError:
                # Some servers refuse what they do not know; if not for that, they refuse again.
                self._logprobs = False
        return _reply(self._call("POST", api, body), f"{self.url}/{api}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        answer = call(self._session, self._endpoint, method, path, body, TIMEOUT_SECONDS)
        try:
            return answer.json()
        except ValueError as error:
            raise DoratuneError(
                f"{self.url}/{path} answers with {answer.text[:200]!r}, which is no JSON. Expected a "
                "server with OpenAI's API; its address often ends in /v1."
            ) from error


def _listed(found: Any) -> list[dict[str, Any]]:
    data = found.get("data") if isinstance(found, dict) else None
    return [model for model in data or [] if isinstance(model, dict)]


def _reply(found: Any, url: str) -> Reply:
    try:
        choice = found["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        finished = choice.get("finish_reason") == "stop"
    except (LookupError, TypeError) as error:
        raise DoratuneError(
            f"{url} answers with {str(found)[:200]!r}, which has no choices with a text. Expected the "
            "form of OpenAI's API."
        ) from error
    return Reply((text or "").rstrip(CUT), finished, _logprobs(choice.get("logprobs")))


def _logprobs(found: Any) -> list[float] | None:
    """Of a chat they are in ``content``, else in ``token_logprobs``."""
    if not isinstance(found, dict):
        return None
    values = found.get("token_logprobs")
    if values is None and isinstance(content := found.get("content"), list):
        values = [entry.get("logprob") for entry in content]
    if not values or not all(isinstance(value, (int, float)) for value in values):
        return None
    return [float(value) for value in values]
