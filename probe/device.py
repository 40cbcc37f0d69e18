"""Where and in which dtype a model runs, and what this CPU multiplies fast."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from probe.errors import ModelError


def choose_device(device: str) -> torch.device:
    """`auto` = the first GPU where one is visible, else the CPU.

    Raises:
        ModelError: a GPU that is not there.
    """
    if device == "auto":  # torchrun gives each process of a machine its own GPU
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in {"cpu", "cuda"} or (chosen.type == "cpu" and chosen.index is not None):
        raise ModelError(f"--device {device}", "auto, cpu, cuda or cuda:N", "give one of these")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"--device {device} but {torch.cuda.device_count()} GPUs are visible",
            "a visible GPU",
            "see `probe doctor`, or use --device cpu",
        )
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` = bf16 where the hardware multiplies it faster than float32, else float32."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    spelled = {str(kind).removeprefix("torch."): kind for kind in named.values()}  # as manifests write them
    if dtype in named | spelled:
        return (named | spelled)[dtype]
    if dtype != "auto":
        raise ModelError(f"--dtype {dtype}", f"auto, {', '.join(named)}", "give one of these")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if has_bf16() else torch.float32


def has_bf16() -> bool:
    """Whether this CPU has bf16 dot-product or tile instructions; without them bf16 is emulated and slower."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


@cache
def default_is_narrow() -> bool:
    """Whether torch's own float32 products use narrower vectors than this CPU has.

    They come from MKL, which takes AVX-512 on Intel's processors only; oneDNN takes it wherever it is and is about twice
    as fast there. The rule looks at the processor and measures nothing, so that a resumed run multiplies as the first.
    """
    info = Path("/proc/cpuinfo")
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
    return wide and info.exists() and "GenuineIntel" not in info.read_text(encoding="utf-8")


@contextlib.contextmanager
def fast_linears(weights: torch.Tensor) -> Iterator[None]:
    """Linear layers run through oneDNN inside, where that is the faster way for weights of this dtype and device."""
    # oneDNN's tensors have no backward through a reshape, and autocast would narrow what this computes in float32.
    inference = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    if inference and weights.device.type == "cpu" and weights.dtype == torch.float32 and default_is_narrow():
        with _OneDNNLinears():
            yield
    else:
        yield


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Torch's, of the CPU and, where that is another, the device."""
    return {"cpu": torch.get_rng_state()} | (
        {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    )


def restore_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Of `random_state`; what was saved without a GPU leaves the device's as it is."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class _OneDNNLinears(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear:
            return _onednn_linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _onednn_linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The copies into oneDNN's tensors cost a fraction of the product, and no memory stays taken."""
    rows = states.reshape(-1, states.shape[-1])
    product = torch.nn.functional.linear(
        rows.to_mkldnn(), weight.to_mkldnn(), None if bias is None else bias.to_mkldnn()
    )
    return product.to_dense().reshape(*states.shape[:-1], -1)
