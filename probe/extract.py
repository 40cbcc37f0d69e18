"""Corpus x model -> store: token-budget batches, pooling inside forward hooks, resume, ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from probe import provenance
from probe.corpus import ParallelCorpus
from probe.errors import ModelError, ProbeError
from probe.model import (
    LoadedModel,
    ModelSource,
    choose_device,
    choose_dtype,
    forward,
    load_model,
    open_model,
    shortened,
    tokenise,
)
from probe.pool import POOLINGS, pool, pooling_weights
from probe.store import SCHEMA, ActivationStore, estimate_bytes, require_space

AUTO_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Token budgets with which `auto` begins: larger ones were not faster, and cost memory."""


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
class Share:
    """Which part of the languages this process extracts: part `index` of `parts`."""

    index: int = 0
    parts: int = 1

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] = os.environ) -> Share:
        """`i/N` (i from 0), `slurm` (an array task's place in its array), or None (torchrun's rank, else everything).

        Raises:
            ProbeError: malformed, or `slurm` outside an array.
        """
        if text is None:
            return cls(int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)))
        if text == "slurm":
            names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
            if any(name not in environment for name in names):
                raise ProbeError(
                    "--shard slurm outside a SLURM array",
                    f"{', '.join(names)} in the environment",
                    "submit with sbatch --array, or give --shard i/N",
                )
            task, low, high = (int(environment[name]) for name in names)
            step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
            share = cls((task - low) // step, (high - low) // step + 1)
            if int(environment.get("SLURM_ARRAY_TASK_COUNT", share.parts)) != share.parts:
                raise ProbeError(
                    f"--shard slurm in an array of {environment['SLURM_ARRAY_TASK_COUNT']} tasks from {low} to {high}",
                    "an array without gaps, since every share needs a task",
                    "submit with --array=0-N, or give --shard i/N",
                )
            return share
        try:
            index, parts = (int(part) for part in text.split("/"))
        except ValueError:
            index, parts = 0, 0
        if not 0 <= index < parts:
            raise ProbeError(f"--shard {text}", "i/N with 0 <= i < N, or slurm", "give for example --shard 0/4")
        return cls(index, parts)

    def of(self, sizes: Mapping[str, int]) -> list[str]:
        """The languages of this share: largest first, each to the share with the least work so far."""
        loads, shares = [0] * self.parts, [[] for _ in range(self.parts)]  # type: list[int], list[list[str]]
        for code in sorted(sizes, key=lambda code: (-sizes[code], code)):
            least = loads.index(min(loads))
            loads[least] += sizes[code]
            shares[least].append(code)
        return shares[self.index]


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


def parse_layers(text: str, available: Sequence[int]) -> tuple[int, ...]:
    """Layers by `all`, `even`, a list `0,8,16`, or a range `start:stop:step` whose stop is included.

    Raises:
        ProbeError: malformed, or a layer that is not available.
    """
    if text == "all":
        return tuple(available)
    try:
        if text == "even":
            layers = tuple(layer for layer in available if layer % 2 == 0)
        elif ":" in text:
            parts = [int(part) if part else None for part in text.split(":")]
            start, stop, step = parts if len(parts) == 3 else (*parts, None)
            if step is not None and step < 1:
                raise ValueError
            last = available[-1] if stop is None else stop
            layers = tuple(range(start or 0, last + 1, step or 1))
        else:
            layers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ProbeError(
            f"--layers {text}", "all, even, a list such as 0,8,16, or start:stop:step", "give one of these"
        ) from None
    outside = [layer for layer in layers if layer not in available]
    if outside or not layers:
        raise ProbeError(
            f"--layers {text}: layer {outside[0] if outside else '(none)'} is not there",
            f"layers {available[0]} to {available[-1]}",
            "give layers in that range",
        )
    return layers


# ---- from names to a store -----------------------------------------------------------------------------------


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
    share = share or Share()
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
        "architecture": type(source.skeleton).__name__,
        "dtype": str(dtype).removeprefix("torch."),
        "store_dtype": settings.store_dtype,
        "final_norm": settings.final_norm,
        "batch_tokens": settings.batch_tokens or AUTO_BATCH_TOKENS.get(device.type, 2048),
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
    ids = {code: tokenise(source.tokenizer, corpus.sentences[code], code) for code in todo}
    truncated = {code: _cut_to_context(rows, corpus, source, code, settings.truncate) for code, rows in ids.items()}
    store = ActivationStore.create(out, manifest, same_budget=settings.batch_tokens is not None, overwrite=overwrite)
    require_space(out, estimate_bytes(store.manifest, len(todo)))
    return Plan(store, corpus, ids, truncated, settings)


def _cut_to_context(
    rows: list[np.ndarray], corpus: ParallelCorpus, source: ModelSource, code: str, truncate: bool
) -> int:
    """Every sentence must fit the context: said before the model runs. With `truncate` the long ones are cut and counted."""
    long = [row for row, ids in enumerate(rows) if len(ids) > source.context]
    if long and not truncate:
        raise ModelError(
            f"{code} row {long[0] + 1} has {len(rows[long[0]])} tokens ({len(long)} such rows)",
            f"at most {source.context}, the model's context",
            "pass --truncate to cut such sentences (they are counted in the manifest), or leave the language out",
        )
    for row in long:
        rows[row] = tokenise(source.tokenizer, [corpus.sentences[code][row]], code, source.context)[0]
    for row, ids in enumerate(rows):
        if len(ids) == 0:
            raise ModelError(f"{code} row {row + 1} has no tokens", "at least one", "remove the row from all languages")
        if ids.max() >= source.vocabulary:
            raise ModelError(
                f"{code} row {row + 1} has token {ids.max()}",
                f"ids below {source.vocabulary}, the model's number of embeddings",
                "check that the tokenizer belongs to the model",
            )
    return len(long)


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
        try:
            states = pooled_states(loaded, ids, layers, settings.poolings, budget, settings.final_norm, observer)
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
            _require_usable(states, layers, settings.poolings, code, ids)
            return states, budget
        # Only here, after `except`, has the traceback let go of the failed pass's tensors.
        budget //= 2
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


def _require_usable(
    states: np.ndarray, layers: Sequence[int], poolings: Sequence[str], code: str, ids: Sequence[np.ndarray]
) -> None:
    """Refuse NaN, inf and all-zero vectors, and name where: they would be retrieved as if they were sentences."""
    for p, pooling in enumerate(poolings):
        for position, layer in enumerate(layers):
            largest = np.abs(states[p, position]).max(axis=1)  # NaN where any value is
            bad = ~(np.isfinite(largest) & (largest > 0))
            if bad.any():
                row = int(np.argmax(bad))
                if pooling == "mean-nofirst" and len(ids[row]) == 1:
                    raise ModelError(
                        f"{code} row {row + 1} has a single token",
                        "two for --pool mean-nofirst",
                        "use another pooling or remove the row",
                    )
                kind = "all zero" if largest[row] == 0 else "not finite"
                raise ModelError(
                    f"{code} row {row + 1} layer {layer} ({pooling}) is {kind}",
                    "finite states",
                    "try --dtype fp32, or --device with one GPU (spreading over several has been seen to give zeros)",
                )


# ---- from token ids to arrays --------------------------------------------------------------------------------


def pooled_states(
    loaded: LoadedModel,
    ids: Sequence[np.ndarray],
    layers: Sequence[int],
    poolings: Sequence[str],
    batch_tokens: int,
    final_norm: str = "model",
    observer: Observer | None = None,
) -> np.ndarray:
    """Pooled hidden states of sentences given as token ids.

    Blocks above the last asked layer do not run, and only pooled vectors leave a block, so memory does not grow with
    layers x tokens.

    Args:
        layers: ascending; 0 = the input of block 1, k = the output of block k.
        final_norm: `model` = the topmost layer is the model's own output, after its final norm; `raw` = before it.

    Returns:
        (pooling, layer, sentence, hidden) float32, sentences in the given order.
    """
    observer = observer or Silent()
    states = np.empty((len(poolings), len(layers), len(ids), loaded.hidden_size), dtype=np.float32)
    lengths = np.array([len(row) for row in ids])
    from_output = layers[-1] == loaded.depth and final_norm == "model"
    pooler = BlockPooler(layers[:-1] if from_output else layers)
    # One block is kept even for layer 0 alone, since its input is where layer 0 is read.
    with torch.inference_mode(), shortened(loaded, max(layers[-1], 1)), pooler.attached(loaded.blocks):
        for batch in batches(lengths, batch_tokens):
            token_ids, mask = pad_right([ids[row] for row in batch], loaded.pad_id)
            pooler.weights = pooling_weights(mask.to(loaded.device), poolings)
            output = forward(loaded, token_ids.to(loaded.device), mask.to(loaded.device))
            pooled = pooler.take()
            if from_output:
                pooled.append(pool(output, pooler.weights))
            stacked = torch.stack(
                [vectors.to(loaded.device) for vectors in pooled]
            )  # (layer, sentence, pooling, hidden)
            states[:, :, batch] = stacked.permute(2, 0, 1, 3).cpu().numpy()
            observer.advance(len(batch), int(lengths[batch].sum()))
    return states


def batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers of each batch, longest sentences first, at most `batch_tokens` tokens with padding (or one sentence)."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def pad_right(rows: Sequence[np.ndarray], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(sentence, token) int64 ids and bool mask. The mask comes from lengths: a sentence may hold the pad token itself."""
    lengths = np.array([len(row) for row in rows])
    ids = np.full((len(rows), lengths.max()), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids), torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])


class BlockPooler:
    """Pools hidden states at block boundaries while the model runs, by forward hooks on the blocks.

    Set `weights`, run the model, `take()` the pooled vectors.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self.weights = torch.empty(0)
        self._pooled: dict[int, torch.Tensor] = {}

    @contextlib.contextmanager
    def attached(self, blocks: torch.nn.ModuleList) -> Iterator[None]:
        """Hooks on the blocks inside; removed on leaving, whatever happens."""
        handles = []
        for layer in self.layers:
            if layer == 0:
                handles.append(blocks[0].register_forward_pre_hook(self._on_input, with_kwargs=True))
            else:
                handles.append(blocks[layer - 1].register_forward_hook(partial(self._on_output, layer)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self) -> list[torch.Tensor]:
        """(sentence, pooling, hidden) float32 of each layer of the last run, in order.

        Raises:
            ModelError: a block that did not run.
        """
        silent = [layer for layer in self.layers if layer not in self._pooled]
        if silent:
            raise ModelError(
                f"layer {silent[0]} gave no hidden state",
                "every block to run",
                "this architecture skips blocks; leave the layer out",
            )
        pooled = [self._pooled[layer] for layer in self.layers]
        self._pooled = {}
        return pooled

    def _on_input(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self._pooled[0] = pool(args[0] if args else kwargs["hidden_states"], self.weights)

    def _on_output(self, layer: int, module: torch.nn.Module, args: tuple, output: Any) -> None:
        self._pooled[layer] = pool(output[0] if isinstance(output, tuple) else output, self.weights)
