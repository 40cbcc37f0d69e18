"""Which objective each micro-batch of an update serves."""

from __future__ import annotations

from typing import Literal, get_args

from probe.errors import AlignError

Alternation = Literal["per-update", "per-microbatch", "joint", "task", "align"]
Objective = Literal["task", "align", "joint"]


def objectives(alternation: Alternation, accumulation: int, update: int) -> tuple[Objective, ...]:
    """The objective of each of an update's micro-batches: a function of the update's number, so all ranks agree.

    Args:
        alternation: `per-update` = each update optimises one objective, the task first (Liu & Niehues 2025, section 4);
            `per-microbatch` = each micro-batch does, the task first, and the alternation runs on from update to update
            (their code: with 4 micro-batches two of each an update); `joint` = each micro-batch sums both losses;
            `task`, `align` = always this one.
        accumulation: micro-batches an update.
        update: 0 for the first.

    Raises:
        AlignError: an unknown alternation, or no micro-batch.
    """
    if alternation not in get_args(Alternation):
        raise AlignError(
            f"alternation {alternation!r}", f"one of {', '.join(get_args(Alternation))}", "give --set alternation=..."
        )
    if accumulation < 1:
        raise AlignError(f"{accumulation} micro-batches an update", "at least 1", "raise batch")
    turns: tuple[Objective, Objective] = ("task", "align")
    if alternation == "per-update":
        return (turns[update % 2],) * accumulation
    if alternation == "per-microbatch":
        first = update * accumulation
        return tuple(turns[(first + number) % 2] for number in range(accumulation))
    return (alternation,) * accumulation
