"""Task examples: under the templates of real model families, exactly the responses and their end-of-turn tokens are learnt."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.batches import ExampleRows
from align.examples import (
    IGNORED,
    Encoded,
    Example,
    Message,
    encode_example,
    encode_examples,
    encode_prompts,
    end_of_turn,
    read_examples,
    split_examples,
)
from probe.errors import AlignError
from probe.tiny import tiny_tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
ENDS = {LLAMA3: "<|eot_id|>", CHATML: "<|im_end|>", GEMMA: "<end_of_turn>", LLAMA2: " </s>"}
FAMILIES = pytest.mark.parametrize("template", list(ENDS), ids=["llama3", "chatml", "gemma", "llama2"])

SPECIAL = [
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip
MERGES = [("Ġ", "y"), ("Ċ", "Ċ"), ("Ċ", "N"), ("ĊN", "o"), ("e", "s"), ("Ġy", "es"), ("Ð", "Ł"), ("Ċ", "Ġ")]


def tokenizer(template: str | None, trim_offsets: bool = False, normaliser: Any = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges cross words and lines; by itself it puts a BOS before every text."""
    tokens = ["<s>", "</s>", "<pad>", *SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += ["".join(pair) for pair in MERGES]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if normaliser is not None:
        backend.normalizer = normaliser
    bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trim_offsets), bos])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": [AddedToken(token, special=True) for token in SPECIAL]})
    made.chat_template = template
    return made


def example(*turns: str) -> Example:
    """User, assistant, user, assistant ..."""
    roles = ("user", "assistant")
    return Example(tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)), "made line 1")


def learnt(made: Any, encoded: Encoded) -> list[str]:
    """The runs of learnt tokens, as text."""
    runs: list[list[int]] = []
    for i, label in enumerate(encoded.labels.tolist()):
        if label != IGNORED:
            assert label == encoded.ids[i]
            if i and encoded.labels[i - 1] != IGNORED:
                runs[-1].append(label)
            else:
                runs.append([label])
    return [made.decode(run, clean_up_tokenization_spaces=False) for run in runs]


@FAMILIES
@pytest.mark.parametrize(
    "turns",
    [
        ("Set an alarm.", "time: five am"),
        ("no or yes? no", "no"),  # the response's words are in the prompt
        ("a", "b", "c", "d", "a", "b"),
        ("Где вокзал? 🙂", "Поверните налево 🚉, 然后直走。"),
        ("Write code.", "def f():\n    return 1\n\n\nf()"),
        ("Say it.", "ein user sagt: <s> </s> assistant"),
        ("What is \ue000response\ue000?", "It is private."),
    ],
)
def test_responses_and_their_ends_are_learnt_and_nothing_else(template: str, turns: tuple[str, ...]) -> None:
    made = tokenizer(template)
    encoded = encode_example(made, example(*turns), 500)
    assert learnt(made, encoded) == [response + ENDS[template] for response in turns[1::2]]
    whole = made.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in example(*turns).messages], tokenize=True
    )
    assert encoded.ids.tolist() == list(whole["input_ids"])


@FAMILIES
def test_there_is_the_bos_that_the_template_writes_and_no_second(template: str) -> None:
    made = tokenizer(template)
    ids = encode_example(made, example("Hello?", "Yes."), 100).ids.tolist()
    assert made("Hello?")["input_ids"][0] == made.bos_token_id  # it would put one
    assert ids.count(made.bos_token_id) == (0 if template == CHATML else 1)
    assert template == CHATML or ids[0] == made.bos_token_id


@FAMILIES
@pytest.mark.parametrize("trim_offsets", [False, True])
def test_a_response_that_begins_with_a_space(template: str, trim_offsets: bool) -> None:
    made = tokenizer(template, trim_offsets)
    encoded = encode_example(made, example("Is it?", " yes it is "), 100)
    trims = template in (LLAMA3, GEMMA)
    (text,) = learnt(made, encoded)
    if template == LLAMA2:  # its own blanks stand around the response, and one merges with it
        assert text.strip().removesuffix("</s>").strip() == "yes it is"
    else:
        assert text.lstrip("\n") == ("yes it is" if trims else " yes it is ") + ENDS[template]


def test_a_token_across_the_boundary_belongs_to_the_response() -> None:
    """Tokenising the prompt by itself would give another number of tokens, and so other labels."""
    made = tokenizer(CHATML)
    encoded = encode_example(made, example("Any?", "No."), 100)
    straddling = made.convert_tokens_to_ids("ĊNo")
    assert straddling in encoded.ids.tolist()
    assert straddling in encoded.labels.tolist()
    assert learnt(made, encoded) == ["\nNo.<|im_end|>"]
    prompt = made.apply_chat_template([{"role": "user", "content": "Any?"}], tokenize=True, add_generation_prompt=True)[
        "input_ids"
    ]
    assert list(prompt) != encoded.ids[: len(prompt)].tolist()


def test_the_line_break_behind_the_end_of_a_turn_is_not_learnt() -> None:
    made = tokenizer(CHATML)
    encoded = encode_example(made, example("a", "b"), 100)
    assert made.decode(encoded.ids[-1:]) == "\n"
    assert encoded.labels[-1] == IGNORED
    assert encoded.labels[-2] == made.convert_tokens_to_ids("<|im_end|>")


def test_a_template_without_an_end_teaches_the_response_alone() -> None:
    made = tokenizer(NO_END)
    assert learnt(made, encode_example(made, example("a", "b c", "d", "e"), 100)) == ["b c", "e"]


def test_system_turns_are_not_learnt() -> None:
    made = tokenizer(LLAMA3)
    turns = (Message("system", "Be brief."), *example("a", "b").messages)
    assert learnt(made, encode_example(made, Example(turns, "x"), 100)) == ["b<|eot_id|>"]


def test_the_plain_template_of_a_tokenizer_without_one() -> None:
    tiny = tiny_tokenizer()
    assert not tiny.chat_template
    encoded = encode_example(tiny, example("Où?", "Là.", "Et?", "Ici."), 100)
    text = "<s>User:\nOù?\nAssistant:\nLà.</s>\nUser:\nEt?\nAssistant:\nIci.</s>\n"
    assert tiny.decode(encoded.ids) == text
    assert encoded.ids.tolist().count(0) == 1
    assert learnt(tiny, encoded) == ["Là.</s>", "Ici.</s>"]


def test_the_plain_template_puts_no_bos_that_the_tokenizer_does_not_put() -> None:
    made = tokenizer(None)
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert made.decode(encode_example(made, example("a", "b"), 100).ids) == "User:\na\nAssistant:\nb</s>\n"


def test_the_labels_are_those_of_the_models_own_loss() -> None:
    """The loss of transformers with these labels is the cross-entropy of predicting each learnt token from those before."""
    made = tokenizer(LLAMA3)
    rows = [encode_example(made, each, 100) for each in (example("a", "yes it is"), example("b?", "No"))]
    batch = ExampleRows(tuple((row.ids, row.labels) for row in rows), 2).micro([0, 1]).batch
    config = LlamaConfig(
        vocab_size=len(made), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        loss = model(input_ids=batch.ids, attention_mask=batch.mask.long(), labels=batch.labels).loss
        logits = model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits.log_softmax(-1)
    terms = [
        -logits[row, place - 1, label]
        for row, labels in enumerate(batch.labels.tolist())
        for place, label in enumerate(labels)
        if label != IGNORED
    ]
    assert len(terms) == sum(row.responses for row in rows)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_the_first_token_is_never_learnt() -> None:
    """Nothing comes before it, so that it would be counted and not be in the loss."""
    made = tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    encoded = encode_example(made, Example((Message("assistant", "abc"),), "x"), 10)
    assert learnt(made, encoded) == ["bc"]
    assert encoded.responses == 2


def test_batches_are_padded_on_the_right_and_padding_is_not_learnt() -> None:
    made = tokenizer(CHATML)
    rows = [encode_example(made, each, 200) for each in (example("a", "b"), example("a longer one", "and <pad> in it"))]
    micro = ExampleRows(tuple((row.ids, row.labels) for row in rows), made.pad_token_id).micro([0, 1])
    batch = micro.batch
    assert batch.ids.shape == batch.mask.shape == batch.labels.shape == (2, len(rows[1].ids))
    assert batch.ids.dtype == batch.labels.dtype == torch.int64
    for i, row in enumerate(rows):
        assert batch.ids[i, : len(row.ids)].tolist() == row.ids.tolist()
        assert batch.labels[i, : len(row.ids)].tolist() == row.labels.tolist()
        assert batch.mask[i].tolist() == [True] * len(row.ids) + [False] * (len(rows[1].ids) - len(row.ids))
        assert (batch.labels[i, len(row.ids) :] == IGNORED).all()
    assert made.pad_token_id in rows[1].labels.tolist()
    assert micro.responses == rows[0].responses + rows[1].responses


def test_many_are_encoded_as_one_by_one() -> None:
    made = tokenizer(GEMMA)
    given = [example("a", "b"), example("c d", "yes", "e", "No")]
    for one, many in zip(
        [encode_example(made, each, 90) for each in given], encode_examples(made, given, 90), strict=True
    ):
        assert one.ids.tolist() == many.ids.tolist()
        assert one.labels.tolist() == many.labels.tolist()


def test_long_examples_are_refused_with_their_number() -> None:
    made = tokenizer(CHATML)
    given = [example("a", "b"), example("a", "b" * 400), example("a", "b" * 300)]
    length = len(encode_example(made, given[0], 1000).ids)
    assert len(encode_examples(made, given[:1], length)) == 1
    with pytest.raises(
        AlignError, match=f"2 of 3 examples are longer than {length} tokens, made line 1 has {length + 399}"
    ):
        encode_examples(made, given, length)


def test_a_response_without_tokens_is_refused() -> None:
    made = tokenizer(LLAMA3, normaliser=normalizers.Replace("\u200b", ""))
    with pytest.raises(AlignError, match="no token is left of a response of made line 1"):
        encode_example(made, example("a", "\u200b\u200b"), 100)


def test_templates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AlignError, match=r"the chat template refuses x .System role not supported"):
        encode_example(tokenizer(GEMMA), Example((Message("system", "a"), *example("a", "b").messages), "x"), 100)
    upper = tokenizer("{% for m in messages %}{{ m['content'] | upper }}\n{% endfor %}")
    with pytest.raises(AlignError, match="the chat template rewrites a response of made line 1"):
        encode_example(upper, example("a", "b"), 100)
    deaf = tokenizer("{{ messages[0]['content'] }}")
    with pytest.raises(AlignError, match="rewrites a response"):
        encode_example(deaf, example("a", "b"), 100)


def test_a_tokenizer_without_offsets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer(CHATML)
    monkeypatch.setattr(type(made), "is_fast", False)
    with pytest.raises(AlignError, match="tells no offsets; expected a fast tokenizer"):
        encode_example(made, example("a", "b"), 100)


# ---- prompts of generation -----------------------------------------------------------------------------------

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPTS = [
    ("Set an alarm.",),
    ("no or yes? no",),
    ("a", "b", "c"),
    ("Где вокзал? 🙂",),
    ("What is \ue000response\ue000?",),
    (" blanks around \n",),
]


def prompt_of(made: Any, *turns: str) -> Any:
    return encode_prompts(made, [example(*turns).messages], ["made line 1"])[0]


@FAMILIES
@pytest.mark.parametrize("turns", PROMPTS)
def test_a_prompt_is_how_the_trained_example_begins(template: str, turns: tuple[str, ...]) -> None:
    """The same text and the same tokens, and what follows is the response alone. It is the template's own generation prompt."""
    made = tokenizer(template)
    prompt = prompt_of(made, *turns)
    encoded = encode_example(made, example(*turns, "time: five am"), 500)
    assert encoded.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
    assert made.decode(encoded.ids[len(prompt.ids) :]).strip() == "time: five am" + ENDS[template]
    first_learnt = int(np.flatnonzero(encoded.labels[len(prompt.ids) :] != IGNORED)[0])
    assert first_learnt == (1 if template == LLAMA2 else 0)  # its template puts a blank before the response
    messages = [{"role": turn.role, "content": turn.content} for turn in example(*turns).messages]
    assert prompt.text == made.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.ids.tolist().count(made.bos_token_id) == prompt.text.count("<s>")


def test_where_a_token_reaches_over_the_end_of_the_prompt_only_the_text_is_the_same() -> None:
    """Tokenizers that merge a line break with a letter; those of real models split there."""
    made = tokenizer(CHATML)
    prompt, encoded = prompt_of(made, "Any?"), encode_example(made, example("Any?", "No."), 100)
    assert made.decode(encoded.ids).startswith(prompt.text)
    assert made.decode(prompt.ids) == prompt.text
    assert encoded.ids[: len(prompt.ids)].tolist() != prompt.ids.tolist()


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (THINKING, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (NO_END, "user: a\nassistant:"),  # the blank belongs to the first word of the answer
        (None, "<s>User:\na\nAssistant:\n"),
    ],
    ids=["an empty thought", "no generation prompt", "no template"],
)
def test_where_the_generation_prompt_is_another_text_training_decides(template: str | None, wanted: str) -> None:
    made = tokenizer(template)
    assert prompt_of(made, "a").text == wanted
    whole = made.decode(encode_example(made, example("a", "yes"), 100).ids)
    assert whole.startswith(wanted)
    assert whole[len(wanted) :].lstrip().startswith("yes")


def test_prompts_are_encoded_in_their_order_and_digested() -> None:
    made = tokenizer(LLAMA3)
    given = [example(*turns).messages for turns in PROMPTS]
    prompts = encode_prompts(made, given, [""] * len(given))
    assert [prompt.ids.tolist() for prompt in prompts] == [prompt_of(made, *turns).ids.tolist() for turns in PROMPTS]
    assert len({prompt.digest for prompt in prompts}) == len(prompts)
    assert all(re.fullmatch("[0-9a-f]{16}", prompt.digest) for prompt in prompts)
    assert prompts[0].digest == hashlib.sha256(prompts[0].text.encode()).hexdigest()[:16]
    assert encode_prompts(made, [], []) == []


def test_prompts_that_a_template_refuses() -> None:
    system = (Message("system", "a"), Message("user", "b"))
    with pytest.raises(AlignError, match=r"the chat template refuses deu row 3 .System role not supported"):
        encode_prompts(tokenizer(GEMMA), [system], ["deu row 3"])
    with pytest.raises(AlignError, match="the chat template rewrites a response of deu row 3"):
        encode_prompts(tokenizer("{{ messages[0]['content'] }}"), [example("a").messages], ["deu row 3"])


@FAMILIES
def test_the_end_of_a_turn_is_what_examples_teach(template: str) -> None:
    made = tokenizer(template)
    assert made.decode([end_of_turn(made)]) == ENDS[template].strip()


def test_a_template_may_have_no_end_of_a_turn() -> None:
    assert end_of_turn(tokenizer(NO_END)) is None
    assert end_of_turn(tiny_tokenizer()) == 1  # the plain template's


# ---- files ---------------------------------------------------------------------------------------------------


def test_both_forms_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    messages = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    path.write_text(
        json.dumps({"messages": messages, "id": 7}) + "\n\n" + json.dumps({"prompt": "a?", "response": "b"}) + "\n"
    )
    first, second = read_examples(path)
    assert first.messages == second.messages == example("a?", "b").messages
    assert second.where == "task.jsonl line 3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[1]", "line 1 is no example"),
        ('{"prompt": "a"}', "line 1 is no example; expected the key messages, or prompt and response"),
        ('{"prompt": "a", "response": "b", "messages": []}', "line 1 is no example"),
        ('{"messages": "a"}', "messages that are no list"),
        ('{"messages": []}', "has no assistant turn"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "has no assistant turn"),
        ('{"messages": [{"role": "bot", "content": "a"}]}', 'has a turn {"role": "bot"'),
        ('{"messages": ["a"]}', 'has a turn "a"'),
        ('{"prompt": "a", "response": " "}', "has an empty response"),
        ('{"prompt": "a", "response": 3}', "has a turn"),
        ('{"prompt": "a", "response": "\\ud800"}', "halves of surrogate pairs"),
        ("", "is empty"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(AlignError) as caught:
        read_examples(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AlignError, match=r"cannot be read .No such file"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(AlignError, match="is not valid UTF-8"):
        read_examples(tmp_path / "bad.jsonl")


def test_a_prompt_is_on_one_side_of_the_split() -> None:
    given = [example(f"prompt {number % 120}", f"response {number}") for number in range(300)]
    train, development = split_examples(given)
    assert len(train) + len(development) == 300
    assert 30 <= len(development) <= 32
    assert not {each.prompt for each in train} & {each.prompt for each in development}
    with pytest.raises(AlignError, match="39 examples, 39 of different prompts; expected 40 or more"):
        split_examples(given[:39])


@pytest.mark.parametrize(
    "template",
    [
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }} ",
        "{% set today = strftime_now('%d %b %Y') %}{{ today }} ",
    ],
)
def test_a_prompt_is_the_same_on_any_day(template: str) -> None:
    """Llama 3's and SmolLM3's templates write the date."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template + "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (prompt,) = encode_prompts(tokenizer, [(Message("user", "Hi."),)], ["a row"])
    assert prompt.text == "26 Jul 2024 Hi."
