"""The JSON of entities in a token a piece: what is written is read back, and the model is what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from json_lab import PIECES, main
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.tasks.entities import Entity, Sentence, as_json
from probe.device import choose_device
from probe.model import load_causal, open_model

NAMES = [("PER", "são paulo's", 0, 11), ("LOC", "u. s.", 12, 17), ("ORG", "x", 21, 22)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("json") / "lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["json_lab.py", "--out", str(out)])
        main()
    return out


@pytest.mark.parametrize("count", range(4))
def test_a_target_is_its_names_and_numbers_and_few_tokens_more(folder: Path, count: int) -> None:
    target = as_json(Sentence("", "", tuple(Entity(*each) for each in NAMES[:count])))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    fixed = [tokenizer.convert_ids_to_tokens(each) for each in ids if each >= len(tokenizer) - len(PIECES)]
    assert len(fixed) == 2 + 6 * count - (count > 0)
    assert json.loads(tokenizer.decode(ids, skip_special_tokens=True)) == json.loads(target)


def test_a_name_is_the_tokens_that_it_is_in_a_sentence(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for kind, name, *_ in NAMES:
        alone, written, around = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (f"in {name}", as_json(Sentence("", "", (Entity(kind, name, 0, 1),))), "in")
        )
        assert written[4 : 4 + len(alone) - len(around)] == alone[len(around) :]


def test_other_text_and_its_states_are_those_of_the_model_before(folder: Path) -> None:
    source = open_model("builtin:lab")
    before, _ = load_causal(source, torch.float32, choose_device("cpu"))
    after = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "wake me at nine am"
    ids = source.tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tokenizer(text, return_tensors="pt")["input_ids"])
    with torch.no_grad():
        logits = after(ids).logits
        assert torch.equal(before(ids).logits, logits[..., : -len(PIECES)])
