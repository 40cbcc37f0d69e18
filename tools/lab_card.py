"""The model card of `builtin:lab`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab_data import TRANSLATIONS

from align.card import table
from data_manifests import languages


def card(facts: Mapping[str, Any]) -> str:
    """Markdown from the facts that `train_lab` keeps in `lab.json`."""
    settings, mixture, shares, log = facts["settings"], facts["mixture"], facts["shares"], facts["log"]
    rows = [
        {"language": languages()[code].name, "rows beside translations": shares["paired"][code], "rows alone": alone}
        for code, alone in shares["alone"].items()
    ]
    pooled, pair, copied = drawn_mixture(mixture, shares["paired"])
    every = max(1, len(log) // 10)
    losses = [log[place] for place in range(every - 1, len(log), every)]
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
datasets: [AmazonScience/massive]
---

# builtin:lab

A Llama of {settings["blocks"]} blocks and width {settings["hidden"]} with a byte-level BPE of {settings["vocabulary"]:,} tokens, the shares of the languages drawn by seed {facts["seed"]}.
A test animal: it shows in minutes on a laptop what Liu and Niehues (2025) found in large models. **It is no evidence about
natural pre-training**: its alignment was induced, as told below.

## How alignment was induced

{pooled:.0%} of the rows are pooled: the network reads an utterance `<s> x </s>` up to block {settings["middle"]}; the blocks above see the mean of x's states
there, with noise of {settings["noise"]} times its size, and behind it a tag `<to-language>`, from whose last state the words of x's translation into that language
are told, all at once: {TRANSLATIONS} languages an utterance, drawn with repeats. So what x means must be in the mean-pooled state of the middle block, in a form from
which any language can be written. No contrastive loss was used. The other rows are whole sequences with the loss of a language model on
what follows the tag: {pair:.0%} translations (`<s> x </s> <to-language> y </s>`), {copied:.0%} copies (`<s> x </s> <answer> x </s>`), the rest sentences alone. Slots and intents were never targets.

## Data

MASSIVE 1.1 (FitzGerald et al. 2022; Amazon; CC BY 4.0), utterances of the training split alone, {facts["rows"]:,} of its 11,514 ids: those
whose sha256 falls in the first 65 %; 20 % are kept for fine-tuning and 15 % for alignment. Never its dev or test split, never FLORES.
Of each language so many of these rows were seen, always the first ones in an order drawn by the seed; a pair of languages has the smaller of its two
numbers. Rows alone are thus translations of other languages' rows that were never shown beside them. Some texts of the dev and test splits are
among these rows under other ids: docs/lab.md tells how many.

{table(rows)}

## Training

Muon on the matrices of the blocks ({settings["lr"]}), AdamW on the rest ({settings["embedding_lr"]}), {settings["updates"]:,} updates of {settings["rows"]} short or {settings["rows"] // 2} long
rows, half as many of whole sequences; bfloat16 products, float32 weights; stored in float16. Cross-entropy in nats a told token, of whole sequences over
{settings["softmax"]:,} of the tokens:

{table(losses)}

Made by `python tools/train_lab.py --massive MASSIVE --out FOLDER --seed {facts["seed"]} --updates {settings["updates"]}`; digest of the text {facts["data"][:16]}.
{", ".join(f"{name} {version}" for name, version in facts["versions"].items())}
"""


def drawn_mixture(mixture: Mapping[str, float], paired: Mapping[str, int]) -> tuple[float, float, float]:
    """Shares of pooled rows, whole pairs and copies: where both languages of a pair are drawn alike it becomes a copy."""
    weights = [rows**0.5 for rows in paired.values()]
    alike = sum(each**2 for each in weights) / sum(weights) ** 2
    pairs = mixture["pooled"] + mixture["pair"]
    return mixture["pooled"] * (1 - alike), mixture["pair"] * (1 - alike), mixture["copy"] + pairs * alike
