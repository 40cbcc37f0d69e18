"""What the benches share: rounds in turn, a table of ratios, and the machine they ran on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def rounds(contestants: Mapping[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Seconds of each contestant in `count` rounds, one after the other within a round, after one warm-up round.

    In turn, so that a machine whose speed drifts slows all of them alike and ratios within a round hold.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(count + 1):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def spread(values: list[float], form: str = "{:.2f}") -> str:
    """min / median / max."""
    return " / ".join(form.format(value) for value in (min(values), statistics.median(values), max(values)))


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> list[float]:
    """How many times as long `slow` took as `fast`, round by round."""
    return [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def peak_gflops(dtype: object, size: int = 4096, repeats: int = 5) -> float:
    """The best of the matrix products at hand: torch (MKL), torch through oneDNN, numpy's BLAS (float32 only)."""
    import torch

    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    contestants: list[Callable[[], object]] = [lambda: a @ b]
    if dtype == torch.float32:
        ma, mb = a.to_mkldnn(), b.to_mkldnn()
        contestants += [lambda: torch.nn.functional.linear(ma, mb), lambda: a.numpy() @ b.numpy()]
    best = float("inf")
    for run in contestants:
        run()
        for _ in range(repeats):
            begin = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e9


def machine() -> str:
    """One paragraph: processor, threads, versions, BLAS libraries."""
    import threadpoolctl
    import torch

    from probe.provenance import versions

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    blas = {
        f"{lib['internal_api']} {lib['version']} {lib.get('architecture') or ''}".strip()
        for lib in threadpoolctl.threadpool_info()
    }
    names = ("python", "torch", "transformers", "faiss-cpu", "numpy", "h5py")
    packages = ", ".join(f"{name} {version}" for name, version in versions().items() if name in names)
    return f"{model}, {torch.get_num_threads()} threads; {packages}; {', '.join(sorted(blas))}"


def current_rss() -> float:
    """MiB of this process now."""
    return _status("VmRSS")


def peak_rss() -> float:
    """MiB of this process at its highest since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the kernel measure the peak anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(field)
