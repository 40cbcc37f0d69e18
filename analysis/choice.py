"""Which layer is best, and how sure that is: its rank under resampling, and a choice tested on documents that it was not made on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import rankdata

from analysis.accuracies import own_name
from analysis.association import CONFIDENCE
from analysis.curves import curve
from analysis.documents import Documents, find_documents
from analysis.report import Report, Table
from analysis.resample import GROUPS, Bootstrap, Means, load_result, mean_sums
from data_manifests.published import PublishedValue, published_retrieval
from probe.errors import AnalysisError
from probe.results import RetrievalResult

CHOICES = ("mean", "same_script", "cross_script", "to_english", "from_english", "high", "low")
"""Groups in which a layer can be best."""
SPLITS = 200
"""Random splits of the documents in two halves; each is used both ways."""
_AS_PUBLISHED = {
    "k": 4,
    "margin": "ratio",
    "pooling": "mean",
    "final_norm": "model",
    "name": "flores200",
    "split": "dev",
    "centre": False,
    "rows": 997,
}
"""How the paper's retrieval was made (section 4.2)."""


def choose_layer(
    result: str | Path | RetrievalResult,
    *,
    by: str = "mean",
    documents: Documents | str | Path | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Report:
    """The best layer of a retrieval result.

    Args:
        result: a result's folder, or the result.
        by: in what it is best: a group of directions (`mean`, `same_script`, `cross_script`, `to_english`, `from_english`)
            or of languages (`high`, `low` resource level).
        documents: as of `find_documents`.
        draws: bootstrap draws over documents.
        seed: of the draws and of the splits.

    Returns:
        A report of kind `layers`. Table `layers`: a layer a row, its accuracy in every group, the interval of `mean` and of
        `by`, `won` (share of draws in which it is best; layers that tie for best share the draw), the interval of its rank
        (1 = best, layers that tie all have the better rank), and the controls' accuracy by `by`. Table `halves`: the
        layers that were chosen on one half of the documents, with their accuracy there and on the other half. Table
        `curves`: as of `analysis.curves`.

    Raises:
        AnalysisError: a bare table, an unknown group, or one without directions, or documents that do not fit.
        RetrievalError: the folder holds no readable result.
    """
    name = "result" if isinstance(result, RetrievalResult) else own_name(result)
    found = result if isinstance(result, RetrievalResult) else load_result(result)
    means = Means.of_groups(found.languages)
    _check_group(by, means, name)
    bootstrap = Bootstrap.of(find_documents(found.settings, found.rows, documents), draws, seed)
    sums = mean_sums(found, bootstrap.documents, means)
    curves = curve(name, sums, means, bootstrap)

    layers = sorted(found.layers)
    own, directions = means.names.index(by), float(means.directions[means.names.index(by)])
    hits = np.stack([sums[layer][own] for layer in layers])
    shares = bootstrap.shares(hits, directions)
    table = _layer_table(layers, curves, shares, by)
    halves, tested = _halves(layers, hits, directions, bootstrap)
    best = int(table[by].argmax())  # the first on ties
    facts = {
        "result": name,
        "by": by,
        **_best(table.iloc[best], by),
        **_inside(layers, best, shares, found.settings.get("depth")),
        "char": _above_char(hits[best], sums["char"][own], directions, bootstrap) if "char" in sums else None,
        "halves": tested,
        "aggregate": found.aggregate(),
        "published_aggregate": asdict(published) if (published := published_aggregate(found)) else None,
        "depth": found.settings.get("depth"),
        "layers": layers,
        "languages": len(found.languages),
        "rows": found.rows,
        "grouping": bootstrap.documents.grouping,
        "draws": draws,
        "seed": seed,
        "confidence": CONFIDENCE,
        "store": found.settings.get("store"),
    }
    return Report(
        "layers",
        f"Best layer of {name}",
        {
            "layers": _shown_layers(table, by, name),
            "halves": _shown_halves(halves, by, bootstrap.documents.grouping),
            "curves": _shown_curves(curves),
        },
        tuple(_remarks(facts)),
        facts,
    )


def _check_group(by: str, means: Means, name: str) -> None:
    if by not in CHOICES:
        raise AnalysisError(f"--by {by}", f"one of {', '.join(CHOICES)}", "give one of these")
    if by not in means.names:
        raise AnalysisError(
            f"--by {by} of {name}, whose languages have no such direction",
            f"one of {', '.join(means.names)}",
            "give one of these",
        )


def _layer_table(
    layers: list[int], curves: pd.DataFrame, shares: Float[np.ndarray, "layer draw"], by: str
) -> pd.DataFrame:
    """The table `layers` of the report."""
    of_layers = curves[curves["series"] == "layers"]
    wide = of_layers.pivot(index="layer", columns="group", values=["accuracy", "low", "high"]).loc[layers]
    table = pd.DataFrame({"layer": layers})
    for group in CHOICES:
        table[group] = wide["accuracy", group].to_numpy() if ("accuracy", group) in wide else np.nan
    for group in dict.fromkeys(("mean", by)):
        table[f"{group}_low"], table[f"{group}_high"] = wide["low", group].to_numpy(), wide["high", group].to_numpy()
    ranks = ranks_of(shares)
    table["won"] = wins(shares).mean(axis=1)
    tails = np.quantile(ranks, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1, method="inverted_cdf")
    table["rank_low"], table["rank_high"] = tails.astype(int)
    controls = curves[(curves["series"] != "layers") & (curves["group"] == by)].set_index("series")["accuracy"]
    for control in ("char", "length"):
        table[control] = controls.get(control, np.nan)
    return table


def ranks_of(shares: Float[np.ndarray, "layer draw"]) -> Int[np.ndarray, "layer draw"]:
    """The rank of each layer in each draw: 1 + the number of layers that are better, so that a tie has the better rank."""
    return rankdata(-shares, method="min", axis=0).astype(np.int64)


def wins(shares: Float[np.ndarray, "layer draw"]) -> Float[np.ndarray, "layer draw"]:
    """How much of each draw a layer wins: 1 where it is best alone; layers that tie for best share the draw."""
    best = ranks_of(shares) == 1
    return best / best.sum(axis=0)


def _best(row: pd.Series, by: str) -> dict[str, Any]:
    """The best layer and how sure it is."""
    return {
        "best": int(row["layer"]),
        "accuracy": float(row[by]),
        "low": float(row[f"{by}_low"]),
        "high": float(row[f"{by}_high"]),
        "won": float(row["won"]),
        "rank": [int(row["rank_low"]), int(row["rank_high"])],
    }


def _inside(layers: list[int], best: int, shares: Float[np.ndarray, "layer draw"], depth: int | None) -> dict[str, Any]:
    """Whether the best layer is neither the embeddings nor the last one, and in what share of draws."""
    last = depth or layers[-1]
    within = np.array([0 < layer < last for layer in layers])
    return {"last": last, "inside": bool(within[best]), "inside_share": float(wins(shares)[within].sum(axis=0).mean())}


def _above_char(
    best: Float[np.ndarray, " document"], char: Float[np.ndarray, " document"], directions: float, bootstrap: Bootstrap
) -> dict[str, float]:
    """The control's accuracy, and by how much the best layer is above it, from hits a document."""
    low, high = bootstrap.interval(best - char, directions)
    counted = bootstrap.sentences * directions
    return {
        "accuracy": float(char.sum() / counted),
        "above": float((best - char).sum() / counted),
        "low": float(low),
        "high": float(high),
    }


def _halves(
    layers: list[int], hits: Float[np.ndarray, "layer document"], directions: float, bootstrap: Bootstrap
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The layers chosen on one half of the documents (the first on ties), tested on the other: a layer a row, and all in all.

    All in all the best layer of the other half is no finding of its own: every half is once the one and once the other, so that
    its mean accuracy is that of the chosen layers where they were chosen.
    """
    first = bootstrap.documents.halves(SPLITS, bootstrap.seed)
    half = np.concatenate([first, ~first]).T.astype(np.float64)
    counted = bootstrap.documents.sizes * directions
    here, there = ((hits @ taken) / (counted @ taken) for taken in (half, 1 - half))
    choice, turns = here.argmax(axis=0), np.arange(half.shape[1])
    tried = pd.DataFrame(
        {
            "layer": np.array(layers)[choice],
            "accuracy_chosen": here[choice, turns],
            "accuracy_tested": there[choice, turns],
            "best_tested": there.max(axis=0),
        }
    )
    by_layer = tried.groupby("layer")
    halves = by_layer.mean().reset_index()
    halves.insert(1, "chosen", by_layer.size().to_numpy() / len(tried))
    chosen, tested = (float(tried[name].mean()) for name in ("accuracy_chosen", "accuracy_tested"))
    return halves, {"splits": SPLITS, "chosen": chosen, "tested": tested, "optimism": chosen - tested}


def published_aggregate(result: RetrievalResult) -> PublishedValue | None:
    """The paper's aggregate accuracy (Table 2) of the same model, adapter and languages; None where it printed none, or where the
    result was made in another way than the paper's: other sentences, search, pooling or norm.
    """
    settings = result.settings
    corpus = settings.get("corpus") or {}
    made = {
        **{name: settings.get(name) for name in ("k", "margin", "pooling", "final_norm")},
        **{name: corpus.get(name) for name in ("name", "split")},
        "centre": bool(settings.get("centre")),
        "rows": result.rows,
    }
    if made != _AS_PUBLISHED:
        return None
    model = settings.get("model") or {}
    if model.get("adapter") and not model.get("adapter_name"):  # of one's own making
        return None
    return published_retrieval(model.get("name") or "", model.get("adapter_name"), result.languages)


def _remarks(facts: dict[str, Any]) -> list[str]:
    what = f"over {GROUPS[facts['by']]}"
    interval = f"95 % interval {100 * facts['low']:.1f} to {100 * facts['high']:.1f} %"
    accuracy, halves = f"{100 * facts['accuracy']:.1f} %", facts["halves"]
    if len(facts["layers"]) == 1:
        remarks = [
            f"The result covers layer {facts['best']} alone, so there is nothing to choose between: "
            f"accuracy {what} {accuracy} ({interval})."
        ]
    else:
        low, high = facts["rank"]
        remarks = [
            f"Best layer {what}: {facts['best']} (rank {low if low == high else f'{low} to {high}'} of {len(facts['layers'])} "
            f"layers in 95 % of draws; it wins {100 * facts['won']:.1f} % of draws), accuracy {accuracy} ({interval}).",
            f"{'It lies' if facts['inside'] else 'It does not lie'} strictly inside the network (neither layer 0 nor "
            f"{facts['last']}); the best layer does in {100 * facts['inside_share']:.1f} % of draws.",
            f"Chosen on one half of the {facts['grouping']} and tested on the other ({halves['splits']} splits, both ways): "
            f"{100 * halves['chosen']:.2f} % where chosen, {100 * halves['tested']:.2f} % where tested.",
        ]
    remarks += _beside_char(facts["char"])
    if (published := facts["published_aggregate"]) and facts["aggregate"] is not None:
        remarks.append(
            f"Aggregate accuracy {100 * facts['aggregate']:.1f} %; the paper prints {100 * published['value']:.1f} % "
            f"(Table {published['table']})."
        )
    return [*remarks, f"Intervals are percentiles of {facts['draws']} bootstrap draws of {facts['grouping']}."]


def _beside_char(char: dict[str, float] | None) -> list[str]:
    if char is None:
        return ["The result has no controls: what surface form alone would retrieve is not known."]
    if char["low"] > 0:
        return []
    where = "below" if char["above"] < 0 else "not clearly above"
    return [
        f"Even the best layer is {where} the `char` control ({100 * char['accuracy']:.1f} %, from character n-grams alone): "
        f"{100 * char['above']:+.1f} points (95 % interval {100 * char['low']:+.1f} to {100 * char['high']:+.1f})."
    ]


def _shown_layers(table: pd.DataFrame, by: str, name: str) -> Table:
    others = [group for group in ("mean", "same_script", "cross_script", "low") if table[group].notna().any()]
    shown = {"layer": "layer", by: GROUPS[by], f"{by}_low": "low", f"{by}_high": "high"}
    shown |= {group: GROUPS[group] for group in others if group != by}
    shown |= {"won": "wins", "rank_low": "rank low", "rank_high": "rank high", "char": "char", "length": "length"}
    return Table(
        table,
        f"Accuracy of {name} by layer (%); over {GROUPS[by]} with its 95 % interval, the share of draws in which a layer is best (%), "
        "the 95 % interval of its rank, and what the controls retrieve.",
        shown,
        tuple(column for column in table if column not in ("layer", "rank_low", "rank_high")),
    )


def _shown_halves(halves: pd.DataFrame, by: str, drawn: str) -> Table:
    return Table(
        halves,
        f"Layers chosen over {GROUPS[by]} on one half of the {drawn}: how often (%), their mean accuracy there (%), on the other half, and "
        "the best layer's on the other half.",
        {
            "layer": "layer",
            "chosen": "chosen",
            "accuracy_chosen": "where chosen",
            "accuracy_tested": "where tested",
            "best_tested": "best there",
        },
        ("chosen", "accuracy_chosen", "accuracy_tested", "best_tested"),
    )


def _shown_curves(curves: pd.DataFrame) -> Table:
    return Table(
        curves,
        "Accuracy (%) of layers and controls over all directions, with 95 % intervals.",
        {"series": "series", "layer": "layer", "accuracy": "accuracy", "low": "low", "high": "high"},
        ("accuracy", "low", "high"),
        {"group": "mean"},
        digits=0,
    )
