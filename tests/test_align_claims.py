"""Claims about training and merging that no other test would miss: each of these fails when its claim is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, get_args

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import align.plan
import align.train
from align.adapter import attach
from align.data import TrainingData, read_training_data
from align.examples import encode_examples, read_examples
from align.loss import info_nce
from align.merge import Method, merge_adapters
from align.pairs import PairSet, read_pairs, split_development
from align.plan import make_plan
from align.recipe import Recipe, load_recipe
from align.sampling import development_rows
from align.search import search_weight
from align.train import Training, learning_rate, train
from align.trainable import IGNORED, TaskBatch, Trainable
from probe.corpus import ParallelCorpus
from probe.errors import AlignError
from probe.extract import Settings, extract_all
from probe.model import ModelSource, load_causal
from probe.results import RetrievalResult
from probe.retrieve import retrieve_all
from probe.sources import load_corpus
from probe.store import ActivationStore
from probe.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"deu_Latn": 62, "spa_Latn": 110}
CPU = torch.device("cpu")

MakeRecipe = Callable[..., Recipe]
Read = Callable[..., TrainingData]
RunProbe = Callable[..., CompletedProcess[str]]
Called = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(everyday: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two language pairs of unequal size with the same English sentences, and 80 task examples of unequal length."""
    place = tmp_path_factory.mktemp("data")
    english = everyday.sentences["eng_Latn"]
    for code, name in (("deu_Latn", "de"), ("spa_Latn", "es")):
        for side, lines in ((name, everyday.sentences[code]), ("en", english)):
            text = "".join(f"{line[:40].replace('.', '')}\n" for line in lines[: ROWS[code]])
            (place / f"toy.{name}-en.{side}").write_text(text, encoding="utf-8")
    rows = [{"prompt": f"{i}?", "response": english[i][: 3 + i % 17]} for i in range(80)]
    (place / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def make(folder: Path) -> MakeRecipe:
    """Updates of 2 micro-batches of 6 rows, without dropout."""

    def recipe(*changes: str) -> Recipe:
        basic = (
            f"align.pairs=[{folder}]", f"task.data={folder / 'task.jsonl'}", "batch=12", "micro_batch=6", "updates=4",
            "evaluate_every=2", "dtype=fp32", "lr=1e-2", "warmup=0.5", "lora.dropout=0",
        )  # fmt: skip
        return load_recipe("align", (*basic, *changes))

    return recipe


@pytest.fixture
def training(make: MakeRecipe, tmp_path: Path) -> Callable[..., Training]:
    def of(*changes: str) -> Training:
        return Training(make_plan(make(*changes), tmp_path, "cpu", False))

    return of


@pytest.fixture
def read(make: MakeRecipe, tiny_source: ModelSource) -> Read:
    def reading(*changes: str) -> TrainingData:
        return read_training_data(make("alternation=joint", *changes), tiny_source)

    return reading


def lora(training: Training) -> dict[str, torch.nn.Parameter]:
    return {name: each for name, each in training.trainable.model.named_parameters() if each.requires_grad}


def values(training: Training) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in lora(training).items()}


# ---- constants -------------------------------------------------------------------------------------------------


def test_the_constants_that_the_papers_recipes_leave_to_the_defaults() -> None:
    recipe = Recipe()
    assert (recipe.clip, recipe.weight_decay, recipe.align.exponent, recipe.align.weight) == (1.0, 0.0, 0.3, 1.0)
    assert (recipe.align.layers, recipe.align.direction, recipe.align.relation) == (
        ("middle",),
        "one-way",
        "to-english",
    )
    assert not recipe.align.gather_negatives
    assert not recipe.align.stop_gradient
    assert not recipe.align.allow_flores
    assert recipe.lora.targets == ("auto",)


# ---- data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_pairs_are_drawn_with_the_exponent_of_the_recipe(exponent: float, read: Read) -> None:
    pairs = read(f"align.exponent={exponent}").sources()["pairs"]
    sizes = np.array([len(each) for each in pairs.train.sets], dtype=float)
    assert sizes[1] > sizes[0]
    np.testing.assert_allclose(pairs.sampler.probabilities, sizes**exponent / (sizes**exponent).sum(), rtol=1e-12)


@pytest.mark.parametrize("name", ["pairs", "task"])
def test_the_seed_of_the_recipe_orders_the_rows(name: str, read: Read) -> None:
    first, again, other = (read(f"seed={seed}").sources()[name].sampler.draw(30).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("relation", "directions"),
    [
        ("to-english", {"deu-eng", "spa-eng"}),
        ("either", {"deu-eng", "spa-eng", "eng-deu", "eng-spa"}),
        ("all", {"deu-eng", "spa-eng", "eng-deu", "eng-spa", "deu-spa", "spa-deu"}),
    ],
)
def test_the_relation_of_the_recipe_chooses_the_directions(relation: str, directions: set[str], read: Read) -> None:
    data = read("align.pairs=[everyday]", "align.langs='eng,deu,spa'", f"align.relation={relation}")
    assert {each.name.replace("_Latn", "") for each in data.sources()["pairs"].train.sets} == directions


def test_no_row_is_longer_than_the_models_context(folder: Path, tmp_path: Path, read: Read) -> None:
    """Whatever max_length allows: the built-in model reads 4,096 tokens of a byte each."""
    for side in ("de", "en"):
        lines = (folder / f"toy.de-en.{side}").read_text(encoding="utf-8").splitlines()
        (tmp_path / f"toy.de-en.{side}").write_text("\n".join([side * 3000, *lines]) + "\n", encoding="utf-8")
    pairs = read(f"align.pairs=[{tmp_path}]", "align.max_length=100000").sources()["pairs"]
    lengths = [len(ids) for rows in (pairs.train, pairs.development) for sides in rows.ids for side in sides for ids in side]  # fmt: skip
    assert max(lengths) == 4096
    (tmp_path / "task.jsonl").write_text(json.dumps({"prompt": "?", "response": "a" * 5000}) + "\n")
    file = tmp_path / "task.jsonl"
    with pytest.raises(AlignError, match="longer than 4096 tokens"):
        read(f"task.data={file}", f"task.dev={file}", "task.max_length=100000")


def test_development_rows_are_those_of_the_lowest_sha256() -> None:
    keys = [f"sentence {number}" for number in range(250)]
    lowest = sorted(keys, key=lambda key: sha256(key.encode()).hexdigest())[:25]
    held_out = development_rows(keys)
    assert {key for key, out in zip(keys, held_out, strict=True) if out} == set(lowest)


def made(source: str, target: str, rows: int = 200) -> PairSet:
    return PairSet(
        source,
        target,
        tuple(f"{source} {number}" for number in range(rows)),
        tuple(f"{target} {number}" for number in range(rows)),
        "made",
    )


def test_pairs_with_the_same_english_hold_out_the_same_sentences() -> None:
    """So that none is lost between the parts."""
    _, development, counts = split_development([made("cym_Latn", "eng_Latn"), made("jav_Latn", "eng_Latn")])
    assert development[0].targets == development[1].targets
    assert [(each.train, each.development, each.shared) for each in counts] == [(180, 20, 0)] * 2


def test_both_directions_of_a_pair_without_english_hold_out_the_same_rows() -> None:
    pair = made("cym_Latn", "jav_Latn")
    _, development, counts = split_development([pair, pair.reversed()])
    assert development[0].sources == development[1].targets
    assert [each.shared for each in counts] == [0, 0]


def test_tables_of_other_languages_are_left_aside(tmp_path: Path) -> None:
    """Also where only their first line tells."""
    for name, code in (("first", "deu"), ("second", "spa")):
        (tmp_path / f"{name}.tsv").write_text(f"{code}\teng\n{code} a\tone\n{code} b\ttwo\n", encoding="utf-8")
    assert [each.name for each in read_pairs(tmp_path)] == ["deu_Latn-eng_Latn", "spa_Latn-eng_Latn"]
    assert [each.name for each in read_pairs(tmp_path, "deu")] == ["deu_Latn-eng_Latn"]


# ---- losses ----------------------------------------------------------------------------------------------------


def test_a_bf16_models_task_loss_is_float32(tiny_source: ModelSource) -> None:
    """Outside autocast too, as where merged adapters are tried."""
    model, loaded = load_causal(tiny_source, torch.bfloat16, CPU)
    ids = torch.arange(3, 43).reshape(4, 10)
    batch = TaskBatch(ids, torch.ones_like(ids, dtype=torch.bool), ids)
    with torch.no_grad():
        nll = Trainable(model, loaded)(task=batch).nll
        logits = model(input_ids=ids).logits[:, :-1]
    assert nll.dtype == torch.float32
    wide = cross_entropy(logits.double().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    assert float(nll) == pytest.approx(float(wide), rel=1e-3)


def test_copies_in_a_training_batch_are_no_negatives(training: Callable[..., Training]) -> None:
    """Of the pairs of two languages, which share their English sentences."""
    made = training("alternation=align", "batch=60", "micro_batch=60")
    pairs = made._draw("align").pairs
    assert pairs is not None
    assert pairs.excluded().any()
    states = torch.randn(60, 2, 1, 16, generator=torch.Generator().manual_seed(1))
    found = made._alignment_loss(states, pairs, gather=False)
    sources, targets = states[:, 0, 0], states[:, 1, 0]
    assert found == pytest.approx(info_nce(sources, targets, 0.1, excluded=pairs.excluded()))
    assert found != pytest.approx(info_nce(sources, targets, 0.1))


def test_the_weight_is_of_joint_alone(training: Callable[..., Training]) -> None:
    norms = [training("alternation=align", f"align.weight={weight}").step(0)["gradient_norm"] for weight in (0.1, 1)]
    assert norms[0] == norms[1] > 0


def test_development_losses_are_means_over_tokens_and_over_pairs(training: Callable[..., Training]) -> None:
    """Not over micro-batches, which are of unequal size and, of tasks, of unequal length. `loss` is the sum of both."""
    made = training("alternation=joint")
    losses = made.evaluate(0)
    model, nll, tokens = made.trainable.model.eval(), 0.0, 0
    task, pairs = made.data.sources()["task"].development, made.data.sources()["pairs"].development
    for ids, labels in task.rows:
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None].long()).logits[0, :-1]
        nll += float(cross_entropy(logits, torch.from_numpy(labels)[1:], reduction="sum"))
        tokens += int((labels[1:] != IGNORED).sum())
    assert losses["task"] == pytest.approx(nll / tokens, rel=1e-5)
    parts, sizes = [], []
    for micro in pairs.in_order(6, seed=0):
        with torch.no_grad():
            states = made.trainable(pairs=micro.batch, layers=made.plan.layers).states
        parts.append(float(info_nce(states[:, 0, 0], states[:, 1, 0], 0.1, excluded=micro.excluded())))
        sizes.append(len(states))
    assert len(set(sizes)) > 1
    assert losses["align"] == pytest.approx(float(np.average(parts, weights=sizes)), rel=1e-5)
    assert losses["loss"] == losses["task"] + losses["align"]


def test_development_negatives_are_those_of_a_micro_batch(
    training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the training gathers, since every rank goes over all rows."""
    made = training("alternation=align", "align.gather_negatives=true")
    alone = made.evaluate(0)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(align.train, "gather_object", lambda *_: pytest.fail("negatives were gathered"))
    assert made.evaluate(0) == alone


# ---- updates ---------------------------------------------------------------------------------------------------


def test_updates_are_those_of_adamw(training: Callable[..., Training]) -> None:
    """By Loshchilov & Hutter's formulas, from the gradients as they are after clipping, with the recipe's decay and rate."""
    made = training("alternation=align", "weight_decay=0.5", "clip=0.05")
    step, seen = made.optimizer.step, []

    def noting() -> None:
        seen.append({name: None if each.grad is None else each.grad.clone() for name, each in lora(made).items()})
        step()

    made.optimizer.step = noting
    expected = values(made)
    first = {name: torch.zeros_like(each) for name, each in expected.items()}
    second = {name: torch.zeros_like(each) for name, each in expected.items()}
    for update in range(3):
        made.step(update)
        rate = learning_rate(update + 1, 1e-2, 2)
        for name, gradient in seen[update].items():
            if gradient is None:
                continue
            expected[name] *= 1 - rate * 0.5
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient.square()
            mean, square = first[name] / (1 - 0.9 ** (update + 1)), second[name] / (1 - 0.999 ** (update + 1))
            expected[name] -= rate * mean / (square.sqrt() + 1e-8)
    for name, value in values(made).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)


def test_an_alignment_update_leaves_the_blocks_above_its_layer_as_the_task_left_them(
    training: Callable[..., Training],
) -> None:
    """The momentum of the task's gradients does not move them on."""
    made = training("alternation=per-update", "align.layers=2")
    made.step(0)
    before = values(made)
    assert made.step(1)["objectives"] == ["align", "align"]
    moved = {int(name.split(".layers.")[1].split(".")[0]) + 1 for name, value in values(made).items() if not torch.equal(value, before[name])}  # fmt: skip
    assert moved == {1, 2}


def test_dropout_and_graphs_are_of_updates_alone(training: Callable[..., Training]) -> None:
    """Of one after an evaluation too."""
    made = training("alternation=align", "lora.dropout=0.5", "align.layers=4")
    seen: set[tuple[bool, bool]] = set()
    dropout = next(module for module in made.trainable.model.modules() if isinstance(module, torch.nn.Dropout))
    dropout.register_forward_hook(
        lambda module, given, output: seen.add((not torch.equal(output, given[0]), torch.is_grad_enabled()))
    )
    assert made.evaluate(0) == made.evaluate(0)
    assert seen == {(False, False)}
    seen.clear()
    made.step(0)
    assert seen == {(True, True)}


def test_a_cached_chunk_is_all_that_has_a_graph(
    training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, bool]] = []
    forward = Trainable.forward

    def counting(self: Trainable, task: Any = None, pairs: Any = None, layers: Sequence[int] = ()) -> Any:
        ran.append((len(pairs.source_ids), torch.is_grad_enabled()))
        return forward(self, task, pairs, layers)

    monkeypatch.setattr(Trainable, "forward", counting)
    training("alternation=align", "align.cache_chunk=4", "batch=6").step(0)
    assert ran == [(4, False), (2, False), (4, True), (2, True)]


def test_gradient_checkpointing_runs_the_blocks_below_the_layer_again(training: Callable[..., Training]) -> None:
    def runs(asked: str) -> Counter[int]:
        made = training("alternation=align", f"gradient_checkpointing={asked}", "align.layers=2")
        ran: Counter[int] = Counter()
        for number, block in enumerate(made.trainable.loaded.blocks, start=1):
            block.self_attn.register_forward_pre_hook(lambda module, given, number=number: ran.update([number]))
        made.step(0)
        return ran

    once = runs("false")
    assert once.keys() == {1, 2}
    assert runs("true") == once + once


@pytest.mark.parametrize("what", ["the adapter", "the dropout"])
def test_the_seed_decides_the_start(what: str, training: Callable[..., Training]) -> None:
    """Whatever random state is around."""

    def start(around: int, seed: int) -> torch.Tensor:
        torch.manual_seed(around)
        made = training("alternation=align", f"seed={seed}")
        return next(iter(values(made).values())) if what == "the adapter" else torch.rand(4)

    first, again, other = start(98, 1), start(99, 1), start(98, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_ranks_start_from_one_adapter_with_dropout_of_their_own(
    training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    for rank in (0, 1):
        monkeypatch.setattr(Accelerator, "process_index", rank)
        starts.append((values(training("alternation=align")), torch.rand(4)))
    assert all(torch.equal(value, starts[1][0][name]) for name, value in starts[0][0].items())
    assert not torch.equal(starts[0][1], starts[1][1])


def test_bf16_training_narrows_the_products_of_the_adapter_and_not_the_adapter(
    training: Callable[..., Training],
) -> None:
    made = training("alternation=align", "dtype=bf16")
    layer = made.trainable.loaded.blocks[0].self_attn.q_proj.lora_A["default"]
    dtypes: set[torch.dtype] = set()
    layer.register_forward_hook(lambda module, given, output: dtypes.add(output.dtype))
    made.step(0)
    assert dtypes == {torch.bfloat16}
    assert layer.weight.dtype == torch.float32


def test_the_lora_is_as_the_recipe_says(training: Callable[..., Training]) -> None:
    changes = ("lora.r=3", "lora.alpha=5", "lora.dropout=0.4", "lora.targets=[q_proj, down_proj]", "lora.rslora=true")
    made = training("alternation=align", *changes)
    layers = {name.rpartition(".")[2]: module for name, module in made.trainable.model.named_modules() if hasattr(module, "lora_A")}  # fmt: skip
    assert layers.keys() == {"q_proj", "down_proj"}
    for layer in layers.values():
        assert len(layer.lora_A["default"].weight) == 3
        assert layer.scaling["default"] == pytest.approx(5 / 3**0.5)
        assert layer.lora_dropout["default"].p == 0.4
    assert made.size == sum(each.numel() for each in lora(made).values())


# ---- what is told and kept -------------------------------------------------------------------------------------


def test_a_development_loss_that_is_not_finite_is_told(training: Callable[..., Training]) -> None:
    made = training("alternation=align", "align.layers=1")
    for parameter in lora(made).values():
        parameter.data.fill_(torch.inf)
    with pytest.raises(AlignError, match="evaluation after update 7, align loss nan; expected a finite loss"):
        made.evaluate(7)


def test_the_card_states_layers_temperature_data_and_results(make: MakeRecipe, tmp_path: Path) -> None:
    """Where a reader looks for them: the recipe below holds some of the same words."""
    changes = ("alternation=align", "align.layers=[1, 3]", "align.temperature=0.7", "updates=3")
    result = train(make(*changes), tmp_path / "out", device="cpu")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head, data, results, recipe, _ = card.split("\n## ", 4)
    assert "* Alignment layer: 1, 3\n* Temperature: 0.7\n" in head
    assert "Aligned at block 1, 3 with parallel sentences" in head
    assert f"| deu_Latn-eng_Latn (toy.de-en.de) | {ROWS['deu_Latn'] - 20} | unknown |" in data
    assert f"| {result.best_update} | {result.development['align']} |" in results
    assert "temperature: 0.7" in recipe
    notes = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [note["update"] for note in notes if "development" in note] == [2, 3]
    assert notes[0]["trainable_parameters"] == 34_816  # of 4 blocks: r (in + out) of 4 x (64, 64), 3 x (64, 128)


def test_what_a_killed_run_noted_after_its_checkpoint_is_noted_once(make: MakeRecipe, tmp_path: Path) -> None:
    """Also where the line was written whole."""

    def killed(note: dict[str, Any]) -> None:
        if note["update"] == 3:
            raise KeyboardInterrupt

    recipe = make("alternation=align", "updates=4")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, device="cpu", observe=killed)
    train(recipe, tmp_path, device="cpu")
    notes = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [note["update"] for note in notes] == [0, 1, 2, 2, 3, 4, 4]


@pytest.mark.filterwarnings("ignore:.*no supported trackers")
def test_a_tracker_is_told_what_the_log_is(make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not TensorBoard is installed: what accelerate would hand on to it."""
    told: list[tuple[int, dict[str, float]]] = []
    monkeypatch.setattr(align.plan, "find_spec", lambda name: name)
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, *_, **__: None)
    monkeypatch.setattr(Accelerator, "log", lambda self, numbers, step: told.append((step, numbers)))
    train(make("track=tensorboard", "alternation=joint", "updates=2"), tmp_path, device="cpu")
    notes = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    names = ("task", "align", "lr", "gradient_norm")
    expected: list[tuple[int, dict[str, float]]] = [
        (note["update"], {name: note[name] for name in names}) for note in notes if "objectives" in note
    ]
    developed = {f"development/{name}": loss for name, loss in notes[-1]["development"].items()}
    assert told == [*expected, (2, developed)]
    assert developed.keys() == {"development/task", "development/align", "development/loss"}


def test_a_run_does_not_go_on_with_other_weights_of_the_same_name(make: MakeRecipe, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    model = tiny_model()
    model.save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    recipe = make("alternation=align", f"model={base}", "updates=1")
    train(recipe, out, device="cpu")
    before = (out / "adapter_model.safetensors").read_bytes()
    model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    model.save_pretrained(base)
    with pytest.raises(AlignError, match=r"holds a run with another model\.weights \(\w+, now \w+\); expected"):
        train(recipe, out, device="cpu")
    assert (out / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("name", "before", "now"), [("processes", 2, 1), ("dtype", "bfloat16", "float32")])
def test_a_run_does_not_go_on_elsewhere_with_what_its_recipe_leaves_open(
    name: str, before: Any, now: Any, make: MakeRecipe, tmp_path: Path
) -> None:
    """As one that was begun by two processes, or where `dtype: auto` meant another."""
    recipe = make("alternation=align", "updates=1")
    train(recipe, tmp_path, device="cpu")
    begun = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))
    assert begun[name] == now
    (tmp_path / "recipe.json").write_text(json.dumps({**begun, name: before}), encoding="utf-8")
    with pytest.raises(AlignError, match=rf"holds a run with another {name} \({before}, now {now}\); expected"):
        train(recipe, tmp_path, device="cpu")


def test_patience_goes_on_where_a_killed_run_was(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first evaluation is the best; killed after one that is not, the run stops after one more."""

    def worse(self: Training, update: int) -> dict[str, float]:
        return {"align": float(update), "loss": float(update)}

    def killed(note: dict[str, Any]) -> None:
        if note["update"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "evaluate", worse)
    recipe = make("alternation=align", "updates=20", "evaluate_every=1", "patience=2", "batch=6")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, device="cpu", observe=killed)
    result = train(recipe, tmp_path, device="cpu")
    assert (result.updates, result.best_update, result.development["loss"]) == (3, 1, 1.0)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")]
)
def test_every_end_of_memory_names_what_to_lower(
    error: Exception, make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Training, update: int) -> Any:
        raise error

    monkeypatch.setattr(Training, "step", step)
    with pytest.raises(AlignError, match=r"out of memory at micro_batch 6; .*give --set .*micro_batch=3"):
        train(make("alternation=align"), tmp_path, device="cpu")


def test_a_folder_without_write_permission_is_refused_at_once(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read. The system's answer is made up, since it lets root write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode & os.W_OK))
    with pytest.raises(AlignError, match=rf"^{tmp_path} cannot be written \(no permission\); expected"):
        train(make("model=/nowhere"), tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


# ---- merging ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_adapters(training: Callable[..., Training], tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "task", tmp_path / "aligned"
    for seed, folder in enumerate(folders):
        made = training("alternation=align", "lora.targets=[q_proj]", "lora.dropout=0.5")
        for parameter in lora(made).values():
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        made.save_adapter(folder)
    return folders


def products(folder: Path) -> dict[str, torch.Tensor]:
    """What the adapter adds to each weight."""
    description = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name: description["lora_alpha"] / description["r"] * tensors[name.replace("_A.", "_B.")] @ tensors[name]
        for name in tensors
        if "lora_A" in name
    }


def test_the_command_merges_exactly_with_nine_tenths_of_the_task(
    two_adapters: tuple[Path, Path], tmp_path: Path, run_probe: RunProbe
) -> None:
    """By its defaults."""
    done = run_probe("merge", *two_adapters, "--out", "merged")
    assert done.returncode == 0, done.stderr
    task, aligned, merged = (products(folder) for folder in (*two_adapters, tmp_path / "merged"))
    assert len(merged) == 4
    for name, found in merged.items():
        torch.testing.assert_close(found, 0.9 * task[name] + 0.1 * aligned[name], rtol=1e-5, atol=1e-4)


def test_merging_builds_no_model(
    two_adapters: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self, *_, **__: pytest.fail(f"{type(self)} was built"))
    for method in get_args(Method):
        merge_adapters(*two_adapters, tmp_path / method, 0.5, method)


@pytest.mark.parametrize(("method", "rank"), [("exact", None), ("linear", None), ("svd", 1)])
def test_the_search_tells_the_mean_loss_of_a_response_token(
    method: Method,
    rank: int | None,
    two_adapters: tuple[Path, Path],
    folder: Path,
    tmp_path: Path,
    tiny_source: ModelSource,
) -> None:
    """Of each weight, with the adapter that this method would save; without dropout."""
    data = tmp_path / "dev.jsonl"
    lines = (folder / "task.jsonl").read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join(lines[:16]) + "\n", encoding="utf-8")
    found = search_weight(
        *two_adapters, [0.25, 0.75], model="builtin:tiny", task_data=data, method=method, rank=rank, device="cpu", dtype="fp32"
    )  # fmt: skip
    for weight in (0.25, 0.75):
        merge_adapters(*two_adapters, tmp_path / "merged", weight, method, rank)
        model, loaded = load_causal(tiny_source, torch.float32, CPU)
        attach(loaded, tmp_path / "merged")
        nll, tokens = 0.0, 0
        for example in encode_examples(tiny_source.tokenizer, read_examples(data), 1024):
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(example.ids)[None]).logits[0, :-1]
            nll += float(cross_entropy(logits, torch.from_numpy(example.labels)[1:], reduction="sum"))
            tokens += example.responses
        assert found[weight] == pytest.approx(nll / tokens, rel=1e-5)
    assert found[0.25] != pytest.approx(found[0.75], rel=1e-3)


# ---- probing again ---------------------------------------------------------------------------------------------


@pytest.fixture
def called(tmp_path: Path) -> Called:
    """The command line after some lines of Python, in a process of its own."""

    def call(before: str, *arguments: str) -> CompletedProcess[str]:
        command = [sys.executable, "-c", f"import probe.cli\n{before}\nprobe.cli.main()", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return call


WITHOUT_DRAWING = """
from types import SimpleNamespace
probe.cli._compare_and_draw = lambda *given, **_: SimpleNamespace(as_json=lambda: {"given": list(map(str, given))})
"""


def test_reprobe_asks_what_the_base_was_asked(
    two_adapters: tuple[Path, Path], toy: ParallelCorpus, tmp_path: Path, called: Called
) -> None:
    """Where nothing is as by default: of every setting only the adapter is another. The drawing is left out."""
    text = tmp_path / "text"
    text.mkdir()
    for code, lines in toy.sentences.items():
        (text / f"{code}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    texts = load_corpus(str(text), "eng_Latn,rus_Cyrl,arb_Arab")
    asked = Settings("1,3", ("weighted", "last"), "float16", "raw", batch_tokens=300, truncate=True)
    store = extract_all("builtin:tiny", texts, tmp_path / "store", settings=asked, dtype="bf16", device="cpu")
    base = retrieve_all(
        store, k=3, margin="distance", backend="torch", device="cpu", pool="last", limit=20, centre=True, controls=False, out=tmp_path / "base"
    )  # fmt: skip
    command = ("reprobe", "--base", "base", "--adapter", "task", "--corpus", "text", "--aligned", "rus_Cyrl")
    done = called(WITHOUT_DRAWING, *command, "--out", "again", "--backend", "torch", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    assert {"base", "again/result", "task", "rus_Cyrl"} <= set(json.loads(done.stdout)["given"])
    again = RetrievalResult.load(tmp_path / "again" / "result")
    assert (again.languages, again.rows, sorted(again.layers)) == (base.languages, 20, [1, 3])
    assert not again.controls
    settings = [dict(result.settings) for result in (base, again)]
    models = [dict(each.pop("model")) for each in settings]
    assert {name for name in models[0] if models[0][name] != models[1][name]} == {"adapter"}
    changed = {name for name in settings[0].keys() | settings[1].keys() if settings[0].get(name) != settings[1].get(name)}  # fmt: skip
    assert changed == {"command", "store"}, {name: [each.get(name) for each in settings] for name in changed}
    assert (again.settings["pooling"], again.settings["dtype"]) == ("last", "bfloat16")


UP_TO_THE_DRAWING = """
def drawn(*given, **options):
    raise SystemExit(0)
probe.cli._compare_and_draw = drawn
"""


def test_the_demo_aligns_the_middle_on_one_half_and_probes_the_adapter_on_the_other(
    everyday: ParallelCorpus, tmp_path: Path, called: Called
) -> None:
    """Up to the drawing."""
    done = called(UP_TO_THE_DRAWING, "demo", "--updates", "1")
    assert done.returncode == 0, done.stderr
    demo = tmp_path / "demo"
    assert json.loads((demo / "adapter" / "recipe.json").read_text(encoding="utf-8"))["layers"] == [3]
    base, aligned = (ActivationStore.open(demo / f"{name}-store") for name in ("base", "aligned"))
    assert base.manifest["model"]["adapter"] is None
    assert aligned.manifest["model"]["adapter"] is not None
    for code in everyday.languages:
        trained = (demo / "train-text" / f"{code}.txt").read_text(encoding="utf-8").splitlines()
        probed = aligned.text(code) or ()
        assert len(trained) == len(probed) == 64
        assert sorted([*trained, *probed]) == sorted(everyday.sentences[code])
