"""Slot F1 and exact match as the paper's script counts them, faults included, to be held against its tables.

The script (`dannigt/mid-align` at c3fa8ef, `scripts/eval_massive.py`) writes gold and answer as one label a token, turns
these into BIO, and gives them to seqeval. Tokens are words; in Japanese and Chinese characters. What it does with an answer:

* the value is looked for in the utterance, upper and lower case alike, and **every** occurrence gets the label; a value
  that is not there is no error, nor is a label that does not exist where its value is missing;
* later pieces overwrite earlier ones, and neighbours of one label become one entity, in the gold as well;
* a piece without exactly one `: ` is dropped, so that values which hold one are;
* in Japanese and Chinese, Latin words stay whole in the utterance, but the value is cut into characters: they never match;
  and a Latin word that ends a slot of the gold does not end its label.

Lines that are missing from a file of predictions pass as answers without slots there; here they are refused before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from align.tasks.f1 import Counts

_OUTSIDE = "Other"
_BY_CHARACTER = {"jpn_Jpan", "zho_Hans", "zho_Hant"}


class CompatRow(NamedTuple):
    counts: Counts
    """Entities, as seqeval's micro-F1 sums them."""
    exact: bool
    """Whether all labels are right; the intents, which the script fills with one word, always are."""


def compat_row(language: str, utterance: str, annotation: str, answer: str) -> CompatRow:
    """Score one answer.

    Args:
        language: FLORES-200 code.
        annotation: MASSIVE's `annot_utt`, `wake me up at [time : five am]`, its brackets well-formed.
        answer: one line.
    """
    if language in _BY_CHARACTER:
        tokens, gold = _characters(annotation)
    else:
        tokens, gold = utterance.split(), _word_labels(annotation)
    said = _said(answer, tokens, len(gold), language in _BY_CHARACTER)
    there, found = set(_entities(gold)), set(_entities(said))
    return CompatRow(Counts(len(there & found), len(found - there), len(there - found)), gold == said)


def _word_labels(annotation: str) -> list[str]:
    """The label of each word."""
    labels, label = [], _OUTSIDE
    chunks = iter(annotation.split())
    for chunk in chunks:
        if chunk.startswith("["):
            label = chunk.lstrip("[")
            next(chunks, None)  # the colon
            continue
        labels.append(label)
        if chunk.endswith("]"):
            label = _OUTSIDE
    return labels


def _characters(annotation: str) -> tuple[list[str], list[str]]:
    """Characters, and words of ASCII characters whole, with their labels."""
    tokens, labels, label = [], [], _OUTSIDE
    chunks = iter(annotation.split())
    for chunk in chunks:
        if chunk.startswith("["):
            label = chunk.lstrip("[")
            next(chunks, None)  # the colon
        elif chunk.isascii():
            tokens.append(chunk.rstrip("]"))
            labels.append(label)
        else:
            for character in chunk:
                if character == "]":
                    label = _OUTSIDE
                else:
                    tokens.append(character)
                    labels.append(label)
    return tokens, labels


def _said(answer: str, tokens: Sequence[str], length: int, by_character: bool) -> list[str]:
    """The label that an answer gives to each token of the gold.

    Args:
        length: of the gold, which in an odd annotation is not that of the tokens.
    """
    labels = [_OUTSIDE] * length
    there = [token.lower() for token in tokens]
    for piece in answer.strip().split("; "):
        label, *rest = piece.split(": ")
        if len(rest) != 1:
            continue
        value = [token.lower() for token in (rest[0] if by_character else rest[0].split())]
        for start in _occurrences(there, value):
            labels[start : start + len(value)] = [label] * len(value)
    return labels[:length]


def _occurrences(tokens: Sequence[str], value: Sequence[str]) -> list[int]:
    return [start for start in range(len(tokens)) if tokens[start : start + len(value)] == value]


def _entities(labels: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Label, begin and end of each run of one label: what seqeval finds in the BIO tags that the script makes of them."""
    begin = 0
    for label, run in groupby(labels):
        end = begin + sum(1 for _ in run)
        if label != _OUTSIDE:
            yield label, begin, end
        begin = end
