from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from doratune.base.confidence import (
    calibration_error,
    equal_mass_bins,
    equal_width_bins,
    label_losses,
    probabilities,
)


def test_probabilities_are_the_softmax_over_the_labels() -> None:
    logprobs = np.log([[0.3, 0.1, 0.1], [0.2, 0.2, 0.4]]) - 5
    np.testing.assert_allclose(probabilities(logprobs), [[0.6, 0.2, 0.2], [0.25, 0.25, 0.5]])
    assert probabilities(np.array([[0.0, -2000.0]])).max() == 1.0
    # At temperature 2 each is its square root, over the sum of these.
    roots = np.sqrt([0.3, 0.1, 0.1])
    np.testing.assert_allclose(probabilities(logprobs[:1], 2)[0], roots / roots.sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_label_losses_are_the_log_loss_of_scikit_learn(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logprobs, truth = rng.normal(size=(200, 4)) * 3 - 7, rng.integers(4, size=200)
    losses = label_losses(logprobs, truth, temperature)
    expected = log_loss(truth, probabilities(logprobs, temperature), labels=range(4))
    assert losses.mean() == pytest.approx(expected)
    assert label_losses(np.array([[0.0, -2000.0]]), np.array([1]))[0] == 2000


def test_bins_of_equal_width_hold_their_lower_edge() -> None:
    confidence = np.array([0.0, 0.19, 0.2, 0.55, 0.6, 0.95, 1.0])
    assert equal_width_bins(confidence, 5).tolist() == [0, 0, 1, 2, 3, 4, 4]


def test_bins_of_equal_mass_hold_equally_many() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(103)
    bins = equal_mass_bins(confidence, 10)
    assert set(np.bincount(bins)) == {10, 11}
    # The least confident are in the first bin, and so on.
    assert (np.diff(bins[np.argsort(confidence)]) >= 0).all()


def test_equal_confidences_share_a_bin() -> None:
    confidence = np.array([0.5, 1.0, 1.0, 0.4, 1.0, 1.0])
    assert equal_mass_bins(confidence, 3).tolist() == [0, 1, 1, 0, 1, 1]
    order = np.array([3, 1, 4, 0, 5, 2])
    np.testing.assert_array_equal(
        equal_mass_bins(confidence[order], 3), equal_mass_bins(confidence, 3)[order]
    )
    assert equal_mass_bins(np.array([0.7]), 10).tolist() == [0]


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.55, 0.6, 0.95, 1.0, 1.0])
    correct = np.array([True, False, True, True, False])
    bins = equal_width_bins(confidence, 5)
    # [0.4, 0.6): 0.55, right. [0.6, 0.8): 0.6, wrong. [0.8, 1]: 0.95, 1, 1, two of three right.
    assert calibration_error(confidence, correct, bins) == pytest.approx((0.45 + 0.6 + 0.95) / 5)
