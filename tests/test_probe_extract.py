"""Extraction: hooks give transformers' own hidden states, whatever the batch; every fault is named with its place."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from probe.corpus import ParallelCorpus
from probe.errors import ModelError, ProbeError
from probe.extract import AUTO_BATCH_TOKENS, Settings, Silent, _is_out_of_memory, extract_all, plan, run
from probe.layers import parse_layers
from probe.model import LoadedModel, ModelSource, load_model, open_model, tokenise
from probe.pool import POOLINGS
from probe.share import Share, processes_here, refuse_several_processes
from probe.states import BlockPooler, batches, pad_right, pooled_states
from probe.tiny import tiny_tokenizer

CPU = torch.device("cpu")
NAMES = tuple(POOLINGS)
TOLERANCE = 1e-5
"""Relative, float32: what design and README promise."""

SENTENCES = (
    "Hi.",
    "A somewhat longer sentence, so that the rows of a batch differ a good deal.",
    "Ein Satz mittlerer Länge.",
    "Это предложение длиннее первого.",
    "The text of a pad token, {pad}, is not padding.",
    "Once more.",
)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest relative distance of any vector (last axis) from what it should be."""
    distance = np.linalg.norm(found.astype(np.float64) - expected, axis=-1)
    return float((distance / np.linalg.norm(expected, axis=-1)).max())


def literal_poolings(states: np.ndarray) -> np.ndarray:
    """(token, hidden) of one sentence -> (pooling, hidden), as the definitions read, in float64."""
    n = len(states)
    position_weights = np.arange(1, n + 1) / (n * (n + 1) / 2)
    return np.stack(
        [states.mean(axis=0), states[1:].mean(axis=0), states[-1], (position_weights[:, None] * states).sum(axis=0)]
    )


def is_one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error).split("; ")) >= 3


# ---- tiny random models of every architecture ----------------------------------------------------------------

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_GROUPED = {**_SIZES, "num_key_value_heads": 1}
_BYTES = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
# Large random weights: with the usual 0.02 attention is flat, and a wrong mask would hardly show.
_LIVELY = {"initializer_range": 0.4}
_DECODER = {**_GROUPED, **_BYTES, **_LIVELY}
_TRANSLATOR = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "init_std": 0.4,
    "max_position_embeddings": 256,
}
_MULTIMODAL = {
    "text_config": {**_DECODER, "head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "vision_config": {**_SIZES, "image_size": 32, "patch_size": 16},
    "mm_tokens_per_image": 4,
}  # fmt: skip
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 2}


def _characters() -> list[str]:
    return sorted(set("".join(SENTENCES)) - {" ", "{", "}"})


def _byte_level(folder: Path) -> Any:
    return tiny_tokenizer()


def _gpt2(folder: Path) -> Any:
    """No pad token, and no special token added."""
    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return transformers.GPT2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


def _bert(folder: Path) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *_characters(), *(f"##{character}" for character in _characters())]
    return transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=False)


def _xlm_roberta(folder: Path) -> Any:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *_characters(), "<mask>"]
    return transformers.XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces])


def _nllb(folder: Path) -> Any:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *_characters()]
    return transformers.NllbTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


def _ctrl(folder: Path) -> Any:
    """A tokenizer in Python, without a fast version, a pad token or any special token."""
    pieces = ["<unk>", *_characters(), *(f"{character}</w>" for character in _characters())]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return transformers.CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


Build = tuple[str, dict[str, Any], Callable[[Path], Any]]

SPECIES: dict[str, Build] = {
    "llama": ("LlamaConfig", _DECODER, _byte_level),
    "qwen2": ("Qwen2Config", {**_DECODER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, _byte_level),
    "qwen3": ("Qwen3Config", {**_DECODER, "head_dim": 8}, _byte_level),
    "mistral": ("MistralConfig", {**_DECODER, "sliding_window": 4}, _byte_level),
    "mixtral with as many experts as blocks": ("MixtralConfig", {**_DECODER, "num_local_experts": 2}, _byte_level),
    "gemma": ("GemmaConfig", {**_DECODER, "head_dim": 8}, _byte_level),
    "gemma3 text": ("Gemma3TextConfig", _MULTIMODAL["text_config"], _byte_level),
    "gemma3 multimodal": ("Gemma3Config", _MULTIMODAL, _byte_level),
    "gpt2": ("GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0, **_LIVELY}, _gpt2),
    "bloom": ("BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2, **_BYTES, **_LIVELY}, _byte_level),
    "bert": ("BertConfig", {**_SIZES, **_LIVELY}, _bert),
    "xlm-roberta": ("XLMRobertaConfig", {**_SIZES, **_LIVELY, "pad_token_id": 1, "max_position_embeddings": 130}, _xlm_roberta),
    "nllb encoder": ("M2M100Config", {**_TRANSLATOR, "pad_token_id": 1}, _nllb),
    "t5 encoder": ("T5Config", {**_T5, **_BYTES, "initializer_factor": 3.0, "decoder_start_token_id": 0}, _byte_level),
    "ctrl": ("CTRLConfig", {"n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 32, "n_positions": 256, **_LIVELY}, _ctrl),
}  # fmt: skip


def save_model(folder: Path, build: Build) -> None:
    """A tiny random model and its tokenizer in a folder, as `save_pretrained` leaves them."""
    folder.mkdir()
    config_name, options, make_tokenizer = build
    tokenizer = make_tokenizer(folder)
    config = getattr(transformers, config_name)(**{"vocab_size": len(tokenizer), **options})
    torch.manual_seed(7)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> LoadedModel:
    return load_model(open_model(str(folder)), dtype, CPU)


@dataclass(frozen=True)
class Species:
    """A model loaded as a user loads it, and the same sentences through transformers alone, one at a time."""

    loaded: LoadedModel
    ids: list[np.ndarray]
    states: list[np.ndarray]
    """Of each sentence, (layer, token, hidden) float64: transformers' `output_hidden_states`."""
    top_block: list[np.ndarray]
    """Of each sentence, (token, hidden) float64: what the last block gave, before any final norm."""

    def expected(self) -> np.ndarray:
        """(pooling, layer, sentence, hidden)"""
        by_sentence = [np.stack([literal_poolings(layer) for layer in states], axis=1) for states in self.states]
        return np.stack(by_sentence, axis=2)


@pytest.fixture(scope="module", params=SPECIES)
def species(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Species:
    folder = tmp_path_factory.mktemp("species") / "model"
    save_model(folder, SPECIES[request.param])
    loaded = load(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    raw: list[torch.Tensor] = []
    last_block = model.get_submodule(loaded.blocks_name)[-1]
    last_block.register_forward_hook(lambda _m, _a, out: raw.append(out[0] if isinstance(out, tuple) else out))
    sentences = [text.replace("{pad}", tokenizer.pad_token or "pad") for text in SENTENCES]
    states = []
    for sentence in sentences:
        encoded = tokenizer(sentence, return_tensors="pt")
        with torch.no_grad():
            output = model(input_ids=encoded["input_ids"], output_hidden_states=True)
        states.append(torch.cat(output.hidden_states).double().numpy())
    ids = tokenise(loaded.tokenizer, sentences, "eng_Latn")
    return Species(loaded, ids, states, [tensor[0].double().numpy() for tensor in raw])


def all_layers(loaded: LoadedModel) -> range:
    return range(loaded.depth + 1)


def test_hooks_give_the_hidden_states_of_transformers(species: Species) -> None:
    """Every architecture, layer and pooling, sentences batched together, against one sentence at a time unpadded."""
    found = pooled_states(species.loaded, species.ids, all_layers(species.loaded), NAMES, batch_tokens=250)
    assert found.shape == (4, 3, len(SENTENCES), 16)
    assert relative_error(found, species.expected()) < TOLERANCE


@pytest.mark.parametrize("batch_tokens", [1, 60, 100_000])
def test_a_vector_does_not_depend_on_its_batch(species: Species, batch_tokens: int) -> None:
    """1 = every sentence alone; 100,000 = all in one batch. Order is that of the input, though batches go by length."""
    found = pooled_states(species.loaded, species.ids, all_layers(species.loaded), ("mean", "last"), batch_tokens)
    assert relative_error(found, species.expected()[[0, 2]]) < TOLERANCE


def test_raw_top_layer_is_the_last_blocks_own_output(species: Species) -> None:
    found = pooled_states(species.loaded, species.ids, [2], ["mean"], 250, final_norm="raw")[0, 0]
    assert relative_error(found, np.stack([states.mean(axis=0) for states in species.top_block])) < TOLERANCE


def test_an_asked_layer_is_the_same_with_the_blocks_above_it_cut_off(species: Species) -> None:
    """Layer 1 alone: block 2 is away, so types of attention that are told by position must still be right."""
    found = pooled_states(species.loaded, species.ids, [1], NAMES, batch_tokens=250)
    assert relative_error(found, species.expected()[:, [1]]) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "bert", "xlm-roberta"])
def test_padding_without_a_mask_would_show(name: str, tmp_path: Path) -> None:
    """The tests above can fail: a mask that lets one pad token through changes the vector by far more than they allow."""
    save_model(tmp_path / "model", SPECIES[name])
    loaded = load(tmp_path / "model")
    ids = tokenise(loaded.tokenizer, ["Hi."], "eng_Latn")
    padded = [np.append(ids[0], loaded.pad_id).astype(np.int32)]
    right = pooled_states(loaded, ids, all_layers(loaded), ["mean"], 100)
    wrong = pooled_states(loaded, padded, all_layers(loaded), ["mean"], 100)
    assert relative_error(wrong, right) > 100 * TOLERANCE


def test_final_norm_changes_the_top_layer_only(tiny: LoadedModel) -> None:
    ids = tokenise(tiny.tokenizer, SENTENCES, "eng_Latn")
    model, raw = (pooled_states(tiny, ids, all_layers(tiny), ["mean"], 200, final_norm=way) for way in ("model", "raw"))
    assert np.array_equal(model[:, :-1], raw[:, :-1])
    assert relative_error(model[:, -1], raw[:, -1]) > 0.01


# ---- batches -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), budget=st.integers(1, 200))
def test_batches_take_every_row_once_longest_first_within_the_budget(lengths: list[int], budget: int) -> None:
    """A single sentence over the budget is a batch of its own."""
    counts = np.array(lengths)
    found = list(batches(counts, budget))
    rows = np.concatenate(found)
    assert sorted(rows) == list(range(len(lengths)))
    assert list(counts[rows]) == sorted(lengths, reverse=True)
    for batch in found:
        assert len(batch) == 1 or counts[batch].max() * len(batch) <= budget


@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=30))
def test_batches_are_as_large_as_the_budget_allows(lengths: list[int]) -> None:
    counts = np.array(lengths)
    found = list(batches(counts, 20))
    for batch in found[:-1]:
        assert counts[batch].max() * (len(batch) + 1) > 20


@pytest.mark.shared
@pytest.mark.weights
def test_padding_of_real_text_is_little(shared_data: Path, minilm: Path) -> None:
    """997 English sentences at 2,048 tokens: about 6 % more tokens with padding than without."""
    lines = (shared_data / "flores200/dev/eng_Latn.dev").read_text(encoding="utf-8").splitlines()
    lengths = np.array([len(row) for row in tokenise(open_model(str(minilm)).tokenizer, lines, "eng_Latn")])
    padded = sum(lengths[batch].max() * len(batch) for batch in batches(lengths, 2048))
    unsorted = sum(chunk.max() * len(chunk) for chunk in np.split(lengths, range(32, len(lengths), 32)))
    assert 1.0 < padded / lengths.sum() < 1.10
    assert unsorted / lengths.sum() > 1.5, "the same in batches of 32 in the given order"


def test_mask_comes_from_lengths_even_where_a_sentence_holds_the_pad_id() -> None:
    ids, mask = pad_right([np.array([5, 2, 2]), np.array([2])], pad=2)
    assert ids.tolist() == [[5, 2, 2], [2, 2, 2]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_padding_side_of_the_tokenizer_changes_nothing() -> None:
    rows = {}
    for side in ("left", "right"):
        loaded = load_model(open_model("builtin:tiny"), torch.float32, CPU)
        loaded.tokenizer.padding_side = side
        ids = tokenise(loaded.tokenizer, SENTENCES, "eng_Latn")
        rows[side] = pooled_states(loaded, ids, all_layers(loaded), NAMES, 200)
    assert np.array_equal(rows["left"], rows["right"])


@pytest.mark.parametrize("pad_token", [None, "<not among the model's embeddings>"])
def test_a_tokenizer_without_a_usable_pad_token_works(tiny: LoadedModel, pad_token: str | None) -> None:
    """Some models have none; to others one was added without an embedding for it."""
    loaded = load_model(open_model("builtin:tiny"), torch.float32, CPU)
    ids = tokenise(loaded.tokenizer, SENTENCES, "eng_Latn")
    loaded.tokenizer.pad_token = None
    if pad_token is not None:
        loaded.tokenizer.add_special_tokens({"pad_token": pad_token})
        assert loaded.tokenizer.pad_token_id >= 259
    found = pooled_states(loaded, ids, all_layers(loaded), NAMES, 400)
    assert relative_error(found, pooled_states(tiny, ids, all_layers(tiny), NAMES, 400)) < TOLERANCE


# ---- one pass, and only the blocks that are needed -----------------------------------------------------------


def test_several_poolings_in_one_pass_are_each_alone(tiny: LoadedModel) -> None:
    ids = tokenise(tiny.tokenizer, SENTENCES, "eng_Latn")
    together = pooled_states(tiny, ids, all_layers(tiny), NAMES, 200)
    for i, name in enumerate(NAMES):
        alone = pooled_states(tiny, ids, all_layers(tiny), [name], 200)[0]
        assert relative_error(together[i], alone) < 1e-6


def test_some_layers_are_the_same_as_among_all(tiny: LoadedModel) -> None:
    ids = tokenise(tiny.tokenizer, SENTENCES, "eng_Latn")
    every = pooled_states(tiny, ids, all_layers(tiny), ["mean"], 200)
    for some in ([0], [1], [0, 3], [2, 4], [4]):
        assert relative_error(pooled_states(tiny, ids, some, ["mean"], 200), every[:, some]) < 1e-6


@pytest.fixture
def calls(tiny: LoadedModel) -> Iterator[list[int]]:
    """How often each block of the tiny model ran."""
    counts = [0] * tiny.depth

    def counter(position: int) -> Callable[..., None]:
        def count(*_: Any) -> None:
            counts[position] += 1

        return count

    handles = [block.register_forward_hook(counter(i)) for i, block in enumerate(tiny.blocks)]
    yield counts
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("layers", "ran"), [([0], 1), ([1], 1), ([0, 2], 2), ([3], 3), ([1, 4], 4)])
def test_blocks_above_the_last_asked_layer_do_not_run(
    tiny: LoadedModel, calls: list[int], layers: list[int], ran: int
) -> None:
    """Layer 0 needs one block, since its input is where layer 0 is read."""
    pooled_states(tiny, tokenise(tiny.tokenizer, ["Hi."], "eng_Latn"), layers, ["mean"], 100)
    assert calls == [1] * ran + [0] * (4 - ran)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_whole_afterwards(tiny: LoadedModel, fails: bool) -> None:
    """Also after an exception in the middle of a pass: all blocks there, in order, and no hook left."""
    before = list(tiny.blocks)
    ids = tokenise(tiny.tokenizer, ["Hi."], "eng_Latn")

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    handle = tiny.blocks[1].register_forward_hook(fail if fails else lambda *_: None)
    with pytest.raises(RuntimeError, match="on purpose") if fails else contextlib.nullcontext():
        pooled_states(tiny, ids, [0, 2], ["mean"], 100)
    handle.remove()
    assert list(tiny.blocks) == before
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in tiny.blocks)


def test_no_key_value_cache_is_built(tiny: LoadedModel) -> None:
    """It would grow with layers x tokens and nobody reads it."""
    caches = []
    handle = tiny.model.register_forward_hook(lambda _m, _a, output: caches.append(output.past_key_values))
    pooled_states(tiny, tokenise(tiny.tokenizer, ["Hi."], "eng_Latn"), [4], ["mean"], 100)
    handle.remove()
    assert caches == [None]


def test_a_block_that_is_skipped_is_an_error() -> None:
    """Rather than the last batch's vector once more."""
    pooler = BlockPooler([1])
    with pytest.raises(ModelError, match="layer 1 gave no hidden state"):
        pooler.take()


def test_bf16_states_are_summed_in_float32(tiny_source: ModelSource) -> None:
    """Against float64 sums of the very same bf16 states; a sum in bf16 would be hundreds of times further away."""
    loaded = load_model(tiny_source, torch.bfloat16, CPU)
    ids = tokenise(loaded.tokenizer, [SENTENCES[1] * 3], "eng_Latn")
    with torch.no_grad():
        output = loaded.model(input_ids=torch.from_numpy(ids[0][None].astype(np.int64)), output_hidden_states=True)
    assert output.hidden_states[2].dtype == torch.bfloat16
    exact = np.stack([layer[0].double().mean(dim=0).numpy() for layer in output.hidden_states])
    in_bf16 = np.stack([layer[0].mean(dim=0).double().numpy() for layer in output.hidden_states])
    found = pooled_states(loaded, ids, all_layers(loaded), ["mean"], 1000)[0, :, 0]
    assert found.dtype == np.float32
    assert relative_error(found, exact) < 1e-6
    assert relative_error(in_bf16, exact) > 1e-4


# ---- layers, shares, settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5, 6)),
        ("even", (0, 2, 4, 6)),
        ("3", (3,)),
        ("6,0,3", (0, 3, 6)),
        ("2,2", (2,)),
        ("0:6:3", (0, 3, 6)),
        ("0:5:3", (0, 3)),
        ("2:4", (2, 3, 4)),
        ("4:", (4, 5, 6)),
        (":2", (0, 1, 2)),
        ("::2", (0, 2, 4, 6)),
        (":", (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_layers_are_named_in_several_ways(text: str, expected: tuple[int, ...]) -> None:
    """The stop of a range is included."""
    assert parse_layers(text, range(7)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "odd", "1.5", "0,,2", "7", "0,7", "-1", "0:7", "4:2", "6:0:-2", "0:6:0", "0:6:2:1", "0:x"],
)
def test_layers_that_cannot_be_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ProbeError) as caught:
        parse_layers(text, range(7))
    assert f"--layers {text}" in str(caught.value)
    assert is_one_line(caught.value)


def test_even_layers_of_odd_ones_are_refused() -> None:
    """Rather than no layer at all, silently."""
    with pytest.raises(ProbeError, match="none"):
        parse_layers("even", (1, 3))


sizes_of_languages = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 1000), max_size=30)


@given(sizes=sizes_of_languages, parts=st.integers(1, 8))
def test_shares_are_disjoint_and_complete(sizes: dict[str, int], parts: int) -> None:
    shares = [Share(index, parts).of(sizes) for index in range(parts)]
    assert sorted(itertools.chain(*shares)) == sorted(sizes)


@given(sizes=sizes_of_languages, parts=st.integers(1, 8), order=st.randoms())
def test_a_share_does_not_depend_on_the_order_of_languages(sizes: dict[str, int], parts: int, order: Any) -> None:
    """Processes agree on the partition without talking to each other."""
    shuffled = list(sizes)
    order.shuffle(shuffled)
    assert Share(0, parts).of(sizes) == Share(0, parts).of({code: sizes[code] for code in shuffled})


@given(sizes=sizes_of_languages, parts=st.integers(2, 8))
def test_shares_are_balanced(sizes: dict[str, int], parts: int) -> None:
    """No two shares differ by more than one language's size."""
    loads = [sum(sizes[code] for code in Share(index, parts).of(sizes)) for index in range(parts)]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("0/4", {}, Share(0, 4)),
        ("3/4", {}, Share(3, 4)),
        (None, {}, Share(0, 1)),
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, Share(1, 2)),
        ("1/3", {"RANK": "1", "WORLD_SIZE": "2"}, Share(1, 3)),
    ],
)
def test_a_share_is_named_or_torchruns(text: str | None, environment: dict[str, str], expected: Share) -> None:
    assert Share.parse(text, environment) == expected


@pytest.mark.parametrize(
    ("environment", "here"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "4"}, 4),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1"}, 1),
        ({"WORLD_SIZE": "x"}, 1),
    ],
)
def test_the_processes_of_this_machine_are_counted(environment: dict[str, str], here: int) -> None:
    assert processes_here(environment) == here


def test_a_command_that_must_be_alone_is_refused_to_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_several_processes("probe this")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProbeError, match="probe this in 2 processes; expected one") as caught:
        refuse_several_processes("probe this")
    assert is_one_line(caught.value)


def slurm(task: int, low: int, high: int, step: int | None = None, count: int | None = None) -> dict[str, str]:
    values = {"ID": task, "MIN": low, "MAX": high, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("low", "high", "step", "parts"), [(0, 3, None, 4), (1, 4, 1, 4), (5, 5, 1, 1), (0, 12, 4, 4), (10, 31, 7, 4)]
)
def test_slurm_arrays_of_any_minimum_and_step_cover_everything(
    low: int, high: int, step: int | None, parts: int
) -> None:
    tasks = range(low, high + 1, step or 1)
    shares = [Share.parse("slurm", slurm(task, low, high, step, len(tasks))) for task in tasks]
    assert shares == [Share(i, parts) for i in range(parts)]


def test_a_slurm_array_with_gaps_is_refused() -> None:
    """`--array=1,5,9` has three tasks, but its minimum, maximum and step speak of nine."""
    with pytest.raises(ProbeError, match="gaps") as caught:
        Share.parse("slurm", slurm(5, 1, 9, 1, 3))
    assert is_one_line(caught.value)


@pytest.mark.parametrize("gone", [("MIN",), ("ID",), ("MIN", "MAX")])
def test_missing_variables_of_a_slurm_array_are_named(gone: tuple[str, ...]) -> None:
    """As in a container that passes on only some."""
    missing = [f"SLURM_ARRAY_TASK_{name}" for name in gone]
    kept = {name: value for name, value in slurm(1, 0, 3, 1, 4).items() if name not in missing}
    with pytest.raises(ProbeError, match=f"--shard slurm without {', '.join(missing)}; expected") as caught:
        Share.parse("slurm", kept)
    assert is_one_line(caught.value)
    with pytest.raises(ProbeError, match="--shard slurm outside a SLURM array; expected"):
        Share.parse("slurm", {})


def test_a_slurm_array_is_never_implicit() -> None:
    assert Share.parse(None, slurm(2, 0, 3, 1)) == Share(0, 1)


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "1/0", "1/2/3", "", "slurm"])
def test_shares_that_cannot_be_are_refused_in_one_line(text: str) -> None:
    """`slurm` among them: outside an array there is nothing to read."""
    with pytest.raises(ProbeError) as caught:
        Share.parse(text, {})
    assert f"--shard {text}" in str(caught.value)
    assert is_one_line(caught.value)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"store_dtype": "float64"}, "--store-dtype float64"),
        ({"final_norm": "yes"}, "--final-norm yes"),
        ({"poolings": ("mean", "max")}, "--pool max"),
        ({"poolings": ("mean", "mean")}, "--pool 'mean,mean'"),
        ({"poolings": ()}, "--pool"),
        ({"batch_tokens": 0}, "--batch-tokens 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ProbeError) as caught:
        Settings(**wrong)
    assert named in str(caught.value)
    assert is_one_line(caught.value)


# ---- from a corpus to a store --------------------------------------------------------------------------------


def corpus_of(**sentences: Sequence[str]) -> ParallelCorpus:
    return ParallelCorpus("handmade", "", {code: tuple(lines) for code, lines in sentences.items()})


class Diary(Silent):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def extract(
    loaded: LoadedModel,
    source: ModelSource,
    corpus: ParallelCorpus,
    out: Path,
    observer: Diary | None = None,
    **settings_: Any,
) -> Mapping[str, Any]:
    """A corpus through a model at hand; the manifest of the store."""
    todo = plan(corpus, source, out, Settings(**settings_), torch.float32, CPU)
    run(todo, loaded, observer)
    return type(todo.store).reopen(out).manifest


def test_a_store_holds_the_pooled_states_of_each_sentence_in_its_row(
    tiny: LoadedModel, toy: ParallelCorpus, tmp_path: Path
) -> None:
    """From names to a store, against one sentence at a time through transformers."""
    store = extract_all("builtin:tiny", toy, tmp_path / "s", dtype="fp32", device="cpu")
    for code, lines in toy.sentences.items():
        for row in (0, 7, toy.rows - 1):
            ids = torch.tensor([tiny.tokenizer(lines[row])["input_ids"]])
            with torch.no_grad():
                states = tiny.model(input_ids=ids, output_hidden_states=True).hidden_states
            for layer in store.layers:
                expected = states[layer][0].double().mean(dim=0).numpy()
                assert relative_error(store.layer(code, layer, "mean")[row], expected) < TOLERANCE
            assert store.tokens(code)[row] == ids.shape[1]


def test_an_adapter_without_a_way_to_attach_it_is_refused(toy: ParallelCorpus, tmp_path: Path) -> None:
    """Rather than the base model's states under the adapter's name."""
    with pytest.raises(ProbeError, match="adapter"):
        extract_all("builtin:tiny", toy, tmp_path / "s", adapter=tmp_path)


# ---- out of memory -------------------------------------------------------------------------------------------


@pytest.fixture
def cramped() -> Iterator[Callable[[int], LoadedModel]]:
    """The tiny model on a device where batches of more than so many tokens do not fit."""

    def make(limit: int) -> LoadedModel:
        loaded = load_model(open_model("builtin:tiny"), torch.float32, CPU)

        def refuse(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
            if kwargs["input_ids"].numel() > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        loaded.model.register_forward_pre_hook(refuse, with_kwargs=True)
        return loaded

    return make


LONG_AND_SHORT = {"rus_Cyrl": ["Это довольно длинное предложение. " * 3] * 24, "eng_Latn": ["Short."] * 24}
"""About 190 and 7 bytes a sentence."""


def test_out_of_memory_halves_the_budget_and_goes_on(
    cramped: Callable[[int], LoadedModel], tiny: LoadedModel, tiny_source: ModelSource, tmp_path: Path
) -> None:
    """1,024 tokens do not fit, 512 do; the other language never notices. The numbers are the same."""
    corpus, diary = corpus_of(**LONG_AND_SHORT), Diary()
    manifest = extract(cramped(600), tiny_source, corpus, tmp_path / "cramped", diary)
    extract(tiny, tiny_source, corpus, tmp_path / "roomy")
    assert manifest["complete"]
    assert manifest["batch_tokens"] == AUTO_BATCH_TOKENS["cpu"] == 1024
    assert manifest["files"]["rus_Cyrl"]["batch_tokens"] == 512
    assert "batch_tokens" not in manifest["files"]["eng_Latn"]
    assert [note.split()[-4] for note in diary.notes] == ["512"]
    stores = [plan(corpus, tiny_source, tmp_path / name, Settings(), torch.float32, CPU).store for name in ("cramped", "roomy")]  # fmt: skip
    for code in corpus.languages:
        found, expected = (store.layer(code, 4, "mean") for store in stores)
        assert relative_error(found, expected) < TOLERANCE


def test_out_of_memory_with_a_named_budget_is_one_line(
    cramped: Callable[[int], LoadedModel], tiny_source: ModelSource, tmp_path: Path
) -> None:
    """Whoever names a budget gets that budget or none."""
    with pytest.raises(ModelError, match="out of memory at rus_Cyrl with batches of 2048 tokens") as caught:
        extract(cramped(600), tiny_source, corpus_of(**LONG_AND_SHORT), tmp_path / "s", batch_tokens=2048)
    assert is_one_line(caught.value)
    assert "--batch-tokens" in str(caught.value)


def test_a_sentence_that_never_fits_ends_the_halving(
    cramped: Callable[[int], LoadedModel], tiny_source: ModelSource, tmp_path: Path
) -> None:
    diary = Diary()
    with pytest.raises(ModelError, match="out of memory at rus_Cyrl") as caught:
        extract(cramped(50), tiny_source, corpus_of(**LONG_AND_SHORT), tmp_path / "s", diary)
    assert is_one_line(caught.value)
    assert len(diary.notes) == 3, "1,024 to 128 tokens, less than a sentence"


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(
    tiny_source: ModelSource, toy: ParallelCorpus, tmp_path: Path
) -> None:
    loaded = load_model(tiny_source, torch.float32, CPU)

    def fail(*_: Any) -> None:
        raise RuntimeError("something else")

    loaded.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        extract(loaded, tiny_source, toy, tmp_path / "s")


def test_the_cpus_own_lack_of_memory_is_known() -> None:
    """PyTorch's real message, for more bytes than any address space holds."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float64)
    assert _is_out_of_memory(caught.value)


# ---- context -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_sighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a context of 20 tokens."""
    folder = tmp_path_factory.mktemp("short") / "model"
    save_model(folder, ("LlamaConfig", {**_DECODER, "max_position_embeddings": 20}, _byte_level))
    return folder


SOME_LONG = corpus_of(
    deu_Latn=["Kurz.", "Auch kurz.", "Passt."], eng_Latn=["Short.", "This one has 36 tokens, BOS and all.", "N" * 20]
)


def test_a_sentence_beyond_the_context_is_refused_before_anything_is_written(
    short_sighted: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        extract_all(str(short_sighted), SOME_LONG, tmp_path / "s", dtype="fp32", device="cpu")
    for part in ("eng_Latn row 2", "37 tokens", "2 such rows", "at most 20", "--truncate"):
        assert part in str(caught.value)
    assert is_one_line(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_sentence_as_long_as_the_context_fits(short_sighted: Path, tmp_path: Path) -> None:
    store = extract_all(str(short_sighted), corpus_of(eng_Latn=["N" * 19]), tmp_path / "s", dtype="fp32", device="cpu")
    assert store.tokens("eng_Latn").tolist() == [20]


def test_truncation_cuts_at_the_context_and_counts(short_sighted: Path, tmp_path: Path) -> None:
    how = Settings(truncate=True)
    store = extract_all(str(short_sighted), SOME_LONG, tmp_path / "s", settings=how, dtype="fp32", device="cpu")
    assert store.tokens("eng_Latn").tolist() == [7, 20, 20]
    assert store.manifest["truncate"] is True
    assert store.manifest["files"]["eng_Latn"]["truncated"] == 2
    assert "truncated" not in store.manifest["files"]["deu_Latn"]
    loaded = load(short_sighted)
    first_20 = tokenise(loaded.tokenizer, SOME_LONG.sentences["eng_Latn"], "eng_Latn")[1][:20]
    expected = pooled_states(loaded, [first_20], [2], ["mean"], 100)[0, 0]
    assert relative_error(store.layer("eng_Latn", 2, "mean")[[1]], expected) < TOLERANCE


def test_a_token_that_the_model_has_no_embedding_for_is_refused(tmp_path: Path) -> None:
    """A tokenizer of another model, or one with added tokens: an index error in the middle of a run otherwise."""
    save_model(tmp_path / "model", SPECIES["llama"])
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(tmp_path / "model")
    corpus = corpus_of(eng_Latn=["A horse.", "A zebra."])
    with pytest.raises(ModelError, match="eng_Latn row 2 has token 259") as caught:
        extract_all(str(tmp_path / "model"), corpus, tmp_path / "s", dtype="fp32", device="cpu")
    assert is_one_line(caught.value)
    assert not (tmp_path / "s").exists()


# ---- unusable states -----------------------------------------------------------------------------------------


def poison(loaded: LoadedModel, value: float, layer: int) -> None:
    """Every sentence with a `Q` in it gets `value` for all states that leave block `layer`."""
    has_q: list[torch.Tensor] = []
    q = loaded.tokenizer.convert_tokens_to_ids("Q")

    def look(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        has_q[:] = [(kwargs["input_ids"] == q).any(dim=1)]

    def spoil(_module: Any, _args: Any, states: torch.Tensor) -> torch.Tensor:
        return torch.where(has_q[0][:, None, None], torch.full_like(states, value), states)

    loaded.model.register_forward_pre_hook(look, with_kwargs=True)
    loaded.blocks[layer - 1].register_forward_hook(spoil)


@pytest.mark.parametrize(
    ("value", "kind"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (0.0, "all zero")]
)
def test_unusable_states_are_named_with_language_row_and_layer(
    tiny_source: ModelSource, tmp_path: Path, value: float, kind: str
) -> None:
    """And nothing of the language is kept."""
    loaded = load_model(tiny_source, torch.float32, CPU)
    poison(loaded, value, layer=2)
    corpus = corpus_of(eng_Latn=["One.", "A much longer sentence is first in its batch.", "Q is the third.", "Four."])
    with pytest.raises(ModelError, match=f"eng_Latn row 3 layer 2 .*{kind}") as caught:
        extract(loaded, tiny_source, corpus, tmp_path / "s")
    assert is_one_line(caught.value)
    assert not (tmp_path / "s" / "eng_Latn.h5").exists()


def test_zeros_in_a_vector_that_is_not_all_zero_are_fine(tiny_source: ModelSource, tmp_path: Path) -> None:
    """The check above must not refuse sparse states."""
    loaded = load_model(tiny_source, torch.float32, CPU)
    loaded.blocks[1].register_forward_hook(lambda _m, _a, states: states * (torch.arange(64) == 5))
    assert extract(loaded, tiny_source, corpus_of(eng_Latn=["One."]), tmp_path / "s", layers="0:2")["complete"]


def test_one_token_has_no_mean_without_the_first(tmp_path: Path) -> None:
    """Named as what it is, not as a model that gives NaN."""
    save_model(tmp_path / "model", SPECIES["gpt2"])
    corpus = corpus_of(eng_Latn=["Two", "a"])
    how = Settings(poolings=("mean", "mean-nofirst"))
    with pytest.raises(ModelError, match="eng_Latn row 2 has a single token") as caught:
        extract_all(str(tmp_path / "model"), corpus, tmp_path / "s", settings=how, dtype="fp32", device="cpu")
    assert is_one_line(caught.value)


# ---- real pretrained weights ---------------------------------------------------------------------------------


@pytest.mark.weights
def test_hooks_give_the_hidden_states_of_real_weights(minilm: Path, toy: ParallelCorpus) -> None:
    """all-MiniLM-L6-v2, sentences of four scripts."""
    loaded = load(minilm)
    sentences = [lines[row] for lines in toy.sentences.values() for row in range(4)]
    found = pooled_states(
        loaded, tokenise(loaded.tokenizer, sentences, "eng_Latn"), all_layers(loaded), NAMES, batch_tokens=400
    )
    model = transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    for i, sentence in enumerate(sentences):
        encoded = transformers.AutoTokenizer.from_pretrained(minilm)(sentence, return_tensors="pt")
        with torch.no_grad():
            states = model(**encoded, output_hidden_states=True).hidden_states
        expected = np.stack([literal_poolings(layer[0].double().numpy()) for layer in states], axis=1)
        assert relative_error(found[:, :, i], expected) < TOLERANCE


@pytest.mark.weights
def test_mean_pooled_top_layer_is_sentence_transformers_embedding(minilm: Path, everyday: ParallelCorpus) -> None:
    """Another project's code for the same model, before its normalisation."""
    theirs = pytest.importorskip("sentence_transformers")
    sentences = list(everyday.sentences["eng_Latn"][:16])
    whole = theirs.SentenceTransformer(str(minilm), device="cpu")
    expected = theirs.SentenceTransformer(modules=[whole[0], whole[1]], device="cpu").encode(sentences)
    loaded = load(minilm)
    found = pooled_states(loaded, tokenise(loaded.tokenizer, sentences, "eng_Latn"), [6], ["mean"], 300)[0, 0]
    assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize(("rank", "size"), [("x", "1"), ("5", "2"), ("0", "0"), ("1", "1")])
def test_a_rank_that_cannot_be_is_refused(rank: str, size: str) -> None:
    with pytest.raises(ProbeError, match="RANK="):
        Share.parse(None, {"RANK": rank, "WORLD_SIZE": size})
