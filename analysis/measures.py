"""Representation measures beside retrieval, from the same vectors: cosines of pairs, isotropy, CKA, hubness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Float64

from analysis.accuracies import middle_layer
from analysis.report import Report, Table
from analysis.similarity import (
    antihub_share,
    cosines_of_pairs,
    debiased_cka,
    gram_matrix,
    hubness_skewness,
    mean_self_cosine,
    occurrences,
    participation_ratio,
    u_centred,
)
from probe import provenance
from probe.corpus import resolve_languages
from probe.errors import AnalysisError
from probe.layers import parse_layers
from probe.store import ActivationStore, layer_name
from probe.vectors import Vectors, centred_rows, open_vectors, unit_rows

_HELD_BYTES = 384 * 2**20
"""Of languages held in memory at a time; beside them stand the pair at hand and the layer of one language in float64."""

_PAIRS = {
    "true_cosine": "true pairs",
    "other_cosine": "other pairs",
    "gap": "gap",
    "separation": "gap / sd",
    "cka": "CKA",
}
_LANGUAGES = {"anisotropy": "anisotropy", "dimensions": "dimensions"}
_HUBNESS = {"hubness_skewness": "hubness", "antihub_share": "antihubs %"}

_MEANINGS = (
    "true pairs, other pairs: mean cosine of translations and of all other pairs of sentences of two languages. Their gap, and"
    " the gap in standard deviations of the other pairs (gap / sd), are better the higher; a cosine alone says little.",
    "CKA: linear centred kernel alignment of two languages, debiased: 1 where one is the other rotated and scaled, about 0 (or"
    " a little below) where unrelated. Higher: the same geometry. It does not see an offset or a rotation, which retrieval does;"
    " and it sees all that sentences share with their translations, their length too.",
    "anisotropy: mean cosine of different sentences of one language; 0 is isotropic, near 1 all vectors lie in a narrow cone."
    " Lower is more isotropic; by itself neither good nor bad for retrieval.",
    "dimensions: participation ratio, the effective number of dimensions in which a language's sentences vary. Higher: more"
    " spread. It grows with the number of sentences: compare only equal numbers.",
    "hubness: skewness of how often a sentence is among the k nearest targets; 0 is even, higher means a few hubs that many"
    " sources find. antihubs: share of targets that no source has among its k nearest. Both are better the lower.",
    "Cosines and hubness are of rows of length 1, as in retrieval; CKA and dimensions of the vectors as they are, centred.",
)


def measure(
    store: str | Path | ActivationStore | Mapping[str, np.ndarray] | Vectors,
    *,
    layers: str = "all",
    pool: str = "mean",
    langs: str | None = None,
    limit: int | None = None,
    k: int = 4,
    advance: Callable[[str, int, int], None] = lambda layer, done, total: None,
) -> Report:
    """Measures of every layer, language, pair and direction.

    Args:
        store: a store, a folder of `<lang>.npy`, or a mapping language -> (sentence, dim); never changed.
        layers: `all`, `even`, a list or a range, as `probe retrieve --layers`.
        limit: the first rows only.
        k: neighbours that hubness counts.
        advance: called with a layer's name, the pairs done and the pairs to do.

    Returns:
        A report of kind `measures` with the tables `layers` (means over languages, pairs and directions), `languages`, `pairs`
        (unordered; English, or else the first language, stands first where it takes part) and `directions`.

    Raises:
        ProbeError: vectors that cannot be read or hold NaN or zero rows, fewer than two languages or four sentences, a k that
            does not fit, layers or languages that are not there.
    """
    vectors = open_vectors(store, pool)
    codes = resolve_languages(langs, vectors.languages, "the store")
    wanted = parse_layers(layers, vectors.layers)
    rows = vectors.rows if limit is None else min(limit, vectors.rows)
    _check(codes, rows, k)
    ordered = sorted(codes, key=lambda code: code != "eng_Latn")
    found = [measure_layer(vectors, layer, ordered, rows, k, partial(advance, layer_name(layer))) for layer in wanted]
    measured = Measures(*(pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True)))
    facts = {
        "layers": list(wanted),
        "languages": ordered,
        "rows": rows,
        "limit": limit,
        "k": k,
        **vectors.origin(),
        "versions": provenance.versions(),
    }
    return _report(measured, facts)


def _check(codes: Sequence[str], rows: int, k: int) -> None:
    if len(codes) < 2:
        raise AnalysisError(f"{len(codes)} language", "at least two", "add languages")
    if rows < 4:
        raise AnalysisError(f"{rows} sentences", "at least 4, which debiased CKA needs", "give more sentences")
    if not 1 <= k < rows:
        raise AnalysisError(
            f"{rows} sentences with k = {k}", "k from 1 to the number of sentences less one", "give another --k"
        )


class Measures(NamedTuple):
    """The tidy numbers, all with a column `layer`."""

    languages: pd.DataFrame
    pairs: pd.DataFrame
    directions: pd.DataFrame


@dataclass(frozen=True)
class Side:
    """What the pairs of one language at one layer need of it."""

    code: str
    units: Float32[np.ndarray, "row dim"]
    """Rows of length 1."""
    gram: Float64[np.ndarray, "row row"]
    """Inner products of the centred rows, U-centred; zeros where all rows are equal."""
    anisotropy: float
    dimensions: float

    @classmethod
    def of(cls, code: str, values: Float[np.ndarray, "row dim"]) -> Side:
        """Of one language's vectors.

        Raises:
            RetrievalError: NaN, inf or an all-zero row.
        """
        units = unit_rows(values, code)
        gram = gram_matrix(centred_rows(values))
        return cls(code, units, u_centred(gram), mean_self_cosine(units), participation_ratio(gram))

    @property
    def nbytes(self) -> int:
        return self.units.nbytes + self.gram.nbytes

    @property
    def constant(self) -> bool:
        """Whether all sentences share one vector."""
        return bool(np.isnan(self.dimensions))


def measure_layer(
    vectors: Vectors,
    layer: int,
    codes: Sequence[str],
    rows: int,
    k: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
    held_bytes: int = _HELD_BYTES,
) -> Measures:
    """One layer of every language, pair and direction, with no more languages in memory at a time than `held_bytes` holds."""
    languages: dict[str, dict[str, Any]] = {}
    pairs: list[dict[str, Any]] = []
    directions: list[dict[str, Any]] = []
    total = len(codes) * (len(codes) - 1) // 2

    def load(code: str) -> Side:
        return Side.of(code, vectors.layer(code, layer)[:rows])

    for done, (a, b) in enumerate(_pairs(codes, load, held_bytes), start=1):
        for side in (a, b):
            languages[side.code] = {"language": side.code, "anisotropy": side.anisotropy, "dimensions": side.dimensions}
        cosines = a.units @ b.units.T
        pairs.append({"lang_a": a.code, "lang_b": b.code, **_pair(a, b, cosines)})
        directions.append({"src": a.code, "tgt": b.code, **_direction(b, cosines, k)})
        directions.append({"src": b.code, "tgt": a.code, **_direction(a, cosines.T, k)})
        advance(done, total)
    frames = [
        _frame(layer, list(languages.values()), codes, ["language"]),
        _frame(layer, pairs, codes, ["lang_a", "lang_b"]),
        _frame(layer, directions, codes, ["src", "tgt"]),
    ]
    into = frames[2].groupby("tgt")[list(_HUBNESS)].mean()
    frames[0] = frames[0].join(into, on="language")
    return Measures(*frames)


def _pairs(codes: Sequence[str], load: Callable[[str], Side], held_bytes: int) -> Iterator[tuple[Side, Side]]:
    """Every unordered pair: as many languages as may be held, against all later ones; then the next so many."""
    start = 0
    while start < len(codes) - 1:
        held: list[Side] = []
        for code in codes[start:]:
            side = load(code)
            yield from ((other, side) for other in held)
            if not held or (len(held) + 1) * side.nbytes <= held_bytes:
                held.append(side)
        start += len(held)


def _pair(a: Side, b: Side, cosines: Float[np.ndarray, "row row"]) -> dict[str, float]:
    found = cosines_of_pairs(cosines)
    values = (found.true, found.other, found.gap, found.separation, debiased_cka(a.gram, b.gram))
    return dict(zip(_PAIRS, values, strict=True))


def _direction(target: Side, cosines: Float[np.ndarray, "source target"], k: int) -> dict[str, float]:
    """NaN where all targets are one vector: which of them is nearest is then decided by rounding."""
    if target.constant:
        return dict.fromkeys(_HUBNESS, np.nan)
    counts = occurrences(cosines, k)
    return dict(zip(_HUBNESS, (hubness_skewness(counts), antihub_share(counts)), strict=True))


def _frame(layer: int, found: list[dict[str, Any]], codes: Sequence[str], keys: list[str]) -> pd.DataFrame:
    """A tidy table in the order of the languages, however many were held at a time."""
    position = {code: i for i, code in enumerate(codes)}
    ordered = sorted(found, key=lambda row: [position[row[key]] for key in keys])
    frame = pd.DataFrame(ordered)
    frame.insert(0, "layer", layer)
    return frame


def _report(measured: Measures, facts: Mapping[str, Any]) -> Report:
    means = [
        measured.pairs.groupby("layer")[list(_PAIRS)].mean(),
        measured.languages.groupby("layer")[list(_LANGUAGES)].mean(),
        measured.directions.groupby("layer")[list(_HUBNESS)].mean(),
    ]
    shown = _shown_layer(facts["layers"], facts.get("depth"))
    first = facts["languages"][0]
    made = facts["model"]["name"] if "model" in facts else facts["arrays"]
    percent = ("antihub_share",)
    tables = {
        "layers": Table(
            pd.concat(means, axis=1).reset_index(),
            "Means over pairs of languages, languages and directions, by layer",
            {"layer": "layer", **_PAIRS, **_LANGUAGES, **_HUBNESS},
            percent,
        ),
        "languages": Table(
            measured.languages,
            f"Languages at layer {shown}; hubness among their sentences as targets, mean over sources",
            {"language": "language", **_LANGUAGES, **_HUBNESS},
            percent,
            {"layer": shown},
        ),
        "pairs": Table(
            measured.pairs,
            f"Pairs with {first} at layer {shown}",
            {"lang_a": "language", "lang_b": "with", **_PAIRS},
            where={"layer": shown, "lang_a": first},
        ),
        "directions": Table(
            measured.directions,
            f"Hubness of targets searched from {first} at layer {shown}",
            {"src": "source", "tgt": "target", **_HUBNESS},
            percent,
            {"layer": shown, "src": first},
        ),
    }
    size = (
        f"{len(facts['languages'])} languages, {facts['rows']} sentences each, hubness with k = {facts['k']}. By language and"
        f" pair the page shows layer {shown} only; the CSV files hold all."
    )
    remarks = (size, *_MEANINGS, *_undefined(measured.languages))
    return Report("measures", f"Representation measures of {made}", tables, remarks, {**facts, "shown_layer": shown})


def _shown_layer(layers: Sequence[int], depth: int | None) -> int:
    """The middle layer of the model where it was measured, else the middle one of those that were."""
    return middle_layer(depth) if depth and middle_layer(depth) in layers else layers[len(layers) // 2]


def _undefined(languages: pd.DataFrame) -> Iterator[str]:
    constant = languages[languages["dimensions"].isna()]
    for layer, codes in constant.groupby("layer")["language"]:
        yield (
            f"At layer {layer} all sentences share one vector in {', '.join(codes)}: CKA, dimensions and hubness are undefined"
            " there, and means leave them out."
        )
