"""What `builtin:lab` and its sisters of other seeds show, on utterances of other ids than any that they saw: the five points of docs/lab.md.

    python tools/lab_study.py --massive MASSIVE --flores FLORES --out OUT SEED_FOLDER...

Of each model in turn (`tools/train_lab.py` made them): retrieval by layer of the base, of an untrained model, after
fine-tuning on slots in five languages, after alignment of its five weakest languages at the bottom, middle and top block,
and after two controls; slot F1 in 20 languages after fine-tuning alone and with alignment. Every step is kept in OUT and
is not done again. `tools/lab_report.py` makes the tables and figures of docs/lab.md from it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from lab_data import LANGUAGES, SUPERVISED, part_of, utterances
from train_lab import Settings, new_model

from align.adapter import attach
from align.evaluate import answer_rows, write_scores
from align.recipe import load_recipe
from align.tasks.slots import Slots
from align.train import train
from data_manifests import languages
from probe.corpus import ParallelCorpus, read_folder
from probe.extract import extract_all
from probe.results import RetrievalResult
from probe.retrieve import retrieve_all

PLACES = ("bottom", "middle", "top")
PROBED = 1000
"""Unique rows of a split that are searched."""
ANSWERED = 200
"""Utterances a language that are answered for slot F1."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--massive", type=Path, required=True)
    parser.add_argument("--flores", type=Path, help="folder of FLORES-200 dev; of the base alone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("models", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)  # so that several can run side by side

    corpora = {split: unique(given.massive, split).limited(PROBED) for split in ("dev", "test")}
    if given.flores:
        corpora["flores"] = read_folder(given.flores, ",".join(LANGUAGES))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "rows.json").write_text(json.dumps({name: each.rows for name, each in corpora.items()}))
    trained_on = utterances(given.massive, "train")
    for model in given.models:
        Study(model, given.massive, corpora, trained_on, given.out / model.name).run()


def unique(massive: Path, split: str) -> ParallelCorpus:
    """The rows of a split whose text stands only once in it in every language. Some may stand in training rows of other ids."""
    texts = utterances(massive, split)
    counts = {code: Counter(own.values()) for code, own in texts.items()}
    rows = [row for row in texts[LANGUAGES[0]] if all(counts[code][texts[code][row]] == 1 for code in LANGUAGES)]
    return ParallelCorpus(
        f"massive, unique {split} rows", split, {code: tuple(own[row] for row in rows) for code, own in texts.items()}
    )


class Study:
    """Of one model."""

    def __init__(
        self, model: Path, massive: Path, corpora: Mapping[str, ParallelCorpus],
        trained_on: Mapping[str, Mapping[str, str]], out: Path,
    ) -> None:  # fmt: skip
        self.model, self.massive, self.corpora, self.out = model, massive, corpora, out
        self.texts = trained_on
        out.mkdir(exist_ok=True)

    def run(self) -> None:
        for split in self.corpora:
            self.probe(f"base-{split}", split)
        self.probe("untrained", "test", model=self.untrained())
        slots = f"task.data={self.slots()}"
        self.tune("tuned", slots, "alternation=task", *_SLOTS)
        self.score("tuned")
        pairs = self.pairs("pairs")
        for place in PLACES:
            self.tune(f"aligned-{place}", *self.aligning(pairs, place))
        self.tune("tuned-aligned", *self.aligning(pairs, "middle"), slots, "alternation=per-update", *_BOTH)
        self.score("tuned-aligned")
        self.tune("shuffled", *self.aligning(self.pairs("shuffled-pairs", shuffled=True), "middle"))
        self.tune("language-model", f"task.data={self.told()}", "alternation=task", *_PAIRS)

    def probe(self, name: str, split: str, model: Path | None = None, adapter: Path | None = None) -> None:
        """Retrieval at every layer, with the controls."""
        if (self.out / name / "summary.json").exists():
            return
        store = extract_all(
            str(model or self.model),
            self.corpora[split],
            self.out / f"{name}-store",
            adapter=adapter,
            attach=attach,
            dtype="fp32",
            device="cpu",
        )
        controls = name in ("base-dev", "base-test")  # they are of the text alone
        retrieve_all(store, backend="torch", device="cpu", out=self.out / name, controls=controls)
        print(self.out / name, flush=True)

    def untrained(self) -> Path:
        """The same network with random weights, and the same tokenizer."""
        folder = self.out / "untrained-model"
        if not folder.exists():
            torch.manual_seed(1000)
            new_model(Settings()).save_pretrained(folder)
            for file in self.model.glob("tokenizer*"):
                (folder / file.name).write_bytes(file.read_bytes())
        return folder

    def tune(self, name: str, *changes: str) -> None:
        """Train an adapter, and probe the model with it."""
        recipe = load_recipe("paper-as-run", [f"model={self.model}", *_SETTINGS, *changes])
        train(recipe, self.out / f"{name}-adapter", device="cpu")
        self.probe(name, "test", adapter=self.out / f"{name}-adapter")

    def slots(self) -> Path:
        """The fine-tuning rows of the five supervised languages."""
        file = self.out / "slots.jsonl"
        if not file.exists():
            rows = Slots().rows(self.massive, "train", ",".join(SUPERVISED))
            _write(file, ([row.prompt[-1].content, row.target] for row in rows if part_of(row.id) == "tune"))
        return file

    def weakest(self) -> tuple[str, ...]:
        """The five languages of lowest accuracy across scripts at the middle block, on the development rows."""
        result = RetrievalResult.load(self.out / "base-dev")
        accuracy = result.accuracy(Settings.middle)
        scripts = [languages()[code].script for code in result.languages]
        mean = {}
        for place, code in enumerate(result.languages):
            others = [other for other, script in enumerate(scripts) if script != scripts[place]]
            mean[code] = float(accuracy[place, others].mean() + accuracy[others, place].mean())
        return tuple(sorted(mean, key=mean.__getitem__)[:5])

    def aligned_texts(self) -> Iterator[tuple[str, list[str]]]:
        ids = [row for row in self.texts[LANGUAGES[0]] if part_of(row) == "align"]
        for code in ("eng_Latn", *self.weakest()):
            yield code, [self.texts[code][row] for row in ids]

    def pairs(self, name: str, shuffled: bool = False) -> Path:
        """The alignment rows of the weakest languages with English; shuffled, each beside another's translation."""
        folder = self.out / name
        folder.mkdir(exist_ok=True)
        (english, targets), *others = self.aligned_texts()
        order = random.Random(
            0
        )  # another for each language: with one for all they would still be parallel to each other
        for code, lines in others:
            beside = order.sample(targets, len(targets)) if shuffled else targets
            for side, text in ((code, lines), (english, beside)):
                (folder / f"lab.{code}-{english}.{side}").write_text("".join(f"{line}\n" for line in text))
        return folder

    def told(self) -> Path:
        """The same pairs for a language model: the English sentence is told after the other."""
        file = self.out / "told.jsonl"
        if not file.exists():
            (_, targets), *others = self.aligned_texts()
            rows = [[line, target] for _, lines in others for line, target in zip(lines, targets, strict=True)]
            random.Random(0).shuffle(rows)
            _write(file, rows)
        return file

    def aligning(self, pairs: Path, place: str) -> tuple[str, ...]:
        return (f"align.pairs=[{pairs}]", f"align.layers=[{place}]", "alternation=align", *_PAIRS)

    def score(self, name: str) -> None:
        """Slot F1 in all languages."""
        out = self.out / f"{name}-scores"
        if (out / "summary.json").exists():
            return
        task = Slots()
        rows = task.rows(self.massive, "test", limit=ANSWERED)
        answers = answer_rows(
            task,
            rows,
            out / "answers",
            model=str(self.model),
            adapter=self.out / f"{name}-adapter",
            max_new_tokens=48,
            device="cpu",
        )
        write_scores(out, task, task.score(rows, answers.texts), dict(answers.made))
        print(out, flush=True)


_SETTINGS = (
    "lora.r=32",
    "lora.alpha=64",
    "lora.dropout=0",
    "lr=5e-3",
    "warmup=0.1",
    "evaluate_every=100",
    "gradient_checkpointing=false",
    "dtype=fp32",
)
_SLOTS = ("batch=32", "micro_batch=32", "updates=500")
_BOTH = ("batch=32", "micro_batch=32", "updates=1000")
"""One update of slots, one of pairs, and so on: as many of slots as without pairs."""
_PAIRS = ("batch=64", "micro_batch=64", "updates=200")


def _write(file: Path, examples: Iterable[list[str]]) -> None:
    lines = (json.dumps({"prompt": prompt, "response": target}, ensure_ascii=False) for prompt, target in examples)
    file.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
