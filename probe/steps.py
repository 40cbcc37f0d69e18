"""A recipe of the paper as steps: each a command with files between them, done once for what it depends on, and resumed.

A step's words are a template. `{name}` is the folder of the step of that name, the data of that name, a constant, or a setting
of the system (a row of the table); `{out}` is the step's own folder, `{seed}` and `{model}` are what they say. A step is done
once for each system and seed that it depends on, through other steps too. `{name?}` leaves out its word and the one before where a
system has no such step, or where a constant is null.

A finished step is known by the digest of midprobe's version and the step's words, in which a folder stands for its own step's digest,
data for their content, the model and published adapters for their identity: recipes share steps, where they lie says nothing,
and another version does them again. OUT/steps/NAME-DIGEST holds a step's files, OUT/steps/NAME-DIGEST.json says that they are
whole. One process at a time works in OUT, since what a step leaves is removed when the last that needs it is done.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from data_manifests.published import model_short
from data_manifests.reproduction import common, reproduction, reproduction_names
from probe.errors import ProbeError
from probe.provenance import digest, versions
from probe.results import writing
from probe.sources import local_data
from probe.store import locked, write_json

_PLACE = re.compile(r"\{([\w.=/-]+)(\??)\}")
_RESUMED = ("extract", "retrieve", "train", "evaluate")
"""Commands that go on in a folder that a kill left; of any other it is removed."""

Execute = Callable[[list[str]], object]
"""Run a command, given without `probe`."""


@dataclass(frozen=True)
class Data:
    """Where one of the paper's data sets is here."""

    name: str
    path: Path | None
    """None: nowhere below the data folder."""
    told: str
    """What it is, for people: the paper's own or a substitute."""
    given: str
    """What a command takes for it: the folder, or a corpus's name."""

    @cached_property
    def digest(self) -> str:
        """sha256 of the files' names and contents; of a named corpus that is not here, of its name."""
        if self.path is None:
            return digest(self.name)
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        return digest([[path.relative_to(self.path).as_posix(), _sha256(path)] for path in files])


@dataclass(frozen=True)
class Step:
    """A command for one system and seed, where it depends on them."""

    name: str
    system: str | None
    seed: int | None
    words: tuple[str, ...]
    """Constants are in their places; `{out}`, `{model}`, `{data.NAME}` and `{=ID}` of other steps are not yet."""
    keep: bool
    """Whether its files stay when all that needs them is done."""
    optional: bool
    """Whether the recipe goes on where it refuses its input."""

    @property
    def id(self) -> str:
        """Unique within a plan."""
        return "/".join(str(part) for part in (self.name, self.system, self.seed) if part is not None)

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids of the steps whose folders it reads."""
        found = (name for word in self.words for name, _ in _PLACE.findall(word))
        return tuple(dict.fromkeys(name[1:] for name in found if name.startswith("=")))


@dataclass(frozen=True)
class Plan:
    """A recipe for a model: all steps in an order in which they can be done."""

    name: str
    recipe: Mapping[str, Any]
    model: str
    chosen: str
    """Which constants: `paper`, `paper-as-written` or `small`."""
    constants: Mapping[str, Any]
    seeds: tuple[int, ...]
    systems: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Data]
    steps: Mapping[str, Step] = field(repr=False)
    used: Mapping[str, Any]
    """Constants that the steps depend on, with their values in `paper`."""

    def command(self, step: Step, folder_of: Callable[[str], object]) -> list[str]:
        """The words of a step, folders of steps by their ids; its own is under its own."""
        given = {f"data.{name}": data.given for name, data in self.data.items()}
        return [
            _filled(word, lambda name: given.get(name) or self._place(step, name, folder_of)) for word in step.words
        ]

    def _place(self, step: Step, name: str, folder_of: Callable[[str], object]) -> object:
        if name == "model":
            return self.model
        return folder_of(step.id if name == "out" else name[1:])

    def instances(self, name: str, system: str) -> list[Step]:
        """A step's instances for a system, one a seed where it depends on that; none where the system has no such step."""
        return [step for step in self.steps.values() if step.name == name and step.system in (None, system)]

    @property
    def adapters(self) -> tuple[str, ...]:
        """Published adapters, by the names that its steps give them."""
        given = (pair for step in self.steps.values() for pair in pairwise(step.words))
        return tuple(dict.fromkeys(word for option, word in given if option == "--adapter" and "{" not in word))

    @property
    def unstated(self) -> dict[str, str]:
        """Constants that its steps depend on and the paper does not tell -> what decided them."""
        return {key: reason for key, reason in common()["unstated"].items() if key in self.used}

    def digests(self, identity: Any, adapters: Mapping[str, str] | None = None) -> dict[str, str]:
        """Step's id -> digest.

        Args:
            identity: of the model, as JSON values.
            adapters: identities of the published ones, by name; where they are not given, they stand for themselves.
        """
        found: dict[str, str] = {}
        version = versions().get("midprobe")
        told = {"model": digest(identity), "out": ""} | {
            f"data.{name}": data.digest for name, data in self.data.items()
        }
        for step in self.steps.values():
            known = {f"={need}": found[need] for need in step.needs} | {
                name: told[name] for word in step.words for name, _ in _PLACE.findall(word) if name in told
            }
            words = [(adapters or {}).get(word) or _filled(word, known.__getitem__) for word in step.words]
            found[step.id] = digest([version, words])
        return found


def make_plan(name: str, model: str, seeds: int, chosen: str, changes: Sequence[str] = ()) -> Plan:
    """Read a recipe, choose its constants, find its data and expand its steps; nothing is computed.

    Args:
        chosen: which constants, `paper`, `paper-as-written` or `small`.
        changes: of constants, as `key=value`.

    Raises:
        ProbeError: an unknown recipe or constant, a model that the recipe is not for, or no seed.
    """
    if name not in reproduction_names():
        raise ProbeError(f"no recipe {name!r}", f"one of {', '.join(reproduction_names())}", "give one of these")
    if seeds < 1:
        raise ProbeError(f"--seeds {seeds}", "1 or more", "give --seeds 3")
    recipe = reproduction(name)
    if model_short(model) not in recipe.get("models", [model_short(model)]):
        known = [each for each in common()["models"] if model_short(each) in recipe["models"]]
        raise ProbeError(f"{name} with {model}", " or ".join(known), "give it as --model")
    constants = _constants(recipe, model, chosen)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in constants:
            raise ProbeError(f"--set {change}", f"KEY=VALUE with a key of {', '.join(sorted(constants))}", "mend it")
        constants[key] = yaml.safe_load(text)
    systems = {system: {key: str(value) for key, value in own.items()} for system, own in recipe["systems"].items()}
    data = {source: find_data(source) for source in common()["data"]}
    numbers = tuple(range(1, seeds + 1))
    used: dict[str, None] = {}
    steps = _expanded(recipe["steps"], systems, numbers, constants, data, used)
    papers = _constants(recipe, model, "paper")
    every = {key: papers.get(key) for key in used}
    words = [word for step in steps.values() for word in step.words]
    data = {source: each for source, each in data.items() if any(f"{{data.{source}}}" in word for word in words)}
    return Plan(name, recipe, model, chosen, constants, numbers, systems, data, steps, every)


def _constants(recipe: Mapping[str, Any], model: str, chosen: str) -> dict[str, Any]:
    shared, own = common()["constants"], recipe.get("constants", {})
    if chosen not in shared:
        raise ProbeError(f"--constants {chosen}", f"auto, {', '.join(shared)}", "give one of these")
    sets = ["paper"] if chosen == "paper" else ["paper", chosen]
    merged: dict[str, Any] = {"model_name": model.rpartition("/")[2], "temperature": 0.1}
    merged |= common()["models"].get(model, {}).get("constants", {})
    for source in (shared, own):
        for each in sets:
            merged |= source.get(each, {})
    return merged


def find_data(name: str) -> Data:
    """The first folder of a data set that exists below the data folder."""
    described = common()["data"][name]
    for each in described["folders"]:
        path = local_data() / each["folder"]
        if path.is_dir():
            return Data(name, path, each["told"], described.get("corpus", str(path)))
    expected = " or ".join(each["folder"] for each in described["folders"])
    if "corpus" in described:
        return Data(name, None, described["folders"][0]["told"], described["corpus"])
    return Data(
        name, None, f"{name}: not found; expected {expected} below $MIDPROBE_DATA", f"$MIDPROBE_DATA/{expected}"
    )


def refuse_missing_data(plan: Plan) -> None:
    """Raises:
    ProbeError: data that are not there, told before anything is computed.
    """
    for data in plan.data.values():
        if data.path is None and "corpus" not in common()["data"][data.name]:
            expected = " or ".join(each["folder"] for each in common()["data"][data.name]["folders"])
            raise ProbeError(
                f"no {data.name} for {plan.name}",
                f"{expected} below $MIDPROBE_DATA",
                "put it there, or see it with --dry-run",
            )


def _expanded(
    described: Mapping[str, Any],
    systems: Mapping[str, Mapping[str, str]],
    seeds: Sequence[int],
    constants: Mapping[str, Any],
    data: Mapping[str, Data],
    used: dict[str, None],
) -> dict[str, Step]:
    """Every step for every system and seed on which it depends: those that its words turn out to use."""
    found: dict[str, Step] = {}
    for name, given in described.items():
        entry = given if isinstance(given, dict) else {"run": given}
        words = shlex.split(_whole(entry["run"]))
        for system in entry.get("systems", systems):
            for seed in seeds:
                filling = _Filling(system, seed, systems, constants, data, tuple(described), found, used)
                filled = tuple(filling.words(words))
                of = (system if filling.uses_system else None, seed if filling.uses_seed else None)
                step = Step(name, *of, filled, entry.get("keep", True), entry.get("optional", False))
                found.setdefault(step.id, step)
    return found


@dataclass
class _Filling:
    """Puts what is known of a system and seed in the places of words; steps, data, model and `{out}` stay open."""

    system: str
    seed: int
    systems: Mapping[str, Mapping[str, str]]
    constants: Mapping[str, Any]
    data: Mapping[str, Data]
    names: Sequence[str]
    """Of all steps of the recipe."""
    steps: Mapping[str, Step]
    """Those that there are before."""
    used: dict[str, None]
    """Grows by the constants that are filled in."""
    uses_system: bool = False
    uses_seed: bool = False

    def words(self, words: Sequence[str]) -> list[str]:
        kept: list[str] = []
        for word in words:
            if any(sign and self.value(name) in (None, "null") for name, sign in _PLACE.findall(word)):
                kept.pop()
            else:
                kept.append(_filled(word, self.value))
        return kept

    def value(self, name: str) -> str | None:
        """None where the system has no such step or setting."""
        if name in ("out", "model"):
            return f"{{{name}}}"
        if name in self.data:
            return f"{{data.{name}}}"
        if name == "seed":
            self.uses_seed = True
            return str(self.seed)
        if name in self.names:
            return self._step(name)
        if name in self.constants and name not in self.systems[self.system]:
            self.used[name] = None
            return "null" if self.constants[name] is None else _filled(str(self.constants[name]), self.value)
        self.uses_system |= any(name in own for own in self.systems.values())
        given = self.systems[self.system].get(name)
        return None if given is None else _filled(given, self.value)

    def _step(self, name: str) -> str | None:
        own = [each for each in self.steps.values() if each.name == name]
        self.uses_system |= any(each.system is not None for each in own)
        for each in own:
            if each.system in (None, self.system) and each.seed in (None, self.seed):
                self.uses_seed |= each.seed is not None
                return f"{{={each.id}}}"
        return None


def _whole(words: str) -> str:
    """With the words that recipes share in their places."""
    named = common()["commands"]
    return _PLACE.sub(lambda found: _whole(named[found[1]]) if found[1] in named else found[0], words)


def _filled(word: str, value: Callable[[str], object]) -> str:
    return _PLACE.sub(lambda found: str(value(found[1])), word)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Doing it


class Steps:
    """The steps of a plan as they stand in a folder."""

    def __init__(self, plan: Plan, out: Path, identity: Any, adapters: Mapping[str, str] | None = None) -> None:
        self.plan, self.out = plan, out / "steps"
        self.digests = plan.digests(identity, adapters)
        self.refused: dict[str, str] = {}
        """Optional steps that could not be, and why."""

    def folder(self, step_id: str) -> Path:
        """Where a step's files are."""
        return self.out / f"{step_id.partition('/')[0]}-{self.digests[step_id][:12]}"

    def record(self, step_id: str) -> dict[str, Any] | None:
        """What is noted of a finished step; None of one that is not, or whose folder is gone."""
        path = self.folder(step_id).with_suffix(".json")
        if not path.is_file() or not self.folder(step_id).exists():
            return None
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        return noted if noted.get("digest") == self.digests[step_id] else None

    def run(self, execute: Execute, tell: Callable[[str], object] = lambda line: None) -> None:
        """Do every step that is to be kept and is not there, and before it what it needs.

        Raises:
            ProbeError: what a command refuses; what was finished stays. Another process works in the folder.
        """
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out, str(self.out), "give another --out"):
            for step in self.plan.steps.values():
                if step.keep:
                    self._ensure(step, execute, tell)

    def _ensure(self, step: Step, execute: Execute, tell: Callable[[str], object]) -> None:
        if self.record(step.id) is not None or step.id in self.refused:
            return
        for need in step.needs:
            self._ensure(self.plan.steps[need], execute, tell)
        missing = next((need for need in step.needs if need in self.refused), None)
        if missing is not None:
            self.refused[step.id] = self.refused[missing]
            return
        try:
            self._do(step, execute, tell)
        except ProbeError as error:
            if not step.optional:
                raise
            self.refused[step.id] = str(error)
            tell(f"{step.id} was refused: {error}")
        for need in step.needs:
            self._drop(self.plan.steps[need])

    def _do(self, step: Step, execute: Execute, tell: Callable[[str], object]) -> None:
        folder = self.folder(step.id)
        words = self.plan.command(step, self.folder)
        if words[0] not in _RESUMED and folder.exists():
            shutil.rmtree(folder)
        tell(f"{step.id}: probe {shlex.join(words)}")
        begin = time.perf_counter()
        execute(words)
        noted = {
            "step": step.id,
            "digest": self.digests[step.id],
            "command": words,
            "seconds": round(time.perf_counter() - begin, 1),
            "versions": versions(),
        }
        write_json(folder.with_suffix(".json"), noted)

    def _drop(self, step: Step) -> None:
        """Remove the files of a step that is not kept, once all that needs them is done."""
        waiting = (
            other for other in self.plan.steps.values() if step.id in other.needs and other.id not in self.refused
        )
        if not step.keep and all(self.record(other.id) is not None for other in waiting):
            shutil.rmtree(self.folder(step.id), ignore_errors=True)
