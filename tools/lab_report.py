"""The tables and the figure of docs/lab.md, from what `tools/lab_study.py` left in OUT.

python tools/lab_report.py OUT --figure docs/images/lab SEED_FOLDER...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lab_data import LANGUAGES, PAIRED, SUPERVISED
from lab_study import PLACES
from train_lab import Settings

from align.card import table
from analysis.accuracies import language_means
from analysis.association import partial_correlation
from analysis.documents import find_documents
from analysis.resample import Bootstrap, Means, mean_sums
from analysis.seeds import t_interval
from figures.curves import curves
from figures.save import save
from probe.results import RetrievalResult, direction_groups

GROUPS = ("cross_script", "mean")
DIRECTIONS = (
    "an aligned language with English, the trained pairs", "an aligned language with any other", "no aligned language",
    "all across scripts",
)  # fmt: skip
OTHERS = {
    **{f"layer {layer}": layer for layer in range(Settings.blocks + 1) if layer != Settings.middle},
    "`char`": "char",
}
"""What else F1 is set against, beside accuracy at the middle."""
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
    for group in DIRECTIONS:
        print(f"\n### After training: {group}\n\n{table(list(changes(runs, group)))}")
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
    """Of each base: its curve, its best layer, and how far the middle, pooled in training, is above the first layer, the
    last, the controls and the best layer of a random network."""
    for name, folder in probes.items():
        result, means, hits, bootstrap = sums(folder)
        place = means.names.index(group)
        directions = means.directions[place]
        every = directions * bootstrap.sentences
        layers = sorted(result.layers)
        others: dict[str, np.ndarray] = {"first": hits[layers[0]], "last": hits[layers[-1]]}
        if "char" in hits:
            others["char"] = hits["char"]
        if (folder.parent / "untrained" / "summary.json").exists() and folder.name == "base-test":
            random = sums(folder.parent / "untrained")[2]
            others["untrained"] = max((random[layer] for layer in layers), key=lambda own: own[place].sum())
        row: dict[str, Any] = {"seed": name}
        row |= {f"layer {layer}": _percent(hits[layer][place].sum() / every) for layer in layers}
        row |= {
            label: _percent(others[label][place].sum() / every) for label in ("char", "untrained") if label in others
        }
        row["best"] = max(layers, key=lambda layer: hits[layer][place].sum())
        for label, other in others.items():
            lead = hits[Settings.middle][place] - other[place]
            low, high = bootstrap.interval(lead, directions)
            row[f"above {label}"] = f"{_percent(lead.sum() / every)} ({_percent(low)} to {_percent(high)})"
        yield row


def by_language(folder: Path, key: int | str = Settings.middle) -> pd.Series:
    """Accuracy of each language at a layer or of a control, over the directions that touch it."""
    result = loaded(folder)
    return pd.Series(language_means(result.accuracy(key), result.languages), index=list(result.languages))


def levels(models: Sequence[Path], runs: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Mean accuracy at the middle of the languages of each level of paired rows, the supervised ones, which are the same in
    every seed, apart; and over seeds how far the highest level is above the lowest."""
    frames = []
    for model in models:
        shares = json.loads((model / "lab.json").read_text())["shares"]["paired"]
        own = by_language(runs[model.name] / "base-test")
        level = ["supervised" if code in SUPERVISED else f"{shares[code]:,}" for code in own.index]
        frames.append(own.groupby(level).mean().rename(model.name))
    frame = pd.concat(frames, axis=1)
    drawn = [f"{level:,}" for level in sorted(set(PAIRED), reverse=True)]
    for name in ("supervised", *drawn):
        yield {"rows beside translations": name, **{seed: _percent(value) for seed, value in frame.loc[name].items()}}
    lead = 100 * (frame.loc[drawn[0]] - frame.loc[drawn[-1]]).to_numpy()
    yield {"rows beside translations": f"{drawn[0]} less {drawn[-1]}: {lead.mean():.1f}, over seeds {_interval(lead)}"}


def transfer_points(models: Sequence[Path], runs: dict[str, Path]) -> pd.DataFrame:
    """A row a seed and transfer language: accuracy of the base at the middle, at the other layers and of the `char` control, F1
    after fine-tuning, shares."""
    frames = []
    for model in models:
        scores = runs[model.name] / "tuned-scores" / "metrics.csv"
        if not scores.exists():
            continue
        f1 = strict_f1(scores)
        shares = json.loads((model / "lab.json").read_text())["shares"]
        base = runs[model.name] / "base-test"
        own = by_language(base)
        codes = [code for code in LANGUAGES if code not in SUPERVISED]
        others = {other: by_language(base, key)[codes].to_numpy() for other, key in OTHERS.items()}
        frames.append(
            pd.DataFrame(
                {
                    "seed": model.name, "language": codes, "accuracy": own[codes].to_numpy(), "f1": f1[codes].to_numpy(),
                    "paired": [shares["paired"][code] for code in codes],
                    "alone": [shares["alone"][code] for code in codes], **others,
                }
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def strict_f1(metrics: Path) -> pd.Series:
    """In percent, by language."""
    return pd.read_csv(metrics).query("metric == 'strict-f1'").set_index("language")["value"]


def correlations(points: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Accuracy with F1 in each seed alone, then in all with a mean of their own for each seed, given the shares, and given the
    language too: the last allows for a language being easy in itself, which those before, of the same 15 languages in
    every seed, do not. Then what was drawn, the rows beside translations, with each.

    The permutation p is two-sided: what the controls leave of y is permuted within each seed (Freedman and Lane 1983).
    """
    for seed, own in points.groupby("seed", sort=False):
        yield _correlation(own, str(seed), [])
    if points["seed"].nunique() > 1:
        yield _correlation(points, "all seeds", ["seed"])
        yield _correlation(points, "given both shares", ["seed", "paired", "alone"])
        yield _correlation(points, "given both shares and the language", ["seed", "paired", "alone", "language"])
        for other in [name for name in OTHERS if name in points]:
            yield _correlation(points.assign(accuracy=points[other]), f"{other} instead, all seeds", ["seed"])
        drawn = points.assign(accuracy=np.log(points["paired"]))
        yield _correlation(drawn, "log rows beside translations and F1", ["seed"])
        yield _correlation(drawn.assign(f1=points["accuracy"]), "log rows beside translations and accuracy", ["seed"])


def _correlation(points: pd.DataFrame, name: str, controls: Sequence[str]) -> dict[str, Any]:
    groups = [pd.get_dummies(points[each].astype(str), drop_first=True).to_numpy(dtype=float) for each in controls]
    held = np.concatenate([np.empty((len(points), 0)), *groups], axis=1)
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
    ranks = points.groupby("seed")[["accuracy", "f1"]].rank()
    return {
        "": name,
        "n": len(points),
        "r": f"{observed.r:.2f}",
        "permutation p": f"{(beyond + 1) / (PERMUTATIONS + 1):.4f}",
        "r of ranks within seeds": "" if controls not in ([], ["seed"]) else f"{ranks.corr().iloc[0, 1]:.2f}",
    }


TRAININGS = ("tuned", *(f"aligned-{place}" for place in PLACES), "shuffled", "language-model", "tuned-aligned")


def directions(result: RetrievalResult, folder: Path) -> dict[str, np.ndarray]:
    """Groups of directions, `(source, target)` bool each."""
    known = direction_groups(result.languages)
    aligned = np.isin(result.languages, aligned_languages(folder))
    touching = known["mean"] & (aligned[:, None] | aligned)
    trained = touching & (known["to_english"] | known["from_english"])
    return {
        "an aligned language with English, the trained pairs": trained,
        "an aligned language with any other": touching & ~trained,
        "no aligned language": known["mean"] & ~touching,
        "all across scripts": known["cross_script"],
    }


def changes(runs: dict[str, Path], group: str) -> Iterator[dict[str, Any]]:
    """Accuracy by layer of the base, then what each training changes in it, over a group of directions: mean over seeds,
    least and largest; at the middle the 95 % t interval of the mean too."""
    rows: dict[str, list[np.ndarray]] = {"base": [], **{name: [] for name in TRAININGS}}
    for folder in runs.values():
        if not (folder / "pairs").exists():
            continue
        before = _by_layer(folder, "base-test", group)
        rows["base"].append(before)
        for name in TRAININGS:
            if (folder / name / "summary.json").exists():
                rows[name].append(_by_layer(folder, name, group) - before)
    for name, own in rows.items():
        if own:
            grid = np.array(own)
            sign = "" if name == "base" else "+"  # a change has its sign
            row: dict[str, Any] = {"": name, "seeds": len(own)}
            for layer, values in enumerate(grid.T):
                row[f"layer {layer}"] = (
                    f"{values.mean():{sign}.1f} ({values.min():{sign}.1f} to {values.max():{sign}.1f})"
                )
            yield row | {"middle, over seeds": _interval(grid[:, Settings.middle])}


def aligned_languages(folder: Path) -> list[str]:
    """Those that the study aligned with English."""
    return [path.name.split(".")[1].split("-")[0] for path in sorted((folder / "pairs").glob("*.eng_Latn"))]


def trained_groups(folder: Path) -> dict[str, list[str]]:
    """Languages by what they were trained on: slots, pairs, neither."""
    aligned = aligned_languages(folder)
    return {
        "supervised": list(SUPERVISED),
        "aligned": aligned,
        "transfer, not aligned": [code for code in LANGUAGES if code not in (*SUPERVISED, *aligned)],
    }


@cache
def loaded(folder: Path) -> RetrievalResult:
    """Read once for all groups of directions."""
    return RetrievalResult.load(folder)


def _by_layer(folder: Path, name: str, group: str) -> np.ndarray:
    """In percent."""
    result = loaded(folder / name)
    chosen = directions(result, folder)[group]
    return np.array([100 * result.accuracy(layer)[chosen].mean() for layer in sorted(result.layers)])


def _interval(values: np.ndarray) -> str:
    low, high = t_interval(values)
    return f"{low:.1f} to {high:.1f}" if len(values) > 1 else ""


def slot_gains(runs: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """F1 of supervised, transfer and aligned languages, fine-tuned alone and with alignment; and over seeds what that changes."""
    gains: dict[str, list[float]] = {}
    both = ("tuned", "tuned-aligned")
    for name, folder in runs.items():
        if not all((folder / f"{kind}-scores" / "metrics.csv").exists() for kind in both):
            continue
        row: dict[str, Any] = {"seed": name}
        means: dict[str, dict[str, float]] = {}
        for kind in both:
            f1 = strict_f1(folder / f"{kind}-scores" / "metrics.csv")
            means[kind] = {group: float(f1[list(codes)].mean()) for group, codes in trained_groups(folder).items()}
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
