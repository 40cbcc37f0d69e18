"""The model card states what was done, in full, in a form that the hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from align.card import model_card, table, write_card
from probe.errors import AlignError

FACTS: dict[str, Any] = {
    "base_model": "meta-llama/Meta-Llama-3-8B-Instruct",
    "revision": "abc123",
    "made_by": "Alignment of parallel sentences in turn with a task.",
    "layer": [16],
    "temperature": 0.1,
    "data": [
        {"name": "Tatoeba cym-eng", "rows": 12345, "licence": "CC BY 2.0 FR"},
        {"name": "MASSIVE", "rows": 678, "licence": "CC BY 4.0", "languages": ["de", "fr"]},
    ],
    "results": [{"measure": "accuracy at layer 16", "before": 0.07123456789, "after": 0.1431}],
    "recipe": {"lr": 0.0005, "lora": {"r": 8, "targets": ("q_proj", "v_proj")}, "notes": "Ünï: code"},
    "versions": {"python": "3.11", "torch": "2.13.0"},
    "command": "probe train --recipe paper --set lr=5e-4",
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in FACTS.items() if key != name}


def test_the_hub_reads_the_front_matter() -> None:
    """With its own reader."""
    data = ModelCard(model_card(FACTS)).data
    assert data.base_model == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert data.library_name == "peft"
    assert "lora" in data.tags


def test_every_fact_is_in_the_card() -> None:
    """Numbers unrounded, a recipe that can be read back."""
    card = model_card(FACTS)
    for stated in ("abc123", "in turn with a task", "Alignment layer: 16", "Temperature: 0.1", "12345", "CC BY 2.0 FR",
                   "de, fr", "0.07123456789", "torch 2.13.0", "probe train --recipe paper --set lr=5e-4"):  # fmt: skip
        assert stated in card
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert recipe == {"lr": 0.0005, "lora": {"r": 8, "targets": ["q_proj", "v_proj"]}, "notes": "Ünï: code"}


def test_the_code_to_load_it_can_be_compiled() -> None:
    for facts in (FACTS, {**without("revision"), "auto_class": "AutoModel"}):
        code = model_card(facts).split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
        assert FACTS["base_model"] in code
        assert ('revision="abc123"' in code) == ("revision" in facts)
        assert facts.get("auto_class", "AutoModelForCausalLM") + ".from_pretrained" in code


@pytest.mark.parametrize("name", ["base_model", "made_by", "data", "recipe", "results", "versions", "command"])
def test_a_card_is_not_silent_about_what_matters(name: str) -> None:
    with pytest.raises(AlignError, match=f"a model card without {name}") as caught:
        model_card(without(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["name", "rows", "licence"])
def test_each_data_set_has_its_count_and_licence(name: str) -> None:
    first, second = FACTS["data"]
    lacking = {key: value for key, value in second.items() if key != name}
    with pytest.raises(AlignError, match=f"without {name}"):
        model_card({**FACTS, "data": [first, lacking]})


def test_what_was_not_done_is_said() -> None:
    card = model_card({**FACTS, "data": [], "results": []})
    assert "Nothing was trained" in card
    assert "None were measured" in card
    assert "Temperature" not in model_card(without("temperature"))


def test_a_table_has_a_column_for_each_key_and_keeps_its_shape() -> None:
    lines = table([{"a": 1, "b": "x|y"}, {"a": None, "c": "two\nlines"}]).split("\n")
    assert lines == ["| a | b | c |", "| --- | --- | --- |", r"| 1 | x\|y |  |", "|  |  | two lines |"]
    assert table([]) == ""


def test_it_is_the_folders_readme(tmp_path: Path) -> None:
    write_card(tmp_path, {**FACTS, "command": "an earlier run"})
    write_card(tmp_path, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == model_card(FACTS)
    with pytest.raises(AlignError, match="cannot be written"):
        write_card(tmp_path / "README.md", FACTS)


def test_a_built_in_base_is_loaded_by_probe() -> None:
    """Nothing else knows it by that name."""
    card = model_card({**FACTS, "base_model": "builtin:tiny"})
    assert "probe extract --model builtin:tiny --adapter" in card
    assert "from_pretrained" not in card
