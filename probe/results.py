"""The result of a retrieval: which sentence was found, in which direction, at which layer; its files and its summary."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, UInt8

from data_manifests import language
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
            RetrievalError: no result there, one of another schema, or a damaged one: a file that is missing, cut short, or of another
                run.
        """
        folder = Path(folder)
        summary = _read_summary(folder)
        try:
            return cls._from_files(folder, summary)
        except ValueError as error:
            raise RetrievalError(
                f"{folder} is damaged ({' '.join(str(error).split())[:120]})",
                "the files that `probe retrieve` wrote",
                "run `probe retrieve` again with --overwrite",
            ) from error

    @classmethod
    def _from_files(cls, folder: Path, summary: Mapping[str, Any]) -> RetrievalResult:
        with _reading("summary.json"):
            codes, rows, nonpositive, settings = _checked(summary)
            means = _means(summary)
        with _reading("mexa.csv"):
            mexa = _read_mexa(folder / "mexa.csv", codes)
        with _reading("hits.h5"):
            hits = _read_hits(folder / "hits.h5", codes, rows)
        with _reading("languages.csv"):
            tokens, duplicates = _read_languages(folder / "languages.csv", codes)
        for name, held in (("hits.h5", hits), ("mexa.csv", mexa)):
            if {*held} != {*means}:
                raise ValueError(f"{name} holds other layers or controls than summary.json")
        cells = {key: Cells(hits[key], mexa[key], nonpositive.get(str(key), 0)) for key in hits}
        layers = {key: of for key, of in cells.items() if isinstance(key, int)}
        controls = {key: of for key, of in cells.items() if isinstance(key, str)}
        result = cls(codes, rows, layers, controls, tokens, duplicates, settings)
        for key, mean in means.items():
            found = float(np.nanmean(result.accuracy(key)))
            if not np.isclose(found, mean, rtol=0, atol=1e-9):
                raise ValueError(f"the mean of {_told(key)} is {found:.6f} in hits.h5 and {mean:.6f} in summary.json")
        return result

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
            known = language(code)
            facts = (known.script, known.family, known.level) if known else (script_of(code), None, None)
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
    levels = [known.level if (known := language(code)) else None for code in codes]
    return {level: np.array([own == level for own in levels]) for level in ("high", "low")}


def _language_accuracy(share: np.ndarray) -> np.ndarray:
    """(language,): the mean over all directions that touch a language."""
    return np.nanmean(np.concatenate([share, share.T], axis=1), axis=1)


def _read_summary(folder: Path) -> Mapping[str, Any]:
    """The object in `summary.json`, of our schema.

    Raises:
        RetrievalError: there is none, with what the folder is instead.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        given, next_step = f"{folder} holds no readable summary.json", "run `probe retrieve` again"
        if not folder.exists():
            given, next_step = f"{folder} is not there", "check the path"
        elif not (folder / "summary.json").exists() and (folder / "manifest.json").exists():
            given, next_step = f"{folder} is a store", f"run `probe retrieve {folder} --out RESULT`"
        elif not (folder / "summary.json").exists() and (folder / "report.json").exists():
            given, next_step = f"{folder} is a report", "give the result it was made from"
        raise RetrievalError(given, "a result made by `probe retrieve`", next_step) from None
    if not isinstance(summary, dict):
        raise RetrievalError(
            f"{folder}/summary.json holds {json.dumps(summary)[:40]}",
            "the summary that `probe retrieve` wrote",
            "run `probe retrieve` again with --overwrite",
        )
    if summary.get("schema") != SCHEMA:
        raise RetrievalError(
            f"{folder} has schema {summary.get('schema')}",
            f"schema {SCHEMA}",
            "run `probe retrieve` again with this version",
        )
    return summary


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Name the file in which something is missing, malformed or of another run.

    Raises:
        ValueError: with the file's name.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{name}: {error}") from error
    except LookupError as error:
        raise ValueError(f"{name} lacks {error}") from error


def _checked(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], int, Mapping[str, int], Mapping[str, Any]]:
    """Languages, rows, denominators of zero or less, and settings, each of its type."""
    kinds = {"languages": list, "rows": int, "nonpositive_denominators": dict, "settings": dict}
    for key, kind in kinds.items():
        if not isinstance(summary[key], kind):
            raise TypeError(f"{key} is {json.dumps(summary[key])[:40]}")
    codes, rows = tuple(map(str, summary["languages"])), summary["rows"]
    if len(set(codes)) < 2 or len(set(codes)) < len(codes) or rows < 1:
        raise ValueError(f"{len(codes)} languages ({', '.join(codes[:3])} ...) of {rows} rows")
    return codes, rows, summary["nonpositive_denominators"], summary["settings"]


def _means(summary: Mapping[str, Any]) -> dict[int | str, float]:
    """Layer or control -> its mean accuracy as the summary tells it."""
    tables = [(int(row["layer"]), row) for row in summary["layers"]] + [*summary["controls"].items()]
    return {key: float(row["mean"]) for key, row in tables}


def _told(key: int | str) -> str:
    return f"layer {key}" if isinstance(key, int) else key


def _key(name: str) -> int | str:
    """The layer, or the control, that a table or data set is named after."""
    return int(name) if name.isdecimal() else name


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _english_mean(mexa: np.ndarray, codes: Sequence[str]) -> float | None:
    """The mean MEXA score of the pairs with English, as in MEXA's own evaluation."""
    if "eng_Latn" not in codes or len(codes) < 2:
        return None
    return float(np.nanmean(mexa[list(codes).index("eng_Latn")]))


def _read_hits(path: Path, codes: Sequence[str], rows: int) -> dict[int | str, np.ndarray]:
    """Layer or control -> (source, target, byte) packed hits."""
    shape = (len(codes), len(codes), -(-rows // 8))
    with h5py.File(path, "r") as h5:
        if [*h5.attrs["languages"]] != [*codes] or h5.attrs["rows"] != rows:
            raise ValueError("its languages or rows are others than those of summary.json")
        for name, table in h5.items():
            if (table.shape, table.dtype) != (shape, np.uint8):
                raise ValueError(f"{name} is {table.dtype} {table.shape}, not uint8 {shape}")
        return {_key(name): table[()] for name, table in h5.items()}


def _read_mexa(path: Path, codes: Sequence[str]) -> dict[int | str, np.ndarray]:
    """Layer or control -> (language, language) scores."""
    position = {code: i for i, code in enumerate(codes)}
    tables: dict[int | str, np.ndarray] = {}
    told: Counter[int | str] = Counter()
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            key = _key(row["layer"])
            table = tables.setdefault(key, np.full((len(codes), len(codes)), np.nan))
            a, b = position[row["lang_a"]], position[row["lang_b"]]
            table[a, b] = table[b, a] = float(row["mexa"])
            told[key] += 1
    pairs = len(codes) * (len(codes) - 1) // 2
    for key, count in told.items():
        if count != pairs:
            raise ValueError(f"{_told(key)} has {count} pairs of languages, not {pairs}")
    return tables


def _read_languages(path: Path, codes: Sequence[str]) -> tuple[dict[str, float], dict[str, int]]:
    """Tokens a sentence, where known, and repeated rows of each language."""
    with path.open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    if [row["language"] for row in table] != list(codes):
        raise ValueError("its languages are others than those of summary.json")
    tokens = {row["language"]: float(row["tokens_per_sentence"]) for row in table if row["tokens_per_sentence"]}
    return tokens, {row["language"]: int(row["duplicate_rows"]) for row in table}


def _write_csv(path: Path, header: Sequence[str], rows: Iterator[tuple]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
