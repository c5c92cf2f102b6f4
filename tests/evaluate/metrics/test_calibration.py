from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from doratune.base.confidence import probabilities
from doratune.evaluate.metrics import Resamples
from doratune.evaluate.metrics.calibration import (
    HIGHEST_TEMPERATURE,
    calibration_draws,
    coverage_table,
    fit_temperature,
    mass_table,
    width_table,
)
from tests.evaluate.metrics.guesses import likelihoods

CONFIDENCE = np.array([0.55, 0.6, 0.95, 1.0, 1.0])
CORRECT = np.array([True, False, True, True, False])


def test_the_reliability_diagram_by_hand() -> None:
    bins = width_table(CONFIDENCE, CORRECT, 5)
    # [0.4, 0.6): 0.55, right. [0.6, 0.8): 0.6, wrong. [0.8, 1]: 0.95, 1, 1, two of three right.
    assert [b.n for b in bins] == [0, 0, 1, 1, 3]
    assert [b.accuracy for b in bins] == [None, None, 1, 0, pytest.approx(2 / 3)]
    assert [b.confidence for b in bins] == [None, None, 0.55, 0.6, pytest.approx(2.95 / 3)]
    assert [b.low for b in bins] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [b.high for b in bins] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])


def test_the_diagram_of_equal_mass_by_hand() -> None:
    bins = mass_table(CONFIDENCE, CORRECT, 2)
    # Five examples in two bins: three and two, but the two with 1.0 belong together.
    assert [(b.low, b.high, b.n) for b in bins] == [(0.55, 0.95, 3), (1.0, 1.0, 2)]
    assert [b.accuracy for b in bins] == [pytest.approx(2 / 3), 0.5]
    assert [b.confidence for b in bins] == [pytest.approx(2.1 / 3), 1.0]


def test_calibration_errors_are_the_weighted_gaps_of_the_diagrams() -> None:
    logprobs, truth = likelihoods(sharpness=2)
    draws = calibration_draws(Resamples(400, 0), logprobs, truth, 10)
    confidence, correct = probabilities(logprobs).max(1), logprobs.argmax(1) == truth
    for name, table in (("ece", width_table), ("ece_mass", mass_table)):
        bins = table(confidence, correct, 10)
        assert sum(b.n for b in bins) == 400
        gaps = [b.n / 400 * abs(b.accuracy - b.confidence) for b in bins if b.n]
        assert draws[name][0] == pytest.approx(sum(gaps))


def test_brier_score_and_label_loss_are_those_of_scikit_learn() -> None:
    logprobs, truth = likelihoods()
    for temperature in (1.0, 2.5):
        draws = calibration_draws(Resamples(400, 0), logprobs, truth, 10, temperature)
        chances = probabilities(logprobs, temperature)
        brier = brier_score_loss(truth, chances, labels=range(5), scale_by_half=False)
        assert draws["brier"][0] == pytest.approx(brier)
        assert draws["label_nll"][0] == pytest.approx(log_loss(truth, chances, labels=range(5)))


def test_a_model_that_draws_from_its_own_probabilities_is_calibrated() -> None:
    logprobs, truth = likelihoods(n=20_000)
    draws = calibration_draws(Resamples(20_000, 0), logprobs, truth, 10)
    # Ten bins of 2,000: chance alone gives a gap of about 0.8 * 0.5 / sqrt(2000) in each.
    assert draws["ece"][0] < 0.015
    sharper = calibration_draws(Resamples(20_000, 0), 3 * logprobs, truth, 10)
    assert sharper["ece"][0] > 0.1


def test_perfect_confidence_has_no_calibration_error() -> None:
    logprobs = np.array([[0.0, -2000.0]] * 4)
    resamples = Resamples(4, 0)
    for values in calibration_draws(resamples, logprobs, np.zeros(4, np.int64), 10).values():
        figure = resamples.interval(values, 0)
        assert (figure.value, figure.low, figure.high) == (0, 0, 0)


@pytest.mark.parametrize("planted", [0.4, 1.0, 3.0])
def test_a_planted_temperature_is_found(planted: float) -> None:
    logprobs, truth = likelihoods(n=20_000, sharpness=planted)
    temperature, note = fit_temperature(logprobs, truth)
    assert temperature == pytest.approx(planted, rel=0.05)
    assert note == ""


def test_the_temperature_is_the_one_with_the_lowest_loss() -> None:
    logprobs, truth = likelihoods(n=300, sharpness=4)
    temperature, _ = fit_temperature(logprobs, truth)
    assert temperature is not None

    def loss(at: float) -> float:
        return log_loss(truth, probabilities(logprobs, at), labels=range(5))

    tried = [loss(at) for at in np.geomspace(0.1, 50, 200)]
    assert loss(temperature) <= min(tried) + 1e-6


def test_no_temperature_without_validation_examples() -> None:
    nothing = np.empty((0, 3)), np.empty(0, np.int64)
    assert fit_temperature(*nothing) == (None, "there are no validation examples to fit it on")


def test_no_temperature_where_every_answer_is_right() -> None:
    logprobs, _ = likelihoods(n=12)
    temperature, note = fit_temperature(logprobs, logprobs.argmax(1))
    assert temperature is None
    assert note.startswith("all 12 answers on the validation split are right")


def test_the_temperature_of_a_model_that_knows_less_than_nothing_is_the_highest() -> None:
    logprobs, _ = likelihoods(n=50)
    temperature, _ = fit_temperature(logprobs, logprobs.argmin(1))
    assert temperature == pytest.approx(HIGHEST_TEMPERATURE, rel=0.01)


def test_accuracy_of_the_most_confident_by_hand() -> None:
    confidence = np.array([0.9, 0.3, 0.8, 0.5])
    correct = np.array([True, False, True, False])
    points = coverage_table(confidence, correct, [1.0, 0.75, 0.5, 0.01])
    assert [p.coverage for p in points] == [1.0, 0.75, 0.5, 0.01]
    assert [p.threshold for p in points] == [0.3, 0.5, 0.8, 0.9]
    assert [p.accuracy.value for p in points] == pytest.approx([0.5, 2 / 3, 1, 1])
    assert [p.accuracy.n for p in points] == [4, 3, 2, 1]
