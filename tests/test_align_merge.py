"""Merging: the adapter on disk does what the weighted sum of the two does, as PEFT itself applies them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from align.adapter import LoraSettings, add_lora, attach, read_adapter, save_adapter
from align.merge import Factors, merge_adapters, product_norm, rank_patterns, truncated
from probe.errors import AlignError, ModelError
from probe.model import LoadedModel
from probe.tiny import tiny_tokenizer

CAUSAL, BASE = transformers.AutoModelForCausalLM, transformers.AutoModel
_TOKENS: dict[str, Any] = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LLAMA = transformers.LlamaConfig(**_TOKENS, **_SIZES, num_key_value_heads=2)
GPT2 = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **_TOKENS)
BERT = transformers.BertConfig(**_TOKENS, **_SIZES)
IDS = torch.tensor([[0, 40, 41, 42, 43, 99, 100]])
ROUNDING = 3e-7
"""Of one factor to float32, relative to a product's norm."""

Deltas = dict[str, torch.Tensor]
Adapter = Callable[..., Path]


def build(config: Any, auto: Any = CAUSAL) -> Any:
    torch.manual_seed(5)
    return auto.from_config(config).eval()


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """Make a trained PEFT adapter: `adapter("task", target_modules=["q_proj"], r=4)`; other weights for another name."""

    def make(name: str, config: Any = LLAMA, auto: Any = CAUSAL, seed: int | None = None, **lora: Any) -> Path:
        model: Any = get_peft_model(build(config, auto), LoraConfig(**{"target_modules": ["q_proj", "v_proj"], **lora}))
        torch.manual_seed(len(name) if seed is None else seed)
        for key, parameter in model.named_parameters():
            if "lora_" in key or parameter.requires_grad:
                parameter.data = torch.randn_like(parameter) * 0.2
        model.save_pretrained(tmp_path / name, save_embedding_layers="auto")
        return Path(tmp_path / name)

    return make


def loaded(folder: Path, config: Any = LLAMA, auto: Any = CAUSAL) -> Any:
    return PeftModel.from_pretrained(build(config, auto), folder).eval()


def deltas(folder: Path, config: Any = LLAMA, auto: Any = CAUSAL) -> Deltas:
    """What PEFT adds to the weight of each module that the adapter targets, computed by PEFT."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in loaded(folder, config, auto).named_modules()
        if hasattr(module, "get_delta_weight")
    }


def weighted(task: Deltas, align: Deltas, weight: float) -> Deltas:
    """The definition, over the full products."""
    names = task.keys() | align.keys()
    return {
        name: sum((c * part[name].double() for c, part in ((weight, task), (1 - weight, align)) if name in part), torch.zeros(()))
        for name in names
    }  # fmt: skip


def assert_equal_deltas(found: Deltas, expected: Deltas, tolerance: float = ROUNDING) -> None:
    assert found.keys() == expected.keys()
    for name, delta in expected.items():
        assert (found[name] - delta).norm() <= tolerance * delta.norm(), name


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS)[0]


PAIRS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "alike": (LLAMA, {}, {}),
    "other ranks": (LLAMA, {"r": 4}, {"r": 16}),
    "other alphas": (LLAMA, {"lora_alpha": 16}, {"lora_alpha": 3}),
    "one rank-stabilised": (LLAMA, {"use_rslora": True, "r": 4}, {"r": 2}),
    "a module in one only": (
        LLAMA,
        {"target_modules": ["q_proj", "up_proj"]},
        {"target_modules": ["q_proj", "o_proj"]},
    ),
    "no module in common": (LLAMA, {"target_modules": ["up_proj"]}, {"target_modules": ["o_proj"], "r": 3}),
    "a list and a pattern": (
        LLAMA,
        {"target_modules": ["q_proj"]},
        {"target_modules": r"model\.layers\.1\..*(q_proj|up_proj)"},
    ),
    "all linear and one block": (
        LLAMA,
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1], "r": 5},
    ),
    "ranks and alphas by name": (
        LLAMA,
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 5, "q_proj": 7}, "r": 4},
        {"rank_pattern": {"model.layers.0.self_attn.q_proj": 3}, "use_rslora": True, "alpha_pattern": {"v_proj": 1}},
    ),
    "the head too": (LLAMA, {"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["lm_head"], "r": 2}),
    "embeddings": (LLAMA, {"target_modules": ["q_proj", "embed_tokens"]}, {"target_modules": ["embed_tokens"], "r": 3}),
    "gpt2": (
        GPT2,
        {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "r": 3},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_exact_is_the_weighted_sum_of_the_products(adapter: Adapter, tmp_path: Path, name: str) -> None:
    """On every module, as PEFT loads the three adapters; and nothing else gets a change."""
    config, ours, theirs = PAIRS[name]
    task, align = adapter("task", config, **ours), adapter("align", config, **theirs)
    report = merge_adapters(task, align, tmp_path / "out")
    expected = weighted(deltas(task, config), deltas(align, config), 0.9)
    assert_equal_deltas(deltas(tmp_path / "out", config), expected)
    assert {module.name for module in report.modules} == expected.keys()
    assert report.relative_error < ROUNDING
    for module in report.modules:
        assert module.norm == pytest.approx(float(expected[module.name].norm()), rel=1e-5)


@pytest.mark.parametrize("name", ["ranks and alphas by name", "a module in one only", "gpt2"])
def test_a_model_with_the_merged_adapter_is_the_model_with_the_weights_summed(
    adapter: Adapter, tmp_path: Path, name: str
) -> None:
    """The whole forward pass: base weights plus the weighted sum, against the adapter beside the base weights."""
    config, ours, theirs = PAIRS[name]
    task, align = adapter("task", config, **ours), adapter("align", config, **theirs)
    merge_adapters(task, align, tmp_path / "out", 0.7)
    by_hand = build(config)
    with torch.no_grad():
        for module, delta in weighted(deltas(task, config), deltas(align, config), 0.7).items():
            by_hand.get_submodule(module).weight += delta.float()
    found = outputs(loaded(tmp_path / "out", config))
    assert torch.allclose(found, outputs(by_hand), atol=1e-5)
    assert not torch.allclose(found, outputs(loaded(task, config)), atol=1e-3)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fan_in_fan_out")  # PEFT tells where it does not fit the layers
        folded = loaded(tmp_path / "out", config).merge_and_unload()
    assert torch.allclose(outputs(folded), outputs(by_hand), atol=1e-5)


def test_a_merged_encoder_adapter_is_probed_with_the_summed_weights(tmp_path: Path) -> None:
    """Both made by `add_lora`: the targets are stated as they were, and the pooler's `dense` stays without."""
    for name, seed in (("task", 1), ("align", 2)):
        model = build(BERT, BASE)
        torch.manual_seed(seed)
        for parameter in add_lora(model, LoraSettings(r=4 * seed), seed).values():
            parameter.data += 0.1 * torch.randn_like(parameter)
        save_adapter(model, tmp_path / name, "some/model")
    merge_adapters(tmp_path / "task", tmp_path / "align", tmp_path / "out", 0.5)
    description, _ = read_adapter(tmp_path / "out")
    assert set(description["target_modules"]) == {"query", "key", "value", "dense"}
    expected = weighted(deltas(tmp_path / "task", BERT, BASE), deltas(tmp_path / "align", BERT, BASE), 0.5)
    assert_equal_deltas(deltas(tmp_path / "out", BERT, BASE), expected)
    by_hand = build(BERT, BASE)
    with torch.no_grad():
        for module, delta in expected.items():
            by_hand.get_submodule(module).weight += delta.float()
    probed = attach(LoadedModel(build(BERT, BASE), tiny_tokenizer()), tmp_path / "out")
    assert torch.allclose(outputs(probed.model), outputs(by_hand), atol=1e-5)


@pytest.mark.parametrize(("weight", "kept", "rank"), [(1.0, "task", 4), (0.0, "align", 8)])
def test_the_ends_of_the_scale_are_the_adapters_themselves(
    adapter: Adapter, tmp_path: Path, weight: float, kept: str, rank: int
) -> None:
    """At their own rank."""
    task, align = adapter("task", r=4), adapter("align", r=8, target_modules=["q_proj", "o_proj"])
    report = merge_adapters(task, align, tmp_path / "out", weight)
    assert_equal_deltas(deltas(tmp_path / "out"), deltas(tmp_path / kept))
    assert {module.rank for module in report.modules} == {rank}


def test_bf16_adapters_are_not_rounded_again(adapter: Adapter, tmp_path: Path) -> None:
    """The sum is of the tensors as they were saved, and is written in float32."""
    folders = [adapter("task"), adapter("align", r=2)]
    for folder in folders:
        path = folder / "adapter_model.safetensors"
        save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    merge_adapters(*folders, tmp_path / "out", 0.9)
    assert {tensor.dtype for tensor in read_adapter(tmp_path / "out")[1].values()} == {torch.float32}
    assert_equal_deltas(deltas(tmp_path / "out"), weighted(deltas(folders[0]), deltas(folders[1]), 0.9))


@pytest.mark.parametrize("rank", [None, 1, 3, 50])
def test_svd_is_the_best_approximation_of_its_rank(adapter: Adapter, tmp_path: Path, rank: int | None) -> None:
    """Against the full product's decomposition by numpy: error by Eckart and Young, on every module."""
    task, align = adapter("task", r=4, target_modules=["q_proj", "up_proj"]), adapter("align", r=3)
    report = merge_adapters(task, align, tmp_path / "out", 0.6, "svd", rank)
    expected, found = weighted(deltas(task), deltas(align), 0.6), deltas(tmp_path / "out")
    assert expected.keys() == found.keys()
    for module in report.modules:
        values = np.linalg.svd(expected[module.name].numpy(), compute_uv=False)
        in_both = "q_proj" in module.name
        larger = 3 if "v_proj" in module.name else 4
        assert module.rank == min(rank or larger, 7 if in_both else larger)
        best = float(np.linalg.norm(values[module.rank :]))
        error = float((found[module.name] - expected[module.name]).norm())
        assert error == pytest.approx(best, rel=1e-4, abs=1e-5)
        assert module.error == pytest.approx(best, rel=1e-4, abs=1e-5)


def test_linear_is_pefts_own(adapter: Adapter, tmp_path: Path) -> None:
    """With other alphas, and a module that one lacks; and it is not the weighted sum, by what the report says."""
    task = adapter("task", lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"])
    align = adapter("align", lora_alpha=5, target_modules=["q_proj", "v_proj", "o_proj"])
    report = merge_adapters(task, align, tmp_path / "out", 0.8, "linear")
    both: Any = PeftModel.from_pretrained(build(LLAMA), task, adapter_name="task")
    both.load_adapter(align, "align")
    both.add_weighted_adapter(["task", "align"], [0.8, 1 - 0.8], "both", combination_type="linear")
    theirs = {
        name.removeprefix("base_model.model."): module.get_delta_weight("both").detach()
        for name, module in both.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert_equal_deltas(deltas(tmp_path / "out"), theirs, 1e-6)
    expected = weighted(deltas(task), deltas(align), 0.8)
    for module in report.modules:
        assert module.error == pytest.approx(
            float((theirs[module.name] - expected[module.name]).norm()), rel=1e-4, abs=1e-5
        )
    assert report.relative_error > 0.1


def test_linear_refuses_other_ranks_and_rslora_is_scaled(adapter: Adapter, tmp_path: Path) -> None:
    with pytest.raises(AlignError, match=r"ranks 8 and 4 of model\.layers\.0\.self_attn\.q_proj"):
        merge_adapters(adapter("task"), adapter("align", r=4), tmp_path / "out", method="linear")
    alone = adapter("stable", use_rslora=True)
    merge_adapters(alone, adapter("align", seed=9), tmp_path / "out", 1.0, "linear")
    assert_equal_deltas(deltas(tmp_path / "out"), deltas(alone), 1e-6)


def test_truncation_and_norm_by_small_cores() -> None:
    """On factors of more columns than rows too, and on a product of zero."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for out, inside, wide in ((40, 6, 30), (5, 9, 30), (30, 9, 4)):
        factors = Factors(draw(inside, wide), draw(out, inside))
        product = factors.b @ factors.a
        assert product_norm(factors) == pytest.approx(float(product.norm()))
        u, values, vt = torch.linalg.svd(product, full_matrices=False)
        best = truncated(factors, 3)
        assert torch.allclose(best.b @ best.a, u[:, :3] * values[:3] @ vt[:3])
        assert best.rank == 3
    zero = Factors(torch.zeros(2, 7, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64))
    assert product_norm(zero) == 0
    assert not (truncated(zero, 1).b @ truncated(zero, 1).a).any()


def test_ranks_are_stated_by_last_name_where_that_says_it() -> None:
    ranks = {"a.0.q": 8, "a.1.q": 8, "a.0.v": 12, "a.1.v": 12, "a.0.o": 8, "a.1.o": 4}
    assert rank_patterns(ranks) == (8, {"v": 12, "a.1.o": 4})


def test_the_inputs_are_untouched_and_a_repeat_gives_the_same_bytes(adapter: Adapter, tmp_path: Path) -> None:
    folders = [adapter("task"), adapter("align", r=2)]
    before = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    written = []
    for _ in range(2):
        merge_adapters(*folders, tmp_path / "out", 0.9)
        written.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders] == before
    assert written[0] == written[1]


@pytest.mark.parametrize("place", ["task", "align"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "use_dora True cannot be merged .*rescales"),
        ({"bias": "all"}, "bias 'all' cannot be merged .*whole"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save .*cannot be merged .*whole"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices .*cannot be merged .*whole"),
        ({"lora_bias": True}, "lora_bias True cannot be merged"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora' cannot be merged .*changes the base weights"),
    ],
)
def test_more_than_a_plain_lora_is_one_line(
    adapter: Adapter, tmp_path: Path, place: str, changes: dict[str, Any], named: str
) -> None:
    """With the folder and the reason; nothing is written."""
    folders = {"task": adapter("task"), "align": adapter("align"), place: adapter(place, **changes)}
    with pytest.raises(AlignError, match=rf"{place} with {named}") as caught:
        merge_adapters(folders["task"], folders["align"], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_setting_of_a_later_peft_is_refused_not_ignored(adapter: Adapter, tmp_path: Path) -> None:
    task, align = adapter("task"), adapter("align")
    edit(align, some_new_variant={"strength": 2})
    with pytest.raises(AlignError, match="some_new_variant"):
        merge_adapters(task, align, tmp_path / "out")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize("field", ["base_model_name_or_path", "revision"])
def test_adapters_of_other_base_models_are_one_line(adapter: Adapter, tmp_path: Path, field: str) -> None:
    task, align = adapter("task"), adapter("align")
    edit(task, **{field: "one"})
    edit(align, **{field: "another"})
    with pytest.raises(AlignError, match=rf"{field} one and .*align of another"):
        merge_adapters(task, align, tmp_path / "out")


def test_adapters_of_other_shapes_are_one_line(adapter: Adapter, tmp_path: Path) -> None:
    """Where the names of the base models do not tell."""
    wide = transformers.LlamaConfig(**_TOKENS, **{**_SIZES, "hidden_size": 64}, num_key_value_heads=2)
    with pytest.raises(AlignError, match=r"q_proj is \(32, 32\) in .*task and \(64, 64\) in .*align"):
        merge_adapters(adapter("task"), adapter("align", wide), tmp_path / "out")


def test_one_with_the_head_and_one_without_is_one_line(adapter: Adapter, tmp_path: Path) -> None:
    """Their modules have other names, so that PEFT would drop the tensors of one in silence."""
    with pytest.raises(AlignError, match=r"layers\.\d\..* in one adapter and model\.layers\.\d\..* in the other"):
        merge_adapters(adapter("task"), adapter("align", auto=BASE), tmp_path / "out")


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"weight": 1.5}, "weight 1.5"),
        ({"weight": -0.1}, "weight -0.1"),
        ({"weight": float("nan")}, "weight nan"),
        ({"method": "ties"}, "method 'ties'"),
        ({"rank": 4}, "rank 4 with method exact"),
        ({"rank": 0, "method": "svd"}, "rank 0 with method svd"),
    ],
)
def test_choices_that_cannot_be_are_one_line(
    adapter: Adapter, tmp_path: Path, choices: dict[str, Any], named: str
) -> None:
    with pytest.raises(AlignError, match=named):
        merge_adapters(adapter("task"), adapter("align"), tmp_path / "out", **choices)


def test_an_input_is_never_the_output(adapter: Adapter, tmp_path: Path) -> None:
    task, align = adapter("task"), adapter("align")
    with pytest.raises(AlignError, match="as input and output"):
        merge_adapters(task, align, tmp_path / "elsewhere" / ".." / "task")


def test_nan_and_lone_factors_are_one_line(adapter: Adapter, tmp_path: Path) -> None:
    task, align = adapter("task"), adapter("align")
    path = Path(shutil.copytree(align, tmp_path / "broken")) / "adapter_model.safetensors"
    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file({**tensors, first: tensors[first] * float("nan")}, path)
    with pytest.raises(AlignError, match=rf"broken holds NaN or inf in {first}"):
        merge_adapters(task, path.parent, tmp_path / "out")
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, path)
    with pytest.raises(AlignError, match=r"broken holds factors \[\(32, 8\)\] of model\.layers\.0\.self_attn\.q_proj"):
        merge_adapters(task, path.parent, tmp_path / "out")


def test_another_kind_of_adapter_is_one_line(adapter: Adapter, tmp_path: Path) -> None:
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    get_peft_model(build(LLAMA), config).save_pretrained(tmp_path / "ia3")
    with pytest.raises(ModelError, match="type IA3; expected LORA"):
        merge_adapters(adapter("task"), tmp_path / "ia3", tmp_path / "out")
