"""Words of answers are counted where they are from."""

from __future__ import annotations

import json
from pathlib import Path

from lab_words import PLACES, counts, members

TEXTS = {
    "deu_Latn": {"1": "weck mich um neun", "2": "spiel jazz"},
    "arb_Arab": {"1": "أيقظني في التاسعة", "2": "شغل الجاز"},
    "eng_Latn": {"1": "wake me at nine", "2": "play jazz"},
    "spa_Latn": {"1": "despiértame a las nueve", "2": "pon jazz"},
    "rus_Cyrl": {"1": "разбуди меня в девять", "2": "включи джаз"},
    "zho_Hans": {"1": "九点叫醒我", "2": "放爵士乐"},
}


def test_a_word_is_of_the_utterance_of_a_translation_or_of_neither(tmp_path: Path) -> None:
    # jazz is in both and so of the utterance; 九点 is within a Chinese one, "las" a word of the Spanish, "la" is not
    slots = [["neun", "at 九点 las la"], ["jazz"]]
    lines = [
        {"id": row, "parsed": {"slots": [{"type": "time", "words": words} for words in own], "ill_formed": []}}
        for row, own in zip(("1", "2"), [*slots[:1], [*slots[1], "\u2028x"]], strict=True)
    ]
    (tmp_path / "deu_Latn.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    found, answers = counts(tmp_path, ["deu_Latn"], TEXTS)
    assert ([found[place] for place in PLACES], answers) == ([2, 3, 2], 2)


def test_groups_hold_each_language_with_spaces_once(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    for code in ("tur_Latn", "tha_Thai"):
        (tmp_path / "pairs" / f"lab.{code}-eng_Latn.eng_Latn").touch()
    groups = members(tmp_path)
    every = [code for codes in groups.values() for code in codes]
    assert groups["aligned"] == ["tur_Latn"]
    assert len(every) == len(set(every)) == 17
