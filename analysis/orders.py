"""What heatmaps show: accuracies of directions and of languages as tidy rows, and the orders in which languages stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from analysis.accuracies import Accuracies, language_means
from analysis.resample import Means
from data_manifests import language
from probe.results import script_of

UNKNOWN = "family not known"


def families(codes: Sequence[str]) -> dict[str, str]:
    """Code -> top-level family, `family not known` where none is."""
    return {code: (known.family if (known := language(code)) else None) or UNKNOWN for code in codes}


def by_family(codes: Sequence[str]) -> tuple[str, ...]:
    """Families with the most of these languages first, those not known last; in a family the scripts likewise, then by code."""
    of = families(codes)
    size = Counter(of.values())
    written = Counter((of[code], script_of(code)) for code in codes)

    def place(code: str) -> tuple[bool, int, str, int, str, str]:
        family, script = of[code], script_of(code)
        return family == UNKNOWN, -size[family], family, -written[family, script], script, code

    return tuple(sorted(codes, key=place))


def by_cluster(table: Float[np.ndarray, "language language"], codes: Sequence[str]) -> tuple[str, ...]:
    """Languages that retrieve each other well stand together.

    Average-linkage clustering of 1 - (A + A.T) / 2, its leaves ordered so that neighbours are as near as the tree allows
    (Bar-Joseph et al. 2001).

    Args:
        table: shares of directions; the diagonal is not used.
    """
    if len(codes) < 3:
        return tuple(codes)
    distance = 1 - (table + table.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return tuple(codes[number] for number in leaves_list(tree))


def best_layer(accuracies: Accuracies) -> int:
    """The layer with the highest mean accuracy over all directions; the first of several."""
    return accuracies.layers[int(np.nanmean(accuracies.values, axis=(1, 2)).argmax())]


def directions(accuracies: Accuracies, layer: int | str) -> pd.DataFrame:
    """One row a direction at a layer (a number, `middle` or `aggregate`): layer, src, tgt, accuracy.

    Raises:
        AnalysisError: the layer was not retrieved.
    """
    table, codes = accuracies.at(layer), accuracies.languages
    pairs = [(a, b) for a in range(len(codes)) for b in range(len(codes)) if a != b]
    rows = [(layer, codes[a], codes[b], table[a, b]) for a, b in pairs]
    return pd.DataFrame(rows, columns=["layer", "src", "tgt", "accuracy"])


def language_layers(accuracies: Accuracies, order: Sequence[str]) -> pd.DataFrame:
    """Mean over the directions that touch a language, at every layer and of the controls, whose layer is NaN.

    Returns:
        language, layer, series (`layers`, `char`, `length`), accuracy; the languages in the given order.
    """
    tables = {(name, layer): language_means(table, accuracies.languages) for name, layer, table in _series(accuracies)}
    place = [accuracies.languages.index(code) for code in order]
    rows = [
        (code, layer, name, means[number])
        for code, number in zip(order, place, strict=True)
        for (name, layer), means in tables.items()
    ]
    return pd.DataFrame(rows, columns=["language", "layer", "series", "accuracy"])


def group_means(accuracies: Accuracies) -> pd.DataFrame:
    """The layer curves of a bare table, without intervals: these need the hits of a result folder.

    Returns:
        result, layer (NaN for controls), series, group, accuracy, low, high (NaN): groups of directions are means over
        directions, `high` and `low` are means over languages, each the mean over the directions that touch it.
    """
    means = Means.of_groups(accuracies.languages)
    rows = [
        (accuracies.name, layer, name, group, mean, np.nan, np.nan)
        for name, layer, table in _series(accuracies)
        for group, mean in means.shares(table).items()
    ]
    return pd.DataFrame(rows, columns=["result", "layer", "series", "group", "accuracy", "low", "high"])


def _series(accuracies: Accuracies) -> list[tuple[str, int | float, np.ndarray]]:
    """(series, layer, table): the layers, then the controls, whose layer is NaN."""
    layers: list[tuple[str, int | float, np.ndarray]] = [
        ("layers", layer, table) for layer, table in zip(accuracies.layers, accuracies.values, strict=True)
    ]
    return layers + [(name, np.nan, table) for name, table in accuracies.controls.items()]
