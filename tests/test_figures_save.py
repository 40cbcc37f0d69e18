"""Files of a figure: the same bytes for the same input, fonts inside, the numbers beside it, one line when it cannot be written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from figures.curves import curves
from figures.save import save
from probe.errors import RetrievalError

ROOT = Path(__file__).resolve().parents[1]

FRAME = """
import numpy as np, pandas as pd
frame = pd.DataFrame({
    "result": "modèle $a$", "layer": np.arange(5), "series": "layers", "group": "mean",
    "accuracy": np.linspace(0.1, 0.3, 5) / 3, "low": 0.05, "high": 0.2,
})
"""


@pytest.fixture
def frame() -> pd.DataFrame:
    space: dict[str, pd.DataFrame] = {}
    exec(FRAME, space)
    return space["frame"]


def test_another_process_writes_the_same_bytes(tmp_path: Path, frame: pd.DataFrame) -> None:
    """With another seed of hashes, on which the order of sets depends, and a second later."""
    first = save(curves(frame), frame, tmp_path / "first")
    code = f"{FRAME}\nfrom pathlib import Path\nfrom figures.curves import curves\nfrom figures.save import save\n"
    code += f"save(curves(frame), frame, Path({str(tmp_path / 'second')!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "77"}, check=True)
    for path in first:
        assert path.read_bytes() == (tmp_path / f"second{path.suffix}").read_bytes(), path.suffix


def test_the_files_are_a_column_wide_and_carry_their_fonts(tmp_path: Path, frame: pd.DataFrame) -> None:
    pdf, png, _ = save(curves(frame), frame, tmp_path / "figure")
    content = pdf.read_bytes()
    assert b"/Type3" not in content
    assert b"/FontFile2" in content
    assert b"/CreationDate" not in content
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)
    assert box is not None
    assert float(box[1]) / 72 * 25.4 == pytest.approx(85, abs=0.1)
    with Image.open(png) as image:
        assert image.width == pytest.approx(85 / 25.4 * 300, abs=1)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_the_numbers_come_back_whole(tmp_path: Path, frame: pd.DataFrame) -> None:
    *_, csv = save(curves(frame), frame, tmp_path / "figure")
    back = pd.read_csv(csv)
    pd.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)


def test_several_tables_go_into_one_file(tmp_path: Path, frame: pd.DataFrame) -> None:
    other = pd.DataFrame({"group": ["mean"], "r": [0.5]})
    *_, csv = save(curves(frame), {"points": frame, "fit": other}, tmp_path / "figure")
    back = pd.read_csv(csv)
    assert back.columns[0] == "part"
    assert back["part"].to_list() == ["points"] * 5 + ["fit"]
    assert back["r"].to_list()[-1] == 0.5
    assert np.isnan(back["r"].to_list()[0])


def test_dots_are_part_of_the_name(tmp_path: Path, frame: pd.DataFrame) -> None:
    names = [path.name for path in save(curves(frame), frame, tmp_path / "deep" / "qwen2.5")]
    assert names == ["qwen2.5.pdf", "qwen2.5.png", "qwen2.5.csv"]


def test_a_folder_that_cannot_be_written_is_told_in_a_line(tmp_path: Path, frame: pd.DataFrame) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match=r"file cannot be written .*; expected a writable folder"):
        save(curves(frame), frame, tmp_path / "file" / "figure")
