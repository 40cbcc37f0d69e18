"""Where retrieval takes its vectors from: a store, a folder of `<lang>.npy`, or arrays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64

from data_manifests import language_aliases
from probe.corpus import language_of_file
from probe.errors import RetrievalError
from probe.store import ActivationStore


@runtime_checkable  # so that the type check of the test run can see it
class Vectors(Protocol):
    """Parallel vectors by language and layer."""

    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def rows(self) -> int: ...
    def layer(self, code: str, layer: int) -> np.ndarray:
        """(sentence, dim), float32 or float64; may be the caller's own array, so it is never written to."""
        ...

    def text(self, code: str) -> tuple[str, ...] | None: ...
    def tokens(self, code: str) -> np.ndarray | None: ...
    def origin(self) -> dict[str, Any]:
        """What the vectors were made from, for the result's provenance."""
        ...


@dataclass(frozen=True)
class StoreVectors:
    """The vectors of one pooling of a store."""

    store: ActivationStore
    pooling: str

    @property
    def languages(self) -> tuple[str, ...]:
        return self.store.languages

    @property
    def layers(self) -> tuple[int, ...]:
        return self.store.layers

    @property
    def rows(self) -> int:
        return int(self.store.manifest["rows"])

    def layer(self, code: str, layer: int) -> np.ndarray:
        return self.store.layer(code, layer, self.pooling)

    def text(self, code: str) -> tuple[str, ...] | None:
        return self.store.text(code)

    def tokens(self, code: str) -> np.ndarray | None:
        return self.store.tokens(code)

    def origin(self) -> dict[str, Any]:
        kept = (
            "model",
            "corpus",
            "depth",
            "hidden_size",
            "dtype",
            "store_dtype",
            "final_norm",
            "batch_tokens",
            "truncate",
        )
        return {
            "store": self.store.digest(),
            "pooling": self.pooling,
            **{key: self.store.manifest[key] for key in kept},
        }


@dataclass(frozen=True)
class ArrayVectors:
    """Embeddings made elsewhere, as a store of one layer, numbered 0. They carry no text, so controls are missing."""

    arrays: Mapping[str, np.ndarray]
    """Code -> (sentence, dim), all of one shape."""
    name: str = "arrays"

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    @property
    def layers(self) -> tuple[int, ...]:
        return (0,)

    @property
    def rows(self) -> int:
        return len(next(iter(self.arrays.values()), ()))

    def layer(self, code: str, layer: int) -> np.ndarray:
        values = self.arrays[code]
        # Wider numbers keep their range until rows are normalised: float32 would turn a row of 1e-60 into zeros.
        return values if values.dtype == np.float32 else values.astype(np.float64)

    def text(self, code: str) -> tuple[str, ...] | None:
        return None

    def tokens(self, code: str) -> np.ndarray | None:
        return None

    def origin(self) -> dict[str, Any]:
        """Name and digest: a folder's name alone would not tell changed arrays from those of an interrupted run."""
        digest = hashlib.sha256()
        for code, values in self.arrays.items():
            digest.update(f"{code} {values.shape} {values.dtype}\n".encode())
            digest.update(np.ascontiguousarray(values).data)
        return {"arrays": self.name, "arrays_digest": digest.hexdigest()}


def open_vectors(
    source: str | Path | ActivationStore | Mapping[str, np.ndarray] | Vectors, pooling: str = "mean"
) -> Vectors:
    """A store, a folder of `<lang>.npy`, or a mapping language -> (sentence, dim), as `Vectors`.

    Arrays may be named by any alias of a language (`en`), in a folder as in memory.

    Raises:
        StoreError, RetrievalError: no such folder, a damaged store, or arrays that cannot be read.
    """
    if isinstance(source, ActivationStore):
        return StoreVectors(source, pooling)
    if isinstance(source, Mapping):
        return _array_vectors(source.items(), "arrays")
    if not isinstance(source, str | Path):
        return source
    path = Path(source)
    if not path.is_dir():
        raise RetrievalError(f"no folder {path}", "a store or a folder of <lang>.npy", "check the path")
    if (path / "manifest.json").exists() or not any(path.glob("*.npy")):
        return StoreVectors(ActivationStore.open(path), pooling)
    if pooling != "mean":
        raise RetrievalError(f"--pool {pooling} of {path}", "a store, since arrays are pooled already", "leave it out")
    return _array_vectors(_read_arrays(path), path.resolve().name)


def _array_vectors(arrays: Iterable[tuple[str, Any]], name: str) -> ArrayVectors:
    """Arrays under their languages' codes, after checking that they are parallel.

    Raises:
        RetrievalError: an array that is not (sentences, dim) of numbers, of another shape, or a language given twice.
    """
    checked: dict[str, np.ndarray] = {}
    for given, values in arrays:
        code, array = language_aliases().get(given, given), np.asarray(values)
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise RetrievalError(
                f"{code} is an array of shape {array.shape} and dtype {array.dtype}",
                "(sentences, dim) of numbers",
                "pool over tokens first",
            )
        if code in checked:
            raise RetrievalError(f"{code} is given twice", "one array a language", "leave one out")
        first = next(iter(checked), code)
        if checked and array.shape != checked[first].shape:
            raise RetrievalError(
                f"{code} has vectors of shape {array.shape}",
                f"{checked[first].shape} as {first}",
                "embed the same sentences with the same model",
            )
        checked[code] = array
    return ArrayVectors(checked, name)


def _read_arrays(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in sorted(folder.glob("*.npy")):
        code = language_of_file(path)
        if code is None:
            raise RetrievalError(
                f"{path.name} is named after no language", "<code>.npy such as eng_Latn.npy", "rename it"
            )
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RetrievalError(
                f"{path.name} cannot be read ({error})", "a .npy file of numbers", "save it with numpy.save"
            ) from None
        yield code, array


def row_norms(values: Float[np.ndarray, "row dim"], code: str) -> Float64[np.ndarray, " row"]:
    """Lengths of the rows of a language, none of which may be a fault.

    Raises:
        RetrievalError: NaN, inf or an all-zero row, with the language and the row.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    bad = ~(np.isfinite(norms) & (norms > 0))
    if bad.any():
        row = int(np.argmax(bad))
        kind = "is all zero" if norms[row] == 0 else "holds NaN or inf"
        raise RetrievalError(
            f"{code} row {row + 1} {kind}",
            "finite, non-zero vectors",
            "extract the language again, or drop the row from all languages",
        )
    return norms


def unit_rows(values: Float[np.ndarray, "row dim"], code: str) -> Float32[np.ndarray, "row dim"]:
    """Rows of length 1, in a new array.

    Raises:
        RetrievalError: NaN, inf or an all-zero row, with the language and the row.
    """
    norms = row_norms(values, code)
    # In the values' own precision where the norm fits it well: half the time, and a layer has 35 languages.
    divisor = norms.astype(values.dtype) if norms.min() > 1e-30 and norms.max() < 1e30 else norms
    return (values / divisor[:, None]).astype(np.float32, copy=False)


def centred_rows(values: Float[np.ndarray, "row dim"]) -> Float64[np.ndarray, "row dim"]:
    """Rows minus their mean, in a new array; exact zeros where all rows are equal.

    The first row is taken away before the mean, which so is one of small numbers even where the rows share a large offset.
    """
    shifted = values - values[0].astype(np.float64)
    shifted -= shifted.mean(axis=0)
    return shifted
