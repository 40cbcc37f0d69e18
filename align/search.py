"""Which weight merges two adapters best: by the loss of the task's development examples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from align.adapter import attach
from align.batches import ExampleRows, on
from align.examples import encode_examples, read_examples
from align.merge import Method, merge_adapters
from align.trainable import load_trainable
from probe.device import choose_device, choose_dtype
from probe.errors import AlignError
from probe.model import open_model

Observer = Callable[[float, float], Any]


def search_weight(
    task: Path,
    align: Path,
    weights: Sequence[float],
    *,
    model: str,
    task_data: str | Path,
    method: Method = "exact",
    rank: int | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_length: int = 1024,
    micro_batch: int = 8,
    trust_remote_code: bool = False,
    observe: Observer = lambda weight, loss: None,
) -> dict[float, float]:
    """Weight -> mean cross-entropy in nats over the response tokens of all examples, of the base model with the merged adapter.

    The paper searched 0.5, 0.7 and 0.9 by F1 on MASSIVE dev; a loss needs no generation.

    Args:
        task_data: jsonl of `{messages}` or `{prompt, response}`, of development rows.

    Raises:
        AlignError: no weight, adapters that cannot be merged, a model without LM head, examples that cannot be read.
        ModelError: a model that cannot be loaded, or is not the adapters' base.
    """
    if not weights:
        raise AlignError("no weight to search", "a list such as 0.5,0.7,0.9", "give --search 0.5,0.7,0.9")
    place = choose_device(device)
    source = open_model(model, revision, trust_remote_code=trust_remote_code)
    examples = encode_examples(source.tokenizer, read_examples(Path(task_data)), min(max_length, source.context))
    losses = {}
    for weight in weights:
        trainable = load_trainable(source, choose_dtype(dtype, place), place, task=True)
        with tempfile.TemporaryDirectory() as merged:
            merge_adapters(task, align, Path(merged) / "adapter", weight, method, rank)
            attach(trainable.loaded, Path(merged) / "adapter")
        trainable.eval()
        rows = ExampleRows(tuple((each.ids, each.labels) for each in examples), trainable.loaded.pad_id)
        nll, tokens = 0.0, 0
        with torch.inference_mode():
            for micro in rows.in_order(micro_batch):
                nll += float(trainable(task=on(micro.batch, trainable.loaded.device)).nll)
                tokens += micro.responses
        losses[weight] = nll / tokens
        observe(weight, losses[weight])
    return losses
