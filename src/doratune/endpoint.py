"""What every call of a server with OpenAI's API needs."""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

BACKOFF_SECONDS = 1.0
"""Twice as long after each try, beginning with the second."""

_RETRY_AFTER_MAX_SECONDS = 60


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
