"""What this CPU multiplies fast: bf16, and float32 through oneDNN where torch's default leaves half of it unused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


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
    if weights.device.type == "cpu" and weights.dtype == torch.float32 and default_is_narrow():
        with _OneDNNLinears():
            yield
    else:
        yield


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
