"""Hidden states of the lower blocks with their gradient: the forward pass stops at the highest block asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe.errors import AlignError, ModelError
from probe.model import LoadedModel, forward, shortened
from probe.pool import pool, pooling_weights


def tapped_states(
    loaded: LoadedModel, ids: Int[Tensor, "batch token"], mask: Bool[Tensor, "batch token"], layers: Sequence[int]
) -> list[Float[Tensor, "batch hidden"]]:
    """Mean-pooled states at the output of each block in `layers`, with gradient where gradients are on.

    No final norm, above the last block neither. Blocks above the highest layer do not run, and there is no LM head. The
    pooling is in float32 under autocast too. Right under gradient checkpointing that is not reentrant.

    Args:
        ids, mask: on the device of the model.
        layers: k = the output of block k, in any order.

    Returns:
        float32, in the order of `layers`.

    Raises:
        AlignError: a layer that the model does not have.
        ModelError: a block that did not run.
    """
    refuse_absent_layers(layers, loaded.depth)
    outputs: dict[int, Tensor] = {}
    with shortened(loaded, max(layers)), _noting(outputs, loaded.blocks, layers):
        forward(loaded, ids, mask)
    silent = [layer for layer in layers if layer not in outputs]
    if silent:
        raise ModelError(
            f"block {silent[0]} did not run", "every block to run", "this architecture skips it; leave it out"
        )
    with torch.autocast(ids.device.type, enabled=False):  # would narrow the pooling's product
        weights = pooling_weights(mask, ["mean"])
        return [pool(outputs[layer], weights).squeeze(1) for layer in layers]


def refuse_absent_layers(layers: Sequence[int], depth: int) -> None:
    """Raises:
    AlignError: no layer, or one that is not the output of a block. Layer 0 is the embeddings', which nothing trains.
    """
    if not layers:
        raise AlignError("no layer to align", f"layers of 1..{depth}", "give at least one")
    for layer in layers:
        if not 1 <= layer <= depth:
            raise AlignError(
                f"layer {layer} of a model with {depth} blocks", f"1..{depth}", f"the middle is {depth // 2}"
            )


@contextlib.contextmanager
def _noting(outputs: dict[int, Tensor], blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[None]:
    """The outputs of blocks are noted inside.

    Only noted, and pooled later: an operation within a hook could belong to a checkpointed region, and would be missing when
    the backward pass recomputes that region after the hooks are gone.
    """
    handles = [blocks[layer - 1].register_forward_hook(partial(_note, outputs, layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note(outputs: dict[int, Tensor], layer: int, block: nn.Module, args: tuple, output: Any) -> None:
    outputs[layer] = output[0] if isinstance(output, tuple) else output
