"""Sharded training: two gloo ranks that share out the weights train as one process does, and go on after a kill."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel

import align.train
from align.adapter import read_adapter
from align.recipe import Recipe, as_tree, load_recipe
from align.train import train
from probe.corpus import ParallelCorpus
from probe.errors import AlignError
from probe.tiny import tiny_causal_model

ROOT = Path(__file__).resolve().parents[1]

MakeRecipe = Callable[..., Recipe]


class Case(NamedTuple):
    """A run of two ranks, and the run of one process that it is to equal."""

    both: tuple[str, ...]
    ranks: tuple[str, ...]
    alone: tuple[str, ...]
    reductions: int
    """Of gradients over ranks: one a block that has gradients and update, however many micro-batches and chunks."""


CASES = {
    "per-update": Case(("alternation=per-update", "updates=4", "batch=24"), (), (), 2 * 4 + 2 * 2),
    "joint": Case(("alternation=joint", "align.weight=0.5"), ("gradient_checkpointing=true",), (), 2 * 4),
    "gathered": Case(("align.gather_negatives=true", "align.direction=symmetric"), (), ("micro_batch=12",), 2 * 2),
    "cached": Case(
        ("alternation=joint", "align.gather_negatives=true", "batch=24"),
        ("align.cache_chunk=4",),
        ("micro_batch=12",),
        2 * 4,
    ),
    "per-microbatch in bf16": Case(("alternation=per-microbatch", "batch=24", "dtype=bf16"), (), (), 2 * 4),
}

RANKS = """
import json, math, os, signal
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import align.train
from align.recipe import recipe_from
from align.train import Training, train
from probe.errors import AlignError

rank = int(os.environ["RANK"])
recipes = {name: recipe_from(tree) for name, tree in json.loads(Path("recipes.json").read_text()).items()}
runs, calls = [], []


class Kept(Training):
    def __init__(self, plan):
        super().__init__(plan)
        runs.append(self)


def counting(module, name):
    function = getattr(module, name)

    def counted(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)

    setattr(module, name, counted)


def local(parameter):
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def facts(training):
    model = training.trainable.model
    parts = {name: each for name, each in model.named_parameters() if ".layers." in name}
    return {
        "units": [name for name, module in training.model.named_modules() if isinstance(module, FSDPModule)],
        "order": [block.self_attn.layer_idx for block in training.trainable.loaded.blocks],
        "held": sum(local(each).numel() for each in parts.values()) / sum(each.numel() for each in parts.values()),
        "dtypes": {kind: sorted({str(each.dtype) for name, each in parts.items() if (kind in name)}) for kind in ("lora_", "layernorm", "base_layer")},
        "reductions": sum("reduce_scatter" in name for name in calls),
        "saved": calls.count("save_adapter"),
    }


align.train.Training = Kept
counting(align.train, "save_adapter")
counting(dist, "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor")
told = {}
for name, recipe in recipes.items():
    calls.clear()
    train(recipe, name, device="cpu")
    told[name] = facts(runs[-1])
    every = {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in runs[-1].trainable.model.named_parameters()}
    torch.save({name: each.detach() for name, each in every.items() if "lora_" not in name}, f"{name}-{rank}.pt")
Path(f"facts-{rank}.json").write_text(json.dumps(told))

contrast, step = Training._alignment_loss, Training.step
Training._alignment_loss = lambda self, *given: contrast(self, *given) * (math.nan if rank == 1 else 1)
try:
    train(recipes["joint"], "wrong", device="cpu")
except AlignError as error:
    Path(f"error-{rank}.txt").write_text(str(error))
Training._alignment_loss = contrast


def killed(self, update):
    if update == 3 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, update)


Training.step = killed
train(recipes["whole"], "parts", device="cpu")
"""


@pytest.fixture(scope="module")
def make(everyday: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """A small recipe: 2 updates of 6 rows a rank, on two language pairs and a task with responses of unequal length."""
    data = tmp_path_factory.mktemp("data")
    english = everyday.sentences["eng_Latn"]
    for code, name in (("deu_Latn", "de"), ("spa_Latn", "es")):
        for side, lines in ((name, everyday.sentences[code]), ("en", english)):
            (data / f"toy.{name}-en.{side}").write_text("\n".join(line[:24] for line in lines[:50]) + "\n")
    rows = [{"prompt": f"{i}?", "response": english[i][: 3 + i % 17]} for i in range(60)]
    (data / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(*changes: str) -> Recipe:
        basic = (
            f"align.pairs=[{data}]", f"task.data={data / 'task.jsonl'}", "batch=12", "micro_batch=6", "updates=2",
            "evaluate_every=4", "dtype=fp32", "lr=1e-3", "warmup=0.5", "lora.dropout=0",
        )  # fmt: skip
        return load_recipe("align", (*basic, *changes))

    return recipe


class Ranks(NamedTuple):
    """What two ranks left: runs by name, one that was killed, and one of the command line that went on with it."""

    folder: Path
    facts: tuple[dict[str, Any], dict[str, Any]]
    killed: subprocess.CompletedProcess[str]
    checkpoint: int
    resumed: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def ranks(make: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks")
    recipes = {name: make("sharding=fsdp", *case.both, *case.ranks) for name, case in CASES.items()}
    recipes["whole"] = make("sharding=fsdp", "alternation=per-update", "updates=4", "evaluate_every=2", "lora.dropout=0.3")  # fmt: skip
    trees = {name: as_tree(recipe) for name, recipe in recipes.items()}
    (folder / "recipes.json").write_text(json.dumps(trees))
    (folder / "whole.yaml").write_text(json.dumps(trees["whole"]))
    (folder / "ranks.py").write_text(RANKS)
    killed = launched(folder, "ranks.py")
    assert (folder / "parts" / "checkpoint").is_dir(), killed.stderr[-4000:]
    standing = json.loads((folder / "parts" / "checkpoint" / "state.json").read_text())["standing"]
    resumed = launched(folder, "-m", "probe", "train", "--recipe", "whole.yaml", "--device", "cpu", "--out", "parts")
    facts = [json.loads((folder / f"facts-{rank}.json").read_text()) for rank in (0, 1)]
    return Ranks(folder, (facts[0], facts[1]), killed, standing["update"], resumed)


def launched(folder: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """By torchrun, as two ranks on the CPU of this machine."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def alone(make: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a case's run in one process."""
    folder = tmp_path_factory.mktemp("alone")

    def run(name: str) -> Path:
        case = CASES[name]
        return train(make(*case.both, *case.alone), folder / name, device="cpu").adapter

    return run


def notes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def away(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Distance over length, all tensors together."""
    assert found.keys() == expected.keys()
    distance = sum(float((found[key] - expected[key]).square().sum()) for key in expected)
    return math.sqrt(distance / sum(float(each.square().sum()) for each in expected.values()))


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_that_share_out_the_weights_train_as_one_process(
    name: str, ranks: Ranks, alone: Callable[[str], Path]
) -> None:
    """The same rows without dropout: losses, norms, adapter and moments to 1e-5, as many steps of each parameter.

    Gradients cross ranks once an update, whether or not its last micro-batch reaches the upper blocks.
    """
    case, found, expected = CASES[name], ranks.folder / name, alone(name)
    for here, there in zip(notes(found), notes(expected), strict=True):
        here, there = ({**note, **note.get("development", {})} for note in (here, there))
        negatives = {"align", "loss"} if "development" in here and case.alone else set()  # a development batch's size
        for key in {"task", "align", "gradient_norm", "lr", "loss"} & there.keys() - negatives:
            assert here[key] == pytest.approx(there[key], rel=1e-5), (here["update"], key)
    assert away(read_adapter(found / "checkpoint")[1], read_adapter(expected / "checkpoint")[1]) < 1e-5
    moved, stood = (torch.load(base / "checkpoint" / "optimizer.pt")["state"] for base in (found, expected))
    assert {key: float(each["step"]) for key, each in moved.items()} == {key: float(each["step"]) for key, each in stood.items()}  # fmt: skip
    for moment in ("exp_avg", "exp_avg_sq"):
        pair = ({key: each[moment] for key, each in held.items()} for held in (moved, stood))
        assert away(*pair) < (5e-4 if "bf16" in name else 1e-5)  # a last bit may fall the other way in bf16
    assert [facts[name]["reductions"] for facts in ranks.facts] == [case.reductions] * 2


@pytest.mark.parametrize("name", CASES)
def test_each_rank_holds_half_of_every_block_as_it_was(name: str, ranks: Ranks) -> None:
    """Between passes, in their order; frozen weights in the run's dtype, bit for bit what they were; one rank writes."""
    narrow = {True: "torch.bfloat16", False: "torch.float32"}["bf16" in name]
    for rank, facts in enumerate(each[name] for each in ranks.facts):
        assert facts["units"] == ["", *(f"model.model.layers.{block}" for block in range(4))]
        assert facts["order"] == [0, 1, 2, 3]
        assert facts["held"] == 0.5
        assert facts["dtypes"] == {"lora_": ["torch.float32"], "layernorm": [narrow], "base_layer": [narrow]}
        assert (facts["saved"] > 0) == (rank == 0)
        frozen = torch.load(ranks.folder / f"{name}-{rank}.pt")
        before = tiny_causal_model().to(torch.bfloat16 if "bf16" in name else torch.float32).named_parameters()
        there = dict(before)
        assert {key.replace(".base_layer", "") for key in frozen} == there.keys()
        assert all(torch.equal(each, there[key.replace(".base_layer", "")]) for key, each in frozen.items())


def test_the_adapter_is_loaded_by_plain_peft(ranks: Ranks, alone: Callable[[str], Path]) -> None:
    """And gives the logits of the adapter that one process trained."""
    ids = torch.arange(3, 40)[None]
    folders = (ranks.folder / "joint", alone("joint"))
    models = [PeftModel.from_pretrained(tiny_causal_model(), str(folder)).eval() for folder in folders]
    logits = [model(input_ids=ids).logits for model in models]
    assert (logits[1] - tiny_causal_model()(input_ids=ids).logits).abs().max() > 1e-2
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_a_killed_run_goes_on_as_if_it_had_not_been(ranks: Ranks) -> None:
    """SIGKILL of one rank after the third of four updates, with dropout, and a checkpoint of the second: byte for byte."""
    assert ranks.killed.returncode != 0
    assert "SIGKILL" in ranks.killed.stderr
    assert ranks.checkpoint == 2
    assert ranks.resumed.returncode == 0, ranks.resumed.stderr[-4000:]
    assert "best at update" in ranks.resumed.stdout
    parts, whole = ranks.folder / "parts", ranks.folder / "whole"
    files = (
        "log.jsonl",
        "adapter_model.safetensors",
        "checkpoint/adapter_model.safetensors",
        "checkpoint/optimizer.pt",
    )
    for file in files:
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_loss_of_one_rank_that_is_not_finite_stops_all(ranks: Ranks) -> None:
    told = {(ranks.folder / f"error-{rank}.txt").read_text() for rank in (0, 1)}
    assert len(told) == 1
    assert "update 1, micro-batch of 6 rows" in told.pop()
    assert not (ranks.folder / "wrong" / "checkpoint").exists()


def test_one_process_has_nobody_to_share_with(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align.train, "load_trainable", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(AlignError, match=r"^sharding: fsdp in one process; expected several.*torchrun") as refused:
        train(make("sharding=fsdp"), tmp_path / "out", device="cpu")
    assert "\n" not in str(refused.value)
    with pytest.raises(AlignError, match="sharding: 'zero'; expected one of none, fsdp"):
        make("sharding=zero")
