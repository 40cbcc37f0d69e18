"""The statistics over languages against scipy, against literal loops, and by their properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.association import (
    bca_intervals,
    constant,
    fisher_interval,
    holm,
    partial_correlation,
    permutation_test,
    regression_band,
    weighted_correlation,
)


def sample(n: int, layers: int = 3, slope: float = 0.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies (language, layer) that share a part with the score (language,)."""
    generator = np.random.default_rng(seed)
    score = generator.normal(60, 10, n)
    accuracy = 0.4 + slope * (score[:, None] - 60) / 60 + generator.normal(0, 0.1, (n, layers))
    return accuracy, score


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.pearsonr(x, y).statistic)


# ---- correlation ---------------------------------------------------------------------------------------------


def test_weights_count_languages_as_often_as_they_are_drawn() -> None:
    x, y = sample(9)
    drawn = np.random.default_rng(1).integers(0, 9, (20, 9))
    times = np.array([np.bincount(row, minlength=9) for row in drawn], dtype=float)
    expected = [[pearson(x[row, layer], y[row]) for layer in range(3)] for row in drawn]
    np.testing.assert_allclose(weighted_correlation(times, x, y), expected, atol=1e-12)


def test_a_correlation_with_a_constant_side_is_undefined() -> None:
    x, y = sample(6)
    x[:, 1] = np.full(6, 0.1) + np.arange(6) * 1e-17  # constant but for rounding
    one_language = np.array([[6.0, 0, 0, 0, 0, 0]])
    assert np.isnan(weighted_correlation(one_language, x, y)).all()
    assert np.isnan(weighted_correlation(np.ones((1, 6)), x, y)).tolist() == [[False, True, False]]
    assert constant(x).tolist() == [False, True, False]
    assert constant(np.zeros(4))
    assert not constant(np.array([0.1, 0.1, 0.1 + 1e-5]))


@given(st.floats(0.001, 1000), st.floats(-100, 100), st.floats(0.001, 1000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_neither_units_nor_offsets_matter(scale: float, offset: float, other: float, flipped: bool) -> None:
    x, y = sample(10)
    sign = -1 if flipped else 1
    everyone = np.ones((1, 10))
    moved = weighted_correlation(everyone, sign * scale * x + offset, other * y - offset)
    np.testing.assert_allclose(moved, sign * weighted_correlation(everyone, x, y), atol=1e-8)


def test_fisher_interval_is_that_of_scipy() -> None:
    for n in (4, 7, 20):
        x, y = sample(n)
        found = stats.pearsonr(x[:, 0], y)
        assert fisher_interval(found.statistic, n) == pytest.approx(tuple(found.confidence_interval()), abs=1e-12)
    assert fisher_interval(1.0, 5) == (1.0, 1.0)
    with pytest.raises(ValueError, match="needs 4"):
        fisher_interval(0.5, 3)


# ---- permutations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 5, 6, 8])
def test_all_orders_are_enumerated_up_to_eight(n: int) -> None:
    x, y = sample(n, layers=2, slope=0.3, seed=n)
    found = permutation_test(x, y, 100, np.random.default_rng(0))
    assert found.exact
    for layer in range(2):
        oracle = stats.permutation_test(
            (y,),
            lambda scores, axis, layer=layer: np.abs(stats.pearsonr(scores, x[:, layer], axis=axis).statistic),
            permutation_type="pairings",
            n_resamples=np.inf,
            alternative="greater",
            vectorized=True,
        )
        assert found.p[layer] == pytest.approx(oracle.pvalue, abs=1e-12)
        assert found.permutations == len(oracle.null_distribution)


def test_equal_values_are_counted_as_reached() -> None:
    """With three of four scores tied only the fourth's place matters: it has the outlying accuracy in one of four orders."""
    x = np.array([[0.1], [0.1], [0.1], [0.7]])
    assert permutation_test(x, np.array([0.3, 0.3, 0.3, 0.9]), 100, np.random.default_rng(0)).p[0] == 6 / 24
    assert permutation_test(x, np.array([0.3, 0.9, 0.3, 0.3]), 100, np.random.default_rng(0)).p[0] == 1.0


def test_no_correlation_at_all_is_reached_by_every_order() -> None:
    x = np.array([[0.1], [0.2], [0.2], [0.1], [0.3]])
    y = np.array([40.0, 50.0, 30.0, 40.0, 40.0])  # r = 0
    assert permutation_test(x, y, 100, np.random.default_rng(0)).p[0] == 1.0


def test_random_orders_give_nearly_the_exact_p() -> None:
    """Nine languages lie above the limit: 9! = 362,880 orders in a literal enumeration, against 20,000 random ones."""
    x, y = sample(9, layers=1, slope=0.25, seed=5)
    found = permutation_test(x, y, 20_000, np.random.default_rng(0))
    assert not found.exact
    u, v = x[:, 0] - x.mean(), y - y.mean()
    orders = np.array(list(itertools.permutations(range(9))))
    exact = np.mean(np.abs(v[orders] @ u) >= np.abs(v @ u) * (1 - 1e-9))
    assert found.p[0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_random_orders_never_give_zero() -> None:
    y = np.arange(20.0)
    assert permutation_test(y[:, None], y, 199, np.random.default_rng(0)).p[0] == 1 / 200


def test_the_largest_of_all_layers_by_a_literal_loop() -> None:
    x, y = sample(6, layers=4, slope=0.4, seed=3)
    observed = np.array([abs(pearson(x[:, layer], y)) for layer in range(4)])
    largest = np.array(
        [
            max(abs(pearson(x[:, layer], y[list(order)])) for layer in range(4))
            for order in itertools.permutations(range(6))
        ]
    )
    expected = [(largest >= own - 1e-9).mean() for own in observed]
    found = permutation_test(x, y, 100, np.random.default_rng(0))
    np.testing.assert_allclose(found.max_p, expected, atol=1e-12)
    assert (found.max_p >= found.p).all()


def test_the_largest_of_equal_layers_costs_nothing() -> None:
    """Layers that say the same are one test: where Holm multiplies, the max statistic does not."""
    x, y = sample(12, layers=1)
    found = permutation_test(np.repeat(x, 5, axis=1), y, 999, np.random.default_rng(0))
    np.testing.assert_array_equal(found.max_p, found.p)


def test_a_constant_layer_has_no_p_and_does_not_disturb_the_others() -> None:
    x, y = sample(10)
    alone = permutation_test(x, y, 499, np.random.default_rng(2))
    beside = permutation_test(np.column_stack([x, np.full(10, 0.2)]), y, 499, np.random.default_rng(2))
    assert np.isnan([beside.p[3], beside.max_p[3]]).all()
    np.testing.assert_array_equal(beside.p[:3], alone.p)
    np.testing.assert_array_equal(beside.max_p[:3], alone.max_p)


@pytest.mark.parametrize("n", [6, 15])
def test_where_nothing_is_p_is_uniform(n: int) -> None:
    """Of 300 unrelated samples about 5 % have p <= 0.05, and the max statistic keeps that for six layers together."""
    generator = np.random.default_rng(4)
    found = [
        permutation_test(generator.random((n, 6)), generator.random(n), 199, np.random.default_rng(i))
        for i in range(300)
    ]
    allowed = stats.binom.interval(0.999, 300, 0.05)
    assert allowed[0] <= sum(each.p[0] <= 0.05 for each in found) <= allowed[1]
    assert allowed[0] <= sum(each.max_p.min() <= 0.05 for each in found) <= allowed[1]
    assert sum(each.p.min() <= 0.05 for each in found) > allowed[1]  # which uncorrected p do not


# ---- bootstrap -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "slope"), [(8, 0.6), (15, 0.3), (15, 3.0), (40, 0.0)])
def test_bca_is_that_of_scipy(n: int, slope: float) -> None:
    """Given r rounded to 10 digits, since scipy would take a reordered sample's last bit for another r."""
    x, y = sample(n, layers=2, slope=slope, seed=n)
    found = bca_intervals(x, y, 3000, np.random.default_rng(11))
    for layer in range(2):
        oracle = stats.bootstrap(
            (x[:, layer], y),
            lambda a, b, axis: np.round(stats.pearsonr(a, b, axis=axis).statistic, 10),
            paired=True,
            vectorized=True,
            method="BCa",
            n_resamples=3000,
            rng=np.random.default_rng(11),
        ).confidence_interval
        assert (found.low[layer], found.high[layer]) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert (found.undefined == 0).all()


def test_a_layer_has_the_same_interval_alone_and_among_others() -> None:
    x, y = sample(12)
    together = bca_intervals(x, y, 500, np.random.default_rng(3))
    alone = bca_intervals(x[:, [1]], y, 500, np.random.default_rng(3))
    assert (together.low[1], together.high[1]) == pytest.approx((alone.low[0], alone.high[0]), abs=1e-12)


def test_undefined_resamples_are_counted_and_left_out() -> None:
    """Two of eight languages alone have another score: a resample without both has no correlation."""
    x, _ = sample(8, layers=1)
    y = np.array([1.0, 1, 1, 1, 1, 1, 5, 5])
    found = bca_intervals(x, y, 2000, np.random.default_rng(6))
    drawn = np.random.default_rng(6).integers(0, 8, (2000, 8))
    expected = sum(np.ptp(y[row]) == 0 for row in drawn)
    assert expected > 100  # about (3/4)^8 of them
    assert found.undefined.tolist() == [expected]
    assert -1 <= found.low[0] < pearson(x[:, 0], y) < found.high[0] <= 1


def test_one_language_that_alone_differs_gives_no_interval() -> None:
    x, _ = sample(8, layers=1)
    found = bca_intervals(x, np.array([1.0, 1, 1, 1, 1, 1, 1, 5]), 500, np.random.default_rng(0))
    assert np.isnan([found.low[0], found.high[0]]).all()


def test_a_perfect_line_has_the_interval_of_its_r() -> None:
    y = np.linspace(20, 80, 10)
    found = bca_intervals(np.column_stack([0.01 * y, -0.01 * y]), y, 500, np.random.default_rng(0))
    np.testing.assert_allclose([found.low, found.high], [[1, -1], [1, -1]], atol=1e-9)


# ---- adjustment, partial correlation, regression -------------------------------------------------------------


def test_holm_by_hand() -> None:
    p = np.array([0.04, 0.01, np.nan, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.06, 0.03, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.4, 0.9])), [0.8, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1.0, 1.0])


def test_partial_correlation_by_recursion_and_as_a_regression_slope() -> None:
    """One control: (r_xy - r_xz r_yz) / sqrt(...); two: the same formula once more. Its t is that of the slope."""
    x, y = sample(20, layers=3, seed=8)
    a, b, c = x.T

    def recursed(first: np.ndarray, second: np.ndarray, controls: list[np.ndarray]) -> float:
        if not controls:
            return pearson(first, second)
        *rest, last = controls
        xy, xz, yz = (recursed(*pair, rest) for pair in ((first, second), (first, last), (second, last)))
        return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))

    for controls in ([b], [b, c]):
        found = partial_correlation(a, y, np.column_stack(controls))
        assert found.r == pytest.approx(recursed(a, y, controls), abs=1e-12)
        assert found.df == 20 - 2 - len(controls)
        design = np.column_stack([np.ones(20), a, *controls])
        slope = np.linalg.lstsq(design, y, rcond=None)[0]
        variance = ((y - design @ slope) ** 2).sum() / found.df * np.linalg.inv(design.T @ design)[1, 1]
        t = slope[1] / np.sqrt(variance)
        assert found.p == pytest.approx(2 * stats.t.sf(abs(t), found.df), rel=1e-9)


def test_partial_correlation_removes_what_a_common_cause_brings() -> None:
    generator = np.random.default_rng(2)
    cause = generator.normal(size=300)
    x, y = (cause + generator.normal(0, 0.3, 300) for _ in range(2))
    assert pearson(x, y) > 0.8
    assert abs(partial_correlation(x, y, cause[:, None]).r) < 0.15


def test_controls_that_leave_nothing_have_no_partial_correlation() -> None:
    x, y = sample(12, layers=1)
    a = x[:, 0]
    latin = np.arange(12) % 2.0
    for controls in (np.ones((12, 1)), np.column_stack([latin, 1 - latin]), x, y[:, None]):
        found = partial_correlation(a, y, controls)
        assert np.isnan([found.r, found.p]).all()
    assert partial_correlation(a, y, latin[:, None] * 1000 + 1e6).r == pytest.approx(
        partial_correlation(a, y, latin[:, None]).r, abs=1e-9
    )


def test_the_regression_band_is_that_of_the_textbook() -> None:
    """Against the covariance of the coefficients: the variance of intercept + slope x at each x."""
    x, y = sample(15, layers=1, seed=1)
    a = x[:, 0]
    at = np.linspace(0.1, 0.9, 7)
    band = regression_band(a, y, at)
    design = np.column_stack([np.ones(15), a])
    coefficients, rest, *_ = np.linalg.lstsq(design, y, rcond=None)
    points = np.column_stack([np.ones(7), at])
    covariance = rest[0] / 13 * np.linalg.inv(design.T @ design)
    half = stats.t.ppf(0.975, 13) * np.sqrt(np.einsum("ij,jk,ik->i", points, covariance, points))
    np.testing.assert_allclose(band.fit, points @ coefficients, rtol=1e-9)
    np.testing.assert_allclose(band.high - band.fit, half, rtol=1e-9)
    np.testing.assert_allclose(band.fit - band.low, half, rtol=1e-9)
    middle = regression_band(a, y, np.array([a.mean()]))
    assert (band.high - band.low).min() >= (middle.high - middle.low)[0]
