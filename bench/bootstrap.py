"""Bootstrap intervals of every direction, layer and group against direct resampling, in one run. CPU, no model.

    python bench/bootstrap.py [--rounds 3] [--draws 10000]

35 languages x 33 layers x 997 sentences with random hits, drawn as 281 documents and as 997 sentences. The alternatives would take
hours: a loop that gathers the sentences of each draw is timed on one layer and 40 draws, scipy.stats.bootstrap on one layer and six
directions, and both are scaled to the whole, in which they are linear.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.documents import Documents
    from probe.results import RetrievalResult

LAYERS, ROWS, DOCUMENTS = 33, 997, 281
LOOP_DRAWS, SCIPY_DIRECTIONS = 40, 6


def simulated(seed: int) -> RetrievalResult:
    import numpy as np

    from data_manifests import language_sets
    from probe.results import Cells, RetrievalResult

    codes = language_sets()["paper35"]
    generator = np.random.default_rng(seed)
    mexa = np.zeros((len(codes), len(codes)))

    def cells() -> Cells:
        hits = generator.random((len(codes), len(codes), ROWS), dtype=np.float32) < 0.5
        hits[np.arange(len(codes)), np.arange(len(codes))] = False
        return Cells(np.packbits(hits, axis=2), mexa)

    settings = {"k": 4, "margin": "ratio", "depth": LAYERS - 1}
    return RetrievalResult(
        codes,
        ROWS,
        {layer: cells() for layer in range(LAYERS)},
        {"char": cells(), "length": cells()},
        settings=settings,
    )


def grouped(number: int) -> Documents:
    """Documents of nearly equal size, as FLORES-200's pages are."""
    import numpy as np

    from analysis.documents import Documents

    return Documents(np.arange(ROWS) * number // ROWS, f"{number} documents")


def intervals(result: RetrievalResult, documents: Documents, draws: int) -> None:
    """Of all directions and all means over groups, at every layer."""
    import numpy as np

    from analysis.resample import Bootstrap, Means, hit_sums

    bootstrap, means = Bootstrap.of(documents, draws), Means.of_groups(result.languages)
    groups = []
    for layer in result.layers:
        sums = hit_sums(result, layer, documents)
        bootstrap.interval(sums)
        groups.append(means.sums(sums))
    bootstrap.interval(np.stack(groups), means.directions)


def products(result: RetrievalResult, documents: Documents, draws: int) -> None:
    """The matrix products alone, their terms at hand."""
    from analysis.resample import Bootstrap, hit_sums

    bootstrap = Bootstrap.of(documents, draws)
    sums = hit_sums(result, 0, documents).reshape(-1, len(documents))
    begin = time.perf_counter()
    for _ in result.layers:
        sums @ bootstrap.weights
    products.seconds = time.perf_counter() - begin


def loop(result: RetrievalResult, documents: Documents, draws: int) -> None:
    """What one writes first: for each draw, the mean over the sentences of the documents drawn."""
    import numpy as np

    generator, hits = np.random.default_rng(0), result.hits(0)
    members = [np.flatnonzero(documents.labels == document) for document in range(len(documents))]
    means = []
    for _ in range(draws):
        drawn = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        means.append(hits[:, :, drawn].mean(axis=2))
    np.quantile(means, [0.025, 0.975], axis=0)


def scipys(result: RetrievalResult, directions: int, draws: int) -> None:
    """scipy's percentile bootstrap over sentences, a direction at a time."""
    import numpy as np
    from scipy.stats import bootstrap

    hits = result.hits(0).astype(np.float32)
    for target in range(1, 1 + directions):
        bootstrap((hits[0, target],), np.mean, n_resamples=draws, method="percentile", batch=1000, rng=0)


def alone(number: int, draws: int) -> tuple[float, float]:
    """(seconds, peak MiB of the whole process), in a process of its own, which imports what the analysis imports."""
    from common import peak_rss

    result, documents = simulated(0), grouped(number)
    begin = time.perf_counter()
    intervals(result, documents, draws)
    return time.perf_counter() - begin, peak_rss()


def reports(draws: int) -> dict[str, tuple[float, float]]:
    """Command -> (seconds, peak MiB): from results on disk to reports on disk, a base and three others."""
    from common import peak_rss, reset_peak

    from analysis.choice import choose_layer
    from analysis.compare import compare

    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("base", "bottom", "middle", "top")]
        for seed, path in enumerate(paths):
            simulated(seed).save(path)
        documents = grouped(DOCUMENTS)
        commands = {
            "layers": lambda: choose_layer(paths[0], documents=documents, draws=draws),
            "compare, one other": lambda: compare(paths[0], paths[1:2], documents=documents, draws=draws),
            "compare, three others": lambda: compare(paths[0], paths[1:], documents=documents, draws=draws),
        }
        for name, command in commands.items():
            reset_peak()
            begin = time.perf_counter()
            command().save(Path(folder) / "report")
            measured[name] = time.perf_counter() - begin, peak_rss()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=10_000)
    options = parser.parse_args()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        fresh = {number: pool.submit(alone, number, options.draws).result() for number in (DOCUMENTS, ROWS)}
        commands = pool.submit(reports, options.draws).result()

    import torch
    from common import machine, peak_gflops, ratio, rounds, spread

    print(machine())
    peak = peak_gflops(torch.float32)
    print(f"measured sgemm peak {peak:.0f} GFLOP/s")
    result = simulated(0)
    size = len(result.languages)
    directions = size * (size - 1)
    print(
        f"\n{size} languages x {LAYERS} layers x {ROWS} sentences, {options.draws} draws: intervals of {directions * LAYERS} directions "
        f"and of all group means (min / median / max over {options.rounds} rounds)"
    )
    for number in (DOCUMENTS, ROWS):
        documents = grouped(number)
        bare: list[float] = []

        def bare_products(documents: Documents = documents, bare: list[float] = bare) -> None:
            products(result, documents, options.draws)
            bare.append(products.seconds)

        contestants = {
            "midprobe": lambda documents=documents: intervals(result, documents, options.draws),
            "loop": lambda documents=documents: loop(result, documents, LOOP_DRAWS),
            "products": bare_products,
        }
        if number == ROWS:
            contestants["scipy"] = lambda: scipys(result, SCIPY_DIRECTIONS, options.draws)
        seconds = rounds(contestants, options.rounds)
        seconds["products"] = bare[1:]
        seconds["loop"] = [s * LAYERS * options.draws / LOOP_DRAWS for s in seconds["loop"]]
        if "scipy" in seconds:
            seconds["scipy"] = [s * LAYERS * directions / SCIPY_DIRECTIONS for s in seconds["scipy"]]
        print(f"  {documents.grouping if number < ROWS else f'{ROWS} sentences'}")
        for name, values in seconds.items():
            print(f"    {name:9} {spread(values)} s{' (scaled)' if name in ('loop', 'scipy') else ''}")
        for name in ("loop", "scipy"):
            if name in seconds:
                print(f"    {name} / midprobe  {spread(ratio(seconds, name, 'midprobe'), '{:.0f}')} times")
        flops = 2 * size * size * number * options.draws * LAYERS / 1e9
        print(f"    share of the sgemm peak  {spread([flops / s / peak for s in seconds['midprobe']])}, ", end="")
        print(f"the products alone {spread([flops / s / peak for s in seconds['products']])}")
        print(f"    alone in a fresh process: {fresh[number][0]:.2f} s, peak {fresh[number][1]:.0f} MiB in all")
    print("  from results on disk to a report on disk (one run)")
    for name, (taken, peak_memory) in commands.items():
        print(f"    {name:22} {taken:.2f} s, peak {peak_memory:.0f} MiB in all")


if __name__ == "__main__":
    main()
