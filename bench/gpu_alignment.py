"""A task step and an alignment step of training on a GPU: a random-weight Llama-3-8B in bf16 with the LoRA of the paper.

    python bench/gpu_alignment.py [--blocks 32] [--width 4096] [--rows 32] [--spread 0] [--rounds 10]
    python bench/gpu_alignment.py --device cpu --blocks 4 --width 512 --vocabulary 4096 --rows 4 --rounds 3 [--dtype fp32]

A step is an update of one micro-batch: forward, backward, clipping, AdamW; the batch lies on the device. 32 pairs of 48
tokens a sentence, or 32 examples of 128 tokens whose last 32 are the response. The usual steps are what a loop over
transformers and PEFT does: its forward with the logits of all tokens, or with all hidden states, of which it takes the middle
one. Both run the same modules under the same autocast, and must begin with the same loss.

Prints tokens a second, the share of the bf16 peak (of the data sheet where the GPU is known, and of a large matrix product
in the same run) and peak memory, with and without gradient checkpointing. Padding is no token. FLOPs are those that the
objective needs (`flops_needed`), whoever pursues it: logits of the prompt, blocks above the aligned one, padding and what
checkpointing computes again lower the share. The second command tries the script out on a CPU, where memory is not taken.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from common import machine, peak_gflops, ratio, rounds, spread
from gpu import bf16_peak
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM

from align.adapter import LoraSettings, add_lora
from align.loss import info_nce
from align.recipe import Recipe
from align.trainable import IGNORED, PairBatch, TaskBatch, Trainable, checkpoint_blocks
from probe.model import LoadedModel
from probe.provenance import versions
from probe.tiny import tiny_tokenizer

RECIPE = Recipe()
SENTENCE, EXAMPLE, RESPONSE = 48, 128, 32

DATA_SHEET = {
    "NVIDIA A100-SXM4-40GB": 312, "NVIDIA A100-SXM4-80GB": 312, "NVIDIA A100-PCIE-40GB": 312, "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA H100 80GB HBM3": 1979 / 2, "NVIDIA H100 PCIe": 1513 / 2, "NVIDIA H100 NVL": 1671 / 2,
    "NVIDIA H200": 1979 / 2, "NVIDIA H200 NVL": 1671 / 2, "NVIDIA L40S": 362,
}  # fmt: skip
"""TFLOP/s of dense bf16 products by NVIDIA's data sheets; those of Hopper give twice that, with sparsity. By whole names,
since a slice of a GPU (MIG) is slower."""

TASK, USUAL_TASK = "task step", "usual task step, all logits"
ALIGN, USUAL_ALIGN, FULL = "alignment step", "usual alignment step, all blocks", "full LM loss of the pairs"


@dataclass(frozen=True)
class Step:
    loss: Callable[[], Tensor]
    """Forward alone."""
    tokens: int
    flops: float


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("not measured: no GPU")
        return
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    peaks = matrix_peaks(dtype, device)
    model = llama(options.blocks, options.width, options.vocabulary, dtype, device)
    steps = contestants(model, options.rows, options.spread, device)
    loaded = allocated(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RECIPE.lr, weight_decay=RECIPE.weight_decay)

    def autocast() -> torch.autocast:
        """As accelerate does it around the forward pass in training."""
        return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)

    def update(step: Step) -> None:
        with autocast():
            loss = step.loss()
        loss.backward()
        clip_grad_norm_(trained, RECIPE.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    print(f"{name_of(device)}; {machine()}; peft {versions()['peft']}")
    print(
        f"{options.blocks} blocks of width {options.width}, vocabulary {options.vocabulary:,}, {options.dtype}; "
        f"LoRA of {sum(parameter.numel() for parameter in trained):,} parameters in float32; block {options.blocks // 2} aligned"
    )
    print(
        f"{options.rows} pairs, {steps[ALIGN].tokens:,} tokens; {options.rows} examples, {steps[TASK].tokens:,} tokens"
    )
    print(f"{options.dtype} peak, TFLOP/s: {', '.join(f'{value:.4g} {name}' for name, value in peaks.items())}")
    with torch.no_grad(), autocast():
        print(f"first losses: {', '.join(f'{name} {loss:.4f}' for name, loss in first_losses(steps).items())}")
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_blocks(model.model)
        runs = {name: partial(update, step) for name, step in steps.items()}
        memory = {name: peak_memory(run, optimizer) for name, run in runs.items()} if device.type == "cuda" else {}
        seconds = rounds({name: run for name, run in runs.items() if memory.get(name, 0.0) is not None}, options.rounds)
        print(f"\n{'with' if checkpointed else 'without'} gradient checkpointing; s a step: min / median / max")
        for name, step in steps.items():
            print(f"  {name:34} {described(step, seconds.get(name), peaks, memory.get(name), loaded)}")
        for line in comparisons(steps, seconds, memory, loaded):
            print(f"  {line}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument(
        "--width", type=int, default=4096, help="a multiple of 512: four heads of 128 share keys and values"
    )
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--rows", type=int, default=RECIPE.micro_batch, help="pairs, or examples, a micro-batch")
    parser.add_argument("--spread", type=float, default=0.0, help="of log lengths: 0 = all rows alike and no padding")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    options = parser.parse_args()
    if options.blocks < 2 or options.width < 512 or options.width % 512 or options.rows < 2:
        parser.error("at least 2 blocks, 2 rows, and a width that is a multiple of 512")
    if options.device == "cuda" and options.dtype == "fp32":
        parser.error("on a GPU the share is of the bf16 peak: --dtype fp32 is for --device cpu")
    return options


def llama(blocks: int, width: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Trainable:
    """Llama 3 (the 8B at 32 blocks of width 4096) with random weights, frozen, and a fresh LoRA; in training mode."""
    heads = width // 128
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=width * 7 // 2, num_hidden_layers=blocks, num_attention_heads=heads,
        num_key_value_heads=heads // 4, max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        causal = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    lora = RECIPE.lora
    add_lora(causal, LoraSettings(lora.r, lora.alpha, lora.dropout), RECIPE.seed)
    return Trainable(causal, LoadedModel(causal.model, tiny_tokenizer())).train()


# ---- steps -------------------------------------------------------------------------------------------------------


def contestants(model: Trainable, rows: int, sigma: float, device: torch.device) -> dict[str, Step]:
    causal: Any = model.model
    depth = model.loaded.depth
    middle, vocabulary = depth // 2, causal.config.vocab_size
    generator = torch.Generator().manual_seed(1)
    ids, mask = (part.to(device) for part in random_rows(rows, EXAMPLE, RESPONSE + 1, sigma, vocabulary, generator))
    response = mask & ~pad(mask, (0, RESPONSE))[:, RESPONSE:]  # the last tokens of each row
    labels = ids.masked_fill(~response, IGNORED)
    task = TaskBatch(ids, mask, labels)
    sides = [random_rows(rows, SENTENCE, 2, sigma, vocabulary, generator) for _ in range(2)]
    pairs = PairBatch(*(part.to(device) for side in sides for part in side))
    width = max(pairs.source_ids.shape[1], pairs.target_ids.shape[1])
    both, both_mask = (
        torch.cat([pad(side, (0, width - side.shape[1])) for side in two]) for two in (pairs[::2], pairs[1::2])
    )
    both_labels = both.masked_fill(~both_mask, IGNORED)

    def usual_language_model(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return causal(input_ids=ids, attention_mask=mask.long(), labels=labels, use_cache=False).loss

    def aligned() -> Tensor:
        sources, targets = model(pairs=pairs, layers=[middle]).states[:, :, 0].unbind(1)
        return info_nce(sources, targets, RECIPE.align.temperature)

    def usual_alignment() -> Tensor:
        outputs = causal(input_ids=both, attention_mask=both_mask.long(), output_hidden_states=True, use_cache=False)
        kept = both_mask.unsqueeze(-1)
        means = (outputs.hidden_states[middle].float() * kept).sum(1) / kept.sum(1)
        sources, targets = means.chunk(2)
        return info_nce(sources, targets, RECIPE.align.temperature)

    learnt, both_learnt = (int((each[:, 1:] != IGNORED).sum()) for each in (labels, both_labels))
    tokens, both_tokens = int(mask.sum()), int(both_mask.sum())
    task_flops = flops_needed(model, depth, mask, learnt)
    align_flops = flops_needed(model, middle, both_mask, 0)
    return {
        TASK: Step(lambda: model(task=task).nll / learnt, tokens, task_flops),
        USUAL_TASK: Step(lambda: usual_language_model(ids, mask, labels), tokens, task_flops),
        ALIGN: Step(aligned, both_tokens, align_flops),
        USUAL_ALIGN: Step(usual_alignment, both_tokens, align_flops),
        FULL: Step(
            lambda: usual_language_model(both, both_mask, both_labels),
            both_tokens,
            flops_needed(model, depth, both_mask, both_learnt),
        ),
    }


def random_rows(
    rows: int, tokens: int, least: int, sigma: float, vocabulary: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the right: `tokens` a row, or lengths from a log-normal distribution with that mean."""
    factors = torch.exp(sigma * torch.randn(rows, generator=generator) - sigma**2 / 2)
    lengths = (tokens * factors).round().long().clamp(min=least)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.randint(0, vocabulary, mask.shape, generator=generator), mask


def flops_needed(model: Trainable, blocks: int, mask: Tensor, learnt: int) -> float:
    """Floating-point operations of a forward and backward pass over the first blocks, with the head for `learnt` tokens.

    Two an operand pair (multiply, add):

    * a frozen weight of a linear layer, a token: 2 forward + 2 for the gradient of its input; it needs none of its own.
      So 4 N for N weights, where a full fine-tuning takes 6 N;
    * a weight of the LoRA, a token: 2 more for its own gradient, 6;
    * less 2 each where nothing below is trained: the projections that read the embeddings (q, k, v of block 1), and the A
      of their LoRA;
    * attention, a query and a key that it may see: scores and values, 4 d forward and 8 d backward for heads of width d
      together;
    * the head, a token that is learnt: 4 a weight.

    Norms, activations, rotary embedding, softmax, the loss and AdamW are left out. A backward pass of attention that
    computes its scores again (flash) does more than is counted.
    """
    lower = model.loaded.blocks[:blocks]
    matrices = {name: weight for name, weight in lower.named_parameters() if weight.ndim == 2}
    adapter = sum(weight.numel() for name, weight in matrices.items() if ".lora_" in name)
    frozen = sum(weight.numel() for weight in matrices.values()) - adapter
    lowest = sum(
        weight.numel()
        for name, weight in matrices.items()
        if name.startswith(tuple(f"0.self_attn.{projection}_proj." for projection in "qkv")) and ".lora_B" not in name
    )
    causal: Any = model.model
    heads_width = causal.config.num_attention_heads * causal.config.head_dim
    lengths = mask.sum(1).double()
    tokens, seen = float(lengths.sum()), float((lengths * (lengths + 1) / 2).sum())
    attention = 12 * blocks * heads_width * seen
    head = 4 * causal.get_output_embeddings().weight.numel() * learnt
    return (4 * frozen + 6 * adapter - 2 * lowest) * tokens + attention + head


# ---- measurements ------------------------------------------------------------------------------------------------


def matrix_peaks(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """TFLOP/s of a large matrix product, and of the data sheet where the GPU is known."""
    if device.type == "cpu":
        return {"measured": peak_gflops(dtype) / 1e3}
    told = DATA_SHEET.get(torch.cuda.get_device_name())
    return {"measured": bf16_peak(), **({"data sheet": told} if told else {})}


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"


def allocated(device: torch.device) -> float:
    """GiB of tensors on the GPU now."""
    return torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else 0.0


def first_losses(steps: Mapping[str, Step]) -> dict[str, Tensor]:
    """The losses of the untrained model, whose LoRA changes nothing yet, dropout or not.

    Raises:
        AssertionError: a usual step that computes another loss than ours.
    """
    losses = {name: step.loss() for name, step in steps.items()}
    for ours, usual in ((TASK, USUAL_TASK), (ALIGN, USUAL_ALIGN)):
        torch.testing.assert_close(losses[usual].float(), losses[ours].float(), rtol=1e-2, atol=1e-2)
    return losses


def peak_memory(run: Callable[[], object], optimizer: torch.optim.Optimizer) -> float | None:
    """GiB allocated at the highest of an update, AdamW's moments included; None where memory ends."""
    peak = None
    try:
        run()  # makes the moments
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = torch.cuda.max_memory_allocated() / 2**30
    except torch.OutOfMemoryError:
        pass  # what the failed step holds is freed below, once nothing refers to it
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    return peak


def described(
    step: Step, times: list[float] | None, peaks: Mapping[str, float], memory: float | None, loaded: float
) -> str:
    if times is None:
        return "out of memory"
    median = statistics.median(times)
    reached = step.flops / median / 1e12
    shares = ", ".join(f"{reached / peak:.1%} of the {name} peak" for name, peak in peaks.items())
    text = f"{spread(times, '{:.4f}')}; {step.tokens / median:,.0f} tok/s; {reached:.4g} TFLOP/s, {shares}"
    return text if memory is None else f"{text}; {memory - loaded:.2f} GiB above the loaded model, {memory:.2f} in all"


def comparisons(
    steps: Mapping[str, Step], seconds: Mapping[str, list[float]], memory: Mapping[str, float | None], loaded: float
) -> Iterator[str]:
    above = {name: peak - loaded for name, peak in memory.items() if peak is not None}
    for slow, fast in ((USUAL_TASK, TASK), (USUAL_ALIGN, ALIGN), (FULL, ALIGN)):
        if slow in seconds and fast in seconds:
            line = f"{slow} / {fast}, times: {spread(ratio(seconds, slow, fast))}"
            if slow == FULL:
                line += f" ({steps[slow].flops / steps[fast].flops:.2f} by FLOPs)"
            if above:
                line += f"; {above[slow] / above[fast]:.2f} times the memory above the model"
            yield line


if __name__ == "__main__":
    main()
