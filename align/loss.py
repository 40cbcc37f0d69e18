"""The contrastive loss between parallel sentences, over the rows of one process or of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from probe.errors import AlignError

Direction = Literal["one-way", "symmetric"]


def info_nce(
    sources: Float[Tensor, "n d"],
    targets: Float[Tensor, "n d"],
    temperature: float,
    direction: Direction = "one-way",
    excluded: Bool[Tensor, "n n"] | None = None,
    rows: slice | None = None,
    stop_gradient: bool = False,
) -> Float[Tensor, ""]:
    """InfoNCE on cosine / temperature (van den Oord et al. 2018; Liu & Niehues 2025, eq. 1), in float32 under autocast too.

    Row i of the sources belongs to row i of the targets; every other target is a negative of it.

    Args:
        direction: `one-way` = each source looks for its target; `symmetric` = the mean of that and its reverse.
        excluded: True at (i, j) where j is no negative of i, False on the diagonal; see `not_negatives`. None = all are.
        rows: the anchors among the rows, None = all. Where ranks of equal size have gathered their rows and each gives
            its own here, the mean of their losses is the loss of one process with all rows.
        stop_gradient: the targets are constants, so that only the sources move.

    Returns:
        The mean over the anchors, in nats.

    Raises:
        AlignError: a temperature that is not positive, or fewer than two pairs.
    """
    if not temperature > 0:
        raise AlignError(f"temperature {temperature}", "more than 0", "0.1 is the paper's for Llama 3")
    if len(sources) < 2:
        raise AlignError(
            f"a batch of {len(sources)} pair", "at least 2, since one pair has no negatives", "make batches larger"
        )
    anchors = slice(None) if rows is None else rows
    with torch.autocast(sources.device.type, enabled=False):
        left = normalize(sources.float(), dim=1)
        right = normalize((targets.detach() if stop_gradient else targets).float(), dim=1)
        loss = _retrieve(left, right, anchors, temperature, excluded)
        if direction == "symmetric":
            loss = (loss + _retrieve(right, left, anchors, temperature, excluded)) / 2
    return loss


def _retrieve(
    queries: Tensor, keys: Tensor, anchors: slice, temperature: float, excluded: Tensor | None
) -> Float[Tensor, ""]:
    """Cross-entropy of finding row i of the keys with row i of the queries, mean over the anchors."""
    logits = queries[anchors] @ keys.T / temperature
    if excluded is not None:  # symmetric, so that it serves both directions
        logits = logits.masked_fill(excluded[anchors].to(logits.device), -torch.inf)
    return cross_entropy(logits, torch.arange(len(keys), device=logits.device)[anchors])


def not_negatives(sources: Sequence[str], targets: Sequence[str], keys: Sequence[str] = ()) -> Bool[Tensor, "n n"]:
    """True at (i, j), i != j, where a text of pair j is a text of pair i, on either side, or means the same.

    Where both directions of a pair are trained, an anchor's own text is another pair's target: as a negative its cosine
    would be 1. A symmetric matrix; nothing is normalised.

    Args:
        keys: of each pair: pairs of one key are translations of each other, as rows of a corpus in other languages are.
    """
    source, target = _numbers([*sources, *targets]).chunk(2)
    crossed = source[:, None] == target[None, :]
    same = (source[:, None] == source[None, :]) | (target[:, None] == target[None, :]) | crossed | crossed.T
    if keys:
        key = _numbers(keys)
        same |= key[:, None] == key[None, :]
    return same & ~torch.eye(len(sources), dtype=torch.bool)


def _numbers(texts: Sequence[str]) -> Int[Tensor, " text"]:
    """Equal texts have equal numbers."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(text, len(first)) for text in texts])


def gather_with_grad(tensor: Float[Tensor, "row ..."]) -> Float[Tensor, "gathered ..."]:
    """The rows of all ranks in the order of ranks, with gradients through them; the tensor itself outside a process group.

    Each rank has the same number of rows. A row's gradient is the sum over the ranks' losses, as all of them used it.
    With each rank's loss over its own anchors (`rows` of `info_nce`), the average over ranks that DDP and FSDP take is then
    the gradient of the one-process loss.
    """
    return _Gather.apply(tensor) if dist.is_available() and dist.is_initialized() else tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]
