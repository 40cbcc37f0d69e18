"""Universal NER in lower case, for a model that has read nothing else: `builtin:lab` was trained on MASSIVE, which has no capitals.

    python tools/lower_uner.py --uner UNER --out FOLDER [--longest 80] [--named]

The texts and tokens change, the tags and all else stay; the folder is read as Universal NER is. With `--longest`, sentences of
more characters are left out: MASSIVE's commands are short, and no position beyond 56 tokens was trained. With `--named`,
training and development sentences that name nothing are left out, test sentences stay: where names are rare, the likeliest
answer of a model that has learnt little is that there are none.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

_TEXT = "# text ="


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uner", type=Path, required=True, help="folder of Universal NER, with its folders UNER_*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--longest", type=int, help="most characters of a sentence; longer ones are left out")
    parser.add_argument(
        "--named", action="store_true", help="of rows to train and choose on, those with an entity alone"
    )
    given = parser.parse_args()
    files = sorted(given.uner.glob("UNER_*/*.iob2*"))
    if not files:
        parser.error(f"{given.uner} holds no UNER_*/*.iob2; expected Universal NER; check --uner")
    for file in files:
        to = given.out / file.parent.name / file.name.removesuffix(".gz")
        to.parent.mkdir(parents=True, exist_ok=True)
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
        sentences = text.strip("\n").split("\n\n")
        if given.longest:
            sentences = [each for each in sentences if length(each) <= given.longest]
        if given.named and "-test." not in file.name:
            sentences = [each for each in sentences if names(each)]
        kept = "".join(f"{each}\n\n" for each in sentences)
        to.write_text("\n".join(lowered(line) for line in kept.split("\n")), encoding="utf-8")


def length(sentence: str) -> int:
    """Characters of the text of a sentence, given as its lines in IOB2."""
    (text,) = [line for line in sentence.split("\n") if line.startswith(_TEXT)]
    return len(text.removeprefix(_TEXT).strip())


def names(sentence: str) -> bool:
    """Whether a sentence, given as its lines in IOB2, has an entity."""
    words = (line.split("\t") for line in sentence.split("\n") if not line.startswith("#"))
    return any(tag.startswith("B-") for _, _, tag, *_ in words)


def lowered(line: str) -> str:
    """A line of a file in IOB2."""
    if line.startswith("#"):
        return _TEXT + line.removeprefix(_TEXT).lower() if line.startswith(_TEXT) else line
    index, form, *rest = line.split("\t") if "\t" in line else (line, "")
    return "\t".join([index, form.lower(), *rest]) if form else line


if __name__ == "__main__":
    main()
