"""Base and tuned model on the same test examples: scores, answers, figures with intervals."""

from doratune.evaluate.stage import evaluate_models

__all__ = ["evaluate_models"]
