"""`builtin:lab` with tokens for the fixed pieces of the JSON that entities are answered in.

    python tools/json_lab.py --out FOLDER

MASSIVE holds no JSON, so that the tokenizer takes it character by character, 40 tokens before the first name. The model has
learnt to copy over at most 30 (no sequence that it was trained on is longer than 56) and copies no name over that. With a token for
each piece a name stands as near to its sentence as a slot does. The embeddings of the new tokens are random and stay so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import decoders

PIECES = (
    '{"Results": [', ']}', '{"TypeName": "', "PER", "ORG", "LOC", '", "Text": "', '", "Start": ', ', "End": ', "}, ", "}]}",
)  # fmt: skip
"""What a target of `align.tasks.entities` holds besides names and numbers, the longest match first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    from probe.device import choose_device
    from probe.model import load_causal, open_model

    source = open_model("builtin:lab")
    model, _ = load_causal(source, torch.float32, choose_device("cpu"))
    add_pieces(model, source.tokenizer)
    model.save_pretrained(given.out)
    source.tokenizer.save_pretrained(given.out)


def add_pieces(model: Any, tokenizer: Any) -> None:
    """A token for each of `PIECES`, its embedding drawn with the mean and standard deviation of those that there are.

    The tokenizer sets a space before what follows such a token, so that a name is written as in the middle of a sentence; it is
    taken away again where a name is read.
    """
    tokenizer.add_tokens(list(PIECES))
    written = tokenizer.backend_tokenizer
    written.decoder = decoders.Sequence([written.decoder, decoders.Replace('"Text": " ', '"Text": "')])
    known = model.get_input_embeddings().weight.detach()
    drawn = torch.randn(len(PIECES), known.shape[1], generator=torch.Generator().manual_seed(0))
    drawn = known.mean(0) + drawn * known.std(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[-len(PIECES) :] = drawn


if __name__ == "__main__":
    main()
