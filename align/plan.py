"""What a training run will do, known before its weights are loaded: device, layers, data, and what it may not change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from align.data import TrainingData, read_training_data
from align.recipe import Recipe, as_tree
from align.sharded import share_out_weights
from align.trainable import DDP_OPTIONS
from probe.device import choose_device, choose_dtype
from probe.errors import AlignError
from probe.layers import places
from probe.model import ModelSource, open_model


@dataclass(frozen=True)
class Plan:
    """A run before its weights are loaded."""

    recipe: Recipe
    accelerator: Accelerator
    dtype: torch.dtype
    """Of the frozen weights and the products; the adapter and the losses are float32."""
    source: ModelSource
    layers: tuple[int, ...]
    micro_batches: int
    """Of a rank an update."""
    data: TrainingData

    @property
    def identity(self) -> dict[str, Any]:
        """What a run may not change when it goes on, as JSON values."""
        identity = {
            "recipe": as_tree(self.recipe),
            "model": dict(self.source.identity),
            "data": self.data.digest,
            "layers": self.layers,
            "dtype": str(self.dtype).removeprefix("torch."),
            "processes": self.accelerator.num_processes,
        }
        return dict(json.loads(json.dumps(identity)))


def make_plan(recipe: Recipe, out: Path, device: str, trust_remote_code: bool) -> Plan:
    """Refuse what cannot be, and read the data.

    Raises:
        AlignError: data, layers or settings that cannot be.
        ModelError: no such model.
    """
    recipe.require_data()
    chosen = choose_device(device)
    dtype = choose_dtype(recipe.dtype, chosen)
    accelerator = _accelerator(recipe, out, chosen, dtype)
    source = open_model(recipe.model, recipe.revision, trust_remote_code=trust_remote_code)
    layers = resolve_layers(recipe.align.layers, source.depth) if recipe.alternation != "task" else ()
    micro_batches = _micro_batches(recipe, accelerator.num_processes)
    data = read_training_data(recipe, source, accelerator.process_index, accelerator.num_processes)
    return Plan(recipe, accelerator, dtype, source, layers, micro_batches, data)


def _accelerator(recipe: Recipe, out: Path, chosen: torch.device, dtype: torch.dtype) -> Accelerator:
    """One for this run: accelerate keeps device and precision for the whole process, and would give those of the last."""
    if recipe.track != "none" and find_spec(recipe.track) is None:
        raise AlignError(
            f"track: {recipe.track}, which is not installed", recipe.track, "pip install 'midprobe[track]'"
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(**DDP_OPTIONS)],
        log_with=None if recipe.track == "none" else recipe.track,
        project_dir=str(out),
    )
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise AlignError(
            f"accelerate set to {accelerator.distributed_type.value}",
            "one process, or data-parallel ones",
            "start with torchrun, without a configuration of accelerate; --set sharding=fsdp shares out the weights",
        )
    if recipe.sharding == "fsdp":
        if accelerator.num_processes == 1:
            raise AlignError(
                "sharding: fsdp in one process",
                "several, which share out the weights",
                "start with torchrun --nproc-per-node N -m probe train, or give --set sharding=none",
            )
        share_out_weights(accelerator)
    return accelerator


def resolve_layers(wanted: Sequence[int | str], depth: int) -> tuple[int, ...]:
    """Numbers of blocks; `bottom`, `middle` and `top` are a quarter, a half and all of the depth (8, 16, 32 of 32).

    Raises:
        AlignError: a layer that the model does not have.
    """
    known = places(depth) | {str(layer): layer for layer in range(1, depth + 1)}
    for layer in wanted:
        if str(layer) not in known:
            raise AlignError(
                f"align.layers: {layer}",
                f"bottom, middle, top, or blocks 1..{depth}",
                "give --set align.layers=[middle]",
            )
    return tuple(sorted({known[str(layer)] for layer in wanted}))


def _micro_batches(recipe: Recipe, ranks: int) -> int:
    together = recipe.micro_batch * ranks
    if recipe.batch % together:
        raise AlignError(
            f"batch {recipe.batch} of micro-batches of {recipe.micro_batch} on {ranks} processes",
            f"a multiple of {together}",
            f"give --set batch={max(together, recipe.batch // together * together)}",
        )
    return recipe.batch // together
