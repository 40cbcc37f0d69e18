"""The commands train, reprobe and merge, as a user runs them: real processes, the built-in model, the embedded corpus."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
from safetensors.torch import load_file

from probe.corpus import ParallelCorpus
from probe.extract import Settings, extract_all
from probe.retrieve import retrieve_all

RunProbe = Callable[..., CompletedProcess[str]]

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def work(tmp_path: Path, toy: ParallelCorpus, everyday: ParallelCorpus) -> Path:
    """Pairs to train on, a task, and the base model's result of four languages."""
    (tmp_path / "pairs").mkdir()
    (tmp_path / "text").mkdir()
    for code in toy.languages:
        (tmp_path / "text" / f"{code}.txt").write_text("".join(f"{line}\n" for line in toy.sentences[code]))
        (tmp_path / "pairs" / f"{code}.txt").write_text("".join(f"{line}\n" for line in everyday.sentences[code][24:]))
    rows = [{"prompt": f"Say it in German: {en}", "response": de} for en, de in zip(everyday.sentences["eng_Latn"][:50], everyday.sentences["deu_Latn"][:50], strict=True)]  # fmt: skip
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:4]))
    settings = Settings("0,2,4", ("mean",), batch_tokens=512)
    store = extract_all("builtin:tiny", toy, tmp_path / "store", settings=settings, dtype="fp32", device="cpu")
    retrieve_all(store, backend="torch", device="cpu", out=tmp_path / "base")
    return tmp_path


def trained(run_probe: RunProbe, name: str, *changes: str) -> CompletedProcess[str]:
    common = ("updates=2", "batch=8", "micro_batch=8", "dtype=fp32", "evaluate_every=2", *changes)
    sets = [part for change in common for part in ("--set", change)]
    return run_probe("train", "--recipe", "align", *sets, "--device", "cpu", "--out", name, env=ONE_THREAD)


def marked(figures: Path) -> list[tuple[str, int]]:
    """Model and block of the triangles on a comparison's curves."""
    drawn = pd.read_csv(figures / "comparison-curves.csv")
    return [(row.model, int(row.block)) for row in drawn[drawn["part"] == "marks"].itertuples()]


def test_a_trained_adapter_is_probed_as_the_base_was_and_compared(run_probe: RunProbe, work: Path) -> None:
    done = trained(run_probe, "aligned", "align.pairs=[pairs]", "lr=0.05")
    assert done.returncode == 0, done.stderr
    assert "aligned at block 2, best at update 2 of 2, development loss align" in done.stdout
    assert "pairs to train on: arb_Arab-eng_Latn" in done.stderr
    assert "nothing is trained" in trained(run_probe, "aligned", "align.pairs=[pairs]", "lr=0.05").stderr
    other = trained(run_probe, "aligned", "align.pairs=[pairs]", "lr=0.06")
    assert (other.returncode, other.stderr.count("\n")) == (2, 1), "only that it is another recipe"
    command = ("reprobe", "--base", "base", "--adapter", "aligned", "--corpus", "text", "--backend", "torch")
    first = run_probe(*command, "--device", "cpu", "--draws", "200", "--out", "again", "--json", env=ONE_THREAD)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told["kind"] == "comparison"
    assert told["facts"]["differs"]["aligned"].keys() >= {"model.adapter"}
    again = work / "again"
    base, other = (json.loads((folder / "summary.json").read_text()) for folder in (work / "base", again / "result"))
    assert [row["layer"] for row in other["layers"]] == [0, 2, 4]
    assert other["layers"][0] == base["layers"][0], "the embeddings are not trained"
    assert other["layers"][1] != base["layers"][1]
    for key in ("k", "margin", "pooling", "final_norm", "dtype", "batch_tokens"):
        assert other["settings"][key] == base["settings"][key], key
    assert {path.name for path in again.iterdir()} >= {"store", "result", "comparison", "figures", "report.html"}
    assert list((again / "figures").glob("comparison-difference-aligned-layer*.pdf"))
    assert marked(again / "figures") == [("aligned", 2)]
    drawn = run_probe("figures", "again/comparison", "--out", "own", "--marks", "aligned=2")
    assert drawn.returncode == 0, drawn.stderr
    assert marked(work / "own") == [("aligned", 2)]
    wrong = run_probe("figures", "again/comparison", "--out", "own", "--marks", "aligned")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "--marks aligned; expected NAME=BLOCK" in wrong.stderr

    before = {path: path.stat().st_mtime_ns for path in (again / "store").glob("*.h5")}
    second = run_probe(*command, "--device", "cpu", "--draws", "200", "--out", "again", env=ONE_THREAD)
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "only what is missing is computed"
    assert "again/report.html" in second.stdout


def test_reprobe_retrieves_a_missing_base_from_its_store(run_probe: RunProbe, work: Path) -> None:
    assert trained(run_probe, "aligned", "align.pairs=[pairs]").returncode == 0
    done = run_probe(
        *("reprobe", "--base", "fresh", "--store", "store", "--adapter", "aligned", "--corpus", "text", "--backend", "torch"),
        *("--device", "cpu", "--draws", "200", "--out", "again"),
        env=ONE_THREAD,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((work / "fresh" / "summary.json").read_text())["layers"] == json.loads((work / "base" / "summary.json").read_text())["layers"]  # fmt: skip


def test_reprobe_measures_as_a_base_of_fewer_sentences_and_refuses_another_text_at_once(
    run_probe: RunProbe, work: Path
) -> None:
    assert trained(run_probe, "aligned", "align.pairs=[pairs]").returncode == 0
    retrieve_all(work / "store", backend="torch", device="cpu", limit=10, k=3, out=work / "few")
    command = (
        "reprobe",
        "--base",
        "few",
        "--adapter",
        "aligned",
        "--backend",
        "torch",
        "--device",
        "cpu",
        "--draws",
        "200",
    )
    done = run_probe(*command, "--corpus", "text", "--out", "again", env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    summary = json.loads((work / "again" / "result" / "summary.json").read_text())
    assert (summary["rows"], summary["settings"]["k"]) == (10, 3)
    other = run_probe(*command, "--corpus", "everyday", "--out", "wrong", env=ONE_THREAD)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "everyday, which has another text" in other.stderr
    assert not (work / "wrong").exists()


def test_merge_and_the_search_for_its_weight(run_probe: RunProbe, work: Path) -> None:
    assert trained(run_probe, "aligned", "align.pairs=[pairs]").returncode == 0
    task = trained(run_probe, "task", "alternation=task", "task.data=task.jsonl", "lr=0.01")
    assert task.returncode == 0, task.stderr
    merged = run_probe("merge", "task", "aligned", "--weight", "0.25", "--out", "merged", "--json")
    assert merged.returncode == 0, merged.stderr
    told = json.loads(merged.stdout)
    assert told["weight"] == 0.25
    assert told["relative_error"] < 1e-6
    parts = {name: load_file(work / name / "adapter_model.safetensors") for name in ("task", "aligned", "merged")}
    name = next(key for key in parts["merged"] if "lora_A" in key)
    a, b = name, name.replace("lora_A", "lora_B")
    wanted = 0.25 * 2 * parts["task"][b] @ parts["task"][a] + 0.75 * 2 * parts["aligned"][b] @ parts["aligned"][a]
    assert (parts["merged"][b] @ parts["merged"][a] - wanted).abs().max() < 1e-6  # alpha 16 / r 8 = 2; merged: 1
    assert "0.25 task + 0.75 aligned" in (work / "merged" / "README.md").read_text()

    searched = run_probe(
        *("merge", "task", "aligned", "--search", "0,1", "--model", "builtin:tiny", "--task-data", "dev.jsonl"),
        *("--device", "cpu", "--out", "best", "--json"),
        env=ONE_THREAD,
    )  # fmt: skip
    assert searched.returncode == 0, searched.stderr
    told = json.loads(searched.stdout)
    losses = {row["weight"]: row["loss"] for row in told["search"]}
    assert losses.keys() == {0.0, 1.0}
    assert told["weight"] == min(losses, key=lambda weight: losses[weight])
    assert losses[1.0] < losses[0.0], "the task's own adapter knows the task better than the alignment's"


def test_a_recipe_can_be_shown_without_data(run_probe: RunProbe) -> None:
    done = run_probe("train", "--recipe", "paper-as-run", "--show")
    assert done.returncode == 0
    assert "alternation: per-microbatch" in done.stdout
    assert "temperature: 0.1  # paper" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "--recipe", "align"), "without --out"),
        (("train", "--recipe", "align", "--out", "x"), "without align.pairs"),
        (("train", "--recipe", "nothing", "--out", "x"), "no recipe 'nothing'"),
        (("train", "--recipe", "align", "--set", "align.pairs=[nowhere]", "--out", "x"), "nowhere"),
        (("train", "--recipe", "align", "--set", "align.pairs=[flores200]", "--out", "x"), "flores200"),
        (("merge", "a", "a", "--out", "c"), "a twice"),
        (("merge", "a", "b", "--out", "c"), "adapter a holds no adapter_config.json"),
        (("merge", "a", "b", "--search", "0.5", "--out", "c"), "--search without --model"),
        (("merge", "a", "b", "--search", "half", "--model", "m", "--task-data", "t", "--out", "c"), "--search half"),
        (("reprobe", "--base", "nothing", "--adapter", "a", "--out", "c"), "nothing is not there"),
    ],
)
def test_what_cannot_be_is_one_line(run_probe: RunProbe, arguments: tuple[str, ...], told: str) -> None:
    done = run_probe(*arguments)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_reprobe_in_several_processes_is_refused_before_anything_is_computed(
    run_probe: RunProbe, tmp_path: Path
) -> None:
    """The store, which the base would be retrieved from, is not even looked at."""
    arguments = ("reprobe", "--base", "base", "--store", "nothing", "--adapter", "a", "--out", "c")
    done = run_probe(*arguments, env={"RANK": "1", "WORLD_SIZE": "4"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "probe reprobe in 4 processes; expected one; start it without torchrun" in done.stderr
    assert not list(tmp_path.iterdir())
    alone = run_probe(*arguments, env={"RANK": "0", "WORLD_SIZE": "1"})
    assert alone.returncode == 2
    assert "nothing" in alone.stderr


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="no faiss")
def test_settings_of_a_result_made_from_arrays_are_not_enough(run_probe: RunProbe, tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "arrays").mkdir()
    for seed, code in enumerate(("eng_Latn", "deu_Latn")):
        np.save(
            tmp_path / "arrays" / f"{code}.npy", np.random.default_rng(seed).normal(size=(12, 8)).astype(np.float32)
        )
    assert run_probe("retrieve", "arrays", "--out", "result").returncode == 0
    (tmp_path / "adapter").mkdir()
    done = run_probe("reprobe", "--base", "result", "--adapter", "adapter", "--out", "again")
    assert done.returncode == 2
    assert "made from arrays" in done.stderr
