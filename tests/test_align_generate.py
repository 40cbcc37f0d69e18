"""Generation: the tokens of transformers' own generate, whatever shares the batch, and no work for rows that have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    Qwen2Config,
)

from align.adapter import LoraSettings, add_lora
from align.generate import AUTO_BATCH_TOKENS, NEAR_TIE, Generated, generate, stop_tokens
from probe.errors import AlignError, ModelError
from probe.model import LoadedModel
from probe.tiny import tiny_causal_model, tiny_tokenizer

VOCABULARY, CONTEXT, NEW = 259, 64, 14
STOPS = (1, *range(200, 226))
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT,
}  # fmt: skip
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "tie_word_embeddings": False}
FAMILIES = {
    "llama": lambda: LlamaConfig(**SHAPE, **ENDS),
    "qwen2": lambda: Qwen2Config(**SHAPE, **ENDS),
    "gpt2, absolute positions": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, **ENDS
    ),
    "gemma3, a window of 6": lambda: Gemma3TextConfig(
        **SHAPE, **ENDS, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
    "gemma3, a wide window": lambda: Gemma3TextConfig(
        **SHAPE, **ENDS, sliding_window=60, layer_types=["sliding_attention", "full_attention"]
    ),
    "bloom, no positions": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **ENDS),
    "gpt-neo, a window of its own": lambda: GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, attention_types=[[["global", "local"], 1]], num_heads=4,
        window_size=6, max_position_embeddings=CONTEXT, **ENDS,
    ),
    "lfm2, convolutions": lambda: Lfm2Config(**SHAPE, **ENDS, layer_types=["conv", "full_attention"]),
}  # fmt: skip


def causal(name: str = "llama") -> tuple[Any, LoadedModel]:
    """A random model with weights so large that it says different things to different prompts."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(FAMILIES[name]()).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)
    return model, LoadedModel(model.base_model, tiny_tokenizer())


def prompts_of(lengths: Sequence[int], common: int = 0, seed: int = 0) -> list[np.ndarray]:
    """Random ids with `common` ones before all."""
    generator = np.random.default_rng(seed)
    first = generator.integers(3, VOCABULARY, common)
    return [np.concatenate([first, generator.integers(3, VOCABULARY, length)]).astype(np.int32) for length in lengths]


LENGTHS = (3, 17, 9, 1, 4, 4, 12, 30, 2, 9, 5)


def run(model: Any, loaded: LoadedModel, prompts: Sequence[np.ndarray], **options: Any) -> list[Generated]:
    """In the order of the prompts."""
    settings = {"max_new_tokens": NEW, "stop_ids": STOPS, **options}
    return sorted(generate(model, loaded, prompts, **settings), key=lambda answer: answer.index)


def alone(model: Any, prompt: np.ndarray, most: int = NEW) -> tuple[int, ...]:
    """transformers' own answer to one prompt."""
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    said = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False, eos_token_id=list(STOPS), pad_token_id=2
    )  # fmt: skip
    return tuple(said[0, len(prompt) :].tolist())


@contextmanager
def watched(model: Any) -> Iterator[list[tuple[int, int]]]:
    """(rows, tokens) of each pass through the model."""
    seen: list[tuple[int, int]] = []
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(tuple(args[0].shape))
    )
    yield seen
    handle.remove()


# ---- the same as transformers --------------------------------------------------------------------------------


@pytest.mark.parametrize("common", [0, 10])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_answers_are_those_of_transformers(name: str, common: int) -> None:
    """Prompts of 1 to 40 tokens, read two at a time, with and without a beginning that all share."""
    model, loaded = causal(name)
    prompts = prompts_of(LENGTHS, common)
    answers = run(model, loaded, prompts, batch=8)
    wanted = [alone(model, prompt) for prompt in prompts]
    certain = [answer for answer in answers if not answer.near_tie]
    assert [answer.ids for answer in certain] == [wanted[answer.index] for answer in certain]
    assert len(certain) >= len(prompts) - 2
    assert len(set(wanted)) > len(wanted) // 2  # they are not all the same
    assert len({len(ids) for ids in wanted}) > 2  # and end at different steps


def test_answers_are_those_of_a_loop_without_cache() -> None:
    """Every token is the largest logit of a pass over all tokens before it."""
    model, loaded = causal()
    prompts = prompts_of(LENGTHS[:5], common=6)
    for answer, prompt in zip(run(model, loaded, prompts, batch=8), prompts, strict=True):
        said: list[int] = []
        while len(said) < NEW and not (said and said[-1] in STOPS):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt.tolist(), *said]])).logits
            said.append(int(logits[0, -1].argmax()))
        assert answer.ids == tuple(said)


@pytest.mark.parametrize("common", [0, 10])
def test_in_float32_answers_do_not_depend_on_the_batch(common: int) -> None:
    model, loaded = causal()
    prompts = prompts_of(np.random.default_rng(5).integers(1, 30, 24).tolist(), common)
    each = {batch: run(model, loaded, prompts, batch=batch) for batch in (1, 7, None)}
    certain = [row for row, answer in enumerate(each[1]) if not answer.near_tie]
    assert len(certain) > 20
    for answers in each.values():
        assert [answers[row] for row in certain] == [each[1][row] for row in certain]


def test_the_adapter_may_be_merged_into_the_weights() -> None:
    model, loaded = causal()
    prompts = prompts_of(np.random.default_rng(5).integers(1, 30, 20).tolist(), common=5)
    base = run(model, loaded, prompts)
    for name, weight in add_lora(model, LoraSettings(dropout=0.0), seed=0).items():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.05)
    beside = run(model, loaded, prompts)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    merged = run(model, loaded, prompts)
    certain = [row for row, answer in enumerate(beside) if not answer.near_tie]
    assert len(certain) > 15
    assert [merged[row] for row in certain] == [beside[row] for row in certain]
    assert sum(one.ids != other.ids for one, other in zip(base, beside, strict=True)) > 15  # the adapter says something


# ---- near ties -----------------------------------------------------------------------------------------------


@contextmanager
def head_says(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    handle = model.get_output_embeddings().register_forward_hook(lambda head, args, logits: change(logits))
    yield
    handle.remove()


@pytest.mark.parametrize(("gap", "near"), [(0.0, True), (NEAR_TIE / 2, True), (NEAR_TIE * 2, False)])
def test_near_ties_are_told(gap: float, near: bool) -> None:
    """Of equally good tokens the first is taken, as argmax does."""
    model, loaded = causal()

    def two_best(logits: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros_like(logits)
        logits[..., 9], logits[..., 5] = 1.0, 1.0 - gap
        return logits

    with head_says(model, two_best):
        answers = run(model, loaded, prompts_of([3, 5]))
    assert [answer.near_tie for answer in answers] == [near, near]
    assert {answer.ids for answer in answers} == {(5 if gap == 0 else 9,) * NEW}


def test_only_the_rows_with_a_near_tie_are_told() -> None:
    """And those whose tie is at one step of many."""
    model, loaded = causal()
    prompts = prompts_of(LENGTHS)
    before = run(model, loaded, prompts)
    last = next(answer.ids[2] for answer in before if len(answer.ids) > 4)

    def tie(logits: torch.Tensor) -> torch.Tensor:
        """A twin of one token, a hair worse."""
        logits = logits.clone()
        logits[..., 258] = logits[..., last] - NEAR_TIE / 2
        return logits

    with head_says(model, tie):
        answers = run(model, loaded, prompts)
    assert [answer.near_tie for answer in answers] == [last in answer.ids for answer in answers]
    assert 0 < sum(answer.near_tie for answer in answers) < len(answers)


# ---- stopping ------------------------------------------------------------------------------------------------


def test_why_an_answer_ends() -> None:
    model, loaded = causal()
    for answer in run(model, loaded, prompts_of(LENGTHS)):
        inside = [token in STOPS for token in answer.ids]
        assert answer.stopped == ("end" if inside[-1] else "length")
        assert not any(inside[:-1])
        assert answer.stopped == "end" or len(answer.ids) == NEW
        said = answer.ids[:-1] if inside[-1] else answer.ids
        assert answer.text == loaded.tokenizer.decode(said, skip_special_tokens=True)


def test_the_token_that_ends_is_not_in_the_text_and_special_tokens_are_not() -> None:
    model, loaded = causal()
    letter = loaded.tokenizer.convert_tokens_to_ids("x")
    turns = iter([2, letter, 2, letter + 1])  # the pad token is special

    def scripted(logits: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros_like(logits)
        logits[..., next(turns)] = 1.0
        return logits

    answers = generate(model, loaded, prompts_of([4]), max_new_tokens=9, stop_ids=[letter + 1])
    with head_says(model, scripted):
        (answer,) = answers
    assert answer.ids == (2, letter, 2, letter + 1)
    assert (answer.text, answer.stopped) == ("x", "end")


@pytest.mark.parametrize("name", ["llama", "gpt2, absolute positions"])
def test_no_answer_goes_on_behind_the_context(name: str) -> None:
    """The last token that is said need not be read: a prompt as long as the context has one token as answer."""
    model, loaded = causal(name)
    prompts = prompts_of([CONTEXT, CONTEXT - 3, 5])
    with watched(model) as seen:
        answers = run(model, loaded, prompts, stop_ids=[], batch=2)
    assert [len(answer.ids) for answer in answers] == [1, 4, NEW]
    assert [answer.stopped for answer in answers] == ["context", "context", "length"]
    assert sum(rows for rows, tokens in seen[1:] if tokens == 1) == 0 + 3 + (NEW - 1)


def test_stop_tokens_come_from_model_tokenizer_and_template() -> None:
    model, tokenizer = tiny_causal_model(), tiny_tokenizer()
    assert stop_tokens(model, tokenizer) == {1}
    model.generation_config.eos_token_id = [7, 8]
    assert stop_tokens(model, tokenizer, more=[9]) == {1, 7, 8, 9}
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    assert stop_tokens(model, tokenizer) == {1, 7, 8, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    model.generation_config.eos_token_id = None
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert stop_tokens(model, tokenizer) == {1}


# ---- the work that is done -----------------------------------------------------------------------------------


def test_ended_rows_leave_and_waiting_prompts_take_their_places() -> None:
    """While prompts wait, a batch of eight has never fewer than seven rows: two places, a quarter, are filled together."""
    model, loaded = causal()
    prompts = prompts_of([*range(40, 2, -1)])
    with watched(model) as seen:
        answers = run(model, loaded, prompts, batch=8)
    passes = seen[1:]  # the first asks what cache the model has
    last_read = max(place for place, (_, tokens) in enumerate(passes) if tokens > 1)
    steps = [rows for place, (rows, tokens) in enumerate(passes) if tokens == 1 and place < last_read]
    assert set(steps) == {7, 8}
    assert len({len(answer.ids) for answer in answers}) > 5


def test_a_row_is_read_once_and_stepped_once_a_token() -> None:
    """No step is done for a row that has ended. All prompts have two tokens or more: a pass of one token is a step."""
    model, loaded = causal()
    prompts = prompts_of([2, 5, 9, 9, 9, 2, 3, 30])
    with watched(model) as seen:
        answers = run(model, loaded, prompts, batch=4)
    _, *passes = seen
    assert sum(rows for rows, tokens in passes if tokens > 1) == len(prompts)
    assert sum(rows for rows, tokens in passes if tokens == 1) == sum(len(answer.ids) - 1 for answer in answers)


def test_the_common_beginning_is_read_once() -> None:
    model, loaded = causal()
    prompts = prompts_of([4] * 12, common=20)
    with watched(model) as seen:
        run(model, loaded, prompts, batch=4, max_new_tokens=1)
    assert seen == [(1, 1), (1, 20), *[(1, 4)] * 12]


def test_prompts_that_are_the_same() -> None:
    """Of each a token is left to be read."""
    model, loaded = causal()
    (prompt,) = prompts_of([12])
    answers = run(model, loaded, [prompt] * 5)
    assert {answer.ids for answer in answers} == {alone(model, prompt)}


def test_the_head_sees_one_token_a_row() -> None:
    model, loaded = causal()
    shapes = []
    handle = model.lm_head.register_forward_hook(lambda head, args, output: shapes.append(tuple(output.shape)))
    run(model, loaded, prompts_of(LENGTHS, common=10), batch=4)
    handle.remove()
    assert {shape[1:] for shape in shapes} == {(1, VOCABULARY)}
    assert max(shape[0] for shape in shapes) == 4
    assert not model.lm_head._forward_pre_hooks


def test_answers_come_as_they_end_and_nothing_stays_behind() -> None:
    """The caller's gradient mode is its own between two answers, and a run may be left in the middle."""
    model, loaded = causal()
    prompts = prompts_of(LENGTHS)
    kept = [prompt.copy() for prompt in prompts]
    order = []
    for answer in generate(model, loaded, prompts, max_new_tokens=NEW, stop_ids=STOPS, batch=4):
        assert not torch.is_inference_mode_enabled()
        order.append(answer.index)
    assert sorted(order) == list(range(len(prompts)))
    assert order != sorted(order)
    assert all(np.array_equal(one, other) for one, other in zip(prompts, kept, strict=True))
    next(generate(model, loaded, prompts, max_new_tokens=NEW, stop_ids=STOPS, batch=4))
    assert not model.lm_head._forward_pre_hooks
    assert run(model, loaded, []) == []


def test_a_cache_that_rows_cannot_leave_means_one_row_at_a_time() -> None:
    model, loaded = causal("lfm2, convolutions")
    notes: list[str] = []
    with watched(model) as seen:
        run(model, loaded, prompts_of([3, 4], common=5), batch=8, note=notes.append)
    assert {rows for rows, _ in seen} == {1}
    assert notes == ["Lfm2ForCausalLM cannot be padded: one row at a time"]


# ---- memory --------------------------------------------------------------------------------------------------


@contextmanager
def short_of_memory(model: Any, most: int) -> Iterator[list[tuple[int, int]]]:
    """No pass with more rows than this."""

    def refuse(module: nn.Module, args: tuple) -> None:
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.get_input_embeddings().register_forward_pre_hook(refuse)
    with watched(model) as seen:
        yield seen
    handle.remove()


def test_where_memory_runs_out_the_batch_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loaded = causal()
    prompts = prompts_of(LENGTHS)
    wanted = run(model, loaded, prompts)
    monkeypatch.setitem(AUTO_BATCH_TOKENS, "cpu", 10_000)
    notes: list[str] = []
    with short_of_memory(model, 3) as seen:
        assert run(model, loaded, prompts, note=notes.append) == wanted
    longest = 30 + NEW
    assert notes[:2] == [f"out of memory: going on with {11 * longest // n} tokens a batch" for n in (2, 4)]
    assert max(rows for rows, _ in seen) <= 3


def test_a_given_batch_is_not_changed() -> None:
    model, loaded = causal()
    with (
        short_of_memory(model, 3),
        pytest.raises(
            AlignError, match="out of memory with 8 rows at once; expected a batch that fits; give --batch 4"
        ),
    ):
        run(model, loaded, prompts_of(LENGTHS), batch=8)
    with short_of_memory(model, 0), pytest.raises(torch.OutOfMemoryError):
        run(model, loaded, prompts_of([4]))


def test_rows_at_once_fit_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as it holds of the longest under way: a long prompt does not narrow the batch of the short ones."""
    model, loaded = causal()
    monkeypatch.setitem(AUTO_BATCH_TOKENS, "cpu", 5 * (36 + NEW))
    with watched(model) as seen:
        run(model, loaded, prompts_of([36] * 12), stop_ids=[])
    assert max(rows for rows, _ in seen) == 5
    with watched(model) as seen:
        run(model, loaded, prompts_of([36, *[6] * 40]), stop_ids=[])
    assert max(rows for rows, _ in seen) == 5 * (36 + NEW) // (6 + NEW)


# ---- what is refused -----------------------------------------------------------------------------------------


def test_bad_prompts_are_refused_before_anything_runs() -> None:
    model, loaded = causal()
    prompts = prompts_of([3, CONTEXT + 1])
    with watched(model) as seen:
        with pytest.raises(AlignError, match=r"deu_Latn row 17 has 65 tokens; expected 1 to 64, the model's context"):
            generate(
                model, loaded, prompts, max_new_tokens=4, stop_ids=STOPS, names=["deu_Latn row 3", "deu_Latn row 17"]
            )
        with pytest.raises(AlignError, match="prompt 2 has 0 tokens"):
            generate(model, loaded, [prompts[0], prompts[0][:0]], max_new_tokens=4, stop_ids=STOPS)
        with pytest.raises(ModelError, match="prompt 1 has token 259; expected ids below 259"):
            generate(model, loaded, [np.array([259])], max_new_tokens=4, stop_ids=STOPS)
        with pytest.raises(AlignError, match="--max-new-tokens 0"):
            generate(model, loaded, prompts[:1], max_new_tokens=0, stop_ids=STOPS)
        with pytest.raises(AlignError, match="--batch 0"):
            generate(model, loaded, prompts[:1], max_new_tokens=4, stop_ids=STOPS, batch=0)
    assert seen == []


def test_logits_that_are_not_finite_are_refused() -> None:
    model, loaded = causal()
    answers = generate(model, loaded, prompts_of([3]), max_new_tokens=4, stop_ids=STOPS, names=["eng_Latn row 5"])
    with (
        head_says(model, lambda logits: logits * float("nan")),
        pytest.raises(ModelError, match="eng_Latn row 5 has logits"),
    ):
        next(answers)


def test_a_model_without_cache_is_refused() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).eval()
    with pytest.raises(ModelError, match="MambaForCausalLM gives no past_key_values"):
        generate(
            model, LoadedModel(model.base_model, tiny_tokenizer()), prompts_of([3]), max_new_tokens=4, stop_ids=STOPS
        )
