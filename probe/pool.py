"""Pooling: from the hidden states of a sentence's tokens to one vector. Every pooling here is a weighted sum over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mean(mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """Every token of the sentence alike, the tokenizer's special tokens included (Liu & Niehues 2025, section 3)."""
    weights = mask.float()
    return weights / weights.sum(dim=1, keepdim=True)


def mean_nofirst(mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """As `mean`, without the first token, whose norm in decoders can drown all others (Xiao et al. 2024, attention sinks)."""
    position = mask.long().cumsum(dim=1)
    return mean(mask & (position > 1))


def last(mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """The last token only: in a decoder the one that has seen the whole sentence."""
    position = mask.long().cumsum(dim=1)
    return (mask & (position == position[:, -1:])).float()


def weighted(mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """Token t of n weighs t / (1 + ... + n) (Muennighoff 2022, SGPT, eq. 3; used by MEXA, Kargaran et al. 2025)."""
    weights = mask.cumsum(dim=1).float() * mask
    return weights / weights.sum(dim=1, keepdim=True)


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": mean,
    "mean-nofirst": mean_nofirst,
    "last": last,
    "weighted": weighted,
}


def pooling_weights(mask: Bool[Tensor, "batch token"], names: Sequence[str]) -> Float[Tensor, "batch pooling token"]:
    """The token weights of several poolings, so that all are computed by one product. Weights of a sentence sum to 1.

    Args:
        mask: True on the tokens of a sentence, False on padding at either side.
        names: keys of `POOLINGS`. `mean-nofirst` of a one-token sentence is 0 / 0 = NaN, which extraction refuses.
    """
    return torch.stack([POOLINGS[name](mask) for name in names], dim=1)


def pool(
    states: Float[Tensor, "batch token hidden"], weights: Float[Tensor, "batch pooling token"]
) -> Float[Tensor, "batch pooling hidden"]:
    """The pooled vectors, summed in float32 whatever the dtype of the states.

    What stands on padding is never looked at: an overflow there would be no zero when multiplied by zero. Since it is rare,
    the copy without padding is made only when it shows.
    """
    weights = weights.to(states.device)
    pooled = torch.bmm(weights, states.float())
    if not torch.isfinite(pooled).all():
        held = (weights != 0).any(dim=1).unsqueeze(2)
        pooled = torch.bmm(weights, states.masked_fill(~held, 0).float())
    return pooled
