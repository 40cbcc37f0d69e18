"""Exact nearest neighbours between all pairs of languages: FAISS (CPU, GPU) or torch (CPU, GPU). The home of faiss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from probe.errors import RetrievalError
from probe.margin import Neighbours

BACKENDS = ("auto", "faiss", "torch")


class Pair(NamedTuple):
    """Two languages, by number, and the neighbours in both directions."""

    a: int
    b: int
    forward: Neighbours
    """Of the rows of a among those of b."""
    backward: Neighbours
    """Of the rows of b among those of a."""


@runtime_checkable  # so that the type check of the test run can see it
class Search(Protocol):
    """A backend: takes one language after another as L2-normalised rows, then searches all unordered pairs."""

    def add(self, rows: Float[np.ndarray, "row dim"]) -> None: ...
    def pairs(self, k: int) -> Iterator[Pair]: ...


def faiss_installed() -> bool:
    return importlib.util.find_spec("faiss") is not None


def choose_backend(backend: str, device: torch.device) -> str:
    """`auto` = faiss where it is installed (on a GPU: its GPU build), else torch.

    Raises:
        RetrievalError: faiss asked for and not installed, or without GPU support where a GPU is asked for.
    """
    if backend not in BACKENDS:
        raise RetrievalError(f"--backend {backend}", f"one of {', '.join(BACKENDS)}", "give one of these")
    if backend == "auto":
        return "faiss" if faiss_installed() and (device.type == "cpu" or _faiss_gpus()) else "torch"
    if backend == "faiss":
        if not faiss_installed():
            raise RetrievalError(
                "--backend faiss but faiss is not installed",
                "the package faiss-cpu or faiss-gpu",
                "pip install 'midprobe[cpu]' (or 'midprobe[gpu]', never both), or use --backend torch",
            )
        if device.type == "cuda" and not _faiss_gpus():
            raise RetrievalError(
                "--backend faiss on a GPU but this faiss sees none",
                "faiss-gpu",
                "replace faiss-cpu by 'midprobe[gpu]', or use --backend torch, or --device cpu",
            )
    return backend


def _faiss_gpus() -> int:
    import faiss

    return faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0


def make_search(backend: str, device: torch.device, languages: int, rows: int, dim: int) -> Search:
    """The chosen backend for so many languages of (rows, dim)."""
    return FaissSearch(device, languages, rows, dim) if backend == "faiss" else TorchSearch(device)


class TorchSearch:
    """One similarity matrix a pair serves both directions."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rows: list[torch.Tensor] = []

    def add(self, rows: Float[np.ndarray, "row dim"]) -> None:
        tensor = torch.from_numpy(rows)
        self._rows.append(tensor.to_mkldnn() if self._onednn else tensor.to(self._device))

    @property
    def _onednn(self) -> bool:
        """On a CPU oneDNN multiplies float32 with the widest instructions there are; torch's default (MKL) takes half as
        wide ones on AMD and is half as fast there."""
        return self._device.type == "cpu" and torch.backends.mkldnn.is_available()

    def pairs(self, k: int) -> Iterator[Pair]:
        product = self._onednn_product if self._onednn else self._float32_product
        return search_pairs(len(self._rows), lambda a, b: product(self._rows[a], self._rows[b]), k)

    @staticmethod
    def _onednn_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(a, b).to_dense()

    @staticmethod
    def _float32_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b.T


def search_pairs(languages: int, similarity: Callable[[int, int], torch.Tensor], k: int) -> Iterator[Pair]:
    """Neighbours both ways from any similarity.

    Args:
        similarity: (a, b) -> (rows of a, rows of b), larger = nearer.
    """
    for a in range(languages):
        for b in range(a + 1, languages):
            matrix = similarity(a, b)
            forward, backward = matrix.topk(k, dim=1), matrix.topk(k, dim=0)
            yield Pair(a, b, _neighbours(*forward), _neighbours(backward[0].T, backward[1].T))


def _neighbours(cosines: torch.Tensor, indices: torch.Tensor) -> Neighbours:
    return Neighbours(cosines.cpu().numpy(), indices.to(torch.int32).cpu().numpy())


class FaissSearch:
    """All sources, stacked, against one target language after another: large products keep FAISS busy."""

    def __init__(self, device: torch.device, languages: int, rows: int, dim: int) -> None:
        self._device, self._rows = device, rows
        self._stack = np.empty((languages * rows, dim), dtype=np.float32)
        self._count = 0

    def add(self, rows: Float[np.ndarray, "row dim"]) -> None:
        self._stack[self._count * self._rows : (self._count + 1) * self._rows] = rows
        self._count += 1

    def pairs(self, k: int) -> Iterator[Pair]:
        n, count = self._rows, self._count
        shape = (count, count, n, k)  # (source language, target language, row, neighbour)
        cosines, indices = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int32)
        search = self._searcher()
        for target in range(count):
            found = search(self._stack, self._stack[target * n : (target + 1) * n], k)
            cosines[:, target], indices[:, target] = (part.reshape(count, n, k) for part in found)
        for a in range(count):
            for b in range(a + 1, count):
                yield Pair(a, b, Neighbours(cosines[a, b], indices[a, b]), Neighbours(cosines[b, a], indices[b, a]))

    def _searcher(self) -> Callable[[np.ndarray, np.ndarray, int], Any]:
        import faiss

        if self._device.type == "cuda":
            resources, device = faiss.StandardGpuResources(), self._device.index or 0
            return lambda queries, base, k: faiss.knn_gpu(
                resources, queries, base, k, metric=faiss.METRIC_INNER_PRODUCT, device=device
            )
        return lambda queries, base, k: faiss.knn(queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)
