"""Gradient caching: the gradient of a loss over more rows than one backward pass has memory for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from probe.device import random_state, restore_random_state

Chunk = TypeVar("Chunk")


def cached_backward(
    encode: Callable[[Chunk], Tensor],
    chunks: Sequence[Chunk],
    loss_of: Callable[[Tensor], Tensor],
    device: torch.device,
    backward: Callable[[Tensor], object] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> Float[Tensor, ""]:
    """Accumulate the gradient of `loss_of(cat(encode(chunk) for chunk in chunks))`, holding the graph of one chunk at a time.

    Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3: representations
    without graph; the loss's gradient with respect to them; each chunk once more, with graph, from the random state it had,
    so that its dropout is the same. Afterwards the random state is the one that a direct pass over the chunks leaves.

    Args:
        encode: float32 representations of a chunk, rows first, whatever follows. What is trained runs in here.
        loss_of: a scalar from the rows of all chunks in order. It may gather other ranks' rows.
        device: where `encode` draws random numbers, beside the CPU.
        backward: called for each chunk with a scalar whose gradient is the loss's; `accelerator.backward`, for example.
        no_sync: a context for every chunk but the last, in which gradients are not averaged over ranks yet: DDP's own, or
            `partial(accelerator.no_sync, model)`.

    Returns:
        The loss, without graph.
    """
    rows, random_states = _represent(encode, chunks, device)
    loss, gradients = _gradient_of_rows(loss_of, rows)
    for i, chunk in enumerate(chunks):
        with no_sync() if i < len(chunks) - 1 else nullcontext():
            restore_random_state(random_states[i], device)
            backward((encode(chunk) * gradients[i]).sum())
    return loss


def _represent(
    encode: Callable[[Chunk], Tensor], chunks: Sequence[Chunk], device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The rows of each chunk without graph, and the random state before each."""
    rows, random_states = [], []
    with torch.no_grad():
        for chunk in chunks:
            random_states.append(random_state(device))
            rows.append(encode(chunk))
    # Older torch keeps what autocast narrowed for the whole of its context; without graph, it would cut the gradient.
    torch.clear_autocast_cache()
    return rows, random_states


def _gradient_of_rows(loss_of: Callable[[Tensor], Tensor], rows: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    """The loss, and its gradient with respect to the rows of each chunk."""
    whole = torch.cat(list(rows)).requires_grad_()
    loss = loss_of(whole)
    (gradient,) = torch.autograd.grad(loss, whole)
    return loss.detach(), gradient.split([len(part) for part in rows])
