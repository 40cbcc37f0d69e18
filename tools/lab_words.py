"""Whose words the answers of docs/lab.md's study are: of the utterance, of a translation of it that was fine-tuned on, or of neither.

    python tools/lab_words.py --massive MASSIVE OUT SEED_FOLDER...

Of the words in the values of slots, after fine-tuning alone and with alignment. Chinese, Japanese and Thai, which
do not part words by spaces, are left out.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lab_data import SUPERVISED, utterances
from lab_report import trained_groups

from align.card import table
from analysis.seeds import t_interval

WITHOUT_SPACES = ("zho_Hans", "jpn_Jpan", "tha_Thai")
PLACES = ("of the utterance", "of a supervised language's", "of neither")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--massive", type=Path, required=True)
    parser.add_argument("study", type=Path, metavar="OUT")
    parser.add_argument("models", type=Path, nargs="+")
    given = parser.parse_args()
    print(table(list(shares([given.study / model.name for model in given.models], utterances(given.massive, "test")))))


def shares(runs: Sequence[Path], texts: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    """A row a training and group of languages: words an answer, and of them the share in % of each place; mean over seeds, 95 % t
    interval."""
    for group in ("supervised", "aligned", "transfer, not aligned"):
        for training in ("tuned", "tuned-aligned"):
            counted = [counts(run / f"{training}-scores" / "answers", members(run)[group], texts) for run in runs]
            row: dict[str, Any] = {"": group, "training": training}
            row["words an answer"] = f"{np.mean([own.total() / answers for own, answers in counted]):.2f}"
            for place in PLACES:
                values = np.array([100 * own[place] / own.total() for own, _ in counted])
                low, high = t_interval(values)
                row[place] = f"{values.mean():.1f} ({low:.1f} to {high:.1f})"
            yield row


def members(run: Path) -> dict[str, list[str]]:
    """Languages by group, those without spaces left out."""
    return {
        group: [code for code in codes if code not in WITHOUT_SPACES] for group, codes in trained_groups(run).items()
    }


def counts(answers: Path, codes: Sequence[str], texts: Mapping[str, Mapping[str, str]]) -> tuple[Counter[str], int]:
    """Words of values by the place that they are from, and the number of answers."""
    found: Counter[str] = Counter(dict.fromkeys(PLACES, 0))
    number = 0
    for code in codes:
        for line in (answers / f"{code}.jsonl").read_text(encoding="utf-8").strip().split("\n"):
            answer = json.loads(line)
            number += 1
            own = texts[code][answer["id"]].split()
            others = [texts[other][answer["id"]] for other in SUPERVISED if other != code]
            for slot in answer["parsed"]["slots"]:
                for word in slot["words"].split():
                    found[PLACES[0 if word in own else 1 if any(holds(each, word) for each in others) else 2]] += 1
    return found, number


def holds(text: str, word: str) -> bool:
    """Chinese, anywhere in the text."""
    return word in (text if "\u4e00" <= word[0] <= "\u9fff" else text.split())


if __name__ == "__main__":
    main()
