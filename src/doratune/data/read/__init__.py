"""Sources of examples to rows: streamed, parsed strictly, each row with its place."""

from doratune.data.read.rows import Chunk, Row, Unreadable, refuse
from doratune.data.read.source import Source, open_source

__all__ = ["Chunk", "Row", "Source", "Unreadable", "open_source", "refuse"]
