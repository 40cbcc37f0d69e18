"""Pooling: every vector is the sum a person would write down, wherever the padding is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probe.pool import POOLINGS, pool, pooling_weights

NAMES = tuple(POOLINGS)


lengths_of_batches = st.lists(st.integers(2, 9), min_size=1, max_size=5)


def literal(states: np.ndarray, name: str) -> np.ndarray:
    """One sentence's tokens (token, hidden) to its vector, in exact arithmetic for the weights and float64 for the sum."""
    n = len(states)
    weights = {
        "mean": [Fraction(1, n)] * n,
        "mean-nofirst": [Fraction(0)] + [Fraction(1, max(n - 1, 1))] * (n - 1),
        "last": [Fraction(0)] * (n - 1) + [Fraction(1)],
        "weighted": [Fraction(t, n * (n + 1) // 2) for t in range(1, n + 1)],
    }[name]
    return sum(float(weight) * row.astype(np.float64) for weight, row in zip(weights, states, strict=True))


def padded(sentences: list[np.ndarray], side: str, filler: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, token, hidden) states with `filler` on the padding, and the mask."""
    longest, hidden = max(map(len, sentences)), sentences[0].shape[1]
    states = torch.full((len(sentences), longest, hidden), filler)
    mask = torch.zeros((len(sentences), longest), dtype=torch.bool)
    for i, sentence in enumerate(sentences):
        place = slice(0, len(sentence)) if side == "right" else slice(longest - len(sentence), longest)
        states[i, place] = torch.from_numpy(sentence)
        mask[i, place] = True
    return states, mask


def sentences_of(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(lengths))
    return [rng.standard_normal((n, 5)).astype(np.float32) for n in lengths]


@pytest.mark.parametrize("filler", [1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20)
@given(lengths=lengths_of_batches)
def test_pooling_is_the_literal_sum_whatever_the_padding(
    name: str, side: str, filler: float, lengths: list[int]
) -> None:
    """Padding is filled with what would show if the least of it leaked."""
    sentences = sentences_of(lengths)
    states, mask = padded(sentences, side, filler)
    vectors = pool(states, pooling_weights(mask, [name]))[:, 0].numpy()
    for vector, sentence in zip(vectors, sentences, strict=True):
        np.testing.assert_allclose(vector, literal(sentence, name), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(mask=hnp.arrays(bool, (3, 7)).filter(lambda m: (m.sum(axis=1) >= 2).all()))
def test_weights_sum_to_one_and_are_zero_off_the_mask(mask: np.ndarray) -> None:
    """Any mask, with holes too."""
    weights = pooling_weights(torch.from_numpy(mask), NAMES)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, len(NAMES)))
    assert (weights.transpose(1, 2)[~torch.from_numpy(mask)] == 0).all()


def test_poolings_stand_in_the_order_of_their_names() -> None:
    mask = torch.tensor([[True, True, True, False]])
    together = pooling_weights(mask, NAMES)
    for i, name in enumerate(NAMES):
        assert torch.equal(together[:, i], pooling_weights(mask, [name])[:, 0])


def test_the_four_poolings_differ() -> None:
    """Else the tests above could hold for a function that ignores the name."""
    weights = pooling_weights(torch.ones((1, 4), dtype=torch.bool), NAMES)[0]
    assert len({tuple(row.tolist()) for row in weights}) == len(NAMES)


def test_mean_nofirst_of_one_token_is_nan() -> None:
    """Extraction refuses it by name; a zero vector would pass for a sentence."""
    assert torch.isnan(pooling_weights(torch.tensor([[True]]), ["mean-nofirst"])).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32_whatever_the_dtype_of_the_states(dtype: torch.dtype) -> None:
    """3,000 tokens summed in half precision would lose digits that retrieval needs."""
    states = torch.linspace(0.1, 0.9, 3000, dtype=dtype).reshape(1, 3000, 1)
    exact = states.double().mean()
    pooled = pool(states, pooling_weights(torch.ones((1, 3000), dtype=torch.bool), ["mean"]))
    assert pooled.dtype == torch.float32
    assert abs(pooled.item() - exact) < 1e-6 * exact
    in_half = sum(states[0, :, 0], start=torch.zeros((), dtype=dtype)) / 3000
    assert abs(in_half.item() - exact) > 1e-4 * exact, "the claim could not fail"


def test_pooling_leaves_its_arguments_alone() -> None:
    states, mask = padded(sentences_of([3, 2]), "right", filler=0.0)
    before = states.clone(), mask.clone()
    pool(states, pooling_weights(mask, NAMES))
    assert torch.equal(states, before[0])
    assert torch.equal(mask, before[1])
