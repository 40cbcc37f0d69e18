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
COPY, PAIR, PLAIN = range(3)

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


PAIRED = (7400,) * 4 + (3000,) * 4 + (600,) * 4 + (150,) * 3
ALONE = (7400,) * 5 + (2000,) * 5 + (500,) * 5
"""Levels of the 15 languages that slot filling does not supervise."""

_NATURAL = (
    "deu_Latn", "fra_Latn", "jpn_Jpan", "hin_Deva",  "tur_Latn", "ell_Grek", "tha_Thai", "afr_Latn",
    "isl_Latn", "tgl_Latn", "azj_Latn", "cym_Latn", "urd_Arab", "jav_Latn", "swh_Latn",
)  # fmt: skip
"""From much to little text in the world, as we judge it: an order by hand, of which nothing but the demonstration depends."""


def draw_shares(seed: int | None) -> Shares:
    """The five supervised languages have everything. Of the other 15 each level of paired and of monolingual text goes to
    languages drawn by the seed, the two independently; without a seed both go down a natural order."""
    others = [code for code in LANGUAGES if code not in SUPERVISED]
    assert sorted(others) == sorted(_NATURAL)
    full = dict.fromkeys(SUPERVISED, max(PAIRED))
    if seed is None:
        return Shares(full | dict(zip(_NATURAL, PAIRED, strict=True)), full | dict(zip(_NATURAL, ALONE, strict=True)))
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


class Batch(NamedTuple):
    """Sequences `<s> x </s> <to-language> y </s>`, all with `<to-language>` in the same column: x stands right before it.

    A copy has `<answer>` there and x again behind it; a sentence alone is `<s> y </s>` with nothing before.
    """

    ids: np.ndarray
    """`(row, column)`."""
    start: np.ndarray
    """`(row,)`: the column of the first token."""
    targets: np.ndarray
    """`(row, column - source)`: the token that follows, -100 where there is none."""
    pooled: np.ndarray
    """`(row,)` bool: y sees of x only the mean of its states at the middle block."""
    source: int
    """The column of the tag."""

    @property
    def tokens(self) -> int:
        return int((self.ids.shape[1] - self.start).sum() - (self.targets == -100).sum())


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of sequences."""

    pair: float = 0.85
    copy: float = 0.1
    """The rest are sentences alone."""
    pooled: float = 0.85
    """Of the pairs, those through the mean."""
    hidden_words: float = 0.9
    """Of the words of y, behind the mean, those that are hidden from what follows, which must then be told by x."""


_SOURCES = (16, 28)
"""Columns of x with its two special tokens, and of y: short and long sequences, each of one shape, so as to compile twice."""


def batches(texts: Texts, shares: Shares, mixture: Mixture, rows: int, seed: int) -> Iterator[Batch]:
    """Endless. Long sequences come in batches of half as many rows."""
    random = np.random.default_rng([seed, 1])
    waiting = [np.zeros((0, 5), dtype=np.int64) for _ in _SOURCES]
    while True:
        drawn = _draw(texts, shares, mixture, 4096, random)
        longest = np.maximum(texts.lengths[drawn[:, 1], drawn[:, 3]], texts.lengths[drawn[:, 2], drawn[:, 3]])
        short = longest <= _SOURCES[0] - 3
        ready = []
        for size, mine in enumerate((short, ~short)):
            waiting[size] = np.concatenate([waiting[size], drawn[mine]])
            count = rows // (1 + size)
            while len(waiting[size]) >= count:
                ready.append((_SOURCES[size], waiting[size][:count]))
                waiting[size] = waiting[size][count:]
        for place in random.permutation(len(ready)):
            yield _laid_out(texts, *ready[place], mixture, random)


def _draw(texts: Texts, shares: Shares, mixture: Mixture, count: int, random: np.random.Generator) -> np.ndarray:
    """`(count, 5)`: kind, language of x, language of y, row, whether pooled."""
    paired, alone = (np.array([each[code] for code in LANGUAGES]) for each in (shares.paired, shares.alone))
    kind = random.choice(3, count, p=[mixture.copy, mixture.pair, 1 - mixture.copy - mixture.pair])
    first, second = (_languages(paired, count, random) for _ in range(2))
    kind[(kind == PAIR) & (first == second)] = COPY
    single = kind != PAIR
    first[single] = _languages(alone, int(single.sum()), random)
    second[single] = first[single]
    limit = np.where(single, alone[first], np.minimum(paired[first], paired[second]))
    row = (random.random(count) * np.minimum(limit, texts.lengths.shape[1])).astype(np.int64)
    pooled = (kind == PAIR) & (random.random(count) < mixture.pooled)
    return np.stack([kind, first, second, row, pooled], axis=1)


def _languages(rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """In proportion to the square root of their rows."""
    weights = np.sqrt(rows)
    return random.choice(len(rows), count, p=weights / weights.sum())


def _laid_out(texts: Texts, source: int, drawn: np.ndarray, mixture: Mixture, random: np.random.Generator) -> Batch:
    kind, first, second, row, pooled = drawn.T
    count = len(drawn)
    before, after = texts.lengths[first, row], texts.lengths[second, row]
    ids = np.full((count, 2 * source), PAD)
    targets = np.full((count, source), -100)
    start = np.where(kind == PLAIN, source, source - 2 - before)
    column = np.arange(source)
    for number in range(count):
        x, y = texts.ids[first[number], row[number]], texts.ids[second[number], row[number]]
        if kind[number] != PLAIN:
            ids[number, start[number] : source] = [BOS, *x[: before[number]], EOS]
        targets[number, : after[number] + 1] = [*y[: after[number]], EOS]
    tags = len(SPECIAL) + second
    ids[:, source] = np.choose(kind, [np.full(count, ANSWER), tags, np.full(count, BOS)])
    hidden = pooled[:, None].astype(bool) & (random.random((count, source - 1)) < mixture.hidden_words)
    seen = (column[None, 1:] <= after[:, None]) & ~hidden
    ids[:, source + 1 :] = np.where(seen, targets[:, :-1], PAD)
    return Batch(ids, start, targets, pooled.astype(bool), source)
