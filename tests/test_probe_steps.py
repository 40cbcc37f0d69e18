"""Recipes as steps: expansion over systems and seeds, the cache, resuming, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import probe.steps
from align.recipe import load_recipe
from data_manifests.published import published_tables
from data_manifests.reproduction import reproduction, reproduction_names
from probe.cli import _costs, _parsed
from probe.errors import ProbeError
from probe.steps import Plan, Steps, make_plan
from probe.store import locked

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"

TOY: dict[str, Any] = {
    "title": "Toy",
    "table": "2",
    "systems": {"base": {}, "tuned": {"objective": "task"}},
    "steps": {
        "adapter": {
            "run": "train --set model={model} --set kind={objective} --set seed={seed} --out {out}",
            "systems": ["tuned"],
        },
        "store": {
            "run": "extract --model {model} --adapter {adapter?} --limit {sentences} --out {out}",
            "keep": False,
        },
        "result": "retrieve {store} --out {out}",
        "summary": "compare {result} --draws {draws} --out {out}",
    },
    "columns": {},
}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """The plan of a recipe of our own: `toy("sentences=5", steps={...})`."""

    def planned(*changes: str, seeds: int = 2, **parts: Any) -> Plan:
        monkeypatch.setattr(probe.steps, "reproduction_names", lambda: ("toy",))
        monkeypatch.setattr(probe.steps, "reproduction", lambda name: {**TOY, **parts})
        return make_plan("toy", "builtin:tiny", seeds, "small", changes)

    return planned


class Commands:
    """Stands for the commands: writes the words into the folder after --out; refuses or dies where it is told to."""

    def __init__(self, fault: Mapping[str, BaseException] | None = None) -> None:
        self.done: list[str] = []
        self.fault = dict(fault or {})

    def __call__(self, words: list[str]) -> None:
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / "half").touch()
        if words[0] in self.fault:
            raise self.fault[words[0]]
        for word in words[1:]:
            if "/steps/" in word and word != str(out):
                assert (Path(word) / "words").exists(), f"{word} is read before it is there"
        (out / "words").write_text(" ".join(words), encoding="utf-8")
        self.done.append(words[0])


def test_a_step_is_expanded_over_what_it_depends_on_through_others(toy: Callable[..., Plan]) -> None:
    plan = toy()
    assert set(plan.steps) == {
        "adapter/tuned/1", "adapter/tuned/2", "store/base", "store/tuned/1", "store/tuned/2", "result/base", "result/tuned/1",
        "result/tuned/2", "summary/base", "summary/tuned/1", "summary/tuned/2",
    }  # fmt: skip
    words = plan.command(plan.steps["store/base"], str)
    assert words == ["extract", "--model", "builtin:tiny", "--limit", "500", "--out", "store/base"]  # no adapter
    assert plan.command(plan.steps["store/tuned/2"], str)[3:5] == ["--adapter", "adapter/tuned/2"]
    assert plan.command(plan.steps["adapter/tuned/2"], str)[3:7] == ["--set", "kind=task", "--set", "seed=2"]
    assert {"sentences", "draws"} == set(plan.used)


def test_what_is_finished_is_not_done_again_and_a_change_redoes_what_depends_on_it(
    toy: Callable[..., Plan], tmp_path: Path
) -> None:
    first, again, other, changed = Commands(), Commands(), Commands(), Commands()
    Steps(toy(), tmp_path, "model").run(first)
    assert len(first.done) == 11
    Steps(toy(), tmp_path, "model").run(again)
    assert again.done == []
    Steps(toy("draws=7"), tmp_path, "model").run(changed)
    assert changed.done == ["compare"] * 3
    Steps(toy(), tmp_path, "another model").run(other)
    assert len(other.done) == 11


def test_what_is_not_kept_goes_when_it_was_used_and_is_made_again_only_where_it_is_needed(
    toy: Callable[..., Plan], tmp_path: Path
) -> None:
    steps = Steps(toy(seeds=1), tmp_path, "model")
    steps.run(Commands())
    assert not steps.folder("store/base").exists()
    assert steps.folder("result/base").exists()
    (steps.folder("result/base") / "words").unlink()
    steps.folder("result/base").with_suffix(".json").unlink()
    needed = Commands()
    Steps(toy(seeds=1), tmp_path, "model").run(needed)
    assert needed.done == ["extract", "retrieve"]


def test_a_killed_run_goes_on_and_only_commands_that_resume_find_their_half_files(
    toy: Callable[..., Plan], tmp_path: Path
) -> None:
    steps = Steps(toy(seeds=1), tmp_path, "model")
    with pytest.raises(KeyboardInterrupt):
        steps.run(Commands({"retrieve": KeyboardInterrupt()}))
    half = steps.folder("result/base") / "half"
    assert half.exists()
    found: list[tuple[str, bool]] = []
    commands = Commands()

    def looking(words: list[str]) -> None:
        found.append((words[0], (Path(words[-1]) / "half").exists()))
        commands(words)

    with pytest.raises(KeyboardInterrupt):
        Steps(toy(seeds=1), tmp_path, "model").run(Commands({"compare": KeyboardInterrupt()}))
    Steps(toy(seeds=1), tmp_path, "model").run(looking)
    assert ("compare", False) in found
    assert ("compare", True) not in found  # it begins anew, in an empty folder
    assert commands.done.count("compare") == 2
    assert "adapter" not in commands.done


def test_a_refusal_stops_all_but_leaves_what_is_finished_and_an_optional_step_is_told(
    toy: Callable[..., Plan], tmp_path: Path
) -> None:
    refused = ProbeError("scores that are all alike", "scores that differ", "give others")
    steps = Steps(toy(seeds=1), tmp_path, "model")
    with pytest.raises(ProbeError, match="all alike"):
        steps.run(Commands({"compare": refused}))
    assert steps.record("result/base") is not None
    optional = {**TOY["steps"], "summary": {"run": TOY["steps"]["summary"], "optional": True}}
    steps = Steps(toy(seeds=1, steps=optional), tmp_path, "model")
    steps.run(Commands({"compare": refused}))
    assert set(steps.refused) == {"summary/base", "summary/tuned/1"}
    assert steps.record("result/tuned/1") is not None


def test_a_record_that_is_cut_or_of_a_folder_that_is_gone_counts_for_nothing(
    toy: Callable[..., Plan], tmp_path: Path
) -> None:
    steps = Steps(toy(seeds=1), tmp_path, "model")
    steps.run(Commands())
    record = steps.folder("adapter/tuned/1").with_suffix(".json")
    record.write_text(record.read_text(encoding="utf-8")[:20], encoding="utf-8")
    assert steps.record("adapter/tuned/1") is None
    assert steps.record("store/base") is None


def test_data_are_known_by_their_content_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for place, text in (("a", "one\n"), ("b", "one\n"), ("c", "two\n")):
        for name in ("flores200/dev", "massive", "tatoeba"):
            (tmp_path / place / name).mkdir(parents=True)
        (tmp_path / place / "massive" / "en-US.jsonl").write_text(text, encoding="utf-8")
        monkeypatch.setenv("MIDPROBE_DATA", str(tmp_path / place))
        digests.append(make_plan("table2-slots", "builtin:tiny", 1, "paper").digests("model"))
    assert digests[0] == digests[1]
    differ = {step.partition("/")[0] for step in digests[0] if digests[0][step] != digests[2][step]}
    assert differ == {"adapter", "scores", "store", "result"}
    assert digests[0]["result/zero-shot"] == digests[2]["result/zero-shot"]  # it reads FLORES alone


def test_another_version_and_another_published_adapter_are_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("published-adapters", LLAMA, 1, "paper")
    names = [
        f"danniliu/Meta-Llama-3-8B-Instruct-{task}-{tag}-LoRA"
        for task in ("SF", "MT")
        for tag in ("baseline", "mid-align")
    ]
    assert sorted(plan.adapters) == sorted(names)
    first = plan.digests("model", dict.fromkeys(names, "one"))
    second = plan.digests("model", {**dict.fromkeys(names, "one"), names[0]: "two"})
    assert {step for step in first if first[step] != second[step]} == {"slots-store/sft", "slots/sft"}
    monkeypatch.setattr(probe.steps, "versions", lambda: {"midprobe": "another"})
    assert not set(first.values()) & set(plan.digests("model", dict.fromkeys(names, "one")).values())


def test_a_folder_in_which_another_process_works_is_refused(toy: Callable[..., Plan], tmp_path: Path) -> None:
    steps = Steps(toy(), tmp_path, "model")
    with (
        locked(tmp_path / "steps", "the other"),
        pytest.raises(ProbeError, match=r"written by another process.*another --out"),
    ):
        steps.run(Commands())
    steps.run(Commands())


def test_an_optional_setting_that_is_null_leaves_out_its_words() -> None:
    def words(*changes: str) -> list[str]:
        plan = make_plan("table2-mt", LLAMA, 1, "paper", changes)
        return plan.command(plan.steps["scores/sft/1"], str)

    assert "--comet-python" not in words()
    assert words("comet_python=/opt/comet/bin/python")[-2:] == ["--comet-python", "/opt/comet/bin/python"]


def test_recipes_share_their_steps() -> None:
    plans = [
        make_plan(name, LLAMA, 1, "paper").digests("model") for name in ("table2-slots", "table3", "table5", "fig4")
    ]
    tables, placement, levels, curves = plans
    assert tables["scores/sft/1"] == placement["scores/sft/1"] == levels["scores/sft/1"]
    assert tables["adapter/align/1"] == placement["adapter/align-middle/1"] == levels["adapter/align-low/1"]
    assert tables["adapter/align/1"] == curves["adapter/middle/1"]
    assert tables["result/align/1"] == curves["result/middle/1"]
    bases = {"fig1a": "", "fig1b": "", "fig3": "/base", "fig4": "/base", "table2-slots": "/zero-shot", "table2-mt": "/zero-shot",
             "table6": "/zero-shot", "zero-shot": "", "published-adapters": "/zero-shot"}  # fmt: skip
    held = {
        make_plan(name, LLAMA, 1, "paper").digests("model")[f"{'slots' if 'adapters' in name else 'result'}{system}"]
        for name, system in bases.items()
    }
    assert len(held) == 1
    tried, translated = (make_plan(name, LLAMA, 1, "paper").digests("model") for name in ("temperature", "table2-mt"))
    assert tried["mt-adapter/0.1/1"] == translated["mt-adapter/align/1"]


# Every recipe


@pytest.mark.parametrize("name", reproduction_names())
@pytest.mark.parametrize("chosen", ["paper", "paper-as-written", "small"])
def test_every_recipe_is_a_plan_whose_commands_take_their_words(name: str, chosen: str) -> None:
    from align.estimate import structure

    plan = make_plan(name, LLAMA, 2, chosen)
    assert all(need in plan.steps for step in plan.steps.values() for need in step.needs)
    assert len(_costs(plan, structure(LLAMA))) == sum(
        not step.words[0].startswith("python") for step in plan.steps.values()
    )
    sources = [spec["from"] for spec in plan.recipe["columns"].values()]
    named = {each for source in sources for each in ([source] if isinstance(source, str) else source)}
    assert named <= set(plan.recipe["steps"])
    assert not [word for step in plan.steps.values() for word in plan.command(step, str) if "{" in word]


@pytest.mark.parametrize("name", reproduction_names())
def test_columns_that_share_a_name_with_the_papers_are_beside_its_numbers(name: str) -> None:
    recipe = reproduction(name)
    table = published_tables().get(recipe["table"])
    if table is None:
        assert recipe["table"] == ""  # a figure, or a search without a table
        return
    assert {row.system for row in table.rows} & set(recipe["systems"])
    assert "each" in str(recipe["columns"]) or set(table.columns) & set(recipe["columns"])


def test_the_papers_constants_are_exact_and_both_alternations_have_names() -> None:
    def of(chosen: str, step: str) -> Any:
        plan = make_plan("table2-slots", LLAMA, 1, chosen)
        name, options = _parsed(plan.command(plan.steps[step], str))
        assert name == "train"
        return load_recipe(options["recipe"], options["changes"])

    run, written, tuned = (
        of("paper", "adapter/align/1"),
        of("paper-as-written", "adapter/align/1"),
        of("paper", "adapter/sft/1"),
    )
    assert (run.alternation, written.alternation, tuned.alternation) == ("per-microbatch", "per-update", "task")
    assert (run.batch, run.micro_batch, run.lr, run.warmup, run.seed) == (128, 32, 5e-4, 0.03, 1)
    assert (run.lora.r, run.lora.alpha, run.lora.dropout) == (8, 16, 0.1)
    assert (run.evaluate_every, run.patience, run.updates, tuned.updates) == (200, 5, 4500, 2250)
    assert (run.align.temperature, run.align.direction, run.align.layers) == (0.1, "one-way", ("middle",))
    assert (run.task.rows, run.task.dev_rows, run.task.style) == (None, None, "as-run")
    assert replace(written, alternation=run.alternation, task=run.task) == run
    qwen = make_plan("table2-slots", "Qwen/Qwen2.5-7B-Instruct", 1, "paper")
    assert qwen.constants["temperature"] == 1.5


# What is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("table99",), "no recipe 'table99'"),
        (("fig1a", "--model", "builtin:huge"), "no embedded model"),
        (("fig1a", "--model", "nobody/nothing"), "nobody/nothing"),
        (("fig1a", "--seeds", "0"), "--seeds 0"),
        (("fig1a", "--set", "sentence=5"), "--set sentence=5"),
        (("fig1a", "--constants", "large"), "--constants large"),
        (("published-adapters",), "published-adapters with builtin:lab"),
        (("table2-slots",), "no tatoeba for table2-slots"),
    ],
)
def test_bad_input_is_one_line(run_probe: Any, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = run_probe("reproduce", *words, env={"MIDPROBE_DATA": str(tmp_path / "none")})
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("probe: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "reproduction").exists()


def test_a_dry_run_needs_no_data_and_no_weights(run_probe: Any, tmp_path: Path) -> None:
    done = run_probe(
        "reproduce", "table2-slots", "--model", LLAMA, "--dry-run", "--json", env={"MIDPROBE_DATA": str(tmp_path)}
    )
    plan = json.loads(done.stdout)
    assert (plan["constants"], plan["seeds"]) == ("paper", [1, 2, 3])
    assert 1 < plan["gpu_hours"] < 100
    assert "not found" in plan["data"]["massive"]
    assert [*tmp_path.iterdir()] == []


def test_of_steps_alike_a_plan_names_one(run_probe: Any, tmp_path: Path) -> None:
    done = run_probe(
        "reproduce",
        "table7",
        "--model",
        LLAMA,
        "--seeds",
        "1",
        "--dry-run",
        "--json",
        env={"MIDPROBE_DATA": str(tmp_path)},
    )
    plan = json.loads(done.stdout)
    commands = {step["step"]: step["command"].split() for step in plan["steps"]}
    assert "adapter/merge/1" not in commands  # it is that of fine-tuning alone
    assert commands["merged/merge/1"][1:3] == ["OUT/adapter/sft/1", "OUT/alignment/1"]
    used = {word.removeprefix("OUT/") for words in commands.values() for word in words if word.startswith("OUT/")}
    assert used == set(commands)
    assert set(plan["unstated"]) == {"align_updates", "tokens"}


def test_a_recipe_runs_to_its_table_and_figure_and_again_does_nothing(run_probe: Any, tmp_path: Path) -> None:
    words = ("reproduce", "fig1a", "--model", "builtin:tiny", "--seeds", "1", "--out", str(tmp_path / "out"), "--json")
    words += tuple(
        word
        for each in ("corpus=everyday", "split=dev", "probed=cy,de,en,es,sw,zh", "sentences=12")
        for word in ("--set", each)
    )
    first = run_probe(*words)
    assert [line.split(":")[0] for line in first.stderr.splitlines() if ": probe " in line] == [
        "store",
        "result",
        "best",
        "drawn",
    ]
    report = json.loads(first.stdout)
    cells = {row["quantity"]: row for row in report["tables"]["beside"]}
    assert cells["aggregate, all languages"]["says"] == "below 50"
    assert cells["retrieval-slots20"]["paper"] == 39.1
    assert 0 <= cells["retrieval-slots20"]["ours"] <= 100
    assert "corpus everyday (paper flores200)" in (tmp_path / "out" / "fig1a" / "beside.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "fig1a" / "figures" / "curves.png").is_file()
    assert not [*(tmp_path / "out" / "steps").glob("store-*/*")]
    again = run_probe(*words)
    assert ": probe " not in again.stderr
    assert again.stdout == first.stdout
