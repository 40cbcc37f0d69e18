"""The main job on real data: FLORES-200 dev, 35 languages x 997 sentences, every layer, all 1,190 directions."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

RunProbe = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.shared


def probe_flores(run_probe: RunProbe, shared_data: Path, folder: Path, model: str | Path) -> dict:
    """Both commands as a user runs them; the summary."""
    env = {"MIDPROBE_DATA": str(shared_data)}
    store, result = folder / "store", folder / "result"
    done = run_probe(
        "extract",
        "--model",
        model,
        "--corpus",
        "flores200",
        "--langs",
        "paper35",
        "--out",
        store,
        env=env,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    done = run_probe("retrieve", store, "--out", result, "--json", env=env, timeout=1500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def curve(name: str, summary: dict) -> str:
    """The layer curve as a line; the test run prints it at its end."""
    percent = [f"{100 * row['mean']:.1f}" for row in summary["layers"]]
    controls = ", ".join(f"{control} {100 * row['mean']:.1f}" for control, row in summary["controls"].items())
    return f"{name}, FLORES-200 dev, {summary['directions']} directions, accuracy by layer: {' '.join(percent)} % ({controls})"


def test_untrained_model_stays_below_surface_form(
    run_probe: RunProbe, shared_data: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    summary = probe_flores(run_probe, shared_data, tmp_path, "builtin:tiny")
    record_property("layer curve", curve("builtin:tiny", summary))
    assert summary["rows"] == 997
    assert summary["directions"] == 1190
    assert [row["layer"] for row in summary["layers"]] == [0, 1, 2, 3, 4]
    assert summary["duplicate_rows"] == {"jav_Latn": 1, "urd_Arab": 1}
    best = max(row["mean"] for row in summary["layers"])
    assert best < 0.1 < summary["controls"]["char"]["mean"]
    assert summary["controls"]["char"]["same_script"] > summary["controls"]["char"]["cross_script"]


def test_pretrained_encoder_aligns_best_at_its_last_layer(
    run_probe: RunProbe, shared_data: Path, minilm: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """all-MiniLM-L6-v2 was trained to place English paraphrases together in its last layer."""
    summary = probe_flores(run_probe, shared_data, tmp_path, minilm)
    record_property("layer curve", curve("all-MiniLM-L6-v2", summary))
    assert [row["layer"] for row in summary["layers"]] == list(range(7))
    assert summary["best_layer"] == 6
    last, before = summary["layers"][6], summary["layers"][5]
    assert last["mean"] > 3 * before["mean"]
    assert last["to_english"] > last["mean"]
    assert last["mean"] < summary["controls"]["char"]["mean"]  # an English encoder stays below surface form
