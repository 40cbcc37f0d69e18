"""Reading parallel text: what is accepted, in which order, and the one line that each bad input gives."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manifests import language_sets
from probe.corpus import ParallelCorpus, read_folder, read_text, resolve_languages, text_digest
from probe.errors import CorpusError


def write_texts(folder: Path, texts: Mapping[str, Iterable[str]], suffix: str = ".txt") -> Path:
    for code, lines in texts.items():
        (folder / f"{code}{suffix}").write_bytes("".join(f"{line}\n" for line in lines).encode())
    return folder


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def rows(*texts: str, split: str = "dev") -> list[dict[str, Any]]:
    return [{"id": str(index), "partition": split, "utt": text} for index, text in enumerate(texts)]


def refusal(folder: Path, langs: str | None = None, split: str | None = None) -> str:
    """The message with which a folder is refused: one line."""
    with pytest.raises(CorpusError) as caught:
        read_folder(folder, langs, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Text folders


def test_text_folder_is_read_line_by_line(tmp_path: Path) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One.", "Two."], "deu_Latn": ["Eins.", "Zwei."]})
    corpus = read_folder(tmp_path)
    assert corpus.sentences == {"deu_Latn": ("Eins.", "Zwei."), "eng_Latn": ("One.", "Two.")}
    assert (corpus.rows, corpus.split, corpus.name) == (2, "", tmp_path.name)


def test_gzipped_text_equals_plain_text(tmp_path: Path) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One.", "Two."]})
    (tmp_path / "deu_Latn.txt.gz").write_bytes(gzip.compress(b"One.\nTwo.\n"))
    corpus = read_folder(tmp_path)
    assert corpus.sentences["deu_Latn"] == corpus.sentences["eng_Latn"]


def test_a_last_line_without_a_line_feed_counts(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.txt").write_bytes(b"One.\nTwo.")
    assert read_text(tmp_path / "eng_Latn.txt") == ("One.", "Two.")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, separator: str) -> None:
    """`str.splitlines` and text-mode files would cut here, and every row below would slip."""
    first = f"before{separator}after"
    assert len(first.splitlines()) == 2
    write_texts(tmp_path, {"eng_Latn": [first, "second"]})
    assert read_text(tmp_path / "eng_Latn.txt") == (first, "second")


def test_other_files_of_a_folder_are_no_languages(tmp_path: Path) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One."]})
    for name in ("README.md", "notes.txt", "eng_Latn", "metadata_dev.tsv", "deu_Latn.npy", ".eng_Latn.txt"):
        (tmp_path / name).write_text("no language")
    (tmp_path / "fra_Latn.d").mkdir()
    assert read_folder(tmp_path).languages == ("eng_Latn",)


@pytest.mark.parametrize("name", ["sw.txt", "sw-KE.txt", "swh_Latn.txt", "swh_Latn.dev", "swh_Latn.a.b.c"])
def test_file_names_may_be_codes_or_aliases(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Habari.\n")
    assert read_folder(tmp_path).languages == ("swh_Latn",)


def test_a_code_outside_flores_is_a_language_where_a_file_has_it(tmp_path: Path) -> None:
    write_texts(tmp_path, {"tlh_Latn": ["nuqneH"], "eng_Latn": ["Hello."]})
    assert read_folder(tmp_path, "tlh_Latn,en").languages == ("tlh_Latn", "eng_Latn")


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r")).filter(str.strip), min_size=1)
)
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = write_texts(tmp_path_factory.mktemp("any"), {"eng_Latn": lines})
    if not lines[0].startswith("\ufeff"):  # that is a byte order mark, and refused
        assert list(read_text(folder / "eng_Latn.txt")) == lines


# Which languages


def test_languages_are_sorted_where_none_are_asked_for(tmp_path: Path) -> None:
    write_texts(tmp_path, {code: ["."] for code in ("eng_Latn", "arb_Arab", "zho_Hans")})
    assert (
        read_folder(tmp_path, "all").languages
        == read_folder(tmp_path).languages
        == ("arb_Arab", "eng_Latn", "zho_Hans")
    )


@pytest.mark.parametrize(
    ("langs", "codes"),
    [
        ("swh_Latn,eng_Latn", ("swh_Latn", "eng_Latn")),
        ("zh,ar", ("zho_Hans", "arb_Arab")),
        ("sw-KE,zh-CN,en-US", ("swh_Latn", "zho_Hans", "eng_Latn")),
        (" en , zh ,", ("eng_Latn", "zho_Hans")),
        ("en,eng_Latn,en-US,sw", ("eng_Latn", "swh_Latn")),
    ],
)
def test_languages_keep_the_order_asked_for(tmp_path: Path, langs: str, codes: tuple[str, ...]) -> None:
    """By code, ISO 639-1 or MASSIVE locale, each once."""
    write_texts(tmp_path, {code: [code] for code in ("arb_Arab", "eng_Latn", "swh_Latn", "zho_Hans")})
    corpus = read_folder(tmp_path, langs)
    assert corpus.languages == codes
    assert all(corpus.sentences[code] == (code,) for code in codes)


def test_a_set_stands_for_its_languages_in_its_order(tmp_path: Path) -> None:
    members = language_sets()["mt9"]
    write_texts(tmp_path, {code: ["."] for code in (*members, "swh_Latn")})
    assert read_folder(tmp_path, "mt9").languages == members
    assert read_folder(tmp_path, "sw,mt9,de").languages == ("swh_Latn", *members)


def test_a_language_without_a_file_is_named(tmp_path: Path) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One."]})
    assert f"no file for deu_Latn in {tmp_path}" in refusal(tmp_path, "en,de")


@pytest.mark.parametrize(
    ("given_name", "nearest"),
    [
        ("eng_Latin", "eng_Latn"),
        ("deu", "deu_Latn"),
        ("German", "deu_Latn"),
        ("paper53", "paper35"),
        ("sv-KE", "swh_Latn"),
        ("swa_Latn", "swh_Latn"),  # the macrolanguage: sw; four letters of script do not bring it near war_Latn
        ("swa", "swh_Latn"),
        ("ara_Arab", "arb_Arab"),
        ("sw_Latn", "swh_Latn"),
        ("pt_Latn", "por_Latn"),
        ("eng_latn", "eng_Latn"),
        ("rus_Latn", "rus_Cyrl"),
        ("ace_Latin", "ace_Latn"),
        ("enx", "eng_Latn"),
    ],
)
def test_an_unknown_language_gets_the_nearest_suggested(tmp_path: Path, given_name: str, nearest: str) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One."]})
    message = refusal(tmp_path, f"en,{given_name}")
    assert f"unknown language {given_name!r}" in message
    assert f"did you mean {nearest}?" in message


@pytest.mark.parametrize("name", ["0123456789", "xx", "foo", "transfr", "zzz_Latn", "swa_Cyrl", "everything"])
def test_a_name_like_no_language_gets_no_suggestion(name: str) -> None:
    with pytest.raises(CorpusError, match="data list --languages"):
        resolve_languages(name, ["eng_Latn"], "here")


def test_the_other_words_of_an_option_are_suggested_too() -> None:
    with pytest.raises(CorpusError, match=r"did you mean transfer\?"):
        resolve_languages("transfr", ["eng_Latn"], "here", ["supervised", "transfer", "all"])


@pytest.mark.parametrize("langs", ["", " , "])
def test_no_language_at_all_is_refused(tmp_path: Path, langs: str) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One."]})
    assert "at least one language" in refusal(tmp_path, langs)


# Which split


def test_a_split_picks_among_several_files(tmp_path: Path) -> None:
    for split in ("dev", "devtest"):
        write_texts(tmp_path, {"eng_Latn": [split], "deu_Latn": [split]}, f".{split}")
    assert set(read_folder(tmp_path, split="devtest").sentences.values()) == {("devtest",)}
    message = refusal(tmp_path)
    assert "deu_Latn.dev, deu_Latn.devtest" in message
    assert "--split" in message


def test_a_single_file_needs_no_split_in_its_name(tmp_path: Path) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One."]}, ".txt")
    read = read_folder(tmp_path, split="dev")
    assert read.sentences == {"eng_Latn": ("One.",)}
    assert read.split == "", "its name does not say that it is dev"


def test_a_single_file_of_another_split_does_not_stand_in(tmp_path: Path) -> None:
    """Equal counts would hide that the rows of dev and devtest are not parallel."""
    for split in ("dev", "devtest"):
        write_texts(tmp_path, {"eng_Latn": [split]}, f".{split}")
    write_texts(tmp_path, {"deu_Latn": ["dev"]}, ".dev")
    assert "deu_Latn has deu_Latn.dev; expected one file of split devtest" in refusal(tmp_path, split="devtest")


# Bad text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"One.\nTw\xff.\n", "eng_Latn.txt line 2 is not valid UTF-8"),
        ("One.\nTwo.\n".encode("utf-16"), "eng_Latn.txt line 1 is not valid UTF-8"),
        (b"\xef\xbb\xbfOne.\nTwo.\n", "eng_Latn.txt begins with a byte order mark"),
        (b"One.\r\nTwo.\r\n", "eng_Latn.txt line 1 ends in CRLF"),
        (b"One.\nTwo.\r\n", "eng_Latn.txt line 2 ends in CRLF"),
        (b"One.\n\nTwo.\n", "eng_Latn.txt line 2 is empty"),
        (b"One.\nTwo.\n\n", "eng_Latn.txt line 3 is empty"),
        (b"One.\n \t\n", "eng_Latn.txt line 2 is empty"),
        ("One.\n\u3000\u2028\n".encode(), "eng_Latn.txt line 2 is empty"),
        (b"", "eng_Latn.txt is empty"),
        (b"\n", "eng_Latn.txt is empty"),
    ],
)
def test_bad_text_is_refused_by_file_and_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "eng_Latn.txt").write_bytes(data)
    assert message in refusal(tmp_path)


def test_unequal_counts_name_both_files(tmp_path: Path) -> None:
    write_texts(tmp_path, {"eng_Latn": ["One.", "Two."], "deu_Latn": ["Eins."]}, ".dev")
    message = refusal(tmp_path, "en,de")
    assert "deu_Latn.dev has 1 rows" in message
    assert "2 as in eng_Latn.dev" in message


@pytest.mark.parametrize("cut", [slice(0, 20), slice(0, -4), slice(4, None)])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, cut: slice) -> None:
    (tmp_path / "eng_Latn.txt.gz").write_bytes(gzip.compress(b"One.\nTwo.\n" * 9)[cut])
    assert "eng_Latn.txt.gz cannot be read" in refusal(tmp_path)


def test_a_flipped_byte_in_a_gzip_file_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(bytes(range(65, 91)) * 40, mtime=0))
    for position in range(10, len(data)):
        flipped = data.copy()
        flipped[position] ^= 0xFF
        (tmp_path / "eng_Latn.txt.gz").write_bytes(flipped)
        assert "cannot be read" in refusal(tmp_path)


def test_a_folder_without_languages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here")
    assert "holds no language file" in refusal(tmp_path)


# MASSIVE-style jsonl


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl_is_parallel_by_id_whatever_the_order(tmp_path: Path, suffix: str) -> None:
    write_jsonl(tmp_path / f"en-US{suffix}", rows("zero", "one", "two"))
    write_jsonl(tmp_path / f"de-DE{suffix}", reversed(rows("null", "eins", "zwei")))
    corpus = read_folder(tmp_path, "en,de")
    assert corpus.sentences == {"eng_Latn": ("zero", "one", "two"), "deu_Latn": ("null", "eins", "zwei")}
    assert read_folder(tmp_path, "de,en").sentences["eng_Latn"] == ("two", "one", "zero")


def test_a_split_of_jsonl_is_its_partition(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "en-US.jsonl", [*rows("learn", split="train"), *rows("look", "see")])
    assert read_folder(tmp_path, split="dev").sentences == {"eng_Latn": ("look", "see")}
    assert "en-US.jsonl holds the partitions dev, train" in refusal(tmp_path)
    assert "no row of split 'test'; expected one of dev, train" in refusal(tmp_path, split="test")


def test_jsonl_with_one_partition_needs_no_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "en-US.jsonl", rows("look", "see"))
    assert read_folder(tmp_path).rows == 2


def test_jsonl_of_id_and_text_is_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "eng_Latn.jsonl", [{"id": 7, "text": "seven"}, {"id": 8, "text": "eight"}])
    assert read_folder(tmp_path, split="dev").sentences == {"eng_Latn": ("seven", "eight")}


def test_jsonl_lines_end_at_a_line_feed_only(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "eng_Latn.jsonl", rows("a\u2028b", "c\u0085d"))
    assert read_folder(tmp_path).sentences["eng_Latn"] == ("a\u2028b", "c\u0085d")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "1", "utt": "cut', "en-US.jsonl line 2 is not JSON"),
        (b'["1", "a list"]', "en-US.jsonl line 2 is no JSON object"),
        (b'{"id": "1", "utt": "\xff"}', "en-US.jsonl line 2 is not valid UTF-8"),
        (b'{"utt": "no id"}', "en-US.jsonl line 2 has no id or no text"),
        (b'{"id": "1"}', "en-US.jsonl line 2 has no id or no text"),
        (b'{"id": "1", "utt": null}', "en-US.jsonl line 2 has no id or no text"),
        (b'{"id": "0", "utt": "again"}', "en-US.jsonl line 2 repeats id '0'"),
        (b'{"id": 0, "utt": "again, as a number"}', "en-US.jsonl line 2 repeats id 0"),
        (b'{"id": "1", "utt": " "}', "en-US.jsonl line 2 is empty"),
        (b'{"id": "1", "utt": "two\\nlines"}', "en-US.jsonl line 2 holds a line break"),
        (b'{"id": "1", "utt": "half \\ud83d"}', "en-US.jsonl line 2 holds half of a surrogate pair"),
    ],
)
def test_bad_jsonl_is_refused_by_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "en-US.jsonl").write_bytes(b'{"id": "0", "utt": "first"}\n' + line + b"\n")
    assert message in refusal(tmp_path)


def test_an_empty_jsonl_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "en-US.jsonl").write_bytes(b"\n")
    assert "en-US.jsonl is empty" in refusal(tmp_path)


def test_different_ids_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "en-US.jsonl", rows("zero", "one", "two"))
    write_jsonl(tmp_path / "de-DE.jsonl", rows("null", "eins"))
    assert "deu_Latn and eng_Latn differ in 1 ids, '2' first" in refusal(tmp_path, "en,de")


def test_two_jsonl_files_of_a_language_are_refused(tmp_path: Path) -> None:
    for name in ("en-US.jsonl", "eng_Latn.jsonl.gz"):
        write_jsonl(tmp_path / name, rows("zero"))
    assert "eng_Latn has 2 jsonl files" in refusal(tmp_path)


def test_jsonl_beside_text_is_not_read_as_text(tmp_path: Path) -> None:
    """Counts agree here, and a JSON object would pass for a sentence."""
    write_texts(tmp_path, {"eng_Latn": ["One.", "Two."]})
    write_jsonl(tmp_path / "de-DE.jsonl", rows("eins", "zwei"))
    assert "deu_Latn has de-DE.jsonl, others have text files" in refusal(tmp_path)
    assert read_folder(tmp_path, "de").rows == read_folder(tmp_path, "en").rows == 2


# Real files


@pytest.mark.shared
def test_real_massive_rows_are_parallel(shared_data: Path) -> None:
    """Known rows of the dev split, in upstream's order."""
    corpus = read_folder(shared_data / "massive/1.1/data", "en-US,de-DE,am-ET", "dev")
    assert corpus.languages == ("eng_Latn", "deu_Latn", "amh_Ethi")
    assert corpus.rows == 2033
    with gzip.open(shared_data / "massive/native-sample/de-DE_dev.jsonl.gz", "rt", encoding="utf-8") as file:
        native = [json.loads(line)["utt"] for line in file]
    assert list(corpus.sentences["deu_Latn"]) == native


@pytest.mark.shared
def test_digest_of_a_real_file_is_that_of_its_bytes(shared_data: Path) -> None:
    from hashlib import sha256

    for path in sorted((shared_data / "flores200/dev").iterdir()):
        assert text_digest(read_text(path)) == sha256(path.read_bytes()).hexdigest()


# The corpus itself


def test_a_limit_keeps_the_first_rows(toy: ParallelCorpus) -> None:
    short = toy.limited(3)
    assert short.sentences == {code: lines[:3] for code, lines in toy.sentences.items()}
    assert toy.limited(None) is toy
    with pytest.raises(CorpusError, match="--limit 0"):
        toy.limited(0)


def test_the_digest_sees_text_order_and_line_ends() -> None:
    texts = [("a", "b"), ("b", "a"), ("ab",), ("a", "b "), ("a\u2028b",), ("a",), ("a", "b", "c")]
    assert len({text_digest(lines) for lines in texts}) == len(texts)
