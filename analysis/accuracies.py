"""Accuracies of every direction at every layer, from a result folder or a bare table, and their means over directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from data_manifests import languages as known_languages
from probe.corpus import resolve_languages
from probe.errors import AnalysisError
from probe.results import RetrievalResult

MIDDLE, AGGREGATE = "middle", "aggregate"
_COLUMNS = ("layer", "src", "tgt", "n", "correct", "accuracy")


@dataclass(frozen=True)
class Accuracies:
    """What retrieval found, whatever it was read from."""

    name: str
    """For people: the folder's or file's name."""
    languages: tuple[str, ...]
    layers: tuple[int, ...]
    values: Float[np.ndarray, "layer source target"] = field(repr=False)
    """Shares in 0..1, NaN on the diagonals."""
    rows: int
    """Sentences a language."""
    depth: int | None
    """The model's number of blocks; None where it is not known."""
    controls: Mapping[str, Float[np.ndarray, "source target"]] = field(default_factory=dict, repr=False)
    """`char` and `length`; empty where the vectors carried no text, and for a bare table."""
    tokens: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Mean tokens a sentence of each language, where known."""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_result(cls, result: RetrievalResult, name: str = "result") -> Accuracies:
        """Of a loaded retrieval result."""
        layers = tuple(sorted(result.layers))
        return cls(
            name,
            result.languages,
            layers,
            np.stack([result.accuracy(layer) for layer in layers]),
            result.rows,
            result.settings.get("depth"),
            {name: result.accuracy(name) for name in result.controls},
            result.tokens,
            result.settings,
        )

    @classmethod
    def read(cls, path: str | Path) -> Accuracies:
        """Of a result folder, or of a CSV file with the columns of `accuracy.csv`.

        Raises:
            RetrievalError: the folder holds no readable result.
            AnalysisError: the table lacks a column or a direction, or holds values that are no shares.
        """
        path = Path(path)
        if path.is_dir():
            return cls.of_result(RetrievalResult.load(path), path.resolve().name)
        return _read_table(path)

    def of_languages(self, codes: Sequence[str]) -> Accuracies:
        """The same among some of the languages only, in the order asked for."""
        chosen = [self.languages.index(code) for code in codes]
        square = np.ix_(chosen, chosen)
        return Accuracies(
            self.name,
            tuple(codes),
            self.layers,
            self.values[:, chosen][:, :, chosen],
            self.rows,
            self.depth,
            {name: table[square] for name, table in self.controls.items()},
            {code: self.tokens[code] for code in codes if code in self.tokens},
            self.settings,
        )

    def at(self, layer: int | str) -> Float[np.ndarray, "source target"]:
        """Of a block's number, `middle` (half of the blocks: 16 of 32), `aggregate` (the paper's, section 4.2: the mean of the even
        layers, 0 left out), or a control's name.

        Raises:
            AnalysisError: the layer was not retrieved, or the model's depth is not known.
        """
        if isinstance(layer, str) and layer in self.controls:
            return self.controls[layer]
        if layer == AGGREGATE:
            return np.mean([self.at(each) for each in range(2, self._known_depth(AGGREGATE) + 1, 2)], axis=0)
        if layer == MIDDLE:
            return self.at(self.middle())
        if layer not in self.layers:
            raise AnalysisError(
                f"layer {layer} of {self.name}",
                f"one of {_told(self.layers)}",
                "give another --layer, or retrieve that one",
            )
        return self.values[self.layers.index(int(layer))]

    def middle(self) -> int:
        """The output of the block halfway: 16 of 32, 14 of 28.

        Raises:
            AnalysisError: the model's depth is not known.
        """
        return self._known_depth(MIDDLE) // 2

    def _known_depth(self, wanted: str) -> int:
        if not self.depth:
            raise AnalysisError(
                f"{wanted} of {self.name}, whose model's number of blocks is not known",
                "a result folder of a model's store",
                "give the layer's number with --layer",
            )
        return self.depth


def language_means(
    table: Float[np.ndarray, "*layer source target"], languages: Sequence[str], relation: str = "all"
) -> Float[np.ndarray, "*layer language"]:
    """Accuracy of each language: the mean over the directions that relate it to others.

    Args:
        table: shares of directions, NaN on the diagonal.
        languages: their codes, in the table's order.
        relation: `all` directions that touch the language, in either role (2(N - 1) of them), `to-english`, `from-english`,
            or `to:a,b` / `from:a,b`, the mean over directions from it to (to it from) the languages of a set,
            itself left out.

    Raises:
        AnalysisError: an unknown relation, or languages that the table does not hold.
    """
    if relation == "all":
        both = np.concatenate([table, np.swapaxes(table, -1, -2)], axis=-1)
        return np.nanmean(both, axis=-1)
    role, _, listed = {"to-english": "to:eng_Latn", "from-english": "from:eng_Latn"}.get(relation, relation).partition(
        ":"
    )
    if role not in ("to", "from") or not listed:
        raise AnalysisError(
            f"--relation {relation}",
            "all, to-english, from-english, to:a,b or from:a,b",
            "give for example --relation from:en,zh",
        )
    others = [list(languages).index(code) for code in resolve_languages(listed, languages, "the result")]
    chosen = table[..., :, others] if role == "to" else np.swapaxes(table, -1, -2)[..., :, others]
    counted = np.isfinite(chosen).sum(axis=-1)
    return np.where(counted > 0, np.nansum(chosen, axis=-1) / np.maximum(counted, 1), np.nan)


def _told(layers: Sequence[int]) -> str:
    whole = list(layers) == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2
    return f"{layers[0]}-{layers[-1]}" if whole else ", ".join(map(str, layers))


def _read_table(path: Path) -> Accuracies:
    expected = f"a CSV file with the columns {', '.join(_COLUMNS)}, as in a result's accuracy.csv"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise AnalysisError(
            f"{path} cannot be read ({' '.join(str(error).split())[:100]})",
            f"a result folder or {expected}",
            "give the folder that `probe retrieve` wrote",
        ) from None
    missing = [name for name in _COLUMNS if name not in table]
    if missing or table.empty:
        raise AnalysisError(
            f"{path} without {', '.join(missing) or 'rows'}", expected, "give the folder that `probe retrieve` wrote"
        )
    try:
        table = table.astype({"layer": int, "n": int, "accuracy": float, "src": str, "tgt": str})
    except ValueError as error:
        raise AnalysisError(f"{path}: {error}", expected, "mend the table") from None
    outside = table[~table["accuracy"].between(0, 1)]
    if len(outside):
        raise AnalysisError(
            f"{path}: accuracy {outside['accuracy'].iloc[0]} in row {outside.index[0] + 2}",
            "shares in 0..1",
            "divide percent by 100",
        )
    codes = sorted({*table["src"], *table["tgt"]})
    layers = sorted(set(table["layer"]))
    index = table["layer"].map(layers.index), table["src"].map(codes.index), table["tgt"].map(codes.index)
    values = np.full((len(layers), len(codes), len(codes)), np.nan)
    values[index] = table["accuracy"]
    off_diagonal = ~np.eye(len(codes), dtype=bool)
    known = codes if len(table) == len(layers) * len(codes) * (len(codes) - 1) else []
    if not known or not np.isfinite(values[:, off_diagonal]).all() or table["n"].nunique() > 1:
        raise AnalysisError(
            f"{path} with {len(table)} rows for {len(layers)} layers and {len(codes)} languages",
            f"each of the {len(codes) * (len(codes) - 1)} directions once at every layer, with one n",
            "mend the table, or give the folder that `probe retrieve` wrote",
        )
    return Accuracies(path.stem, tuple(codes), tuple(layers), values, int(table["n"].iloc[0]), None)


def name_of(code: str) -> str:
    """A language's English name, or the code itself where it is not one of ours."""
    language = known_languages().get(code)
    return language.name if language else code


def short_name(code: str) -> str:
    """What labels a language in a figure: its ISO 639-1 code where it has one, else ISO 639-3 or the code itself."""
    language = known_languages().get(code)
    return (language.iso639_1 or language.iso639_3) if language else code
