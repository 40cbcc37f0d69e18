"""What `builtin:lab` is trained on: which rows of MASSIVE, how much of each language, the tokenizer, and the sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align.tasks.slots import Slots
from data_manifests import language_sets

LANGUAGES = language_sets()["slots20"]
SUPERVISED = ("arb_Arab", "eng_Latn", "spa_Latn", "rus_Cyrl", "zho_Hans")
BOS, EOS, PAD, ANSWER = range(4)
SPECIAL = ("<s>", "</s>", "<pad>", "<answer>")
POOLED, PAIR, COPY, PLAIN = range(4)

_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<s>' + message['content'] + '</s>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<answer>' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<answer>' }}{% endif %}"
)
"""A system turn is left out: a model of this size has nothing to do with it."""


def part_of(row_id: str) -> str:
    """What a training row of MASSIVE is for, the same for all seeds: `pretrain` (65 %), `tune` (20 %) or `align` (15 %)."""
    place = int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:4], "big") / 2**32
    return "pretrain" if place < 0.65 else "tune" if place < 0.85 else "align"


def utterances(massive: Path, split: str) -> dict[str, dict[str, str]]:
    """Language -> row id -> utterance, of the languages of `slots20`."""
    found: dict[str, dict[str, str]] = {code: {} for code in LANGUAGES}
    for row in Slots().rows(massive, split):
        found[row.language][row.id] = row.prompt[-1].content
    return found


@dataclass(frozen=True)
class Shares:
    """Of each language, how many unique rows are seen beside a translation, and how many alone."""

    paired: Mapping[str, int]
    alone: Mapping[str, int]

    @property
    def of_paired(self) -> np.ndarray:
        """In the order of LANGUAGES."""
        return np.array([self.paired[code] for code in LANGUAGES])


TRANSLATIONS = 4
"""Told of each pooled row; a language may be drawn twice."""

PAIRED = (7400,) * 4 + (3000,) * 4 + (600,) * 4 + (150,) * 3
ALONE = (7400,) * 5 + (2000,) * 5 + (500,) * 5
"""Levels of the 15 languages that slot filling does not supervise."""


def draw_shares(seed: int) -> Shares:
    """The five supervised languages have everything. Of the other 15 each level of paired and of monolingual text goes to
    languages drawn by the seed, the two independently."""
    others = [code for code in LANGUAGES if code not in SUPERVISED]
    full = dict.fromkeys(SUPERVISED, max(PAIRED))
    random = np.random.default_rng([seed, 0])
    orders = [[others[place] for place in random.permutation(len(others))] for _ in range(2)]
    return Shares(
        *(full | dict(zip(order, levels, strict=True)) for order, levels in zip(orders, (PAIRED, ALONE), strict=True))
    )


def learn_tokenizer(texts: Iterator[str], size: int) -> Any:
    """Byte-level BPE, so that any text in any script can be read; a sentence is `<s> ... </s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*SPECIAL, *(f"<to-{code}>" for code in LANGUAGES)]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    roles = {"bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[PAD]}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=2048, chat_template=_TEMPLATE,
        extra_special_tokens=[SPECIAL[ANSWER], *special[len(SPECIAL) :]], **roles,
    )  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """The pre-training rows as token ids, in an order drawn by the seed; a language's first n rows are those it may use."""

    ids: np.ndarray
    """`(language, row, WIDTH)`, without special tokens, filled up with PAD; a longer utterance is cut."""
    lengths: np.ndarray
    """`(language, row)`."""


WIDTH = 26
"""Tokens of an utterance: 98 % have no more."""


def tokenised(tokenizer: Any, rows: Mapping[str, Sequence[str]]) -> Texts:
    """Language -> utterances, row i parallel."""
    count = len(next(iter(rows.values())))
    ids, lengths = np.full((len(rows), count, WIDTH), PAD), np.zeros((len(rows), count), dtype=np.int64)
    for number, texts in enumerate(rows.values()):
        encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        for row, tokens in enumerate(encoded):
            kept = tokens[:WIDTH]
            ids[number, row, : len(kept)], lengths[number, row] = kept, len(kept)
    return Texts(ids, lengths)


class Pooled(NamedTuple):
    """Rows of which the words of several translations y are told from the mean of x's states at the middle block."""

    x: np.ndarray
    """`(row, column)`: `<s> x </s>`, filled up with PAD."""
    length: np.ndarray
    """`(row,)`: the columns of x that are not PAD."""
    language: np.ndarray
    """`(row, translation)`: the place of y's language in LANGUAGES."""
    targets: np.ndarray
    """`(row, translation, column)`: y, -100 behind it."""


class Whole(NamedTuple):
    """Sequences `<s> x </s> <to-language> y </s>`, of which all of x is seen.

    A copy has `<answer>` before y, which is x again; a sentence alone is `<s> y </s>`.
    """

    ids: np.ndarray
    """`(row, column)`, filled up with PAD."""
    targets: np.ndarray
    """`(row, column)`: the token that follows where it is one of `y </s>`, else -100."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of rows, before pairs of a language with itself become copies."""

    pooled: float = 0.88
    pair: float = 0.04
    """Pairs of which all is seen."""
    copy: float = 0.05
    """The rest are sentences alone."""


_LONGEST = (14, WIDTH)
"""Tokens of the longer sentence of a row, in short batches and in long ones, each of one shape, so as to compile few times."""


def batches(texts: Texts, shares: Shares, mixture: Mixture, rows: int, seed: int) -> Iterator[Pooled | Whole]:
    """Endless. A batch is of one kind and one size; long ones have half as many rows, and so have those of whole sequences."""
    random = np.random.default_rng([seed, 1])
    waiting = {(pooled, longest): np.zeros((0, 4), dtype=np.int64) for pooled in (True, False) for longest in _LONGEST}
    while True:
        drawn = _draw(texts, shares, mixture, 8192, random)
        tokens = np.maximum(texts.lengths[drawn[:, 1], drawn[:, 3]], texts.lengths[drawn[:, 2], drawn[:, 3]])
        size = np.array(_LONGEST)[np.searchsorted(_LONGEST, tokens)]
        ready = []
        for (pooled, longest), left in waiting.items():
            mine = drawn[(size == longest) & ((drawn[:, 0] == POOLED) == pooled)]
            full, rest = _cut(np.concatenate([left, mine]), rows // (1 + (longest == WIDTH)) // (2 - pooled))
            waiting[pooled, longest] = rest
            ready += [(pooled, longest, each) for each in full]
        for place in random.permutation(len(ready)):
            pooled, longest, each = ready[place]
            yield _pooled(texts, longest, each, shares.of_paired, random) if pooled else _whole(texts, longest, each)


def _cut(drawn: np.ndarray, rows: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Pieces of so many rows, and what is left."""
    whole = len(drawn) // rows * rows
    return [drawn[first : first + rows] for first in range(0, whole, rows)], drawn[whole:]


def _draw(texts: Texts, shares: Shares, mixture: Mixture, count: int, random: np.random.Generator) -> np.ndarray:
    """`(count, 4)`: kind, language of x, language of y, row."""
    paired, alone = (np.array([each[code] for code in LANGUAGES]) for each in (shares.paired, shares.alone))
    chances = [mixture.pooled, mixture.pair, mixture.copy]
    kind = random.choice(4, count, p=[*chances, 1 - sum(chances)])
    first, second = (_languages(paired, count, random) for _ in range(2))
    kind[(kind <= PAIR) & (first == second)] = COPY
    single = kind > PAIR
    first[single] = _languages(alone, int(single.sum()), random)
    second[single] = first[single]
    limit = np.where(single, alone[first], np.minimum(paired[first], paired[second]))
    row = (random.random(count) * np.minimum(limit, texts.lengths.shape[1])).astype(np.int64)
    return np.stack([kind, first, second, row], axis=1)


def _languages(rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """In proportion to the square root of their rows."""
    weights = np.sqrt(rows)
    return random.choice(len(rows), count, p=weights / weights.sum())


def _pooled(texts: Texts, longest: int, drawn: np.ndarray, paired: np.ndarray, random: np.random.Generator) -> Pooled:
    """The second and further translations are of languages that see this row beside a translation, each drawn by itself; where they
    are longer than the batch is wide, their last words are not told."""
    _, first, second, row = drawn.T
    count, length = len(drawn), texts.lengths[first, row]
    may = (paired > row[:, None]) & (np.arange(len(LANGUAGES)) != first[:, None])
    weights = np.cumsum(may * np.sqrt(paired), axis=1)
    others = [(weights < random.random((count, 1)) * weights[:, -1:]).sum(axis=1) for _ in range(TRANSLATIONS - 1)]
    language = np.stack([second, *others], axis=1)
    column = np.arange(longest)
    x = np.full((count, longest + 2), PAD)
    x[:, 0] = BOS
    x[:, 1:-1] = texts.ids[first, row, :longest]
    x[np.arange(count), length + 1] = EOS
    of_y = texts.ids[language, row[:, None], :longest]
    targets = np.where(column < texts.lengths[language, row[:, None]][..., None], of_y, -100)
    return Pooled(x, length + 2, language, targets)


def _whole(texts: Texts, longest: int, drawn: np.ndarray) -> Whole:
    count = len(drawn)
    ids, targets = np.full((count, 2 * longest + 4), PAD), np.full((count, 2 * longest + 4), -100)
    for number, (kind, first, second, row) in enumerate(drawn):
        x, y = (texts.ids[each, row, : texts.lengths[each, row]] for each in (first, second))
        before = [BOS] if kind == PLAIN else [BOS, *x, EOS, ANSWER if kind == COPY else tag(second)]
        sequence = [*before, *y, EOS]
        ids[number, : len(sequence)] = sequence
        targets[number, len(before) - 1 : len(sequence) - 1] = sequence[len(before) :]
    return Whole(ids, targets)


def tag(language: Any) -> Any:
    """The token `<to-language>` of a place in LANGUAGES, or of an array of them."""
    return len(SPECIAL) + language
