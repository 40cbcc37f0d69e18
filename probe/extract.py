"""Corpus x model -> store: check everything first, then one language file after another, going on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from probe import provenance
from probe.corpus import ParallelCorpus
from probe.device import choose_device, choose_dtype
from probe.errors import ModelError, ProbeError
from probe.layers import parse_layers
from probe.model import LoadedModel, ModelSource, load_model, open_model, tokenise
from probe.pool import POOLINGS
from probe.share import Share
from probe.states import pooled_states
from probe.store import SCHEMA, ActivationStore, estimate_bytes, require_space

AUTO_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Token budgets with which `auto` begins. On a CPU larger batches fall out of its caches; a GPU needs them to be busy."""


@runtime_checkable
class Observer(Protocol):
    """Who watches a run: a progress bar, a log, or nobody."""

    def start(self, sentences: int, tokens: int, languages: int) -> None: ...
    def advance(self, sentences: int, tokens: int) -> None: ...
    def finished(self, code: str, sentences: int, tokens: int) -> None: ...
    def note(self, message: str) -> None: ...


class Silent:
    """Nobody watches."""

    def start(self, sentences: int, tokens: int, languages: int) -> None: ...
    def advance(self, sentences: int, tokens: int) -> None: ...
    def finished(self, code: str, sentences: int, tokens: int) -> None: ...
    def note(self, message: str) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of an extraction, beside model and corpus."""

    layers: str = "all"
    """`all`, `even`, `0,8,16` or `start:stop:step` with the stop included."""
    poolings: tuple[str, ...] = ("mean",)
    store_dtype: str = "float32"
    final_norm: str = "model"
    """`model`: the last layer is after the final norm, as in `output_hidden_states`; `raw`: the residual stream."""
    batch_tokens: int | None = None
    """Token budget of a batch, padding included; None = chosen, and halved when memory runs out."""
    truncate: bool = False
    text: bool = True

    def __post_init__(self) -> None:
        _choose("--store-dtype", self.store_dtype, ("float32", "float16"))
        _choose("--final-norm", self.final_norm, ("model", "raw"))
        for name in self.poolings:
            _choose("--pool", name, tuple(POOLINGS))
        if not self.poolings or len(set(self.poolings)) < len(self.poolings):
            raise ProbeError(
                f"--pool {','.join(self.poolings)!r}", "one pooling or several different ones", "name each once"
            )
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ProbeError(
                f"--batch-tokens {self.batch_tokens}",
                "auto or a positive number",
                "give for example --batch-tokens 2048",
            )


def _choose(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ProbeError(f"{option} {given}", f"one of {', '.join(known)}", "give one of these")


def extract_all(
    model: str,
    corpus: ParallelCorpus,
    out: str | Path,
    *,
    settings: Settings | None = None,
    revision: str | None = None,
    adapter: Path | None = None,
    attach: Callable[[LoadedModel, Path], LoadedModel] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    share: Share | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> ActivationStore:
    """Pooled hidden states of a corpus, by model name, into a store; goes on where an interrupted run stopped.

    Args:
        adapter: a PEFT folder, attached by `attach` (`align.adapter.attach`).
        dtype: of the forward pass: `auto`, `fp32`, `bf16`, `fp16`.
        share: the languages of this process; None = torchrun's rank, else all.

    Returns:
        The store; its manifest says whether it is complete or other processes still have languages to write.

    Raises:
        ProbeError: whatever is wrong with model, corpus, settings or an existing store, before the weights are loaded.
    """
    if adapter is not None and attach is None:
        raise ProbeError(f"the adapter {adapter} without a way to attach it", "attach", "pass align.adapter.attach")
    source = open_model(model, revision, adapter, trust_remote_code)
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    todo = plan(corpus, source, Path(out), settings or Settings(), kind, where, share, overwrite)
    if todo.ids:
        loaded = load_model(source, kind, where, spread=device == "auto")
        if adapter is not None and attach is not None:
            loaded = attach(loaded, adapter)
        run(todo, loaded, observer)
    elif not todo.store.manifest["complete"]:
        todo.store.finish()
    return ActivationStore.reopen(todo.store.path)


@dataclass(frozen=True)
class Plan:
    """A checked extraction: everything that can be wrong before the weights are loaded has been looked at."""

    store: ActivationStore
    corpus: ParallelCorpus
    ids: Mapping[str, list[np.ndarray]]
    """Language -> token ids of each sentence, for the languages of this share that are still missing."""
    truncated: Mapping[str, int]
    settings: Settings

    @property
    def tokens(self) -> int:
        return sum(len(row) for rows in self.ids.values() for row in rows)


def plan(
    corpus: ParallelCorpus,
    source: ModelSource,
    out: Path,
    settings: Settings,
    dtype: torch.dtype,
    device: torch.device,
    share: Share | None = None,
    overwrite: bool = False,
) -> Plan:
    """Create or reopen the store, tokenise what is missing, check lengths and disk space.

    Raises:
        ProbeError: a sentence longer than the context, too little space, a store made with other settings.
    """
    layers = parse_layers(settings.layers, range(source.depth + 1))
    share = share or Share.parse(None)
    if overwrite and share.parts > 1:
        raise ProbeError(
            f"--overwrite by one of {share.parts} processes",
            "a store that no other process writes",
            "remove the folder before they start",
        )
    manifest = {
        "schema": SCHEMA,
        "model": dict(source.identity),
        "corpus": {"name": corpus.name, "split": corpus.split, "digests": corpus.digests()},
        "languages": list(corpus.languages),
        "rows": corpus.rows,
        "poolings": list(settings.poolings),
        "layers": list(layers),
        "depth": source.depth,
        "hidden_size": source.hidden_size,
        "corpus_source": corpus.source,
        "architecture": type(source.skeleton).__name__,
        "dtype": str(dtype).removeprefix("torch."),
        "store_dtype": settings.store_dtype,
        "final_norm": settings.final_norm,
        "runtime": {"device": device.type, "torch": torch.__version__, "transformers": version("transformers")},
        "batch_tokens": settings.batch_tokens or AUTO_BATCH_TOKENS.get(device.type, 1024),
        "truncate": settings.truncate,
        "text": settings.text,
        "device": str(device),
        "versions": provenance.versions(),
        "command": provenance.command(),
        "files": {},
        "complete": False,
    }
    sizes = {code: sum(len(line.encode()) for line in lines) for code, lines in corpus.sentences.items()}
    todo = [code for code in share.of(sizes) if overwrite or not (out / f"{code}.h5").exists()]
    checked = {code: token_ids(source, corpus.sentences[code], code, settings) for code in todo}
    ids = {code: rows for code, (rows, _) in checked.items()}
    truncated = {code: cut for code, (_, cut) in checked.items()}
    require_space(out, estimate_bytes(manifest, len(todo)))
    store = ActivationStore.create(out, manifest, same_budget=settings.batch_tokens is not None, overwrite=overwrite)
    return Plan(store, corpus, ids, truncated, settings)


def token_ids(
    source: ModelSource, sentences: Sequence[str], code: str, settings: Settings
) -> tuple[list[np.ndarray], int]:
    """Token ids that the model can run and the poolings can pool, and how many sentences were cut to fit the context.

    Raises:
        ModelError: a sentence too long (and not to be truncated), too short, or with a token the model does not know.
    """
    ids = tokenise(source.tokenizer, sentences, code)
    long = [row for row, tokens in enumerate(ids) if len(tokens) > source.context]
    if long and not settings.truncate:
        raise ModelError(
            f"{code} row {long[0] + 1} has {len(ids[long[0]])} tokens ({len(long)} such rows)",
            f"at most {source.context}, the model's context",
            "pass --truncate to cut such sentences (they are counted in the manifest), or leave the language out",
        )
    if long:
        ids = tokenise(source.tokenizer, sentences, code, source.context)
    least = 2 if "mean-nofirst" in settings.poolings else 1
    for row, tokens in enumerate(ids, start=1):
        if len(tokens) < least:
            raise ModelError(
                f"{code} row {row} has {'a single token' if len(tokens) else 'no tokens'}",
                f"at least {least} for --pool {','.join(settings.poolings)}",
                "use another pooling, or remove the row from all languages",
            )
        if tokens.max() >= source.vocabulary:
            raise ModelError(
                f"{code} row {row} has token {tokens.max()}",
                f"ids below {source.vocabulary}, the model's number of embeddings",
                "check that the tokenizer belongs to the model",
            )
    return ids, len(long)


def run(plan: Plan, loaded: LoadedModel, observer: Observer | None = None) -> bool:
    """Extract what the plan found missing, one language file after another, the longest first.

    Returns:
        Whether the store is now complete; False where other processes still have languages to write.
    """
    observer = observer or Silent()
    observer.start(sum(map(len, plan.ids.values())), plan.tokens, len(plan.ids))
    budget = int(plan.store.manifest["batch_tokens"])
    for code, ids in plan.ids.items():
        with plan.store.writing(code):
            if plan.store.file(code).exists():  # another process was faster
                observer.advance(len(ids), sum(map(len, ids)))
                continue
            states, used = _with_budget(loaded, ids, plan, code, budget, observer)
            text = plan.corpus.sentences[code] if plan.settings.text else None
            lengths = np.array([len(row) for row in ids], dtype=np.int32)
            plan.store.write_language(code, states, lengths, text, used, plan.truncated.get(code, 0))
            observer.finished(code, len(ids), int(lengths.sum()))
    return plan.store.finish()


def _with_budget(
    loaded: LoadedModel, ids: Sequence[np.ndarray], plan: Plan, code: str, budget: int, observer: Observer
) -> tuple[np.ndarray, int]:
    """States of one language, and the token budget used: halved, and the language begun again, while memory runs out."""
    layers, settings = plan.store.layers, plan.settings
    while True:
        done: list[tuple[int, int]] = []

        def advance(sentences: int, tokens: int, done: list[tuple[int, int]] = done) -> None:
            done.append((sentences, tokens))
            observer.advance(sentences, tokens)

        try:
            states = pooled_states(loaded, ids, layers, settings.poolings, budget, settings.final_norm, advance)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if settings.batch_tokens is not None or budget <= max(map(len, ids)):
                raise ModelError(
                    f"out of memory at {code} with batches of {budget} tokens",
                    "batches that fit",
                    "run again with a smaller --batch-tokens, or --dtype bf16; finished languages are kept",
                ) from None
        else:
            _require_usable(states, layers, settings.poolings, code)
            return states, budget
        # Only here, after `except`, has the traceback let go of the failed pass's tensors.
        budget //= 2
        observer.advance(-sum(batch[0] for batch in done), -sum(batch[1] for batch in done))
        observer.note(f"out of memory at {code}: going on with {budget} tokens a batch")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    """The CPU allocator raises a plain RuntimeError."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate memory" in str(error)
    )


def _require_usable(states: np.ndarray, layers: Sequence[int], poolings: Sequence[str], code: str) -> None:
    """Refuse NaN, inf and all-zero vectors, and name where: they would be retrieved as if they were sentences."""
    for p, pooling in enumerate(poolings):
        for position, layer in enumerate(layers):
            largest = np.abs(states[p, position]).max(axis=1)  # NaN where any value is
            bad = ~(np.isfinite(largest) & (largest > 0))
            if bad.any():
                row = int(np.argmax(bad))
                kind = "all zero" if largest[row] == 0 else "not finite"
                raise ModelError(
                    f"{code} row {row + 1} layer {layer} ({pooling}) is {kind}",
                    "finite states",
                    "try --dtype fp32, or --device with one GPU (spreading over several has been seen to give zeros)",
                )
