"""`builtin:lab`: it loads without a network, and languages meet inside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_manifests import data_folder
from probe.corpus import ParallelCorpus
from probe.extract import extract_all
from probe.model import has_lm_head, open_model
from probe.results import RetrievalResult
from probe.retrieve import retrieve_all

FOLDER = data_folder() / "models" / "lab"


@pytest.fixture(scope="module")
def result(everyday: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> RetrievalResult:
    """Of every second sentence of the embedded corpus, 13 languages."""
    half = ParallelCorpus("half", "", {code: own[1::2] for code, own in everyday.sentences.items()})
    store = extract_all("builtin:lab", half, tmp_path_factory.mktemp("lab") / "store", dtype="fp32", device="cpu")
    return retrieve_all(store, backend="torch", device="cpu")


def test_it_is_known_by_its_name_and_weights_wherever_the_package_lies() -> None:
    source = open_model("builtin:lab")
    assert source.identity["name"] == "builtin:lab"
    assert source.identity["revision"] is None
    assert source.identity["weights"] == open_model(str(FOLDER)).identity["weights"]
    assert (source.depth, source.hidden_size) == (6, 128)
    assert has_lm_head(source)


def test_it_is_small_and_says_what_it_was_made_from() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6
    facts = json.loads((FOLDER / "lab.json").read_text())
    card = (FOLDER / "README.md").read_text()
    for told in (
        "CC BY 4.0",
        "no evidence about",
        "never its dev or test split",
        f"{facts['rows']:,} of its 11,514 ids",
    ):
        assert told.lower() in card.lower()


def test_accuracy_is_highest_between_the_first_layer_and_the_last(result: RetrievalResult) -> None:
    """On sentences far from those it was trained on; across scripts above the control too."""
    summary = result.summary()
    mean, cross = (np.array([layer[name] for layer in summary["layers"]]) for name in ("mean", "cross_script"))
    assert mean == pytest.approx([0.034, 0.055, 0.057, 0.058, 0.057, 0.056, 0.030], abs=0.003)
    assert 0 < cross.argmax() < 6
    assert cross.max() > 1.5 * max(cross[0], cross[6])
    assert cross.max() > 2 * summary["controls"]["char"]["cross_script"]


def test_the_scores_beside_it_are_in_percent_and_of_its_languages() -> None:
    rows = Path(FOLDER / "slots.csv").read_text().splitlines()
    assert rows[0] == "language,score,task,metric,model,source,scale,group"
    assert len(rows) == 21
    assert {row.split(",")[4] for row in rows[1:]} == {"builtin:lab"}
