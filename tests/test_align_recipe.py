"""Recipes: what is printed can be run, unknown keys and impossible values are refused, every constant has a source."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from align.recipe import as_tree, differences, load_recipe, recipe_from, shown
from data_manifests import recipe_names
from probe.errors import AlignError

GIVEN = ("align.pairs=[pairs]", "task.data=examples.jsonl")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_once_the_data_is_named(name: str) -> None:
    recipe = load_recipe(name, GIVEN)
    assert recipe.align.pairs == ("pairs",)
    assert recipe_from(as_tree(recipe)) == recipe


@pytest.mark.parametrize("name", ["paper-as-written", "paper-as-run"])
def test_the_papers_constants(name: str) -> None:
    recipe = load_recipe(name, GIVEN)
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout) == (8, 16, 0.1)
    assert (recipe.batch, recipe.micro_batch, recipe.lr, recipe.warmup) == (128, 32, 5e-4, 0.03)
    assert (recipe.evaluate_every, recipe.patience, recipe.align.temperature) == (200, 5, 0.1)
    assert recipe.alternation == {"paper-as-written": "per-update", "paper-as-run": "per-microbatch"}[name]


def test_what_is_shown_can_be_run_and_tells_the_sources(tmp_path: Path) -> None:
    recipe = load_recipe("align", ("align.pairs=[a, b]", "align.layers=[1, middle]", "seed=7"))
    path = tmp_path / "mine.yaml"
    path.write_text(shown(recipe))
    assert load_recipe(str(path)) == recipe
    assert "temperature: 0.1  # paper: searched" in path.read_text()
    assert "seed: 7  # set by the recipe" in path.read_text()


def test_every_constant_has_a_source() -> None:
    def check(part: Any) -> int:
        count = 0
        for entry in fields(part):
            value = getattr(part, entry.name)
            count += check(value) if is_dataclass(value) else bool(entry.metadata["source"])
        return count

    assert check(load_recipe("align", GIVEN)) == sum(
        line.count(": ") > 0 and "#" in line for line in shown(load_recipe("align", GIVEN)).splitlines()
    )


def test_values_are_read_as_their_types() -> None:
    recipe = load_recipe(
        "align", (*GIVEN, "lr=1e-3", "clip=1", "align.layers=3", "align.cache_chunk=null", "align.langs=sw,cy")
    )
    assert (recipe.lr, recipe.clip, recipe.align.layers, recipe.align.cache_chunk) == (1e-3, 1.0, (3,), None)
    assert recipe.align.langs == "sw,cy"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("align.temprature=1", "did you mean temperature"),
        ("temperature=1", "temperature in the recipe"),
        ("align.temperature=0", r"align.temperature: 0.0; expected more than 0"),
        ("align.temperature=-1", "more than 0"),
        ("align.temperature=hot", "expected a number"),
        ("micro_batch=1", "one pair has no negatives"),
        ("align.layers=[]", "at least one block"),
        ("alternation=sometimes", "one of per-update"),
        ("align.direction=both", "one-way, symmetric"),
        ("align.stop_gradient=1", "true or false"),
        ("align=3", "keys and values"),
        ("lora.r=8.5", "a whole number"),
        ("warmup=3", "shares in 0..1"),
        ("warmup=0", "the time scale of the decay"),
        ("updates", "key=value"),
        ("lr=nan", "more than 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change: str, told: str) -> None:
    with pytest.raises(AlignError, match=told) as refused:
        load_recipe("align", (*GIVEN, change))
    assert "\n" not in str(refused.value)


def test_objectives_need_their_data() -> None:
    """Which a recipe need not name to be shown."""
    with pytest.raises(AlignError, match=r"alternation joint without task\.data"):
        load_recipe("align", ("align.pairs=[a]", "alternation=joint")).require_data()
    with pytest.raises(AlignError, match=r"without align\.pairs"):
        load_recipe("align").require_data()
    load_recipe("align", ("alternation=task", "task.data=a.jsonl")).require_data()
    load_recipe("align", ("align.pairs=[a]",)).require_data()


@pytest.mark.parametrize(("text", "told"), [("- a", "holds list"), ("a: [", "YAML"), ("", "holds NoneType")])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(AlignError, match=told):
        load_recipe(str(path))
    with pytest.raises(AlignError, match="no recipe 'absent'"):
        load_recipe("absent")


def test_differences_are_named() -> None:
    one = as_tree(load_recipe("align", GIVEN))
    other = as_tree(load_recipe("align", (*GIVEN, "align.temperature=0.5", "seed=2")))
    assert differences(one, other) == ["align.temperature (0.1, now 0.5)", "seed (1, now 2)"]
    assert differences(one, one) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("task.name=slots", "task.rows=0"), "task.rows: 0"),
        (("align.rows=-1",), "align.rows: -1"),
        (("task.rows=5",), "of a jsonl file"),
        (("task.name=translation", "task.dev_rows=5"), "task.dev_rows: 5 of translation"),
    ],
)
def test_rows_of_small_runs_are_checked(changes: tuple[str, ...], told: str) -> None:
    with pytest.raises(AlignError, match=told):
        load_recipe("align", changes)
