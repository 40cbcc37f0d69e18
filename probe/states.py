"""From token ids to arrays: run a model in batches, pool the hidden states of every block while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from probe.errors import ModelError
from probe.model import LoadedModel, forward, shortened
from probe.pool import pool, pooling_weights


def pooled_states(
    loaded: LoadedModel,
    ids: Sequence[np.ndarray],
    layers: Sequence[int],
    poolings: Sequence[str],
    batch_tokens: int,
    final_norm: str = "model",
    advance: Callable[[int, int], None] = lambda sentences, tokens: None,
) -> np.ndarray:
    """Pooled hidden states of sentences given as token ids.

    Blocks above the last asked layer do not run, and only pooled vectors leave a block, so memory does not grow with
    layers x tokens.

    Args:
        layers: ascending; 0 = the input of block 1, k = the output of block k.
        final_norm: `model` = the topmost layer is the model's own output, after its final norm; `raw` = before it.
        advance: called after each batch with its sentences and tokens.

    Returns:
        (pooling, layer, sentence, hidden) float32, sentences in the given order.
    """
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
            if {vectors.shape[-1] for vectors in pooled} != {loaded.hidden_size}:
                raise ModelError(
                    f"layers of width {', '.join(str(vectors.shape[-1]) for vectors in pooled)}",
                    f"{loaded.hidden_size}, the hidden size",
                    "leave out the layer that the model projects (--layers, or --final-norm raw for the last)",
                )
            stacked = torch.stack([vectors.to(loaded.device) for vectors in pooled])  # (layer, batch, pooling, hidden)
            states[:, :, batch] = stacked.permute(2, 0, 1, 3).cpu().numpy()
            advance(len(batch), int(lengths[batch].sum()))
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
