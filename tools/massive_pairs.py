"""MASSIVE's commands as parallel text, for the task translation: a pair of files `OUT/train.eng_Latn-deu_Latn.*` a language and split.

    python tools/massive_pairs.py --massive MASSIVE --langs de,es --out OUT

Each language with English, since that is what MASSIVE was translated from: short sentences of few words, which a model of a few
million parameters can learn to translate. To train on, the rows that `builtin:lab` has not seen in its own training; to test,
those whose text stands among no training row in either language, so that none can be recalled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab_data import LANGUAGES, part_of, utterances

from probe.corpus import resolve_languages

ENGLISH = "eng_Latn"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--massive", type=Path, required=True)
    parser.add_argument("--langs", required=True, help="of the 20 of builtin:lab, comma-separated")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    write_pairs(given.massive, given.langs, given.out)


def write_pairs(massive: Path, langs: str, out: Path) -> None:
    held = {split: utterances(massive, split) for split in ("train", "dev", "test")}
    out.mkdir(parents=True, exist_ok=True)
    for code in resolve_languages(langs, [each for each in LANGUAGES if each != ENGLISH], "builtin:lab"):
        known = {text for side in (ENGLISH, code) for text in held["train"][side].values()}
        for split, texts in held.items():
            pairs = [(row, texts[ENGLISH][row], texts[code][row]) for row in texts[ENGLISH]]
            if split == "train":
                kept = [pair for row, *pair in pairs if part_of(row) != "pretrain"]
            else:
                kept = [pair for _, *pair in pairs if known.isdisjoint(pair)]
            for side, column in zip((ENGLISH, code), zip(*kept, strict=True), strict=True):
                file = out / f"{split}.{ENGLISH}-{code}.{side}"
                file.write_text("".join(f"{text}\n" for text in column), encoding="utf-8")


if __name__ == "__main__":
    main()
