"""Parallel text for alignment: every format gives the same pairs, filters are counted, no text is on both sides of a split."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from align.pairs import (
    PairSet,
    filter_pairs,
    is_multi_sentence,
    language_code,
    read_pairs,
    split_development,
)
from data_manifests import language_sets
from probe.corpus import ParallelCorpus
from probe.errors import AlignError, CorpusError, ProbeError

WELSH = ("Mae hi'n bwrw glaw.", "Ble mae'r orsaf?", "")
ENGLISH = ("It is raining.", "Where is the station?", "Nothing.")
NAMES = ("cym_Latn", "eng_Latn")


def write(path: Path, lines: tuple[str, ...]) -> Path:
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def texts(sets: tuple[PairSet, ...]) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    return [(each.source, each.target, each.sources, each.targets) for each in sets]


def pair(count: int, source: str = "cym_Latn", target: str = "eng_Latn", label: str = "") -> PairSet:
    return PairSet(
        source,
        target,
        tuple(f"{source} {label}{row}" for row in range(count)),
        tuple(f"{target} {label}{row}" for row in range(count)),
        "made",
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("news.cym-eng.cym", "news.cym-eng.eng"),
        ("news.eng-cym.cym", "news.eng-cym.eng"),
        ("v1.2.train.cy-en.cy.gz", "v1.2.train.cy-en.en.gz"),
        ("x.cy-GB-en-US.cy-GB", "x.cy-GB-en-US.en-US"),
        ("x.cy_GB-eng_Latn.cy_GB", "x.cy_GB-eng_Latn.eng_Latn"),
    ],
)
def test_moses_pairs_under_any_codes(tmp_path: Path, first: str, second: str) -> None:
    write(tmp_path / first, WELSH)
    write(tmp_path / second, ENGLISH)
    (tmp_path / "README.md").write_text("about")
    expected = [(*NAMES, WELSH, ENGLISH)]
    for spec in (tmp_path, tmp_path / first, str(tmp_path / second)):
        assert texts(read_pairs(spec)) == expected


@pytest.mark.parametrize(
    ("name", "header", "langs"),
    [
        ("news.tsv", "cym\teng", None),
        ("news.tsv", "cy-GB\teng_Latn", "cym,eng"),
        ("news.cym-eng.tsv", None, None),
        ("news.tsv.gz", None, "cy,en"),
        ("news.fra-deu.tsv", "cym\teng", "cym"),
    ],
)
def test_tables_of_two_columns(tmp_path: Path, name: str, header: str | None, langs: str | None) -> None:
    rows = tuple(f'{source}\t{target} "quoted' for source, target in zip(WELSH, ENGLISH, strict=True))
    path = write(tmp_path / name, (header, *rows) if header else rows)
    english = tuple(f'{target} "quoted' for target in ENGLISH)
    assert texts(read_pairs(path, langs)) == [(*NAMES, WELSH, english)]
    assert texts(read_pairs(tmp_path, langs)) == [(*NAMES, WELSH, english)]


def test_english_becomes_the_target_and_either_gives_both_directions(tmp_path: Path) -> None:
    write(tmp_path / "x.eng-cym.eng", ENGLISH)
    write(tmp_path / "x.eng-cym.cym", WELSH)
    write(tmp_path / "x.deu-fra.deu", ("Hallo.",))
    write(tmp_path / "x.deu-fra.fra", ("Salut.",))
    assert texts(read_pairs(tmp_path)) == [(*NAMES, WELSH, ENGLISH)]
    both = read_pairs(tmp_path, relation="either")
    assert [each.name for each in both] == [
        "cym_Latn-eng_Latn",
        "deu_Latn-fra_Latn",
        "eng_Latn-cym_Latn",
        "fra_Latn-deu_Latn",
    ]
    assert (both[2].sources, both[2].targets) == (ENGLISH, WELSH)
    assert [each.name for each in read_pairs(tmp_path, "de,fr", "all")] == ["deu_Latn-fra_Latn", "fra_Latn-deu_Latn"]
    with pytest.raises(AlignError, match="holds no language pair; expected a pair with English"):
        read_pairs(tmp_path / "x.deu-fra.deu")


def test_directions_of_a_corpus(toy: ParallelCorpus) -> None:
    to_english = read_pairs(toy)
    assert [each.name for each in to_english] == ["arb_Arab-eng_Latn", "rus_Cyrl-eng_Latn", "zho_Hans-eng_Latn"]
    for each in to_english:
        assert each.sources == toy.sentences[each.source]
        assert each.targets == toy.sentences["eng_Latn"]
    assert len(read_pairs(toy, relation="either")) == 6
    every = read_pairs(toy, relation="all")
    assert len({each.name for each in every}) == len(every) == 12
    assert all(each.keys == toy.sentences["eng_Latn"] for each in every)


def test_named_corpora_and_folders(everyday: ParallelCorpus, tmp_path: Path) -> None:
    (welsh,) = read_pairs("everyday", "cym")
    assert (welsh.sources, welsh.origin) == (everyday.sentences["cym_Latn"], "everyday:dev")
    assert len(read_pairs("everyday")) == 12
    for code in ("cym_Latn", "eng_Latn"):
        write(tmp_path / f"{code}.train", everyday.sentences[code])
        write(tmp_path / f"{code}.dev", everyday.sentences[code][:5])
    assert texts(read_pairs(f"{tmp_path}:train")) == texts((welsh,))
    assert len(read_pairs(f"{tmp_path}:dev")[0]) == 5


def test_a_language_of_any_code() -> None:
    for name in ("cym", "cy", "cy-GB", "cy_GB", "cym_Latn"):
        assert language_code(name) == "cym_Latn"
    assert [language_code(name) for name in ("cmn", "ara", "aze", "mon", "swh", "jv")] == [
        "zho_Hans", "arb_Arab", "azj_Latn", "khk_Cyrl", "swh_Latn", "jav_Latn",
    ]  # fmt: skip
    assert language_code("zho") is None  # two scripts
    assert language_code("xyz") is None


@pytest.mark.parametrize("spec", ["flores200", "flores200:devtest"])
def test_flores_is_not_trained_on(spec: str) -> None:
    with pytest.raises(AlignError, match="flores200 is FLORES-200, the evaluation data") as caught:
        read_pairs(spec, "cym")
    assert "\n" not in str(caught.value)


def test_flores_is_known_by_its_text_too(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    dev = shared_data / "flores200" / "dev"
    with pytest.raises(AlignError, match="FLORES-200"):
        read_pairs(dev, "cym,eng")
    for side in ("cym", "eng"):
        (tmp_path / f"mine.cym-eng.{side}").write_bytes((dev / f"{side}_Latn.dev").read_bytes())
    with pytest.raises(AlignError, match=r"\(cym_Latn\) is FLORES-200"):
        read_pairs(tmp_path)
    for spec in (tmp_path, dev, "flores200"):
        assert len(read_pairs(spec, "cym", allow_flores=True)[0]) == 997


def test_real_tatoeba(shared_data: Path) -> None:
    """Counts of the data's own README."""
    every = read_pairs(shared_data / "tatoeba")
    counts = {each.source: len(each) for each in every}
    assert len(counts) == 40
    assert counts["cym_Latn"] == 575
    assert (counts["jav_Latn"], counts["swh_Latn"], counts["khk_Cyrl"], counts["zho_Hans"]) == (205, 390, 440, 1000)
    assert {each.target for each in every} == {"eng_Latn"}
    weakest = read_pairs(shared_data / "tatoeba", "weakest5")
    assert {each.source for each in weakest} == set(language_sets()["weakest5"])
    kept, filtered = filter_pairs(weakest)
    assert [each.before for each in filtered] == [575, 205, 1000, 390, 1000]
    assert all(each.empty == each.same_text == each.duplicate == 0 for each in filtered)  # as its README says
    assert all(0 < each.multi_sentence < 0.1 * each.before for each in filtered)
    train, development, split = split_development(kept)
    assert [each.development for each in split if each.pair.startswith("jav")] == [21]
    assert sum(map(len, train)) + sum(map(len, development)) + sum(each.shared for each in split) == sum(map(len, kept))
    with pytest.raises(CorpusError, match="no pair with kan_Knda"):
        read_pairs(shared_data / "tatoeba", "cym,kan")


def test_real_massive_by_id(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    welsh, javanese = read_pairs("massive", "cy-GB,jv")
    assert (welsh.name, javanese.name, welsh.origin) == ("cym_Latn-eng_Latn", "jav_Latn-eng_Latn", "massive:train")
    assert len(welsh) == 11_514
    assert welsh.targets == javanese.targets
    tables = []
    for locale in ("cy-GB", "en-US"):
        lines = gzip.decompress((shared_data / f"massive/1.1/data/{locale}.jsonl.gz").read_bytes()).splitlines()
        tables.append({row["id"]: row["utt"] for row in map(json.loads, lines) if row["partition"] == "train"})
    assert set(zip(welsh.sources, welsh.targets, strict=True)) == {
        (text, tables[1][row_id]) for row_id, text in tables[0].items()
    }
    assert len(read_pairs("massive:dev", "cym")[0]) == 2033


def test_pairs_and_counts_of_each_filter() -> None:
    rows = [
        ("Un.", "One."),
        ("  ", "Two."),
        ("Tri.", ""),
        ("Pizza ", "Pizza"),
        ("Pedwar. Pump.", "Four, five."),
        ("Chwech saith.", "Six? Seven!"),
        ("Un.", "One."),
        ("Un.", "A one."),
        ("Wyth  naw.", "Eight nine."),
    ]
    given = PairSet(*NAMES, *(tuple(side) for side in zip(*rows, strict=True)), "made")  # type: ignore[arg-type]
    (kept,), (counts,) = filter_pairs([given], held_out=lambda text: text.split() == ["Wyth", "naw."])
    assert asdict(counts) == {
        "pair": "cym_Latn-eng_Latn", "before": 9, "empty": 2, "same_text": 1, "multi_sentence": 2, "held_out": 1,
        "duplicate": 1, "after": 2,
    }  # fmt: skip
    assert (kept.sources, kept.targets) == (("Un.", "Un."), ("One.", "A one."))
    (unbarred,), _ = filter_pairs([given])
    assert unbarred.sources[-1] == "Wyth  naw."


def test_sets_of_one_direction_become_one() -> None:
    both, other = filter_pairs([pair(3), pair(5, label="b"), pair(2), pair(4, "jav_Latn")])[0]
    assert (both.name, len(both)) == ("cym_Latn-eng_Latn", 8)
    assert both.sources == pair(3).sources + pair(5, label="b").sources
    assert (other.name, len(other)) == ("jav_Latn-eng_Latn", 4)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(AlignError, match=r"none of 2 pairs is left .* lost 1 empty, 1 same text"):
        filter_pairs([PairSet(*NAMES, ("", "a"), ("b", "a"), "made")])


@pytest.mark.parametrize(
    "text",
    [
        "I am here. You are there.",
        "Really?! Yes",
        "Stop! he cried",
        "Go.\u00a0Now",
        '"Stop!" He ran.',
        '"Why?" "Because."',
        "„Wann kommst du?“ – „Es hängt davon ab.“",  # noqa: RUF001
        "Well... I know. You do not.",
        "What?... I see",
        "生きることは老いること。それだけ。",
        "你好吗?我很好",
        "傘持ってないの？ 入れてあげよっか？",  # noqa: RUF001
        "这是A4.他走了",
        "كيف حالك؟ أنا بخير.",
        "यह सच है। वह गया।",
        "کیا حال ہے؟ ٹھیک ہوں۔",  # noqa: RUF001
        "Τι κάνεις; Καλά.",  # noqa: RUF001
        "Շնորհակալություն: Խնդրեմ:",
        "ខ្ញុំទៅ។ គាត់មក។",
        "Wir treffen uns am 3. Mai",  # ordinals count, and so do other abbreviations
        "I know Mr. Smith",
        "It costs 3.5. That is much",
    ],
)
def test_more_than_one_sentence(text: str) -> None:
    assert is_multi_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "I am here.",
        "Pi is 3.14, not 3.5!",
        "See example.org for U.S.A. rules",
        "It opens at 6 p. m. every day",
        "J. S. Bach wrote it.",
        "Well... I do not know…",
        "... and so on",
        "Wait…what?",
        '"Stop!" he said.',
        "He said: “Stop.”",
        "„Was ist los?“ fragte das Kaninchen.",
        "「行け！」と彼は言った。",  # noqa: RUF001
        "本当……ですか。",
        "Really?!",
        "Yes! :-)",
        "Yes! 🙂",
        "I came; I saw: I won",
        "ผมมีเพื่อน ชื่อเตียน",
        "Γεια;",
        "",
        ".",
    ],
)
def test_one_sentence(text: str) -> None:
    assert not is_multi_sentence(text)


def test_a_korean_word_of_one_syllable_is_no_initial() -> None:
    assert is_multi_sentence("네. 알겠습니다.")
    assert not is_multi_sentence("J. 알겠습니다.")


def test_no_text_is_in_both_parts() -> None:
    """Also where the pairs of one English sentence, or two languages' pairs, share it."""
    generator = random.Random(3)
    sets = []
    for code in ("cym_Latn", "jav_Latn", "swh_Latn"):
        numbers = [generator.randrange(200) for _ in range(400)]
        sets.append(
            PairSet(
                code,
                "eng_Latn",
                tuple(f"{code} {number % 150} {generator.randrange(2)}" for number in numbers),
                tuple(f"English {number}" for number in numbers),
                "made",
            )
        )
    train, development, counts = split_development(sets)
    sides = [{text for each in part for _, lines in each.sides() for text in lines} for part in (train, development)]
    assert not sides[0] & sides[1]
    assert sides[0]
    assert sides[1]
    assert any(each.shared for each in counts)
    for whole, each in zip(sets, counts, strict=True):
        assert each.train + each.development + each.shared == len(whole)
        assert 40 <= each.development <= 48


def test_the_split_does_not_depend_on_order_or_direction() -> None:
    given = pair(300)
    order = np.random.default_rng(0).permutation(300).tolist()
    for other, side in ((given.take(order), "sources"), (given.reversed(), "targets")):
        for part in (0, 1):
            first, second = split_development([given])[part][0], split_development([other])[part][0]
            assert set(first.sources) == set(getattr(second, side))
    assert len(split_development([given])[1][0]) == 30


def test_a_corpus_is_split_by_row_in_all_its_languages(everyday: ParallelCorpus) -> None:
    sets = read_pairs("everyday", "cym,deu,jpn,eng", "all")
    _, development, counts = split_development(sets)
    row_of = {text: row for lines in everyday.sentences.values() for row, text in enumerate(lines)}
    rows = {frozenset(row_of[text] for text in each.sources) for each in development}
    assert len(rows) == 1
    assert {each.development for each in counts} == {20}
    assert all(each.train >= 100 for each in counts)


def test_small_pairs_train_whole_and_hold_nothing_out() -> None:
    train, development, counts = split_development([pair(39, "jav_Latn"), pair(40)])
    assert [(each.train, each.development) for each in counts] == [(39 - counts[0].shared, 0), (20, 20)]
    assert [each.source for each in development] == ["cym_Latn"]
    assert {each.source for each in train} == {"jav_Latn", "cym_Latn"}
    with pytest.raises(AlignError, match="too few rows for development in language pairs of 39, 12 rows"):
        split_development([pair(39), pair(12, "jav_Latn")])


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(kind: type[ProbeError], message: str, spec: object = tmp_path, langs: str | None = None) -> None:
        with pytest.raises(kind, match=message) as caught:
            read_pairs(spec, langs)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    welsh = write(tmp_path / "x.cym-eng.cym", WELSH)
    refused(CorpusError, r"x\.cym-eng\.cym without x\.cym-eng\.eng")
    english = write(tmp_path / "x.cym-eng.eng", ENGLISH[:2])
    refused(CorpusError, r"x\.cym-eng\.cym has 3 rows, x\.cym-eng\.eng 2")
    english.write_bytes(b"")
    refused(CorpusError, r"x\.cym-eng\.eng is empty")
    english.write_bytes(b"One.\nTw\xffo.\nThree.\n")
    refused(CorpusError, r"x\.cym-eng\.eng line 2 is not valid UTF-8")
    english.write_bytes(b"One.\r\nTwo.\r\nThree.\r\n")
    refused(CorpusError, "line 1 ends in CRLF")
    english.write_bytes(b"\xef\xbb\xbfOne.\nTwo.\nThree.\n")
    refused(CorpusError, "begins with a byte order mark")
    write(english, ENGLISH)
    assert len(read_pairs(tmp_path)[0]) == 3
    refused(AlignError, "languages 'eng'; expected at least two", langs="eng")
    refused(CorpusError, "no pair with cyn in", langs="cyn")
    for path in (welsh, english):
        path.unlink()
    broken = tmp_path / "x.cym-eng.cym.gz"
    broken.write_bytes(b"no gzip")
    write(tmp_path / "x.cym-eng.eng.gz", ENGLISH)
    refused(CorpusError, r"x\.cym-eng\.cym\.gz cannot be read")


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "news.tsv", ("Un.\tOne.", "Dau."))
    with pytest.raises(CorpusError, match=r"news\.tsv line 2 has 1 columns"):
        read_pairs(path)
    write(path, ("Un.\tOne.",))
    with pytest.raises(CorpusError, match=r"news\.tsv does not say its languages"):
        read_pairs(path)
    write(path, ("cym\teng",))
    with pytest.raises(CorpusError, match="empty below its first line"):
        read_pairs(path)
    write(path, ("eng\ten", "One.\tOne."))
    with pytest.raises(CorpusError, match="is eng_Latn on both sides"):
        read_pairs(path)


def test_places_without_pairs_are_refused(tmp_path: Path, toy: ParallelCorpus) -> None:
    with pytest.raises(CorpusError, match="holds no language file"):
        read_pairs(tmp_path)
    write(tmp_path / "eng_Latn.txt", ENGLISH[:2])
    with pytest.raises(AlignError, match="in eng_Latn only; expected at least two languages"):
        read_pairs(tmp_path)
    with pytest.raises(CorpusError, match=r"eng_Latn\.txt is no pair file"):
        read_pairs(tmp_path / "eng_Latn.txt")
    with pytest.raises(CorpusError, match="no corpus 'tatoba'"):
        read_pairs("tatoba")
    one = ParallelCorpus("one", "", {"cym_Latn": ("a",)})
    with pytest.raises(AlignError, match="in cym_Latn only"):
        read_pairs(one)
    no_english = ParallelCorpus("two", "", {code: toy.sentences[code] for code in ("rus_Cyrl", "arb_Arab")})
    with pytest.raises(AlignError, match="two holds no language pair"):
        read_pairs(no_english)
    assert len(read_pairs(no_english, relation="all")) == 2


def test_impossible_sets_are_refused() -> None:
    with pytest.raises(AlignError, match="made has 2 rows of cym_Latn and 1 of eng_Latn"):
        PairSet(*NAMES, ("a", "b"), ("c",), "made")
    with pytest.raises(AlignError, match="made pairs eng_Latn with itself"):
        PairSet("eng_Latn", "eng_Latn", ("a",), ("b",), "made")
