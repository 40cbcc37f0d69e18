"""The activation store: one HDF5 file a language, one dataset a layer, and a manifest. The schema lives here alone.

NAME/manifest.json
NAME/<code>.h5        /<pooling>/<layer:03d> (sentences, hidden), /tokens (sentences,), /text (sentences,)
NAME/index.h5         the same as virtual datasets (languages, sentences, hidden), for other people's tools
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probe import provenance
from probe.errors import StoreError

SCHEMA = 1

_FIXED = (
    "schema",
    "languages",
    "rows",
    "model",
    "corpus",
    "poolings",
    "layers",
    "hidden_size",
    "dtype",
    "store_dtype",
    "final_norm",
    "runtime",
    "truncate",
    "text",
)
"""Manifest fields that decide the numbers: a run that differs in one of them may not add to the store."""

_CHUNK_BYTES = 16 * 2**20

_OVERHEAD = 4096
"""Bytes of a dataset beside its values, at most."""


def layer_name(layer: int) -> str:
    """The name of a layer's dataset: three digits."""
    return f"{layer:03d}"


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Write whole or not at all: to the temporary name given, then flushed to disk and renamed; removed on any fault."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    with _whole(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _new_hdf5(path: Path, room: int) -> Iterator[h5py.File]:
    """A new HDF5 file, written whole or not at all.

    HDF5 crashes the interpreter when the disk is full while it closes a file, so everything that may fail for want of
    space is done before it begins: an empty file is written and `room` bytes are reserved, which HDF5 cuts at the end.
    """
    empty = io.BytesIO()
    h5py.File(empty, "w", libver="latest").close()
    with _whole(path) as partial:
        with partial.open("wb") as out:
            out.write(empty.getbuffer())
            out.flush()
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(out.fileno(), 0, room)
        with h5py.File(partial, "r+", libver="latest") as h5:
            yield h5


@contextlib.contextmanager
def locked(
    path: Path, what: str, otherwise: str = "give each process its own --shard i/N", wait: bool = False
) -> Iterator[None]:
    """Hold a kernel lock, which a dying process releases by itself.

    Args:
        otherwise: what one can do beside waiting.

    Raises:
        StoreError: another living process holds it (and `wait` is False).
    """
    lock = path.with_name(path.name + ".lock")
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            raise StoreError(
                f"{what} is being written by another process",
                "one writer",
                f"wait for it, or {otherwise}",
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == lock.stat().st_ino:  # else the previous holder has removed this lock
                break
        os.close(handle)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


@dataclass(frozen=True)
class ActivationStore:
    """A folder of pooled hidden states. Every language file exists whole or not at all."""

    path: Path
    manifest: Mapping[str, Any]

    # ---- life of a store -------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: Path, manifest: Mapping[str, Any], same_budget: bool = False, overwrite: bool = False
    ) -> ActivationStore:
        """Make a store, or return the one that is there if it was made with the same settings.

        The token budget of an existing store is kept, since batches decide the last bits of the numbers; with
        `same_budget` (the user named one) another budget is another setting.

        Raises:
            StoreError: a store with other settings, or a folder that holds something else.
        """
        with _writing(path, "its manifest"):
            path.mkdir(parents=True, exist_ok=True)
            with locked(path / "manifest.json", str(path), wait=True):
                present = (path / "manifest.json").exists()
                if present and not overwrite:
                    store = cls(path, _read_manifest(path))
                    store._require_same(manifest, same_budget)
                    return store
                if present:
                    remove_store(path)
                elif any(entry.suffix not in {".lock", ".partial"} for entry in path.iterdir()):
                    raise StoreError(
                        f"{path} is not empty and no store", "a new folder or a store", "give another --out"
                    )
                write_json(path / "manifest.json", manifest)
        return cls(path, manifest)

    @classmethod
    def reopen(cls, path: str | Path) -> ActivationStore:
        """A store as it stands now, complete or not."""
        return cls(Path(path), _read_manifest(Path(path)))

    @classmethod
    def open(cls, path: str | Path) -> ActivationStore:
        """A complete store, for reading.

        Raises:
            StoreError: no store, an older schema, not complete, or a language file that is missing or cut short.
        """
        store = cls.reopen(path)
        missing = store.missing()
        if missing or not store.manifest["complete"]:
            count = len(store.languages)
            raise StoreError(
                f"{path} holds {count - len(missing)} of {count} languages, {missing[0] if missing else 'none'} missing",
                "a complete store",
                "run the same `probe extract` again to go on",
            )
        for code in store.languages:
            store._check_size(code)
        return store

    def _require_same(self, wanted: Mapping[str, Any], same_budget: bool) -> None:
        keys = [*_FIXED, "batch_tokens"] if same_budget else _FIXED
        for name, old, new in _differences({k: self.manifest.get(k) for k in keys}, {k: wanted[k] for k in keys}):
            if name == "languages":
                old, new = _told_apart(old, new)
            raise StoreError(
                f"{self.path} was made with {name} = {_short(old)}, this run has {_short(new)}",
                "the same settings",
                "give another --out, or --overwrite to start anew",
            )

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.manifest["languages"])

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.manifest["layers"])

    @property
    def poolings(self) -> tuple[str, ...]:
        return tuple(self.manifest["poolings"])

    def file(self, code: str) -> Path:
        return self.path / f"{code}.h5"

    def missing(self) -> list[str]:
        """Languages without a file, in the store's order."""
        return [code for code in self.languages if not self.file(code).exists()]

    def settings_digest(self) -> str:
        """sha256 of the settings that decide the numbers; every language file carries it."""
        fixed = {key: self.manifest[key] for key in _FIXED}
        return provenance.digest(fixed)

    def digest(self) -> str:
        """sha256 over the settings and the files of a complete store."""
        files = {code: entry["sha256"] for code, entry in self.manifest["files"].items()}
        return provenance.digest([self.settings_digest(), files])

    # ---- writing ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, code: str) -> Iterator[None]:
        """Hold the language's lock."""
        with locked(self.file(code), f"{code} in {self.path}"):
            yield

    def write_language(
        self,
        code: str,
        states: np.ndarray,
        tokens: np.ndarray,
        text: Sequence[str] | None,
        batch_tokens: int,
        truncated: int,
    ) -> None:
        """Write one language file, whole or not at all.

        Args:
            states: (pooling, layer, sentence, hidden) float32.
            tokens: (sentence,) int32, the token count of each sentence.
            text: the sentences, or None to leave them out.
            batch_tokens: the token budget they were computed with.
            truncated: how many sentences were cut at the model's context.

        Raises:
            StoreError: a value that overflows the storage dtype, or a full disk.
        """
        dtype = np.dtype(self.manifest["store_dtype"])
        lines = [line.encode() for line in text or ()]
        width = max(map(len, lines), default=0)
        datasets = len(self.poolings) * len(self.layers) + 2
        room = states.size * dtype.itemsize + len(tokens) * (4 + width) + datasets * _OVERHEAD
        with _writing(self.path, code), _new_hdf5(self.file(code), room) as h5:
            # Text of fixed length throughout: text of variable length lies in a heap that HDF5 does not checksum, and one
            # wrong byte there can make it loop for ever.
            h5.attrs.update(
                {
                    "settings": np.bytes_(self.settings_digest()),
                    "language": np.bytes_(code.encode()),
                    "batch_tokens": batch_tokens,
                    "truncated": truncated,
                }
            )
            for p, pooling in enumerate(self.poolings):
                group = h5.create_group(pooling)
                for layer, values in zip(self.layers, states[p], strict=True):
                    _create(group, layer_name(layer), _cast(values, dtype, code, layer))
            _create(h5, "tokens", tokens.astype(np.int32))
            if text is not None:
                _create(h5, "text", np.array(lines, dtype=h5py.string_dtype("utf-8", max(width, 1))))

    def finish(self) -> bool:
        """Where all languages are present: write the index and mark the store complete.

        Returns:
            Whether the store is complete; otherwise other processes still have languages to write.
        """
        with (
            _writing(self.path, "its index"),
            locked(self.path / "manifest.json", str(self.path), wait=True),
        ):
            if self.missing():
                return False
            files = {code: self._describe(code) for code in self.languages}
            for code in self.languages:  # a process killed between renaming and unlocking has left its lock
                with contextlib.suppress(StoreError), self.writing(code):
                    pass
            self._write_index()
            write_json(self.path / "manifest.json", {**self.manifest, "files": files, "complete": True})
        return True

    def _describe(self, code: str) -> dict[str, Any]:
        """What the manifest keeps of one language file."""
        path = self.file(code)
        with self._opened(code, "attributes") as h5:
            used, truncated = int(h5.attrs["batch_tokens"]), int(h5.attrs["truncated"])
        with path.open("rb") as stream:
            entry: dict[str, Any] = {
                "bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
            }
        if used != self.manifest["batch_tokens"]:
            entry["batch_tokens"] = used  # halved after an out-of-memory
        if truncated:
            entry["truncated"] = truncated
        return entry

    def _write_index(self) -> None:
        shape = (self.manifest["rows"], self.manifest["hidden_size"])
        datasets = len(self.poolings) * len(self.layers)
        with _new_hdf5(self.path / "index.h5", datasets * (_OVERHEAD + len(self.languages) * 512)) as h5:
            h5.attrs["languages"] = np.array([code.encode() for code in self.languages])
            for pooling in self.poolings:
                for layer in self.layers:
                    name = f"{pooling}/{layer_name(layer)}"
                    layout = h5py.VirtualLayout((len(self.languages), *shape), dtype=self.manifest["store_dtype"])
                    layout.dcpl.set_obj_track_times(False)
                    for i, code in enumerate(self.languages):
                        layout[i] = h5py.VirtualSource(f"{code}.h5", name, shape=shape)
                    h5.create_virtual_dataset(name, layout, fillvalue=np.nan)

    # ---- reading ---------------------------------------------------------------------------------------------

    def layer(self, code: str, layer: int, pooling: str) -> np.ndarray:
        """(sentence, hidden) float32 of one language.

        Raises:
            StoreError: a layer or pooling that was not stored, or a damaged file.
        """
        if layer not in self.layers:
            raise StoreError(
                f"layer {layer} is not in {self.path}",
                f"one of {_ranges(self.layers)}",
                "extract it, or ask for another layer",
            )
        if pooling not in self.poolings:
            raise StoreError(
                f"--pool {pooling} is not in {self.path}",
                f"one of {', '.join(self.poolings)}",
                f"extract again with --pool {pooling}",
            )
        return self._read(code, f"{pooling}/{layer_name(layer)}").astype(np.float32, copy=False)

    def tokens(self, code: str) -> np.ndarray:
        """(sentence,) int32 token counts."""
        return self._read(code, "tokens")

    def text(self, code: str) -> tuple[str, ...] | None:
        """The sentences, or None where the store was made without them."""
        if not self.manifest["text"]:
            return None
        with self._opened(code, "text") as h5:
            return tuple(line.decode("utf-8") for line in h5["text"][()])

    def _read(self, code: str, name: str) -> np.ndarray:
        with self._opened(code, name) as h5:
            return h5[name][()]

    @contextlib.contextmanager
    def _opened(self, code: str, name: str) -> Iterator[h5py.File]:
        """The file of a language; what HDF5 finds wrong in it while `name` is read becomes a StoreError."""
        path = self.file(code)
        try:
            with h5py.File(path, "r") as h5:
                if (h5.attrs["settings"], h5.attrs["language"]) != (self.settings_digest().encode(), code.encode()):
                    raise StoreError(
                        f"{path} belongs to another store or corpus",
                        f"a file of {self.path}",
                        "remove it and run the same `probe extract` again",
                    )
                yield h5
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise StoreError(
                f"{path} {name} is damaged ({_one_line(error)})",
                "a readable file with right checksums",
                "remove it and run the same `probe extract` again",
            ) from error

    def _check_size(self, code: str) -> None:
        expected, found = self.manifest["files"][code]["bytes"], self.file(code).stat().st_size
        if found != expected:
            raise StoreError(
                f"{self.file(code)} has {found} bytes",
                f"{expected}",
                "remove it and run the same `probe extract` again",
            )


def estimate_bytes(manifest: Mapping[str, Any], languages: int) -> int:
    """Bytes that this many languages will take on disk, text aside."""
    vectors = manifest["rows"] * len(manifest["layers"]) * len(manifest["poolings"])
    return languages * vectors * manifest["hidden_size"] * np.dtype(manifest["store_dtype"]).itemsize


def require_space(path: Path, need: int) -> None:
    """Raises:
    StoreError: less is free at `path`, which need not exist yet, than `need` bytes and a twentieth more.
    """
    free = shutil.disk_usage(next(place for place in (path, *path.absolute().parents) if place.exists())).free
    if free < need * 1.05:
        raise StoreError(
            f"{_size(free)} free at {path}",
            f"{_size(need * 1.05)} for this store",
            "free some, give another --out, or take fewer layers (--layers even) or --store-dtype float16",
        )


def _size(count: int | float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def remove_store(path: Path) -> None:
    """Remove the files of the store in a folder, those that its manifest names, and nothing else.

    Raises:
        StoreError: a language that another process is writing, or a manifest that cannot be read.
    """
    codes = _load_manifest(path).get("languages", ())
    with contextlib.ExitStack() as locks:
        for code in codes:
            locks.enter_context(locked(path / f"{code}.h5", f"{code} in {path}"))
        for name in (*(f"{code}.h5" for code in codes), "index.h5", "manifest.json"):  # the last one names the others
            (path / name).unlink(missing_ok=True)
            (path / f"{name}.partial").unlink(missing_ok=True)


def _load_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a store of any schema."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or "schema" not in manifest:
            raise ValueError("it has no schema")
    except FileNotFoundError:
        raise StoreError(
            f"{path} holds no manifest.json",
            "a store made by `probe extract`, or a folder of <lang>.npy",
            "check the path",
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}/manifest.json cannot be read ({_one_line(error)})",
            "the manifest of a store",
            "give another folder, or remove this one and extract again",
        ) from None
    return manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = _load_manifest(path)
    if manifest.get("schema") != SCHEMA:
        raise StoreError(
            f"{path} has schema {manifest.get('schema')}",
            f"schema {SCHEMA}",
            "extract again with this version, or read it with the version that made it",
        )
    if absent := [key for key in (*_FIXED, "depth", "batch_tokens", "files", "complete") if key not in manifest]:
        raise StoreError(
            f"{path}/manifest.json has no {absent[0]}",
            "the manifest of a store",
            "give another folder, or extract again with --overwrite",
        )
    return manifest


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*new, *old]):
        before, now = old.get(key), new.get(key)
        if isinstance(now, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield f"{prefix}{key}", before, now


def _told_apart(old: Sequence[str], new: Sequence[str]) -> tuple[str, str]:
    """Two lists of languages by what sets them apart."""
    gone, added = [code for code in old if code not in new], [code for code in new if code not in old]
    if not gone and not added:
        return f"{len(old)} in another order ({', '.join(old[:3])}, ...)", f"{', '.join(new[:3])}, ..."
    return (
        f"{len(old)}, without {', '.join(added) or 'any new'}",
        f"{len(new)}, without {', '.join(gone) or 'any left out'}",
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _ranges(layers: Sequence[int]) -> str:
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def _create(group: h5py.Group, name: str, values: np.ndarray) -> None:
    row_bytes = max(1, values.nbytes // len(values))
    chunk = (max(1, min(len(values), _CHUNK_BYTES // row_bytes)), *values.shape[1:])
    group.create_dataset(name, data=values, chunks=chunk, fletcher32=True, track_times=False)


def _cast(values: np.ndarray, dtype: np.dtype, code: str, layer: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = values.astype(dtype, copy=False)
    if dtype.itemsize < 4 and not (finite := np.isfinite(cast).all(axis=1)).all():
        row = int(np.argmin(finite))
        raise StoreError(
            f"{code} row {row + 1} layer {layer} overflows {dtype} (largest value {np.abs(values[row]).max():.3g})",
            "values below 65504",
            "use --store-dtype float32",
        )
    if dtype.itemsize < 4 and not (kept := (cast != 0).any(axis=1)).all():
        row = int(np.argmin(kept))
        raise StoreError(
            f"{code} row {row + 1} layer {layer} underflows {dtype} to zero (largest value {np.abs(values[row]).max():.3g})",
            "values above 6e-8",
            "use --store-dtype float32",
        )
    return cast


@contextlib.contextmanager
def _writing(path: Path, what: str) -> Iterator[None]:
    """What the system refuses inside becomes a StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StoreError(
                f"the disk of {path} is full while writing {what} ({error.strerror})",
                "room for the rest of the store",
                "free some and run the same command again; finished languages are kept",
            ) from error
        raise StoreError(
            f"{path} cannot be written ({_one_line(error)})", "a writable folder", "check its permissions"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
