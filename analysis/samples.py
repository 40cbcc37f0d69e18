"""Which languages a correlation is over: those with an accuracy and a score, supervised and transfer languages apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from analysis.accuracies import Accuracies, resolved_relation
from analysis.association import constant
from analysis.scores import Scores
from data_manifests import language
from data_manifests import languages as known_languages
from probe.corpus import resolve_languages
from probe.errors import AnalysisError

FEWEST = 4
"""Languages a correlation needs."""

_GROUPS = ("supervised", "transfer")
"""What groups of scored languages are called, in their order; scores may name others."""


@dataclass(frozen=True)
class Sample:
    """The languages one correlation is over, sorted by code, so that the order of the input moves no random draw."""

    name: str
    languages: tuple[str, ...]
    accuracy: Mapping[str, Float[np.ndarray, " language"]] = field(repr=False)
    """Layer's label, or `char` -> share in 0..1 of each language."""
    score: Float[np.ndarray, " language"] = field(repr=False)
    """Percent points."""

    def __str__(self) -> str:
        named = {"all": "All languages", "chosen": "Chosen languages"}.get(
            self.name, f"{self.name.capitalize()} languages"
        )
        return f"{named} ({len(self.languages)})"

    def families(self) -> list[str]:
        """The family of each language; one without a known family is its own."""
        return [(known.family if (known := language(code)) else None) or code for code in self.languages]


def join(
    accuracies: Accuracies,
    scores: Scores,
    relation: str,
    accuracy: Float[np.ndarray, " language"],
    langs: str | None,
    exclude: str | None,
) -> dict[str, str | None]:
    """Language -> why it is left out; None for those with an accuracy and a score that are wanted.

    Raises:
        AnalysisError: `exclude` leaves no language, or names a group that the scores do not have.
        CorpusError: a name that is no language.
    """
    wanted = _listed(langs, "--langs", scores, accuracies)
    unwanted = _listed(exclude, "--exclude", scores, accuracies) or set()
    known = dict(zip(accuracies.languages, accuracy.tolist(), strict=True))

    def reason(code: str) -> str | None:
        ungrouped = bool(scores.groups) and code not in scores.groups
        reasons = {
            "left out with --exclude": code in unwanted,
            "not among --langs": wanted is not None and code not in wanted,
            "neither in the result nor scored": code not in known and code not in scores.values,
            "in the result, but without a score": code not in scores.values,
            "scored, but not in the result": code not in known,
            f"has no direction of --relation {relation}": np.isnan(known.get(code, 0.0)),
            "in no group of the scores": wanted is None and ungrouped,
        }
        return next((text for text, holds in reasons.items() if holds), None)

    joined = {code: reason(code) for code in sorted({*known, *scores.values, *(wanted or ())})}
    if unwanted & known.keys() & scores.values.keys() and None not in joined.values():
        raise AnalysisError(
            f"--exclude leaves 0 languages ({exclude})",
            f"at least {FEWEST} with an accuracy and a score",
            "exclude fewer",
        )
    return joined


def samples_of(
    accuracies: Accuracies,
    scores: Scores,
    means: Mapping[str, Float[np.ndarray, " language"]],
    joined: Mapping[str, str | None],
    chosen: bool,
) -> tuple[list[Sample], dict[str, str], list[str]]:
    """The groups that can be correlated; all other languages with the reason; and a remark on each group left out."""
    shared = [code for code, reason in joined.items() if reason is None]
    dropped = {code: reason for code, reason in joined.items() if reason is not None}
    if scores.groups and not chosen:
        names = sorted(set(scores.groups.values()), key=lambda name: (name not in _GROUPS, name))
        members = {name: [code for code in shared if scores.groups[code] == name] for name in names}
    else:
        members = {"chosen" if chosen else "all": shared}
    groups, remarks = [], []
    for name, codes in members.items():
        rows = [accuracies.languages.index(code) for code in codes]
        group = Sample(
            name,
            tuple(codes),
            {label: column[rows] for label, column in means.items()},
            np.array([scores.values[code] for code in codes], dtype=float),
        )
        reason = _unusable(group.score)
        if reason is None:
            groups.append(group)
        else:
            remarks.append(f"{group}: left out, {reason}.")
            dropped.update(dict.fromkeys(codes, f"in a group that is left out: {reason}"))
    if not groups:
        raise AnalysisError(
            f"{accuracies.name} and {scores.name} ({' '.join(remarks).rstrip('.')})",
            f"at least {FEWEST} shared languages whose scores differ",
            "retrieve more of the scored languages, or name others with --langs",
        )
    return groups, dropped, remarks


def _unusable(score: Float[np.ndarray, " language"]) -> str | None:
    """Why no correlation with these scores can be had; None where one can."""
    if len(score) < FEWEST:
        return f"fewer than {FEWEST} languages have an accuracy and a score"
    if constant(score):
        return f"all scores are {score[0]:g}, and a correlation with a constant is undefined"
    return None


def expanded_relation(relation: str, scores: Scores, accuracies: Accuracies) -> str:
    """The relation with the codes of the result's languages for all names: `to:supervised` -> `to:rus_Cyrl,spa_Latn`,
    `to-english` -> `to:eng_Latn`; `all` stays.

    Raises:
        AnalysisError: an unknown relation, a language that the result lacks, or a group without a language of the result.
        CorpusError: a name that is no language.
    """
    role, colon, listed = relation.partition(":")
    codes: list[str] = []
    for part in _parts(listed):
        members = _members(part, scores, f"--relation {relation}")
        here = [part] if members is None else [code for code in accuracies.languages if code in members]
        if not here:
            raise AnalysisError(
                f"--relation {relation}: no language of the result is {part}",
                f"one of the {part} languages of {scores.name} in the result",
                "retrieve them too, or give other languages",
            )
        codes += here
    role, related = resolved_relation(role + colon + ",".join(codes), accuracies.languages)
    return f"{role}:{','.join(related)}" if related else role


def _members(word: str, scores: Scores, option: str) -> set[str] | None:
    """The languages of a group of the scores; None where the word is no group's name."""
    codes = {code for code, group in scores.groups.items() if group == word}
    if not codes and word in _GROUPS:
        raise AnalysisError(
            f"{option} with {scores.name}, which names no {word} languages",
            "scores with a column `group`, or published ones (paper:NAME)",
            "give the languages' codes",
        )
    return codes or None


def _listed(given: str | None, option: str, scores: Scores, accuracies: Accuracies) -> set[str] | None:
    """The codes that an option names, whether or not they have an accuracy and a score; None where it is not given."""
    if given is None:
        return None
    if not _parts(given):
        raise AnalysisError(f"{option} {given!r}", "at least one language", f"give codes, or leave {option} out")
    here = {*accuracies.languages, *scores.values}
    codes: set[str] = set()
    for part in _parts(given):
        if part == "all":
            codes |= here
        else:
            members = _members(part, scores, f"{option} {given}")
            words = sorted({*_GROUPS, *scores.groups.values(), "all"})
            codes |= members or set(resolve_languages(part, (*here, *known_languages()), "the result", words))
    return codes


def _parts(listed: str) -> list[str]:
    return [part for part in (part.strip() for part in listed.split(",")) if part]
