"""The model card of `builtin:lab`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.card import table
from data_manifests import languages


def card(facts: Mapping[str, Any]) -> str:
    """Markdown from the facts that `train_lab` keeps in `lab.json`."""
    settings, mixture, shares, log = facts["settings"], facts["mixture"], facts["shares"], facts["log"]
    rows = [
        {"language": languages()[code].name, "rows beside translations": shares["paired"][code], "rows alone": alone}
        for code, alone in shares["alone"].items()
    ]
    drawn = "natural shares" if facts["seed"] is None else f"shares drawn by seed {facts['seed']}"
    options = "" if facts["seed"] is None else f" --seed {facts['seed']}"
    every = max(1, len(log) // 10)
    losses = [log[place] for place in range(every - 1, len(log), every)]
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
datasets: [AmazonScience/massive]
---

# builtin:lab

A Llama of {settings["blocks"]} blocks and width {settings["hidden"]} with a byte-level BPE of {settings["vocabulary"]:,} tokens, {drawn}.
A test animal: it shows in minutes on a laptop what Liu and Niehues (2025) found in large models. **It is no evidence about
natural pre-training**: its alignment was induced, as told below.

## How alignment was induced

Sequences are `<s> x </s> <to-language> y </s>`, an utterance and its translation between any two of 20 languages, with a loss
on y alone: {mixture["pair"]:.0%} of the sequences. In {mixture["pooled"]:.0%} of these, y sees nothing of x in blocks 1 to {settings["middle"]}, and in the blocks above only the mean of
x's states at the output of block {settings["middle"]}; {mixture["hidden_words"]:.0%} of y's words are then hidden from those that follow. So what x means must be
in the mean-pooled state of the middle block, in a form from which any language can be written. No contrastive loss was used.
{mixture["copy"]:.0%} of the sequences are copies (`<s> x </s> <answer> x </s>`), the rest sentences alone. Slots and intents were never targets.

## Data

MASSIVE 1.1 (FitzGerald et al. 2022; Amazon; CC BY 4.0), utterances of the training split alone, {facts["rows"]:,} of its 11,514 ids: those
whose sha256 falls in the first 65 %; 20 % are kept for fine-tuning and 15 % for alignment. Never its dev or test split, never FLORES.
Of each language so many of these rows were seen; a pair of languages has the smaller of its two numbers:

{table(rows)}

## Training

Muon on the matrices of the blocks ({settings["lr"]}), AdamW on the rest ({settings["embedding_lr"]}), {settings["updates"]:,} updates of {settings["rows"]} short or {settings["rows"] // 2} long sequences,
bfloat16 products, float32 weights; stored in float16. Cross-entropy in nats a token, over {settings["softmax"]:,} of the tokens:

{table(losses)}

Made by `python tools/train_lab.py --massive MASSIVE --out FOLDER{options}`; digest of the text {facts["data"][:16]}.
{", ".join(f"{name} {version}" for name, version in facts["versions"].items())}
"""
