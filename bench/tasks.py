"""A LoRA adapter trained on each task with real data, its answers beside the base model's, and what retrieval says of the scores.

MASSIVE, ALMA and Universal NER to train on, in the paper's supervised languages; the base and the adapted model answer the
first rows of the test sets in all languages (translation: WMT's, or those of another folder of translations); the base model is
probed on FLORES-200 in the same languages, and its accuracy held against the adapter's scores: `probe correlate`, Figure 1b.
Every step is a `probe` command and is skipped where its result lies in OUT already. Ends in OUT/TASK.csv and a table a metric.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd


class Task(NamedTuple):
    name: str
    metrics: tuple[str, ...]
    """Those that are tabled."""
    train: Path
    trained: str
    """Languages to train on: the paper's, without Icelandic, of which ALMA has only FLORES-200, and without English entities,
    whose training set not every copy of Universal NER holds."""
    test: Path
    probed: str
    """Languages of the retrieval that its scores are held against."""
    tokens: int
    """At most in an answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, hub id or builtin:tiny")
    for name, holds in (
        ("massive", "MASSIVE 1.1"), ("alma", "ALMA, or of other translations to train on"),
        ("wmt", "WMT23, or of other translations to test on"), ("uner", "Universal NER"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=Path, help=f"folder of {holds}")
    parser.add_argument("--tasks", nargs="+", default=["slots", "translation", "entities"])
    parser.add_argument("--langs", help="to answer in: languages, of translation directions; not given: the paper's")
    parser.add_argument("--probed", help="languages of the retrieval; not given: those of the paper's test sets")
    parser.add_argument("--correlated", help="languages of one correlation; not given: one a group of the paper's")
    parser.add_argument("--template", type=Path, help="of entities: another prompt, see probe evaluate")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--limit", type=int, default=200, help="test rows of each language or direction")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, as probe train has it"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    tasks = (
        Task("slots", ("strict-f1", "compat-f1"), given.massive, "ar,en,es,ru,zh", given.massive, "slots20", 64),
        Task("translation", ("bleu", "chrf"), given.alma, "cs,de,ru,zh", given.wmt, "mt9,en", 128),
        Task("entities", ("f1", "strict-f1"), given.uner, "pt,zh", given.uner, "en,pt,zh,da,hr,sk,sr,sv", 192),
    )
    for task in tasks:
        if task.name in given.tasks:
            if None in (task.train, task.test):
                parser.error(f"{task.name} without the folder of its data")
            _run(task, given)


def _run(task: Task, given: argparse.Namespace) -> None:
    out = given.out / task.name
    base, tuned, adapter, store, result = (out / name for name in ("base", "tuned", "adapter", "store", "retrieval"))
    changes = (
        f"model={given.model}", "alternation=task", f"task.name={task.name}", f"task.data={task.train}", f"task.langs={task.trained}",
        f"updates={given.updates}", f"evaluate_every={max(1, given.updates // 2)}", *given.set,
    )  # fmt: skip
    asked: tuple[object, ...] = ("--data", task.test, "--limit", given.limit, "--max-new-tokens", task.tokens)
    if given.langs:
        asked += ("--langs", given.langs)
    if given.template and task.name == "entities":
        asked += ("--template", given.template)
        changes += (f"task.template={given.template}",)
    _probe("train", "--recipe", "align", *(part for each in changes for part in ("--set", each)), "--out", adapter)
    for scores, more in ((base, ()), (tuned, ("--adapter", adapter))):
        _probe("evaluate", "--task", task.name, "--model", given.model, *more, *asked, "--out", scores)
    tables = {metric: _scores([base, tuned], metric) for metric in task.metrics}
    pd.concat(tables, names=["metric"]).to_csv(given.out / f"{task.name}.csv")
    for metric, table in tables.items():
        print(f"\n**{task.name}, {metric}, the first {given.limit} test rows of each**\n")
        print("| | base | tuned |\n|---|---|---|")
        for name, own in table.iterrows():
            told = ("{:.1f} ({:.1f} to {:.1f})".format(*own[model]) for model in ("base", "tuned"))
            print(f"| {name} | {' | '.join(told)} |", flush=True)
    probed = given.probed or task.probed
    _probe("extract", "--model", given.model, "--corpus", "flores200", "--langs", probed, "--out", store)
    _probe("retrieve", store, "--out", result)
    over = ("--langs", given.correlated) if given.correlated else ()
    for scores in sorted(tuned.glob("scores*.csv")):
        report, figures = (out / scores.stem.replace("scores", name) for name in ("correlation", "figures"))
        if _probe("correlate", result, "--scores", scores, "--layer", "all", *over, "--out", report, needed=False):
            _probe("figures", result, report, "--out", figures)


def _probe(*arguments: object, needed: bool = True) -> bool:
    """Run a command; whether it was done. One that is not needed may refuse its input: scores that are all alike."""
    print("probe", *arguments, file=sys.stderr)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "probe", *map(str, arguments)]
    done = subprocess.run(command, check=needed, stdout=subprocess.DEVNULL)
    print(f"  {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return done.returncode == 0


def _scores(folders: Sequence[Path], metric: str) -> pd.DataFrame:
    """A row a language or mean; value, low and high in each folder."""
    frames = {folder.name: pd.read_csv(folder / "metrics.csv", index_col="language") for folder in folders}
    columns = ["value", "low", "high"]
    return pd.concat({name: each.loc[each["metric"] == metric, columns] for name, each in frames.items()}, axis=1)


if __name__ == "__main__":
    main()
