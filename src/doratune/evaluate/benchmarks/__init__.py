"""Abilities that were not trained: lm-eval's tasks, the DoRA paper's commonsense suite, other texts."""

from doratune.evaluate.benchmarks.stage import evaluate_benchmarks

__all__ = ["evaluate_benchmarks"]
