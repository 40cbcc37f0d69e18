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
from scipy.stats import t
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
    for probe in ("base-test", "base-dev", "base-flores"):
        held = {name: folder / probe for name, folder in runs.items() if (folder / probe / "summary.json").exists()}
        for group in GROUPS if held else ():
            print(f"\n### {probe}: accuracy by layer in %, {group}\n\n{table(list(peaks(held, group)))}")
    print(f"\n### By rows beside translations\n\n{table(list(levels(given.models, runs)))}")
    points = transfer_points(given.models, runs)
    if len(points):
        print(f"\n### Does accuracy at the middle predict transfer F1?\n\n{table(list(correlations(points)))}")
    for told, with_aligned in (("touch an aligned language", True), ("touch none", False)):
        print(f"\n### After training, directions that {told}\n\n{table(list(changes(runs, with_aligned)))}")
    print(f"\n### Slot F1, strict, in %\n\n{table(list(slot_gains(runs)))}")
    if given.figure:
        frame = pd.concat(curve_rows(folder / "base-test", name) for name, folder in runs.items())
        save(curves(frame, GROUPS), frame, given.figure)


def sums(folder: Path) -> tuple[RetrievalResult, Means, dict[int | str, np.ndarray], Bootstrap]:
    result = RetrievalResult.load(folder)
    documents = find_documents(result.settings, result.rows, None)
    means = Means.of_groups(result.languages)
    return result, means, mean_sums(result, documents, means), Bootstrap.of(documents, 2000)


def peaks(probes: dict[str, Path], group: str) -> Iterator[dict[str, Any]]:
    """Of each base: its curve, its best layer, and how far that is above the first, the last, the controls."""
    for name, folder in probes.items():
        result, means, hits, bootstrap = sums(folder)
        place = means.names.index(group)
        directions = means.directions[place]
        layers = sorted(result.layers)
        best = max(layers, key=lambda layer: hits[layer][place].sum())
        share = {key: float(own[place].sum() / (directions * bootstrap.sentences)) for key, own in hits.items()}
        row: dict[str, Any] = {"seed": name, "best layer": best}
        row |= {f"layer {layer}": _percent(share[layer]) for layer in layers}
        row |= {control: _percent(share[control]) for control in ("char",) if control in share}
        untrained = folder.parent / "untrained"
        if folder.name == "base-test" and (untrained / "summary.json").exists():
            own = sums(untrained)[2]
            row["untrained, best"] = _percent(
                max(own[layer][place].sum() for layer in layers) / (directions * bootstrap.sentences)
            )
        for label, other in (("first", layers[0]), ("last", layers[-1]), ("char", "char")):
            if other in share:
                low, high = bootstrap.interval(hits[best][place] - hits[other][place], directions)
                told = f"{_percent(share[best] - share[other])} ({_percent(low)} to {_percent(high)})"
                row[f"above {label}"] = told
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


TRAININGS = ("tuned", *(f"aligned-{place}" for place in PLACES), "shuffled", "language-model", "tuned-aligned")


def changes(runs: dict[str, Path], with_aligned: bool) -> Iterator[dict[str, Any]]:
    """Accuracy by layer of the base, then what each training changes in it, over the directions that touch an aligned
    language or over the others: mean over seeds, least and largest; at the middle the 95 % t interval of the mean too."""
    grids: dict[str, list[list[float]]] = {"base": [], **{name: [] for name in TRAININGS}}
    for folder in runs.values():
        if not (folder / "pairs").exists():
            continue
        before = _by_layer(folder, "base-test", with_aligned)
        grids["base"].append(before)
        for name in TRAININGS:
            if (folder / name / "summary.json").exists():
                after = _by_layer(folder, name, with_aligned)
                grids[name].append([new - old for new, old in zip(after, before, strict=True)])
    for name, rows in grids.items():
        if rows:
            grid = 100 * np.array(rows)
            sign = "" if name == "base" else "+"
            row: dict[str, Any] = {"": name, "seeds": len(rows)}
            for layer, own in enumerate(grid.T):
                row[f"layer {layer}"] = f"{own.mean():{sign}.1f} ({own.min():{sign}.1f} to {own.max():{sign}.1f})"
            yield row | {"layer 3, 95 % over seeds": _interval(grid[:, Settings.middle])}


def aligned_languages(folder: Path) -> list[str]:
    """Those that the study aligned with English."""
    return [path.name.split(".")[1].split("-")[0] for path in sorted((folder / "pairs").glob("*.eng_Latn"))]


def _by_layer(folder: Path, name: str, with_aligned: bool) -> list[float]:
    result = RetrievalResult.load(folder / name)
    aligned = np.isin(result.languages, aligned_languages(folder))
    chosen = (aligned[:, None] | aligned) == with_aligned
    np.fill_diagonal(chosen, False)
    return [float(result.accuracy(layer)[chosen].mean()) for layer in sorted(result.layers)]


def _interval(values: np.ndarray) -> str:
    if len(values) < 2:
        return ""
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return f"{values.mean() - half:.1f} to {values.mean() + half:.1f}"


def slot_gains(runs: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """F1 of supervised, transfer and aligned languages, fine-tuned alone and with alignment; and over seeds what that changes."""
    gains: dict[str, list[float]] = {}
    for name, folder in runs.items():
        row: dict[str, Any] = {"seed": name}
        means: dict[str, dict[str, float]] = {}
        for kind in ("tuned", "tuned-aligned"):
            scores = folder / f"{kind}-scores" / "metrics.csv"
            if not scores.exists():
                return
            f1 = pd.read_csv(scores).query("metric == 'strict-f1'").set_index("language")["value"]
            aligned = aligned_languages(folder)
            groups = {
                "supervised": SUPERVISED,
                "aligned": aligned,
                "transfer, not aligned": [c for c in LANGUAGES if c not in (*SUPERVISED, *aligned)],
            }
            means[kind] = {group: float(f1[list(codes)].mean()) for group, codes in groups.items()}
        for group, before in means["tuned"].items():
            after = means["tuned-aligned"][group]
            row[group] = f"{before:.1f} -> {after:.1f}"
            gains.setdefault(group, []).append(after - before)
        yield row
    if gains:
        yield {"seed": "change, 95 % over seeds"} | {
            group: f"{np.mean(own):+.1f} ({_interval(np.array(own))})" for group, own in gains.items()
        }


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


def _percent(share: Any) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
