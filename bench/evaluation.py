"""Generating answers to MASSIVE prompts against a plain loop over transformers' generate, and scoring the whole test split.

    python bench/evaluation.py --data DATA [--rows 16] [--batch 16] [--blocks 8] [--width 512] [--style fine-tuned] [--rounds 3]

Prompts: some utterances of the test split, drawn at random, in the paper's 20 languages and the order of the data, through a chat
template and a byte-level BPE of 32,000 tokens learnt from the training split. A random Llama. An untrained model says nothing that ends, so its
logits are overruled: each prompt carries the length of its row's real target as a last token, and the model counts down from
there to the end token. Both sides run the same model, so both stop where a well-trained model would.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, ratio, rounds, spread
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.examples import encode_prompts
from align.generate import generate
from align.tasks.slots import Slots
from align.tasks.task import TaskRow
from probe.model import LoadedModel

VOCABULARY, NEW = 32_000, 64
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_end|>", "<|im_start|>"]
END = 0
FIRST_COUNT = VOCABULARY
"""Id of `no token is left`; above it, one for each number of tokens that are."""


class Countdown(LlamaForCausalLM):
    """Says what was asked for to the word: as many tokens as the newest one tells, the last of them the end."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **options: Any,
    ) -> Any:
        output = super().forward(
            input_ids, attention_mask, position_ids, past_key_values,
            use_cache=use_cache, logits_to_keep=logits_to_keep, **options,
        )  # fmt: skip
        left = (input_ids - FIRST_COUNT).amax(dim=1)  # counts have the largest ids; a row holds one that was not read
        following = torch.where(left > 1, FIRST_COUNT + left - 1, END)
        output.logits[:, -1].scatter_(1, following[:, None], 1e4)
        return output


def learnt_tokenizer(rows: Sequence[TaskRow]) -> PreTrainedTokenizerFast:
    """From the prompts and targets of training rows."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )  # fmt: skip
    texts = (text for row in rows for text in (*(message.content for message in row.prompt), row.target))
    backend.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    made.chat_template = TEMPLATE
    return made


def random_llama(blocks: int, width: int, dtype: torch.dtype) -> Countdown:
    config = LlamaConfig(
        vocab_size=VOCABULARY + NEW + 1, hidden_size=width, intermediate_size=width * 8 // 3 // 16 * 16, num_hidden_layers=blocks,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=2048, bos_token_id=None, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    torch.manual_seed(0)
    return Countdown(config).to(dtype).eval()


def plain(model: Countdown, prompts: Sequence[np.ndarray], batch: int, order: Sequence[int]) -> dict[int, list[int]]:
    """The usual loop: batches in this order, padded on the left, each as long as its longest answer."""
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(prompts[row]) for row in rows)
        ids = torch.full((len(rows), width), END)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, width - len(prompts[row]) :] = torch.from_numpy(prompts[row])
            mask[place, width - len(prompts[row]) :] = 1
        said = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)[:, width:].tolist()
        answers.update((row, one[: one.index(END) + 1]) for row, one in zip(rows, said, strict=True))
    return answers


def bench_generation(options: argparse.Namespace) -> None:
    task, data = Slots(options.style), Path(options.data)
    tokenizer = learnt_tokenizer(task.rows(data, "train", limit=1000))
    every = task.rows(data, "test")
    drawn = np.random.default_rng(0).choice(2974, options.rows, replace=False)
    ids = {every[place].id for place in drawn}  # the same utterances in every language, in the order of the data
    rows = [row for row in every if row.id in ids]
    lengths = [min(len(tokenizer(row.target)["input_ids"]) + 1, NEW) for row in rows]
    encoded = encode_prompts(tokenizer, [row.prompt for row in rows], [row.id for row in rows])
    prompts = [np.append(prompt.ids, FIRST_COUNT + length) for prompt, length in zip(encoded, lengths, strict=True)]
    model = random_llama(options.blocks, options.width, getattr(torch, options.dtype))
    loaded = LoadedModel(model.model, tokenizer)
    given = list(range(len(rows)))
    by_length = sorted(given, key=lambda row: -len(prompts[row]))

    def ours() -> dict[int, list[int]]:
        said = generate(model, loaded, prompts, max_new_tokens=NEW, stop_ids=[END], batch=options.batch)
        return {answer.index: list(answer.ids) for answer in said}

    contestants = {
        "transformers, in given order": lambda: plain(model, prompts, options.batch, given),
        "transformers, sorted by length": lambda: plain(model, prompts, options.batch, by_length),
        "midprobe": ours,
    }
    said = contestants["midprobe"]()
    assert [len(said[row]) for row in given] == lengths
    assert said == contestants["transformers, in given order"]()
    seconds = rounds(contestants, options.rounds)
    quartiles = [int(value) for value in np.percentile(lengths, (0, 25, 50, 75, 100))]
    print(
        f"{len(rows)} prompts of 20 languages, style {options.style}: {min(map(len, prompts))} to {max(map(len, prompts))} tokens; "
        f"answers of {' / '.join(map(str, quartiles))} tokens (quartiles); {options.blocks} blocks of width {options.width}, "
        f"{options.dtype}, batch {options.batch}; tokens generated a second: min / median / max of {options.rounds} rounds"
    )
    for name, times in seconds.items():
        print(f"  {name:34} {spread([sum(lengths) / each for each in times], '{:,.0f}')}")
    in_order, in_length, own = contestants
    print(f"  given order / midprobe, times      {spread(ratio(seconds, in_order, own))}   (wanted: at least 1.8)")
    print(f"  sorted / midprobe, times           {spread(ratio(seconds, in_length, own))}")


def bench_scoring(options: argparse.Namespace) -> None:
    """A third of the answers is right, a third another row's, a third has lost its last slot."""
    task = Slots()
    begin = time.perf_counter()
    rows = task.rows(Path(options.data), "test")
    read = time.perf_counter() - begin
    changed = (lambda n: rows[n].target, lambda n: rows[n - 7].target, lambda n: rows[n].target.rpartition("; ")[0])
    answers = [changed[n % 3](n) for n in range(len(rows))]
    seconds = rounds({"score": lambda: task.score(rows, answers, draws=1000)}, options.rounds)["score"]
    print(
        f"scoring {len(rows):,} rows with 1,000 draws: {spread(seconds)} s   (wanted: below 10); reading them: {read:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that holds massive/1.1/data")
    parser.add_argument("--rows", type=int, default=16, help="of each language")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--style", default="fine-tuned")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("generation", "scoring"))
    options = parser.parse_args()
    print(machine())
    if options.only != "scoring":
        bench_generation(options)
    if options.only != "generation":
        bench_scoring(options)


if __name__ == "__main__":
    main()
