"""Training: each objective's loss and gradient against a literal one, resuming, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from torch.nn.functional import cross_entropy

import align.train
from align.adapter import attach, read_adapter
from align.plan import make_plan, resolve_layers
from align.recipe import Recipe, load_recipe
from align.run import Standing
from align.train import Training, learning_rate, train
from align.trainable import IGNORED
from probe.corpus import ParallelCorpus
from probe.errors import AlignError, ModelError
from probe.model import LoadedModel, load_model, open_model, tokenise
from probe.states import pooled_states
from probe.tiny import tiny_causal_model

ROOT = Path(__file__).resolve().parents[1]

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def data(everyday: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two language pairs of 62 rows, and 80 task examples with responses of unequal length."""
    folder = tmp_path_factory.mktemp("data")
    english = everyday.sentences["eng_Latn"]
    for code, name in (("deu_Latn", "de"), ("spa_Latn", "es")):
        for side, lines in ((name, everyday.sentences[code]), ("en", english)):
            (folder / f"toy.{name}-en.{side}").write_text("\n".join(line[:40] for line in lines[:62]) + "\n")
    rows = [{"prompt": f"{i}?", "response": english[i][: 3 + i % 17]} for i in range(80)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def make(data: Path) -> MakeRecipe:
    """A small recipe: 4 updates of 2 micro-batches of 6 rows, evaluated after the second and the last."""

    def recipe(*changes: str) -> Recipe:
        basic = (
            f"align.pairs=[{data}]", f"task.data={data / 'task.jsonl'}", "batch=12", "micro_batch=6", "updates=4",
            "evaluate_every=2", "dtype=fp32", "lr=1e-2", "warmup=0.5",
        )  # fmt: skip
        return load_recipe("align", (*basic, *changes))

    return recipe


def run(recipe: Recipe, out: Path, **options: Any) -> Any:
    return train(recipe, out, device="cpu", **options)


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def updates(out: Path) -> list[dict[str, Any]]:
    return [note for note in log(out) if "objectives" in note]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return read_adapter(folder)[1]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """The `Training` of each run, as it was left."""
    seen: list[Training] = []

    class Kept(Training):
        def __init__(self, plan: Any) -> None:
            super().__init__(plan)
            seen.append(self)

    monkeypatch.setattr(align.train, "Training", Kept)
    return seen


class StopError(Exception):
    """A run that is interrupted."""


def stop_after(update: int) -> Callable[[dict[str, Any]], None]:
    def observe(note: dict[str, Any]) -> None:
        if note["update"] == update and "objectives" in note:
            raise StopError

    return observe


# ---- objectives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alternation", "expected"),
    [
        ("per-update", [["task", "task"], ["align", "align"]] * 2),
        ("per-microbatch", [["task", "align"]] * 4),
        ("joint", [["joint", "joint"]] * 4),
        ("task", [["task", "task"]] * 4),
        ("align", [["align", "align"]] * 4),
    ],
)
def test_each_update_optimises_what_the_log_says(
    alternation: str, expected: list[list[str]], make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where the model runs, and in the log."""
    ran: list[tuple[bool, bool]] = []
    forward = align.trainable.Trainable.forward

    def counting(self: Any, task: Any = None, pairs: Any = None, layers: Sequence[int] = ()) -> Any:
        if self.training:
            ran.append((task is not None, pairs is not None))
        return forward(self, task, pairs, layers)

    monkeypatch.setattr(align.trainable.Trainable, "forward", counting)
    run(make(f"alternation={alternation}"), tmp_path / "out")
    notes = updates(tmp_path / "out")
    assert [note["objectives"] for note in notes] == expected
    flat = [kind for kinds in expected for kind in kinds]
    assert Counter(ran) == Counter((kind != "align", kind != "task") for kind in flat)
    for note in notes:
        kinds = set(note["objectives"])
        assert ("task" in note) == bool(kinds & {"task", "joint"})
        assert ("align" in note) == bool(kinds & {"align", "joint"})


def literal_contrast(sources: torch.Tensor, targets: torch.Tensor, texts: Any, align_: Any) -> torch.Tensor:
    """InfoNCE as the paper writes it, pair by pair."""
    if align_.stop_gradient:
        targets = targets.detach()

    def similarity(i: int, j: int) -> torch.Tensor:
        return torch.cosine_similarity(sources[i], targets[j], dim=0) / align_.temperature

    def is_negative(i: int, j: int) -> bool:
        return texts[0][i] != texts[0][j] and texts[1][i] != texts[1][j]

    rows = range(len(sources))
    losses = []
    for i in rows:
        others = [j for j in rows if j == i or is_negative(i, j)]
        losses.append(torch.logsumexp(torch.stack([similarity(i, j) for j in others]), 0) - similarity(i, i))
        if align_.direction == "symmetric":
            losses.append(torch.logsumexp(torch.stack([similarity(j, i) for j in others]), 0) - similarity(i, i))
    return torch.stack(losses).mean()


def literal_states(model: Any, ids: torch.Tensor, mask: torch.Tensor, layer: int) -> torch.Tensor:
    """Row by row without padding, through the whole model."""
    rows: list[torch.Tensor] = []
    handle = model.model.layers[layer - 1].register_forward_hook(
        lambda block, given, output: rows.append(output[0].mean(0))
    )
    for row, real in zip(ids, mask, strict=True):
        model(input_ids=row[real][None])
    handle.remove()
    return torch.stack(rows)


def literal_objective(training: Training, update: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of an update by its definition, from the rows that the samplers give; and the means it is made of."""
    recipe, model = training.recipe, training.trainable.model
    kinds = align.train.objectives(recipe.alternation, recipe.batch // recipe.micro_batch, update)
    micros = [training._draw(kind) for kind in kinds]
    nll, tokens, contrasts = torch.zeros(()), 0, []
    for micro in micros:
        if micro.task is not None:
            for row, real, labels in zip(*micro.task.batch, strict=True):
                logits = model(input_ids=row[real][None]).logits[0, :-1]
                nll = nll + cross_entropy(logits, labels[real][1:], reduction="sum")
                tokens += int((labels[real][1:] != IGNORED).sum())
        if micro.pairs is not None:
            batch = micro.pairs.batch
            contrasts.append(
                torch.stack(
                    [
                        literal_contrast(
                            literal_states(model, batch.source_ids, batch.source_mask, layer),
                            literal_states(model, batch.target_ids, batch.target_mask, layer),
                            (micro.pairs.sources, micro.pairs.targets),
                            recipe.align,
                        )
                        for layer in training.plan.layers
                    ]
                ).mean()
            )
    weight = recipe.align.weight if recipe.alternation == "joint" else 1.0
    means: dict[str, float] = {}
    whole = torch.zeros(())
    if tokens:
        means["task"] = (nll / tokens).item()
        whole = whole + nll / tokens * sum(kind != "align" for kind in kinds) / len(kinds)
    if contrasts:
        mean = torch.stack(contrasts).mean()
        means["align"] = mean.item()
        whole = whole + weight * mean * len(contrasts) / len(kinds)
    return whole, means


@pytest.mark.parametrize(
    "changes",
    [
        ("alternation=task",),
        ("alternation=align", "align.layers=[1, 3]"),
        ("alternation=align", "align.direction=symmetric", "align.layers=top"),
        ("alternation=align", "align.stop_gradient=true"),
        ("alternation=align", "align.cache_chunk=4"),
        ("alternation=per-microbatch",),
        ("alternation=joint", "align.weight=0.3", "gradient_checkpointing=true"),
        ("alternation=joint", "align.weight=0.3", "align.cache_chunk=5", "align.temperature=0.7"),
        ("alternation=joint", "align.weight=0"),
    ],
    ids=lambda changes: " ".join(changes).replace("alternation=", ""),
)
def test_an_update_moves_along_the_gradient_of_its_objective(
    changes: tuple[str, ...], make: MakeRecipe, tmp_path: Path
) -> None:
    """Losses in the log and gradients against the definition, at a LoRA that does something."""
    recipe = make(*changes, "lora.dropout=0", "clip=1e9", "batch=18")
    found, expected = (Training(make_plan(recipe, tmp_path, "cpu", False)) for _ in range(2))
    moved: dict[str, torch.Tensor] = {}
    for training in (found, expected):
        generator = torch.Generator().manual_seed(3)
        for parameter in lora(training).values():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2

    def step() -> None:
        moved.update({name: each.grad.clone() for name, each in lora(found).items() if each.grad is not None})

    found.optimizer.step = step
    note = found.step(0)
    whole, means = literal_objective(expected, 0)
    whole.backward()
    there = {name: each.grad for name, each in lora(expected).items() if each.grad is not None}
    assert {name: note[name] for name in means} == pytest.approx(means, rel=1e-5)
    assert moved.keys() == there.keys()
    largest = max(float(gradient.abs().max()) for gradient in there.values())
    for name, gradient in moved.items():
        torch.testing.assert_close(gradient, there[name], rtol=1e-4, atol=1e-5 * largest)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in there.values()))
    assert note["gradient_norm"] == pytest.approx(norm, rel=1e-5)


def lora(training: Training) -> dict[str, Any]:
    return {name: each for name, each in training.trainable.model.named_parameters() if each.requires_grad}


def test_gradients_are_clipped_and_the_norm_is_told_before(make: MakeRecipe, tmp_path: Path) -> None:
    training = Training(make_plan(make("clip=0.01"), tmp_path, "cpu", False))
    norms: list[float] = []

    def step() -> None:
        norms.append(math.sqrt(sum(float(each.grad.square().sum()) for each in lora(training).values() if each.grad is not None)))  # fmt: skip

    training.optimizer.step = step
    assert training.step(0)["gradient_norm"] > 0.1
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_the_learning_rate_is_that_of_transformers(make: MakeRecipe, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-4)
    schedule = transformers.get_inverse_sqrt_schedule(optimizer, num_warmup_steps=6)
    for update in range(1, 40):
        optimizer.step()
        schedule.step()
        assert learning_rate(update, 5e-4, 6) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
    run(make("updates=10", "warmup=0.25"), tmp_path / "out")
    rates = [note["lr"] for note in updates(tmp_path / "out")]
    assert rates == [learning_rate(update, 1e-2, 3) for update in range(1, 11)]


@pytest.mark.parametrize("alternation", ["align", "per-update"])
def test_only_the_adapter_moves_and_alignment_moves_only_the_blocks_below(
    alternation: str, make: MakeRecipe, tmp_path: Path, trainings: list[Training]
) -> None:
    run(make(f"alternation={alternation}", "align.layers=2", "updates=4"), tmp_path / "out")
    model = trainings[0].trainable.model
    there = tiny_causal_model().state_dict()
    frozen = {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if "lora_" not in name
    }
    assert same(frozen, there)
    moved = {int(name.split(".layers.")[1].split(".")[0]) + 1 for name, each in lora(trainings[0]).items() if "lora_B" in name and each.any()}  # fmt: skip
    assert moved == ({1, 2} if alternation == "align" else {1, 2, 3, 4})


# ---- evaluation, the best adapter, stopping ----------------------------------------------------------------------


def test_the_best_adapter_is_kept_and_the_run_stops(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a scripted development loss: the second is best, and two more are not."""
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(self: Training, update: int) -> dict[str, float]:
        seen.append({name: each.detach().clone() for name, each in lora(self).items()})
        return {"align": (loss := next(losses)), "loss": loss}

    monkeypatch.setattr(Training, "evaluate", evaluate)
    out = tmp_path / "out"
    result = run(make("updates=20", "patience=2"), out)
    assert (result.updates, result.best_update, result.development["loss"]) == (8, 4, 2.0)
    assert [note["best"] for note in log(out) if "development" in note] == [True, True, False, False]
    saved = {f"base_model.model.{name.replace('.default', '')}": value for name, value in seen[1].items()}
    assert same(tensors(out), saved)
    assert not same(tensors(out), tensors(out / "checkpoint"))


def test_standing_counts_evaluations_since_the_best() -> None:
    standing = Standing()
    for loss in (3.0, 3.0, 2.0, 2.5):
        standing = standing.after_update().after_evaluation({"loss": loss})
    assert standing == Standing(4, {"loss": 2.0}, 3, 1)


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_the_adapter_gives_the_states_that_the_training_ended_with(
    name: str, make: MakeRecipe, tmp_path: Path, trainings: list[Training], request: pytest.FixtureRequest
) -> None:
    """Through plain PEFT and through ours, also of real pretrained weights; the development loss is met again."""
    folder = tmp_path / "base"
    if name == "encoder":
        shutil.copytree(request.getfixturevalue("minilm"), folder)
    else:
        tiny_causal_model().save_pretrained(folder)
        open_model("builtin:tiny").tokenizer.save_pretrained(folder)
    out = tmp_path / "out"
    result = run(make(f"model={folder}", "updates=2", "align.layers=middle", "lr=1e-3"), out)
    training = trainings[0]
    source = open_model(str(folder))
    assert result.layers == (source.depth // 2,)
    sentences = tokenise(source.tokenizer, ["A house.", "Ein Haus am See."], "eng_Latn")
    layers = list(range(source.depth + 1))

    def states(loaded: LoadedModel) -> torch.Tensor:
        return torch.from_numpy(pooled_states(loaded, sentences, layers, ["mean"], 100))

    training.trainable.eval()
    ended = states(training.trainable.loaded)
    plain = load_model(source, torch.float32, torch.device("cpu"))
    assert (states(plain) - ended).abs().max() > 1e-3
    torch.testing.assert_close(states(attach(plain, out)), ended, rtol=0, atol=1e-6)
    auto: Any = transformers.AutoModel if name == "encoder" else transformers.AutoModelForCausalLM
    wrapped = PeftModel.from_pretrained(auto.from_pretrained(folder), str(out)).eval()
    base = wrapped.base_model.model if name == "encoder" else wrapped.base_model.model.model
    torch.testing.assert_close(states(LoadedModel(base, source.tokenizer)), ended, rtol=0, atol=1e-6)
    assert ("AutoModel.from_pretrained" in (out / "README.md").read_text()) == (name == "encoder")
    again = Training(make_plan(training.recipe, out, "cpu", False))
    align.train.load_adapter_weights(again.trainable.model, out)
    assert again.evaluate(2) == pytest.approx(result.development, rel=1e-6)


def test_the_card_and_the_log_state_data_and_results(make: MakeRecipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(make("alternation=joint", "updates=2"), out)
    card = (out / "README.md").read_text()
    for stated in (
        "deu_Latn-eng_Latn (toy.de-en.de)",
        "task.jsonl",
        str(result.development["align"]),
        "temperature: 0.1",
    ):
        assert stated in card, stated
    rows = log(out)[0]["rows"]
    assert [each["before"] for each in rows["pairs"]["filters"]] == [62, 62]
    assert rows["task"]["train"] + rows["task"]["development"] == 80
    ended = json.loads((out / "training.json").read_text())
    assert (ended["updates"], ended["development"]) == (2, result.development)


# ---- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternation", ["per-update", "align"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(alternation: str, make: MakeRecipe, tmp_path: Path) -> None:
    """With dropout, and momentum: the same log and the same adapter, byte for byte."""
    recipe = make(f"alternation={alternation}", "updates=6", "lora.dropout=0.3")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(recipe, whole)
    for update in (1, 3):  # before the first checkpoint, and after it
        with pytest.raises(StopError):
            run(recipe, parts, observe=stop_after(update))
    lines = (parts / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [0, 1, 2, 2, 3]
    (parts / "log.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])  # as a kill leaves it
    torch.manual_seed(99)
    found = run(recipe, parts)
    assert dataclasses.replace(found, adapter=whole) == expected
    for name in ("log.jsonl", "adapter_model.safetensors", "adapter_config.json", "checkpoint/optimizer.pt"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_checkpoint_is_found_where_a_kill_left_it(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames that put a new one in its place."""
    out, done, step = tmp_path / "out", [], Training.step
    with pytest.raises(StopError):
        run(make(), out, observe=stop_after(3))
    (out / "checkpoint").rename(out / "checkpoint.old")
    (out / "checkpoint.partial").mkdir()

    def noted(self: Training, update: int) -> Any:
        done.append(update)
        return step(self, update)

    monkeypatch.setattr(Training, "step", noted)
    run(make(), out)
    assert done == [2, 3]
    assert not list(out.glob("checkpoint.*"))


KILLED = """
import json, os, signal, sys
from pathlib import Path
from align.recipe import recipe_from
from align.train import train

recipe = recipe_from(json.loads(Path("recipe.json").read_text()))
state = {"out": None, "left": 0, "seen": 0}

def hook(event, arguments):
    watched = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
    if state["out"] and event in watched and str(arguments[0]).startswith(state["out"]):
        if event == "open" and not (arguments[2] or 0) & os.O_ACCMODE:
            return
        state["seen"] += 1
        if state["seen"] == state["left"]:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)

def run(out, kill_at):
    child = os.fork()
    if child == 0:
        state.update(out=os.path.abspath(out), left=kill_at, seen=0)
        train(recipe, state["out"], device="cpu")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def contents(out):
    names = ("log.jsonl", "adapter_model.safetensors", "adapter_config.json", "training.json", "README.md")
    return {name: (Path(out) / name).read_bytes() for name in names}

state["out"] = os.path.abspath("whole")
train(recipe, state["out"], device="cpu")
events = state["seen"]
points = sorted({1 + round(i * (events - 1) / 15) for i in range(16)})
ends = []
for point in points:
    ends.append([run(f"at{point}", point), run(f"at{point}", 0), contents(f"at{point}") == contents("whole")])
print(json.dumps({"events": events, "ends": ends}))
"""


def test_a_run_killed_at_any_time_goes_on(make: MakeRecipe, tmp_path: Path) -> None:
    """SIGKILL before its n-th change of a file, for n over the whole run: the end is the same, byte for byte."""
    recipe = make("updates=4", "evaluate_every=1", "batch=6", "lora.targets=[q_proj]", "lora.dropout=0.3")
    (tmp_path / "recipe.json").write_text(json.dumps(align.train.as_tree(recipe)))
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["events"] > 60
    assert told["ends"] == [[-9, 0, True]] * 16


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def test_a_run_that_ended_is_returned(make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without loading the model. One that was killed before it could say so ends as it would have."""
    out = tmp_path / "out"
    first = run(make(), out)
    before = (out / "log.jsonl").read_bytes()
    (out / "training.json").rename(tmp_path / "training.json")
    assert run(make(), out) == first
    assert (out / "training.json").read_bytes() == (tmp_path / "training.json").read_bytes()
    monkeypatch.setattr(align.train, "load_trainable", lambda *_, **__: pytest.fail("the model was loaded"))
    assert run(make(), out) == first
    assert (out / "log.jsonl").read_bytes() == before


def test_another_recipe_or_other_data_are_refused_with_the_difference(
    make: MakeRecipe, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(make("updates=2"), out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(AlignError, match=r"another recipe\.align\.temperature \(0\.1, now 0\.5\); expected"):
        run(make("updates=2", "align.temperature=0.5"), out)
    other = tmp_path / "other"
    shutil.copytree(data, other)
    lines = (other / "toy.de-en.de").read_text().splitlines()
    (other / "toy.de-en.de").write_text("\n".join(["Etwas anderes.", *lines[1:]]) + "\n")
    moved = make("updates=2", f"align.pairs=[{other}]")
    with pytest.raises(AlignError, match=r"align\.pairs .*, data \("):
        run(moved, out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_overwrite_begins_anew_and_leaves_other_files(make: MakeRecipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make("updates=2", "seed=2"), out)
    (out / "notes.txt").write_text("mine")
    run(make(), out, overwrite=True)
    run(make(), tmp_path / "fresh")
    assert (out / "log.jsonl").read_bytes() == (tmp_path / "fresh" / "log.jsonl").read_bytes()
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob("checkpoint.*"))


@pytest.mark.parametrize("name", ["README.md", "adapter_model.safetensors", "checkpoint/optimizer.pt"])
def test_files_of_others_are_not_overwritten(name: str, make: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(AlignError, match=f"holds {name.split('/')[0]} and no recipe.json"):
        run(make(), tmp_path)
    assert (tmp_path / name).read_text() == "mine"


# ---- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Update and batch are named; once the cause is gone the run goes on."""
    run(make("updates=6"), tmp_path / "whole")
    out, calls, contrast = tmp_path / "out", Counter[str](), Training._alignment_loss

    def broken(self: Training, states: Any, pairs: Any, gather: bool) -> Any:
        calls["train"] += self.model.training
        wrong = self.model.training and calls["train"] == 6  # the second micro-batch of the third update
        return contrast(self, states, pairs, gather) * (math.nan if wrong else 1)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_alignment_loss", broken)
        with pytest.raises(AlignError, match=r"^update 3, micro-batch of 6 rows, first (deu|spa)_Latn-eng_Latn '.*with align loss nan"):  # fmt: skip
            run(make("updates=6"), out)
    assert json.loads((out / "checkpoint" / "state.json").read_text())["standing"]["update"] == 2
    run(make("updates=6"), out)
    for name in ("log.jsonl", "adapter_model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_rate_that_is_far_too_high_is_told(make: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(AlignError, match=r"^(update [23]|evaluation after update 2), .* (nan|inf).*lower lr"):
        run(make("lr=1e30", "alternation=per-microbatch"), tmp_path / "out")


def test_a_gradient_that_is_not_finite_moves_nothing(make: MakeRecipe, tmp_path: Path) -> None:
    training = Training(make_plan(make(), tmp_path, "cpu", False))
    first = next(iter(lora(training).values()))
    first.register_hook(lambda gradient: gradient * math.inf)
    before = {name: each.detach().clone() for name, each in lora(training).items()}
    with pytest.raises(AlignError, match=r"update 1, gradient norm (nan|inf)"):
        training.step(0)
    assert same(before, {name: each.detach() for name, each in lora(training).items()})


def test_out_of_memory_names_the_settings(make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Training, update: int) -> Any:
        return torch.empty(2**56)

    monkeypatch.setattr(Training, "step", step)
    with pytest.raises(AlignError, match=r"out of memory at micro_batch 6; .*--set gradient_checkpointing=true or align.cache_chunk=3 or micro_batch=3"):  # fmt: skip
        run(make(), tmp_path / "a")
    with pytest.raises(AlignError, match="give --set micro_batch=3, and"):
        run(make("alternation=task", "gradient_checkpointing=true"), tmp_path / "b")

    def other(self: Training, update: int) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(Training, "step", other)
    with pytest.raises(RuntimeError, match="something else"):
        run(make(), tmp_path / "c")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("align.layers=5",), r"align.layers: 5; expected bottom, middle, top, or blocks 1..4"),
        (("align.layers=[middle, 0]",), r"align.layers: 0; expected"),
        (("batch=8",), r"batch 8 of micro-batches of 6 on 1 processes; expected a multiple of 6; give --set batch=6"),
        (("track=wandb",), r"track: wandb, which is not installed"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_loaded(
    changes: tuple[str, ...], message: str, make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align.train, "load_trainable", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr(align.plan, "find_spec", lambda name: None)
    with pytest.raises(AlignError, match=message):
        run(make(*changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("dtype=fp16", "dtype: 'fp16'; expected one of auto, bf16, fp32"),
        ("align.cache_chunk=0", "align.cache_chunk: 0; expected more than 0"),
        ("align.temperature=0", "align.temperature: 0.0; expected more than 0"),
        ("align.weight=-1", "align.weight: -1.0; expected 0 or more"),
        ("seed=-1", "seed: -1; expected 0 or more"),
        ("micro_batch=1", "micro_batch: 1; expected at least 2, since one pair has no negatives"),
        ("align.pairs=[a", r"--set align.pairs=\[a .*expected a YAML value"),
    ],
)
def test_values_that_cannot_be(changes: str, message: str, make: MakeRecipe) -> None:
    with pytest.raises(AlignError, match=message):
        make(changes)


def test_a_folder_that_cannot_be_written_is_refused_at_once(make: MakeRecipe, tmp_path: Path) -> None:
    """Before the model's name is looked at."""
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(AlignError, match=f"{out} cannot be written"):
            run(make("model=/nowhere"), out)
    with pytest.raises(ModelError, match="no folder /nowhere"):
        run(make("model=/nowhere"), tmp_path / "out")


def test_an_encoder_learns_no_task(make: MakeRecipe, minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(AlignError, match="has no LM head for the task"):
        run(make(f"model={minilm}", "alternation=per-update"), tmp_path / "out")


def test_sharded_training_is_refused(make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a configuration of accelerate asks for it; our checkpoints are of whole parameters."""
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    with pytest.raises(AlignError, match="accelerate set to FSDP; expected one process, or data-parallel ones"):
        run(make(), tmp_path / "out")


def test_layers_by_name() -> None:
    assert resolve_layers(("bottom", "middle", "top"), 32) == (8, 16, 32)
    assert resolve_layers(("top", 3, "3", "bottom"), 6) == (1, 3, 6)


# ---- precision, devices, ranks -----------------------------------------------------------------------------------


def test_bf16_has_a_float32_adapter_and_float32_losses(
    make: MakeRecipe, tmp_path: Path, trainings: list[Training]
) -> None:
    """And runs of other precision in one process do not disturb each other."""
    for name, dtype in (("first", "fp32"), ("narrow", "bf16"), ("second", "fp32")):
        run(make(f"dtype={dtype}", "alternation=per-update", "lora.dropout=0"), tmp_path / name)
    assert (tmp_path / "first" / "log.jsonl").read_bytes() == (tmp_path / "second" / "log.jsonl").read_bytes()
    narrow = trainings[1]
    model = narrow.trainable.model
    assert {each.dtype for name, each in model.named_parameters() if "lora_" in name} == {torch.float32}
    assert {each.dtype for name, each in model.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    assert {each.dtype for each in tensors(tmp_path / "narrow").values()} == {torch.float32}
    for wide, note in zip(updates(tmp_path / "first"), updates(tmp_path / "narrow"), strict=True):
        name = note["objectives"][0]
        assert note[name] == pytest.approx(wide[name], rel=0.03)
        assert note[name] != wide[name]
        assert note[name] != float(torch.tensor(note[name]).bfloat16())
    assert narrow._draw("align").pairs is not None
    states = torch.randn(6, 2, 1, 8, dtype=torch.bfloat16)
    assert narrow._alignment_loss(states, narrow._draw("align").pairs, False).dtype == torch.float32


def test_gradient_checkpointing_and_caching_change_no_loss(make: MakeRecipe, tmp_path: Path) -> None:
    def losses(*changes: str) -> list[float]:
        out = tmp_path / "-".join(changes)
        run(make(*changes, "alternation=joint"), out)
        return [note[name] for note in updates(out) for name in ("task", "align")]

    assert losses("gradient_checkpointing=true") == pytest.approx(losses("lora.dropout=0.1"), rel=1e-5)
    cached = losses("lora.dropout=0", "align.cache_chunk=2")
    assert cached == pytest.approx(losses("lora.dropout=0"), rel=1e-5)


def test_tensorboard_gets_the_numbers(make: MakeRecipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    run(make("track=tensorboard"), out)
    (events,) = out.rglob("events.out.tfevents*")
    read = EventAccumulator(str(events))
    read.Reload()
    shown = {each.step: each.value for each in read.Scalars("align")}
    assert shown == pytest.approx({note["update"]: note["align"] for note in updates(out)})
    assert [each.step for each in read.Scalars("development/loss")] == [2, 4]


RANKS = """
import json, math, os, sys
from pathlib import Path
from align.recipe import recipe_from
import align.train
from align.train import Training, train
from probe.errors import AlignError

rank = int(os.environ["RANK"])
recipes = {name: recipe_from(tree) for name, tree in json.loads(Path("recipes.json").read_text()).items()}
step = Training.step

def stopping(self, update):
    if update == 3:
        raise KeyboardInterrupt
    return step(self, update)

def broken(self, states, pairs, gather):
    return contrast(self, states, pairs, gather) * (math.nan if rank == 1 else 1)

contrast = Training._alignment_loss
for name, recipe in recipes.items():
    train(recipe, name, device="cpu")
Training.step = stopping
try:
    train(recipes["resumed"], "parts", device="cpu")
except KeyboardInterrupt:
    Training.step = step
train(recipes["resumed"], "parts", device="cpu")
try:
    Training._alignment_loss = broken
    train(recipes["joint"], "wrong", device="cpu")
except AlignError as error:
    Path(f"error-{rank}.txt").write_text(str(error))
"""

TOGETHER = {
    # name: what both have, what two ranks have, what one process has
    "joint": (("alternation=joint", "align.weight=0.5"), ("micro_batch=6",), ("micro_batch=6",)),
    "per-microbatch": (("alternation=per-microbatch", "batch=24"), ("micro_batch=6",), ("micro_batch=6",)),
    "gathered": (("align.gather_negatives=true", "align.direction=symmetric"), ("micro_batch=6",), ("micro_batch=12",)),
    "cached": (
        ("alternation=joint", "align.gather_negatives=true"),
        ("micro_batch=6", "align.cache_chunk=4"),
        ("micro_batch=12",),
    ),
}


def test_two_ranks_train_as_one_process_does(make: MakeRecipe, tmp_path: Path) -> None:
    """With the same rows and no dropout: the losses and gradient norms of all updates to 1e-5, the adapter to 1e-4 (Frobenius).

    Where both objectives are in an update, an update's last micro-batch does not reach the upper blocks. A run of two
    ranks goes on as one process does, and a rank's loss that is not finite stops both.
    """
    basic = ("updates=4", "batch=12")
    resumed = make(*basic, "lora.dropout=0.3", "alternation=per-update", "batch=24")
    recipes = {name: make(*basic, "lora.dropout=0", *both, *two) for name, (both, two, _) in TOGETHER.items()}
    trees = {name: align.train.as_tree(recipe) for name, recipe in {**recipes, "resumed": resumed}.items()}
    (tmp_path / "recipes.json").write_text(json.dumps(trees))
    (tmp_path / "ranks.py").write_text(RANKS)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "ranks.py")
    done = subprocess.run(
        [sys.executable, *launch], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    for name, (both, _, one) in TOGETHER.items():
        run(make(*basic, "lora.dropout=0", *both, *one), tmp_path / "one" / name)
        here, there = updates(tmp_path / name), updates(tmp_path / "one" / name)
        for note, expected in zip(here, there, strict=True):
            assert set(note["objectives"]) == set(expected["objectives"])
            for key in ("task", "align", "gradient_norm", "lr"):
                assert note.get(key, 0) == pytest.approx(expected.get(key, 0), rel=1e-5), (name, key)
        ended, expected_end = (tensors(base / name / "checkpoint") for base in (tmp_path, tmp_path / "one"))
        away = math.sqrt(sum(float((ended[key] - expected_end[key]).square().sum()) for key in expected_end))
        assert away < 1e-4 * math.sqrt(sum(float(each.square().sum()) for each in expected_end.values())), name
    for file in ("log.jsonl", "adapter_model.safetensors"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()
    for rank in (0, 1):
        assert "update 1, micro-batch of 6 rows" in (tmp_path / f"error-{rank}.txt").read_text()
