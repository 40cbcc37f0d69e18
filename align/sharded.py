"""Weights shared out over ranks (FSDP2, through accelerate): a block is whole only while it runs."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator, ParallelismConfig, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from align.trainable import Trainable


def share_out_weights(accelerator: Accelerator) -> None:
    """Have `prepare_sharded` share out over all processes of this accelerator, of which there are at least 2.

    `Accelerator(fsdp_plugin=...)` would pass over the CPU, and would tell every later accelerator of the process to shard,
    by the environment. So its state is set here, on every device alike.
    """
    state, parallelism = accelerator.state, ParallelismConfig(dp_shard_size=accelerator.num_processes)
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, reshard_after_forward=True, auto_wrap_policy="transformer_based_wrap"
    )
    state.parallelism_config, state.device_mesh = parallelism, parallelism.get_device_mesh(accelerator.device.type)
    # Both: accelerate renews the first from the second, and would then average gradients at every backward.
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def prepare_sharded(accelerator: Accelerator, trainable: Trainable, optimizer: Optimizer) -> tuple[Any, Any]:
    """Share out, in place: each block is a unit, embeddings and head are another; the optimizer follows.

    Every rank has read the whole model, best into the CPU's memory. Its device then holds its part of each unit, the block
    that runs, and embeddings and head from a forward pass to its backward. Frozen weights keep the dtype that they have,
    the adapter its float32; products are narrowed as without sharding.
    """
    plugin, blocks = accelerator.state.fsdp_plugin, trainable.loaded.blocks
    plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks})
    model, optimizer = accelerator.prepare(trainable, optimizer)
    model.forward = accelerator.autocast()(model.forward)  # which accelerate adds to every other model
    return model, optimizer


def whole(tensor: Tensor) -> Tensor:
    """A tensor from the parts of all ranks, which call this together; one that is not shared out as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_for(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Of a whole tensor this rank's part, shared out as the parameter of the same shape is; all ranks call this together."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with whole tensors: the same whether the parameters are shared out or not."""
    held = optimizer.state_dict()
    moments = {number: {name: whole(value) for name, value in each.items()} for number, each in held["state"].items()}
    return {**held, "state": moments}


def load_optimizer_state(optimizer: Optimizer, held: dict[str, Any]) -> None:
    """Go on from what `optimizer_state` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {name: part_for(parameters[number], value) for name, value in each.items()}
        for number, each in held["state"].items()
    }
    optimizer.load_state_dict({**held, "state": moments})
