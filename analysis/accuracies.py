"""Accuracies of every direction at every layer, from a result folder or a bare table, and their means over directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from data_manifests import language, language_aliases
from data_manifests import languages as known_languages
from probe.corpus import resolve_languages
from probe.errors import AnalysisError
from probe.results import RetrievalResult

MIDDLE, AGGREGATE = "middle", "aggregate"
_ENGLISH = {"to-english": "to:eng_Latn", "from-english": "from:eng_Latn"}
_ROUNDED = 1e-3
"""How far a table's accuracy may be from its correct / n: one printed as percent with one decimal is."""
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
            return cls.of_result(RetrievalResult.load(path), own_name(path))
        return _read_table(path)

    def at(self, layer: int | str) -> Float[np.ndarray, "source target"]:
        """Of a block's number, `middle` (half of the blocks: 16 of 32), `aggregate` (the paper's, section 4.2: the mean of the even
        layers, 0 left out), or a control's name.

        Raises:
            AnalysisError: the layer was not retrieved, the model's depth is not known, or it has no even layer but 0.
        """
        if isinstance(layer, str) and layer in self.controls:
            return self.controls[layer]
        if layer == AGGREGATE:
            even = range(2, self._known_depth(AGGREGATE) + 1, 2)
            if not even:
                raise AnalysisError(
                    f"{AGGREGATE} of {self.name}, whose model has one block",
                    "two blocks or more: it is the mean of the even layers, 0 left out",
                    "give the layer's number with --layer",
                )
            return np.mean([self.at(each) for each in even], axis=0)
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
        """As of `middle_layer`.

        Raises:
            AnalysisError: the model's depth is not known.
        """
        return middle_layer(self._known_depth(MIDDLE))

    def _known_depth(self, wanted: str) -> int:
        if not self.depth:
            raise AnalysisError(
                f"{wanted} of {self.name}, whose model's number of blocks is not known",
                "a result folder of a model's store",
                "give the layer's number with --layer",
            )
        return self.depth


def middle_layer(depth: int) -> int:
    """The output of the block halfway: 16 of 32, 14 of 28."""
    return depth // 2


def layer_number(text: str) -> int | None:
    """The layer that an option gives as a plain decimal number; None where it is none."""
    return int(text) if text.isascii() and text.isdigit() else None


def own_name(path: str | Path) -> str:
    """What an input is called unless people say otherwise: its folder's name, or its file's without the suffix."""
    path = Path(path)
    return path.stem if path.is_file() else path.resolve().name


def labelled(paths: Sequence[str | Path], names: Sequence[str] | None) -> list[str]:
    """What inputs are called.

    Args:
        names: one each, in the order of the paths, taken without the spaces around them; None: their own names.

    Raises:
        AnalysisError: too few or too many names, an empty one, or one that stands for two inputs.
    """
    labels = [own_name(path) for path in paths] if names is None else [name.strip() for name in names]
    if len(labels) != len(paths) or not all(labels):
        count = f"{len(labels)} names for {len(paths)} inputs" if all(labels) else "an empty name"
        raise AnalysisError(
            f"{count} (--names {','.join(labels)})",
            "one for each, in the order of the inputs",
            "give --names a,b,…",
        )
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise AnalysisError(f"two inputs named {twice}", "a name of its own for each", "give --names a,b,…")
    return labels


def named_languages(given: str, told: str, available: Sequence[str]) -> tuple[str, ...]:
    """The codes that an option names, by code, alias or set, in its order.

    Args:
        told: the option as it was given, for the message.
        available: the languages of the result.

    Raises:
        AnalysisError: none is named, or one that the result lacks.
        CorpusError: a name that is no language.
    """
    if not given.strip(", "):
        raise AnalysisError(f"{told!r} without a language", "one at least", "give codes such as eng_Latn,deu_Latn")
    codes = (
        tuple(available)
        if given == "all"
        else resolve_languages(given, tuple({*available, *known_languages()}), "the result")
    )
    lacking = [code for code in codes if code not in available]
    if lacking:
        raise AnalysisError(
            f"{told}, but the result lacks {', '.join(lacking[:5])}{' …' if lacking[5:] else ''}",
            f"some of its {len(available)} languages",
            f"leave the others out of {told.split()[0]}",
        )
    return codes


def resolved_relation(relation: str, languages: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The role of a language in a relation (`all`, `to`, `from`), and the codes of those it is related to (of `all`, none).

    Raises:
        AnalysisError: an unknown relation, or languages that the result lacks.
    """
    if relation == "all":
        return relation, ()
    role, _, listed = _ENGLISH.get(relation, relation).partition(":")
    if role not in ("to", "from") or not listed:
        raise AnalysisError(
            f"--relation {relation}",
            "all, to-english, from-english, to:a,b or from:a,b",
            "give for example --relation from:en,zh",
        )
    return role, named_languages(listed, f"--relation {relation}", languages)


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
        CorpusError: a name that is no language.
    """
    role, related = resolved_relation(relation, languages)
    if role == "all":
        both = np.concatenate([table, np.swapaxes(table, -1, -2)], axis=-1)
        return np.nanmean(both, axis=-1)
    others = [list(languages).index(code) for code in related]
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
        table = table.astype(dict.fromkeys(("layer", "n", "correct", "accuracy"), float) | {"src": str, "tgt": str})
    except ValueError as error:
        raise AnalysisError(f"{path}: {error}", expected, "mend the table") from None
    for column, sound, wanted, next_step in (
        ("layer", (table["layer"] % 1 == 0) & (table["layer"] >= 0), "whole numbers from 0 on", "mend the table"),
        ("n", (table["n"] % 1 == 0) & (table["n"] >= 1), "whole numbers from 1 on", "mend the table"),
        ("accuracy", table["accuracy"].between(0, 1), "shares in 0..1", "divide percent by 100"),
        (
            "accuracy",
            (table["accuracy"] - table["correct"] / table["n"]).abs() <= _ROUNDED,
            "correct / n of that row",
            "mend the table, or give the folder that `probe retrieve` wrote",
        ),
    ):
        if not sound.all():
            row = table[~sound].iloc[0]
            told = f"{path}: {column} {row[column]:g} in row {row.name + 2}"
            raise AnalysisError(f"{told} ({row['src']} to {row['tgt']})", wanted, next_step)
    table = table.astype({"layer": int, "n": int})
    table[["src", "tgt"]] = _codes(path, table[["src", "tgt"]])
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


def _codes(path: Path, named: pd.DataFrame) -> pd.DataFrame:
    """The codes of languages that a table may name by their aliases."""
    named = named.apply(lambda column: column.str.strip())
    aliases = language_aliases()
    names: dict[str, str] = {}
    for name in sorted({*named["src"], *named["tgt"]}):
        earlier = names.setdefault(aliases.get(name, name), name)
        if earlier != name:
            raise AnalysisError(
                f"{path} with {earlier} and {name}, which are one language", "one name a language", "mend the table"
            )
    codes = {name: code for code, name in names.items()}
    return named.apply(lambda column: column.map(codes))


def short_name(code: str) -> str:
    """What labels a language in a figure: its ISO 639-1 code where it has one, else ISO 639-3 or the code itself."""
    known = language(code)
    return (known.iso639_1 or known.iso639_3) if known else code
