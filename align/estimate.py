"""What a command will cost with a model: floating-point operations, time on a GPU and disk, by arithmetic on its structure alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from align.plan import resolve_layers
from align.recipe import Recipe, load_recipe
from align.tasks.translation import directions
from data_manifests import language_sets, languages
from data_manifests.published import language_groups
from data_manifests.reproduction import common
from probe.corpus import resolve_languages
from probe.model import described_model, find_blocks, open_model, text_config
from probe.sources import load_corpus

PEAK, UTILISATION = 989e12, 0.4
BANDWIDTH, BANDWIDTH_SHARE = 3.35e12, 0.5
SEARCH = 30e12
BATCH = 32
ASSUMED = (
    f"one H100: {PEAK / 1e12:.0f} TFLOP/s in bf16, of which {UTILISATION:.0%} are reached; "
    f"generation reads all weights from memory ({BANDWIDTH / 1e12:.2f} TB/s, of which {BANDWIDTH_SHARE:.0%}) once a token of "
    f"{BATCH} answers; retrieval in float32 at {SEARCH / 1e12:.0f} TFLOP/s",
    "2 FLOP a weight and token forward, as many backward (LoRA: none for frozen weights), as many again where blocks are recomputed; "
    "attention's share left out, which is small for sentences; an alignment step ends at its highest block",
    "rows and their bytes are the data sets' means, an answer as long as the right one; every run goes to its last update, and reads "
    "the task's development rows at each evaluation",
)
"""The assumptions, for people."""


@dataclass(frozen=True)
class Structure:
    """What of a model decides the cost of using it."""

    depth: int
    hidden: int
    block: int
    """Weights of a block."""
    head: int
    """Weights of the LM head, which are those of the embeddings where they are tied."""
    weights: int
    """All, with embeddings and head."""
    adapted: int
    """Sum of inputs and outputs over a block's linear layers: rank times that are its LoRA weights."""
    bytes_per_token: float

    def lora(self, rank: int) -> int:
        """Weights of an adapter on all projections."""
        return rank * self.adapted * self.depth


@dataclass(frozen=True)
class Cost:
    """Of a step."""

    flop: float = 0.0
    seconds: float = 0.0
    """On the assumed GPU."""
    disk: float = 0.0
    """Bytes that it leaves."""


@cache
def structure(model: str) -> Structure:
    """Of a described model (`reproduction.yaml`) without reading anything of it, else from its configuration and tokenizer.

    Raises:
        ModelError: an unknown model.
    """
    described = common()["models"].get(model)
    if described:
        skeleton, rate = described_model(described["architecture"]), float(described["bytes_per_token"])
    else:
        source = open_model(model)
        skeleton, sample = source.skeleton, load_corpus("everyday")
        texts = [line for lines in sample.sentences.values() for line in lines]
        tokens = sum(len(source.tokenizer(text)["input_ids"]) for text in texts)
        rate = sum(len(text.encode()) for text in texts) / tokens
    blocks = skeleton.get_submodule(find_blocks(skeleton))
    linear = [module for module in blocks[0].modules() if isinstance(module, nn.Linear)]
    embedded = skeleton.get_input_embeddings().weight.numel()
    total = sum(weight.numel() for weight in skeleton.parameters())
    tied = bool(getattr(skeleton.config, "tie_word_embeddings", False))
    return Structure(
        depth=len(blocks),
        hidden=int(text_config(skeleton).hidden_size),
        block=sum(weight.numel() for weight in blocks[0].parameters()),
        head=embedded,
        weights=total + (0 if tied else embedded),
        adapted=sum(module.in_features + module.out_features for module in linear),
        bytes_per_token=rate,
    )


def cost(command: str, options: Mapping[str, Any], model: Structure) -> Cost:
    """Of a `probe` command.

    Args:
        options: its options by name, defaults included, as its function takes them.

    Returns:
        Nothing of commands that take no GPU and leave small files.
    """
    if command == "extract":
        return _extract(options, model)
    if command == "retrieve":
        return _retrieve(options, model)
    if command == "train":
        return _train(options, model)
    if command == "evaluate":
        return _evaluate(options, model)
    if command == "merge":
        return Cost(disk=4.0 * 2 * model.lora(8))
    return Cost()


def _extract(options: Mapping[str, Any], model: Structure) -> Cost:
    rows = len(_languages(options["langs"], "paper35")) * int(options["limit"] or 997)
    flop = 2.0 * model.block * model.depth * sum(_tokens(rows, "flores200", model))
    return Cost(flop, flop / (PEAK * UTILISATION), 4.0 * rows * (model.depth + 1) * model.hidden)


def _retrieve(options: Mapping[str, Any], model: Structure) -> Cost:
    """Of all layers and, since the store is not there yet, at most the paper's languages and sentences."""
    number, rows = len(_languages(options["langs"], "paper35")), int(options["limit"] or 997)
    layers = model.depth + 1
    flop = 2.0 * number * (number - 1) / 2 * layers * rows**2 * model.hidden
    return Cost(flop, flop / SEARCH, number**2 * rows / 8 * (layers + 2))


def _train(options: Mapping[str, Any], model: Structure) -> Cost:
    recipe = load_recipe(options["recipe"], options["changes"] or [])
    passes = 3 if recipe.gradient_checkpointing else 2
    mixed = {"task": (1.0, 0.0), "align": (0.0, 1.0), "joint": (1.0, 1.0)}.get(recipe.alternation, (0.5, 0.5))
    rows = recipe.updates * recipe.batch
    source = {"slots": "massive", "translation": "alma", "entities": "uner"}.get(recipe.task.name, "massive")
    task = _read(_tokens(mixed[0] * rows, source, model), model)
    top = max(resolve_layers(recipe.align.layers, model.depth), default=0)
    pairs = mixed[1] * rows * _pair_bytes(recipe) / model.bytes_per_token * model.block * top
    developed = _read(_tokens(_development(recipe, source), source, model), model) if mixed[0] else 0.0
    flop = 2.0 * (passes * (task + pairs) + recipe.updates // recipe.evaluate_every * developed)
    return Cost(flop, flop / (PEAK * UTILISATION), 4.0 * 4 * model.lora(recipe.lora.r))


def _read(tokens: tuple[float, float], model: Structure) -> float:
    """Weights times tokens of prompts and answers; the head reads answers alone."""
    return sum(tokens) * model.block * model.depth + tokens[1] * model.head


def _pair_bytes(recipe: Recipe) -> float:
    """Of the first data set that the pairs are named after; of others, as of the paper's."""
    known = {name: float(each["pair"]) for name, each in common()["data"].items() if "pair" in each}
    named = (each for name, each in known.items() if name in " ".join(recipe.align.pairs))
    return next(named, known["tatoeba"])


def _development(recipe: Recipe, source: str) -> float:
    """Rows of a task; of one without a split of its own a tenth of the others."""
    held = common()["data"][source]["rows"]
    each = min(recipe.task.dev_rows or np.inf, held.get("dev", held["train"] / 10))
    sides = 2 if recipe.task.name == "translation" else 1
    return each * sides * len((recipe.task.langs or "en").split(","))


def _evaluate(options: Mapping[str, Any], model: Structure) -> Cost:
    task, source = options["task"], {"slots": "massive", "translation": "wmt23", "entities": "uner"}[options["task"]]
    if task == "translation":
        number = len(directions(options["langs"] or "mt9"))
    elif task == "slots":
        number = len(_languages(options["langs"], "slots20"))
    else:
        number = sum(
            len(codes) for group, codes in language_groups(task).items() if group in ("supervised", "transfer")
        )
    held = common()["data"][source]["rows"]["test"]
    rows = number * min(int(options["limit"] or held), held)
    asked, answered = _tokens(rows, source, model)
    answered = min(answered, rows * float(options["max_new_tokens"]))
    through = model.block * model.depth
    read = 2.0 * through * asked
    said = 2.0 * (through + model.head) * answered
    bandwidth = answered / BATCH * 2.0 * model.weights / (BANDWIDTH * BANDWIDTH_SHARE)
    seconds = read / (PEAK * UTILISATION) + max(said / (PEAK * UTILISATION), bandwidth)
    return Cost(read + said, seconds, rows * 1000.0)


def _languages(given: str | None, default: str) -> Sequence[str]:
    return resolve_languages(given, tuple(languages()), "FLORES-200") if given else language_sets()[default]


def _tokens(rows: float, source: str, model: Structure) -> tuple[float, float]:
    """Of the text, or the prompts, and of the answers."""
    described = common()["data"][source]
    return rows * described["bytes"] / model.bytes_per_token, rows * described.get("answer", 0) / model.bytes_per_token
