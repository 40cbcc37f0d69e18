"""Named corpora: each kind of source through the code that reads it, from folders and a server of our own."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_manifests import CorpusManifest, Source, corpus_manifest, language_sets, languages
from probe import sources
from probe.corpus import read_text
from probe.errors import CorpusError
from probe.sources import fetch_corpus, load_corpus
from probe.verify import verify

TEXTS = {
    "eng_Latn": ("One. ", "Two.", "Three."),
    "deu_Latn": ("Eins.", "Zwei.", "Drei."),
    "zho_Hans": ("一。", "二。", "三。"),
}
"""Small, with a blank at the end of a line: a source must not change the text."""


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and no way to the network."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MIDPROBE_DATA", str(folder))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


Offer = Callable[..., CorpusManifest]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Let a named corpus be small and have only the given sources: `offer("flores200", source, ...)`."""

    def change(name: str, *only: Source, rows: int = 3) -> CorpusManifest:
        manifest = corpus_manifest(name)
        small = replace(
            manifest, sources=only, rows=dict.fromkeys(manifest.rows, rows), default_langs="eng_Latn,deu_Latn"
        )
        monkeypatch.setattr(sources, "corpus_manifest", lambda asked: {name: small}[asked])
        return small

    return change


def source_of(name: str, kind: str, number: int = 0) -> Source:
    """A source of the real manifest."""
    return [source for source in corpus_manifest(name).sources if source.kind == kind][number]


def refusal(*arguments: str | None) -> str:
    with pytest.raises(CorpusError) as caught:
        load_corpus(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The embedded corpus and local folders


def test_the_embedded_corpus_needs_no_data_folder(data_folder: Path) -> None:
    data_folder.rmdir()
    corpus = load_corpus("everyday", "en,sw", limit=5)
    assert (corpus.languages, corpus.rows, corpus.split) == (("eng_Latn", "swh_Latn"), 5, "dev")
    assert not data_folder.exists()


@pytest.mark.shared
def test_real_flores_by_name_is_the_shared_files(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    corpus = load_corpus("flores200")
    assert corpus.languages == language_sets()["paper35"]
    assert (corpus.rows, corpus.split, corpus.name) == (997, "dev", "flores200")
    for code, lines in corpus.sentences.items():
        assert (
            "".join(f"{line}\n" for line in lines).encode() == (shared_data / f"flores200/dev/{code}.dev").read_bytes()
        )


@pytest.mark.shared
def test_real_massive_by_name(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    corpus = load_corpus("massive", "en,zh,sw-KE", "test")
    assert (corpus.languages, corpus.rows) == (("eng_Latn", "zho_Hans", "swh_Latn"), 2974)
    assert not any(check.faults for check in verify(corpus))


def test_a_folder_of_files_is_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.txt").write_text("One.\n")
    assert load_corpus(str(tmp_path)).sentences == {"eng_Latn": ("One.",)}


@pytest.mark.parametrize(
    ("name", "split", "langs", "message"),
    [
        ("flores20", None, None, "did you mean flores200?"),
        ("nothing", None, None, "expected everyday, flores200, massive or a folder"),
        ("flores200", "test", None, "--split test of flores200; expected one of dev, devtest"),
        ("everyday", "", None, "--split  of everyday; expected one of dev"),
        ("everyday", None, "", "at least one language"),
        ("everyday", None, "kor_Hang", "no file for kor_Hang in Everyday sentences"),
        ("massive", None, "ces_Latn", "no file for ces_Latn in MASSIVE"),
    ],
)
def test_a_wrong_request_is_told_before_any_source_is_tried(
    name: str, split: str | None, langs: str | None, message: str
) -> None:
    told = refusal(name, langs, split)
    assert message in told
    assert "no source of" not in told


# Hub data sets, laid out as their repositories are


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test lays out a data set's files; `datasets` keeps its own copy beside them."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


def write_parquet(path: Path, columns: dict[str, list]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def flores_columns(folder: Path, texts: dict[str, list]) -> Source:
    """One table, a column a language, as mteb/FloresBitextMining."""
    for split in ("dev", "devtest"):
        write_parquet(folder / f"data/{split}-00000-of-00001.parquet", {"id": [1, 2, 3], **texts})
    return replace(source_of("flores200", "hub"), id=str(folder))


def flores_plus(folder: Path, keys: dict[str, list[int]] | None = None) -> Source:
    """One configuration a language with `id` and `text`, as openlanguagedata/flores_plus, whose codes differ."""
    source = source_of("flores200", "hub", 1)
    configs = []
    for code, lines in TEXTS.items():
        theirs = source.codes.get(code, code)
        write_parquet(folder / f"dev/{theirs}.parquet", {"id": (keys or {}).get(code, [0, 1, 2]), "text": list(lines)})
        configs.append(f"- config_name: {theirs}\n  data_files:\n  - split: dev\n    path: dev/{theirs}.parquet\n")
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    return replace(source, id=str(folder))


def test_hub_table_with_a_column_a_language(hub_folder: Path, offer: Offer) -> None:
    offer("flores200", flores_columns(hub_folder, {code: list(lines) for code, lines in TEXTS.items()}))
    corpus = load_corpus("flores200", "zh,en,de", "devtest")
    assert corpus.sentences == {code: TEXTS[code] for code in ("zho_Hans", "eng_Latn", "deu_Latn")}
    assert (corpus.name, corpus.split) == ("flores200", "devtest")


def test_hub_configuration_a_language_with_their_codes(hub_folder: Path, offer: Offer) -> None:
    offer("flores200", flores_plus(hub_folder))
    assert (hub_folder / "dev/cmn_Hans.parquet").exists()
    assert load_corpus("flores200", "en,zho_Hans,de").sentences == {
        code: TEXTS[code] for code in ("eng_Latn", "zho_Hans", "deu_Latn")
    }


def test_hub_rows_in_another_order_are_refused(hub_folder: Path, offer: Offer) -> None:
    offer("flores200", flores_plus(hub_folder, {"deu_Latn": [0, 2, 1]}))
    assert "deu_Latn and eng_Latn differ in their rows" in refusal("flores200", "en,de")


def test_hub_files_by_locale_and_split(hub_folder: Path, offer: Offer) -> None:
    """As AmazonScience/massive at refs/convert/parquet, whose dev split is called validation."""
    for code, lines in TEXTS.items():
        for split, shift in (("validation", 0), ("test", 1)):
            utterances = [*lines[shift:], *lines[:shift]]
            write_parquet(
                hub_folder / f"{languages()[code].massive}/{split}/0000.parquet",
                {"id": ["7", "8", "9"], "utt": utterances},
            )
    offer("massive", replace(source_of("massive", "hub"), id=str(hub_folder)))
    assert load_corpus("massive", "zh,en").sentences == {code: TEXTS[code] for code in ("zho_Hans", "eng_Latn")}
    assert load_corpus("massive", "en", "test").sentences["eng_Latn"] == ("Two.", "Three.", "One. ")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["Eins.", None, "Drei."], "deu_Latn row 2 is empty"),
        (["Eins.", "Zwei\nzwei.", "Drei."], "deu_Latn row 2 holds a line break"),
    ],
)
def test_hub_rows_without_a_sentence_are_refused(hub_folder: Path, offer: Offer, bad: list, message: str) -> None:
    offer("flores200", flores_columns(hub_folder, {"eng_Latn": list(TEXTS["eng_Latn"]), "deu_Latn": bad}))
    assert message in refusal("flores200")


def test_a_hub_table_without_the_language_says_so(hub_folder: Path, offer: Offer) -> None:
    offer("flores200", flores_columns(hub_folder, {"eng_Latn": list(TEXTS["eng_Latn"])}))
    assert "deu_Latn" in refusal("flores200", "en,de")


def test_a_source_with_other_row_counts_does_not_answer(hub_folder: Path, offer: Offer) -> None:
    """Three rows where the manifest says four."""
    offer("flores200", flores_columns(hub_folder, {code: list(lines) for code, lines in TEXTS.items()}), rows=4)
    assert "3 rows in dev; expected 4" in refusal("flores200")


@pytest.mark.shared
def test_hub_text_has_the_digest_of_the_original_files(shared_data: Path, hub_folder: Path, offer: Offer) -> None:
    """Also where lines begin or end with blanks, as in half of the languages."""
    codes = ("eng_Latn", "tgl_Latn", "dan_Latn")
    texts = {code: read_text(shared_data / f"flores200/dev/{code}.dev") for code in codes}
    assert any(line != line.strip() for line in texts["tgl_Latn"])
    write_parquet(hub_folder / "data/dev-00000-of-00001.parquet", {code: list(lines) for code, lines in texts.items()})
    offer("flores200", replace(source_of("flores200", "hub"), id=str(hub_folder)), rows=997)
    assert not any(check.faults for check in verify(load_corpus("flores200", ",".join(codes))))


# Archives, from a server on this machine


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, the URL that serves it, and the paths asked for. `*.cut` promises more bytes than it sends."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.endswith("cut.tar.gz"):
                data = (folder / self.path[1:]).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def write_archive(path: Path, prefix: str = "") -> str:
    """Laid out as flores200_dataset.tar.gz; returns its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for split in ("dev", "devtest"):
            files = {f"{split}/{code}.{split}": "".join(f"{line}\n" for line in lines) for code, lines in TEXTS.items()}
            for name, text in {**files, f"metadata_{split}.tsv": f"URL\tdomain\n{split}\tnews\n"}.items():
                data = text.encode()
                member = tarfile.TarInfo(f"{prefix}flores200_dataset/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_is_downloaded_once_checked_and_unpacked(
    served: tuple[Path, str, list[str]], offer: Offer, data_folder: Path, prefix: str
) -> None:
    folder, url, asked = served
    digest = write_archive(folder / "flores.tar.gz", prefix)
    offer("flores200", replace(source_of("flores200", "archive"), url=f"{url}/flores.tar.gz", sha256=digest))
    assert load_corpus("flores200", "zh,en").sentences == {code: TEXTS[code] for code in ("zho_Hans", "eng_Latn")}
    assert load_corpus("flores200", "de", "devtest").sentences == {"deu_Latn": TEXTS["deu_Latn"]}
    assert asked == ["/flores.tar.gz"]
    assert not list(data_folder.rglob("*.partial"))
    documents = {path.name: path.read_text() for path in (data_folder / "flores200").glob("*.tsv")}
    assert documents == {f"metadata_{split}.tsv": f"URL\tdomain\n{split}\tnews\n" for split in ("dev", "devtest")}


def test_an_archive_of_massive_is_read_by_locale(served: tuple[Path, str, list[str]], offer: Offer) -> None:
    folder, url, _ = served
    with tarfile.open(folder / "massive.tar.gz", "w:gz") as tar:
        for locale, text in (("en-US", "wake me"), ("de-DE", "weck mich")):
            data = f'{{"id": "0", "partition": "dev", "utt": "{text}"}}\n{{"id": "1", "partition": "train", "utt": "x"}}\n'.encode()
            member = tarfile.TarInfo(f"1.1/data/{locale}.jsonl")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256((folder / "massive.tar.gz").read_bytes()).hexdigest()
    offer("massive", replace(source_of("massive", "archive"), url=f"{url}/massive.tar.gz", sha256=digest), rows=1)
    assert load_corpus("massive").sentences == {"eng_Latn": ("wake me",), "deu_Latn": ("weck mich",)}


def test_an_archive_with_another_digest_is_removed(
    served: tuple[Path, str, list[str]], offer: Offer, data_folder: Path
) -> None:
    folder, url, asked = served
    digest = write_archive(folder / "flores.tar.gz")
    offer("flores200", replace(source_of("flores200", "archive"), url=f"{url}/flores.tar.gz", sha256="0" * 64))
    assert f"has sha256 {digest[:12]}...; expected 000000000000..." in refusal("flores200")
    assert not [path for path in data_folder.rglob("*") if path.is_file()]
    refusal("flores200")
    assert asked == ["/flores.tar.gz"] * 2, "the bad copy is not taken for the archive the next time"


def test_a_truncated_download_is_not_kept(served: tuple[Path, str, list[str]], offer: Offer, data_folder: Path) -> None:
    folder, url, _ = served
    digest = write_archive(folder / "cut.tar.gz")
    offer("flores200", replace(source_of("flores200", "archive"), url=f"{url}/cut.tar.gz", sha256=digest))
    assert "cut.tar.gz" in refusal("flores200")
    assert not list(data_folder.rglob("*.gz"))
    assert not list(data_folder.rglob("*.dev"))


def test_an_archive_without_the_language_says_so(served: tuple[Path, str, list[str]], offer: Offer) -> None:
    folder, url, _ = served
    digest = write_archive(folder / "flores.tar.gz")
    offer("flores200", replace(source_of("flores200", "archive"), url=f"{url}/flores.tar.gz", sha256=digest))
    assert "the archive lacks flores200_dataset/dev/swh_Latn.dev" in refusal("flores200", "sw")


def test_an_absent_archive_says_so(served: tuple[Path, str, list[str]], offer: Offer) -> None:
    _, url, _ = served
    offer("flores200", replace(source_of("flores200", "archive"), url=f"{url}/nothing.tar.gz"))
    assert "404" in refusal("flores200")


# Several sources


def test_the_first_source_that_answers_is_taken(hub_folder: Path, offer: Offer, data_folder: Path) -> None:
    hub = flores_columns(hub_folder, {code: list(lines) for code, lines in TEXTS.items()})
    offer("flores200", source_of("flores200", "folder"), hub)
    assert load_corpus("flores200", "en").sentences["eng_Latn"][1] == "Two."
    (data_folder / "flores200/dev").mkdir(parents=True)
    (data_folder / "flores200/dev/eng_Latn.dev").write_text("Local.\nText.\nFirst.\n")
    assert load_corpus("flores200", "en").sentences["eng_Latn"][1] == "Text."


def test_when_no_source_answers_each_is_listed_with_its_reason(
    run_probe: Callable[..., subprocess.CompletedProcess[str]], data_folder: Path
) -> None:
    """Offline, with an empty data folder: every source of the real manifest is tried."""
    done = run_probe("data", "verify", "flores200")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("probe: no source of FLORES-200 answered: ")
    for source in corpus_manifest("flores200").sources:
        assert f"[{source.kind} {source.id or source.url or data_folder / 'flores200/dev'}" in line
    assert "no such folder" in line
    assert "did not answer" in line
    assert "probe data fetch flores200" in line


# Fetch


@pytest.mark.parametrize("name", ["flores200", "massive"])
def test_what_was_fetched_is_found_without_its_source(
    name: str, hub_folder: Path, offer: Offer, data_folder: Path
) -> None:
    folders = [source for source in corpus_manifest(name).sources if source.kind == "folder"]
    table = flores_columns(hub_folder, {code: list(lines) for code, lines in TEXTS.items()})
    split = corpus_manifest(name).default_split
    offer(name, *folders, table)
    fetched = fetch_corpus(name, "en,zh", [split])
    assert fetched == [data_folder / name / split / f"{code}.{split}" for code in ("eng_Latn", "zho_Hans")]
    offer(name, *folders)
    assert load_corpus(name, "en,zh").sentences == {code: TEXTS[code] for code in ("eng_Latn", "zho_Hans")}


def test_fetch_takes_every_split_by_default(hub_folder: Path, offer: Offer) -> None:
    offer("flores200", flores_columns(hub_folder, {code: list(lines) for code, lines in TEXTS.items()}))
    assert {path.suffix for path in fetch_corpus("flores200", "en")} == {".dev", ".devtest"}


def test_fetch_leaves_files_alone_that_are_there(data_folder: Path, offer: Offer) -> None:
    """They may be links into somebody's read-only copy."""
    folder = data_folder / "flores200/dev"
    folder.mkdir(parents=True)
    path = folder / "eng_Latn.dev"
    path.write_text("One.\nTwo.\nThree.\n")
    before = path.stat()
    offer("flores200", source_of("flores200", "folder"))
    assert fetch_corpus("flores200", "en", ["dev"]) == [path]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(folder.iterdir()) == [path]


def test_fetch_mends_a_damaged_copy(hub_folder: Path, data_folder: Path, offer: Offer) -> None:
    path = data_folder / "flores200/dev/eng_Latn.dev"
    path.parent.mkdir(parents=True)
    path.write_text("One.\n")
    table = flores_columns(hub_folder, {code: list(lines) for code, lines in TEXTS.items()})
    offer("flores200", source_of("flores200", "folder"), table)
    fetch_corpus("flores200", "en", ["dev"])
    assert read_text(path) == TEXTS["eng_Latn"]


def test_fetch_of_an_unknown_corpus_is_the_users_fault() -> None:
    with pytest.raises(CorpusError, match="did you mean massive"):
        fetch_corpus("masive")
