"""Probe sentences in training text: a model that was trained on them says nothing when it is probed with them.

ALMA's files hold FLORES-200 (dev and devtest, in order, as their last rows), the corpus that is probed by default.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from align.tasks.task import TaskRow
from data_manifests import CorpusManifest, corpus_manifest, evaluation_digests, text_digests
from probe.corpus import ParallelCorpus
from probe.errors import AlignError, CorpusError
from probe.sources import load_corpus, local_data

_PROBED = "flores200"


@dataclass(frozen=True)
class HeldOut:
    """Sentences on which nothing may be trained."""

    name: str
    sentences: frozenset[str]
    """As `normal` gives them."""
    doubts: tuple[str, ...] = ()
    """Why some may be missing here, for people."""

    @classmethod
    def of(cls, corpora: Iterable[ParallelCorpus], missing: Iterable[str] = ()) -> HeldOut:
        """All sentences of corpora, in all their languages.

        Args:
            missing: splits that could not be read, and so are not looked for.
        """
        corpora = tuple(corpora)
        name = ", ".join(f"{each.name} {each.split}".strip() for each in corpora) or _PROBED
        texts = (text for each in corpora for lines in each.sentences.values() for text in lines)
        doubts = [f"{split} could not be read and was not looked for" for split in missing]
        doubts += [
            f"{each.name} {each.split} was read in another version, so that sentences may be missed, in {codes}"
            for each in corpora
            if (codes := ", ".join(_changed(each)))
        ]
        return cls(name, frozenset(map(normal, texts)), tuple(doubts))


@dataclass(frozen=True)
class Overlap:
    """What of the held-out sentences is in training rows."""

    corpus: str
    before: Mapping[str, int]
    """Language or direction of the rows -> how many there were."""
    found: Mapping[str, int]
    """How many of these hold a held-out sentence."""
    doubts: tuple[str, ...]
    """Why there may be more."""
    kept: bool
    """Whether they were left in."""

    @property
    def note(self) -> str:
        """What was found, for people."""
        each = ", ".join(f"{name} {count} of {self.before[name]}" for name, count in self.found.items() if count)
        done = "kept" if self.kept else "left out"
        told = f"training rows that hold a sentence of {self.corpus} are {done}: {each or 'none was found'}"
        return "; ".join((told, *self.doubts))


def normal(text: str) -> str:
    """The text as it is compared: Unicode's NFKC, case folded, runs of white space as one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_evaluated(text: str) -> bool:
    """Whether it is an English sentence of FLORES-200 dev, which is known by its digest: no copy of the corpus is needed."""
    return hashlib.sha256(normal(text).encode()).hexdigest()[:16] in evaluation_digests()


def held_out(rows: Sequence[TaskRow], splits: Collection[str] | None = None) -> HeldOut:
    """FLORES-200 in the languages of rows.

    Args:
        splits: those that must be there. None: its default split must be, and the others are taken where they can be read.

    Raises:
        AlignError: a split that must be there cannot be read.
    """
    manifest = corpus_manifest(_PROBED)
    codes = sorted({code for row in rows for code in row.language.split("-")} & set(manifest.languages))
    langs = ",".join(codes)
    if not codes:
        return HeldOut(_PROBED, frozenset())
    corpora = [_needed(split, langs) for split in splits or (manifest.default_split,)]
    missing = []
    others = sorted(set(manifest.rows) - {manifest.default_split}) if splits is None else ()
    for split in others:
        try:
            if corpora[0].source == "folder" and not _is_local(manifest, split):
                raise CorpusError(
                    f"no {split}", "it beside the other split", "a hub that may not answer is not waited for"
                )
            corpora.append(load_corpus(_PROBED, langs, split))
        except CorpusError:
            missing.append(split)
    return HeldOut.of(corpora, missing)


def _changed(corpus: ParallelCorpus) -> list[str]:
    """The languages whose text is not the one whose digest is known, such as that of a corrected edition."""
    known = text_digests(corpus.name)
    return [code for code, digest in corpus.digests().items() if known.get((corpus.split, code), digest) != digest]


def _needed(split: str, langs: str) -> ParallelCorpus:
    try:
        return load_corpus(_PROBED, langs, split)
    except CorpusError as error:
        raise AlignError(
            f"training rows cannot be compared with {_PROBED} {split} ({error})",
            "its text, to leave out rows that hold it",
            f"run probe data fetch {_PROBED}, or give --allow-flores-training",
        ) from None


def _is_local(manifest: CorpusManifest, split: str) -> bool:
    folders = (each.path.format(split=split) for each in manifest.sources if each.kind == "folder")
    return any((local_data() / folder).is_dir() for folder in folders)


def without_overlap(
    rows: Sequence[TaskRow], against: HeldOut | None = None, keep: bool = False
) -> tuple[tuple[TaskRow, ...], Overlap]:
    """Leave out training rows of which a turn or the target is a held-out sentence.

    Whole texts are compared, see `normal`, with the sentences of every language: a row goes if its source or its target is one.

    Args:
        rows: for training.
        against: None: FLORES-200, see `held_out`.
        keep: count only; where FLORES-200 cannot be read, the counts say so.

    Returns:
        The rows that stay, in their order, and the counts.

    Raises:
        AlignError: FLORES-200 cannot be read; no row is left.
    """
    if against is None:
        against = _found_or_doubted(rows) if keep else held_out(rows)
    holds = [not against.sentences.isdisjoint(_texts(row)) for row in rows]
    before = Counter(row.language for row in rows)
    found = Counter(row.language for row, held in zip(rows, holds, strict=True) if held)
    overlap = Overlap(against.name, dict(before), {name: found[name] for name in before}, against.doubts, keep)
    kept = tuple(row for row, held in zip(rows, holds, strict=True) if keep or not held)
    if rows and not kept:
        raise AlignError(
            f"all {len(rows)} training rows hold a sentence of {against.name}",
            "rows of other text",
            "add training data, or give --allow-flores-training where this is what is studied",
        )
    return kept, overlap


def _found_or_doubted(rows: Sequence[TaskRow]) -> HeldOut:
    try:
        return held_out(rows)
    except AlignError:
        return HeldOut.of([], [_PROBED])


def _texts(row: TaskRow) -> set[str]:
    return {normal(turn.content) for turn in row.prompt if turn.role != "system"} | {normal(row.target)}
