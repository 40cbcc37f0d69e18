"""How `builtin:lab` is made: what its sequences are, what pooled rows can see, and that a run ends in a model that loads."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from lab_data import (
    ALONE,
    BOS,
    EOS,
    LANGUAGES,
    PAD,
    PAIRED,
    SPECIAL,
    SUPERVISED,
    Mixture,
    Shares,
    batches,
    draw_shares,
    learn_tokenizer,
    part_of,
    tokenised,
)  # fmt: skip
from train_lab import Settings, hidden_states, new_model, train

from align.examples import Message, encode_prompts, end_of_turn
from align.tasks.slots import Slots
from probe.device import choose_device
from probe.model import load_causal, open_model

CPU = choose_device("cpu")
SMALL = Settings(
    vocabulary=400, hidden=32, blocks=4, middle=2, heads=2, intermediate=64, rows=8, updates=3, softmax=300
)


@pytest.fixture(scope="module")
def sentences() -> dict[str, list[str]]:
    return {code: [f"{code[:3]} says number {row}" for row in range(40)] for code in LANGUAGES}


@pytest.fixture(scope="module")
def tokenizer(sentences: dict[str, list[str]]):
    return learn_tokenizer((text for texts in sentences.values() for text in texts), 400)


def test_rows_are_shared_out_by_their_id_alone() -> None:
    parts = [part_of(str(row)) for row in range(20_000)]
    assert [round(parts.count(name) / len(parts), 2) for name in ("pretrain", "tune", "align")] == [0.65, 0.20, 0.15]


def test_shares_are_drawn_independently_and_leave_the_supervised_languages_alone() -> None:
    one, again, two, natural = draw_shares(1), draw_shares(1), draw_shares(2), draw_shares(None)
    assert one == again != two
    for shares in (one, two, natural):
        assert all(shares.paired[code] == shares.alone[code] == max(PAIRED) for code in SUPERVISED)
        others = [code for code in LANGUAGES if code not in SUPERVISED]
        assert sorted(shares.paired[code] for code in others) == sorted(PAIRED)
        assert sorted(shares.alone[code] for code in others) == sorted(ALONE)
    orders = [
        np.argsort([each[code] for code in LANGUAGES if code not in SUPERVISED], kind="stable")
        for each in (one.paired, one.alone)
    ]
    assert (orders[0] != orders[1]).any()


def test_sequences_read_as_they_are_described(sentences, tokenizer) -> None:
    """Every kind: the source and what follows are the same row of the languages that the tag says, within their shares."""
    texts = tokenised(tokenizer, sentences)
    shares = Shares(dict.fromkeys(LANGUAGES, 10), dict.fromkeys(LANGUAGES, 20))
    kinds = set()
    for batch in islice(batches(texts, shares, Mixture(pair=0.5, copy=0.25, hidden_words=0.5), 16, seed=0), 20):
        for ids, start, targets, pooled in zip(batch.ids, batch.start, batch.targets, batch.pooled, strict=True):
            source, tag = ids[start : batch.source], int(ids[batch.source])
            said = tokenizer.decode(targets[targets >= 0][:-1]).strip()
            assert targets[targets >= 0][-1] == EOS
            assert (ids[:start] == PAD).all()
            assert len(source) == 0 or (source[0] == BOS and source[-1] == EOS)
            heard = tokenizer.decode(source[1:-1]).strip()
            row, seen = int(said.split()[-1]), ids[batch.source + 1 :][: len(targets[targets >= 0]) - 1]
            kept = seen == targets[targets >= 0][:-1]
            assert (kept | (seen == PAD)).all()
            assert pooled or kept.all()
            if tag == BOS:
                kinds.add("plain")
                assert heard == ""
            elif tag == 3:
                kinds.add("copy")
                assert heard == said
            else:
                kinds.add("pair")
                code = LANGUAGES[tag - len(SPECIAL)]
                assert said == sentences[code][row] != heard
                assert heard.split()[-1] == said.split()[-1]
            assert row < (10 if tag not in (BOS, 3) else 20)
            assert not pooled or tag not in (BOS, 3)
    assert kinds == {"plain", "copy", "pair"}


def test_pooled_rows_see_of_the_source_its_mean_alone() -> None:
    """Pooled below the first block, what follows cannot tell the order of the source's words; not pooled it can."""
    torch.manual_seed(0)
    model = new_model(SMALL).double()
    ids = torch.tensor([[PAD, 0, 30, 31, 32, 1, 5, 40, 41, 1]] * 2)
    ids[1, 2:5] = torch.tensor([32, 30, 31])
    start = torch.tensor([1, 1])
    for pooled in (True, False):
        states = hidden_states(model, ids, start, torch.tensor([pooled] * 2), 6, 0)
        assert torch.allclose(states[0, 6:], states[1, 6:], atol=1e-12) is pooled
    deeper = [
        hidden_states(model, each, start, torch.tensor([True] * 2), 6, 2) for each in (ids, ids.where(ids != 31, 33))
    ]
    assert not torch.allclose(deeper[0][0, 6:], deeper[1][0, 6:], atol=1e-6)


def test_rows_that_are_not_pooled_are_those_of_the_plain_network() -> None:
    """Nothing is left of the training's mask in the model that is shipped."""
    torch.manual_seed(0)
    model = new_model(SMALL).double()
    ids = torch.tensor([[PAD, PAD, 0, 30, 31, 1, 5, 40, 41, 1], [0, 33, 34, 35, 36, 1, 5, 42, 43, 1]])
    start = torch.tensor([2, 0])
    states = hidden_states(model, ids, start, torch.tensor([False, False]), 6, 2)
    for row, first in enumerate(start):
        alone = model.model(ids[row : row + 1, first:]).last_hidden_state
        assert torch.allclose(states[row, first:], alone[0], atol=1e-9)


def test_a_run_ends_in_a_model_that_loads_and_a_killed_one_goes_on(
    sentences: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {code: {str(row): text for row, text in enumerate(texts)} for code, texts in sentences.items()}
    out = tmp_path / "lab"
    monkeypatch.setattr("train_lab.CHECKPOINT", 2)

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr("train_lab.card", killed)
        with pytest.raises(KeyboardInterrupt):
            train(rows, out, 1, SMALL, Mixture(), CPU, compiled=False)
    assert torch.load(out / "checkpoint.pt", weights_only=True)["done"] == 2
    train(rows, out, 1, SMALL, Mixture(), CPU, compiled=False)
    assert not (out / "checkpoint.pt").exists()
    facts = json.loads((out / "lab.json").read_text())
    assert facts["shares"]["paired"] == draw_shares(1).paired
    assert [line["update"] for line in facts["log"]] == [3]
    source = open_model(str(out))
    model, _ = load_causal(source, torch.float32, CPU)
    assert source.depth == 4
    assert source.tokenizer("wake")["input_ids"][0] == BOS
    assert source.tokenizer("wake")["input_ids"][-1] == EOS == end_of_turn(source.tokenizer)
    turns = (Message("system", "not read"), Message("user", "wake"))
    (prompt,) = encode_prompts(source.tokenizer, [turns], ["a row"])
    assert prompt.text == "<s>wake</s><answer>"
    assert torch.isfinite(model(torch.tensor(prompt.ids)[None]).logits).all()
    card = (out / "README.md").read_text()
    assert "CC BY 4.0" in card
    assert "--seed 1" in card


@pytest.mark.shared
def test_pretraining_rows_are_training_rows_of_massive(shared_data: Path) -> None:
    ids = [row.id for row in Slots().rows(shared_data / "massive", "train", "en")]
    assert (len(ids), sum(part_of(row) == "pretrain" for row in ids)) == (11_514, 7_553)
