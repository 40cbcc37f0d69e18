"""The tables and the figure of docs/lab.md, from what `tools/lab_study.py` left in OUT.

python tools/lab_report.py OUT --figure docs/images/lab SEED_FOLDER...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lab_data import LANGUAGES, SUPERVISED
from lab_study import PLACES
from train_lab import Settings

from align.card import table
from analysis.accuracies import language_means
from analysis.association import partial_correlation
from analysis.documents import find_documents
from analysis.resample import Bootstrap, Means, mean_sums
from figures.curves import curves
from figures.save import save
from probe.results import RetrievalResult

GROUPS = ("cross_script", "mean")
PERMUTATIONS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="OUT")
    parser.add_argument("--figure", type=Path, help="without a suffix")
    parser.add_argument("models", type=Path, nargs="+")
    given = parser.parse_args()
    runs = {model.name: given.study / model.name for model in given.models}
    for group in GROUPS:
        print(f"\n### Accuracy by layer in %, {group}\n\n{table(list(peaks(runs, group)))}")
    print(f"\n### By rows beside translations\n\n{table(list(levels(given.models, runs)))}")
    points = transfer_points(given.models, runs)
    if len(points):
        print(f"\n### Does accuracy at the middle predict transfer F1?\n\n{table(list(correlations(points)))}")
    print(f"\n### After training\n\n{table(list(changes(runs)))}")
    print(f"\n### Slot F1, strict, in %\n\n{table(list(slot_gains(runs)))}")
    if given.figure:
        frame = pd.concat(curve_rows(folder / "base-test", name) for name, folder in runs.items())
        save(curves(frame, GROUPS), frame, given.figure)


def sums(folder: Path) -> tuple[RetrievalResult, Means, dict[int | str, np.ndarray], Bootstrap]:
    result = RetrievalResult.load(folder)
    documents = find_documents(result.settings, result.rows, None)
    means = Means.of_groups(result.languages)
    return result, means, mean_sums(result, documents, means), Bootstrap.of(documents, 2000)


def peaks(runs: dict[str, Path], group: str) -> Iterator[dict[str, Any]]:
    """Of each base: its curve, its best layer, and how far that is above the first, the last, the controls."""
    for name, folder in runs.items():
        result, means, hits, bootstrap = sums(folder / "base-test")
        place = means.names.index(group)
        directions = means.directions[place]
        every = directions * bootstrap.sentences
        layers = sorted(result.layers)
        best = max(layers, key=lambda layer: hits[layer][place].sum())
        row: dict[str, Any] = {"seed": name, "best layer": best}
        row |= {f"layer {layer}": _percent(hits[layer][place].sum() / every) for layer in layers}
        row["char"] = _percent(hits["char"][place].sum() / every)
        if (folder / "untrained" / "summary.json").exists():
            untrained = sums(folder / "untrained")[2]
            row["untrained, best"] = _percent(max(untrained[layer][place].sum() for layer in layers) / every)
        for label, other in (("first", layers[0]), ("last", layers[-1]), ("char", "char")):
            low, high = bootstrap.interval(hits[best][place] - hits[other][place], directions)
            row[f"above {label}"] = (
                f"{_percent((hits[best][place] - hits[other][place]).sum() / every)} ({_percent(low)} to {_percent(high)})"
            )
        yield row


def by_language(folder: Path) -> pd.Series:
    """Accuracy at the middle of each language, over the directions that touch it."""
    result = RetrievalResult.load(folder)
    return pd.Series(language_means(result.accuracy(Settings.middle), result.languages), index=list(result.languages))


def levels(models: Sequence[Path], runs: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Mean accuracy at the middle of the languages of each level of paired rows."""
    frames = []
    for model in models:
        shares = json.loads((model / "lab.json").read_text())["shares"]["paired"]
        own = by_language(runs[model.name] / "base-test")
        frames.append(own.groupby([shares[code] for code in own.index]).mean().rename(model.name))
    frame = pd.concat(frames, axis=1).sort_index(ascending=False)
    for level, values in frame.iterrows():
        yield {"rows beside translations": level, **{name: _percent(value) for name, value in values.items()}}


def transfer_points(models: Sequence[Path], runs: dict[str, Path]) -> pd.DataFrame:
    """A row a seed and transfer language: accuracy at the middle of the base, F1 after fine-tuning, shares."""
    frames = []
    for model in models:
        scores = runs[model.name] / "tuned-scores" / "metrics.csv"
        if not scores.exists():
            continue
        f1 = pd.read_csv(scores).query("metric == 'strict-f1'").set_index("language")["value"]
        shares = json.loads((model / "lab.json").read_text())["shares"]
        own = by_language(runs[model.name] / "base-test")
        codes = [code for code in LANGUAGES if code not in SUPERVISED]
        frames.append(
            pd.DataFrame(
                {
                    "seed": model.name, "language": codes, "accuracy": own[codes].to_numpy(), "f1": f1[codes].to_numpy(),
                    "paired": [np.log(shares["paired"][code]) for code in codes],
                    "alone": [np.log(shares["alone"][code]) for code in codes],
                }
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def correlations(points: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each seed alone, then all with a mean of their own for each seed, then given the shares, then the languages too.

    The permutation p is two-sided; F1 less what the controls explain is permuted within each seed (Freedman and Lane 1983).
    """
    for seed, own in points.groupby("seed", sort=False):
        yield _correlation(own, str(seed), [])
    if points["seed"].nunique() > 1:
        yield _correlation(points, "all seeds", ["seed"])
        yield _correlation(points, "given both shares", ["seed", "paired", "alone"])
        yield _correlation(points, "given both shares and the language", ["seed", "paired", "alone", "language"])


def _correlation(points: pd.DataFrame, name: str, controls: Sequence[str]) -> dict[str, Any]:
    columns = [np.empty((len(points), 0))]
    for control in controls:
        if points[control].dtype == float:
            columns.append(points[[control]].to_numpy())
        else:
            columns.append(pd.get_dummies(points[control], drop_first=True).to_numpy(dtype=float))
    held = np.concatenate(columns, axis=1)
    x, y = points["accuracy"].to_numpy(), points["f1"].to_numpy()
    observed = partial_correlation(x, y, held)
    design = np.column_stack([np.ones(len(y)), held])
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    # Only what the controls leave of x matters, and what they leave of the permuted residuals.
    annihilator = np.eye(len(y)) - design @ np.linalg.pinv(design)
    left = annihilator @ x
    random = np.random.default_rng(0)
    seeds = points["seed"].to_numpy()
    beyond = 0
    for _ in range(PERMUTATIONS):
        drawn = y - fitted
        for seed in np.unique(seeds):
            drawn[seeds == seed] = random.permutation(drawn[seeds == seed])
        drawn = annihilator @ drawn
        r = left @ drawn / np.sqrt((left @ left) * (drawn @ drawn))
        beyond += abs(r) >= abs(observed.r) - 1e-12
    return {
        "": name,
        "n": len(points),
        "r": round(observed.r, 2),
        "permutation p": f"{(beyond + 1) / (PERMUTATIONS + 1):.4f}",
    }


def changes(runs: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Accuracy by layer across scripts after each training, less the base's: mean over seeds, the least and the largest."""
    names = ("tuned", *(f"aligned-{place}" for place in PLACES), "shuffled", "language-model", "tuned-aligned")
    for name in names:
        rows = []
        for folder in runs.values():
            if (folder / name / "summary.json").exists():
                _, means, after, bootstrap = sums(folder / name)
                before = sums(folder / "base-test")[2]
                place = means.names.index("cross_script")
                every = means.directions[place] * bootstrap.sentences
                rows.append(
                    [(after[layer][place] - before[layer][place]).sum() / every for layer in range(Settings.blocks + 1)]
                )
        if rows:
            grid = 100 * np.array(rows)
            told = [
                f"{m:+.1f} ({low:+.1f} to {high:+.1f})"
                for m, low, high in zip(grid.mean(0), grid.min(0), grid.max(0), strict=True)
            ]
            yield {"": name, "seeds": len(rows), **{f"layer {layer}": each for layer, each in enumerate(told)}}


def slot_gains(runs: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """F1 of supervised, transfer and aligned languages, fine-tuned alone and with alignment."""
    for name, folder in runs.items():
        row: dict[str, Any] = {"seed": name}
        for kind in ("tuned", "tuned-aligned"):
            scores = folder / f"{kind}-scores" / "metrics.csv"
            if not scores.exists():
                return
            f1 = pd.read_csv(scores).query("metric == 'strict-f1'").set_index("language")["value"]
            aligned = [path.name.split(".")[1].split("-")[0] for path in sorted((folder / "pairs").glob("*.eng_Latn"))]
            groups = {
                "supervised": SUPERVISED,
                "transfer": [c for c in LANGUAGES if c not in SUPERVISED],
                "aligned": aligned,
            }
            row |= {f"{group}, {kind}": round(float(f1[list(codes)].mean()), 1) for group, codes in groups.items()}
        yield row


def curve_rows(folder: Path, name: str) -> pd.DataFrame:
    """What `figures.curves` draws."""
    result, means, hits, bootstrap = sums(folder)
    rows = []
    for key in [*sorted(result.layers), *result.controls]:
        low, high = bootstrap.interval(hits[key], means.directions)
        shares = hits[key].sum(axis=-1) / (means.directions * bootstrap.sentences)
        for place, group in enumerate(means.names):
            layer, series = (key, "layers") if isinstance(key, int) else (np.nan, key)
            rows.append((name, layer, series, group, shares[place], low[place], high[place]))
    return pd.DataFrame(rows, columns=["result", "layer", "series", "group", "accuracy", "low", "high"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
