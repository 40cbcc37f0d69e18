"""Universal NER in lower case, for a model that has read nothing else: `builtin:lab` was trained on MASSIVE, which has no capitals.

    python tools/lower_uner.py --uner UNER --out FOLDER

The texts and tokens change, the tags and all else stay; the folder is read as Universal NER is.
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
    given = parser.parse_args()
    files = sorted(given.uner.glob("UNER_*/*.iob2*"))
    if not files:
        parser.error(f"{given.uner} holds no UNER_*/*.iob2; expected Universal NER; check --uner")
    for file in files:
        to = given.out / file.parent.name / file.name.removesuffix(".gz")
        to.parent.mkdir(parents=True, exist_ok=True)
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
        to.write_text("\n".join(lowered(line) for line in text.split("\n")), encoding="utf-8")


def lowered(line: str) -> str:
    """A line of a file in IOB2."""
    if line.startswith("#"):
        return _TEXT + line.removeprefix(_TEXT).lower() if line.startswith(_TEXT) else line
    index, form, *rest = line.split("\t") if "\t" in line else (line, "")
    return "\t".join([index, form.lower(), *rest]) if form else line


if __name__ == "__main__":
    main()
