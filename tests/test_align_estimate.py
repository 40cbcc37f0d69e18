"""What a step will cost, from a model's structure alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.estimate import PEAK, UTILISATION, cost, structure
from data_manifests.reproduction import common
from probe.extract import Settings, extract_all
from probe.sources import load_corpus

LLAMA, QWEN = "meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("model", "weights", "lora"), [(LLAMA, 8_030_261_248, 20_971_520), (QWEN, 7_615_616_512, 20_185_088)]
)
def test_the_papers_models_have_their_published_sizes(model: str, weights: int, lora: int) -> None:
    size = structure(model)
    assert size.weights == weights
    assert size.lora(8) == lora  # as the paper prints them


def test_extraction_is_two_operations_a_weight_and_token() -> None:
    size = structure(LLAMA)
    whole = cost("extract", {"langs": "paper35", "limit": 997}, size)
    tokens = 35 * 997 * 198 / 3
    assert whole.flop == pytest.approx(2 * tokens * (size.weights - 2 * size.head), rel=0.01)
    assert whole.seconds == pytest.approx(whole.flop / (PEAK * UTILISATION))
    half = cost("extract", {"langs": "slots20", "limit": 997}, size)
    assert half.flop / whole.flop == pytest.approx(20 / 35)


def test_the_disk_of_a_store_is_what_it_takes(tmp_path: Path) -> None:
    texts = load_corpus("everyday", "en,de,ru", None, 100)
    store = extract_all("builtin:tiny", texts, tmp_path / "store", settings=Settings(), dtype="fp32", device="cpu")
    taken = sum(entry["bytes"] for entry in store.manifest["files"].values())
    told = cost("extract", {"langs": "en,de,ru", "limit": 100}, structure("builtin:tiny")).disk
    assert told == pytest.approx(taken, rel=0.25)


def test_training_costs_grow_with_updates_and_an_alignment_ends_at_its_block() -> None:
    size = structure(LLAMA)

    def flop(*changes: str) -> float:
        return cost("train", {"recipe": "align", "changes": list(changes)}, size).flop

    assert flop("updates=200") == pytest.approx(2 * flop("updates=100"))
    assert (
        flop("align.layers=8")
        == pytest.approx(flop("align.layers=16") / 2)
        == pytest.approx(flop("align.layers=32") / 4)
    )
    assert flop("align.pairs=[somewhere/alma/deen]") == pytest.approx(312 / 78 * flop())
    assert flop("gradient_checkpointing=true") == pytest.approx(1.5 * flop())


def test_development_rows_are_read_at_each_evaluation() -> None:
    size = structure(LLAMA)

    def flop(*changes: str) -> float:
        task = ["alternation=task", "task.name=slots", "task.langs=ar,en", "updates=200", *changes]
        return cost("train", {"recipe": "align", "changes": task}, size).flop

    none = flop("evaluate_every=400")
    once, twice, few = (
        flop("evaluate_every=200"),
        flop("evaluate_every=100"),
        flop("evaluate_every=100", "task.dev_rows=100"),
    )
    assert twice - none == pytest.approx(2 * (once - none))
    assert (few - none) / (twice - none) == pytest.approx(100 / 2033)
    assert (once - none) / none == pytest.approx(2 * 2033 / (200 * 128) / 2)  # forward alone, not backward


def test_generation_is_not_faster_than_memory(tmp_path: Path) -> None:
    size = structure(LLAMA)
    answer = common()["data"]["massive"]["answer"] / size.bytes_per_token

    def seconds(tokens: int) -> float:
        return cost("evaluate", {"task": "slots", "langs": "en", "limit": 320, "max_new_tokens": tokens}, size).seconds

    read = 10 * 2 * size.weights / (3.35e12 * 0.5)  # of all weights, once a token of each of ten batches
    assert seconds(200) > answer * read
    assert seconds(200) - seconds(2) == pytest.approx((answer - 2) * read)  # no answer is longer than it may be
    assert cost("correlate", {}, size).seconds == 0
