"""Where retrieval takes its vectors from: a store, a folder of `<lang>.npy`, or arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from probe.corpus import language_of_file
from probe.errors import RetrievalError
from probe.store import ActivationStore


class Vectors(Protocol):
    """Parallel vectors by language and layer."""

    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def rows(self) -> int: ...
    def layer(self, code: str, layer: int) -> np.ndarray:
        """(sentence, dim) float32."""
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
            "store": self.store.settings_digest(),
            "pooling": self.pooling,
            **{key: self.store.manifest[key] for key in kept},
        }


@dataclass(frozen=True)
class ArrayVectors:
    """Embeddings made elsewhere, as a store of one layer, numbered 0. They carry no text, so controls are missing."""

    arrays: Mapping[str, np.ndarray]
    """Code -> (sentence, dim)."""
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
        values = np.asarray(self.arrays[code])
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise RetrievalError(
                f"{code} is an array of shape {values.shape} and dtype {values.dtype}",
                "(sentences, dim) of numbers",
                "pool over tokens first",
            )
        return values.astype(np.float32)

    def text(self, code: str) -> tuple[str, ...] | None:
        return None

    def tokens(self, code: str) -> np.ndarray | None:
        return None

    def origin(self) -> dict[str, Any]:
        return {"arrays": self.name}


def open_vectors(
    source: str | Path | ActivationStore | Mapping[str, np.ndarray] | Vectors, pooling: str = "mean"
) -> Vectors:
    """A store, a folder of `<lang>.npy`, or a mapping language -> (sentence, dim), as `Vectors`.

    Raises:
        StoreError, RetrievalError: no such folder, a damaged store, or arrays that cannot be read.
    """
    if isinstance(source, ActivationStore):
        return StoreVectors(source, pooling)
    if isinstance(source, Mapping):
        return ArrayVectors(source)
    if not isinstance(source, str | Path):
        return source
    path = Path(source)
    if not path.is_dir():
        raise RetrievalError(f"no folder {path}", "a store or a folder of <lang>.npy", "check the path")
    if (path / "manifest.json").exists() or not any(path.glob("*.npy")):
        return StoreVectors(ActivationStore.open(path), pooling)
    return ArrayVectors(_read_arrays(path), path.name)


def _read_arrays(folder: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        code = language_of_file(path)
        if code is None:
            raise RetrievalError(
                f"{path.name} is named after no language", "<code>.npy such as eng_Latn.npy", "rename it"
            )
        try:
            arrays[code] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RetrievalError(
                f"{path.name} cannot be read ({error})", "a .npy file of numbers", "save it with numpy.save"
            ) from None
    return arrays
