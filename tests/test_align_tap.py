"""States below the top: those of transformers itself, with a gradient, and nothing runs above them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from align.tap import tapped_states
from probe.errors import AlignError
from probe.model import LoadedModel
from probe.tiny import tiny_tokenizer

DEPTH, HIDDEN = 4, 32
_BYTES = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
    **_BYTES,
}
ARCHITECTURES: dict[str, tuple[Any, list[str]]] = {
    "llama": (transformers.LlamaConfig(**_SIZES, num_key_value_heads=2), ["q_proj", "down_proj"]),
    "qwen2": (transformers.Qwen2Config(**_SIZES, num_key_value_heads=2), ["q_proj", "down_proj"]),
    "gemma2": (transformers.Gemma2Config(**_SIZES, num_key_value_heads=2, head_dim=8), ["q_proj", "down_proj"]),
    "gpt2": (
        transformers.GPT2Config(n_embd=HIDDEN, n_layer=DEPTH, n_head=4, initializer_range=0.3, **_BYTES),
        ["c_attn", "c_proj"],
    ),
    "bert": (transformers.BertConfig(**_SIZES), ["query", "dense"]),
}
ALL = pytest.mark.parametrize("name", ARCHITECTURES)


def build(name: str, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A random base model with a LoRA that does something, ready to train; only LoRA dropout is on."""
    config, targets = ARCHITECTURES[name]
    torch.manual_seed(4)
    model: Any = transformers.AutoModel.from_config(config).to(dtype)
    lora: dict[str, Any] = {"init_lora_weights": False, "fan_in_fan_out": name == "gpt2"}
    inject_adapter_in_model(LoraConfig(r=4, target_modules=targets, lora_dropout=dropout, **lora), model)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p != dropout:
            module.p = 0.0
    return LoadedModel(model, tiny_tokenizer())


def batch(rows: int = 5) -> tuple[Tensor, Tensor]:
    """Sentences of 3 to 11 tokens, padded."""
    generator = torch.Generator().manual_seed(6)
    mask = torch.arange(11)[None, :] < torch.linspace(3, 11, rows).long()[:, None]
    ids = torch.randint(3, 259, mask.shape, generator=generator)
    return torch.where(mask, ids, 2), mask


def gradients(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in loaded.model.named_parameters() if parameter.grad is not None}  # fmt: skip


def trained_by(loaded: LoadedModel, layers: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Gradients of a loss on the tapped states, from a given random state."""
    loaded.model.zero_grad()
    torch.manual_seed(seed)
    states = tapped_states(loaded, *batch(), layers)
    sum((state * torch.linspace(-1, 1, HIDDEN)).square().sum() for state in states).backward()  # type: ignore[union-attr]
    return gradients(loaded)


@contextmanager
def counted_calls(loaded: LoadedModel) -> Iterator[list[int]]:
    """The numbers of the blocks that ran inside, from 1."""
    calls: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda module, args, number=number: calls.append(number))
        for number, block in enumerate(loaded.blocks, start=1)
    ]
    yield calls
    for handle in handles:
        handle.remove()


@ALL
def test_states_are_those_of_transformers_pooled(name: str) -> None:
    """Blocks 1 to 3; and above the last one before the final norm, where `output_hidden_states` has it after."""
    loaded, (ids, mask) = build(name), batch()
    found = tapped_states(loaded, ids, mask, [1, 2, 3, 4])
    unnormed: list[Tensor] = []
    handle = loaded.blocks[-1].register_forward_hook(
        lambda module, args, output: unnormed.append(output[0] if isinstance(output, tuple) else output)
    )
    states = loaded.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    handle.remove()
    for state, expected in zip(found, [*states[1:DEPTH], *unnormed], strict=True):
        rows = [row[kept].double().mean(dim=0) for row, kept in zip(expected, mask, strict=True)]
        assert state.shape == (5, HIDDEN)
        assert state.dtype == torch.float32
        assert torch.allclose(state.double(), torch.stack(rows), rtol=1e-4, atol=1e-5)
    if name != "bert":  # which has no final norm
        last = torch.stack([row[kept].mean(dim=0) for row, kept in zip(states[-1], mask, strict=True)])
        assert not torch.allclose(found[-1], last, rtol=0.1)


@ALL
def test_nothing_runs_above_the_highest_layer(name: str) -> None:
    loaded = build(name)
    with counted_calls(loaded) as calls:
        tapped_states(loaded, *batch(), [2, 1])
    assert calls == [1, 2]
    assert len(loaded.blocks) == DEPTH
    assert all(not block._forward_hooks for block in loaded.blocks)


@ALL
def test_gradients_reach_the_adapter_of_the_blocks_below_and_nothing_else(name: str) -> None:
    loaded = build(name)
    found = trained_by(loaded, [2])
    below = {
        name
        for name, _ in loaded.model.named_parameters()
        if "lora_" in name and any(f"{loaded.blocks_name}.{block}." in name for block in (0, 1))
    }
    assert set(found) == below
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_several_layers_in_the_order_asked() -> None:
    loaded = build("llama")
    together = tapped_states(loaded, *batch(), [3, 1])
    alone = [tapped_states(loaded, *batch(), [layer])[0] for layer in (3, 1)]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_padding_changes_neither_states_nor_gradients() -> None:
    loaded, (ids, mask) = build("llama"), batch()
    wide = [nn.functional.pad(side, (0, 6), value=value) for side, value in ((ids, 7), (mask, False))]
    found = []
    for given in ((ids, mask), wide):
        loaded.model.zero_grad()
        (state,) = tapped_states(loaded, *given, [2])
        state.square().sum().backward()
        found.append((state, gradients(loaded)))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for key, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][key], rtol=1e-3, atol=1e-4), key


# ---- checkpointing -------------------------------------------------------------------------------------------


@ALL
def test_checkpointing_changes_no_gradient(name: str) -> None:
    """With LoRA dropout, whose masks must be those of the first pass; and blocks do run twice, so it is on."""
    plain = trained_by(build(name, dropout=0.3), [3, 1])
    loaded = build(name, dropout=0.3)
    loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    runs: list[int] = []
    inner = next(module for part, module in loaded.blocks[0].named_modules() if part.endswith("lora_A.default"))
    inner.register_forward_pre_hook(lambda module, args: runs.append(1))
    found = trained_by(loaded, [3, 1])
    assert len(runs) == 2
    assert set(found) == set(plain)
    assert all(torch.allclose(found[key], plain[key], rtol=1e-4, atol=1e-5) for key in plain)
    other = trained_by(loaded, [3, 1], seed=1)
    assert any(not torch.allclose(other[key], plain[key], rtol=1e-2) for key in plain)


def test_hooks_inside_a_checkpointed_region_do_no_harm() -> None:
    """Where a block's whole call is checkpointed (older transformers), the recomputed call has lost its hooks."""
    plain = trained_by(build("llama"), [2])
    loaded = build("llama")
    kind = type("Whole", (type(loaded.blocks[0]),), {"__call__": whole_call_checkpointed})
    for block in loaded.blocks:
        block.__class__ = kind
    found = trained_by(loaded, [2])
    assert set(found) == set(plain)
    assert all(torch.allclose(found[key], plain[key], rtol=1e-4, atol=1e-5) for key in plain)


def whole_call_checkpointed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    def call(*inner: Any) -> Any:
        return nn.Module.__call__(block, *inner, **kwargs)

    return checkpoint(call, *args, use_reentrant=False)


# ---- precision -----------------------------------------------------------------------------------------------


def test_pooling_is_float32_under_autocast() -> None:
    """A block's bf16 output pooled in bf16 would lose the third digit."""
    loaded, (ids, mask) = build("llama"), batch()
    outputs: list[Tensor] = []
    loaded.blocks[1].register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = tapped_states(loaded, ids, mask, [2])
    rows = [row[kept].double().mean(dim=0) for row, kept in zip(outputs[0], mask, strict=True)]
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), torch.stack(rows), rtol=1e-5, atol=1e-6)


def test_bf16_weights_give_float32_states_with_a_gradient() -> None:
    loaded = build("llama", dtype=torch.bfloat16)
    (state,) = tapped_states(loaded, *batch(), [2])
    (exact,) = tapped_states(build("llama"), *batch(), [2])
    assert state.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(state, exact).min() > 0.99
    assert all(torch.isfinite(gradient).all() for gradient in trained_by(loaded, [2]).values())


def test_without_gradients_there_is_no_graph() -> None:
    with torch.no_grad():
        (state,) = tapped_states(build("llama"), *batch(), [2])
    assert not state.requires_grad


# ---- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 5, -1])
def test_a_layer_that_is_no_blocks_output_is_refused(layer: int) -> None:
    with pytest.raises(AlignError, match=rf"layer {layer} of a model with 4 blocks; expected 1\.\.4"):
        tapped_states(build("llama"), *batch(), [2, layer])


def test_no_layer_is_refused() -> None:
    with pytest.raises(AlignError, match="no layer to align"):
        tapped_states(build("llama"), *batch(), [])


def test_the_model_is_whole_again_after_a_failure() -> None:
    loaded, (ids, mask) = build("llama"), batch()
    with pytest.raises(IndexError):
        tapped_states(loaded, ids + 1000, mask, [2])
    assert len(loaded.blocks) == DEPTH
    assert all(not block._forward_hooks for block in loaded.blocks)
