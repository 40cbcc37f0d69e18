"""What `probe doctor` reports, and the broken installations it must find."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from probe.doctor import examine

FAISS = ("faiss-cpu", "faiss-gpu")


def pretend_installed(folder: Path, *distributions: str) -> None:
    """Metadata as pip writes it, without the package."""
    for name in distributions:
        info = folder / f"{name.replace('-', '_')}-1.14.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.14.0\n")


def faiss_problems() -> list[str]:
    return [problem for problem in examine()["problems"] if "faiss" in problem]


def test_the_report_names_what_is_here() -> None:
    import torch

    report = examine()
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["python"] == sys.version.split()[0]
    assert Path(report["folder"]) == Path(__file__).resolve().parents[1]
    assert len(report["devices"]) == torch.cuda.device_count()
    assert report["cpu"]["cores"] >= 1
    assert report["dtype_auto"] in ("float32", "bfloat16")
    assert report["blas"]
    assert str(Path.cwd()) in report["free_disk_gb"]
    assert all(gigabytes > 0 for gigabytes in report["free_disk_gb"].values())
    assert json.loads(json.dumps(report)) == report


def test_faiss_is_described_by_its_build() -> None:
    pytest.importorskip("faiss")
    faiss = examine()["faiss"]
    assert faiss["build"]
    assert set(faiss["installed"]) <= set(FAISS)
    assert faiss["gpus"] >= 0


def test_two_faiss_installations_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    assert faiss_problems() == []
    pretend_installed(tmp_path, *FAISS)
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = faiss_problems()
    assert "faiss-cpu and faiss-gpu are both installed" in problem
    assert "uninstall both" in problem


def test_missing_faiss_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same environment through links, all but faiss."""
    kept = []
    for folder in map(Path, sys.path):
        if folder.name not in ("site-packages", "dist-packages"):
            kept.append(str(folder))
            continue
        for path in folder.iterdir():
            link = tmp_path / path.name
            if not path.name.startswith("faiss") and not link.exists():
                link.symlink_to(path)
    monkeypatch.setattr(sys, "path", [*kept, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    report = examine()
    assert report["faiss"] == {"installed": [], "build": None, "gpus": 0}
    assert "torch" in report["versions"]
    (problem,) = [problem for problem in report["problems"] if "faiss" in problem]
    assert "midprobe[cpu]" in problem
    assert "--backend torch works" in problem


def test_a_faiss_that_cannot_be_imported_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a module that lies before the real one and fails, as a build without its libraries does."""
    pytest.importorskip("faiss")
    (tmp_path / "faiss.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss")
    (problem,) = faiss_problems()
    assert "installed but cannot be imported (libcudart.so.12" in problem


def test_idle_cores_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    import torch

    threads = torch.get_num_threads()
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core has no idle ones")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    try:
        assert any("OMP_NUM_THREADS=1" in problem for problem in examine()["problems"])
    finally:
        torch.set_num_threads(threads)


def test_local_copies_of_corpora_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(tmp_path))
    assert examine()["local_corpora"] == []
    (tmp_path / "flores200/dev").mkdir(parents=True)
    report = examine()
    assert report["local_corpora"] == ["flores200"]
    assert report["data_folder"] == str(tmp_path)
