"""Layers x unordered language pairs -> RetrievalResult."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from probe import provenance
from probe.controls import CONTROLS, control_pairs
from probe.corpus import resolve_languages
from probe.device import choose_device
from probe.errors import RetrievalError
from probe.knn import Pair, choose_backend, make_search
from probe.layers import parse_layers
from probe.margin import MARGINS, mexa_rows, retrieve_rows
from probe.partial import PartialResult, finished_result
from probe.results import Cells, RetrievalResult, writing
from probe.store import ActivationStore, layer_name, locked
from probe.vectors import Vectors, centred_rows, open_vectors, row_norms, unit_rows

Advance = Callable[[str, int, int], None]
"""Called with a layer's name, the pairs done and the pairs to do."""


def retrieve_all(
    source: str | Path | ActivationStore | Mapping[str, np.ndarray] | Vectors,
    *,
    layers: str = "all",
    k: int = 4,
    margin: str = "ratio",
    backend: str = "auto",
    device: str = "auto",
    pool: str = "mean",
    langs: str | None = None,
    limit: int | None = None,
    centre: bool = False,
    controls: bool = True,
    save_predictions: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    advance: Advance = lambda layer, done, total: None,
) -> RetrievalResult:
    """xSIM retrieval in every direction at every layer, with the controls beside it.

    Args:
        source: a store, a folder of `<lang>.npy`, or a mapping language -> (sentence, dim); never changed.
        layers: `all`, `even`, a list or a range, as `probe retrieve --layers`.
        margin: `ratio`, `distance` or `absolute`.
        limit: the first rows only.
        centre: subtract from each language's vectors their mean (over the rows that are searched), so that what all its
            sentences share, which tells the language and not the meaning, does not count. The controls stay as they are.
        out: a folder to write the result to. Layers finished there by an interrupted run are not computed again, and
            a finished result of the same settings is returned as it is.

    Raises:
        ProbeError: vectors that cannot be searched, unknown options, a result in `out` made with other settings.
    """
    vectors = open_vectors(source, pool)
    if margin not in MARGINS:
        raise RetrievalError(f"--margin {margin}", f"one of {', '.join(MARGINS)}", "give one of these")
    place = choose_device(device)
    chosen = choose_backend(backend, place)
    codes = resolve_languages(langs, vectors.languages, "the store")
    if len(codes) < 2:
        raise RetrievalError(f"{len(codes)} language", "at least two", "add languages")
    wanted = parse_layers(layers, vectors.layers)
    settings: dict[str, Any] = {
        "k": k,
        "margin": margin,
        "backend": chosen,
        "device": str(place),
        "limit": limit,
        "centre": centre,
        "depth": vectors.layers[-1] if len(vectors.layers) > 1 else None,
        **vectors.origin(),
    }
    rows = vectors.rows if limit is None else min(limit, vectors.rows)
    if rows < max(k, 2) or k < 1:
        raise RetrievalError(
            f"{rows} rows with k = {k}",
            "k from 1 to the number of rows, and two rows or more",
            "give a smaller --k or more sentences",
        )
    texts = _texts(vectors, codes, rows)
    missing = "asked for --no-controls" if not controls else None if texts else "these vectors carry no text"
    names = [layer_name(layer) for layer in wanted] + ([] if missing else list(CONTROLS))
    asked = {**settings, "languages": list(codes), "layers": names, "predictions": save_predictions}

    def compute(name: str) -> Cells:
        if name in CONTROLS and texts:
            pairs, repeated, keep = control_pairs(name, texts, max(k, 2)), None, False
        else:
            pairs, repeated = _layer_pairs(vectors, codes, int(name), rows, centre, k, chosen, place, texts)
            keep = save_predictions
        return collect_cells(
            pairs, len(codes), rows, margin, k, keep, repeated, lambda done, total: advance(name, done, total)
        )

    with _alone(out):
        if out and not overwrite and (held := finished_result(Path(out), asked)) is not None:
            return held
        partial = PartialResult.open(Path(out), asked, overwrite) if out else None
        cells = {name: partial.get(name, compute) if partial else compute(name) for name in names}
        result = RetrievalResult(
            codes,
            rows,
            {layer: cells[layer_name(layer)] for layer in wanted},
            {name: cells[name] for name in CONTROLS if name in cells},
            {code: float(tokens[:rows].mean()) for code in codes if (tokens := vectors.tokens(code)) is not None},
            {code: rows - distinct for code, distinct in _distinct_rows(vectors, codes, wanted[0], rows, texts)},
            {
                **settings,
                "controls_missing": missing,
                "versions": provenance.versions(),
                "command": provenance.command(),
            },
        )
        if partial:
            result.save(partial.folder)
            partial.remove()
        return result


@contextlib.contextmanager
def _alone(out: str | Path | None) -> Iterator[None]:
    """The only retrieval into a folder: two with other settings would take each other's layers for their own."""
    if out is None:
        yield
        return
    with writing(Path(out)):
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    with locked(Path(out), str(out), "give another --out"):
        yield


def collect_cells(
    pairs: Iterable[Pair],
    languages: int,
    rows: int,
    margin: str,
    k: int,
    keep_predictions: bool,
    repeated: Sequence[np.ndarray] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Cells:
    """Both directions of every pair, by the margin rule, packed.

    Args:
        pairs: neighbours of every unordered pair of languages, at least max(k, 2) of them.
        repeated: of each language, the rows that another row equals. They tie, so they have no strict maximum, though
            their cosines may differ in the last bits with the batch or the block of FAISS they stood in.
    """
    hits = np.zeros((languages, languages, (rows + 7) // 8), dtype=np.uint8)
    mexa = np.full((languages, languages), np.nan)
    predictions = np.full((languages, languages, rows), -1, dtype=np.int32) if keep_predictions else None
    own = np.arange(rows)
    nonpositive, total = 0, languages * (languages - 1) // 2
    for done, (a, b, forward, backward) in enumerate(pairs, start=1):
        for source, target, there, back in ((a, b, forward, backward), (b, a, backward, forward)):
            found = retrieve_rows(there, back, margin, k)
            hits[source, target] = np.packbits(found.targets == own)
            nonpositive += found.nonpositive
            if predictions is not None:
                predictions[source, target] = found.targets
        strict = mexa_rows(forward, backward)
        if repeated is not None:
            strict &= ~(repeated[a] | repeated[b])
        mexa[a, b] = mexa[b, a] = strict.mean()
        advance(done, total)
    return Cells(hits, mexa, nonpositive, predictions)


def repeated_rows(items: Sequence[Hashable]) -> Bool[np.ndarray, " row"]:
    """Rows that another row equals."""
    counts = Counter(items)
    return np.array([counts[item] > 1 for item in items])


def row_keys(rows: Float[np.ndarray, "row dim"]) -> list[bytes]:
    """A key of each row, equal where rows are equal bit by bit. A few columns tell nearly all rows apart."""
    heads = [row[:16].tobytes() for row in rows]
    counts = Counter(heads)
    return [head if counts[head] == 1 else row.tobytes() for head, row in zip(heads, rows, strict=True)]


def _layer_pairs(
    vectors: Vectors,
    codes: tuple[str, ...],
    layer: int,
    rows: int,
    centre: bool,
    k: int,
    backend: str,
    device: torch.device,
    texts: list[tuple[str, ...]] | None,
) -> tuple[Iterator[Pair], list[np.ndarray]]:
    """Read one layer of every language, centre it where asked, normalise it, search all pairs; and each language's repeated rows.

    Rows repeat where their text does: vectors of equal texts may differ in the last bits, as their batches did.
    """
    search, dim = None, 0
    repeated: list[np.ndarray] = []
    for code in codes:
        values = vectors.layer(code, layer)
        dim = dim or values.shape[1]
        if values.shape != (vectors.rows, dim):
            raise RetrievalError(
                f"{code} has vectors of shape {values.shape}",
                f"({vectors.rows}, {dim}) as {codes[0]}",
                "embed the same sentences with the same model",
            )
        search = search or make_search(backend, device, len(codes), rows, dim)
        units = _centred_units(values[:rows], code) if centre else unit_rows(values[:rows], code)
        search.add(units)
        repeated.append(repeated_rows(texts[len(repeated)] if texts else row_keys(units)))
    assert search is not None
    return search.pairs(max(k, 2)), repeated  # the MEXA score needs two


def _centred_units(values: Float[np.ndarray, "row dim"], code: str) -> Float[np.ndarray, "row dim"]:
    """Rows of length 1 after their mean is taken away. Checked before, too: the mean would spread one NaN to all rows."""
    row_norms(values, code)
    return unit_rows(centred_rows(values), f"{code}, centred,")


def _texts(vectors: Vectors, codes: tuple[str, ...], rows: int) -> list[tuple[str, ...]] | None:
    texts = [vectors.text(code) for code in codes]
    return None if any(text is None for text in texts) else [text[:rows] for text in texts if text is not None]


def _distinct_rows(
    vectors: Vectors, codes: tuple[str, ...], layer: int, rows: int, texts: list[tuple[str, ...]] | None
) -> Iterator[tuple[str, int]]:
    """Language -> number of distinct rows, by text where there is any, else by vector."""
    for i, code in enumerate(codes):
        items = texts[i] if texts else row_keys(vectors.layer(code, layer)[:rows])
        yield code, len(set(items))
