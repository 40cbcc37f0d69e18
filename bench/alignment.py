"""An alignment step at the middle block against a full forward with LM loss, against its bare blocks, and gradient caching.

    python bench/alignment.py [--blocks 8] [--width 512] [--pairs 16] [--tokens 48] [--rounds 5]

A random Llama with LoRA on all projections, float32; a step is forward and backward without the optimizer. Time is taken in one
process, in turn; peak memory of a step each in a process of its own, above what the process held before it.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from common import current_rss, machine, peak_rss, ratio, reset_peak, rounds, spread
from transformers import LlamaConfig, LlamaForCausalLM

from align.adapter import LoraSettings, add_lora
from align.cache import cached_backward
from align.loss import info_nce
from align.trainable import PairBatch, TaskBatch, Trainable
from probe.model import LoadedModel, shortened
from probe.tiny import tiny_tokenizer

VOCABULARY = 32_000


@dataclass(frozen=True)
class Size:
    blocks: int
    width: int
    pairs: int
    tokens: int


def steps(size: Size) -> dict[str, Callable[[], object]]:
    """Each adds its gradients to those that are there."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=size.width, intermediate_size=size.width * 8 // 3 // 16 * 16, num_hidden_layers=size.blocks,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
    )  # fmt: skip
    torch.manual_seed(0)
    causal = LlamaForCausalLM(config)
    add_lora(causal, LoraSettings(dropout=0.0), seed=0)
    loaded = LoadedModel(causal.model, tiny_tokenizer())
    model = Trainable(causal, loaded).train()
    middle = size.blocks // 2
    sides = [torch.randint(0, VOCABULARY, (size.pairs, size.tokens)) for _ in range(2)]
    mask = torch.ones(size.pairs, size.tokens, dtype=torch.bool)
    pairs = PairBatch(sides[0], mask, sides[1], mask)
    both, both_mask = torch.cat(sides), torch.cat([mask, mask])
    task = TaskBatch(both, both_mask, both)
    chunk = max(2, size.pairs // 4)
    chunks = [PairBatch(*(side[at : at + chunk] for side in pairs)) for at in range(0, size.pairs, chunk)]

    def loss_of(states: torch.Tensor) -> torch.Tensor:
        return info_nce(states[:, 0, 0], states[:, 1, 0], 0.1)

    def bare() -> None:
        """The blocks alone, with nothing pooled and no loss but a sum."""
        with shortened(loaded, middle):
            loaded.model(input_ids=both, attention_mask=both_mask.long(), use_cache=False)[0].sum().backward()

    def accumulated() -> None:
        for part in chunks:
            loss_of(model(pairs=part, layers=[middle]).states).backward()

    def cached() -> None:
        cached_backward(lambda part: model(pairs=part, layers=[middle]).states, chunks, loss_of, torch.device("cpu"))

    return {
        "full forward with LM loss": lambda: model(task=task).nll.backward(),
        "usual LM loss, all logits": lambda: causal(
            input_ids=both, attention_mask=both_mask.long(), labels=both
        ).loss.backward(),
        f"alignment at block {middle}": lambda: loss_of(model(pairs=pairs, layers=[middle]).states).backward(),
        f"bare blocks 1..{middle}": bare,
        f"accumulation of {len(chunks)} chunks": accumulated,
        f"gradient caching of {len(chunks)} chunks": cached,
    }


def memory(size: Size, name: str) -> float:
    """MiB at the peak of a step above what the process held before, once the step has run on two pairs."""
    small = steps(Size(size.blocks, size.width, 2, size.tokens))
    next(iter(step for own, step in small.items() if own.split(" of ")[0] == name.split(" of ")[0]))()
    step = steps(size)[name]
    before = current_rss()
    reset_peak()
    step()
    return peak_rss() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    size = Size(options.blocks, options.width, options.pairs, options.tokens)
    contestants = steps(size)
    full, usual, align, bare, accumulated, cached = contestants
    with ProcessPoolExecutor(
        max_workers=1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as alone:
        peaks = {name: alone.submit(memory, size, name).result() for name in contestants}
    seconds = rounds(contestants, options.rounds)
    print(machine())
    print(
        f"{size}, vocabulary {VOCABULARY:,}, float32; s a step: min / median / max of {options.rounds} rounds; MiB at the peak"
    )
    for name, times in seconds.items():
        print(f"  {name:32} {spread(times, '{:.3f}'):22} {peaks[name]:8,.0f} MiB")
    print(f"  full / alignment, times          {spread(ratio(seconds, full, align))}   (wanted: at least 2.5)")
    print(f"  usual / alignment, times         {spread(ratio(seconds, usual, align))}")
    print(f"  alignment / bare blocks          {spread(ratio(seconds, align, bare))}   (wanted: at most 1.1)")
    print(
        f"  caching / accumulation           {spread(ratio(seconds, cached, accumulated))}   (limit 1.5, wanted: at most 1.6)"
    )
    print(
        f"  memory, alignment / full         {peaks[align] / peaks[full]:.2f}; / usual {peaks[align] / peaks[usual]:.2f}   (wanted: below 0.5)"
    )


if __name__ == "__main__":
    main()
