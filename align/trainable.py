"""What DDP and FSDP wrap: a model whose one forward runs the task's pass, the alignment's, or both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy, pad

from align.tap import tapped_states
from probe.errors import AlignError, ModelError
from probe.model import LoadedModel, ModelSource, forward, has_lm_head, load_causal, load_model

IGNORED = -100
"""Label of tokens that are not learnt; torch's own."""

DDP_OPTIONS = {"find_unused_parameters": True}
"""What DDP must be told, because an alignment pass leaves the adapter above its layer without gradient.

Such a parameter keeps the gradient it has: None after `zero_grad`, so that the optimizer passes it over, as with one process.
Therefore no `gradient_as_bucket_view` (its gradients are zeros, which move parameters by their momentum) and no `static_graph`.
"""


class TaskBatch(NamedTuple):
    """Examples of the task, padded."""

    ids: Int[Tensor, "batch token"]
    mask: Bool[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]
    """The ids of response tokens, else `IGNORED`. A label is predicted from the tokens before it."""


class PairBatch(NamedTuple):
    """Parallel sentences, each side padded on the right to its own width."""

    source_ids: Int[Tensor, "pair token"]
    source_mask: Bool[Tensor, "pair token"]
    target_ids: Int[Tensor, "pair token"]
    target_mask: Bool[Tensor, "pair token"]


class Passed(NamedTuple):
    """What a forward pass gives; None for what was not asked."""

    nll: Float[Tensor, ""] | None = None
    """Cross-entropy in nats, summed over the response tokens: divide by their count in all micro-batches and ranks."""
    tokens: Int[Tensor, ""] | None = None
    """Number of response tokens."""
    states: Float[Tensor, "pair side layer hidden"] | None = None
    """Mean-pooled states, float32; side 0 = sources, 1 = targets. Pairs first, as gathering and gradient caching take them."""


class Trainable(nn.Module):
    """A causal language model, or a base model without head, whose adapter is to be trained.

    Args:
        model: the model that holds the adapter, injected in place.
        loaded: the base model inside it, or itself.
    """

    def __init__(self, model: nn.Module, loaded: LoadedModel) -> None:
        super().__init__()
        self.model = model
        self.loaded = loaded
        self.train(model.training)

    @property
    def has_head(self) -> bool:
        return self.model is not self.loaded.model

    def forward(
        self, task: TaskBatch | None = None, pairs: PairBatch | None = None, layers: Sequence[int] = ()
    ) -> Passed:
        """Everything that is trained runs in here. With both batches, one backward pass of a weighted sum is `joint`.

        Args:
            task, pairs: on the device of the model.
            layers: of the pairs' states; k = the output of block k.

        Raises:
            AlignError: a task without a head or a response, or a layer that the model does not have.
        """
        nll, tokens = (None, None) if task is None else self._task(task)
        return Passed(nll, tokens, None if pairs is None else self._align(pairs, layers))

    def _task(self, task: TaskBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        if not self.has_head:
            raise _no_head(type(self.model).__name__)
        learnt = pad(task.labels[:, 1:] != IGNORED, (0, 1))  # (batch, token): where the next token is learnt
        answers = task.labels[:, 1:][learnt[:, :-1]]
        if not len(answers):
            raise AlignError("a batch without response tokens", "at least one", "leave such examples out")
        with _head_reads(self.model, learnt):
            logits = forward(replace(self.loaded, model=self.model), task.ids, task.mask)
        if logits.shape[:-1] != (1, len(answers)):
            raise ModelError(
                f"{type(self.model).__name__} gave logits of shape {tuple(logits.shape)}",
                f"(1, {len(answers)}, vocabulary)",
                "this architecture does not call its head; align only",
            )
        return cross_entropy(logits[0].float(), answers, reduction="sum"), learnt.sum()

    def _align(self, pairs: PairBatch, layers: Sequence[int]) -> Float[Tensor, "pair side layer hidden"]:
        ids = _stacked(pairs.source_ids, pairs.target_ids, self.loaded.pad_id)
        mask = _stacked(pairs.source_mask, pairs.target_mask, False)
        once = isinstance(self.loaded.blocks[0], FSDPModule)  # which would gather the weights again for each part
        parts = [torch.arange(len(ids), device=ids.device)] if once else _alike(mask.sum(1))
        pooled = [tapped_states(self.loaded, *_narrowed(ids[part], mask[part]), layers) for part in parts]
        places = torch.cat(parts).argsort()
        states = [torch.cat(own)[places] for own in zip(*pooled, strict=True)]
        for layer, state in zip(layers, states, strict=True):
            if torch.is_grad_enabled() and not state.requires_grad:
                raise AlignError(
                    f"no gradient reaches layer {layer}",
                    f"something trained in blocks 1..{layer}",
                    "train an adapter there, and checkpoint with use_reentrant=False",
                )
        sources, targets = torch.stack(states, dim=1).chunk(2)
        return torch.stack([sources, targets], dim=1)


def _stacked(sources: Tensor, targets: Tensor, filler: float) -> Tensor:
    """Both sides as rows of one batch, sources first."""
    width = max(sources.shape[1], targets.shape[1])
    return torch.cat([pad(side, (0, width - side.shape[1]), value=filler) for side in (sources, targets)])


def _alike(lengths: Int[Tensor, " row"]) -> list[Int[Tensor, " row"]]:
    """Rows to run together: four parts of similar length where that saves a fifth of the padded tokens or more, else all."""
    order = lengths.argsort(stable=True)
    parts = [part for part in order.chunk(4) if len(part)]
    tokens = sum(len(part) * int(lengths[part[-1]]) for part in parts)
    return parts if tokens <= 0.8 * len(order) * int(lengths.max()) else [order]


def _narrowed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Without the columns in which all rows are padding, on the right."""
    width = int(mask.sum(1).max())
    return ids[:, :width], mask[:, :width]


@contextmanager
def _head_reads(model: Any, tokens: Bool[Tensor, "batch token"]) -> Iterator[None]:
    """Inside, the LM head is given the hidden states of these tokens only, as one row.

    So no (batch, token, vocabulary) tensor is made, and what the model does to its logits (caps, scales) remains its own.
    """

    def select(head: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return args[0][tokens].unsqueeze(0)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def checkpoint_blocks(model: Any) -> None:
    """Recompute each block in the backward pass instead of keeping its activations; in training mode only.

    Not reentrant: DDP could not see which parameters a pass uses.
    """
    # Newer transformers has deprecated the one name, older does not know the other.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def load_trainable(source: ModelSource, dtype: torch.dtype, device: torch.device, task: bool) -> Trainable:
    """The model with its LM head where it was saved with one, else the base model; in evaluation mode, as loaded.

    Args:
        task: whether a task is to be trained, for which the head is needed.

    Raises:
        AlignError: a task for a model without LM head.
        ModelError: weights that cannot be loaded.
    """
    if has_lm_head(source):
        return Trainable(*load_causal(source, dtype, device))
    if task:
        raise _no_head(source.name)
    loaded = load_model(source, dtype, device)
    return Trainable(loaded.model, loaded)


def _no_head(name: str) -> AlignError:
    return AlignError(
        f"{name} has no LM head for the task", "a causal language model", "train alignment only, or another model"
    )
