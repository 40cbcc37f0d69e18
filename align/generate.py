"""Greedy answers to many prompts: the longest first; rows that end leave the batch, and waiting prompts take their places."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

from align.examples import end_of_turn
from probe.errors import AlignError, ModelError
from probe.model import LoadedModel, context_length
from probe.states import pad_right

NEAR_TIE = 1e-4
"""Float32 logits closer than this may change places with the batch that a row is in."""

AUTO_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Tokens whose keys and values a batch may hold, padding included, where no number of rows is given."""

_LAYERS = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}
"""Layers of a cache that hold keys and values of tokens, or nothing: rows can leave them and come into them."""

_ALIBI = {"bloom", "mpt"}
"""Models without position ids that are right behind padding all the same: only distances, or what the mask leaves, count."""


@dataclass(frozen=True)
class Generated:
    """The answer to a prompt."""

    index: int
    """Of the prompt."""
    ids: tuple[int, ...]
    """The token that ended it included."""
    text: str
    """Without special tokens, and without that token."""
    stopped: Literal["end", "length", "context"]
    """By a token that ends, at the most new tokens, or at the end of the model's context."""
    near_tie: bool
    """Whether at some step the two best logits were less than `NEAR_TIE` apart. In float32, answers without such a step are
    the same in a batch of any size, and with an adapter merged into the weights or beside them."""


def stop_tokens(model: Any, tokenizer: Any, more: Collection[int] = ()) -> frozenset[int]:
    """Tokens that end an answer: of the model's generation config, the tokenizer's EOS, the template's end of turn, and `more`."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {
        *(ends if isinstance(ends, (list, tuple)) else [ends]),
        tokenizer.eos_token_id,
        end_of_turn(tokenizer),
        *more,
    }
    return frozenset(int(token) for token in found if token is not None)


def generate(
    model: Any,
    loaded: LoadedModel,
    prompts: Sequence[Int64[np.ndarray, " token"]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    batch: int | None = None,
    names: Sequence[str] = (),
    note: Callable[[str], object] = lambda message: None,
) -> Iterator[Generated]:
    """Decode greedily, as `model.generate(do_sample=False)` does without other settings, and give answers as they end.

    The model's generation config is not read: no repetition penalty of its (Qwen2.5-Instruct has one of 1.05), only the
    largest logit, the first on ties. What all prompts begin with is read once. Memory beside the weights: keys and values of
    a batch, and logits of one token a row.

    Args:
        model: the causal language model, in evaluation mode.
        loaded: the base model inside it.
        prompts: see `align.examples.encode_prompts`; no token is added to them.
        stop_ids: see `stop_tokens`.
        batch: rows at once; None = as many as fit `AUTO_BATCH_TOKENS`, halved when memory runs out.
        names: of the prompts, for messages.
        note: told in a sentence what a person should know.

    Returns:
        An answer a prompt, in the order in which they end.

    Raises:
        AlignError: at once, before anything is generated: a prompt longer than the context, or without tokens; numbers below 1.
            Later: out of memory with the given `batch`.
        ModelError: token ids that the model lacks; a model that keeps no cache of the common kind; logits that are not finite.
    """
    for option, value in (("--max-new-tokens", max_new_tokens), ("--batch", batch)):
        if value is not None and value < 1:
            raise AlignError(f"{option} {value}", "1 or more", "give another number")
    context = context_length(loaded.model, loaded.tokenizer)
    _refuse_unreadable(prompts, names, context, len(loaded.model.get_input_embeddings().weight))
    decoder = _Decoder(model, loaded, prompts, max_new_tokens, context, stop_ids, names)
    return _all(decoder, batch, note)


def _refuse_unreadable(prompts: Sequence[np.ndarray], names: Sequence[str], context: int, vocabulary: int) -> None:
    for row, prompt in enumerate(prompts):
        name = _name(row, names)
        if not 0 < len(prompt) <= context:
            raise AlignError(
                f"{name} has {len(prompt)} tokens",
                f"1 to {context}, the model's context",
                "leave the row out, shorten it, or use a model with a longer context",
            )
        if prompt.max() >= vocabulary:
            raise ModelError(
                f"{name} has token {prompt.max()}",
                f"ids below {vocabulary}, the model's number of embeddings",
                "check that the tokenizer belongs to the model",
            )


def _name(row: int, names: Sequence[str]) -> str:
    return names[row] if names else f"prompt {row + 1}"


def _all(decoder: _Decoder, batch: int | None, note: Callable[[str], object]) -> Iterator[Generated]:
    """Every prompt's answer; where memory runs out, rows under way begin again in a batch of half the size."""
    todo = set(range(len(decoder.prompts)))
    budget = AUTO_BATCH_TOKENS.get(decoder.device.type, AUTO_BATCH_TOKENS["cpu"])
    if not decoder.movable:
        batch = 1
        note(f"{type(decoder.model).__name__} cannot be padded: one row at a time")
    while todo:
        rows = sorted(todo, key=lambda row: (-len(decoder.prompts[row]), row))
        budget = min(budget, len(rows) * decoder.longest(rows))
        try:
            for answer in decoder.answers(rows, batch, budget):
                todo.remove(answer.index)
                yield answer
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if batch is not None or budget <= decoder.longest(rows):
                raise AlignError(
                    f"out of memory with {batch or 1} rows at once",
                    "a batch that fits",
                    f"give --batch {batch // 2}" if batch and batch > 1 else "give --dtype bf16, or a smaller model",
                ) from None
            budget //= 2
            note(f"out of memory: going on with {budget} tokens a batch")
        if (
            torch.cuda.is_available()
        ):  # only here, after `except`, has the traceback let go of the failed pass's tensors
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """The CPU allocator raises a plain RuntimeError."""
    signs = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


@dataclass
class _Rows:
    """Rows under way. In the cache each is its prompt and its answer behind padding: all end in the same slot."""

    numbers: list[int]
    """Of their prompts."""
    lengths: list[int]
    """Tokens in the cache."""
    cache: Any
    last: Int64[Tensor, " row"]
    """Their newest tokens, which are not in the cache yet."""

    def __len__(self) -> int:
        return len(self.numbers)

    def keep(self, places: list[int]) -> None:
        """The other rows leave, and with them the padding that they alone made needful."""
        if len(places) == len(self):
            return
        width = max(self.lengths)
        self.numbers, self.lengths = ([each[place] for place in places] for each in (self.numbers, self.lengths))
        chosen = torch.tensor(places, dtype=torch.long, device=self.last.device)
        self.last = self.last[chosen]
        if places:
            self.cache.batch_select_indices(chosen)
            _pad_cache(self.cache, max(self.lengths) - width)

    def join(self, others: _Rows) -> _Rows:
        """Both, padded to one width."""
        if not self or not others:
            return self or others
        width = max(self.lengths + others.lengths)
        for rows in (self, others):
            _pad_cache(rows.cache, width - max(rows.lengths))
        for own, other in zip(_filled(self.cache), _filled(others.cache), strict=True):
            own.keys, own.values = torch.cat([own.keys, other.keys]), torch.cat([own.values, other.values])
        last = torch.cat([self.last, others.last])
        return _Rows(self.numbers + others.numbers, self.lengths + others.lengths, self.cache, last)


def _filled(cache: Any) -> list[Any]:
    """The layers that hold something: some models have layers that use what others hold."""
    return [layer for layer in cache.layers if layer.keys is not None]


def _window(layer: Any) -> int | None:
    """Of a layer that holds the newest slots only, one fewer than this, and counts all."""
    return getattr(layer, "sliding_window", None)


def _pad_cache(cache: Any, slots: int) -> None:
    """Put padding before all rows; take it away where `slots` is negative."""
    for layer in _filled(cache) if slots else ():
        held = layer.keys.shape[2]
        wanted = held + slots
        if (window := _window(layer)) is not None:
            layer.cumulative_length += slots
            wanted = min(layer.cumulative_length, window - 1)
        layer.keys, layer.values = (pad(states, (0, 0, wanted - held, 0)) for states in (layer.keys, layer.values))


def _align_right(cache: Any, lengths: Int64[Tensor, " row"]) -> None:
    """Move the padding of rows of these lengths from behind them to before them."""
    width = int(lengths.max())
    slots = torch.arange(width, device=lengths.device) - (width - lengths)[:, None]
    slots = slots.clamp(min=0)[:, None, :, None]
    for layer in _filled(cache):
        layer.keys, layer.values = (torch.take_along_dim(states, slots, 2) for states in (layer.keys, layer.values))


class _Decoder:
    """A model that reads prompts and answers them token by token."""

    def __init__(
        self,
        model: Any,
        loaded: LoadedModel,
        prompts: Sequence[Int64[np.ndarray, " token"]],
        max_new_tokens: int,
        context: int,
        stop_ids: Collection[int],
        names: Sequence[str],
    ) -> None:
        self.model, self.tokenizer, self.pad_id, self.device = model, loaded.tokenizer, loaded.pad_id, loaded.device
        self.prompts, self.names = prompts, names
        self.max_new_tokens, self.context, self.stop_ids = max_new_tokens, context, frozenset(stop_ids)
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.tokens: dict[int, list[int]] = {}
        """Of the answers under way."""
        self.near: set[int] = set()
        self.prefix, self.shared = 0, None
        cache = self._read_ids([np.zeros(1, dtype=np.int64)])[1]
        if cache is None:
            raise ModelError(
                f"{type(model).__name__} gives no past_key_values",
                "a model with a cache",
                "this architecture is not supported",
            )
        layers = getattr(cache, "layers", [None])
        common = type(cache).__name__ == "DynamicCache" and {type(layer).__name__ for layer in layers} <= _LAYERS
        self.movable = common and (self.takes_positions or model.config.model_type in _ALIBI)
        self.windows = [window for layer in layers if (window := _window(layer)) is not None]

    def answers(self, rows: Sequence[int], batch: int | None, budget: int) -> Iterator[Generated]:
        """Answers of these rows, read in this order: `batch` of them at once, or as many as `budget` tokens hold."""
        self._read_prefix(rows)
        waiting = deque(rows)
        running = none = _Rows([], [], None, torch.empty(0, dtype=torch.long, device=self.device))
        while waiting or running:
            most = batch or max(1, budget // self.longest([*running.numbers, *islice(waiting, 1)]))
            group = max(1, most // 4)  # new rows come together: read alone, a row takes longer
            if waiting and most - len(running) >= group:
                new = self._read(self._taken(waiting, group))
            else:
                new, running = self._step(running), none
            ended = [self._ended(row) for row in new.numbers]
            new.keep([place for place, answer in enumerate(ended) if answer is None])
            running = running.join(new)
            yield from filter(None, ended)

    def _taken(self, waiting: deque[int], most: int) -> list[int]:
        """The next rows to be read together: of one length where padding would push tokens out of a sliding window."""
        length = len(self.prompts[waiting[0]])
        even = any(window <= length + self.max_new_tokens for window in self.windows)
        rows: list[int] = []
        while waiting and len(rows) < most and not (even and len(self.prompts[waiting[0]]) < length):
            rows.append(waiting.popleft())
        return rows

    def longest(self, rows: Sequence[int]) -> int:
        """Tokens of the longest prompt and the longest answer."""
        return min(max(len(self.prompts[row]) for row in rows) + self.max_new_tokens, self.context + 1)

    def _read_prefix(self, rows: Sequence[int]) -> None:
        """Read what all prompts begin with, once."""
        self.prefix, self.shared = 0, None
        if self.movable and len(rows) > 1 and (common := _common([self.prompts[row] for row in rows])):
            self.shared = self._read_ids([self.prompts[rows[0]][:common]])[1]
            self.prefix = common

    def _read(self, rows: list[int]) -> _Rows:
        """Read prompts, and choose the first token of each answer."""
        logits, cache = self._read_ids([self.prompts[row][self.prefix :] for row in rows])
        lengths = [len(self.prompts[row]) for row in rows]
        if min(lengths) < max(lengths):
            _align_right(cache, torch.tensor(lengths, device=self.device))
        self.tokens.update((row, []) for row in rows)
        self.near -= set(rows)
        return _Rows(rows, lengths, cache, self._chosen(rows, logits))

    def _read_ids(self, rests: Sequence[Int64[np.ndarray, " token"]]) -> tuple[Float[Tensor, "row vocabulary"], Any]:
        """Logits behind the last token of each row, and the cache of the prefix and the rows.

        Padding is behind the rows here, so that each goes on right behind the prefix.
        """
        cache = copy.deepcopy(self.shared)
        if cache is not None:
            cache.batch_repeat_interleave(len(rests))
        ids, mask = (tensor.to(self.device) for tensor in pad_right(rests, self.pad_id))
        positions = self.prefix + torch.arange(ids.shape[1], device=self.device)
        whole = torch.cat([mask.new_ones(len(rests), self.prefix), mask], dim=1)
        return self._forward(ids, whole, positions.expand_as(ids), mask.sum(dim=1) - 1, cache)

    def _step(self, rows: _Rows) -> _Rows:
        """Read the newest tokens, and choose the next."""
        lengths = [length + 1 for length in rows.lengths]
        counts = torch.tensor(lengths, device=self.device)[:, None]
        slots = torch.arange(max(lengths), device=self.device)
        logits, cache = self._forward(
            rows.last[:, None], slots >= len(slots) - counts, counts - 1, torch.zeros_like(rows.last), rows.cache
        )
        return _Rows(rows.numbers, lengths, cache, self._chosen(rows.numbers, logits))

    @torch.inference_mode()
    def _forward(
        self,
        ids: Int64[Tensor, "row token"],
        mask: Bool[Tensor, "row slot"],
        positions: Int64[Tensor, "row token"],
        last: Int64[Tensor, " row"],
        cache: Any,
    ) -> tuple[Float[Tensor, "row vocabulary"], Any]:
        """Logits behind the token `last` of each row, and the cache with these tokens in it."""
        options = {"position_ids": positions} if self.takes_positions else {}
        with _head_reads(self.model, last):
            output = self.model(
                input_ids=ids, attention_mask=mask.long(), past_key_values=cache, use_cache=True, **options
            )
        if output.logits.shape[:2] != (len(ids), 1):
            raise ModelError(
                f"{type(self.model).__name__} gave logits of shape {tuple(output.logits.shape)}",
                f"({len(ids)}, 1, vocabulary)",
                "this architecture does not call its head; it is not supported",
            )
        return output.logits[:, 0].float(), getattr(output, "past_key_values", None)

    def _chosen(self, rows: Sequence[int], logits: Float[Tensor, "row vocabulary"]) -> Int64[Tensor, " row"]:
        """The best token of each row, noted with whether another was nearly as good."""
        tokens = logits.argmax(dim=-1)
        for row, token, (first, second) in zip(rows, tokens.tolist(), logits.topk(2).values.tolist(), strict=True):
            if not math.isfinite(first):
                raise ModelError(
                    f"{_name(row, self.names)} has logits that are not finite", "finite logits", "try --dtype fp32"
                )
            self.tokens[row].append(token)
            if first - second < NEAR_TIE:
                self.near.add(row)
        return tokens

    def _ended(self, row: int) -> Generated | None:
        """The answer, where its newest token is the last."""
        tokens = self.tokens[row]
        stopped: Literal["end", "length", "context"]
        if tokens[-1] in self.stop_ids:
            stopped = "end"
        elif len(tokens) == self.max_new_tokens:
            stopped = "length"
        elif len(self.prompts[row]) + len(tokens) > self.context:  # the newest could be read no more
            stopped = "context"
        else:
            return None
        said = self.tokens.pop(row)[: -1 if stopped == "end" else None]
        text = self.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Generated(row, tuple(tokens), text, stopped, row in self.near)


def _common(prompts: Sequence[np.ndarray]) -> int:
    """Number of tokens with which all begin, such that each goes on."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))  # by token: all others are between them
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(same, min(map(len, prompts)) - 1)


@contextlib.contextmanager
def _head_reads(model: Any, tokens: Int64[Tensor, " row"]) -> Iterator[None]:
    """Inside, the LM head is given one token of each row, so that no (row, token, vocabulary) tensor is made."""

    def select(head: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return args[0][torch.arange(len(tokens), device=tokens.device), tokens].unsqueeze(1)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
