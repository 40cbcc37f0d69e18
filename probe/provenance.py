"""What a result was made with: versions, platform, command."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = (
    "midprobe",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "accelerate",
    "matplotlib",
    "pandas",
    "datasets",
    "faiss-cpu",
    "faiss-gpu",
    "h5py",
    "numpy",
    "scipy",
    "scikit-learn",
)


def versions() -> dict[str, str]:
    """Package -> installed version, Python included; packages that are absent are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process, without the folder of the program, quoted so that a shell takes it."""
    return shlex.join(["probe", *sys.argv[1:]])


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
