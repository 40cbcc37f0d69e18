"""The table that ends a reproduction: what its runs gave, mean and interval over seeds, beside what the paper has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.association import CONFIDENCE
from analysis.report import Report, Table
from analysis.seeds import t_interval
from data_manifests import languages as known_languages
from data_manifests.published import language_groups, model_name, model_short, published_tables, statements
from probe.corpus import resolve_languages
from probe.errors import AnalysisError
from probe.layers import places
from probe.steps import Plan, Steps

_SHOWN = {
    "system": "system", "quantity": "quantity", "ours": "ours", "low": "low", "high": "high", "paper": "paper",
    "says": "paper says",
}  # fmt: skip
_CHANGED = {name: heading for name, heading in _SHOWN.items() if name != "says"} | {"agrees": "same direction"}


def beside(steps: Steps) -> Report:
    """Read every column of every system and seed from the folders of the steps.

    Raises:
        AnalysisError: a file that a step left lacks what a column names.
    """
    plan = steps.plan
    reference = model_short(plan.model) or "llama3"
    notes: dict[str, None] = {}
    runs = [
        {"system": system, "quantity": quantity, "seed": seed, "value": value}
        for system in plan.systems
        for quantity, spec in _columns(plan).items()
        for seed, value in _values(steps, system, quantity, spec, notes).items()
    ]
    every = pd.DataFrame(runs, columns=["system", "quantity", "seed", "value"])
    rows = [
        {"system": system, "quantity": quantity, **_of_runs(every, system, quantity, spec), **_paper(plan, reference, system, quantity, spec)}
        for system in plan.systems
        for quantity, spec in _columns(plan).items()
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    shown = frame[frame[["ours", "paper"]].notna().any(axis=1)]
    header = _header(plan, reference)
    digits = plan.recipe.get("digits", 1)
    tables = {"beside": Table(shown, " ".join(header), _SHOWN, digits=digits)}
    against = plan.recipe.get("against")
    if against is not None:
        changed = _changes(frame, every, against)
        caption = f"Differences from {against}, ours paired by seed. Whether in the same direction is told where low and high leave out 0."
        tables["changes"] = Table(changed, caption, _CHANGED, digits=digits)
    if every["seed"].any():
        tables["runs"] = Table(every, "Every run; seed 0: without training.", digits=digits + 1)
    refused = tuple(f"{step}: {reason}" for step, reason in steps.refused.items())
    remarks = (*plan.recipe.get("notes", ()), *notes, *refused)
    facts = {
        "recipe": plan.name, "model": plan.model, "constants": plan.chosen, "values": dict(plan.constants), "seeds": list(plan.seeds),
        "data": {name: data.told for name, data in plan.data.items()}, "steps": dict(steps.digests),
    }  # fmt: skip
    return Report("reproduction", plan.recipe["title"], tables, remarks, facts)


def mean_of_runs(runs: pd.DataFrame, system: str, quantity: str) -> dict[str, float]:
    """Mean and Student-t interval of 95 % of one cell; no interval of fewer than two runs."""
    own = runs.loc[(runs["system"] == system) & (runs["quantity"] == quantity), "value"].to_numpy(dtype=float)
    own = own[np.isfinite(own)]
    mean = float(own.mean()) if len(own) else np.nan
    low, high = t_interval(own, CONFIDENCE)
    return {"ours": mean, "low": low, "high": high, "seeds": len(own)}


def _of_runs(runs: pd.DataFrame, system: str, quantity: str, spec: Mapping[str, Any]) -> dict[str, float]:
    """The mean; of a column that says `over: largest`, as one of p-values does, the largest run, without an interval."""
    found = mean_of_runs(runs, system, quantity)
    if spec.get("over") != "largest":
        return found
    own = runs.loc[(runs["system"] == system) & (runs["quantity"] == quantity), "value"]
    return found | {"ours": float(own.max()), "low": np.nan, "high": np.nan}


def _changes(frame: pd.DataFrame, runs: pd.DataFrame, against: str) -> pd.DataFrame:
    """The difference of the systems below one of them from it, ours and the paper's, where there are both."""
    every = runs.merge(runs[runs["system"] == against], on=["quantity", "seed"], suffixes=("", "_base"))
    every["value"] -= every["value_base"]
    base = frame[frame["system"] == against].set_index("quantity")["paper"]
    names, rows = list(dict.fromkeys(frame["system"])), []
    for row in frame[frame["system"].isin(names[names.index(against) + 1 :])].itertuples():
        own, paper = mean_of_runs(every, row.system, row.quantity), row.paper - base.get(row.quantity, np.nan)
        if np.isfinite(own["ours"]) and np.isfinite(paper):
            clear = own["low"] > 0 or own["high"] < 0
            agrees = ("yes" if own["ours"] * paper > 0 else "no") if clear and paper else None
            rows.append({"system": row.system, "quantity": row.quantity, **own, "paper": paper, "agrees": agrees})
    return pd.DataFrame(rows, columns=["system", "quantity", "ours", "low", "high", "seeds", "paper", "agrees"])


def _columns(plan: Plan) -> dict[str, dict[str, Any]]:
    """Quantity -> how it is read; one that is meant for each language becomes a column of each."""
    found: dict[str, dict[str, Any]] = {}
    for quantity, spec in plan.recipe["columns"].items():
        if "each" in spec:
            codes = resolve_languages(spec["each"], tuple(known_languages()), "FLORES-200")
            found |= {code: {**spec, "langs": code} for code in codes}
        else:
            found[quantity] = spec
    return found


def _paper(plan: Plan, reference: str, system: str, quantity: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the paper has for a cell: a number of a table or a statement, or words."""
    if "statement" in spec:
        return {"paper": statements()[spec["statement"].format(reference=reference)].value, "says": None}
    table = published_tables().get(spec.get("table", plan.recipe["table"]))
    own = [row for row in table.rows if row.system == system and row.model in (reference, None)] if table else []
    says = spec.get("says") if spec.get("of", system) == system else None
    return {"paper": own[0].values.get(quantity, np.nan) if own else np.nan, "says": says}


def _header(plan: Plan, reference: str) -> list[str]:
    """Whose numbers these are, of which data, settings and seeds."""
    other = [
        f"{key} {plan.constants[key]}"
        + (f" (paper {str(paper).strip('{}')})" if paper is not None and key not in plan.unstated else "")
        for key, paper in plan.used.items()
        if key != "model_name" and plan.constants[key] != paper and "{" not in str(plan.constants[key])
    ]
    settings = f": {', '.join(other)}" if other else ", all of them the paper's"
    seeded = any(step.seed is not None for step in plan.steps.values())
    data = [f"Data: {'; '.join(data.told for data in plan.data.values())}."] if plan.data else []
    told = [
        f"Ours: {plan.model}; the paper's: {model_name(reference)}.",
        *data,
        f"Constants `{plan.chosen}`{settings}.",
    ]
    if plan.unstated and plan.chosen != "small":
        told.append(
            f"The paper does not tell {', '.join(f'{key} ({reason})' for key, reason in plan.unstated.items())}."
        )
    if seeded and len(plan.seeds) > 1:
        told.append(f"Means over {len(plan.seeds)} seeds, low and high their 95 % interval (Student t).")
    elif seeded:
        told.append("One seed, so without an interval over seeds.")
    return told


# Reading a cell


def _values(
    steps: Steps, system: str, quantity: str, spec: Mapping[str, Any], notes: dict[str, None]
) -> dict[int, float]:
    """Seed -> value; seed 0 of what depends on none."""
    before = spec.get("minus")
    found = {}
    names = [spec["from"]] if isinstance(spec["from"], str) else spec["from"]
    for step in [each for name in names for each in steps.plan.instances(name, system)]:
        if step.id in steps.refused:
            continue
        own = _read(steps.folder(step.id), spec, steps.plan, system, quantity, notes)
        if before is not None:
            if system == before:
                continue
            theirs = [each for each in steps.plan.instances(step.name, before) if each.seed in (None, step.seed)]
            base = _read(steps.folder(theirs[0].id), spec, steps.plan, system, quantity, notes)
            own = {label: value - base[label] for label, value in own.items() if label in base}
        values = np.array(list(own.values()), dtype=float)
        if len(values):
            spread = spec.get("spread", False)
            found[step.seed or 0] = float(values.std(ddof=1) if spread else values.mean())
    return found


def _read(
    folder: Path, spec: Mapping[str, Any], plan: Plan, system: str, quantity: str, notes: dict[str, None]
) -> dict[str, float]:
    """Label -> value, in percent where it is a share."""
    try:
        if spec["read"] == "score":
            return _score(folder, spec, plan, system, quantity, notes)
        if spec["read"] == "loss":
            return {"": float(_json(folder / "training.json")["development"][spec["part"]])}
        if spec["read"] == "correlation":
            return _correlation(folder, spec)
        if spec["read"] == "place":
            return {"": _place(_json(folder / "summary.json"))}
        return {"": 100 * _accuracy(folder, spec, quantity, notes)}
    except (OSError, ValueError, KeyError) as error:
        raise AnalysisError(
            f"{folder.name}: {type(error).__name__} {error}",
            f"what the column {quantity} reads",
            "remove the folder and run again",
        ) from error


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _score(
    folder: Path, spec: Mapping[str, Any], plan: Plan, system: str, quantity: str, notes: dict[str, None]
) -> dict[str, float]:
    """Of each language or direction of a group."""
    table = pd.read_csv(folder / "metrics.csv")
    own = table[table["metric"] == spec["metric"]].set_index("language")["value"]
    groups = language_groups(spec.get("task", plan.recipe.get("task", "slots")))
    named = plan.systems[system].get(spec["langs"][1:-1], "") if spec["langs"].startswith("{") else spec["langs"]
    if not named:
        return {}
    wanted = groups[named] if named in groups else resolve_languages(named, tuple(known_languages()), "FLORES-200")
    sides = {"to": ["{}-eng_Latn"], "from": ["eng_Latn-{}"], "both": ["{}-eng_Latn", "eng_Latn-{}"]}.get(
        spec.get("side", ""), ["{}"]
    )
    labels = [side.format(code) for side in sides for code in wanted]
    absent = [label for label in labels if label not in own.index]
    if absent and len(own):
        notes[f"{quantity}: without {', '.join(absent)}, which ours were not asked for or lack."] = None
    return {label: float(own[label]) for label in labels if label in own.index}


def _accuracy(folder: Path, spec: Mapping[str, Any], quantity: str, notes: dict[str, None]) -> float:
    """A share: of a layer, the best one, the paper's aggregate, or a control; over all directions, a group of them, or those among
    some languages."""
    summary, layer, group = _json(folder / "summary.json"), spec["layer"], spec.get("group", "mean")
    if layer in summary["controls"]:
        return float(summary["controls"][layer][group])
    rows = {int(row["layer"]): row[group] for row in summary["layers"]}
    if "langs" in spec:
        directions = pd.read_csv(folder / "accuracy.csv")
        codes = resolve_languages(spec["langs"], tuple(known_languages()), "FLORES-200")
        among = directions[directions[["src", "tgt"]].isin(codes).all(axis=1)]
        rows = dict(among.groupby("layer")["accuracy"].mean())
        if absent := sorted(set(codes) - set(among["src"])):
            notes[f"{quantity}: without {', '.join(absent)}, which ours were not probed in."] = None
    depth = max(rows)
    if layer == "aggregate":
        return float(np.mean([rows[each] for each in range(2, depth + 1, 2)]))
    return float(rows[(places(depth) | {"best": summary["best_layer"]})[layer]])


def _place(summary: Mapping[str, Any]) -> float:
    """The best layer in percent of the depth."""
    return 100 * float(summary["best_layer"]) / max(int(row["layer"]) for row in summary["layers"])


def _correlation(folder: Path, spec: Mapping[str, Any]) -> dict[str, float]:
    """Pearson's r, or its p, of the report's own layer in a group."""
    rows = pd.read_csv(folder / f"{spec['in']}.csv")
    for column, value in spec.get("where", {}).items():
        rows = rows[rows[column].astype(str) == str(value)]
    return {"": float(rows[spec["part"]].iloc[0])} if len(rows) else {}
