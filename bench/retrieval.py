"""Retrieval against LASER's own xSIM, in one run: 35 languages x 997 x 4096 float32. CPU.

    python bench/retrieval.py --laser PATH_OF_A_LASER_CHECKOUT [--rounds 3] [--coretype SKYLAKEX]

LASER's time a direction is taken over a sample of directions, ours over all 1,190. OPENBLAS_CORETYPE chooses the kernels of
the OpenBLAS that FAISS and numpy use; SKYLAKEX is the setting kindest to LASER on AMD processors with AVX-512.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

LANGUAGES, ROWS, DIM = 35, 997, 4096


def load_laser(checkout: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("laser_xsim", checkout / "source" / "xsim.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--laser", type=Path, help="checkout of facebookresearch/LASER; without it only our backends are timed"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directions", type=int, default=60, help="sample on which LASER is timed")
    parser.add_argument("--coretype", default="SKYLAKEX", help="OPENBLAS_CORETYPE; empty = what OpenBLAS detects")
    options = parser.parse_args()
    if (
        options.coretype and os.environ.get("OPENBLAS_CORETYPE") != options.coretype
    ):  # read once, when OpenBLAS is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_CORETYPE": options.coretype})

    import numpy as np
    import torch
    from common import current_rss, machine, peak_gflops, peak_rss, ratio, reset_peak, rounds, spread

    from data_manifests import language_sets
    from probe import retrieve_all

    generator = np.random.default_rng(0)
    meaning = generator.standard_normal(
        (ROWS, DIM), dtype=np.float32
    )  # shared by all languages, so that hits are neither 0 nor 1
    arrays = {
        code: meaning + 4 * generator.standard_normal((ROWS, DIM), dtype=np.float32)
        for code in language_sets()["paper35"]
    }
    directions = LANGUAGES * (LANGUAGES - 1)
    print(machine())
    print(f"OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', '(not set)')}")
    peak = peak_gflops(torch.float32)
    print(f"measured sgemm peak {peak:.0f} GFLOP/s")

    def ours(backend: str) -> object:
        return retrieve_all(arrays, backend=backend, device="cpu")

    contestants = {"torch": lambda: ours("torch"), "faiss": lambda: ours("faiss")}
    if options.laser:
        laser = load_laser(options.laser)
        pairs = [(a, b) for a in arrays for b in arrays if a != b]
        sample = [pairs[i] for i in generator.choice(len(pairs), options.directions, replace=False)]

        def laser_sample() -> None:
            for a, b in sample:
                laser.xSIM(
                    arrays[a].copy(), arrays[b].copy(), margin="ratio", k=4
                )  # it normalises its arguments in place

        contestants["laser"] = laser_sample
    memory = {}
    for backend in ("torch", "faiss"):
        before = current_rss()
        reset_peak()
        result = ours(backend)
        memory[backend] = peak_rss() - before
        print(f"{backend}: accuracy {100 * result.curve()[0]:.2f} %")
    seconds = rounds(contestants, options.rounds)
    if options.laser:
        seconds["laser"] = [s * directions / options.directions for s in seconds["laser"]]
    layer = LANGUAGES * ROWS * DIM * 4 / 2**20
    print(
        f"\n{LANGUAGES} languages x {ROWS} x {DIM} float32 ({layer:.0f} MiB), {directions} directions (min / median / max over {options.rounds} rounds)"
    )
    for name, values in seconds.items():
        print(
            f"  {name:6} {spread([1e3 * s / directions for s in values])} ms a direction, {spread(values, '{:.1f}')} s a layer"
        )
    if options.laser:
        for name in ("torch", "faiss"):
            print(f"  laser / {name}  {spread(ratio(seconds, 'laser', name))} times")
    flops = directions / 2 * 2 * ROWS * ROWS * DIM / 1e9
    print(f"  torch: {spread([flops / s / peak for s in seconds['torch']])} of the sgemm peak (one product a pair)")
    for backend, above in memory.items():
        print(f"  {backend}: peak memory {above:.0f} MiB above the layer itself")


if __name__ == "__main__":
    main()
