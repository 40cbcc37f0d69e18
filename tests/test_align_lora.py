"""A fresh LoRA: where it goes, how it begins, that nothing else trains, and that what is saved is PEFT's own format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from align import adapter as adapter_module
from align.adapter import LoraSettings, add_lora, attach, load_adapter_weights, read_adapter, save_adapter
from probe.errors import AlignError, ModelError
from probe.model import LoadedModel
from probe.tiny import tiny_tokenizer

CAUSAL, BASE, MASKED, TRANSLATION = (
    transformers.AutoModelForCausalLM,
    transformers.AutoModel,
    transformers.AutoModelForMaskedLM,
    transformers.AutoModelForSeq2SeqLM,
)
_TOKENS: dict[str, Any] = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.2
}  # fmt: skip
_DECODER = {**_TOKENS, **_SIZES, "num_key_value_heads": 2}
_TRANSLATOR = {
    **_TOKENS, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA = transformers.LlamaConfig(**_DECODER)
BERT = transformers.BertConfig(**_TOKENS, **_SIZES)
NLLB = transformers.M2M100Config(**_TRANSLATOR)
T5 = transformers.T5Config(
    vocab_size=259, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
)
GEMMA3 = transformers.Gemma3Config(
    text_config={**_DECODER, "head_dim": 8},
    vision_config={
        "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
        "patch_size": 16,
    },
    mm_tokens_per_image=4,
)  # fmt: skip
SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
IDS = torch.tensor([[0, 40, 41, 42, 43, 99, 100]])

DECODERS: dict[str, tuple[Any, set[str], int]] = {
    "llama": (LLAMA, SEVEN, 7),
    "qwen2": (transformers.Qwen2Config(**_DECODER), SEVEN, 7),
    "qwen3": (transformers.Qwen3Config(**_DECODER, head_dim=8), SEVEN, 7),
    "mistral": (transformers.MistralConfig(**_DECODER), SEVEN, 7),
    "gemma2": (transformers.Gemma2Config(**_DECODER, head_dim=8), SEVEN, 7),
    "gemma3": (transformers.Gemma3TextConfig(**_DECODER, head_dim=8), SEVEN, 7),
    "gpt2": (transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **_TOKENS), {"c_attn", "c_proj", "c_fc"}, 4),
    "bloom": (
        transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **_TOKENS),
        {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
        4,
    ),
    "gpt-neox": (
        transformers.GPTNeoXConfig(**_TOKENS, **_SIZES),
        {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
        4,
    ),
    "opt": (
        transformers.OPTConfig(
            **_TOKENS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32
        ),
        {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
        6,
    ),
    "xglm": (
        transformers.XGLMConfig(**_TOKENS, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48),
        {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
        6,
    ),
}
"""Configuration, target names, and linear layers a block."""


def build(config: Any, auto: Any = CAUSAL) -> Any:
    """The same random model at every call."""
    torch.manual_seed(5)
    return auto.from_config(config).eval()


def hidden(model: Any) -> torch.Tensor:
    """All hidden states of a fixed sentence (layer, token, hidden), in float32."""
    with torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    return torch.stack([state[0].float() for state in states])


def shaken(model: Any, settings: LoraSettings | None = None) -> Any:
    """The model with a LoRA as training leaves it: every trainable weight has moved."""
    torch.manual_seed(6)
    for parameter in add_lora(model, settings or LoraSettings(), seed=0).values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def lora_modules(model: nn.Module) -> set[str]:
    return {name.split(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (
            transformers.LlamaConfig(
                hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                num_key_value_heads=8, vocab_size=128256,
            ),
            20_971_520,
        ),
        (
            transformers.Qwen2Config(
                hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                num_key_value_heads=4, vocab_size=152064,
            ),
            20_185_088,
        ),
    ],
    ids=["Llama-3-8B", "Qwen2.5-7B"],
)  # fmt: skip
def test_the_papers_models_have_the_papers_number_of_parameters(config: Any, count: int) -> None:
    """On the meta device: no weights are needed."""
    with torch.device("meta"):
        model = CAUSAL.from_config(config)
        trainable = add_lora(model, LoraSettings(), seed=1)
    assert sum(parameter.numel() for parameter in trainable.values()) == count


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_gets_all_projections_of_its_blocks(name: str) -> None:
    config, targets, each = DECODERS[name]
    model = build(config)
    add_lora(model, LoraSettings(), seed=1)
    modules = lora_modules(model)
    assert {module.rpartition(".")[2] for module in modules} == targets
    assert len(modules) == 2 * each


@pytest.mark.parametrize("auto", [BASE, MASKED], ids=["base", "masked lm"])
def test_an_encoder_gets_them_in_its_blocks_alone(auto: Any) -> None:
    """`dense` is also the name of a layer of the pooler and of the head, which alignment never reaches."""
    model = build(BERT, auto)
    assert any(name.endswith("dense") and ".layer." not in name for name, _ in model.named_modules())
    add_lora(model, LoraSettings(), seed=1)
    modules = lora_modules(model)
    assert all("encoder.layer." in name for name in modules)
    assert {name.rpartition(".")[2] for name in modules} == {"query", "key", "value", "dense"}
    assert len(modules) == 2 * 6


def test_unknown_names_are_one_line_that_lists_them() -> None:
    """In a mixture of experts the names of the attention are known; that its experts would be left out is not hidden."""
    model = build(transformers.MixtralConfig(**_DECODER, num_local_experts=2))
    with pytest.raises(AlignError, match="k_proj, o_proj, q_proj, v_proj") as caught:
        add_lora(model, LoraSettings(), seed=1)
    assert "\n" not in str(caught.value)
    add_lora(model, LoraSettings(targets=("q_proj", "v_proj")), seed=1)
    assert {name.rpartition(".")[2] for name in lora_modules(model)} == {"q_proj", "v_proj"}


def test_a_target_that_is_not_there_is_one_line() -> None:
    """PEFT would leave it out in silence when another one is there."""
    with pytest.raises(AlignError, match=r"'lm_head' in LlamaForCausalLM; expected of down_proj, gate_proj"):
        add_lora(build(LLAMA), LoraSettings(targets=("q_proj", "lm_head")), seed=1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"r": 0}, "rank 0"),
        ({"alpha": 0}, "alpha 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"targets": ()}, r"targets \(\)"),
        ({"targets": "q_proj"}, "targets 'q_proj'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(AlignError, match=named):
        LoraSettings(**changes)


@pytest.mark.parametrize("name", DECODERS)
def test_at_the_start_nothing_changes(name: str) -> None:
    """B is zero; and it is B that makes it so: with B moved the states move."""
    model = build(DECODERS[name][0])
    before = hidden(model)
    trainable = add_lora(model, LoraSettings(dropout=0.5), seed=1)
    assert torch.equal(hidden(model), before)
    assert all(parameter.any() == ("lora_A" in key) for key, parameter in trainable.items())
    for key, parameter in trainable.items():
        if "lora_B" in key:
            parameter.data += 0.1
    assert not torch.allclose(hidden(model)[1:], before[1:], atol=1e-3)


def test_only_the_lora_trains() -> None:
    """After steps of the optimizer the rest is the same to the bit, and every LoRA weight has moved."""
    model = build(LLAMA)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainable = add_lora(model, LoraSettings(dropout=0.0), seed=1)
    assert set(trainable) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trainable)
    start = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    for _ in range(2):  # A has no gradient while B is zero
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = {name.replace(".base_layer", ""): parameter for name, parameter in model.named_parameters()}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert all(not torch.equal(parameter, start[name]) for name, parameter in trainable.items())


def test_the_seed_alone_decides_the_start() -> None:
    """Not the random state around, which stays; nor the head, nor the precision of the base model."""

    def start(model: Any, seed: int, around: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(around)
        state = torch.get_rng_state()
        trainable = add_lora(model, LoraSettings(), seed)
        assert torch.equal(torch.get_rng_state(), state)
        return {name.removeprefix("model."): parameter.detach() for name, parameter in trainable.items()}

    first = start(build(LLAMA), seed=3, around=1)
    for same in (build(LLAMA), build(LLAMA, BASE)):
        again = start(same, seed=3, around=2)
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
    other = start(build(LLAMA), seed=4, around=1)
    assert all(not torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_the_draw_is_pefts() -> None:
    """Same distribution, order and scale: from the same random state, the same numbers."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=sorted(SEVEN), task_type="CAUSAL_LM")
    theirs = build(LLAMA)
    torch.manual_seed(3)
    pefts = dict(get_peft_model(theirs, config).named_parameters())
    ours = add_lora(build(LLAMA), LoraSettings(), seed=3)
    assert all(torch.equal(parameter, pefts[f"base_model.model.{name}"]) for name, parameter in ours.items())


def test_a_bf16_model_has_a_float32_lora() -> None:
    """An update of 1e-4 to a weight near 1 is lost in bf16."""
    model = build(LLAMA).to(torch.bfloat16)
    trainable = add_lora(model, LoraSettings(), seed=1)
    assert {parameter.dtype for parameter in trainable.values()} == {torch.float32}
    assert model(input_ids=IDS).logits.dtype == torch.bfloat16


def test_dropout_is_on_in_training_and_only_there() -> None:
    model = build(LLAMA)
    model.train()
    for parameter in add_lora(model, LoraSettings(dropout=0.5), seed=1).values():
        parameter.data += 0.1
    assert not torch.equal(hidden(model), hidden(model))
    model.eval()
    assert torch.equal(hidden(model), hidden(model))
    resting = build(LLAMA)
    add_lora(resting, LoraSettings(dropout=0.5), seed=1)
    assert not any(module.training for module in resting.modules())


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    plain, stabilised = (
        shaken(build(LLAMA), LoraSettings(r=4, alpha=alpha, rslora=rslora)) for alpha, rslora in ((8, False), (4, True))
    )
    assert torch.allclose(hidden(plain), hidden(stabilised), atol=1e-5)  # 8 / 4 = 4 / sqrt(4)


def test_a_second_lora_is_refused() -> None:
    model = build(LLAMA)
    add_lora(model, LoraSettings(), seed=1)
    with pytest.raises(AlignError, match="a model that has a LoRA"):
        add_lora(model, LoraSettings(), seed=1)


@pytest.mark.parametrize("auto", [CAUSAL, BASE], ids=["with head", "without"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_tensors_are_named_as_peft_names_them_in_a_causal_lm(name: str, auto: Any, tmp_path: Path) -> None:
    """Also where it was trained without its head; and PEFT gives the states that were trained."""
    config, targets, _ = DECODERS[name]
    get_peft_model(build(config), LoraConfig(target_modules=sorted(targets))).save_pretrained(tmp_path / "peft")
    trained = shaken(build(config, auto))
    save_adapter(trained, tmp_path / "ours", "some/model", revision="abc")
    ours, theirs = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("ours", "peft"))
    assert ours.keys() == theirs.keys()
    loaded: Any = PeftModel.from_pretrained(build(config), tmp_path / "ours").eval()
    assert torch.equal(hidden(loaded), hidden(trained))
    assert not torch.allclose(hidden(loaded), hidden(build(config)), atol=1e-3)
    described = json.loads((tmp_path / "ours" / "adapter_config.json").read_text(encoding="utf-8"))
    assert described["base_model_name_or_path"] == "some/model"
    assert described["revision"] == "abc"
    assert described["task_type"] == "CAUSAL_LM"
    assert described["inference_mode"]
    assert set(described["target_modules"]) == targets


@pytest.mark.parametrize("auto", [CAUSAL, BASE], ids=["with head", "without"])
def test_a_saved_decoder_adapter_can_be_probed(auto: Any, tmp_path: Path) -> None:
    trained = shaken(build(LLAMA, auto))
    save_adapter(trained, tmp_path / "a", "some/model")
    probed = attach(LoadedModel(build(LLAMA, BASE), tiny_tokenizer()), tmp_path / "a")
    assert torch.equal(hidden(probed.model), hidden(trained))


def test_a_saved_encoder_adapter_is_its_base_models(tmp_path: Path) -> None:
    """Loaded by PEFT without a word about missing places, and probed."""
    trained = shaken(build(BERT, BASE))
    save_adapter(trained, tmp_path / "a", "some/model")
    description, tensors = read_adapter(tmp_path / "a")
    assert description["task_type"] == "FEATURE_EXTRACTION"
    assert all(name.startswith("base_model.model.encoder.layer.") for name in tensors)
    loaded: Any = PeftModel.from_pretrained(build(BERT, BASE), tmp_path / "a").eval()
    assert lora_modules(loaded) == {f"base_model.model.{name}" for name in lora_modules(trained)}
    assert torch.equal(hidden(loaded), hidden(trained))
    probed = attach(LoadedModel(build(BERT, BASE), tiny_tokenizer()), tmp_path / "a")
    assert torch.equal(hidden(probed.model), hidden(trained))


@pytest.mark.parametrize("config", [NLLB, T5], ids=["nllb", "t5"])
def test_the_encoder_of_a_translation_model(config: Any, tmp_path: Path) -> None:
    """PEFT puts it on the encoder of the base model and leaves the decoder, whose layers have the same names, alone."""
    trained = shaken(build(config, BASE).get_encoder())
    save_adapter(trained, tmp_path / "a", "some/model")
    whole: Any = PeftModel.from_pretrained(build(config, BASE), tmp_path / "a").eval()
    assert all(name.startswith("base_model.model.encoder.") for name in lora_modules(whole))
    assert torch.equal(hidden(whole.base_model.model.get_encoder()), hidden(trained))
    probed = attach(LoadedModel(build(config, BASE).get_encoder(), tiny_tokenizer()), tmp_path / "a")
    assert torch.equal(hidden(probed.model), hidden(trained))


def test_a_multimodal_model_gets_it_in_its_language_model_alone(tmp_path: Path) -> None:
    """The tower of the images has layers of the same names. With the head and without, PEFT reads the same adapter."""
    headed = transformers.AutoModelForImageTextToText
    for auto in (headed, BASE):
        trained = shaken(build(GEMMA3, auto))
        assert all("language_model.layers." in name for name in lora_modules(trained))
        save_adapter(trained, tmp_path / auto.__name__, "some/model")
        loaded: Any = PeftModel.from_pretrained(build(GEMMA3, headed), tmp_path / auto.__name__).eval()
        assert len(lora_modules(loaded)) == 2 * 7
        assert torch.equal(hidden(loaded), hidden(trained))


def test_weights_come_back_bit_by_bit(tmp_path: Path) -> None:
    """Into another seed's start, and they still train."""
    trained = shaken(build(LLAMA))
    save_adapter(trained, tmp_path / "a", "some/model")
    resumed = build(LLAMA)
    places = add_lora(resumed, LoraSettings(), seed=99)
    load_adapter_weights(resumed, tmp_path / "a")
    saved = dict(trained.named_parameters())
    assert all(torch.equal(place, saved[name]) and place.requires_grad for name, place in places.items())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (LoraSettings(r=4), "r 8; expected 4"),
        (LoraSettings(alpha=32), "lora_alpha 16; expected 32"),
        (LoraSettings(rslora=True), "use_rslora False; expected True"),
        (LoraSettings(targets=("q_proj",)), r"mlp\.down_proj.* of shape \(32, 8\)|mlp\.down_proj.*; expected None"),
    ],
)
def test_weights_of_other_settings_are_one_line(tmp_path: Path, settings: LoraSettings, named: str) -> None:
    save_adapter(shaken(build(LLAMA)), tmp_path / "a", "some/model")
    model = build(LLAMA)
    add_lora(model, settings, seed=1)
    with pytest.raises(AlignError, match=named) as caught:
        load_adapter_weights(model, tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_weights_of_a_wider_model_are_one_line(tmp_path: Path) -> None:
    save_adapter(
        shaken(build(transformers.LlamaConfig(**{**_DECODER, "hidden_size": 64}))), tmp_path / "a", "some/model"
    )
    model = build(LLAMA)
    add_lora(model, LoraSettings(), seed=1)
    with pytest.raises(
        AlignError, match=r"of shape \(8, 64\); expected \(8, 32\)|of shape \(64, 8\); expected \(32, 8\)"
    ):
        load_adapter_weights(model, tmp_path / "a")


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    model = shaken(build(LLAMA))
    for folder in ("a", "b"):
        save_adapter(model, tmp_path / folder, "some/model")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len({path.stat().st_mode for path in (tmp_path / "a").iterdir()}) == 1, "who may read one may read both"


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("other", [False, True], ids=["same settings", "other settings"])
def test_a_killed_save_leaves_the_former_adapter_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, other: bool
) -> None:
    """Never a description with the weights of another one: killed before either file is put in place."""
    save_adapter(build_with(LoraSettings()), tmp_path / "a", "some/model")
    former = load_file(tmp_path / "a" / "adapter_model.safetensors")
    later = shaken(build(LLAMA), LoraSettings(alpha=32 if other else 16))
    replaced, calls = os.replace, []

    def dying(source: Path, target: Path) -> None:
        if len(calls) == step:
            raise KilledError
        calls.append(target)
        replaced(source, target)

    monkeypatch.setattr(adapter_module.os, "replace", dying)
    with pytest.raises(KilledError):
        save_adapter(later, tmp_path / "a", "some/model")
    monkeypatch.undo()
    if other:
        with pytest.raises(ModelError, match=r"adapter_config\.json"):
            read_adapter(tmp_path / "a")
    else:
        expected = former if step == 0 else {f"base_model.model.{n}": p for n, p in later.named_parameters()}
        found = read_adapter(tmp_path / "a")[1]
        assert all(torch.equal(tensor, expected[name if step == 0 else name.replace(".weight", ".default.weight")]) for name, tensor in found.items())  # fmt: skip


def build_with(settings: LoraSettings) -> Any:
    model = build(LLAMA)
    add_lora(model, settings, seed=1)
    return model


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AlignError, match="cannot be written") as caught:
        save_adapter(build_with(LoraSettings()), tmp_path / "file", "some/model")
    assert "\n" not in str(caught.value)


def test_nan_is_never_saved(tmp_path: Path) -> None:
    model = shaken(build(LLAMA))
    next(parameter for parameter in model.parameters() if parameter.requires_grad).data[0, 0] = float("nan")
    with pytest.raises(AlignError, match=r"layers\.0.*holds NaN"):
        save_adapter(model, tmp_path / "a", "some/model")
    assert not (tmp_path / "a").exists()


def test_gathered_weights_are_saved_in_place_of_shards(tmp_path: Path) -> None:
    model = shaken(build(LLAMA))
    state = {name: 2 * parameter for name, parameter in model.named_parameters() if "lora_" in name}
    save_adapter(model, tmp_path / "a", "some/model", state=state)
    _, tensors = read_adapter(tmp_path / "a")
    name = "model.layers.0.self_attn.q_proj.lora_B"
    assert torch.equal(tensors[f"base_model.model.{name}.weight"], 2 * model.get_parameter(f"{name}.default.weight"))
