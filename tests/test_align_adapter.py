"""Adapters: the probed model with a LoRA gives what PEFT's own model gives, or says in one line why it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from align.adapter import attach, find_adapter
from probe.corpus import ParallelCorpus
from probe.errors import ModelError, StoreError
from probe.extract import extract_all
from probe.model import LoadedModel, load_model, open_model, tokenise
from probe.states import pooled_states
from probe.tiny import tiny_tokenizer

CPU = torch.device("cpu")
TOLERANCE = 1e-5
SENTENCES = ("Hi.", "A somewhat longer sentence, so that rows differ.", "Ещё одно.")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest relative distance of any vector (last axis) from what it should be."""
    distance = np.linalg.norm(found.astype(np.float64) - expected, axis=-1)
    return float((distance / np.linalg.norm(expected, axis=-1)).max())


_BYTES = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_LIVELY = {**_SIZES, **_BYTES, "initializer_range": 0.4}
_TRANSLATOR = {
    **_BYTES,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "init_std": 0.4,
    "max_position_embeddings": 256,
}
_T5 = {**_BYTES, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}


def llama(**changes: Any) -> Any:
    return transformers.LlamaConfig(**{**_LIVELY, "num_key_value_heads": 2, "attention_bias": True, **changes})


def model_folder(folder: Path, config: Any, auto: Any = transformers.AutoModel) -> Path:
    """A tiny random model, saved with the head that `auto` gives it, and a byte-level tokenizer."""
    torch.manual_seed(11)
    auto.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def train_adapter(model: Path, auto: Any, config: Any, folder: Path) -> Path:
    """An adapter as training leaves it: every trainable weight has moved (PEFT begins with B = 0, which does nothing)."""
    torch.manual_seed(12)
    peft_model = get_peft_model(auto.from_pretrained(model, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    peft_model.save_pretrained(folder)
    return folder


def load(folder: Path) -> LoadedModel:
    return load_model(open_model(str(folder)), torch.float32, CPU)


def pooled(loaded: LoadedModel) -> np.ndarray:
    """(layer, sentence, hidden)"""
    ids = tokenise(loaded.tokenizer, SENTENCES, "eng_Latn")
    return pooled_states(loaded, ids, range(loaded.depth + 1), ["mean"], 150)[0]


def pefts_own(model: Path, auto: Any, adapter: Path) -> np.ndarray:
    """The same from PEFT's model around transformers' model with its head, one sentence at a time."""
    whole: Any = PeftModel.from_pretrained(auto.from_pretrained(model, dtype=torch.float32), adapter).eval()
    whole = whole.base_model.model
    probed = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    rows = []
    for sentence in SENTENCES:
        ids = torch.tensor([tiny_tokenizer()(sentence)["input_ids"]])
        with torch.no_grad():
            states = probed(input_ids=ids, output_hidden_states=True).hidden_states
        rows.append(np.stack([layer[0].double().mean(dim=0).numpy() for layer in states]))
    return np.stack(rows, axis=1)


CAUSAL, BASE, MASKED, TRANSLATION, CLASSES, TAGS = (
    transformers.AutoModelForCausalLM,
    transformers.AutoModel,
    transformers.AutoModelForMaskedLM,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForSequenceClassification,
    transformers.AutoModelForTokenClassification,
)
_MULTIMODAL = transformers.Gemma3Config(
    text_config={**_LIVELY, "num_key_value_heads": 2, "head_dim": 8},
    vision_config={**_SIZES, "image_size": 32, "patch_size": 16},
    mm_tokens_per_image=4,
)

ADAPTERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "causal lm": (llama(), CAUSAL, {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}),
    "base model": (llama(), BASE, {"task_type": "FEATURE_EXTRACTION", "target_modules": ["q_proj", "v_proj"]}),
    "regex over full names": (llama(), CAUSAL, {"target_modules": r"model\.layers\.1\..*(q_proj|up_proj)"}),
    "layers_to_transform": (llama(), CAUSAL, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "exclude_modules": (llama(), CAUSAL, {"target_modules": "all-linear", "exclude_modules": r".*layers\.0\..*"}),
    "all-linear": (llama(), CAUSAL, {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}),
    "with a lora on the head": (llama(), CAUSAL, {"target_modules": ["q_proj", "lm_head"]}),
    "with a trained head": (llama(), CAUSAL, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "with trained embeddings": (llama(), CAUSAL, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "with trained norms": (llama(), CAUSAL, {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]}),
    "with trained biases": (llama(), CAUSAL, {"target_modules": ["q_proj"], "bias": "all"}),
    "with a lora on the embeddings": (llama(), CAUSAL, {"target_modules": ["q_proj", "embed_tokens"]}),
    "dora": (llama(), CAUSAL, {"target_modules": ["q_proj"], "use_dora": True}),
    "rank-stabilised, ranks by name": (
        llama(),
        CAUSAL,
        {
            "target_modules": ["q_proj", "v_proj"],
            "use_rslora": True,
            "rank_pattern": {"model.layers.0.self_attn.q_proj": 2},
            "alpha_pattern": {"v_proj": 3},
        },
    ),
    "bert masked lm": (transformers.BertConfig(**_LIVELY), MASKED, {"target_modules": ["query", "value"]}),
    "bert classifier": (
        transformers.BertConfig(**_LIVELY),
        CLASSES,
        {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]},
    ),
    "xlm-roberta tagger, whose base has no pooler": (
        transformers.XLMRobertaConfig(**{**_LIVELY, "pad_token_id": 1}),
        TAGS,
        {"task_type": "TOKEN_CLS", "target_modules": ["query", "dense"]},
    ),
    "gpt2": (
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, initializer_range=0.4, **_BYTES),
        CAUSAL,
        {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "m2m100 attention": (
        transformers.M2M100Config(**_TRANSLATOR),
        TRANSLATION,
        {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q_proj", "v_proj"]},
    ),
    "m2m100 feed-forward": (transformers.M2M100Config(**_TRANSLATOR), TRANSLATION, {"target_modules": ["fc1", "fc2"]}),
    "m2m100 base model": (transformers.M2M100Config(**_TRANSLATOR), BASE, {"target_modules": ["fc1", "fc2"]}),
    "t5": (transformers.T5Config(**_T5, initializer_factor=3.0), TRANSLATION, {"target_modules": ["q", "v", "wi"]}),
    "gemma3 multimodal": (_MULTIMODAL, transformers.AutoModelForImageTextToText, {"target_modules": ["q_proj"]}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_hidden_states_are_those_of_pefts_own_model(name: str, tmp_path: Path) -> None:
    """Attached to the model without its head, in float32; and they are not those of the base model."""
    config, auto, lora = ADAPTERS[name]
    model = model_folder(tmp_path / "model", config, auto)
    adapter = train_adapter(model, auto, LoraConfig(**lora), tmp_path / "adapter")
    found = pooled(attach(load(model), find_adapter(str(adapter))))
    assert relative_error(found, pefts_own(model, auto, adapter)) < TOLERANCE
    assert relative_error(found, pooled(load(model))) > 100 * TOLERANCE


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("llama") / "model", llama(), CAUSAL)


@pytest.fixture(scope="module")
def lora_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain LoRA on the attention of `llama_folder`."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    return train_adapter(llama_folder, CAUSAL, config, tmp_path_factory.mktemp("lora") / "adapter")


def test_the_blocks_are_still_found_and_cut(llama_folder: Path, lora_folder: Path) -> None:
    """With an adapter too, a lower layer alone is the same as among all."""
    loaded = attach(load(llama_folder), lora_folder)
    ids = tokenise(loaded.tokenizer, SENTENCES, "eng_Latn")
    alone = pooled_states(loaded, ids, [1], ["mean"], 150)[0]
    assert relative_error(alone, pooled(loaded)[[1]]) < TOLERANCE


def test_an_adapter_is_not_rounded_to_the_dtype_of_the_model(llama_folder: Path, lora_folder: Path) -> None:
    """In bfloat16 the weights of the adapter stay in float32, as PEFT loads them, and float32 tensors bit by bit."""
    loaded = attach(load_model(open_model(str(llama_folder)), torch.bfloat16, CPU), lora_folder)
    held = {name: each for name, each in loaded.model.named_parameters() if "lora_" in name}
    saved = load_file(lora_folder / "adapter_model.safetensors")
    assert {each.dtype for each in held.values()} == {torch.float32}
    for name, each in saved.items():
        own = name.removeprefix("base_model.model.").removeprefix("model.").replace(".weight", ".default.weight")
        assert torch.equal(held[own], each)
    loaded.model(torch.tensor([[5, 6, 7]]))  # and it runs


def test_an_adapter_that_was_never_trained_changes_nothing(llama_folder: Path, tmp_path: Path) -> None:
    """PEFT's B is zero at the start: so what moves the states above is the trained weights and nothing else."""
    model = CAUSAL.from_pretrained(llama_folder, dtype=torch.float32)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "fresh")
    found = pooled(attach(load(llama_folder), tmp_path / "fresh"))
    assert relative_error(found, pooled(load(llama_folder))) < 1e-6


@pytest.mark.parametrize(
    ("changes", "auto"),
    [({"hidden_size": 32}, CAUSAL), ({"num_hidden_layers": 1}, CAUSAL), ({"num_hidden_layers": 3}, CAUSAL)],
    ids=["wider", "shallower", "deeper"],
)
def test_an_adapter_of_another_model_is_one_line(
    lora_folder: Path, tmp_path: Path, changes: dict[str, int], auto: Any
) -> None:
    """With the name of the model that the adapter was made for."""
    other = model_folder(tmp_path / "other", llama(**changes), auto)
    with pytest.raises(ModelError, match="does not fit the model") as caught:
        attach(load(other), lora_folder)
    named = json.loads((lora_folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_architecture_is_one_line(lora_folder: Path, tmp_path: Path) -> None:
    bert = model_folder(tmp_path / "bert", transformers.BertConfig(**_LIVELY))
    with pytest.raises(ModelError, match="none of its modules is in the model") as caught:
        attach(load(bert), lora_folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_the_decoder_alone_is_not_put_on_the_encoder(tmp_path: Path) -> None:
    """Their blocks have the same names and shapes."""
    model = model_folder(tmp_path / "m", transformers.M2M100Config(**_TRANSLATOR), TRANSLATION)
    adapter = train_adapter(model, TRANSLATION, LoraConfig(target_modules=r".*decoder.*fc1"), tmp_path / "a")
    with pytest.raises(ModelError, match="none of its modules is in the model"):
        attach(load(model), adapter)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("IA3", IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])),
        ("PREFIX_TUNING", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    ],
)
def test_another_kind_of_adapter_is_one_line(llama_folder: Path, tmp_path: Path, kind: str, config: Any) -> None:
    """Said when the folder is looked at, before any weights are loaded; and by `attach` itself."""
    adapter = train_adapter(llama_folder, CAUSAL, config, tmp_path / "adapter")
    with pytest.raises(ModelError, match=f"type {kind}; expected LORA") as caught:
        find_adapter(str(adapter))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=f"type {kind}"):
        attach(load(llama_folder), adapter)


def test_what_a_lora_cannot_carry_is_refused_not_dropped(llama_folder: Path, tmp_path: Path) -> None:
    """New vectors for single tokens (`trainable_token_indices`) have no place in the probed model."""
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices=[40])
    adapter = train_adapter(llama_folder, CAUSAL, config, tmp_path / "adapter")
    with pytest.raises(ModelError, match="trainable_tokens_delta finds no place"):
        attach(load(llama_folder), adapter)


def test_copies_of_trained_embeddings_are_not_in_the_way(llama_folder: Path, tmp_path: Path) -> None:
    """PEFT stores them twice more when it is told to save the embeddings as well."""
    torch.manual_seed(13)
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    trained = get_peft_model(CAUSAL.from_pretrained(llama_folder, dtype=torch.float32), config)
    with torch.no_grad():
        trained.get_input_embeddings().weight.add_(0.1)
    trained.save_pretrained(tmp_path / "once")
    trained.save_pretrained(tmp_path / "thrice", save_embedding_layers=True)
    assert any("original_module" in name for name in load_file(tmp_path / "thrice" / "adapter_model.safetensors"))
    once, thrice = (pooled(attach(load(llama_folder), tmp_path / name)) for name in ("once", "thrice"))
    assert np.array_equal(once, thrice)
    assert relative_error(once, pooled(load(llama_folder))) > 0.001


def test_embeddings_for_a_larger_vocabulary_are_one_line(llama_folder: Path, tmp_path: Path) -> None:
    """Trained after tokens were added: the probed model has no such rows."""
    wider = CAUSAL.from_pretrained(llama_folder, dtype=torch.float32)
    wider.resize_token_embeddings(264, mean_resizing=False)
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    get_peft_model(wider, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"embed_tokens.weight is \(264, 16\), the model's \(259, 16\)"):
        attach(load(llama_folder), tmp_path / "adapter")


@pytest.mark.parametrize("dropped", ["lora_A", "lora_B"])
def test_a_missing_tensor_is_refused_not_random(
    llama_folder: Path, lora_folder: Path, tmp_path: Path, dropped: str
) -> None:
    adapter = Path(shutil.copytree(lora_folder, tmp_path / "adapter"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    del tensors[next(name for name in tensors if dropped in name)]
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="1 places have no tensor"):
        attach(load(llama_folder), adapter)


def test_a_folder_without_an_adapter_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter_config\.json") as caught:
        find_adapter(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_an_unknown_adapter_is_one_line() -> None:
    with pytest.raises(ModelError, match="adapter nobody/nothing") as caught:
        find_adapter("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_an_adapter_without_its_weights_is_one_line(lora_folder: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(lora_folder, tmp_path / "adapter"))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors") as caught:
        find_adapter(str(adapter))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_adapter_is_one_line(llama_folder: Path, lora_folder: Path, tmp_path: Path, name: str) -> None:
    adapter = Path(shutil.copytree(lora_folder, tmp_path / "adapter"))
    (adapter / name).write_bytes((adapter / name).read_bytes()[:50])
    with pytest.raises(ModelError, match="cannot be read") as caught:
        attach(load(llama_folder), adapter)
    assert "\n" not in str(caught.value)


def test_the_adapters_content_is_part_of_the_models_identity(
    llama_folder: Path, lora_folder: Path, tmp_path: Path
) -> None:
    """Moved it is the same adapter, trained further another one, and the base model has none."""
    moved = Path(shutil.copytree(lora_folder, tmp_path / "moved"))
    further = Path(shutil.copytree(lora_folder, tmp_path / "further"))
    tensors = load_file(further / "adapter_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, further / "adapter_model.safetensors")
    digests = [open_model(str(llama_folder), adapter=folder).identity["adapter"] for folder in (lora_folder, moved, further, None)]  # fmt: skip
    assert digests[0] == digests[1]
    assert len({*digests}) == 3
    assert digests[3] is None


def test_a_store_with_an_adapter_holds_its_states_and_no_others(
    llama_folder: Path, lora_folder: Path, toy: ParallelCorpus, tmp_path: Path
) -> None:
    """The same store may not go on without the adapter."""
    how: dict[str, Any] = {"dtype": "fp32", "device": "cpu"}
    corpus = toy.limited(len(SENTENCES))
    store = extract_all(str(llama_folder), corpus, tmp_path / "s", adapter=lora_folder, attach=attach, **how)
    loaded = attach(load(llama_folder), lora_folder)
    ids = tokenise(loaded.tokenizer, corpus.sentences["eng_Latn"], "eng_Latn")
    expected = pooled_states(loaded, ids, [2], ["mean"], 2048)[0, 0]
    assert relative_error(store.layer("eng_Latn", 2, "mean"), expected) < TOLERANCE
    with pytest.raises(StoreError, match=r"model\.adapter"):
        extract_all(str(llama_folder), corpus, tmp_path / "s", **how)
