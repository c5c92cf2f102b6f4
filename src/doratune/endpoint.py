"""What every call of a server with OpenAI's API needs."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from doratune.errors import ConfigError, DoratuneError

BACKOFF_SECONDS = 1.0
"""Twice as long after each try, beginning with the second."""

_RETRY_AFTER_MAX_SECONDS = 60


class Endpoint(NamedTuple):
    """A server, and how messages speak of it."""

    url: str
    """Base of the API, such as ``http://localhost:8000/v1``."""
    key: str | None
    name: str
    """Such as ``The judge``."""
    setting: str
    """What gave the address, such as ``--served``."""
    check: str
    """What to look at when the server refuses, such as ``--served and --served-model``."""
    kept: str = ""
    """A sentence on what is not lost."""


def read_key(variable: str | None, setting: str) -> str | None:
    """The key for a server; None where it needs none.

    Args:
        variable: Environment variable that holds it.
        setting: What names the variable.

    Raises:
        ConfigError: The variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"The environment variable {variable}, which {setting} names, is not set. Set it to the "
            "server's key, or name none for a server that needs none."
        )
    return key


def call(
    session: requests.Session,
    server: Endpoint,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    timeout_seconds: float,
) -> requests.Response:
    """One call, which the server did not refuse.

    Raises:
        ConfigError: The address is none, or the server refuses.
        DoratuneError: The server does not answer, after several tries.
    """
    url = f"{server.url.rstrip('/')}/{path}"
    kept = f" {server.kept}" if server.kept else ""
    try:
        answer = session.request(
            method,
            url,
            json=body,
            auth=Bearer(server.key),
            timeout=timeout_seconds,
            allow_redirects=False,  # the data goes where the user says, and nowhere else
        )
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema) as error:  # fmt: skip
        raise ConfigError(
            f"{server.setting} is {server.url!r}, which is no web address ({error}). Expected one such "
            "as http://localhost:8000/v1."
        ) from error
    except requests.RequestException as error:
        raise DoratuneError(
            f"{server.name} at {url} does not answer: {reason_of(error)}. Is it running?{kept}"
        ) from error
    if answer.status_code == 200:
        return answer
    said = f"{url} answers with status {answer.status_code}: {answer.text[:300]!r}."
    if answer.status_code >= 500 or answer.status_code in (408, 429):
        raise DoratuneError(
            f"{said} It did so several times. Try later, or see what the server says.{kept}"
        )
    raise ConfigError(f"{said} Check {server.check}.{kept}")


def open_session() -> requests.Session:
    """A session that asks again after a while when the server is busy, broken or slow."""
    session = requests.Session()
    retries = Retry(
        total=5,
        connect=2,  # a server that is not there will not come
        status_forcelist=[408, 429, 500, 502, 503, 504],
        allowed_methods=None,
        backoff_factor=BACKOFF_SECONDS,
        backoff_jitter=BACKOFF_SECONDS / 2,
        retry_after_max=_RETRY_AFTER_MAX_SECONDS,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    return session


class Bearer(requests.auth.AuthBase):
    """The key, and no other that a ``.netrc`` may hold for the host."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Adds the header."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def reason_of(error: Exception) -> str:
    """The innermost cause: the outer ones repeat the address and what was tried."""
    cause: BaseException = error
    while isinstance(
        inner := getattr(cause, "reason", None) or next(iter(cause.args), None), BaseException
    ):
        cause = inner
    return str(cause).rstrip(".") or type(cause).__name__
