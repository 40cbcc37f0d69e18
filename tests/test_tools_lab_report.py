"""What the lab's study trains on as a control, and what its report says of planted numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from lab_report import correlations, directions
from lab_study import Study

CODES = [f"{letter}aa_Latn" for letter in "abcdefghijklmno"]


def planted(accuracy_of: str, f1_of: str, draw: int) -> dict[str, float]:
    """p of each row. Five seeds of 15 languages; accuracy and F1 follow the language's ease or its rows, with some noise."""
    random = np.random.default_rng(draw)
    ease = dict(zip(CODES, random.normal(size=15), strict=True))
    frames = []
    for seed in range(5):
        rows = random.permutation([7400] * 4 + [3000] * 4 + [600] * 4 + [150] * 3)
        causes = {"language": np.array([ease[code] for code in CODES]), "rows": (np.log(rows) - 7) / 1.5}
        noise = random.normal(scale=0.3, size=(2, 15))
        frames.append(
            pd.DataFrame(
                {
                    "seed": str(seed), "language": CODES, "paired": rows, "alone": random.permutation([7400, 2000, 500] * 5),
                    "accuracy": causes[accuracy_of] + noise[0], "f1": causes[f1_of] + noise[1],
                }
            )
        )  # fmt: skip
    return {row[""]: float(row["permutation p"]) for row in correlations(pd.concat(frames, ignore_index=True))}


def median_p(accuracy_of: str, f1_of: str, monkeypatch: pytest.MonkeyPatch) -> pd.Series:
    """Over seven draws: p of a link that is not there is anything from 0 to 1 in one."""
    monkeypatch.setattr("lab_report.PERMUTATIONS", 199)
    return pd.DataFrame([planted(accuracy_of, f1_of, draw) for draw in range(7)]).median()


def test_what_a_language_is_in_itself_is_no_link_given_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    p = median_p("language", "language", monkeypatch)
    assert p["all seeds"] < 0.01
    assert p["given both shares and the language"] > 0.1
    assert p["log rows beside translations and F1"] > 0.1


def test_what_the_drawn_rows_cause_is_found_and_explained_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    p = median_p("rows", "rows", monkeypatch)
    assert p["log rows beside translations and accuracy"] < 0.01
    assert p["log rows beside translations and F1"] < 0.01
    assert p["given both shares"] > 0.1


def test_groups_of_directions_share_out_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    for code in ("tur_Latn", "hin_Deva"):
        (tmp_path / "pairs" / f"lab.{code}-eng_Latn.eng_Latn").touch()
    result = SimpleNamespace(languages=("eng_Latn", "tur_Latn", "hin_Deva", "rus_Cyrl"))
    groups = directions(result, tmp_path)
    counts = [int(group.sum()) for group in groups.values()]
    assert counts == [4, 6, 2, 10]
    assert sum(counts[:3]) == 4 * 3
    assert not any(group.diagonal().any() for group in groups.values())


def test_shuffled_pairs_are_no_translations_and_none_of_each_other(tmp_path: Path) -> None:
    texts = [(code, [f"{code} {row}" for row in range(50)]) for code in ("eng_Latn", "tur_Latn", "hin_Deva")]
    study = Study(Path("seed1"), tmp_path, {}, {}, tmp_path / "study")
    study.aligned_texts = lambda: iter(texts)  # type: ignore[method-assign]
    for name, shuffled in (("pairs", False), ("shuffled-pairs", True)):
        folder = study.pairs(name, shuffled)
        beside = {
            code: (folder / f"lab.{code}-eng_Latn.eng_Latn").read_text().split("\n")[:-1]
            for code in ("tur_Latn", "hin_Deva")
        }
        assert all(sorted(lines) == sorted(texts[0][1]) for lines in beside.values())
        assert (beside["tur_Latn"] == texts[0][1]) is (not shuffled)
        assert (beside["tur_Latn"] == beside["hin_Deva"]) is (not shuffled)
