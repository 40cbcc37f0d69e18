"""Recipes: everything that decides a training run, as YAML; unknown keys are refused, every constant names its source."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from data_manifests import recipe_names, recipe_text
from probe.errors import AlignError

_CODE = "authors' code, dannigt/mid-align @ c3fa8ef"
_SCRIPT = f"paper; {_CODE}, scripts/train_with_alignment.sh"
_LORA = f"paper; {_CODE}, config/lora_config.json"


def _constant(default: Any, source: str) -> Any:
    """A field with the source of its default, which `--show` prints."""
    return field(default=default, metadata={"source": source})


@dataclass(frozen=True)
class Lora:
    """The adapter."""

    r: int = _constant(8, _LORA)
    alpha: int = _constant(16, _LORA)
    dropout: float = _constant(0.1, _LORA)
    targets: tuple[str, ...] = _constant(
        ("auto",), "paper: all attention and linear projections; auto finds their names"
    )
    rslora: bool = _constant(False, "PEFT's default")


@dataclass(frozen=True)
class Alignment:
    """The contrastive objective between parallel sentences (paper, eq. 1)."""

    pairs: tuple[str, ...] = _constant((), "yours: folders, files or named corpora of parallel text")
    langs: str | None = _constant(None, "yours: of those, these languages only")
    rows: int | None = _constant(None, "yours: of each set of pairs the first N, before the filters; null: all")
    relation: Literal["to-english", "either", "all"] = _constant("to-english", _CODE)
    exponent: float = _constant(0.3, "near-uniform over language pairs: pairs are drawn in proportion to n ** exponent")
    layers: tuple[int | str, ...] = _constant(("middle",), "paper, section 3: the middle block, 16 of 32")
    temperature: float = _constant(0.1, "paper: searched in 0.1, 1.0, 1.5, 2.0; 0.1 for Llama 3, 1.5 for Qwen 2.5")
    direction: Literal["one-way", "symmetric"] = _constant("one-way", f"{_CODE}: soft-max over the English sides")
    stop_gradient: bool = _constant(
        False, "no gradient through the targets, English in to-english; paper: it did not help"
    )
    weight: float = _constant(1.0, "of this loss beside the task's in `joint`")
    gather_negatives: bool = _constant(False, f"{_CODE}: negatives of the own micro-batch; true: of all ranks'")
    cache_chunk: int | None = _constant(
        None, "pairs a forward pass under gradient caching (Gao et al. 2021); null: none"
    )
    max_length: int = _constant(512, "tokens; longer sentences are cut")
    allow_flores: bool = _constant(
        False,
        "evaluation data, refused, and its English sentences left out of others: probing what was trained on says nothing",
    )


@dataclass(frozen=True)
class Task:
    """The task objective: causal language modelling of responses."""

    name: Literal["jsonl", "slots", "translation", "entities"] = _constant(
        "jsonl", "yours: jsonl of {messages} or {prompt, response}, or a task as `probe evaluate` knows it"
    )
    data: str | None = _constant(None, "yours: the file, or the task's data")
    dev: str | None = _constant(
        None, "yours: jsonl for development; null: 10 % of the data by hash, of slots and entities their dev split"
    )
    langs: str | None = _constant(None, "of a named task: its languages; null: those that the paper supervises")
    style: str | None = _constant(None, "of slots: fine-tuned, as-run or zero-shot prompts; null: fine-tuned")
    template: str | None = _constant(
        None, "of entities: a file with the user's turn, as of probe evaluate --template; null: midprobe's own words"
    )
    rows: int | None = _constant(None, "of a named task: the first N rows to train on of each language; null: all")
    dev_rows: int | None = _constant(
        None, "of slots and entities: the first N development rows of each language, for small runs; null: all"
    )
    keep_overlap: bool = _constant(
        False, "of translation: rows that hold a sentence of FLORES-200, as ALMA's do, stay; without: they are left out"
    )
    max_length: int = _constant(1024, "tokens; longer examples are refused")


@dataclass(frozen=True)
class Recipe:
    """A training run."""

    model: str = _constant("builtin:tiny", "yours: hub id, local folder, builtin:lab or builtin:tiny")
    revision: str | None = _constant(None, "of a hub model")
    alternation: Literal["per-update", "per-microbatch", "joint", "task", "align"] = _constant(
        "per-update", "paper: each update optimises one objective; per-microbatch is what the authors' code does"
    )
    align: Alignment = field(default_factory=Alignment)
    task: Task = field(default_factory=Task)
    lora: Lora = field(default_factory=Lora)
    batch: int = _constant(128, f"rows an update, of all ranks; {_SCRIPT}")
    micro_batch: int = _constant(32, f"rows a forward pass of a rank, and so the negatives; {_SCRIPT}")
    updates: int = _constant(2000, "yours: at most this many")
    lr: float = _constant(5e-4, _SCRIPT)
    warmup: float = _constant(0.03, _SCRIPT)
    clip: float = _constant(1.0, "transformers' default, as in the authors' runs")
    weight_decay: float = _constant(0.0, "transformers' default, as in the authors' runs")
    evaluate_every: int = _constant(200, _SCRIPT)
    patience: int = _constant(5, _SCRIPT)
    select: Literal["sum", "task", "align"] = _constant(
        "sum", f"{_CODE}: the best adapter is that of the lowest sum of the development losses that there are"
    )
    dtype: Literal["auto", "bf16", "fp32"] = _constant("auto", "bf16 where the hardware is faster with it")
    gradient_checkpointing: bool = _constant(
        False, "recomputes each block in the backward pass: less memory, a third slower"
    )
    sharding: Literal["none", "fsdp"] = _constant(
        "none", "fsdp: the processes of torchrun share out the weights, for a model that one device cannot hold"
    )
    seed: int = _constant(1, _SCRIPT)
    track: Literal["none", "tensorboard", "wandb"] = _constant("none", "beside log.jsonl")

    def __post_init__(self) -> None:
        """Raises:
        AlignError: a value out of its range.
        """
        self._refuse_out_of_range()
        self._refuse_contradictions()
        self._refuse_keys_of_other_tasks()

    def _refuse_out_of_range(self) -> None:
        positive = {
            "align.temperature": self.align.temperature,
            "align.max_length": self.align.max_length,
            "task.max_length": self.task.max_length,
            "updates": self.updates,
            "lr": self.lr,
            "lora.r": self.lora.r,
            "batch": self.batch,
            "micro_batch": self.micro_batch,
            "evaluate_every": self.evaluate_every,
            "patience": self.patience,
            "clip": self.clip,
        }
        if self.align.cache_chunk is not None:
            positive["align.cache_chunk"] = self.align.cache_chunk
        counts = {"align.rows": self.align.rows, "task.rows": self.task.rows, "task.dev_rows": self.task.dev_rows}
        positive |= {name: count for name, count in counts.items() if count is not None}
        for name, value in positive.items():
            if not value > 0:
                raise AlignError(f"{name}: {value}", "more than 0", f"give --set {name}=...")
        not_negative = {"align.weight": self.align.weight, "weight_decay": self.weight_decay, "seed": self.seed}
        for name, value in not_negative.items():
            if not value >= 0:
                raise AlignError(f"{name}: {value}", "0 or more", f"give --set {name}=...")
        if not 0 < self.warmup < 1 or not 0 <= self.lora.dropout < 1:
            raise AlignError(
                f"warmup: {self.warmup}, lora.dropout: {self.lora.dropout}",
                "shares in 0..1, the warm-up above 0, since it is the time scale of the decay",
                "mend the recipe",
            )

    def _refuse_contradictions(self) -> None:
        wants_pairs = self.alternation != "task"
        if wants_pairs and self.micro_batch < 2:
            raise AlignError(
                f"micro_batch: {self.micro_batch}",
                "at least 2, since one pair has no negatives",
                "give --set micro_batch=...",
            )
        if self.select != "sum" and self.alternation in {"task", "align"} - {self.select}:
            raise AlignError(
                f"select: {self.select} with alternation {self.alternation}, which has no such loss",
                "sum, or the objective that is trained",
                "give --set select=sum",
            )
        if wants_pairs and not self.align.layers:
            raise AlignError("align.layers: []", "at least one block", "give --set align.layers=[middle]")

    def _refuse_keys_of_other_tasks(self) -> None:
        if self.task.name == "jsonl" and self.task.langs is not None:
            raise AlignError(
                f"task.langs: {self.task.langs} of a jsonl file",
                "a task by name",
                "give --set task.name=..., or leave it out",
            )
        if self.task.name == "jsonl" and self.task.rows is not None:
            raise AlignError(f"task.rows: {self.task.rows} of a jsonl file", "a task by name", "leave task.rows out")
        if self.task.name not in ("slots", "entities") and self.task.dev_rows is not None:
            raise AlignError(
                f"task.dev_rows: {self.task.dev_rows} of {self.task.name}",
                "slots or entities, which have development rows of their own",
                "leave task.dev_rows out",
            )
        for key, owner in (("style", "slots"), ("template", "entities")):
            value = getattr(self.task, key)
            if value is not None and self.task.name != owner:
                raise AlignError(
                    f"task.{key}: {value} of {self.task.name}", f"the task {owner}", f"leave task.{key} out"
                )
        if self.task.name != "translation" and self.task.keep_overlap:
            raise AlignError(
                f"task.keep_overlap of {self.task.name}", "the task translation", "leave task.keep_overlap out"
            )
        if self.task.name != "jsonl" and self.task.dev is not None:
            raise AlignError(
                f"task.dev of {self.task.name}",
                "jsonl alone to have a file of its own for development",
                "leave task.dev out",
            )

    def require_data(self) -> None:
        """Raises:
        AlignError: an objective without its data, which no recipe that comes with midprobe names.
        """
        if self.alternation != "task" and not self.align.pairs:
            raise AlignError("a recipe without align.pairs", "parallel text", "give --set align.pairs=[FOLDER]")
        if self.alternation != "align" and not self.task.data:
            raise AlignError(
                f"alternation {self.alternation} without task.data",
                "jsonl of examples, or the data of task.name",
                "give --set task.data=FILE, or --set alternation=align",
            )


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, with `key=value` changes (dots for nested keys, YAML values).

    Raises:
        AlignError: no such recipe, an unknown key, or a value of another type.
    """
    tree = _read(name)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise AlignError(f"--set {change}", "key=value", "give for example --set align.temperature=0.5")
        *parents, last = key.strip().split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise AlignError(f"--set {change}", f"{parent} to hold keys", "see probe train --show")
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise AlignError(
                f"--set {change} ({' '.join(str(error).split())[:100]})",
                "a YAML value",
                "quote it, or close its brackets",
            ) from None
    return _built(Recipe, tree, "")


def recipe_from(tree: Mapping[str, Any]) -> Recipe:
    """The recipe of a mapping such as `as_tree` gives."""
    return _built(Recipe, tree, "")


def as_tree(recipe: Recipe) -> dict[str, Any]:
    """Only JSON values, defaults included."""
    return _plain(asdict(recipe))


def shown(recipe: Recipe) -> str:
    """YAML with the source of each constant as a comment; it can be used as a recipe."""
    return "\n".join(_lines(recipe, "")) + "\n"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two trees differ, as `align.temperature (0.1, now 0.5)`."""
    found = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} ({before}, now {after})")
    return found


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AlignError(
                f"--recipe {name} cannot be read ({error.__class__.__name__})", "a YAML file", "check the path"
            ) from None
    elif name in recipe_names():
        text = recipe_text(name)
    else:
        raise AlignError(
            f"no recipe {name!r}",
            f"a file or one of {', '.join(recipe_names())}",
            "see probe train --recipe NAME --show",
        )
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise AlignError(f"--recipe {name}: {' '.join(str(error).split())[:150]}", "YAML", "mend the file") from None
    if not isinstance(tree, dict):
        raise AlignError(f"--recipe {name} holds {type(tree).__name__}", "keys and values", "see probe train --show")
    return tree


def _built(kind: type, tree: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = [entry.name for entry in fields(kind)]
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise AlignError(
                f"{prefix}{key} in the recipe",
                f"one of {', '.join(known)}",
                f"did you mean {near[0]}?" if near else "remove it",
            )
    values = {}
    for key, value in tree.items():
        hint = hints[key]
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise AlignError(f"{prefix}{key}: {value}", "keys and values", "see probe train --show")
            values[key] = _built(typing.cast(type, hint), value, f"{prefix}{key}.")
        else:
            values[key] = _value(hint, value, f"{prefix}{key}")
    return kind(**values)


def _value(hint: Any, value: Any, name: str) -> Any:
    """The value as its field's type; YAML reads 5e-4 as text, and whole numbers where decimals are meant."""
    for option in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        if option is type(None) and value is None:
            return None
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, (list, tuple, str, int)):
            each = value if isinstance(value, (list, tuple)) else [value]
            return tuple(_value(typing.get_args(option)[0], entry, name) for entry in each)
        if option is float and not isinstance(value, bool):
            try:
                return float(value)
            except (TypeError, ValueError):
                continue
        if option in (int, str, bool) and type(value) is option:
            return value
    raise AlignError(f"{name}: {value!r}", _told(hint), f"give --set {name}=...")


def _told(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    if isinstance(hint, types.UnionType):
        return " or ".join(_told(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list of {_told(typing.get_args(hint)[0])}"
    return {type(None): "null", int: "a whole number", float: "a number", str: "text", bool: "true or false"}[hint]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _lines(part: Any, indent: str) -> list[str]:
    lines = []
    for entry in fields(part):
        value = getattr(part, entry.name)
        if is_dataclass(value):
            lines += [f"{indent}{entry.name}:", *_lines(value, indent + "  ")]
        else:
            text = (
                yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6)
                .removesuffix("\n")
                .removesuffix("\n...")
            )
            changed = value != entry.default
            lines.append(
                f"{indent}{entry.name}: {text}  # {'set by the recipe' if changed else entry.metadata['source']}"
            )
    return lines
