"""Evaluation from prompts to scores, by the command line, and the same tasks as what is trained on."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from align.adapter import LoraSettings, add_lora, save_adapter
from align.batches import on
from align.card import model_card
from align.evaluate import answer_rows, write_scores
from align.plan import make_plan
from align.recipe import Recipe, load_recipe
from align.run import TrainResult
from align.tasks.slots import Slots
from align.train import Training, _card
from analysis.scores import read_scores
from probe.errors import AlignError
from probe.model import load_causal, open_model

RunProbe = Callable[..., CompletedProcess[str]]

COMMANDS = {
    "en-US": ("wake me at [time : five am]", "play [song_name : hello] by [artist_name : adele]", "what is this"),
    "sw-KE": ("niamshe [time : saa kumi na moja]", "cheza [song_name : hello] ya [artist_name : adele]", "hii ni nini"),
}


@pytest.fixture
def massive(tmp_path: Path) -> Path:
    """Three commands in two languages, told apart by a number, in each partition."""
    folder = tmp_path / "massive"
    folder.mkdir()
    for locale, commands in COMMANDS.items():
        rows = []
        for number in range(36):
            annotated = f"{commands[number % 3]} {number}"
            utterance = annotated
            for part in ("[time : ", "[song_name : ", "[artist_name : ", "]"):
                utterance = utterance.replace(part, "")
            partition = ("train", "dev", "test")[number // 3 % 3]
            rows.append({"id": str(number), "locale": locale, "partition": partition, "utt": utterance, "annot_utt": annotated})  # fmt: skip
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{locale}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def evaluated(run_probe: RunProbe, massive: Path, *more: str) -> CompletedProcess[str]:
    common = ("--task", "slots", "--data", str(massive), "--langs", "en,sw", "--device", "cpu")
    return run_probe("evaluate", *common, *more, env={"OMP_NUM_THREADS": "1"})


def test_a_model_answers_is_scored_and_goes_on_after_a_kill(run_probe: RunProbe, massive: Path, tmp_path: Path) -> None:
    how = ("--model", "builtin:tiny", "--max-new-tokens", "6", "--dtype", "fp32", "--draws", "100", "--out", "scores")
    done = evaluated(run_probe, massive, *how, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["task"], told["main"]) == ("slots", "strict-f1")
    assert {each["language"] for each in told["scores"]} == {"eng_Latn", "swh_Latn", "(mean)"}
    assert len(told["made"]["near_ties"]) == told["made"]["answers"]["near ties"]
    assert len(told["made"]["prompts"]) == 64
    out = tmp_path / "scores"
    assert read_scores(out / "scores.csv").values.keys() == {"eng_Latn", "swh_Latn"}
    assert read_scores(out / "scores.csv").groups == {"eng_Latn": "supervised", "swh_Latn": "transfer"}
    metrics = list(csv.DictReader((out / "metrics.csv").open()))
    assert [(row["language"], row["metric"], float(row["value"])) for row in metrics] == [
        (each["language"], each["metric"], each["value"]) for each in told["scores"]
    ]
    kept = {path.name: path.read_bytes() for path in (out / "answers").glob("*.jsonl")}
    assert kept.keys() == {"eng_Latn.jsonl", "swh_Latn.jsonl"}
    lines = kept["swh_Latn.jsonl"].splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == [str(n) for n in range(36) if n // 3 % 3 == 2]

    (out / "answers" / "swh_Latn.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:20])
    again = evaluated(run_probe, massive, *how)
    assert again.returncode == 0, again.stderr
    assert {path.name: path.read_bytes() for path in (out / "answers").glob("*.jsonl")} == kept
    assert "strict-f1" in again.stdout
    assert "swh_Latn" in again.stdout
    other = evaluated(run_probe, massive, *how[:3], "7", *how[4:])
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "max_new_tokens (6, now 7)" in other.stderr


@pytest.mark.parametrize(("gap", "which"), [(-1.0, slice(0)), (float("inf"), slice(None))])
def test_rows_of_near_ties_are_listed_and_prompts_have_a_digest(
    massive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: float, which: slice
) -> None:
    monkeypatch.setattr("align.generate.NEAR_TIE", gap)
    said = {}
    for style in ("fine-tuned", "as-run"):
        task = Slots(style)
        rows = task.rows(massive, "test", "en,sw", limit=3)
        how = {"model": "builtin:tiny", "max_new_tokens": 2, "device": "cpu", "dtype": "fp32"}
        said[style] = answer_rows(task, rows, tmp_path / style, **how)
        assert said[style].near_ties == tuple(f"{row.language} row {row.id}" for row in rows)[which]
        assert said[style].counts["near ties"] == len(said[style].near_ties)
        again = answer_rows(task, rows, tmp_path / style, **how)
        assert again == said[style]
    assert said["fine-tuned"].made["prompts"] != said["as-run"].made["prompts"]


def test_answers_that_exist_are_scored_without_a_model(run_probe: RunProbe, massive: Path, tmp_path: Path) -> None:
    rows = [n for n in range(36) if n // 3 % 3 == 2]
    gold = ("time: five am", "song_name: hello; artist_name: adele", "None")
    said = [gold[n % 3] for n in rows]
    (tmp_path / "said.txt").write_text("\n".join(said) + "\n")
    done = evaluated(run_probe, massive, "--langs", "en-US", "--predictions", "said.txt", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all(each["value"] == 100 for each in told["scores"])
    assert told["counts"]["eng_Latn"]["rows"] == len(rows)
    short = evaluated(run_probe, massive, "--langs", "en", "--limit", "5", "--predictions", "said.txt")
    assert (short.returncode, short.stderr.count("\n")) == (2, 1)
    assert f"{len(rows)} predictions for 5 rows" in short.stderr


def test_models_and_adapters_of_the_hub_are_known_by_name_and_commit(
    run_probe: RunProbe, massive: Path, tmp_path: Path
) -> None:
    """As the README evaluates them; from a cache laid out as the hub's own, in which a model has two revisions."""
    commits = {"main": "a" * 40, "older": "b" * 40}

    def cached(repository: str, revision: str) -> Path:
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / revision).write_text(commits[revision])
        return place / "snapshots" / commits[revision]

    source = open_model("builtin:tiny")
    for revision in commits:
        folder = cached("maker/tiny-chat", revision)
        model, _ = load_causal(source, torch.float32, torch.device("cpu"))
        if revision == "older":
            torch.nn.init.zeros_(model.get_output_embeddings().weight)
        model.save_pretrained(folder)
        source.tokenizer.save_pretrained(folder)
    add_lora(model, LoraSettings(), seed=0)
    save_adapter(model, cached("maker/tiny-slots", "main"), "maker/tiny-chat", None)

    how = ("--model", "maker/tiny-chat", "--limit", "2", "--max-new-tokens", "3", "--dtype", "fp32", "--json")
    told = {}
    for name, more in {
        "main": (),
        "older": ("--revision", "older"),
        "tuned": ("--adapter", "maker/tiny-slots"),
    }.items():
        common = ("--task", "slots", "--data", str(massive), "--langs", "en", "--device", "cpu", "--out", name)
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
        done = run_probe("evaluate", *common, *how, *more, env=environment)
        assert done.returncode == 0, done.stderr
        told[name] = json.loads(done.stdout)["made"]["model"]
    assert {each["name"] for each in told.values()} == {"maker/tiny-chat"}
    assert {name: each["revision"] for name, each in told.items()} == {**commits, "tuned": commits["main"]}
    assert [each["adapter_name"] for each in told.values()] == [None, None, "maker/tiny-slots"]
    said = {name: (tmp_path / name / "answers" / "eng_Latn.jsonl").read_text() for name in told}
    assert '"tokens": [0, 0, 0]' in said["older"], "all logits are equal with the weights of that revision"
    assert '"tokens": [0, 0, 0]' not in said["main"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "neither --model nor --predictions; expected one of the two"),
        (("--model", "builtin:tiny", "--predictions", "x"), "--model and --predictions"),
        (("--model", "builtin:tiny"), "--model without --out"),
        (("--predictions", "x", "--adapter", "y"), "--adapter with --predictions"),
        (("--predictions", "x", "--comet-python", "python"), "--comet-python python of the task slots"),
        (("--predictions", "x", "--template", "y"), "--template y of the task slots"),
        (("--predictions", "x", "--style", "own"), "style 'own' of slots"),
        (("--predictions", "x", "--langs", "de"), "has no MASSIVE data of deu_Latn"),
        (("--predictions", "x", "--task", "poems"), "no task 'poems'; expected one of slots, translation, entities"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    run_probe: RunProbe, massive: Path, more: tuple[str, ...], told: str
) -> None:
    done = evaluated(run_probe, massive, *more)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert told in done.stderr


class Commands(Slots):
    """A task of one's own, of which the manifests know nothing."""

    name = "commands"


def test_scores_of_a_task_of_ones_own_have_no_groups(massive: Path, tmp_path: Path) -> None:
    for task, groups in (
        (Slots(), {"eng_Latn": "supervised", "swh_Latn": "transfer"}),
        (Commands(), {}),
    ):
        rows = task.rows(massive, "test", "en,sw")
        scored = task.score(rows, [row.target for row in rows], draws=0)
        (file,) = write_scores(tmp_path / task.name, task, scored, {})
        assert read_scores(file).values == {"eng_Latn": 100, "swh_Latn": 100}
        assert read_scores(file).groups == groups


# ---- training on a task by its name --------------------------------------------------------------------------------


def made(massive: Path, *changes: str) -> Recipe:
    basic = (
        "alternation=task", "task.name=slots", f"task.data={massive}", "task.langs=en,sw", "batch=4", "micro_batch=4",
        "dtype=fp32", "updates=1",
    )  # fmt: skip
    return load_recipe("align", (*basic, *changes))


def test_a_task_by_name_is_trained_on_its_rows_with_a_development_loss_a_language(
    massive: Path, tmp_path: Path
) -> None:
    plan = make_plan(made(massive), tmp_path / "run", "cpu", False)
    assert plan.data.counts["task"] == {"train": 24, "development": 24}
    training = Training(plan)
    losses = training.evaluate(0)
    assert losses.keys() == {"task", "task eng_Latn", "task swh_Latn", "loss"}
    rows = plan.data.task.development
    assert rows.languages == ("eng_Latn",) * 12 + ("swh_Latn",) * 12
    nll, tokens = {}, {}
    with torch.no_grad():
        for number, language in enumerate(rows.languages):
            micro = rows.micro([number])
            nll[language] = nll.get(language, 0.0) + float(
                training.model(task=on(micro.batch, torch.device("cpu"))).nll
            )
            tokens[language] = tokens.get(language, 0) + micro.responses
    for language in nll:
        assert losses[f"task {language}"] == pytest.approx(nll[language] / tokens[language], rel=1e-5)
    assert losses["task"] == pytest.approx(sum(nll.values()) / sum(tokens.values()), rel=1e-5)
    assert losses["loss"] == losses["task"]
    ids, labels = plan.data.task.train.rows[0]
    answer = plan.source.tokenizer.decode(ids[labels != -100])
    assert answer.startswith("time: five am")
    assert "a voice assistant will extract entities" in plan.source.tokenizer.decode(ids[labels == -100])


def test_a_task_of_ones_own_is_trained_on_the_languages_that_are_named(
    massive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.data.task_named", lambda name, style, template: Commands())
    named = made(massive)
    own: Any = replace(named, task=replace(named.task, name="commands"))
    assert make_plan(own, tmp_path / "run", "cpu", False).data.counts["task"] == {"train": 24, "development": 24}
    with pytest.raises(AlignError) as refused:
        make_plan(replace(own, task=replace(own.task, langs=None)), tmp_path / "run", "cpu", False)
    assert "task commands without task.langs" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def danish(tmp_path: Path) -> Path:
    """Nine sentences with a name in each split of Universal NER."""
    folder = tmp_path / "UNER_Danish-DDT"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        lines = "".join(
            f"# sent_id = s{n}\n# text = Eva {n}\n1\tEva\tB-PER\t-\t-\n2\t{n}\tO\t-\t-\n\n" for n in range(9)
        )
        (folder / f"da_ddt-ud-{split}.iob2").write_text(lines)
    return folder


def test_the_card_names_the_task_and_the_licence_of_its_data(massive: Path, danish: Path, tmp_path: Path) -> None:
    (tmp_path / "alma").mkdir()
    for code, word in (("de", "Zeile"), ("en", "line")):
        (tmp_path / "alma" / f"train.de-en.{code}").write_text("".join(f"{word} {n}\n" for n in range(120)))
    (tmp_path / "mine.jsonl").write_text("".join(f'{{"prompt": "{n}?", "response": "{n}"}}\n' for n in range(80)))
    for changes, name, licence, told in (
        ((), "slots (massive)", "CC BY 4.0 (MASSIVE)", "Tuned on the task slots."),
        (
            ("task.name=entities", f"task.data={danish}", "task.langs=da"),
            "entities (UNER_Danish-DDT)", "CC BY-SA 4.0 (Universal NER)", "Tuned on the task entities.",
        ),
        (
            ("task.name=translation", f"task.data={tmp_path / 'alma'}", "task.langs=de", "task.keep_overlap=true"),
            "translation (alma)", "of ALMA: MIT (its repository; its texts come from WMT and FLORES-200)",
            "Tuned on the task translation.",
        ),
        (
            ("task.name=jsonl", f"task.data={tmp_path / 'mine.jsonl'}", "task.langs=null"),
            "mine.jsonl", "unknown", "Tuned on mine.jsonl.",
        ),
    ):  # fmt: skip
        plan = make_plan(made(massive, *changes), tmp_path / "run", "cpu", False)
        card = model_card(_card(Training(plan), TrainResult(tmp_path, (), 1, 1, {})))
        assert f"\n{told}\n" in card
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {name} | "))
        assert licence in row


def test_entities_are_trained_on_the_prompt_that_they_are_evaluated_on(
    run_probe: RunProbe, danish: Path, tmp_path: Path
) -> None:
    """The same file as recipe key and as option; its digest stands in the run, on the card and beside the scores."""
    (tmp_path / "prompt.txt").write_text("Names in Ålborg? <$3$>\n", encoding="utf-8")
    digest = hashlib.sha256((tmp_path / "prompt.txt").read_bytes()).hexdigest()
    changes = ("alternation=task", "task.name=entities", f"task.data={danish}", "task.langs=da", "batch=2", "micro_batch=2", "updates=1", "dtype=fp32", f"task.template={tmp_path / 'prompt.txt'}")  # fmt: skip
    sets = [part for change in changes for part in ("--set", change)]
    train = ("train", "--recipe", "align", *sets, "--device", "cpu", "--out", "run")
    done = run_probe(*train, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "training.json").read_text())["rows"]["task"]["template_sha256"] == digest
    assert digest in (tmp_path / "run" / "README.md").read_text()
    plan = make_plan(load_recipe("align", changes), tmp_path / "again", "cpu", False)
    ids, labels = plan.data.task.train.rows[0]
    assert "Names in Ålborg? Eva 0" in plan.source.tokenizer.decode(ids[labels == -100])

    asked = ("--task", "entities", "--data", str(danish), "--langs", "da", "--template", "prompt.txt", "--json")
    said = ("--model", "builtin:tiny", "--adapter", "run", "--limit", "2", "--max-new-tokens", "2", "--device", "cpu", "--out", "scores")  # fmt: skip
    scored = run_probe("evaluate", *asked, *said, env={"OMP_NUM_THREADS": "1"})
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["details"]["template_sha256"] == digest

    for text, told in ((None, "cannot be read (FileNotFoundError)"), ("Names?", "without <$3$>"), ("<$3$>", "another")):
        (tmp_path / "prompt.txt").unlink(missing_ok=True)
        if text is not None:
            (tmp_path / "prompt.txt").write_text(text, encoding="utf-8")
        refused = run_probe(*train, env={"OMP_NUM_THREADS": "1"})
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert told in refused.stderr


@pytest.mark.parametrize("select", ["sum", "task", "align"])
def test_the_best_adapter_is_told_by_the_loss_that_is_named(massive: Path, tmp_path: Path, select: str) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for code in ("cy", "en"):
        (pairs / f"toy.cy-en.{code}").write_text("".join(f"{code} line {n}\n" for n in range(60)))
    recipe = made(massive, "alternation=per-update", f"align.pairs=[{pairs}]", f"select={select}")
    losses = Training(make_plan(recipe, tmp_path / "run", "cpu", False)).evaluate(0)
    expected: Any = {"sum": losses["task"] + losses["align"], "task": losses["task"], "align": losses["align"]}
    assert losses["loss"] == expected[select]


def test_contradictory_settings_of_a_task_are_refused(massive: Path) -> None:
    for changes, told in (
        (("select=align",), "select: align with alternation task"),
        (("task.name=jsonl",), "task.langs: en,sw of a jsonl file"),
        (("task.name=entities", "task.style=as-run"), "task.style: as-run of entities"),
        (("task.template=prompt.txt",), "task.template: prompt.txt of slots"),
        (("task.keep_overlap=true",), "task.keep_overlap of slots"),
        (("task.dev=dev.jsonl",), "task.dev of slots"),
    ):
        with pytest.raises(AlignError) as refused:
            made(massive, *changes)
        assert told in str(refused.value)


def test_what_the_probe_corpus_has_in_common_with_training_text_is_on_the_screen_and_in_the_card(
    run_probe: RunProbe, tmp_path: Path
) -> None:
    """Of 120 pairs 7 are rows of the probed corpus; the same once more with what the paper's recipe needs."""
    for folder, name in (("flores200/dev", "{}.dev"), ("alma", "train.deu_Latn-eng_Latn.{}")):
        (tmp_path / folder).mkdir(parents=True)
        for code in ("deu_Latn", "eng_Latn"):
            first, count = (0, 997) if "dev" in name else (990, 120)
            lines = "".join(f"{code} sentence {number}\n" for number in range(first, first + count))
            (tmp_path / folder / name.format(code)).write_text(lines)
    changes = ("alternation=task", "task.name=translation", "task.data=alma", "task.langs=de", "updates=1", "batch=2", "micro_batch=2")  # fmt: skip
    sets = [part for change in changes for part in ("--set", change)]
    for out, more, told, left in (
        ("clean", (), "are left out", 2 * 113),
        ("kept", ("--allow-flores-training",), "are kept", 2 * 120),
    ):
        note = f"training rows that hold a sentence of flores200 dev {told}: deu_Latn-eng_Latn 7 of 120, eng_Latn-deu_Latn 7 of 120"  # fmt: skip
        done = run_probe("train", "--recipe", "align", *sets, *more, "--device", "cpu", "--out", out, env={"OMP_NUM_THREADS": "1", "MIDPROBE_DATA": str(tmp_path)})  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert note in done.stderr
        assert note in (tmp_path / out / "README.md").read_text()
        rows = json.loads((tmp_path / out / "training.json").read_text())["rows"]["task"]
        assert rows["train"] + rows["development"] == left


def test_both_directions_of_a_translation_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    place = tmp_path / "alma"
    place.mkdir()
    for code, word in (("de", "Zeile"), ("en", "line")):
        (place / f"train.de-en.{code}").write_text("".join(f"{word} {n}\n" for n in range(120)))
    recipe = load_recipe(
        "align",
        ("alternation=task", "task.name=translation", f"task.data={place}", "task.langs=de", "task.keep_overlap=true"),
    )
    data = make_plan(recipe, tmp_path / "run", "cpu", False).data.task
    train, development = ({where.split()[-1] for where in part.where} for part in (data.train, data.development))
    assert (len(train) + len(development), train & development) == (120, set())
    assert set(data.development.languages) == {"deu_Latn-eng_Latn", "eng_Latn-deu_Latn"}
    assert len(data.development.where) == 2 * len(development)
