"""Task examples: conversations whose assistant turns are learnt, as token ids and labels through the model's own template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from align.sampling import development_rows
from align.trainable import IGNORED
from probe.errors import AlignError

# A line break right behind a block's tag would be swallowed: transformers renders with Jinja's trim_blocks.
PLAIN_TEMPLATE = (
    "{{ begin }}{% for message in messages %}{{ message['role'].capitalize() }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ end }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For tokenizers without a template: each turn is its role and a colon, a line break, its text, a line break. `begin` is the
BOS where the tokenizer puts one; an assistant's text is followed by `end`, the EOS where there is one."""

_ROLES = ("system", "user", "assistant")
_SURROGATE = re.compile("[\ud800-\udfff]")
_FIXED_DAY = (
    "{% macro strftime_now(format) %}{{ format | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July')"
    " | replace('%m', '07') | replace('%Y', '2024') }}{% endmacro %}"
)
"""The day that templates which write the date take for today: the one that Llama 3's has where it is told none."""
_SENTINEL = "\ue000"  # private use: means nothing to a template, and is no white space that one would strip


@dataclass(frozen=True)
class Message:
    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation. Its assistant turns are the responses."""

    messages: tuple[Message, ...]
    where: str
    """File and line, for messages."""
    language: str = ""
    """FLORES-200 code or direction, where it is known."""
    key: str = ""
    """Examples of one key are on one side of a split; empty: those of one prompt."""

    @property
    def prompt(self) -> str:
        """What was not said by the assistant: rows of one prompt are on one side of a split."""
        return "\n".join(message.content for message in self.messages if message.role != "assistant")


@dataclass(frozen=True)
class Prompt:
    """What stands before an answer, as the model reads it."""

    text: str
    ids: Int64[np.ndarray, " token"]

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the text's sha256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Encoded:
    """An example as the model reads it."""

    ids: Int64[np.ndarray, " token"]
    labels: Int64[np.ndarray, " token"]
    """The ids themselves where they are learnt, else -100; not shifted (transformers' convention: the model shifts them)."""

    @property
    def responses(self) -> int:
        """Number of tokens that are learnt, by which a loss is normalised."""
        return int((self.labels != IGNORED).sum())


def read_examples(path: Path) -> tuple[Example, ...]:
    """Read jsonl: a line is `{"messages": [{"role": ..., "content": ...}, ...]}` or `{"prompt": ..., "response": ...}`.

    The second means a user's turn and the assistant's. Other keys are left aside, so that a file may carry its own ids.

    Raises:
        AlignError: a file that cannot be read or is empty; a line that is no such object, has an unknown role, no
            assistant turn, or an empty one.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise AlignError(f"{path} is not valid UTF-8 (byte {error.start})", "UTF-8 text", "convert the file") from None
    except OSError as error:
        raise AlignError(f"{path} cannot be read ({error.strerror})", "a jsonl file", "check the path") from None
    lines = text.removesuffix("\n").split("\n")
    examples = tuple(
        _example(line, f"{Path(path).name} line {number}") for number, line in enumerate(lines, 1) if line.strip()
    )
    if not examples:
        raise AlignError(f"{path} is empty", "one example a line", "give the right file")
    return examples


def _example(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except ValueError:
        raise AlignError(f"{where} is not JSON", "one JSON object a line", "mend the line") from None
    if not isinstance(row, dict) or ("messages" in row) == ("prompt" in row and "response" in row):
        raise AlignError(f"{where} is no example", "the key messages, or prompt and response", "mend the line")
    turns = row["messages"] if "messages" in row else _two_turns(row["prompt"], row["response"])
    if not isinstance(turns, list):
        raise AlignError(f"{where} has messages that are no list", "a list of turns", "mend the line")
    messages = tuple(_message(turn, where) for turn in turns)
    if not any(message.role == "assistant" for message in messages):
        raise AlignError(f"{where} has no assistant turn", "a response to learn", "leave the line out")
    return Example(messages, where)


def _two_turns(prompt: Any, response: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def _message(turn: Any, where: str) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
    if role not in _ROLES or not isinstance(content, str) or _SURROGATE.search(content):
        raise AlignError(
            f"{where} has a turn {json.dumps(turn)[:80]}",
            f"a role ({', '.join(_ROLES)}) and text as content, without halves of surrogate pairs",
            "mend the line",
        )
    if role == "assistant" and not content.strip():
        raise AlignError(f"{where} has an empty response", "text to learn", "leave the line out, or write None")
    return Message(role, content)


def split_examples(
    examples: Sequence[Example], share: float = 0.1, least: int = 20
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and development: a tenth by hash of the key, else the prompt, see `align.sampling.development_rows`.

    Raises:
        AlignError: too few examples to hold some out.
    """
    keys = [example.key or example.prompt for example in examples]
    held_out = development_rows(keys, share, least)
    train, development = (
        tuple(example for example, out in zip(examples, held_out, strict=True) if out == side) for side in (False, True)
    )
    if not train or not development:
        raise AlignError(
            f"{len(examples)} examples, {len(set(keys))} of different prompts",
            f"{2 * least} or more, so that some can be held out",
            "give more task data, or a development file of its own (task.dev)",
        )
    return train, development


def encode_example(tokenizer: Any, example: Example, max_length: int) -> Encoded:
    """One example; see `encode_examples`."""
    return encode_examples(tokenizer, [example], max_length)[0]


def encode_examples(tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[Encoded]:
    """Render each conversation through the tokenizer's chat template and tokenise that text once.

    No special token is added to what the template writes, so that there is one BOS where it writes one. Without a template
    `PLAIN_TEMPLATE` is used. Learnt are the responses of all assistant turns, each with the end-of-turn token behind it:
    the special token that follows, over white space if need be. They are found by character spans of the one tokenisation;
    a token that holds the end of the prompt and the beginning of the response belongs to the response.

    Args:
        tokenizer: a fast one, since only these know the characters of their tokens.
        max_length: in tokens. A longer example is refused, not cut: cut on the right it would lose its response, cut on the
            left its instruction.

    Raises:
        AlignError: examples longer than `max_length` (how many, and the longest); an example of whose response no token is
            left; a tokenizer without offsets; a template that refuses a conversation or rewrites a response.
    """
    if not tokenizer.is_fast:
        raise AlignError(
            f"{type(tokenizer).__name__} tells no offsets", "a fast tokenizer", "convert it with transformers"
        )
    rendered = [_render(tokenizer, example) for example in examples]
    tokens = tokenizer(
        [each.text for each in rendered],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    _refuse_long(examples, tokens["input_ids"], max_length)
    special = _special(tokenizer)
    return [
        _labelled(example, np.array(ids, dtype=np.int64), np.array(offsets).reshape(-1, 2), each, special)
        for example, each, ids, offsets in zip(
            examples, rendered, tokens["input_ids"], tokens["offset_mapping"], strict=True
        )
    ]


@dataclass(frozen=True)
class _Rendered:
    text: str
    spans: tuple[tuple[int, int], ...]
    """Begin and end of each response in the text."""


def _render(tokenizer: Any, example: Example) -> _Rendered:
    """The text of a conversation and where its responses are in it.

    They are not searched for, since a prompt may hold the same words: the conversation is rendered with marks in their
    place too, and what stands between the marks stands between the responses.
    """
    contents = [message.content for message in example.messages]
    mark = _mark(contents)
    text = _templated(tokenizer, example, contents)
    marked = [
        f"{mark}response{mark}" if message.role == "assistant" else message.content for message in example.messages
    ]
    pieces = _templated(tokenizer, example, marked).split(f"{mark}response{mark}")
    responses = [message.content for message in example.messages if message.role == "assistant"]
    if len(pieces) == len(responses) + 1:
        # Templates write a response as it is, or without the white space around it.
        for shown in (responses, [response.strip() for response in responses]):
            parts = [part for pair in zip(pieces, [*shown, ""], strict=True) for part in pair]
            if "".join(parts) == text:
                ends = list(accumulate(map(len, parts)))
                return _Rendered(text, tuple((ends[i], ends[i + 1]) for i in range(0, len(ends) - 2, 2)))
    raise _rewritten(example.where)


def encode_prompts(tokenizer: Any, prompts: Sequence[Sequence[Message]], where: Sequence[str]) -> list[Prompt]:
    """Render what comes before an answer with the template's generation prompt; tokenised as examples are, no BOS added.

    The prompt is the beginning of what `encode_examples` makes of the same turns with an answer. Templates whose own
    generation prompt is another text give way to that: Qwen3 trains behind an empty thought, gpt-oss behind the name of a
    channel, so that the answer begins at once; some templates know no generation prompt.

    Args:
        where: of each prompt, for messages.

    Raises:
        AlignError: a template that refuses the turns, or does not show an answer.
    """
    texts = [_opened(tokenizer, Example(tuple(turns), name)) for turns, name in zip(prompts, where, strict=True)]
    if not texts:
        return []
    ids = tokenizer(texts, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
    return [Prompt(text, np.array(row, dtype=np.int64)) for text, row in zip(texts, ids, strict=True)]


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token behind an assistant's text in the template, which examples teach; None where there is none."""
    ends = (Message("user", "a"), Message("assistant", "b"))
    encoded = encode_example(tokenizer, Example(ends, "a conversation of two turns"), 1_000_000)
    last = int(encoded.ids[encoded.labels != IGNORED][-1])
    return last if last in _special(tokenizer) else None


def _opened(tokenizer: Any, example: Example) -> str:
    """The conversation up to where the assistant's answer begins."""
    contents = [message.content for message in example.messages]
    mark = _mark(contents)
    opened = _templated(tokenizer, example, contents, add_generation_prompt=True)
    answered = Example((*example.messages, Message("assistant", mark)), example.where)
    trained, found, _ = _templated(tokenizer, answered, [*contents, mark]).partition(mark)
    if not found:
        raise _rewritten(example.where)
    if trained.startswith(opened) and not trained[len(opened) :].strip():
        return opened
    return trained.rstrip(" ")  # a blank belongs to the first token of the answer


def _mark(contents: Sequence[str]) -> str:
    """A text that none of the contents holds."""
    mark = _SENTINEL
    while any(mark in content for content in contents):
        mark += _SENTINEL
    return mark


def _rewritten(where: str) -> AlignError:
    return AlignError(
        f"the chat template rewrites a response of {where}",
        "one that writes responses as they are",
        "use another template, or examples without its own marks",
    )


def _templated(tokenizer: Any, example: Example, contents: Sequence[str], add_generation_prompt: bool = False) -> str:
    messages = [
        {"role": message.role, "content": content} for message, content in zip(example.messages, contents, strict=True)
    ]
    if tokenizer.chat_template:
        options = {"chat_template": _undated(tokenizer.get_chat_template())}
    else:
        options = {"chat_template": PLAIN_TEMPLATE, **_ends(tokenizer)}
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **options
        )
    except Exception as error:  # templates raise what they like, for roles in an order that they do not know
        reason = " ".join(str(error).split())[:150]
        raise AlignError(
            f"the chat template refuses {example.where} ({reason})",
            "a conversation that it can write",
            "mend the example: some templates have no system turn",
        ) from error
    return str(rendered)


def _undated(template: str) -> str:
    """The same template; one that writes the date writes a fixed one, so that a prompt is the same on any day."""
    return f"{_FIXED_DAY}{template}" if "strftime_now" in template else template


def _ends(tokenizer: Any) -> dict[str, str]:
    """What `PLAIN_TEMPLATE` begins and ends with: BOS only where the tokenizer itself puts it before a text."""
    puts_bos = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return {"begin": tokenizer.bos_token if puts_bos else "", "end": tokenizer.eos_token or ""}


def _special(tokenizer: Any) -> set[int]:
    """The ids of special tokens, those included that have no role."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}


def _refuse_long(examples: Sequence[Example], ids: Sequence[Sequence[int]], max_length: int) -> None:
    lengths = [len(row) for row in ids]
    long = sum(length > max_length for length in lengths)
    if long:
        longest = int(np.argmax(lengths))
        raise AlignError(
            f"{long} of {len(examples)} examples are longer than {max_length} tokens, {examples[longest].where} has "
            f"{lengths[longest]}",
            f"at most task.max_length ({max_length})",
            "raise it, or shorten or leave out these examples",
        )


def _labelled(
    example: Example, ids: np.ndarray, offsets: np.ndarray, rendered: _Rendered, special: set[int]
) -> Encoded:
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    for begin, end in rendered.spans:
        inside = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < end))
        if not len(inside):
            raise AlignError(
                f"no token is left of a response of {example.where}",
                "at least one to learn",
                "leave the example out: the tokenizer does not know its characters",
            )
        stop = int(inside[-1]) + 1
        following = next(_not_blank(rendered.text, offsets, stop), None)
        if following is not None and ids[following] in special:
            stop = following + 1
        labels[inside[0] : stop] = ids[inside[0] : stop]
    labels[:1] = IGNORED  # nothing comes before it to predict it from, so that a model's own shift leaves it out
    return Encoded(ids, labels)


def _not_blank(text: str, offsets: np.ndarray, start: int) -> Iterator[int]:
    """The tokens from `start` on that are more than white space."""
    return (token for token in range(start, len(offsets)) if text[offsets[token, 0] : offsets[token, 1]].strip())
