"""The figure that ends a reproduction: what training did to the curve of a model, the mean over seeds beside the base."""

from __future__ import annotations

import shutil
from pathlib import Path

from analysis.seeds import over_seeds
from figures.save import save
from figures.tuned import tuned
from probe.layers import places
from probe.results import RetrievalResult
from probe.steps import Steps


def draw_reproduced(steps: Steps, out: Path) -> list[Path]:
    """What a recipe's `figure` names: `copy` of the figures that a step drew (of each seed), or `tuned`, a result over systems
    beside a base.

    Returns:
        The files written; none where the recipe has no figure, or where what it would show was refused.
    """
    plan, spec = steps.plan, steps.plan.recipe.get("figure")
    if spec is None:
        return []
    if "copy" in spec:
        drawn = {step.id: step for system in plan.systems for step in plan.instances(spec["copy"], system)}
        out.mkdir(parents=True, exist_ok=True)
        return sorted(
            Path(shutil.copy(path, out / (path.name if step.seed is None else f"seed{step.seed}-{path.name}")))
            for step in drawn.values()
            if step.id not in steps.refused
            for path in steps.folder(step.id).iterdir()
        )
    base = steps.folder(plan.instances(spec["tuned"], spec["base"])[0].id)
    runs = {
        system: [RetrievalResult.load(steps.folder(step.id)) for step in plan.instances(spec["tuned"], system)]
        for system in plan.systems
        if system != spec["base"]
    }
    layers, controls = over_seeds(RetrievalResult.load(base), runs, spec.get("langs"))
    named = places(int(layers["layer"].max()))
    marks = {system: [named[own["layers"]]] for system, own in plan.systems.items() if own.get("layers") in named}
    return save(tuned(layers, controls, spec["base"], marks=marks), layers, out / plan.name)
