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
    ANSWER,
    BOS,
    EOS,
    LANGUAGES,
    PAD,
    PAIRED,
    SUPERVISED,
    Mixture,
    Pooled,
    Shares,
    batches,
    draw_shares,
    learn_tokenizer,
    part_of,
    tag,
    tokenised,
)  # fmt: skip
from train_lab import Settings, new_model, pooled_states, train, whole_states

from align.examples import Message, encode_prompts, end_of_turn
from align.tasks.slots import Slots
from probe.device import choose_device
from probe.errors import ModelError
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
    one, again, two = draw_shares(1), draw_shares(1), draw_shares(2)
    assert one == again != two
    for shares in (one, two):
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
    """Every kind: what is read and what is told are the same row of the languages that the tag says, within their shares."""
    texts = tokenised(tokenizer, sentences)
    shares = Shares(dict.fromkeys(LANGUAGES, 10), dict.fromkeys(LANGUAGES, 20))

    def sentence(ids: np.ndarray) -> tuple[str, int]:
        said = tokenizer.decode(ids).strip()
        assert said in sentences[said_in[said]]
        return said_in[said], int(said.split()[-1])

    said_in = {text: code for code, own in sentences.items() for text in own}
    kinds = set()
    for batch in islice(batches(texts, shares, Mixture(pooled=0.4, pair=0.2, copy=0.2), 16, seed=0), 40):
        if isinstance(batch, Pooled):
            for x, length, languages, targets in zip(*batch, strict=True):
                assert (x[0], x[length - 1]) == (BOS, EOS)
                assert (x[length:] == PAD).all()
                code, row = sentence(x[1 : length - 1])
                assert row < 10
                for place, of_y in zip(languages, targets, strict=True):
                    assert sentence(of_y[of_y >= 0]) == (LANGUAGES[place], row)
                    assert LANGUAGES[place] != code
            kinds.add("pooled")
            continue
        for ids, targets in zip(*batch, strict=True):
            told = np.flatnonzero(targets >= 0)
            assert (targets[told] == ids[told + 1]).all()
            assert (ids[told[-1] + 2 :] == PAD).all()
            assert targets[told[-1]] == EOS
            said, row = sentence(targets[told[:-1]])
            kind = ids[told[0]]
            if kind == BOS:
                kinds.add("plain")
                assert told[0] == 0
                continue
            assert (ids[0], ids[told[0] - 1]) == (BOS, EOS)
            heard, same = sentence(ids[1 : told[0] - 1])
            assert same == row < (20 if kind == ANSWER else 10)
            assert (heard == said) == (kind == ANSWER)
            assert kind in (ANSWER, tag(LANGUAGES.index(said)))
            kinds.add("copy" if kind == ANSWER else "pair")
    assert kinds == {"pooled", "plain", "copy", "pair"}


def test_a_language_with_few_paired_rows_is_told_those_rows_only(sentences, tokenizer) -> None:
    """Of the further translations too, which are drawn apart from the first."""
    rare = LANGUAGES.index("cym_Latn")
    shares = Shares(dict.fromkeys(LANGUAGES, 40) | {"cym_Latn": 3}, dict.fromkeys(LANGUAGES, 40))
    seen = set()
    for batch in islice(batches(tokenised(tokenizer, sentences), shares, Mixture(), 64, seed=0), 30):
        if isinstance(batch, Pooled):
            for place, column in np.argwhere(batch.language == rare):
                told = batch.targets[place, column]
                seen.add(int(tokenizer.decode(told[told >= 0]).split()[-1]))
    assert seen == {0, 1, 2}


def test_what_is_told_of_a_pooled_row_is_told_by_its_mean_alone() -> None:
    """Pooled below the first block the order of x's words is lost; above, only what is no padding counts; noise changes it."""
    torch.manual_seed(0)
    model = new_model(SMALL).double()
    x, length, language = torch.tensor([[BOS, 30, 31, 32, EOS, PAD]]), torch.tensor([5]), torch.tensor([[1, 2]])
    turned, longer = x[:, [0, 3, 1, 2, 4, 5]], torch.cat([x, torch.full((1, 3), PAD)], dim=1)

    def states(ids: torch.Tensor, middle: int, noise: float = 0.0) -> torch.Tensor:
        return pooled_states(model, ids, length, language, middle, noise)

    assert states(x, 0).shape == (1, 2, SMALL.hidden)
    assert torch.allclose(states(x, 0), states(turned, 0), atol=1e-6)
    assert not torch.allclose(states(x, 2), states(turned, 2), atol=1e-4)
    assert torch.allclose(states(x, 2), states(longer, 2), atol=1e-6)
    assert not torch.allclose(states(x, 2)[:, 0], states(x, 2)[:, 1], atol=1e-4)
    assert not torch.allclose(states(x, 2, noise=0.5), states(x, 2), atol=1e-4)


def test_a_pooled_row_of_one_state_is_the_plain_network_of_two() -> None:
    """The blocks are those of the plain network: x of one token, whose mean is itself, is read as `x <to-language>` is."""
    torch.manual_seed(0)
    model = new_model(SMALL).double()
    x, language = torch.tensor([[BOS]]), torch.tensor([[3]])
    pooled = pooled_states(model, x, torch.tensor([1]), language, 0)[0]
    plain = model.model(torch.tensor([[BOS, tag(3)]])).last_hidden_state[0, 1:]
    assert torch.allclose(pooled, plain, atol=1e-6)


def test_whole_sequences_are_those_of_the_plain_network() -> None:
    """Padding behind a sequence changes nothing in it."""
    torch.manual_seed(0)
    model = new_model(SMALL).double()
    ids = torch.tensor([[BOS, 30, 31, EOS, 5, 40, 41, EOS, PAD, PAD], [BOS, 33, 34, 35, 36, EOS, 5, 42, 43, EOS]])
    states = whole_states(model, ids)
    for row, length in enumerate((8, 10)):
        alone = model.model(ids[row : row + 1, :length]).last_hidden_state
        assert torch.allclose(states[row, :length], alone[0], atol=1e-9)


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
    with pytest.raises(ModelError, match=r"of another run \(seed"):
        train(rows, out, 2, SMALL, Mixture(), CPU, compiled=False)
    train(rows, out, 1, SMALL, Mixture(), CPU, compiled=False)
    assert not (out / "checkpoint.pt").exists()
    train(rows, tmp_path / "unbroken", 1, SMALL, Mixture(), CPU, compiled=False)
    weights = [(each / "model.safetensors").read_bytes() for each in (out, tmp_path / "unbroken")]
    assert weights[0] == weights[1]
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
