"""Alignment of Tatoeba's weakest five languages with English at the bottom, middle and top block, re-probed on FLORES-200.

The paper's Figure 4 at small scale, with its controls: the same pairs shuffled, so that nothing is parallel, and the same
sentences as plain language modelling (for a model with an LM head). Every step is a `probe` command and is skipped where
its result lies in OUT already. Ends in OUT/NAME.csv, OUT/NAME-placement.pdf and .png, and a table.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from align.pairs import read_pairs
from analysis.compare import aligned_masks
from analysis.documents import find_documents
from analysis.resample import Bootstrap, Means, mean_sums
from figures.save import save
from figures.tuned import tuned
from probe.results import RetrievalResult

LANGUAGES = "weakest5"
PAIRS, UPDATES = 64, 300
GROUPS = ("mean", "aligned", "not_aligned", "cross_script")


class Condition(NamedTuple):
    """A way to train; its runs differ in the seed."""

    name: str
    block: int | None
    """None: of language modelling, which has none."""
    changes: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, hub id or builtin:tiny")
    parser.add_argument("--name", required=True, help="what to call it")
    parser.add_argument("--blocks", type=int, nargs=3, required=True, metavar=("BOTTOM", "MIDDLE", "TOP"))
    parser.add_argument("--tatoeba", type=Path, required=True, help="folder of tatoeba.xxx-eng.xxx files")
    parser.add_argument("--language-model", action="store_true", help="the control of plain language modelling too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    out = given.out / given.name
    out.mkdir(parents=True, exist_ok=True)
    base = out / "base"
    if not (base / "summary.json").exists():
        store = str(out / "base-store")
        _probe("extract", "--model", given.model, "--corpus", "flores200", "--langs", "paper35", "--out", store)
        _probe("retrieve", store, "--layers", "all", "--out", str(base))
    conditions = list(_conditions(given.tatoeba, given.blocks, given.language_model, out))
    for seed in given.seeds:
        for condition in conditions:
            _run(condition, seed, given.model, base, out)

    frame = _differences(base, conditions, given.seeds, out)
    frame.to_csv(given.out / f"{given.name}.csv", index=False)
    aligned = frame[frame["model"].str.startswith("block")]
    marks = {
        each.name: (each.block,) for each in conditions if each.block is not None and each.name.startswith("block")
    }
    controls = pd.DataFrame(_controls(base), columns=["control", "group", "accuracy"])
    save(tuned(aligned, controls, given.name, "mean", marks), aligned, given.out / f"{given.name}-placement")
    _print(frame, base)


def _conditions(tatoeba: Path, blocks: Sequence[int], language_model: bool, out: Path) -> Iterator[Condition]:
    for block in blocks:
        yield Condition(f"block {block}", block, (f"align.pairs=[{tatoeba}]", *_alignment(block)))
    middle = blocks[1]
    yield Condition(
        f"shuffled pairs, block {middle}", middle, (f"align.pairs=[{_shuffled(tatoeba, out)}]", *_alignment(middle))
    )
    if language_model:
        texts = _texts(tatoeba, out)
        rows = (f"batch={2 * PAIRS}", f"micro_batch={PAIRS}")  # as many sentences an update
        yield Condition(
            "language modelling", None,
            ("alternation=task", f"task.data={texts / 'train.jsonl'}", f"task.dev={texts / 'dev.jsonl'}", *rows),
        )  # fmt: skip


def _alignment(block: int) -> tuple[str, ...]:
    return (f"align.langs={LANGUAGES}", f"align.layers={block}", f"batch={PAIRS}", f"micro_batch={PAIRS}")


def _shuffled(tatoeba: Path, out: Path) -> Path:
    """The same sentences, each beside another's translation."""
    folder = out / "shuffled"
    folder.mkdir(exist_ok=True)
    for pairs in read_pairs(tatoeba, LANGUAGES):
        name = f"shuffled.{pairs.source}-{pairs.target}"
        targets = list(pairs.targets)
        random.Random(0).shuffle(targets)
        for code, lines in ((pairs.source, pairs.sources), (pairs.target, targets)):
            (folder / f"{name}.{code}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def _texts(tatoeba: Path, out: Path) -> Path:
    """Each sentence of both sides as a text of its own; every tenth pair for development."""
    folder = out / "texts"
    folder.mkdir(exist_ok=True)
    rows: dict[str, list[str]] = {"train": [], "dev": []}
    for pairs in read_pairs(tatoeba, LANGUAGES):
        for number, sides in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
            for text in sides:
                example = {"messages": [{"role": "assistant", "content": text}]}
                rows["train" if number % 10 else "dev"].append(json.dumps(example, ensure_ascii=False) + "\n")
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def _run(condition: Condition, seed: int, model: str, base: Path, out: Path) -> None:
    folder = _folder(condition, seed, out)
    if (folder / "reprobed" / "comparison" / "report.json").exists():
        return
    changes = [f"model={model}", f"updates={UPDATES}", "evaluate_every=100", f"seed={seed}", *condition.changes]
    sets = [part for change in changes for part in ("--set", change)]
    _probe("train", "--recipe", "align", *sets, "--out", str(folder / "adapter"))
    made = ("--model", model, "--adapter", str(folder / "adapter"), "--aligned", LANGUAGES)
    _probe("reprobe", "--base", str(base), *made, "--out", str(folder / "reprobed"))
    shutil.rmtree(folder / "reprobed" / "store")  # 0.4 GB each


def _folder(condition: Condition, seed: int, out: Path) -> Path:
    return out / f"{condition.name.replace(',', '').replace(' ', '-')}-{seed}"


def _probe(*arguments: str) -> None:
    print("probe", *arguments, file=sys.stderr)
    subprocess.run([sys.executable, "-m", "probe", *arguments], check=True, stdout=subprocess.DEVNULL)


def _differences(base: Path, conditions: Sequence[Condition], seeds: Sequence[int], out: Path) -> pd.DataFrame:
    """The mean over seeds beside the base, with the interval of its difference over documents, and each seed's value.

    Hits of all seeds are added up before documents are drawn, so the interval is of the mean over these very seeds.
    """
    before = RetrievalResult.load(base)
    documents = find_documents(before.settings, before.rows, None)
    means = Means.of_groups(before.languages, aligned_masks(LANGUAGES, before.languages))
    bootstrap = Bootstrap.of(documents)
    held = mean_sums(before, documents, means)
    rows = []
    for condition in conditions:
        folders = [_folder(condition, seed, out) / "reprobed" / "result" for seed in seeds]
        runs = [mean_sums(RetrievalResult.load(folder), documents, means) for folder in folders]
        for layer in sorted(before.layers):
            change = sum(run[layer] for run in runs) - len(runs) * held[layer]
            low, high = bootstrap.interval(change, means.directions * len(runs))
            every = means.directions * bootstrap.sentences
            own = held[layer].sum(axis=-1) / every
            single = np.stack([run[layer].sum(axis=-1) for run in runs]) / every
            for place, group in enumerate(means.names):
                if group in GROUPS:
                    values = single[:, place]
                    rows.append(
                        {
                            "model": condition.name, "layer": layer, "group": group, "base": own[place],
                            "other": values.mean(), "difference": values.mean() - own[place], "low": low[place],
                            "high": high[place], **{f"seed {seed}": value for seed, value in zip(seeds, values, strict=True)},
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def _controls(base: Path) -> Iterator[tuple[str, str, float]]:
    result = RetrievalResult.load(base)
    means = Means.of_groups(result.languages)
    for name in result.controls:
        yield name, "mean", means.shares(result.accuracy(name))["mean"]


def _print(frame: pd.DataFrame, base: Path) -> None:
    """Accuracy in percent by layer: the mean over seeds and its extremes; below, differences with their intervals."""
    layers = sorted(frame["layer"].unique())
    seeds = [column for column in frame.columns if column.startswith("seed ")]
    for group in GROUPS:
        own = frame[frame["group"] == group]
        print(f"\n**{group}**\n\n| | " + " | ".join(f"layer {layer}" for layer in layers) + " |")
        print("|---" * (len(layers) + 1) + "|")
        first = own.drop_duplicates("layer").set_index("layer")["base"]
        print("| base | " + " | ".join(f"{100 * first[layer]:.1f}" for layer in layers) + " |")
        for name, rows in own.groupby("model", sort=False):
            cells = []
            for row in rows.sort_values("layer").to_dict("records"):
                low, high = (100 * end([row[seed] for seed in seeds]) for end in (min, max))
                cells.append(f"{100 * row['other']:.1f} ({low:.1f} to {high:.1f})")
            print(f"| {name} | " + " | ".join(cells) + " |")
        for name, rows in own.groupby("model", sort=False):
            cells = [
                "{:+.2f} ({:+.2f} to {:+.2f})".format(
                    *(round(100 * row[part], 2) + 0.0 for part in ("difference", "low", "high"))  # -0.0 becomes 0.0
                )
                for row in rows.sort_values("layer").to_dict("records")
            ]
            print(f"| {name}, difference | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
