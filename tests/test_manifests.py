"""What exists: languages, sets, corpora and digests as data, and the embedded corpus as text."""

from __future__ import annotations

import hashlib
import re
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml

from data_manifests import (
    Source,
    corpus_manifest,
    corpus_names,
    data_folder,
    language_aliases,
    language_sets,
    languages,
    text_digests,
)
from probe.corpus import ParallelCorpus, read_folder
from probe.verify import script_share, verify


def codes_of(aliases: str) -> tuple[str, ...]:
    return tuple(language_aliases()[alias] for alias in aliases.split(","))


# Languages


def test_every_yaml_file_loads() -> None:
    paths = sorted(data_folder().rglob("*.yaml"))
    assert {path.name for path in paths} >= {"languages.yaml", "flores200.yaml", "massive.yaml", "everyday.yaml"}
    assert all(yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths)


def test_all_204_languages_are_there_once_and_sorted() -> None:
    rows = yaml.safe_load((data_folder() / "languages.yaml").read_text(encoding="utf-8"))["languages"]
    codes = [row["code"] for row in rows]
    assert len(codes) == len(languages()) == 204
    assert codes == sorted(codes) == list(languages())


def test_a_code_is_made_of_its_parts() -> None:
    for code, language in languages().items():
        assert code == f"{language.iso639_3}_{language.script}"
        assert re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", code)


@pytest.mark.parametrize("field", ["iso639_1", "massive", "name"])
def test_what_names_a_language_names_no_other(field: str) -> None:
    values = Counter(getattr(language, field) for language in languages().values())
    del values[None]
    assert values
    assert set(values.values()) == {1}


def test_every_alias_leads_to_its_language_and_hides_no_code() -> None:
    aliases = language_aliases()
    expected = sum(
        (language.iso639_1 is not None) + (language.massive is not None) for language in languages().values()
    )
    assert len(aliases) == expected, "an alias that two languages share would be lost"
    assert not aliases.keys() & languages().keys()
    assert not aliases.keys() & language_sets().keys()
    assert (aliases["sw"], aliases["zh-CN"], aliases["no"]) == ("swh_Latn", "zho_Hans", "nob_Latn")


def test_facts_have_their_form() -> None:
    """A fact that was not found is null, never empty or guessed; a level names its source."""
    sources = yaml.safe_load((data_folder() / "languages.yaml").read_text(encoding="utf-8"))["sources"]
    for language in languages().values():
        assert "" not in vars(language).values()
        assert language.level in ("high", "low")
        assert language.level_source in sources
        assert re.fullmatch(r"[a-z]{2}", language.iso639_1 or "aa")
        assert re.fullmatch(r"[a-z]{2}-[A-Z]{2}", language.massive or "aa-AA")
        assert re.fullmatch(r"[a-z]{3}", language.tatoeba or "aaa")


def test_resource_levels_are_those_of_nllb() -> None:
    """Table 1 counts 54 high- and 150 low-resource languages."""
    assert Counter(language.level for language in languages().values()) == {"high": 54, "low": 150}


def test_an_autonym_is_in_the_languages_script() -> None:
    for code, language in languages().items():
        if language.autonym:
            assert script_share([language.autonym], language.script) > 0.5, code


# Sets


def test_sets_have_their_sizes() -> None:
    sizes = {name: len(codes) for name, codes in language_sets().items()}
    assert sizes == {"paper35": 35, "slots20": 20, "mt9": 9, "weakest5": 5}


def test_sets_hold_known_languages_once() -> None:
    for name, codes in language_sets().items():
        assert len(set(codes)) == len(codes), name
        assert set(codes) <= languages().keys(), name


def test_paper35_is_the_papers_list() -> None:
    slots = "ar,en,es,ru,zh,cy,ja,jv,sw,tl,af,az,de,el,fr,hi,is,th,tr,ur"
    assert language_sets()["slots20"] == codes_of(slots)
    assert language_sets()["paper35"] == codes_of(slots + ",cs,he,uk,am,bn,it,hu,hy,id,kn,ka,mn,km,ko,lv")


def test_smaller_sets_lie_in_paper35() -> None:
    sets = language_sets()
    assert set(sets["weakest5"]) < set(sets["slots20"]) < set(sets["paper35"])
    assert set(sets["mt9"]) < set(sets["paper35"])


# Corpora


def test_the_three_corpora_are_listed() -> None:
    assert corpus_names() == ("everyday", "flores200", "massive")
    with pytest.raises(KeyError):
        corpus_manifest("nothing")


@pytest.mark.parametrize("name", corpus_names())
def test_a_manifest_is_complete(name: str) -> None:
    manifest = corpus_manifest(name)
    assert manifest.title
    assert manifest.licence
    assert manifest.default_split in manifest.rows
    assert all(rows > 0 for rows in manifest.rows.values())
    assert manifest.default_langs == "all" or set(language_sets()[manifest.default_langs]) <= set(manifest.languages)
    assert set(manifest.languages) <= languages().keys()
    assert manifest.sources[0].kind == "folder", "a local copy comes before the network"


NEEDED = {"folder": ("path",), "hub": ("id", "revision", "column"), "archive": ("url", "sha256", "path")}


@pytest.mark.parametrize("source", [source for name in corpus_names() for source in corpus_manifest(name).sources])
def test_a_source_says_what_its_reader_needs(source: Source) -> None:
    for field in NEEDED[source.kind]:
        assert getattr(source, field), field
    if source.kind == "archive":
        assert source.url.startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
    for template in (source.path, source.column, source.config or "", source.data_files or ""):
        assert set(re.findall(r"{(\w+)}", template)) <= {"package", "split", "code", "locale"}
    assert set(source.codes) <= languages().keys()
    assert source.codes.keys().isdisjoint(source.codes.values())


def test_known_sources_are_named() -> None:
    flores, massive = corpus_manifest("flores200"), corpus_manifest("massive")
    ids = {source.id: source for source in (*flores.sources, *massive.sources) if source.id}
    assert ids.keys() == {"mteb/FloresBitextMining", "openlanguagedata/flores_plus", "AmazonScience/massive"}
    assert ids["openlanguagedata/flores_plus"].gated
    assert not ids["mteb/FloresBitextMining"].gated
    assert ids["openlanguagedata/flores_plus"].codes["zho_Hans"] == "cmn_Hans"
    assert ids["AmazonScience/massive"].revision == "refs/convert/parquet"
    (archive,) = [source for source in flores.sources if source.kind == "archive"]
    assert archive.sha256.startswith("b8b0b767")


@pytest.mark.shared
def test_rows_are_those_of_the_real_files(shared_data: Path) -> None:
    for path in (shared_data / "flores200/dev").iterdir():
        assert path.read_bytes().count(b"\n") == corpus_manifest("flores200").rows["dev"], path.name
    massive = shared_data / "massive/1.1/data"
    for split, rows in corpus_manifest("massive").rows.items():
        assert read_folder(massive, "cy-GB", split).rows == rows


# Digests


@pytest.mark.parametrize("name", corpus_names())
def test_digests_are_of_known_languages_and_splits(name: str) -> None:
    manifest, digests = corpus_manifest(name), text_digests(name)
    assert digests
    for (split, code), digest in digests.items():
        assert split in manifest.rows
        assert code in manifest.languages
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert len(set(digests.values())) == len(digests), "two texts are the same"


@pytest.mark.shared
def test_flores_digests_are_those_of_all_204_real_files(shared_data: Path) -> None:
    found = {path.stem: path.read_bytes() for path in (shared_data / "flores200/dev").iterdir()}
    with tarfile.open(shared_data / "flores200/dev-other163.tar.gz") as tar:
        found |= {Path(member.name).stem: stream.read() for member in tar if (stream := tar.extractfile(member))}
    assert len(found) == 204
    assert text_digests("flores200") == {
        ("dev", code): hashlib.sha256(data).hexdigest() for code, data in found.items()
    }


@pytest.mark.shared
def test_massive_digests_are_those_of_the_real_rows(shared_data: Path) -> None:
    """All 33 locales have the three splits; four are read again here."""
    digests = text_digests("massive")
    locales = [path.name.split(".")[0] for path in (shared_data / "massive/1.1/data").iterdir()]
    assert {code for _, code in digests} == {language_aliases()[locale] for locale in locales}
    assert len(digests) == 3 * len(locales) == 99
    for split in ("train", "dev", "test"):
        corpus = read_folder(shared_data / "massive/1.1/data", "en-US,am-ET,ja-JP", split, name="massive")
        assert corpus.digests() == {code: digests[split, code] for code in corpus.languages}


def test_everyday_digests_are_current() -> None:
    """The card in data_manifests/everyday gives the command that writes them anew."""
    folder = data_folder() / "everyday"
    expected = {("dev", path.stem): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.txt")}
    assert text_digests("everyday") == expected


def test_a_corpus_without_digests_has_none() -> None:
    assert text_digests("nothing") == {}


# The embedded corpus


def test_everyday_is_parallel_in_thirteen_languages_of_seven_scripts(everyday: ParallelCorpus) -> None:
    assert set(everyday.languages) == set(codes_of("en,de,es,fr,ru,zh,ja,ar,hi,tr,sw,cy,el"))
    assert len({languages()[code].script for code in everyday.languages}) >= 7
    assert everyday.rows == 128


def test_everyday_passes_its_own_check(everyday: ParallelCorpus) -> None:
    checks = verify(everyday)
    assert [fault for check in checks for fault in check.faults] == []
    assert min(check.script_share for check in checks) > 0.98, "Unicode gives a few marks, as ー, to no script"


def test_everyday_repeats_no_sentence(everyday: ParallelCorpus) -> None:
    everything = [line for lines in everyday.sentences.values() for line in lines]
    assert len(set(everything)) == len(everything) == 128 * 13


def test_everyday_text_is_clean(everyday: ParallelCorpus) -> None:
    """Composed characters, single blanks, nothing invisible, and no letter of another script."""
    for code, lines in everyday.sentences.items():
        for line in lines:
            assert unicodedata.is_normalized("NFC", line), line
            assert line == " ".join(line.split()), line
            assert {unicodedata.category(c)[0] for c in line} <= set("LMNPZ"), line
            if languages()[code].script != "Latn":
                assert not re.search(r"[A-Za-z]", line), line


FULL_STOPS = {"hin_Deva": "।", "jpn_Jpan": "。", "zho_Hans": "。"}
QUESTION_MARKS = {"arb_Arab": "؟", "ell_Grek": ";", "zho_Hans": "\N{FULLWIDTH QUESTION MARK}"}


def test_everyday_sentences_end_as_the_english_ones_do(everyday: ParallelCorpus) -> None:
    """In the language's own punctuation; a Japanese question ends in か."""
    for code, lines in everyday.sentences.items():
        for english, line in zip(everyday.sentences["eng_Latn"], lines, strict=True):
            asked = english.endswith("?")
            if code == "jpn_Jpan":
                assert line.endswith("。"), line
                assert line.endswith("か。") == asked, line
            else:
                assert line.endswith(QUESTION_MARKS.get(code, "?") if asked else FULL_STOPS.get(code, ".")), line


def test_everyday_digits_are_the_same_in_every_language(everyday: ParallelCorpus) -> None:
    for lines in everyday.sentences.values():
        for english, line in zip(everyday.sentences["eng_Latn"], lines, strict=True):
            assert sorted(re.findall(r"\d+", line)) == sorted(re.findall(r"\d+", english)), line


def test_everyday_lengths_go_together(everyday: ParallelCorpus) -> None:
    """A slipped row would break this: lengths of translations correlate, of unrelated rows they do not."""
    import numpy as np

    english = np.array([len(line) for line in everyday.sentences["eng_Latn"]])
    for code, lines in everyday.sentences.items():
        lengths = np.array([len(line) for line in lines])
        own, *beside = (np.corrcoef(english, np.roll(lengths, shift))[0, 1] for shift in (0, -1, 1))
        assert own > 0.3 > max(beside), code


def test_the_card_says_who_reviewed_and_under_which_licence() -> None:
    card = " ".join((data_folder() / "everyday/README.md").read_text(encoding="utf-8").split())
    assert "No native speaker has reviewed any of it" in card
    assert "CC0 1.0" in card
    assert corpus_manifest("everyday").licence == "CC0 1.0"
