"""Exact search: both backends give LASER's answers, and the neighbours of a full sort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probe.errors import RetrievalError
from probe.knn import Pair, choose_backend, faiss_installed, make_search, search_pairs
from probe.retrieve import retrieve_all

CPU = torch.device("cpu")
NO_FAISS = pytest.mark.skipif(not faiss_installed(), reason="faiss is not installed")
BACKENDS = ("torch", pytest.param("faiss", marks=NO_FAISS))
CODES = ("arb_Arab", "deu_Latn", "eng_Latn", "rus_Cyrl", "zho_Hans")


def unit(languages: int, rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """(language, row, dim) float32 of length 1."""
    values = np.random.default_rng(seed).normal(size=(languages, rows, dim))
    return (values / np.linalg.norm(values, axis=2, keepdims=True)).astype(np.float32)


def search(backend: str, values: np.ndarray, k: int, device: torch.device = CPU) -> list[Pair]:
    own = make_search(backend, device, *values.shape)
    for rows in values:
        own.add(rows)
    return list(own.pairs(k))


# ---- LASER's answers -----------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_golden_cell_is_reproduced(backend: str, shared_golden: Path) -> None:
    """Seven settings x 20 directions x 200 sentences, as LASER's own xSIM retrieved them."""
    wrong, compared = {}, 0
    with np.load(shared_golden / "xsim" / "small.npz") as golden:
        arrays = dict(zip(CODES, golden["embeddings"], strict=True))
        for name in (name for name in golden.files if name.startswith("pred_")):
            _, margin, k = name.split("_")
            result = retrieve_all(
                arrays, margin=margin, k=int(k[1:]), backend=backend, device="cpu", save_predictions=True
            )
            wrong[name] = int((result.layers[0].predictions != golden[name]).sum())
            compared += golden[name].size
    assert wrong == dict.fromkeys(wrong, 0)
    assert compared == 7 * 5 * 5 * 200


@pytest.mark.shared
def test_the_golden_cells_tell_settings_apart(shared_golden: Path) -> None:
    """Else reproducing them would prove little: each pair of settings differs in some cell."""
    with np.load(shared_golden / "xsim" / "small.npz") as golden:
        names = ("pred_ratio_k4", "pred_ratio_k8", "pred_distance_k4", "pred_absolute_k4")
        differ = [(golden[a] != golden[b]).mean() for i, a in enumerate(names) for b in names[:i]]
    assert min(differ) > 0


# ---- neighbours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("languages", "rows", "dim", "k"), [(2, 7, 3, 7), (4, 50, 16, 4), (3, 33, 100, 1)])
def test_neighbours_are_those_of_a_full_sort(backend: str, languages: int, rows: int, dim: int, k: int) -> None:
    values = unit(languages, rows, dim)
    exact = values.astype(np.float64)
    for a, b, forward, backward in search(backend, values, k):
        for found, cosines in ((forward, exact[a] @ exact[b].T), (backward, exact[b] @ exact[a].T)):
            np.testing.assert_array_equal(found.indices, np.argsort(-cosines, axis=1)[:, :k])
            np.testing.assert_allclose(found.cosines, -np.sort(-cosines, axis=1)[:, :k], atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_unordered_pair_comes_once(backend: str) -> None:
    pairs = [(pair.a, pair.b) for pair in search(backend, unit(5, 6, 4), 2)]
    assert sorted(pairs) == [(a, b) for a in range(5) for b in range(a + 1, 5)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cosine_is_float32_not_less(backend: str) -> None:
    """In bf16 or TF32 the error would be a thousand times this."""
    values = unit(2, 300, 512, seed=4)
    ((_, _, forward, _),) = search(backend, values, 300)
    exact = values[0].astype(np.float64) @ values[1].astype(np.float64).T
    order = np.argsort(forward.indices, axis=1)
    assert np.abs(np.take_along_axis(forward.cosines, order, axis=1) - exact).max() < 1e-6


def test_any_similarity_serves_both_directions() -> None:
    matrix = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    ((_, _, forward, backward),) = search_pairs(2, lambda a, b: matrix, 1)
    assert forward.indices.tolist() == [[1], [0]]
    assert backward.indices.tolist() == [[1], [0]]
    assert backward.cosines[:, 0].tolist() == pytest.approx([0.5, 0.9])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_a_gpu_finds_what_the_cpu_finds() -> None:
    values = unit(3, 200, 64)
    for ours, theirs in zip(
        search("torch", values, 4, torch.device("cuda:0")), search("torch", values, 4), strict=True
    ):
        np.testing.assert_array_equal(ours.forward.indices, theirs.forward.indices)
        np.testing.assert_array_equal(ours.backward.indices, theirs.backward.indices)


# ---- choice --------------------------------------------------------------------------------------------------


def test_auto_takes_faiss_where_it_is_installed() -> None:
    assert choose_backend("auto", CPU) == ("faiss" if faiss_installed() else "torch")


def test_a_backend_asked_for_is_kept() -> None:
    for backend in ("torch", "faiss") if faiss_installed() else ("torch",):
        assert choose_backend(backend, CPU) == backend


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(RetrievalError, match="--backend hnsw; expected one of auto, faiss, torch"):
        choose_backend("hnsw", CPU)


def test_a_faiss_without_gpu_support_is_refused_on_a_gpu() -> None:
    faiss = pytest.importorskip("faiss")
    if faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0:
        pytest.skip("this faiss sees a GPU")
    with pytest.raises(RetrievalError, match=r"midprobe\[gpu\]"):
        choose_backend("faiss", torch.device("cuda"))
    assert choose_backend("auto", torch.device("cuda")) == "torch"
