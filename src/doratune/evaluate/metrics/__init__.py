"""What is measured of answers, one question a file; no model is needed for any of it."""

from doratune.evaluate.metrics.intervals import Resamples, difference, mcnemar, mean, share

__all__ = ["Resamples", "difference", "mcnemar", "mean", "share"]
