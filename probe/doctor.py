"""What is installed, which devices and backends there are; what is wrong and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any

from data_manifests import corpus_manifest, corpus_names
from probe import provenance
from probe.sources import local_data


def examine() -> dict[str, Any]:
    """Facts and faults of this installation; `problems` is a list of one-line texts, empty where all is well."""
    import torch

    from probe.device import choose_dtype, has_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    problems: list[str] = []
    free = {str(folder): round(shutil.disk_usage(folder).free / 1e9, 1) for folder in _folders()}
    report: dict[str, Any] = {
        "versions": provenance.versions(),
        "folder": str(Path(__file__).parents[1]),
        "devices": [
            {"name": torch.cuda.get_device_name(i), "memory_gb": round(torch.cuda.mem_get_info(i)[1] / 1e9, 1)}
            for i in range(torch.cuda.device_count())
        ],
        "cpu": {"cores": os.cpu_count(), "torch_threads": torch.get_num_threads(), "bf16_instructions": has_bf16()},
        "dtype_auto": str(choose_dtype("auto", device)).removeprefix("torch."),
        "blas": _blas(),
        "faiss": _faiss(problems),
        "free_disk_gb": free,
        "data_folder": str(local_data()),
        "local_corpora": [
            name
            for name in corpus_names()
            if any(
                (local_data() / source.path.split("{")[0]).exists()
                for source in corpus_manifest(name).sources
                if source.kind == "folder" and source.path[0] != "{"
            )
        ],
    }
    _check_torch(torch, problems)
    for folder, gigabytes in free.items():
        if gigabytes < 5:
            problems.append(
                f"{gigabytes} GB free at {folder}: a store of an 8B model takes 19 GB; free some or give --out elsewhere"
            )
    report["problems"] = problems
    return report


def _check_torch(torch: Any, problems: list[str]) -> None:
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        problems.append(
            "an NVIDIA driver is here but torch sees no GPU: install a CUDA build of torch that the driver supports, or unset CUDA_VISIBLE_DEVICES"
        )
    if torch.get_num_threads() < (os.cpu_count() or 1) and "OMP_NUM_THREADS" in os.environ:
        problems.append(
            f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} leaves cores idle: unset it for one process on one machine"
        )


def _faiss(problems: list[str]) -> dict[str, Any]:
    installed = [name for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12") if _is_installed(name)]
    if len(installed) > 1:
        problems.append(
            f"{' and '.join(installed)} are both installed and overwrite each other: uninstall both, then install one extra, midprobe[cpu] or midprobe[gpu]"
        )
    if not installed:
        problems.append(
            "faiss is not installed: --backend torch works; for faiss, pip install 'midprobe[cpu]' (or 'midprobe[gpu]' with an NVIDIA GPU)"
        )
    try:
        import faiss
    except ImportError as error:
        if installed:
            problems.append(f"faiss is installed but cannot be imported ({error}): uninstall and install it again")
        return {"installed": installed, "build": None, "gpus": 0}
    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    return {"installed": installed, "build": faiss.get_compile_options().strip(), "gpus": gpus}


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _blas() -> list[str]:
    """The linear algebra and thread libraries in this process."""
    import threadpoolctl

    return [
        f"{lib['internal_api']} {lib.get('version') or ''} {lib.get('architecture') or ''} x{lib['num_threads']}".replace(
            "  ", " "
        )
        for lib in threadpoolctl.threadpool_info()
    ]


def _folders() -> list[Path]:
    """The working folder and, where it exists, the hub's cache."""
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return [Path.cwd(), *([cache] if cache.exists() else [])]
