"""Who may import what: the directions between packages, one home a library, and light modules that stay light."""

from __future__ import annotations

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("probe", "align", "analysis", "figures", "data_manifests")

FORBIDDEN = {
    "data_manifests": {"probe", "align", "analysis", "figures"},
    "probe": {"align", "analysis", "figures"},
    "align": {"analysis", "figures"},
    "analysis": {"torch", "faiss", "align", "figures"},
    "figures": {"torch", "faiss", "align"},
}
"""Package -> what it does not import. Only the composition root, probe/cli.py, may import every package of ours."""

HOMES = {
    "faiss": {"probe/knn.py", "probe/doctor.py"},
    "h5py": {"probe/store.py", "probe/results.py"},
    "transformers": {"probe/model.py", "probe/tiny.py"},
    "peft": {"align/adapter.py"},
    "datasets": {"probe/sources.py"},
    "typer": {"probe/cli.py"},
    "sacrebleu": {"align/tasks/bleu.py"},
}
"""Library -> the modules that may import it."""

LIGHT = {"probe/__init__.py", "probe/__main__.py", "probe/cli.py", "probe/errors.py", "probe/corpus.py"}
"""Modules that import nothing heavy at their top, so that `probe --help` answers at once."""
HEAVY = {"torch", "transformers", "h5py", "faiss", "peft", "datasets", "numpy", "scipy", "sklearn", "pandas", "rich"}


class Import(NamedTuple):
    file: str
    """Relative to the folder of the packages."""
    line: int
    target: str
    """The module as dotted name, absolute also where the import is relative."""
    at_top: bool
    """Whether it runs when the module is imported: outside functions and `if TYPE_CHECKING`."""

    @property
    def package(self) -> str:
        return self.target.split(".")[0]


def imports_of(file: Path, root: Path) -> Iterator[Import]:
    name = file.relative_to(root).as_posix()
    yield from _imports_in(ast.parse(file.read_text(encoding="utf-8")), name, at_top=True)


def _imports_in(node: ast.AST, file: str, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file, child.lineno, alias.name, at_top)
        elif isinstance(child, ast.ImportFrom):
            parents = file.split("/")[: -child.level] if child.level else []
            module = ".".join([*parents, *filter(None, [child.module])])
            for alias in child.names:  # `from package import module` imports a module too
                yield Import(file, child.lineno, f"{module}.{alias.name}".lstrip("."), at_top)
        else:
            lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from _imports_in(child, file, at_top and not lazy)


def all_imports(root: Path) -> list[Import]:
    return [
        found
        for package in PACKAGES
        for file in sorted((root / package).rglob("*.py"))
        for found in imports_of(file, root)
    ]


def violations(root: Path) -> list[str]:
    """Every import that breaks a rule, as `file:line what`."""
    broken = []
    for found in all_imports(root):
        package = found.file.split("/")[0]
        where = f"{found.file}:{found.line} imports {found.target}"
        if found.package in FORBIDDEN[package] and (found.file != "probe/cli.py" or found.at_top):
            broken.append(where)
        if found.package in HOMES and found.file not in HOMES[found.package]:
            broken.append(f"{where}, at home in {' and '.join(sorted(HOMES[found.package]))}")
        if found.file in LIGHT and found.at_top and found.package in HEAVY:
            broken.append(f"{where} at its top")
    return broken


def test_imports_keep_to_the_rules() -> None:
    assert violations(ROOT) == []


def test_the_walk_sees_what_is_there() -> None:
    """Each rule has something to look at: the libraries are imported at home, and the packages meet in the root."""
    found = all_imports(ROOT)
    assert {"faiss", "h5py", "transformers", "peft", "datasets", "typer"} <= {each.package for each in found}
    assert any(each.file == "probe/cli.py" and each.package == "align" and not each.at_top for each in found)
    assert any(each.file == "probe/extract.py" and each.target == "probe.provenance" for each in found)
    assert {each.file.split("/")[0] for each in found} >= {"probe", "align", "data_manifests"}


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("align/train.py", "import analysis"),
        ("align/train.py", "from figures.style import colour"),
        ("align/train.py", "def plot():\n    from figures import style"),
        ("analysis/scores.py", "import torch.nn as nn"),
        ("analysis/scores.py", "def search():\n    import faiss"),
        ("figures/page.py", "from torch import nn"),
        ("data_manifests/digests.py", "from probe.corpus import text_digest"),
        ("data_manifests/deep/er.py", "class A:\n    import probe"),
        ("probe/extract.py", "from align.adapter import attach"),
        ("probe/cli.py", "from align.adapter import attach"),
        ("probe/cli.py", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
        ("probe/cli.py", "from rich.table import Table"),
        ("probe/__init__.py", "import numpy as np"),
        ("probe/retrieve.py", "import faiss"),
        ("probe/retrieve.py", "def read():\n    import h5py"),
        ("probe/retrieve.py", "if True:\n    from transformers import AutoModel"),
        ("align/data.py", "from datasets import load_dataset"),
        ("align/tasks/slots.py", "from peft import LoraConfig"),
        ("probe/knn.py", "from ..align import adapter"),
    ],
)
def test_a_forbidden_import_is_caught(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    found = violations(tmp_path)
    assert found
    assert all(each.startswith(f"{file}:") for each in found)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("probe/cli.py", "def merge():\n    from align.adapter import merge\n    import torch"),
        ("probe/errors.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy"),
        ("probe/knn.py", "import faiss"),
        ("probe/store.py", "import h5py"),
        ("align/train.py", "from probe.model import load_model\nfrom . import loss"),
        ("figures/page.py", "from analysis.report import read"),
        ("analysis/scores.py", "import torchless"),
    ],
)
def test_an_allowed_import_is_let_through(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert violations(tmp_path) == []


def test_the_five_packages_come_from_one_directory() -> None:
    """Else an old installation of one of them would be mixed with this checkout."""
    homes = {Path(importlib.import_module(package).__file__ or "").resolve().parents[1] for package in PACKAGES}
    assert homes == {ROOT}


def test_the_wheel_holds_the_five_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    assert project["project"]["scripts"] == {"probe": "probe.cli:main"}


def test_what_the_package_offers_can_be_had() -> None:
    import probe

    assert all(getattr(probe, name).__name__ == name for name in probe.__all__)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        probe.nothing_of_this_name  # noqa: B018 (the access is the test)
