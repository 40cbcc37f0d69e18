"""The result of a retrieval: which sentence was found, in which direction, at which layer; its files and its summary."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, UInt8

from data_manifests import languages as known_languages
from probe.errors import RetrievalError
from probe.store import layer_name, write_json

SCHEMA = 1


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell in one line why a result cannot be written.

    Raises:
        RetrievalError: a full disk, a folder that is read-only or not a folder.
    """
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC or "No space left" in str(error) or "errno = 28" in str(error)
        reason = "the disk is full" if full else " ".join((error.strerror or str(error)).split())[:120]
        raise RetrievalError(
            f"{folder} cannot be written ({reason})",
            "a writable folder with free space",
            "mend that and run the same command again, or give another --out",
        ) from error


@dataclass(frozen=True)
class Cells:
    """One layer's (or control's) outcome in every direction."""

    hits: UInt8[np.ndarray, "source target byte"]
    """`np.packbits` along sentences: 1 where the right sentence was retrieved. Zero on the diagonal."""
    mexa: Float[np.ndarray, "source target"]
    """Symmetric, NaN on the diagonal."""
    nonpositive: int = 0
    """Candidates whose ratio had a denominator of zero or less."""
    predictions: np.ndarray | None = None
    """(source, target, sentence) int32, the retrieved rows, -1 on the diagonal; kept on request."""

    def correct(self) -> np.ndarray:
        """(source, target) int64 counts of right sentences."""
        return np.bitwise_count(self.hits).sum(axis=2, dtype=np.int64)


@dataclass(frozen=True)
class RetrievalResult:
    """Retrieval in every direction, at every asked layer, beside the controls."""

    languages: tuple[str, ...]
    rows: int
    """Sentences a language."""
    layers: Mapping[int, Cells] = field(repr=False)
    controls: Mapping[str, Cells] = field(repr=False)
    """`char` and `length`; empty where the vectors carry no text."""
    tokens: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Mean tokens a sentence of each language, where known."""
    duplicates: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Rows of each language that repeat an earlier one."""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """k, margin, backend, device, and what the vectors were made from."""

    def cells(self, layer: int | str) -> Cells:
        """Of a layer or, by name, a control."""
        return self.controls[layer] if isinstance(layer, str) else self.layers[layer]

    def hits(self, layer: int | str) -> np.ndarray:
        """(source, target, sentence) bool: where the right sentence was retrieved; what bootstrap intervals resample."""
        return np.unpackbits(self.cells(layer).hits, axis=2, count=self.rows).view(bool)

    def accuracy(self, layer: int | str) -> Float[np.ndarray, "source target"]:
        """Share of right sentences in 0..1 of a layer or control; NaN on the diagonal."""
        share = self.cells(layer).correct() / self.rows
        np.fill_diagonal(share, np.nan)
        return share

    def curve(self) -> dict[int, float]:
        """Layer -> mean accuracy over all directions."""
        return {layer: float(np.nanmean(self.accuracy(layer))) for layer in self.layers}

    def aggregate(self) -> float | None:
        """The paper's aggregate accuracy (section 4.2): mean over directions and even-numbered layers, layer 0 left out.

        None where a needed layer was not retrieved (or there is no layer but 0).
        """
        depth = self.settings.get("depth")
        needed = range(2, (depth or 0) + 1, 2)
        if not needed or any(layer not in self.layers for layer in needed):
            return None
        return float(np.mean([np.nanmean(self.accuracy(layer)) for layer in needed]))

    def summary(self) -> dict[str, Any]:
        """Everything of `summary.json`: means a layer and a control over groups of directions, and how they were made."""
        groups = direction_groups(self.languages)
        low_high = resource_groups(self.languages)

        def row(key: int | str) -> dict[str, Any]:
            share = self.accuracy(key)
            means = {name: _mean(share[mask]) for name, mask in groups.items()}
            by_language = _language_accuracy(share)
            means |= {name: _mean(by_language[members]) for name, members in low_high.items()}
            means["mexa_english"] = _english_mean(self.cells(key).mexa, self.languages)
            return means

        curve = self.curve()
        best = max(curve, key=lambda layer: curve[layer])
        return {
            "schema": SCHEMA,
            "languages": list(self.languages),
            "rows": self.rows,
            "directions": len(self.languages) * (len(self.languages) - 1),
            "layers": [{"layer": layer, **row(layer)} for layer in self.layers],
            "controls": {name: row(name) for name in self.controls},
            "best_layer": best,
            "aggregate": self.aggregate(),
            "duplicate_rows": {code: count for code, count in self.duplicates.items() if count},
            "nonpositive_denominators": {
                str(layer): cells.nonpositive for layer, cells in self.layers.items() if cells.nonpositive
            },
            "settings": dict(self.settings),
        }

    # ---- files -----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the result's files into a folder; `summary.json` last, so that its presence says that all are there.

        Raises:
            RetrievalError: the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "summary.json").unlink(missing_ok=True)
            self._write_tables(folder)
            self._write_hits(folder)
            write_json(folder / "summary.json", self.summary())

    def _write_tables(self, folder: Path) -> None:
        _write_csv(
            folder / "accuracy.csv",
            ("layer", "src", "tgt", "n", "correct", "accuracy"),
            self._accuracy_rows(self.layers),
        )
        _write_csv(
            folder / "controls.csv",
            ("layer", "src", "tgt", "n", "correct", "accuracy"),
            self._accuracy_rows(self.controls),
        )
        _write_csv(folder / "mexa.csv", ("layer", "lang_a", "lang_b", "n", "mexa"), self._mexa_rows())
        _write_csv(
            folder / "languages.csv",
            ("language", "tokens_per_sentence", "script", "family", "level", "duplicate_rows"),
            self._language_rows(),
        )

    def _write_hits(self, folder: Path) -> None:
        with h5py.File(folder / "hits.h5", "w", libver="latest") as h5:
            h5.attrs.update({"languages": list(self.languages), "rows": self.rows})
            for layer, cells in self.layers.items():
                h5.create_dataset(layer_name(layer), data=cells.hits, chunks=True, fletcher32=True, track_times=False)
            for name, cells in self.controls.items():
                h5.create_dataset(name, data=cells.hits, chunks=True, fletcher32=True, track_times=False)
        (folder / "predictions.h5").unlink(missing_ok=True)  # those of a result that this one replaces
        if any(cells.predictions is not None for cells in self.layers.values()):
            with h5py.File(folder / "predictions.h5", "w", libver="latest") as h5:
                h5.attrs["languages"] = list(self.languages)
                for layer, cells in self.layers.items():
                    h5.create_dataset(
                        layer_name(layer), data=cells.predictions, chunks=True, fletcher32=True, track_times=False
                    )

    @classmethod
    def load(cls, folder: str | Path) -> RetrievalResult:
        """Read a saved result back (predictions aside).

        Raises:
            RetrievalError: no result there, one of another schema, or a damaged one.
        """
        folder = Path(folder)
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RetrievalError(
                f"{folder} holds no readable summary.json",
                "a result made by `probe retrieve`",
                "run `probe retrieve` again",
            ) from None
        if summary.get("schema") != SCHEMA:
            raise RetrievalError(
                f"{folder} has schema {summary.get('schema')}",
                f"schema {SCHEMA}",
                "run `probe retrieve` again with this version",
            )
        try:
            return cls._from_files(folder, summary)
        except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise RetrievalError(
                f"{folder} is damaged ({' '.join(str(error).split())[:120]})",
                "the files that `probe retrieve` wrote",
                "run `probe retrieve` again with --overwrite",
            ) from error

    @classmethod
    def _from_files(cls, folder: Path, summary: Mapping[str, Any]) -> RetrievalResult:
        codes = tuple(summary["languages"])
        mexa = _read_mexa(folder / "mexa.csv", codes)
        layers, controls = {}, {}
        with h5py.File(folder / "hits.h5", "r") as h5:
            for name in h5:
                cells = Cells(
                    h5[name][()],
                    mexa[name],
                    summary["nonpositive_denominators"].get(str(int(name)), 0) if name.isdigit() else 0,
                )
                if name.isdigit():
                    layers[int(name)] = cells
                else:
                    controls[name] = cells
        with (folder / "languages.csv").open(encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream))
        if [row["language"] for row in table] != list(codes) or {*layers, *controls} != _keys(summary):
            raise ValueError("its files name other languages or layers than summary.json")
        tokens = {row["language"]: float(row["tokens_per_sentence"]) for row in table if row["tokens_per_sentence"]}
        duplicates = {row["language"]: int(row["duplicate_rows"]) for row in table}
        return cls(codes, summary["rows"], layers, controls, tokens, duplicates, summary["settings"])

    def _directions(self) -> Iterator[tuple[int, int]]:
        count = len(self.languages)
        return ((a, b) for a in range(count) for b in range(count) if a != b)

    def _accuracy_rows(self, tables: Mapping[Any, Cells]) -> Iterator[tuple]:
        for key, cells in tables.items():
            correct = cells.correct()
            for a, b in self._directions():
                yield (
                    key,
                    self.languages[a],
                    self.languages[b],
                    self.rows,
                    int(correct[a, b]),
                    float(correct[a, b] / self.rows),
                )

    def _mexa_rows(self) -> Iterator[tuple]:
        for key, cells in (*self.layers.items(), *self.controls.items()):
            for a, b in self._directions():
                if a < b:
                    yield key, self.languages[a], self.languages[b], self.rows, float(cells.mexa[a, b])

    def _language_rows(self) -> Iterator[tuple]:
        for code in self.languages:
            language = known_languages().get(code)
            facts = (language.script, language.family, language.level) if language else (script_of(code), None, None)
            yield code, self.tokens.get(code), *facts, self.duplicates.get(code, 0)


def script_of(code: str) -> str:
    """The script of a code, simplified and traditional Chinese counted as one; empty for a name without a script."""
    script = code.rpartition("_")[2] if "_" in code else ""
    return "Hani" if script in ("Hans", "Hant") else script


def direction_groups(codes: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> (source, target) bool mask: all, same script, cross script, and to and from English."""
    scripts = np.array([script_of(code) for code in codes])
    known = (scripts[:, None] != "") & (scripts[None, :] != "")
    off_diagonal = ~np.eye(len(codes), dtype=bool)
    same = scripts[:, None] == scripts[None, :]
    english = np.array([code == "eng_Latn" for code in codes])
    return {
        "mean": off_diagonal,
        "same_script": off_diagonal & known & same,
        "cross_script": off_diagonal & known & ~same,
        "to_english": off_diagonal & english[None, :],
        "from_english": off_diagonal & english[:, None],
    }


def resource_groups(codes: Sequence[str]) -> dict[str, np.ndarray]:
    """`high` and `low` -> (language,) bool mask, by NLLB resource level."""
    levels = [language.level if (language := known_languages().get(code)) else None for code in codes]
    return {level: np.array([own == level for own in levels]) for level in ("high", "low")}


def _language_accuracy(share: np.ndarray) -> np.ndarray:
    """(language,): the mean over all directions that touch a language."""
    return np.nanmean(np.concatenate([share, share.T], axis=1), axis=1)


def _keys(summary: Mapping[str, Any]) -> set[int | str]:
    """The layers and controls of a summary."""
    return {row["layer"] for row in summary["layers"]} | set(summary["controls"])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _english_mean(mexa: np.ndarray, codes: Sequence[str]) -> float | None:
    """The mean MEXA score of the pairs with English, as in MEXA's own evaluation."""
    if "eng_Latn" not in codes or len(codes) < 2:
        return None
    return float(np.nanmean(mexa[list(codes).index("eng_Latn")]))


def _read_mexa(path: Path, codes: Sequence[str]) -> dict[str, np.ndarray]:
    position = {code: i for i, code in enumerate(codes)}
    tables: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            name = layer_name(int(row["layer"])) if row["layer"].isdigit() else row["layer"]
            if name not in tables:
                tables[name] = np.full((len(codes), len(codes)), np.nan)
            table = tables[name]
            a, b = position[row["lang_a"]], position[row["lang_b"]]
            table[a, b] = table[b, a] = float(row["mexa"])
    return tables


def _write_csv(path: Path, header: Sequence[str], rows: Iterator[tuple]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
