"""Files of labelled examples to the three splits of a run, and conversations to tokens."""

from doratune.data.clauses import clauses
from doratune.data.render import Rendered, Renderer
from doratune.data.stage import prepare_data, read_examples

__all__ = ["Rendered", "Renderer", "clauses", "prepare_data", "read_examples"]
