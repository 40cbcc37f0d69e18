"""Named corpora: try the sources of a manifest in their order; say of each why it failed."""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_manifests import CorpusManifest, Source, corpus_manifest, corpus_names, data_folder, languages
from probe.corpus import ParallelCorpus, check_line, read_folder, resolve_languages
from probe.errors import CorpusError


def local_data() -> Path:
    """Where local copies of named corpora are looked for and kept: `$MIDPROBE_DATA`, else `~/.cache/midprobe`."""
    return Path(os.environ.get("MIDPROBE_DATA") or Path.home() / ".cache" / "midprobe")


def load_corpus(
    name: str, langs: str | None = None, split: str | None = None, limit: int | None = None
) -> ParallelCorpus:
    """A corpus by name (`flores200`, `massive`, `everyday`) or a folder of language files.

    Args:
        langs: codes, aliases or sets; None = the corpus's own default (a folder: all it holds).
        split: None = the corpus's default split (a folder: its only one).
        limit: keep the first rows only.

    Raises:
        CorpusError: no such corpus, or no source could give it; each source is listed with its reason.
    """
    if name in corpus_names() or not Path(name).is_dir():
        corpus = _load_named(_manifest(name, "or a folder"), langs, split)
    else:
        corpus = read_folder(Path(name), langs, split)
    return corpus.limited(limit)


def _manifest(name: str, or_else: str = "") -> CorpusManifest:
    """The manifest of a name that the user gave."""
    if name not in corpus_names():
        near = difflib.get_close_matches(name, corpus_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else "`probe data list` shows them"
        if or_else and ("/" in name or "." in name):
            raise CorpusError(
                f"--corpus {name} is no folder", "a folder of language files, or a corpus by name", "check the path"
            )
        raise CorpusError(f"no corpus {name!r}", f"{', '.join(corpus_names())} {or_else}".strip(), hint)
    return corpus_manifest(name)


def _load_named(manifest: CorpusManifest, langs: str | None, split: str | None) -> ParallelCorpus:
    split = manifest.default_split if split is None else split
    if split not in manifest.rows:
        raise CorpusError(
            f"--split {split} of {manifest.name}", f"one of {', '.join(manifest.rows)}", "give one of these"
        )
    langs = manifest.default_langs if langs is None else langs
    codes = resolve_languages(langs, available=manifest.languages, place=manifest.title)
    reasons = []
    for source in manifest.sources:
        try:
            corpus = _READERS[source.kind](manifest, source, codes, split)
            _check_rows(manifest, corpus)
            return replace(corpus, source=_described(source))
        except Exception as error:  # a source may fail in any way: network, format, missing package
            place = f" {_folder(source, split)}" if source.kind == "folder" else ""
            reasons.append(f"[{_described(source)}{place}] {_one_line(error)}")
    raise CorpusError(
        f"no source of {manifest.title} answered: {' '.join(reasons)}",
        "one of them to hold it",
        f"put the files below $MIDPROBE_DATA ({local_data()}), or mend the access and run `probe data fetch {manifest.name}`",
    )


def _described(source: Source) -> str:
    """The source as a store records it: without the folders of this machine."""
    name = source.id or source.url
    return f"{source.kind} {name}@{source.revision}" if source.revision else f"{source.kind} {name}".strip()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _check_rows(manifest: CorpusManifest, corpus: ParallelCorpus) -> None:
    expected = manifest.rows[corpus.split]
    if corpus.rows != expected:
        raise CorpusError(f"{corpus.rows} rows in {corpus.split}", f"{expected}", "fetch the corpus again")


def _folder(source: Source, split: str) -> Path:
    path = source.path.format(package=data_folder(), split=split)
    return Path(path) if Path(path).is_absolute() else local_data() / path


def _from_folder(manifest: CorpusManifest, source: Source, codes: Sequence[str], split: str) -> ParallelCorpus:
    folder = _folder(source, split)
    if not folder.is_dir():
        raise CorpusError("no such folder", "a local copy", "the next source is tried")
    corpus = read_folder(folder, ",".join(codes), split, name=manifest.name)
    return ParallelCorpus(manifest.name, split, corpus.sentences)


def _from_hub(manifest: CorpusManifest, source: Source, codes: Sequence[str], split: str) -> ParallelCorpus:
    """Through `datasets`, which reads data files only: no code of the data set's repository runs."""
    sentences: dict[str, tuple[str, ...]] = {}
    keys: dict[str, list] = {}
    for code in codes:
        table = _hub_table(source, code, source.splits.get(split, split))
        texts = table[source.column.format(code=_their_code(source, code))]
        # Only a line feed is cut: blanks at the ends belong to the text, and digests count them.
        sentences[code] = tuple((text or "").removesuffix("\n") for text in texts)
        keys[code] = list(table[source.key]) if source.key else list(range(len(sentences[code])))
        if keys[code] != keys[codes[0]]:
            raise CorpusError(
                f"{code} and {codes[0]} differ in their rows", "the same keys in the same order", "try another source"
            )
        for row, text in enumerate(sentences[code], start=1):
            check_line(text, f"{code} row {row}")
    return ParallelCorpus(manifest.name, split, sentences)


def _hub_table(source: Source, code: str, split: str) -> Any:
    names = {"code": _their_code(source, code), "locale": _locale(code), "split": split}
    options: dict[str, Any] = {"split": split}
    if not Path(source.id).is_dir():  # a local copy of the data set's files has no revision
        options["revision"] = source.revision
    if source.config:
        options["name"] = source.config.format(**names)
    if source.data_files:
        options["data_files"] = source.data_files.format(**names)
    return _load_table(source.id, tuple(options.items()))


@lru_cache(maxsize=1)
def _load_table(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """Kept for the next language, since one table may hold all of them."""
    import datasets

    given = dict(options)
    if "data_files" in given:
        given["data_files"] = {given["split"]: given["data_files"]}
    return datasets.load_dataset(name, **given)


def _their_code(source: Source, code: str) -> str:
    return source.codes.get(code, code)


def _locale(code: str) -> str:
    language = languages().get(code)
    return (language.massive if language else None) or code


def _from_archive(manifest: CorpusManifest, source: Source, codes: Sequence[str], split: str) -> ParallelCorpus:
    """Download once into the data folder, check the digest, unpack the languages and the documents beside other local copies."""
    archive = local_data() / "downloads" / source.url.rsplit("/", 1)[-1]
    if not archive.exists():
        _download(source.url, archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != source.sha256:
        archive.unlink()
        raise CorpusError(
            f"{source.url} has sha256 {digest[:12]}...",
            f"{source.sha256[:12]}...",
            "try again; the bad copy was removed",
        )
    folder = local_data() / "unpacked" / manifest.name
    wanted = {source.path.format(code=code, locale=_locale(code), split=split): code for code in codes}
    documents = local_data() / manifest.documents.format(split=split)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name in wanted:
                target = folder / split / (wanted.pop(name) + Path(name).suffix)
            elif manifest.documents and Path(name).name == documents.name:
                target = documents
            else:
                continue
            if (stream := tar.extractfile(member)) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read())
    if wanted:
        raise CorpusError(
            f"the archive lacks {next(iter(wanted))}", "a file for every language", "leave the language out"
        )
    corpus = read_folder(folder / split, ",".join(codes), split, name=manifest.name)
    return ParallelCorpus(manifest.name, split, corpus.sentences)


def _download(url: str, target: Path) -> None:
    """To a temporary name first, so that an interrupted download is not taken for the file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as out:  # noqa: S310 (URLs of our manifests)
            shutil.copyfileobj(response, out)
    except (urllib.error.URLError, OSError) as error:
        raise CorpusError(f"{url} did not answer ({error})", "the archive", "check the network") from None
    partial.replace(target)


_READERS: dict[str, Callable[[CorpusManifest, Source, Sequence[str], str], ParallelCorpus]] = {
    "folder": _from_folder,
    "hub": _from_hub,
    "archive": _from_archive,
}


def fetch_corpus(name: str, langs: str | None = None, splits: Sequence[str] = ()) -> list[Path]:
    """Load a named corpus from its first source that answers and keep it as text files in the data folder.

    A file that is there with the same text is left alone.

    Returns:
        The files, `<data folder>/<corpus>/<split>/<code>.<split>`, which the `folder` source finds from then on.

    Raises:
        CorpusError: as `load_corpus`.
    """
    manifest = _manifest(name)
    if any("{package}" in source.path for source in manifest.sources):
        raise CorpusError(
            f"{name} is embedded", "a corpus that is elsewhere", "use it by name; there is nothing to fetch"
        )
    written = []
    for split in splits or tuple(manifest.rows):
        corpus = load_corpus(name, "all" if langs is None else langs, split)
        folder = local_data() / name / split
        folder.mkdir(parents=True, exist_ok=True)
        for code, lines in corpus.sentences.items():
            path = folder / f"{code}.{split}"
            content = "".join(line + "\n" for line in lines).encode()
            if not path.exists() or path.read_bytes() != content:
                partial = path.with_name(f".{path.name}")  # no language file, should this be interrupted
                partial.write_bytes(content)
                partial.replace(path)
            written.append(path)
    return written
