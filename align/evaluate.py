"""Evaluation: answer the rows of a task with a model, or take answers that exist, score them, write what other commands read."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.adapter import attach, read_adapter, writing
from align.answers import Answer, AnswerFolder
from align.examples import Prompt, encode_prompts
from align.generate import generate, stop_tokens
from align.tasks.task import Scored, Task, TaskRow
from data_manifests.published import language_groups
from probe.device import choose_device, choose_dtype
from probe.errors import AlignError
from probe.model import has_lm_head, load_causal, open_model
from probe.provenance import command, digest, versions
from probe.store import write_json

Observer = Callable[[str, int, int], object]
"""Told after each answer: language, rows answered, rows."""

_ENGLISH = "eng_Latn"


@dataclass(frozen=True)
class Answers:
    """What a model said."""

    texts: tuple[str, ...]
    """One a row, in the rows' order."""
    made: Mapping[str, Any]
    """What decided them, as JSON values: model, adapter, stop tokens, dtype, ..., and the digest of all rendered prompts."""
    counts: Mapping[str, int]
    """Rows that stopped at the most new tokens or at the end of the context, and near ties."""
    near_ties: tuple[str, ...]
    """The rows that another batch may answer otherwise, as `deu_Latn row 12`; see `align.generate.Generated`."""


def answer_rows(
    task: Task,
    rows: Sequence[TaskRow],
    out: Path,
    *,
    model: str,
    adapter: Path | None = None,
    revision: str | None = None,
    max_new_tokens: int = 256,
    batch: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    observe: Observer = lambda language, done, total: None,
    note: Callable[[str], object] = lambda message: None,
) -> Answers:
    """Answer rows greedily. A killed run goes on: the answers lie in `out`, a file a language, see `align.answers`.

    Args:
        adapter: a PEFT folder.
        batch: rows at once; None: as many as fit.

    Raises:
        AlignError: a model without LM head; whatever the task's own check misses (COMET); an adapter with weights of the head; prompts that do not fit; answers of another run.
        ModelError: a model that cannot be loaded, or is not the adapter's base.
    """
    place = choose_device(device)
    narrow = choose_dtype(dtype, place)
    source = open_model(model, revision, adapter, trust_remote_code)
    if adapter is not None:
        _refuse_head(adapter)
    prompts = encode_prompts(source.tokenizer, [row.prompt for row in rows], [_where(row) for row in rows])
    if not has_lm_head(source):
        raise AlignError(f"{source.name} has no LM head", "a causal language model", "give another --model")
    if (check := getattr(task, "check", None)) is not None:
        check()  # what scores the answers is missed now, not after hours
    headed, loaded = load_causal(source, narrow, place)
    if adapter is not None:
        loaded = attach(loaded, adapter)
    headed.eval()
    stops = stop_tokens(headed, source.tokenizer)
    made = {
        "task": task.name,
        "model": dict(source.identity),
        "dtype": str(narrow).removeprefix("torch."),
        "max_new_tokens": max_new_tokens,
        "stop_tokens": sorted(stops),
    }
    folder = AnswerFolder(out, made)
    answered: dict[tuple[str, str], Answer] = {}
    for language, asked in _by_language(rows, prompts):
        with folder.adding(language, {name: prompt.digest for name, (_, prompt) in asked.items()}) as file:
            todo = [asked[name] for name in file.missing]
            said = generate(
                headed, loaded, [prompt.ids for _, prompt in todo], max_new_tokens=max_new_tokens, stop_ids=stops,
                batch=batch, names=[_where(row) for row, _ in todo], note=note,
            )  # fmt: skip
            for each in said:
                row, prompt = todo[each.index]
                parsed = task.parse(each.text)
                file.add(
                    Answer(row.id, language, prompt.digest, each.text, parsed, each.ids, each.stopped, each.near_tie)
                )
                observe(language, len(file.answers), len(asked))
            answered |= {(language, each.id): each for each in file.in_order()}
    every = [answered[row.language, row.id] for row in rows]
    near_ties = tuple(_where(row) for row, each in zip(rows, every, strict=True) if each.near_tie)
    counts = {
        "stopped by length": sum(each.stopped == "length" for each in every),
        "stopped by the context": sum(each.stopped == "context" for each in every),
        "near ties": len(near_ties),
    }
    made["prompts"] = digest([prompt.digest for prompt in prompts])
    return Answers(tuple(each.text for each in every), made, counts, near_ties)


def _where(row: TaskRow) -> str:
    return f"{row.language} row {row.id}"


def _by_language(
    rows: Sequence[TaskRow], prompts: Sequence[Prompt]
) -> Iterator[tuple[str, dict[str, tuple[TaskRow, Prompt]]]]:
    """Language -> id -> row and prompt, in their order."""
    asked: dict[str, dict[str, tuple[TaskRow, Prompt]]] = defaultdict(dict)
    for row, prompt in zip(rows, prompts, strict=True):
        asked[row.language][row.id] = row, prompt
    yield from asked.items()


def _refuse_head(adapter: Path) -> None:
    """The probe needs no head and leaves such weights aside; here they would be missed."""
    heads = [name for name in read_adapter(adapter)[1] if "lm_head" in name or "embed_out" in name]
    if heads:
        raise AlignError(
            f"{adapter} holds weights of the head ({heads[0]})",
            "an adapter of the blocks",
            "merge it into the model with PEFT, and give the merged model",
        )


def write_scores(out: Path, task: Task, scored: Scored, made: Mapping[str, Any]) -> list[Path]:
    """Write `metrics.csv` (every score with its interval, in percent), `summary.json`, and what `probe correlate` reads.

    That is `scores.csv`, the main metric of each language with its group in the paper (none for a task that is not the paper's); of translation, whose scores have a
    direction, `scores-to-english.csv` and `scores-from-english.csv`, each by the other language.

    Returns:
        The files that `probe correlate --scores` takes.

    Raises:
        AlignError: the folder cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with (out / "metrics.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("language", "metric", "value", "low", "high"))
            writer.writerows((each.language, each.metric, each.value, each.low, each.high) for each in scored.scores)
        write_json(out / "summary.json", {**as_json(task, scored, made), "versions": versions(), "command": command()})
        return [_write_main(out / name, task, rows, made) for name, rows in _tables(task, scored).items() if rows]


def as_json(task: Task, scored: Scored, made: Mapping[str, Any]) -> dict[str, Any]:
    """Only JSON values, scores unrounded."""
    return {
        "task": task.name,
        "main": task.main,
        "scores": [asdict(each) for each in scored.scores],
        "counts": {language: dict(each) for language, each in scored.counts.items()},
        "details": dict(scored.details),
        "notes": list(scored.notes),
        "made": dict(made),
    }


def _tables(task: Task, scored: Scored) -> dict[str, dict[str, float]]:
    """File -> language -> main metric."""
    tables: dict[str, dict[str, float]] = defaultdict(dict)
    for each in scored.scores:
        if each.metric != task.main or each.language.startswith("("):
            continue
        source, _, target = each.language.partition("-")
        if not target:
            tables["scores.csv"][source] = each.value
        elif target == _ENGLISH:
            tables["scores-to-english.csv"][source] = each.value
        elif source == _ENGLISH:
            tables["scores-from-english.csv"][target] = each.value
    return tables


def _groups(task: str) -> dict[str, str]:
    """Code -> `supervised` or `transfer`; empty for a task of one's own, of which the manifests know nothing."""
    try:
        groups = language_groups(task)
    except KeyError:
        return {}
    return {code: group for group in ("supervised", "transfer") for code in groups.get(group, ())}


def _write_main(path: Path, task: Task, scores: Mapping[str, float], made: Mapping[str, Any]) -> Path:
    groups = _groups(task.name)
    model = made.get("model", {}).get("name", "")
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("language", "score", "task", "metric", "model", "source", "scale", "group"))
        for code, score in scores.items():
            writer.writerow(
                (code, score, task.name, task.main, model, "probe evaluate", "percent", groups.get(code, ""))
            )
    return path
