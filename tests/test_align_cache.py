"""Gradient caching gives the gradient of the direct pass, with the graph of one chunk at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from align.cache import cached_backward
from align.loss import info_nce
from align.tap import tapped_states
from probe.model import LoadedModel
from probe.tiny import tiny_tokenizer

CPU = torch.device("cpu")
ROWS = 8
Chunk = tuple[Tensor, Tensor]


def build(dropout: float) -> LoadedModel:
    """A random Llama with a LoRA that does something."""
    config = transformers.LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    torch.manual_seed(4)
    model: Any = transformers.LlamaModel(config)
    lora: dict[str, Any] = {"lora_dropout": dropout, "init_lora_weights": False}
    inject_adapter_in_model(LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **lora), model)
    return LoadedModel(model.train(), tiny_tokenizer())


def chunks(sizes: Sequence[int]) -> list[Chunk]:
    """The same pairs of sentences whatever the sizes: ids and mask of (pair, side, token)."""
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(3, 259, (ROWS, 2, 9), generator=generator)
    mask = torch.arange(9) < torch.randint(3, 10, (ROWS, 2, 1), generator=generator)
    return list(zip(ids.split(list(sizes)), mask.split(list(sizes)), strict=True))


def encode_with(loaded: LoadedModel, layers: Sequence[int] = (2,)) -> Any:
    def encode(chunk: Chunk) -> Tensor:
        ids, mask = (side.flatten(0, 1) for side in chunk)
        return torch.stack(tapped_states(loaded, ids, mask, layers), dim=1).unflatten(0, (-1, 2))

    return encode


def loss_of(rows: Tensor) -> Tensor:
    """(pair, side, layer, hidden) -> the mean over layers."""
    losses = [info_nce(rows[:, 0, layer], rows[:, 1, layer], 0.1) for layer in range(rows.shape[2])]
    return torch.stack(losses).mean()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def direct(loaded: LoadedModel, parts: Sequence[Chunk], layers: Sequence[int] = (2,)) -> tuple[Tensor, dict[str, Tensor], Tensor]:  # fmt: skip
    """Loss, gradients, and a number drawn after: one graph over all the chunks, from random state 0."""
    torch.manual_seed(0)
    encode = encode_with(loaded, layers)
    loss = loss_of(torch.cat([encode(part) for part in parts]))
    loss.backward()
    return loss.detach(), gradients(loaded.model), torch.rand(1)


def cached(loaded: LoadedModel, parts: Sequence[Chunk], layers: Sequence[int] = (2,), **how: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:  # fmt: skip
    """The same by gradient caching."""
    torch.manual_seed(0)
    loss = cached_backward(encode_with(loaded, layers), parts, loss_of, CPU, **how)
    return loss, gradients(loaded.model), torch.rand(1)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative distance of any parameter's gradient."""
    assert set(found) == set(expected)
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (3, 3, 2), (1,) * 8])
def test_the_gradient_is_the_direct_one(sizes: tuple[int, ...]) -> None:
    """Without dropout, whatever the chunks, against one pass over the whole batch."""
    loss, expected, _ = direct(build(0.0), chunks([ROWS]), layers=(2, 3))
    value, found, _ = cached(build(0.0), chunks(sizes), layers=(2, 3))
    assert value.item() == pytest.approx(loss.item(), rel=1e-5)
    assert not value.requires_grad
    assert distance(found, expected) < 1e-5


def test_it_is_not_the_gradient_of_chunks_alone() -> None:
    """Accumulating over chunks has fewer negatives: another loss, so the test above can fail."""
    _, expected, _ = direct(build(0.0), chunks([ROWS]))
    loaded = build(0.0)
    for part in chunks((4, 4)):
        (loss_of(encode_with(loaded)(part)) / 2).backward()
    assert distance(gradients(loaded.model), expected) > 0.1


@pytest.mark.parametrize("checkpointed", [False, True])
def test_with_dropout_it_is_the_direct_gradient_of_the_same_chunks(checkpointed: bool) -> None:
    """From the same random state, which afterwards is the same too; under gradient checkpointing as well."""
    loss, expected, drawn = direct(build(0.3), chunks((3, 3, 2)))
    loaded = build(0.3)
    if checkpointed:
        loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    value, found, after = cached(loaded, chunks((3, 3, 2)))
    assert value.item() == pytest.approx(loss.item(), rel=1e-5)
    assert distance(found, expected) < 1e-5
    assert torch.equal(after, drawn)
    _, undropped, _ = direct(build(0.0), chunks((3, 3, 2)))
    assert distance(found, undropped) > 0.1


def test_gradients_add_to_those_that_are_there() -> None:
    loaded = build(0.0)
    _, once, _ = cached(loaded, chunks((4, 4)))
    _, twice, _ = cached(loaded, chunks((4, 4)))
    assert distance(twice, {name: 2 * gradient for name, gradient in once.items()}) < 1e-5


def test_one_chunk_at_a_time_has_a_graph() -> None:
    """What the method is for: the second forward of a chunk comes after the backward of the one before."""
    events: list[str] = []
    loaded = build(0.0)
    encode = encode_with(loaded)

    def told(chunk: Chunk) -> Tensor:
        events.append("graph" if torch.is_grad_enabled() else "no graph")
        return encode(chunk)

    def backward(scalar: Tensor) -> None:
        events.append("backward")
        scalar.backward()

    cached_backward(told, chunks((3, 3, 2)), loss_of, CPU, backward)
    assert events == ["no graph"] * 3 + ["graph", "backward"] * 3


def test_ranks_are_told_to_wait_for_the_last_chunk() -> None:
    """Every chunk but the last runs, forward and backward, inside the context that postpones the average."""
    inside: list[bool] = [False]
    seen: list[tuple[str, bool]] = []
    loaded = build(0.0)
    encode = encode_with(loaded)

    @contextlib.contextmanager
    def no_sync() -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    def told(chunk: Chunk) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(("forward", inside[0]))
        return encode(chunk)

    def backward(scalar: Tensor) -> None:
        seen.append(("backward", inside[0]))
        scalar.backward()

    cached_backward(told, chunks((3, 3, 2)), loss_of, CPU, backward, no_sync)
    assert seen == [("forward", True), ("backward", True)] * 2 + [("forward", False), ("backward", False)]


def test_autocast_around_the_whole_step_cuts_no_gradient() -> None:
    """Autocast remembers the narrowed weights of the pass without graph."""
    torch.manual_seed(1)
    rows = torch.randn(6, 2, 5)
    found = []
    for way in ("direct", "cached"):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))

        def encode(chunk: Tensor, model: nn.Module = model) -> Tensor:
            return model(chunk).float()[:, :, None]

        with torch.autocast("cpu", dtype=torch.bfloat16):
            if way == "direct":
                loss_of(torch.cat([encode(part) for part in rows.split(2)])).backward()
            else:
                cached_backward(encode, rows.split(2), loss_of, CPU)
        found.append(gradients(model))
    assert distance(found[1], found[0]) < 0.02  # bf16: a sum of three roundings against one of a sum


def test_rows_that_the_loss_holds_still_are_held_still() -> None:
    """Stop-gradient on one side: as in the direct pass."""

    def one_sided(rows: Tensor) -> Tensor:
        return info_nce(rows[:, 0, 0], rows[:, 1, 0], 0.1, stop_gradient=True)

    first, second = build(0.0), build(0.0)
    one_sided(encode_with(first)(chunks([ROWS])[0])).backward()
    cached_backward(encode_with(second), chunks((4, 4)), one_sided, CPU)
    assert distance(gradients(second.model), gradients(first.model)) < 1e-5


def test_a_loss_that_is_nan_is_returned() -> None:
    """The training loop sees it before the optimizer steps."""

    def broken(rows: Tensor) -> Tensor:
        return loss_of(rows) * torch.nan

    assert torch.isnan(cached_backward(encode_with(build(0.0)), chunks((4, 4)), broken, CPU))
