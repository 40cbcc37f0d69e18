"""Sampling: the shares of language pairs, no repetition within a round, the same stream for any batch, rank and resume."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from align.sampling import ExampleSampler, PairSampler, development_rows
from probe.errors import AlignError

SIZES = (1000, 205, 37, 8)


def stream(sampler: PairSampler, count: int) -> list[tuple[int, ...]]:
    return [tuple(row) for row in sampler.draw(count).tolist()]


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_pairs_are_drawn_in_proportion_to_a_power_of_their_rows(exponent: float) -> None:
    sampler = PairSampler(SIZES, exponent, seed=1)
    expected = np.array(SIZES, dtype=float) ** exponent
    expected /= expected.sum()
    np.testing.assert_allclose(sampler.probabilities, expected, rtol=1e-12)
    drawn = Counter(sampler.draw(20_000)[:, 0].tolist())
    observed = [drawn[pair] for pair in range(len(SIZES))]
    assert chisquare(observed, 20_000 * expected).pvalue > 1e-3
    assert chisquare(observed, 20_000 * expected[::-1]).pvalue < 1e-9 or exponent == 0  # the check can fail


@pytest.mark.parametrize("size", SIZES)
def test_no_row_comes_again_before_all_of_its_pair_have_come(size: int) -> None:
    pair = SIZES.index(size)
    rows = [row for which, row in stream(PairSampler(SIZES, 0.3, seed=2), 6000) if which == pair]
    assert len(rows) > size
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        assert len(set(part)) == len(part)
        assert set(part) == set(range(size)) or len(part) < size
    assert rows[:size] != rows[size : 2 * size] or len(rows) < 2 * size
    assert rows[:size] != list(range(size))


def test_seeds_decide() -> None:
    assert stream(PairSampler(SIZES, 0.3, seed=1), 300) == stream(PairSampler(SIZES, 0.3, seed=1), 300)
    first, second = (stream(PairSampler(SIZES, 0.3, seed), 300) for seed in (1, 2))
    assert [pair for pair, _ in first] != [pair for pair, _ in second]
    of_small = [[row for pair, row in rows if pair == 3][:8] for rows in (first, second)]
    assert of_small[0] != of_small[1]


@pytest.mark.parametrize("batch", [1, 7, 32, 300])
def test_the_stream_does_not_depend_on_the_batch(batch: int) -> None:
    whole, cut = PairSampler(SIZES, 0.3, seed=3), PairSampler(SIZES, 0.3, seed=3)
    parts = [row for _ in range(0, 2100, batch) for row in stream(cut, batch)]
    assert parts[:2100] == stream(whole, 2100)
    examples, cut_examples = ExampleSampler(37, seed=3), ExampleSampler(37, seed=3)
    pieces = [row for _ in range(0, 300, batch) for row in cut_examples.draw(batch).tolist()]
    assert pieces[:300] == examples.draw(300).tolist()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_draw_what_one_process_draws(ranks: int) -> None:
    one = PairSampler(SIZES, 0.3, seed=4)
    many = [PairSampler(SIZES, 0.3, seed=4, rank=rank, ranks=ranks) for rank in range(ranks)]
    single = ExampleSampler(50, seed=4)
    several = [ExampleSampler(50, seed=4, rank=rank, ranks=ranks) for rank in range(ranks)]
    for _ in range(20):
        assert [row for sampler in many for row in stream(sampler, 16)] == stream(one, 16 * ranks)
        assert [row for sampler in several for row in sampler.draw(16)] == single.draw(16 * ranks).tolist()
    assert len({json.dumps(sampler.state_dict()) for sampler in [one, *many]}) == 1
    assert {sampler.epoch for sampler in several} == {20 * 16 * ranks / 50}


@pytest.mark.parametrize("before", [0, 5, 640, 5000])
def test_a_resumed_stream_goes_on_exactly(before: int) -> None:
    uninterrupted, killed = PairSampler(SIZES, 0.3, seed=5), PairSampler(SIZES, 0.3, seed=5)
    uninterrupted.draw(before)
    killed.draw(before)
    state = json.loads(json.dumps(killed.state_dict()))
    resumed = PairSampler(SIZES, 0.3, seed=5, rank=0, ranks=1)
    resumed.draw(11)  # what was drawn before the state is loaded leaves no trace
    resumed.load_state_dict(state)
    assert stream(resumed, 1500) == stream(uninterrupted, 1500)
    assert resumed.drawn == uninterrupted.drawn
    assert sum(resumed.drawn) == before + 1500

    examples, again = ExampleSampler(97, seed=5), ExampleSampler(97, seed=5)
    examples.draw(before)
    again.load_state_dict(json.loads(json.dumps(examples.state_dict())))
    assert again.draw(300).tolist() == examples.draw(300).tolist()
    assert again.epoch == examples.epoch


def test_a_state_of_another_run_is_refused() -> None:
    state = PairSampler(SIZES, 0.3, seed=6).state_dict()
    with pytest.raises(AlignError, match="seed 6; expected 7"):
        PairSampler(SIZES, 0.3, seed=7).load_state_dict(state)
    with pytest.raises(AlignError, match=r"exponent 0\.3; expected 0\.5"):
        PairSampler(SIZES, 0.5, seed=6).load_state_dict(state)
    with pytest.raises(AlignError, match="sizes"):
        PairSampler(SIZES[:3], 0.3, seed=6).load_state_dict(state)
    with pytest.raises(AlignError, match="size 5; expected 6"):
        ExampleSampler(6, seed=1).load_state_dict(ExampleSampler(5, seed=1).state_dict())


@pytest.mark.parametrize("size", [1, 5, 64])
def test_an_epoch_holds_each_example_once_in_a_new_order(size: int) -> None:
    sampler = ExampleSampler(size, seed=8)
    epochs = [sampler.draw(size).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert sampler.epoch == 3
    assert len({tuple(epoch) for epoch in epochs}) == (1 if size == 1 else 3)


def test_examples_and_pairs_of_one_seed_are_in_unrelated_orders() -> None:
    examples = ExampleSampler(64, seed=9).draw(64).tolist()
    assert PairSampler([64], 0.3, seed=9).draw(64)[:, 1].tolist() != examples
    first, second = (
        [row for pair, row in stream(PairSampler([64, 64], 0.3, seed=9), 400) if pair == which][:64] for which in (0, 1)
    )
    assert first != second


def test_what_cannot_be_drawn_from_is_refused() -> None:
    with pytest.raises(AlignError, match=r"language pairs of \[5, 0\] rows"):
        PairSampler([5, 0], 0.3, seed=1)
    with pytest.raises(AlignError, match=r"language pairs of \[\] rows"):
        PairSampler([], 0.3, seed=1)
    for exponent in (-0.1, 1.5, float("nan")):
        with pytest.raises(AlignError, match=f"exponent {exponent}; expected 0"):
            PairSampler([5], exponent, seed=1)
    with pytest.raises(AlignError, match="no task example"):
        ExampleSampler(0, seed=1)


@pytest.mark.parametrize(("rows", "held_out"), [(0, 0), (39, 0), (40, 20), (200, 20), (205, 21), (1000, 100)])
def test_a_tenth_is_for_development_and_at_least_twenty(rows: int, held_out: int) -> None:
    assert development_rows([f"sentence {row}" for row in range(rows)]).sum() == held_out


def test_development_does_not_depend_on_the_order() -> None:
    keys = [f"sentence {row % 150}" for row in range(400)]
    chosen = development_rows(keys)
    held_out = {key for key, here in zip(keys, chosen, strict=True) if here}
    assert not held_out & {key for key, here in zip(keys, chosen, strict=True) if not here}
    order = np.random.default_rng(0).permutation(len(keys))
    np.testing.assert_array_equal(development_rows([keys[row] for row in order]), chosen[order])
    assert 40 <= chosen.sum() < 43  # a text counts with all its rows


def test_a_text_of_most_rows_is_not_held_out() -> None:
    keys = ["the same"] * 300 + [f"sentence {row}" for row in range(100)]
    chosen = development_rows(keys)
    assert not chosen[:300].any()
    assert chosen.sum() == 40
    assert not development_rows(["the same"] * 300).any()
