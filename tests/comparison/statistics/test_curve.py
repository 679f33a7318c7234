import numpy as np
import pytest

from rlx.comparison.statistics.bootstrap import align, area_under_curve, band


def test_the_area_is_the_mean_height():
    assert area_under_curve(np.array([0, 10, 20]), np.array([0.0, 1.0, 1.0])) == pytest.approx(0.75)
    assert area_under_curve(np.array([0, 1, 10]), np.array([0.4, 0.4, 0.4])) == pytest.approx(0.4)
    assert area_under_curve(np.array([5]), np.array([0.3])) == pytest.approx(0.3)
    assert np.isnan(area_under_curve(np.array([]), np.array([])))
    assert np.isnan(area_under_curve(np.array([0, 1]), np.array([0.4, np.inf])))


def test_curves_meet_on_their_common_grid():
    steps, values = align([(np.array([0, 10]), np.array([1.0, 2.0])), (np.array([0, 5, 10]), np.array([3.0, 4.0, 5.0]))])
    assert steps.tolist() == [0, 5, 10]
    assert values[1].tolist() == [3, 4, 5]
    assert np.isnan(values[0, 1])


def test_the_band_is_students_interval_at_each_step():
    values = np.array([[1.0, 2.0, np.nan], [3.0, 2.0, 5.0]])
    centre, low, high = band(values)
    assert centre.tolist() == [2, 2, 5]
    assert high[0] - 2 == pytest.approx(12.7062047)
    assert (low[1], high[1]) == (2, 2)
    assert np.isnan(low[2])
