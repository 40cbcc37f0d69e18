"""What exists: the languages, the named language sets and the corpora midprobe knows, as data.

Every fact is in a YAML file beside this one; this module only reads them. It imports none of our other packages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import yaml

__all__ = [
    "CorpusManifest",
    "Language",
    "Source",
    "corpus_manifest",
    "corpus_names",
    "data_folder",
    "language",
    "language_aliases",
    "language_sets",
    "languages",
    "recipe_names",
    "recipe_text",
    "text_digests",
]


@dataclass(frozen=True)
class Language:
    """One FLORES-200 language. A fact for which no source was found is None."""

    code: str
    """FLORES-200 code: ISO 639-3, underscore, ISO 15924, as `swh_Latn`."""
    name: str
    script: str
    iso639_1: str | None
    iso639_3: str
    family: str | None
    autonym: str | None
    level: Literal["high", "low"] | None
    """Resource level of NLLB Team (2022), Table 1."""
    level_source: str | None
    massive: str | None
    """Locale in MASSIVE 1.1, as `sw-KE`."""
    tatoeba: str | None
    """Code in the Tatoeba test sets of LASER."""


@dataclass(frozen=True)
class Source:
    """One place a corpus can be had from. Templates hold `{code}`, `{locale}` and `{split}`."""

    kind: Literal["folder", "hub", "archive"]
    path: str = ""
    """folder: below the data folder. archive: the member of one language and split."""
    id: str = ""
    """hub: the data set's name (or a local folder of its files)."""
    revision: str | None = None
    config: str | None = None
    """hub: configuration of one language; None where one table holds all languages."""
    column: str = ""
    """hub: the text column."""
    key: str | None = None
    """hub: the column that makes rows parallel; None where the row number does."""
    data_files: str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    """Our split -> the source's, where they differ."""
    codes: dict[str, str] = field(default_factory=dict)
    """Our code -> the source's, where they differ."""
    url: str = ""
    sha256: str = ""
    gated: bool = False
    note: str = ""


@dataclass(frozen=True)
class CorpusManifest:
    """A named corpus: what it holds, under which licence, and the sources in the order they are tried."""

    name: str
    title: str
    licence: str
    languages: tuple[str, ...]
    default_langs: str
    """What `--langs` means when it is not given: a set's name or `all`."""
    rows: dict[str, int]
    """Split -> the number of rows each language must have."""
    sources: tuple[Source, ...]
    default_split: str
    documents: str = ""
    """Below the data folder: a table with a header and one line a sentence, first the name of its document. Holds `{split}`."""
    note: str = ""


def data_folder() -> Path:
    """The folder of the files this package carries."""
    with as_file(files(__name__)) as folder:
        return Path(folder)


def _read(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 (both loaders are the safe one)


@cache
def _language_file() -> dict[str, Any]:
    return _read(data_folder() / "languages.yaml")


@cache
def languages() -> dict[str, Language]:
    """Code -> language, for all 204 languages of FLORES-200, sorted by code."""
    return {row["code"]: Language(**row) for row in _language_file()["languages"]}


def language(code: str) -> Language | None:
    """The language of a code; None where it is not one of ours."""
    return languages().get(code)


@cache
def language_sets() -> dict[str, tuple[str, ...]]:
    """The named sets, in their own order: `paper35`, `slots20`, `mt9`, `weakest5`."""
    return {name: tuple(codes) for name, codes in _language_file()["sets"].items()}


@cache
def language_aliases() -> dict[str, str]:
    """ISO 639-1 code or MASSIVE locale -> FLORES-200 code. Each alias belongs to one language only."""
    aliases = {}
    for language in languages().values():
        for alias in (language.iso639_1, language.massive):
            if alias is not None:
                aliases[alias] = language.code
    return aliases


def corpus_names() -> tuple[str, ...]:
    """The named corpora, sorted."""
    return tuple(sorted(path.stem for path in (data_folder() / "corpora").glob("*.yaml")))


@cache
def corpus_manifest(name: str) -> CorpusManifest:
    """The manifest of one named corpus.

    Raises:
        KeyError: no corpus has that name.
    """
    path = data_folder() / "corpora" / f"{name}.yaml"
    if name not in corpus_names():
        raise KeyError(name)
    fields = _read(path)
    listed = fields.pop("languages")
    if listed == "flores200":
        codes = tuple(languages())
    elif listed == "massive":
        codes = tuple(code for code, language in languages().items() if language.massive)
    else:
        codes = tuple(listed)
    sources = tuple(Source(**source) for source in fields.pop("sources"))
    return CorpusManifest(name=name, languages=codes, sources=sources, **fields)


def recipe_names() -> tuple[str, ...]:
    """The training recipes that come with midprobe, sorted."""
    return tuple(sorted(path.stem for path in (data_folder() / "recipes").glob("*.yaml")))


def recipe_text(name: str) -> str:
    """The YAML of one of them."""
    return (data_folder() / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


@cache
def evaluation_digests() -> frozenset[str]:
    """Of each English sentence of FLORES-200 dev the beginning of its sha256; the file tells of what text."""
    text = (data_folder() / "corpora" / "flores200-english.sha256").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


@cache
def text_digests(name: str) -> dict[tuple[str, str], str]:
    """(split, code) -> sha256 of the reference text, one sentence a line, of a named corpus; empty where none is kept."""
    path = data_folder() / "corpora" / f"{name}.sha256"
    if not path.exists():
        return {}
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return {(split, code): digest for digest, split, code in rows}
