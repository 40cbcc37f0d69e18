"""Extraction against the usual script, and against the model's bare matrix products. CPU.

    python bench/extraction.py [--sentences 400] [--rounds 5]

The usual script: one sentence at a time through AutoModelForCausalLM, LM head and all, every hidden state kept, then pooled.
Bare products: only the linear layers of the blocks, on random activations of the same batch shapes: no attention, norm or
activation function. It is the limit for this model on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys

import numpy as np
import torch
from common import current_rss, machine, peak_rss, ratio, reset_peak, rounds, spread
from transformers import LlamaConfig, LlamaForCausalLM

from probe.device import fast_linears
from probe.extract import AUTO_BATCH_TOKENS
from probe.model import LoadedModel
from probe.states import batches, pooled_states
from probe.tiny import tiny_tokenizer

CONFIG = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}


def sentence_ids(count: int) -> list[np.ndarray]:
    """Random ids with lengths like FLORES-200's under a Llama tokenizer: median 45 tokens, a long tail."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(45), 0.45, count), 8, 300).astype(int)
    return [generator.integers(3, CONFIG["vocab_size"], n).astype(np.int32) for n in lengths]


def usual_script(model: LlamaForCausalLM, ids: list[np.ndarray]) -> np.ndarray:
    vectors = []
    with torch.no_grad():
        for row in ids:
            states = model(torch.from_numpy(row.astype(np.int64))[None], output_hidden_states=True).hidden_states
            vectors.append(torch.stack([state[0].float().mean(0) for state in states]))
    return torch.stack(vectors).numpy()


def in_given_order(loaded: LoadedModel, model: LlamaForCausalLM, ids: list[np.ndarray], size: int = 32) -> None:
    """Batches of 32 in the given order, LM head and all hidden states kept."""
    with torch.no_grad():
        for start in range(0, len(ids), size):
            rows = ids[start : start + size]
            width = max(map(len, rows))
            tokens = torch.zeros(len(rows), width, dtype=torch.int64)
            mask = torch.zeros(len(rows), width, dtype=torch.int64)
            for i, row in enumerate(rows):
                tokens[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
                mask[i, : len(row)] = 1
            states = model(tokens, attention_mask=mask, output_hidden_states=True).hidden_states
            torch.stack([(state.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for state in states])


def bare_products(model: LlamaForCausalLM, ids: list[np.ndarray], budget: int, fast: bool = False) -> None:
    """`fast`: as midprobe runs them, through oneDNN where that is the faster way."""
    lengths = np.array([len(row) for row in ids])
    layers = [module.weight for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    widths = {weight.shape[1] for weight in layers}
    inputs = {width: torch.randn(2 * budget, width).to(layers[0].dtype) for width in widths}
    with torch.inference_mode(), fast_linears(layers[0]) if fast else contextlib.nullcontext():
        for batch in batches(lengths, budget):
            tokens = len(batch) * int(lengths[batch[0]])
            for weight in layers:
                torch.nn.functional.linear(inputs[weight.shape[1]][:tokens], weight)


def random_model(dtype: torch.dtype) -> tuple[LlamaForCausalLM, LoadedModel]:
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)  # made in its dtype, so that no larger copy leaves freed memory behind
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    torch.set_default_dtype(torch.float32)
    return model, LoadedModel(model.model, tiny_tokenizer())


def peak_memory(dtype: torch.dtype, ids: list[np.ndarray], budget: int) -> float:
    """In a process of its own: memory that an earlier pass freed would hide what this one takes."""
    _, loaded = random_model(dtype)
    before = current_rss()
    reset_peak()
    pooled_states(loaded, ids, range(13), ("mean",), budget)
    return peak_rss() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--memory", help="print only the peak memory of one pass in this dtype, in MiB above the loaded model"
    )
    options = parser.parse_args()
    ids = sentence_ids(options.sentences)
    tokens, budget = sum(map(len, ids)), AUTO_BATCH_TOKENS["cpu"]
    if options.memory:
        print(peak_memory(getattr(torch, options.memory), ids, budget))
        return
    print(machine())
    for dtype in (torch.float32, torch.bfloat16):
        model, loaded = random_model(dtype)
        ours = lambda loaded=loaded: pooled_states(loaded, ids, range(13), ("mean",), budget)  # noqa: E731
        seconds = rounds(
            {
                "usual": lambda model=model: usual_script(model, ids),
                "batched": lambda loaded=loaded, model=model: in_given_order(loaded, model, ids),
                "ours": ours,
                "bare": lambda model=model: bare_products(model, ids, budget),
                "fast": lambda model=model: bare_products(model, ids, budget, fast=True),
            },
            options.rounds,
        )
        print(
            f"\n{dtype}, {len(ids)} sentences, {tokens} tokens, 12 blocks x 512 (min / median / max over {options.rounds} rounds)"
        )
        for name, label in (
            ("usual", "one sentence at a time, LM head, all states"),
            ("batched", "batches of 32 in given order, LM head, all states"),
            ("ours", "midprobe"),
            ("bare", "bare matrix products, torch's own"),
            ("fast", "bare matrix products, through oneDNN where midprobe does"),
        ):
            print(f"  {label:52} {spread([tokens / s for s in seconds[name]], '{:,.0f}')} tok/s")
        print(f"  usual / ours    {spread(ratio(seconds, 'usual', 'ours'))} times")
        print(f"  batched / ours  {spread(ratio(seconds, 'batched', 'ours'))} times")
        print(f"  bare / ours     {spread(ratio(seconds, 'bare', 'ours'))} of torch's own products")
        print(f"  fast / ours     {spread(ratio(seconds, 'fast', 'ours'))} of the limit")
        memory = subprocess.run([sys.executable, __file__, "--memory", str(dtype).removeprefix("torch."), "--sentences", str(options.sentences)], capture_output=True, text=True, check=True)  # fmt: skip
        print(f"  peak memory above the loaded model: {float(memory.stdout):.0f} MiB")


if __name__ == "__main__":
    main()
