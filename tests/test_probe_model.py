"""Models and tokenizers: found, loaded whole, cut and put back; and told in one line what is wrong with them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import nn

from probe.corpus import ParallelCorpus
from probe.device import choose_device, choose_dtype
from probe.errors import ModelError
from probe.model import (
    _WEIGHT_FILES,
    LoadedModel,
    _read_weights,
    context_length,
    find_blocks,
    folder_digest,
    forward,
    load_model,
    open_model,
    refuse_leaky_blocks,
    shortened,
    source_language,
    tokenise,
    tokenizer_digest,
)
from probe.states import pooled_states
from probe.tiny import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")


def is_one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error).split("; ")) >= 3


_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_BYTES = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_LLAMA = {**_SIZES, **_BYTES, "num_key_value_heads": 2}
_TRANSLATOR = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "vocab_size": 259,
    "pad_token_id": 2,
    "eos_token_id": 1,
}


def save(folder: Path, config: Any, auto: Any = transformers.AutoModel, tokenizer: Any = None) -> Path:
    """A tiny random model and a tokenizer (byte-level unless another is given) in a folder."""
    torch.manual_seed(5)
    auto.from_config(config).save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Llama, with its LM head as most are published."""
    folder = tmp_path_factory.mktemp("llama") / "tiny-llama"
    return save(folder, transformers.LlamaConfig(**_LLAMA), transformers.AutoModelForCausalLM)


@pytest.fixture
def llama_copy(llama: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(llama, tmp_path / llama.name))


def load(folder: Path) -> LoadedModel:
    return load_model(open_model(str(folder)), torch.float32, CPU)


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# ---- opening and loading -------------------------------------------------------------------------------------


def test_a_model_is_planned_without_its_weights(llama_copy: Path) -> None:
    """Structure, width and context come from the configuration: nothing of the weights is in memory."""
    source = open_model(str(llama_copy))
    assert (source.depth, source.hidden_size, source.context, source.vocabulary) == (2, 16, 2048, 259)
    assert all(parameter.device.type == "meta" for parameter in source.skeleton.parameters())


def test_the_head_is_not_loaded(llama: Path) -> None:
    loaded = load(llama)
    assert type(loaded.model).__name__ == "LlamaModel"
    assert (loaded.depth, loaded.hidden_size, loaded.blocks_name) == (2, 16, "layers")
    assert not loaded.model.training


def test_weights_are_those_of_the_file(llama: Path) -> None:
    stored = load_file(llama / "model.safetensors")
    for name, tensor in load(llama).model.state_dict().items():
        assert torch.equal(tensor, stored[f"model.{name}"]), name


def test_the_builtin_model_is_the_same_at_every_call() -> None:
    """Whatever random state is around, which it leaves alone."""
    torch.manual_seed(1)
    one, after = tiny_model(), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    two = tiny_model()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert open_model("builtin:tiny").identity == open_model("builtin:tiny").identity


@pytest.mark.parametrize("name", ["builtin:large", "nobody/no-such-model", "no-such-folder"])
def test_an_unknown_model_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=name) as caught:
        open_model(name)
    assert is_one_line(caught.value)


def test_an_unknown_model_is_exit_code_2(run_probe: Callable[..., Any], tmp_path: Path) -> None:
    """On the command line: one line, no traceback, nothing left behind."""
    done = run_probe("extract", "--model", "nobody/no-such-model", "--corpus", "everyday", "--out", "s")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "nobody/no-such-model" in line] == done.stderr.splitlines()
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    transformers.AutoModel.from_config(transformers.LlamaConfig(**_LLAMA)).save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="m cannot be loaded") as caught:
        open_model(str(tmp_path / "m"))
    assert is_one_line(caught.value)


def test_code_of_strangers_is_not_run_unless_asked(llama_copy: Path) -> None:
    """The message names the flag."""
    config = json.loads((llama_copy / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (llama_copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (llama_copy / "code.py").write_text("raise SystemExit('it was run')", encoding="utf-8")
    with pytest.raises(ModelError, match="pass --trust-remote-code") as caught:
        open_model(str(llama_copy))
    assert is_one_line(caught.value)


@pytest.mark.parametrize("block", [0, 1])
def test_missing_weights_are_refused_not_random(llama_copy: Path, block: int) -> None:
    name = f"layers.{block}.mlp.down_proj.weight"
    edit_weights(llama_copy, lambda tensors: tensors.pop(f"model.{name}"))
    with pytest.raises(ModelError, match=f"no weights for {name}") as caught:
        load(llama_copy)
    assert is_one_line(caught.value)


def test_a_missing_pooler_is_no_fault(tmp_path: Path) -> None:
    """A masked language model has none, and it comes after all blocks."""
    folder = save(
        tmp_path / "bert", transformers.BertConfig(**_SIZES, vocab_size=259), transformers.AutoModelForMaskedLM
    )
    assert "bert.pooler.dense.weight" not in load_file(folder / "model.safetensors")
    assert load(folder).depth == 2


@pytest.fixture
def translator(tmp_path: Path) -> Path:
    return save(tmp_path / "m2m", transformers.M2M100Config(**_TRANSLATOR), transformers.AutoModelForSeq2SeqLM)


def test_an_encoder_decoder_is_its_encoder(translator: Path) -> None:
    """Of two block lists the encoder's; its depth is not the decoder's."""
    source, loaded = open_model(str(translator)), load(translator)
    assert type(loaded.model).__name__ == "M2M100Encoder"
    assert source.depth == loaded.depth == 2


def test_missing_weights_of_the_decoder_are_no_fault(translator: Path) -> None:
    """Models are published as encoders alone; the decoder does not run here. Its blocks have the encoder's names."""

    def drop_decoder(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".decoder." in name]:
            del tensors[name]

    edit_weights(translator, drop_decoder)
    assert load(translator).depth == 2


@pytest.mark.parametrize("name", ["model.encoder.layers.1.fc2.weight", "model.shared.weight"])
def test_missing_weights_of_the_encoder_are_refused(translator: Path, name: str) -> None:
    """Also the embeddings that it shares with the decoder, which have a name outside the encoder."""
    edit_weights(translator, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match="no weights for") as caught:
        load(translator)
    assert is_one_line(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_cut_short_is_one_line(llama_copy: Path, name: str) -> None:
    """Each library has its own class of error for this."""
    (llama_copy / name).write_bytes((llama_copy / name).read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load(llama_copy)
    assert is_one_line(caught.value)


def test_a_tensor_of_another_shape_is_one_line(llama_copy: Path) -> None:
    edit_weights(llama_copy, lambda tensors: tensors.update({"model.norm.weight": torch.ones(17)}))
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load(llama_copy)
    assert is_one_line(caught.value)


def test_a_local_folder_is_known_by_its_content_not_its_place(llama: Path, llama_copy: Path) -> None:
    before = open_model(str(llama)).identity
    assert open_model(str(llama_copy)).identity == before
    edit_weights(llama_copy, lambda tensors: tensors["model.norm.weight"].mul_(2))
    after = open_model(str(llama_copy)).identity
    assert {key for key in after if after[key] != before[key]} == {"weights"}


@pytest.mark.parametrize(("given", "expected"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_named_dtype_is_taken(llama: Path, given: str, expected: str) -> None:
    dtype = choose_dtype(given, CPU)
    assert str(dtype) == f"torch.{expected}"
    loaded = load_model(open_model(str(llama)), dtype, CPU)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}


def test_auto_dtype_is_one_of_two() -> None:
    assert choose_dtype("auto", CPU) in {torch.float32, torch.bfloat16}


def test_an_unknown_dtype_is_one_line() -> None:
    with pytest.raises(ModelError, match="--dtype int8") as caught:
        choose_dtype("int8", CPU)
    assert is_one_line(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99", "meta", "cpu cpu"])
def test_a_device_that_is_not_there_is_one_line(device: str) -> None:
    with pytest.raises(ModelError, match=f"--device {device}") as caught:
        choose_device(device)
    assert is_one_line(caught.value)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> dict[torch.device, int]:
    """Device -> free bytes, of two GPUs that are not there; asked for no other, and torchrun is not there either."""
    free = {torch.device("cuda:0"): 10**12, torch.device("cuda:1"): 10**12}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 10**12))
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return free


def test_a_model_is_spread_where_this_processes_own_gpu_is_too_small(
    llama: Path, two_gpus: dict[torch.device, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_model(str(llama))
    auto = SimpleNamespace(from_pretrained=lambda place, **options: (options["device_map"], {"missing_keys": ()}))
    first, own = two_gpus
    need = 4 * sum(parameter.numel() for parameter in source.skeleton.parameters())

    def placed(spread: bool = True) -> Any:
        return _read_weights(auto, source, torch.float32, own, spread)[0]

    two_gpus[first] = 0
    assert placed() == {"": own}, "the other process's GPU says nothing"
    two_gpus.update({first: 10**12, own: need})
    assert placed() == "auto"
    assert placed(spread=False) == {"": own}
    for names, refused in (
        ({"WORLD_SIZE": "2"}, True),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, True),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1"}, False),
        ({"WORLD_SIZE": "1"}, False),
    ):
        with monkeypatch.context() as patch:
            for name, value in names.items():
                patch.setenv(name, value)
            if refused:
                with pytest.raises(ModelError, match="in 2 processes on one machine") as caught:
                    placed()
                assert is_one_line(caught.value)
                assert placed(spread=False) == {"": own}
            else:
                assert placed() == "auto"


def test_a_device_that_is_there_is_taken() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# ---- the block list ------------------------------------------------------------------------------------------


class Config:
    """The little of a configuration that is read."""

    def __init__(self, num_hidden_layers: int) -> None:
        self.num_hidden_layers = num_hidden_layers

    def get_text_config(self) -> Config:
        return self


def module(depth: int, **parts: nn.Module) -> nn.Module:
    whole = nn.Module()
    for name, part in parts.items():
        whole.add_module(name, part)
    whole.config = Config(depth)
    return whole


def blocks(count: int, **inside: nn.Module) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleDict({"linear": nn.Linear(2, 2), **inside}) for _ in range(count))


def test_experts_inside_blocks_are_not_the_blocks() -> None:
    """As many experts as blocks."""
    assert find_blocks(module(3, layers=blocks(3, experts=blocks(3)))) == "layers"


def test_a_list_of_another_length_is_not_the_blocks() -> None:
    assert find_blocks(module(3, side=blocks(2), layers=blocks(3))) == "layers"


def test_of_a_multimodal_model_the_language_models_blocks_are_taken() -> None:
    """Vision tower and language model of one depth."""
    parts = {"vision_tower": module(3, layers=blocks(3)), "language_model": module(3, layers=blocks(3))}
    assert find_blocks(module(3, **parts)) == "language_model.layers"


@pytest.mark.parametrize("lists", [{}, {"left": blocks(3), "right": blocks(3)}])
def test_no_or_several_block_lists_are_one_line(lists: dict[str, nn.Module]) -> None:
    """With the number found."""
    with pytest.raises(ModelError, match=f"{len(lists)} lists of 3 blocks") as caught:
        find_blocks(module(3, **lists))
    assert is_one_line(caught.value)


def test_an_architecture_that_shares_one_block_is_refused_when_opened(tmp_path: Path) -> None:
    """ALBERT runs one block over and over: there is no list to hook."""
    config = transformers.AlbertConfig(**_SIZES, vocab_size=259, embedding_size=16)
    with pytest.raises(ModelError, match="0 lists of 2 blocks in AlbertModel"):
        open_model(str(save(tmp_path / "albert", config)))


def test_a_shortened_model_runs_its_first_blocks_and_is_whole_again() -> None:
    loaded = LoadedModel(tiny_model(), tiny_tokenizer())
    ids, mask = torch.arange(3, 9)[None], torch.ones((1, 6), dtype=torch.bool)
    whole = list(loaded.blocks)
    before = forward(loaded, ids, mask)
    with shortened(loaded, 2):
        assert list(loaded.blocks) == whole[:2]
        assert not torch.equal(forward(loaded, ids, mask), before)
    assert list(loaded.blocks) == whole
    assert torch.equal(forward(loaded, ids, mask), before)


def test_a_shortened_model_is_whole_again_after_an_exception() -> None:
    loaded = LoadedModel(tiny_model(), tiny_tokenizer())
    with pytest.raises(KeyboardInterrupt), shortened(loaded, 1):
        raise KeyboardInterrupt
    assert loaded.depth == 4


# ---- context -------------------------------------------------------------------------------------------------


def context_of(config: Any, longest: int = 10**30) -> int:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = longest
    with torch.device("meta"):
        return context_length(transformers.AutoModel.from_config(config), tokenizer)


def test_context_is_the_smaller_of_the_models_and_the_tokenizers() -> None:
    config = transformers.LlamaConfig(**_LLAMA, max_position_embeddings=100)
    assert context_of(config) == 100
    assert context_of(config, longest=60) == 60
    assert context_of(config, longest=600) == 100


def test_context_without_a_position_table_is_the_tokenizers() -> None:
    """BLOOM adds a slope to attention instead."""
    config = transformers.BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=259)
    assert context_of(config, longest=77) == 77


def test_context_of_roberta_loses_the_places_before_its_first_position() -> None:
    """Positions begin after the padding index. The limit is exact: one token more has no position."""
    config = transformers.XLMRobertaConfig(**_SIZES, vocab_size=259, pad_token_id=1, max_position_embeddings=34)
    limit = context_of(config)
    assert limit == 32
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        model(input_ids=torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
            model(input_ids=torch.full((1, limit + 1), 5))


# ---- tokenizers ----------------------------------------------------------------------------------------------


def gpt2_tokenizer() -> Any:
    """Neither a pad token nor a BOS of its own accord."""
    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return transformers.GPT2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


def test_a_bos_is_there_once_where_the_tokenizer_adds_one() -> None:
    for ids in tokenise(tiny_tokenizer(), ["One.", "Two."], "eng_Latn"):
        assert ids[0] == 0
        assert (ids == 0).sum() == 1


def test_no_bos_is_added_where_the_tokenizer_adds_none() -> None:
    tokenizer = gpt2_tokenizer()
    assert tokenizer.bos_token_id == 0
    (ids,) = tokenise(tokenizer, ["One."], "eng_Latn")
    assert ids.tolist() == tokenizer.convert_tokens_to_ids(list("One."))


def test_ids_are_the_tokenizers_own_with_special_tokens(toy: ParallelCorpus) -> None:
    tokenizer = tiny_tokenizer()
    for code, lines in toy.sentences.items():
        assert [row.tolist() for row in tokenise(tokenizer, lines, code)] == [tokenizer.encode(line) for line in lines]


def test_truncation_cuts_and_is_forgotten() -> None:
    """The next call is not cut."""
    tokenizer = tiny_tokenizer()
    assert [len(row) for row in tokenise(tokenizer, ["N" * 30, "N"], "eng_Latn", max_length=10)] == [10, 2]
    assert [len(row) for row in tokenise(tokenizer, ["N" * 30, "N"], "eng_Latn")] == [31, 2]


def nllb_tokenizer() -> Any:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    return transformers.NllbTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


@pytest.fixture(scope="module")
def m2m_tokenizer(everyday: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """M2M-100's tokenizer in Python around a small SentencePiece model: it has no fast version."""
    folder, model = tmp_path_factory.mktemp("m2m"), io.BytesIO()
    lines = everyday.sentences["eng_Latn"] + everyday.sentences["deu_Latn"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=300, minloglevel=2
    )
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    words = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    vocabulary = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *words])
    numbered = {piece: i for i, piece in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered), encoding="utf-8")
    return transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))


@pytest.mark.parametrize("code", ["eng_Latn", "deu_Latn", "zho_Hans", "khk_Cyrl", "swh_Latn"])
def test_nllb_gets_the_mark_of_the_language(code: str) -> None:
    tokenizer = nllb_tokenizer()
    assert source_language(tokenizer, code) == code
    (ids,) = tokenise(tokenizer, ["abc"], code)
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == [code, "▁", "a", "b", "c", "</s>"]


@pytest.mark.parametrize(
    ("code", "mark"), [("eng_Latn", "en"), ("deu_Latn", "de"), ("zho_Hans", "zh"), ("khk_Cyrl", "mn"), ("swh_Latn", "sw")]
)  # fmt: skip
def test_m2m100_gets_the_mark_of_the_language(m2m_tokenizer: Any, code: str, mark: str) -> None:
    assert source_language(m2m_tokenizer, code) == mark
    (ids,) = tokenise(m2m_tokenizer, ["Hello"], code)
    tokens = m2m_tokenizer.convert_ids_to_tokens(ids.tolist())
    assert (tokens[0], tokens[-1]) == (f"__{mark}__", "</s>")
    assert (ids >= m2m_tokenizer.vocab_size).sum() == 1, "one mark"


def test_a_language_without_a_mark_gets_the_tokenizers_own_whatever_came_before(m2m_tokenizer: Any) -> None:
    """Else its numbers would depend on the order of languages, and so on resume and on shares."""
    assert source_language(m2m_tokenizer, "ace_Latn") is None
    first = tokenise(m2m_tokenizer, ["Hello"], "ace_Latn")
    tokenise(m2m_tokenizer, ["Hallo"], "deu_Latn")
    after = tokenise(m2m_tokenizer, ["Hello"], "ace_Latn")
    assert np.array_equal(first, after)
    assert m2m_tokenizer.convert_ids_to_tokens(after[0].tolist())[0] == "__en__"


def test_an_ordinary_tokenizer_has_no_marks() -> None:
    assert source_language(tiny_tokenizer(), "eng_Latn") is None


def test_a_tokenizer_without_a_fast_version_works(m2m_tokenizer: Any, toy: ParallelCorpus, tmp_path: Path) -> None:
    """Saved, loaded by name and run: the same vectors one at a time and in batches, against transformers alone."""
    config = transformers.M2M100Config(
        **{
            **_TRANSLATOR,
            "vocab_size": m2m_tokenizer.vocab_size + 108,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "init_std": 0.4,
        }
    )
    folder = save(tmp_path / "m2m", config, tokenizer=m2m_tokenizer)
    loaded = load(folder)
    assert not loaded.tokenizer.is_fast
    lines = toy.sentences["eng_Latn"][:6]
    found = pooled_states(loaded, tokenise(loaded.tokenizer, lines, "deu_Latn"), [0, 1, 2], ["mean"], 100)[0]
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval().get_encoder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, src_lang="de")
    for row, line in enumerate(lines):
        with torch.no_grad():
            states = model(**tokenizer(line, return_tensors="pt"), output_hidden_states=True).hidden_states
        expected = np.stack([layer[0].double().mean(dim=0).numpy() for layer in states])
        np.testing.assert_allclose(found[:, row], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_tokenizers_digest_is_of_what_decides_ids(tmp_path: Path) -> None:
    """Padding and truncation, which are set at every call, are no part of it; another mark for the beginning is."""
    one, two = tiny_tokenizer(), tiny_tokenizer()
    two(["a", "abc"], padding=True, truncation=True, max_length=5)
    two.padding_side = "left"
    assert tokenizer_digest(one) == tokenizer_digest(two)
    two.add_tokens(["abc"])
    assert tokenizer_digest(one) != tokenizer_digest(two)
    one.save_pretrained(tmp_path)
    assert tokenizer_digest(transformers.AutoTokenizer.from_pretrained(tmp_path)) == tokenizer_digest(tiny_tokenizer())


def test_the_digest_does_not_change_with_use(m2m_tokenizer: Any) -> None:
    """Of translation models' tokenizers too, whose state is the language."""
    for tokenizer in (nllb_tokenizer(), m2m_tokenizer):
        before = tokenizer_digest(tokenizer)
        tokenise(tokenizer, ["abc"], "deu_Latn")
        assert tokenizer_digest(tokenizer) == before


def test_flags_of_a_python_tokenizer_are_in_its_digest(tmp_path: Path) -> None:
    """Same vocabulary, other ids."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nan\nAn\n", encoding="utf-8")
    make = transformers.ProphetNetTokenizer
    digests = {tokenizer_digest(make(str(tmp_path / "vocab.txt"), do_lower_case=lower)) for lower in (True, False)}
    assert len(digests) == 2


def test_blocks_that_read_padding_are_refused() -> None:
    """ConvBERT convolves over neighbouring tokens, padding among them."""
    config = transformers.ConvBertConfig(
        vocab_size=99,
        hidden_size=16,
        embedding_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(ModelError, match="ConvBertModel convolves over tokens"):
        refuse_leaky_blocks(transformers.ConvBertModel(config))


@pytest.mark.parametrize("name", ["builtin:tiny", "."])
def test_only_hub_models_have_revisions(name: str) -> None:
    with pytest.raises(ModelError, match="--revision v2"):
        open_model(name, revision="v2")


def test_an_adapter_lying_in_a_model_folder_changes_its_digest(tmp_path: Path) -> None:
    """transformers attaches it by itself."""
    (tmp_path / "config.json").write_text("{}")
    before = folder_digest(tmp_path, _WEIGHT_FILES)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    with_adapter = folder_digest(tmp_path, _WEIGHT_FILES)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 800}')
    assert len({before, with_adapter, folder_digest(tmp_path, _WEIGHT_FILES)}) == 3
