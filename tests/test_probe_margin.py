"""The margin rule and the MEXA score against literal double loops in float64, written from their definitions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.knn import faiss_installed
from probe.margin import MARGINS, Neighbours, mexa_rows, retrieve_rows
from probe.retrieve import retrieve_all

NO_FAISS = pytest.mark.skipif(not faiss_installed(), reason="faiss is not installed")
BACKENDS = ("torch", pytest.param("faiss", marks=NO_FAISS))


# ---- the oracle ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Literal:
    """One direction of xSIM, one cell at a time."""

    cosines: list[list[float]]
    nearest: list[list[int]]
    """Of each source, the k targets of largest cosine, nearest first."""
    scores: list[list[float]]
    """Of each source with every target, candidate or not."""
    winners: list[int]

    def tied(self, row: int, found: int, tolerance: float = 1e-5) -> bool:
        """Whether float64 sees `found` as good as the winner: a candidate within rounding, and of equal score."""
        threshold = self.cosines[row][self.nearest[row][-1]]
        best = self.scores[row][self.winners[row]]
        near = abs(self.scores[row][found] - best) <= tolerance * max(1.0, abs(best))
        return near and self.cosines[row][found] >= threshold - 1e-6


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))


def literal_xsim(source: np.ndarray, target: np.ndarray, margin: str, k: int) -> Literal:
    n = len(source)
    cosines = [[cosine(x, y) for y in target] for x in source]
    nearest = [sorted(range(n), key=lambda j, i=i: -cosines[i][j])[:k] for i in range(n)]
    of_source = [sum(cosines[i][j] for j in nearest[i]) / k for i in range(n)]
    of_target = [sum(sorted((cosines[i][j] for i in range(n)), reverse=True)[:k]) / k for j in range(n)]

    def score(i: int, j: int) -> float:
        middle = (of_source[i] + of_target[j]) / 2
        if margin == "ratio":
            return cosines[i][j] / middle
        return cosines[i][j] - middle if margin == "distance" else cosines[i][j]

    scores = [[score(i, j) for j in range(n)] for i in range(n)]
    winners = [max(nearest[i], key=lambda j, i=i: scores[i][j]) for i in range(n)]
    return Literal(cosines, nearest, scores, winners)


def literal_mexa(source: np.ndarray, target: np.ndarray) -> float:
    """The share of rows whose own cosine is strictly the largest of its row and of its column."""
    n, hits = len(source), 0
    cosines = [[cosine(x, y) for y in target] for x in source]
    for i in range(n):
        others = [cosines[i][j] for j in range(n) if j != i] + [cosines[j][i] for j in range(n) if j != i]
        hits += all(cosines[i][i] > other for other in others)
    return hits / n


def with_hubs(n: int, dim: int, seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy sides of the same points, off the origin, a few of them hubs near the common mean."""
    random = np.random.default_rng(seed)
    centre = random.normal(size=dim)
    points = random.normal(size=(n, dim)) + centre
    points[: max(1, n // 8)] = centre + 0.1 * random.normal(size=(max(1, n // 8), dim))
    sides = (points + noise * random.normal(size=(n, dim)) for _ in range(2))
    first, second = (side.astype(np.float32) for side in sides)
    return first, second


def predictions(
    source: np.ndarray, target: np.ndarray, margin: str, k: int, backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """What we retrieve, forward and backward."""
    arrays = {"eng_Latn": source, "deu_Latn": target}
    result = retrieve_all(arrays, margin=margin, k=k, backend=backend, device="cpu", save_predictions=True)
    found = result.layers[0].predictions
    assert found is not None
    return found[0, 1], found[1, 0]


def differing(source: np.ndarray, target: np.ndarray, margin: str, k: int, backend: str) -> tuple[list[str], int]:
    """Cells that differ from the oracle and are no ties in float64, in words; and the number of confirmed ties."""
    wrong, ties = [], 0
    forward, backward = predictions(source, target, margin, k, backend)
    for name, x, y, found in (("forward", source, target, forward), ("backward", target, source, backward)):
        literal = literal_xsim(x, y, margin, k)
        for row, (ours, theirs) in enumerate(zip(found, literal.winners, strict=True)):
            if ours != theirs and literal.tied(row, ours):
                ties += 1
            elif ours != theirs:
                wrong.append(f"{backend} {name} row {row}: {ours}, literal {theirs}")
    return wrong, ties


# ---- xSIM ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(("n", "dim", "k"), [(40, 8, 1), (40, 24, 4), (23, 48, 8), (12, 16, 12)])
def test_retrieval_equals_the_literal_double_loop(backend: str, margin: str, n: int, dim: int, k: int) -> None:
    wrong, ties = differing(*with_hubs(n, dim, seed=n + dim + k), margin, k, backend)
    assert not wrong
    assert ties <= 1, f"{ties} confirmed ties in {2 * n} cells"


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    n=st.integers(2, 14),
    dim=st.integers(4, 20),
    share=st.floats(0, 1),
    margin=st.sampled_from(MARGINS),
    seed=st.integers(0, 2**20),
)
def test_both_backends_equal_the_literal_double_loop_on_any_shape(
    n: int, dim: int, share: float, margin: str, seed: int
) -> None:
    k = 1 + round(share * (n - 1))
    for backend in ("torch", "faiss") if faiss_installed() else ("torch",):
        wrong, _ = differing(*with_hubs(n, dim, seed, noise=0.5), margin, k, backend)
        assert not wrong


def test_the_data_tells_the_margins_and_k_apart() -> None:
    """Else agreement with the oracle above would say nothing about margin or k. (With k = 1 all margins agree.)"""
    sides = with_hubs(200, 8, seed=3)
    answers = {
        (margin, k): tuple(predictions(*sides, margin, k, "torch")[0])
        for margin, k in [("ratio", 4), ("ratio", 8), ("distance", 4), ("absolute", 4)]
    }
    assert len(set(answers.values())) == len(answers)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("margin", MARGINS)
def test_repeated_targets_are_ties_confirmed_in_float64(backend: str, margin: str) -> None:
    """Rows 5 and 30 of the targets are equal: either may be found for a source that is nearest to them."""
    source, target = with_hubs(40, 16, seed=9, noise=0.2)
    target[30] = target[5]
    source[30] = source[5] + 0.05
    wrong, ties = differing(source, target, margin, 4, backend)
    assert not wrong
    assert ties <= 4, f"{ties} confirmed ties in 80 cells"


def test_a_wrong_answer_is_no_tie() -> None:
    source, target = with_hubs(20, 16, seed=1, noise=0.2)
    literal = literal_xsim(source, target, "ratio", 4)
    second = [max((j for j in literal.nearest[i] if j != literal.winners[i]), key=literal.scores[i].__getitem__) for i in range(20)]  # fmt: skip
    assert not any(literal.tied(row, found) for row, found in enumerate(second))


def test_only_the_k_nearest_are_rescored() -> None:
    """Target 2 has the best ratio of all, but is not among the two nearest."""
    forward = Neighbours(np.array([[0.9, 0.8, 0.6]] * 3), np.array([[0, 1, 2]] * 3))
    backward = Neighbours(np.array([[0.95, 0.95, 0], [0.9, 0.9, 0], [0.1, 0.1, 0]]), np.array([[0, 1, 2]] * 3))
    assert retrieve_rows(forward, backward, "ratio", 2).targets.tolist() == [0, 0, 0]
    assert retrieve_rows(forward, backward, "ratio", 3).targets.tolist() == [2, 2, 2]


def test_the_first_neighbour_wins_on_an_exact_tie() -> None:
    forward = Neighbours(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[1, 0], [0, 1]]))
    backward = Neighbours(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[0, 1], [1, 0]]))
    for margin in MARGINS:
        assert retrieve_rows(forward, backward, margin, 2).targets.tolist() == [1, 0]


def test_nonpositive_denominators_are_counted() -> None:
    """Two of four candidates have mean_k(x) + mean_k(y) of zero or less: those of row 1."""
    forward = Neighbours(np.array([[0.9, 0.1], [-0.2, -0.4]]), np.array([[0, 1], [1, 0]]))
    backward = Neighbours(np.array([[0.3, 0.1], [0.3, 0.3]]), np.array([[0, 1], [0, 1]]))
    # means: sources 0.5, -0.3; targets 0.2, 0.3, so the sums are 0.7, 0.8 and 0.0, -0.1
    assert retrieve_rows(forward, backward, "ratio", 2).nonpositive == 2
    assert retrieve_rows(forward, backward, "distance", 2).nonpositive == 0


def test_nothing_is_counted_where_all_denominators_are_positive() -> None:
    forward = Neighbours(np.array([[0.9, 0.1], [0.8, 0.4]]), np.array([[0, 1], [1, 0]]))
    assert retrieve_rows(forward, forward, "ratio", 2).nonpositive == 0


def test_nonpositive_denominators_reach_the_summary() -> None:
    """Opposite sides: every cosine is -1, so is every mean."""
    side = np.ones((3, 2), dtype=np.float32)
    summary = retrieve_all({"eng_Latn": side, "deu_Latn": -side}, k=2, device="cpu").summary()
    assert summary["nonpositive_denominators"] == {"0": 2 * 3 * 2}


def test_zero_by_zero_does_not_win() -> None:
    """The first candidate's score is 0 / 0, the second's -0.4 / 0.05: any number wins over none."""
    forward = Neighbours(np.array([[0.0, -0.4]] * 2), np.array([[0, 1]] * 2))
    backward = Neighbours(np.array([[0.2, 0.2], [0.3, 0.3]]), np.array([[0, 1]] * 2))
    found = retrieve_rows(forward, backward, "ratio", 2)
    assert found.targets.tolist() == [1, 1]
    assert found.nonpositive == 2


# ---- MEXA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 4])
def test_mexa_equals_the_literal_double_loop(backend: str, k: int) -> None:
    source, target = with_hubs(40, 12, seed=5, noise=0.6)
    result = retrieve_all({"eng_Latn": source, "deu_Latn": target}, k=k, backend=backend, device="cpu")
    expected = literal_mexa(source, target)
    assert 0.1 < expected < 0.9
    assert result.layers[0].mexa[0, 1] == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 4])
def test_mexa_does_not_count_exact_ties(backend: str, k: int) -> None:
    """Small integers on one circle (3-4-5): cosines are equal bit by bit where they are equal."""
    source = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, -1]], dtype=np.float32)
    target = source.copy()
    target[1] = target[0]  # row 0: tied in its row; row 1: another is larger
    result = retrieve_all({"eng_Latn": source, "deu_Latn": target}, k=k, backend=backend, device="cpu")
    assert literal_mexa(source, target) == 3 / 5
    assert result.layers[0].mexa[0, 1] == 3 / 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_mexa_does_not_count_repeated_rows(backend: str) -> None:
    """Equal rows tie, though FAISS gives them other last bits where the product is cut into blocks, as 256 + 1."""
    random = np.random.default_rng(0)
    source = random.normal(size=(257, 256)) + 1
    target = source + 0.5 * random.normal(size=source.shape)
    arrays = {"eng_Latn": source, "deu_Latn": target}
    assert retrieve_all(arrays, backend=backend, device="cpu").layers[0].mexa[0, 1] == 1
    target[:8] = target[256]
    assert retrieve_all(arrays, backend=backend, device="cpu").layers[0].mexa[0, 1] == (257 - 9) / 257


def test_mexa_is_symmetric_and_undefined_on_the_diagonal() -> None:
    source, target = with_hubs(30, 12, seed=6)
    result = retrieve_all({"eng_Latn": source, "deu_Latn": target, "fra_Latn": source + target}, device="cpu")
    table = result.layers[0].mexa
    np.testing.assert_array_equal(table, table.T)
    assert np.isnan(np.diag(table)).all()
    assert not np.isnan(table[~np.eye(3, dtype=bool)]).any()


def test_mexa_asks_for_a_strict_maximum() -> None:
    """Row 0 ties with another target, row 1 with another source, though each comes first; row 2 stands alone."""
    forward = Neighbours(np.array([[0.9, 0.9], [0.8, 0.7], [0.7, 0.1]]), np.array([[0, 1], [1, 0], [2, 0]]))
    backward = Neighbours(np.array([[0.9, 0.1], [0.8, 0.8], [0.7, 0.1]]), np.array([[0, 1], [1, 0], [2, 0]]))
    assert mexa_rows(forward, backward).tolist() == [False, False, True]


def test_mexa_asks_for_both_directions() -> None:
    """Row 0 is first in its row but not in its column, row 1 the other way round, row 2 in both."""
    forward = Neighbours(np.array([[0.9, 0.1], [0.9, 0.8], [0.7, 0.1]]), np.array([[0, 1], [0, 1], [2, 0]]))
    backward = Neighbours(np.array([[0.95, 0.9], [0.8, 0.1], [0.7, 0.1]]), np.array([[1, 0], [1, 0], [2, 0]]))
    assert mexa_rows(forward, backward).tolist() == [False, False, True]
