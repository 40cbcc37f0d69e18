"""The activation store: what is written is read, and what is damaged, foreign, locked or full is told in one line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import probe
from probe.corpus import ParallelCorpus
from probe.errors import StoreError
from probe.store import ActivationStore, estimate_bytes, layer_name, locked, require_space

CODES = ("rus_Cyrl", "eng_Latn", "arb_Arab")
"""Not in alphabetical order."""
TEXT = {
    "rus_Cyrl": ("Ёж спит.", "Дождь", "Два кота"),
    "eng_Latn": ("The hedgehog sleeps.", "Rain", "Two cats"),
    "arb_Arab": ("القنفذ نائم.", "مطر", "قطتان"),
}
TOKENS = np.array([5, 2, 3], dtype=np.int32)


def manifest_of(**changes: Any) -> dict[str, Any]:
    """Settings of a small store: 3 languages, 3 sentences, 2 poolings, 2 layers, width 4."""
    return {
        "schema": 1,
        "model": {"id": "builtin:tiny", "weights": "w0"},
        "corpus": {"name": "toy", "split": "dev", "digests": {code: f"digest of {code}" for code in CODES}},
        "languages": list(CODES),
        "rows": 3,
        "poolings": ["mean", "last"],
        "layers": [0, 2],
        "depth": 2,
        "hidden_size": 4,
        "architecture": "LlamaModel",
        "dtype": "float32",
        "store_dtype": "float32",
        "final_norm": "model",
        "runtime": {},
        "batch_tokens": 64,
        "truncate": False,
        "text": True,
        "device": "cpu",
        "versions": {},
        "command": "probe extract",
        "files": {},
        "complete": False,
        **changes,
    }


def states_of(code: str) -> np.ndarray:
    """(pooling, layer, sentence, hidden) float32, other numbers in every language."""
    return np.random.default_rng(sum(code.encode())).normal(size=(2, 2, 3, 4)).astype(np.float32)


def write(store: ActivationStore, code: str) -> None:
    text = TEXT[code] if store.manifest["text"] else None
    store.write_language(code, states_of(code), TOKENS, text, batch_tokens=64, truncated=0)


def complete_store(path: Path, **changes: Any) -> ActivationStore:
    """A finished store with every language of `CODES`."""
    store = ActivationStore.create(path, manifest_of(**changes))
    for code in CODES:
        write(store, code)
    assert store.finish()
    return ActivationStore.open(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def start_python(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A second process that runs `program` with this checkout's packages."""
    environment = {**os.environ, "PYTHONPATH": str(Path(probe.__file__).parents[1])}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def run_python(program: str, *arguments: str | Path, timeout: float = 120) -> str:
    """What `program` prints; it must end well and in time."""
    with start_python(program, *arguments) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    assert process.returncode == 0, (process.returncode, out, err[-2000:])
    return out


# ---- round trip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_float32_states_are_read_exactly(tmp_path: Path, code: str) -> None:
    store = complete_store(tmp_path / "store")
    read = [[store.layer(code, layer, pooling) for layer in (0, 2)] for pooling in ("mean", "last")]
    np.testing.assert_array_equal(np.array(read), states_of(code))


def test_float16_states_are_read_as_float32_within_half_precision(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store", store_dtype="float16")
    read = store.layer("eng_Latn", 2, "last")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, states_of("eng_Latn")[1, 1], rtol=2**-11)
    assert not np.array_equal(read, states_of("eng_Latn")[1, 1])


def test_text_of_every_script_is_read_as_written(tmp_path: Path, everyday: ParallelCorpus) -> None:
    codes = list(everyday.languages)
    store = ActivationStore.create(tmp_path, manifest_of(languages=codes, rows=everyday.rows))
    for code, lines in everyday.sentences.items():
        states = np.ones((2, 2, everyday.rows, 4), dtype=np.float32)
        store.write_language(code, states, np.ones(everyday.rows), lines, 64, 0)
    store.finish()
    assert {code: ActivationStore.open(tmp_path).text(code) for code in codes} == dict(everyday.sentences)


@examples(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=3, max_size=3))
def test_any_text_is_read_as_written(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Text of fixed length ends at its last character that is not NUL; everything else is kept."""
    store = ActivationStore.create(tmp_path_factory.mktemp("store"), manifest_of(languages=["eng_Latn"]))
    store.write_language("eng_Latn", states_of("eng_Latn"), TOKENS, lines, 64, 0)
    assert store.text("eng_Latn") == tuple(lines)


def test_token_counts_are_read_as_written(tmp_path: Path) -> None:
    tokens = complete_store(tmp_path / "store").tokens("arb_Arab")
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [5, 2, 3]


def test_a_store_without_text_has_none(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store", text=False)
    assert store.text("eng_Latn") is None
    with h5py.File(tmp_path / "store" / "eng_Latn.h5") as h5:
        assert "text" not in h5


def test_languages_keep_the_order_in_which_they_were_asked_for(tmp_path: Path) -> None:
    assert complete_store(tmp_path / "store").languages == CODES
    with h5py.File(tmp_path / "store" / "index.h5") as h5:
        assert h5.attrs["languages"].tolist() == [code.encode() for code in CODES]


def test_a_halved_budget_and_cut_sentences_are_recorded_with_their_language(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    write(store, "rus_Cyrl")
    write(store, "eng_Latn")
    store.write_language("arb_Arab", states_of("arb_Arab"), TOKENS, TEXT["arb_Arab"], batch_tokens=32, truncated=2)
    store.finish()
    files = ActivationStore.open(tmp_path).manifest["files"]
    assert {key: files["arb_Arab"][key] for key in ("batch_tokens", "truncated")} == {
        "batch_tokens": 32,
        "truncated": 2,
    }
    assert files["eng_Latn"].keys() == {"bytes", "sha256"}


def test_a_layer_that_is_not_stored_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"layer 1 is not in .*expected one of 0, 2;"):
        complete_store(tmp_path / "store").layer("eng_Latn", 1, "mean")


def test_a_pooling_that_is_not_stored_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"--pool weighted is not in .*expected one of mean, last;"):
        complete_store(tmp_path / "store").layer("eng_Latn", 0, "weighted")


# ---- layout --------------------------------------------------------------------------------------------------


def test_a_language_file_has_one_dataset_a_layer_and_pooling(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    found = {}
    with h5py.File(tmp_path / "store" / "eng_Latn.h5") as h5:
        h5.visititems(lambda name, item: found.update({name: item.shape}) if isinstance(item, h5py.Dataset) else None)
    vectors = {f"{pooling}/{layer}": (3, 4) for pooling in ("mean", "last") for layer in ("000", "002")}
    assert found == {**vectors, "tokens": (3,), "text": (3,)}


def test_every_dataset_is_checksummed(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    checksummed = []
    with h5py.File(tmp_path / "store" / "eng_Latn.h5") as h5:
        h5.visititems(
            lambda name, item: checksummed.append(item.fletcher32) if isinstance(item, h5py.Dataset) else None
        )
    assert checksummed == [True] * 6


def test_metadata_is_checksummed_too(tmp_path: Path) -> None:
    """Version 3 of the superblock comes with `libver="latest"`; only its metadata carries checksums."""
    complete_store(tmp_path / "store")
    assert (tmp_path / "store" / "eng_Latn.h5").read_bytes()[:9] == b"\x89HDF\r\n\x1a\n\x03"


def test_nothing_lies_in_the_heap_that_has_no_checksum(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    assert b"GCOL" not in (tmp_path / "store" / "eng_Latn.h5").read_bytes()


def shown_by_index(folder: Path) -> dict[str, np.ndarray]:
    with h5py.File(folder / "index.h5") as h5:
        return {f"{pool}/{layer}": h5[f"{pool}/{layer}"][()] for pool in ("mean", "last") for layer in ("000", "002")}


def test_the_index_shows_the_numbers_of_every_language(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store")
    for name, shown in shown_by_index(store.path).items():
        pooling, layer = name.split("/")
        np.testing.assert_array_equal(shown, np.stack([store.layer(code, int(layer), pooling) for code in CODES]))


def test_the_index_still_shows_them_when_the_folder_has_moved(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    before = shown_by_index(tmp_path / "store")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "store", tmp_path / "elsewhere" / "moved")
    after = shown_by_index(tmp_path / "elsewhere" / "moved")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_index_of_a_copied_store_shows_the_copy(tmp_path: Path) -> None:
    """HDF5 finds a moved source by its name alone, but takes an absolute path first where there is still a file."""
    store = complete_store(tmp_path / "store")
    shutil.copytree(store.path, tmp_path / "copy")
    shutil.copy(store.file("rus_Cyrl"), store.file("eng_Latn"))
    shown = shown_by_index(tmp_path / "copy")["mean/000"]
    np.testing.assert_array_equal(shown[1], states_of("eng_Latn")[0, 0])


def test_the_index_shows_nan_for_a_language_that_is_gone(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store")
    store.file("eng_Latn").unlink()
    shown = shown_by_index(store.path)["mean/000"]
    assert np.isnan(shown[1]).all()
    assert not np.isnan(shown[[0, 2]]).any()


def test_a_store_written_a_second_later_has_the_same_bytes(tmp_path: Path) -> None:
    """HDF5 keeps the times of objects, in seconds, unless told otherwise."""
    complete_store(tmp_path / "first")
    time.sleep(1.1)
    complete_store(tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_large_layer_in_several_chunks_is_read_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.store._CHUNK_BYTES", 32)  # two rows
    store = complete_store(tmp_path / "store")
    with h5py.File(store.file("eng_Latn")) as h5:
        assert h5["mean/000"].chunks == (2, 4)
    np.testing.assert_array_equal(store.layer("eng_Latn", 0, "mean"), states_of("eng_Latn")[0, 0])


def test_only_the_stores_files_are_left_behind(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    assert set(contents(tmp_path / "store")) == {*(f"{code}.h5" for code in CODES), "index.h5", "manifest.json"}


def test_the_manifest_holds_size_and_digest_of_every_language(tmp_path: Path) -> None:
    import hashlib

    store = complete_store(tmp_path / "store")
    data = {code: store.file(code).read_bytes() for code in CODES}
    told = {code: (entry["bytes"], entry["sha256"]) for code, entry in store.manifest["files"].items()}
    assert told == {code: (len(data[code]), hashlib.sha256(data[code]).hexdigest()) for code in CODES}


# ---- damage --------------------------------------------------------------------------------------------------

FLIP_EVERY_BYTE = """
import collections, os, sys
from pathlib import Path
import numpy as np
import probe.store
from probe.errors import StoreError
from probe.store import ActivationStore

folder, mask, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if "without checksums" in sys.argv:
    probe.store._create = lambda group, name, values: group.create_dataset(name, data=values, track_times=False)
text = ("a b", "\u0437\u0434", "\u6f22\u5b57")
states = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
store = ActivationStore.create(folder, {
    "schema": 1, "model": {}, "corpus": {}, "languages": ["eng_Latn"], "rows": 3, "poolings": ["mean"], "layers": [0, 1],
    "depth": 1, "hidden_size": 4, "dtype": "float32", "store_dtype": "float32", "final_norm": "model", "runtime": {}, "truncate": False, "text": True,
    "batch_tokens": 64, "files": {}, "complete": False,
})
store.write_language("eng_Latn", states, np.array([3, 4, 5]), text, 64, 0)
store.finish()

def read():
    store = ActivationStore.open(folder)
    layers = [store.layer("eng_Latn", layer, "mean").tobytes() for layer in (0, 1)]
    return layers, store.tokens("eng_Latn").tolist(), store.text("eng_Latn")

path, expected = folder / "eng_Latn.h5", read()
whole, outcomes = path.read_bytes(), collections.Counter()
damaged = path.open("r+b", buffering=0)
for position in range(0, len(whole), step):
    os.pwrite(damaged.fileno(), bytes([whole[position] ^ mask]), position)
    try:
        outcomes["harmless" if read() == expected else "wrong"] += 1
    except StoreError:
        outcomes["noticed"] += 1
    os.pwrite(damaged.fileno(), whole[position : position + 1], position)
print(*(outcomes[name] for name in ("noticed", "harmless", "wrong")), len(whole))
"""
"""In a process of its own, since damaged metadata has been seen to crash or to hang HDF5."""


@pytest.mark.parametrize("mask", [0xFF, 0x10], ids=["whole byte", "one bit"])
def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path, mask: int) -> None:
    out = run_python(FLIP_EVERY_BYTE, tmp_path / "store", str(mask), "1")
    noticed, harmless, wrong, size = map(int, out.split())
    assert wrong == 0
    assert noticed + harmless == size
    assert noticed > size / 2


def test_flipped_bytes_would_give_wrong_numbers_without_checksums(tmp_path: Path) -> None:
    """The check above can fail."""
    out = run_python(FLIP_EVERY_BYTE, tmp_path / "store", "255", "8", "without checksums")
    assert int(out.split()[2]) >= 2 * 3 * 4 * 4 / 8  # each byte of the vectors that was tried


def test_a_file_cut_short_is_noticed_when_the_store_is_opened(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store")
    size = store.file("eng_Latn").stat().st_size
    os.truncate(store.file("eng_Latn"), size - 1)
    with pytest.raises(StoreError, match=rf"eng_Latn\.h5 has {size - 1} bytes; expected {size};"):
        ActivationStore.open(store.path)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_noticed_when_it_is_read(tmp_path: Path, share: float) -> None:
    """A store that is open keeps no file open: the file may be cut afterwards."""
    store = complete_store(tmp_path / "store")
    os.truncate(store.file("eng_Latn"), int(share * store.file("eng_Latn").stat().st_size))
    with pytest.raises(StoreError, match=r"eng_Latn\.h5 mean/000 is damaged .*run the same `probe extract` again"):
        store.layer("eng_Latn", 0, "mean")


def test_the_fault_of_a_damaged_file_is_told_in_one_line(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store")
    data = bytearray(store.file("eng_Latn").read_bytes())
    place = data.find(states_of("eng_Latn")[0, 0].tobytes())
    data[place] ^= 1
    store.file("eng_Latn").write_bytes(data)
    with pytest.raises(StoreError) as caught:
        store.layer("eng_Latn", 0, "mean")
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(store.layer("eng_Latn", 2, "mean"), states_of("eng_Latn")[0, 1])


def test_a_damaged_language_does_not_complete_a_store(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    for code in CODES:
        write(store, code)
    os.truncate(store.file("eng_Latn"), 100)
    with pytest.raises(StoreError, match=r"eng_Latn\.h5 .*is damaged"):
        store.finish()
    assert not ActivationStore.reopen(tmp_path).manifest["complete"]


def test_a_file_of_another_corpus_is_refused(tmp_path: Path) -> None:
    """Same languages, same shapes, same size: only the digest tells."""
    store = complete_store(tmp_path / "store")
    other = complete_store(tmp_path / "other", corpus={"name": "toy", "split": "devtest", "digests": {}})
    assert other.file("eng_Latn").stat().st_size == store.file("eng_Latn").stat().st_size
    shutil.copy(other.file("eng_Latn"), store.file("eng_Latn"))
    with pytest.raises(StoreError, match=r"eng_Latn\.h5 belongs to another store or corpus"):
        ActivationStore.open(store.path).layer("eng_Latn", 0, "mean")


def test_a_file_of_another_language_is_refused(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store")
    shutil.copy(store.file("rus_Cyrl"), store.file("eng_Latn"))
    with pytest.raises(StoreError, match=r"eng_Latn\.h5 belongs to another"):
        store.layer("eng_Latn", 0, "mean")


@pytest.mark.parametrize("stranger", ["another store", "another language"])
def test_a_strange_file_does_not_complete_a_store(tmp_path: Path, stranger: str) -> None:
    store = ActivationStore.create(tmp_path / "store", manifest_of())
    for code in CODES:
        write(store, code)
    other = complete_store(tmp_path / "other", final_norm="raw")
    source = other.file("eng_Latn") if stranger == "another store" else store.file("rus_Cyrl")
    shutil.copy(source, store.file("eng_Latn"))
    with pytest.raises(StoreError, match=r"eng_Latn\.h5 belongs to another"):
        store.finish()


def test_an_older_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    older = {**json.loads((tmp_path / "store" / "manifest.json").read_text()), "schema": 0}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(older))
    with pytest.raises(StoreError, match="has schema 0; expected schema 1; extract again"):
        ActivationStore.open(tmp_path / "store")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"schema"', b"{}", b"\xff\xfe", b'{"complete": true}'])
def test_a_garbled_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    complete_store(tmp_path / "store")
    (tmp_path / "store" / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read .*expected the manifest of a store"):
        ActivationStore.open(tmp_path / "store")


@pytest.mark.parametrize("field", ["languages", "layers", "model", "files", "complete", "batch_tokens"])
def test_a_manifest_without_a_field_is_refused_with_its_name(tmp_path: Path, field: str) -> None:
    complete_store(tmp_path / "store")
    kept = json.loads((tmp_path / "store" / "manifest.json").read_text())
    del kept[field]
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(kept))
    with pytest.raises(StoreError, match=f"has no {field};"):
        ActivationStore.open(tmp_path / "store")


def test_a_folder_without_a_manifest_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no manifest\.json"):
        ActivationStore.open(tmp_path)


def test_a_complete_store_that_lost_a_language_names_it(tmp_path: Path) -> None:
    store = complete_store(tmp_path / "store")
    store.file("eng_Latn").unlink()
    with pytest.raises(
        StoreError, match=r"holds 2 of 3 languages, eng_Latn missing; .*run the same `probe extract` again"
    ):
        ActivationStore.open(store.path)


def test_an_incomplete_store_is_not_opened_for_reading(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    write(store, "rus_Cyrl")
    assert not store.finish()
    with pytest.raises(StoreError, match="holds 1 of 3 languages, eng_Latn missing"):
        ActivationStore.open(tmp_path)
    assert ActivationStore.reopen(tmp_path).missing() == ["eng_Latn", "arb_Arab"]


# ---- create --------------------------------------------------------------------------------------------------

OTHER_SETTINGS = {
    "model.weights": {"model": {"id": "builtin:tiny", "weights": "w1"}},
    "model.adapter": {"model": {"id": "builtin:tiny", "weights": "w0", "adapter": "a0"}},
    "corpus.split": {"corpus": {"name": "toy", "split": "devtest", "digests": manifest_of()["corpus"]["digests"]}},
    "corpus.digests.eng_Latn": {
        "corpus": {"name": "toy", "split": "dev", "digests": {**manifest_of()["corpus"]["digests"], "eng_Latn": "else"}}
    },
    "languages": {"languages": ["eng_Latn", "rus_Cyrl", "arb_Arab"]},
    "rows": {"rows": 4},
    "poolings": {"poolings": ["mean"]},
    "layers": {"layers": [0, 1, 2]},
    "hidden_size": {"hidden_size": 8},
    "dtype": {"dtype": "bfloat16"},
    "store_dtype": {"store_dtype": "float16"},
    "final_norm": {"final_norm": "raw"},
    "truncate": {"truncate": True},
    "text": {"text": False},
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_store_made_with_other_settings_is_refused_with_the_difference_named(tmp_path: Path, name: str) -> None:
    ActivationStore.create(tmp_path, manifest_of())
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=rf"was made with {re.escape(name)} = .*, this run has .*--overwrite"):
        ActivationStore.create(tmp_path, manifest_of(**OTHER_SETTINGS[name]))
    assert contents(tmp_path) == before


def test_a_setting_that_was_given_up_is_named_too(tmp_path: Path) -> None:
    """An adapter of the store that this run does not have."""
    ActivationStore.create(tmp_path, manifest_of(**OTHER_SETTINGS["model.adapter"]))
    with pytest.raises(StoreError, match=r"was made with model.adapter = a0, this run has None"):
        ActivationStore.create(tmp_path, manifest_of())


def test_the_same_settings_reopen_a_store_whatever_command_and_versions(tmp_path: Path) -> None:
    first = ActivationStore.create(tmp_path, manifest_of())
    second = ActivationStore.create(tmp_path, manifest_of(command="another", versions={"torch": "9"}, device="cuda:1"))
    assert second.manifest == first.manifest


def test_an_automatic_token_budget_takes_the_recorded_one(tmp_path: Path) -> None:
    ActivationStore.create(tmp_path, manifest_of(batch_tokens=64))
    assert ActivationStore.create(tmp_path, manifest_of(batch_tokens=2048)).manifest["batch_tokens"] == 64


def test_another_named_token_budget_is_refused(tmp_path: Path) -> None:
    ActivationStore.create(tmp_path, manifest_of(batch_tokens=64))
    with pytest.raises(StoreError, match="was made with batch_tokens = 64, this run has 2048"):
        ActivationStore.create(tmp_path, manifest_of(batch_tokens=2048), same_budget=True)


def test_the_same_named_token_budget_is_taken(tmp_path: Path) -> None:
    ActivationStore.create(tmp_path, manifest_of(batch_tokens=64))
    assert ActivationStore.create(tmp_path, manifest_of(batch_tokens=64), same_budget=True).languages == CODES


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    store = ActivationStore.create(tmp_path / "store", manifest_of(final_norm="raw"), overwrite=True)
    assert store.missing() == list(CODES)
    assert set(contents(store.path)) == {"manifest.json"}


def test_overwrite_removes_nothing_that_is_not_the_stores(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    for name in ("notes.txt", "mine.h5", "eng_Latn.npy"):
        (tmp_path / "store" / name).write_text("mine")
    ActivationStore.create(tmp_path / "store", manifest_of(), overwrite=True)
    assert set(contents(tmp_path / "store")) == {"manifest.json", "notes.txt", "mine.h5", "eng_Latn.npy"}


def test_overwrite_takes_an_older_schema_away(tmp_path: Path) -> None:
    complete_store(tmp_path / "store")
    older = {**json.loads((tmp_path / "store" / "manifest.json").read_text()), "schema": 0}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(older))
    assert ActivationStore.create(tmp_path / "store", manifest_of(), overwrite=True).missing() == list(CODES)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "eng_Latn.h5", "folder"])
def test_a_folder_with_something_else_is_refused_and_kept(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("mine")
    with pytest.raises(StoreError, match="is not empty and no store"):
        ActivationStore.create(tmp_path, manifest_of(), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_whose_manifest_is_another_programs_is_refused_and_kept(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "manifest.json").write_text('{"short_name": "an app"}')
    (tmp_path / "eng_Latn.h5").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        ActivationStore.create(tmp_path, manifest_of(), overwrite=overwrite)
    assert contents(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    with pytest.raises(StoreError, match="cannot be written"):
        ActivationStore.create(tmp_path / "store", manifest_of())


# ---- values and space ----------------------------------------------------------------------------------------


def test_float16_overflow_is_refused_with_language_row_and_layer(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of(store_dtype="float16"))
    states = states_of("eng_Latn")
    states[1, 1, 1, 3] = -70000
    with pytest.raises(StoreError, match=r"eng_Latn row 2 layer 2 overflows float16 \(largest value 7e\+04\)"):
        store.write_language("eng_Latn", states, TOKENS, TEXT["eng_Latn"], 64, 0)
    assert set(contents(tmp_path)) == {"manifest.json"}


def test_the_largest_half_precision_value_is_kept(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of(store_dtype="float16"))
    states = states_of("eng_Latn")
    states[0, 0, 0, 0] = 65504
    store.write_language("eng_Latn", states, TOKENS, TEXT["eng_Latn"], 64, 0)
    assert store.layer("eng_Latn", 0, "mean")[0, 0] == 65504


@pytest.mark.parametrize(("store_dtype", "width"), [("float32", 4), ("float16", 2)])
def test_the_estimate_is_the_size_of_the_vectors(store_dtype: str, width: int) -> None:
    assert estimate_bytes(manifest_of(store_dtype=store_dtype), languages=3) == 3 * 2 * 2 * 3 * 4 * width


def test_the_estimate_is_close_to_what_is_written(tmp_path: Path) -> None:
    manifest = manifest_of(languages=["eng_Latn"], rows=500, hidden_size=64)
    store = ActivationStore.create(tmp_path, manifest)
    states = np.ones((2, 2, 500, 64), dtype=np.float32)
    store.write_language("eng_Latn", states, np.ones(500), ["short"] * 500, 64, 0)
    assert store.file("eng_Latn").stat().st_size == pytest.approx(estimate_bytes(manifest, 1), rel=0.05)


def test_too_little_space_is_said_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"GB free at .*; expected 1,050,000\.0 GB for this store; free some"):
        require_space(tmp_path, 10**15)


@pytest.mark.parametrize("folder", [".", "not/there/yet"])
def test_enough_space_is_no_error(tmp_path: Path, folder: str) -> None:
    require_space(tmp_path / folder, 10**3)


WRITE_UNTIL_FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from probe.errors import StoreError
from probe.store import ActivationStore

folder, limit, rows = Path(sys.argv[1]), int(sys.argv[2]), 1000
store = ActivationStore.create(folder, {
    "schema": 1, "model": {}, "corpus": {}, "languages": ["a", "b", "c"], "rows": rows, "poolings": ["mean"],
    "layers": [0, 1], "depth": 1, "hidden_size": 64, "dtype": "float32", "store_dtype": "float32", "final_norm": "model", "runtime": {},
    "truncate": False, "text": True, "batch_tokens": 64, "files": {}, "complete": False,
})
states = np.random.default_rng(0).normal(size=(1, 2, rows, 64)).astype(np.float32)  # 512 kB
for code in store.languages:
    if limit and code == "b":
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        store.write_language(code, states, np.ones(rows), ["text"] * rows, 64, 0)
    except StoreError as error:
        print(code, error)
print(np.array_equal(store.layer("a", 1, "mean"), states[0, 1]))
"""
"""In a process of its own, since HDF5 has been seen to crash where it finds the disk full by itself."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 800 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line_and_finished_languages_are_kept(small_disk: Path) -> None:
    out = run_python(WRITE_UNTIL_FULL, small_disk / "store", "0").splitlines()
    assert [line[:2] for line in out] == ["b ", "c ", "Tr"]
    assert re.search(r"the disk of .* is full while writing b .*finished languages are kept$", out[0])
    assert set(contents(small_disk / "store")) == {"a.h5", "manifest.json"}


@pytest.mark.parametrize("limit", [100, 50_000, 500_000])
def test_a_file_that_may_grow_no_further_is_told_in_one_line(tmp_path: Path, limit: int) -> None:
    out = run_python(WRITE_UNTIL_FULL, tmp_path / "store", str(limit)).splitlines()
    assert re.search(r"is full while writing b \(File too large\)", out[0])
    assert out[-1] == "True"
    assert set(contents(tmp_path / "store")) == {"a.h5", "manifest.json"}


def test_a_disk_too_full_for_the_manifest_is_told_in_one_line(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(StoreError, match="is full while writing its manifest"):
        ActivationStore.create(small_disk / "store", manifest_of())


# ---- locks ---------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from probe.store import ActivationStore
with ActivationStore.reopen(Path(sys.argv[1])).writing("eng_Latn"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_elsewhere(store: ActivationStore) -> Iterator[subprocess.Popen[str]]:
    """Another living process is writing eng_Latn."""
    with start_python(HOLD, store.path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_language_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    refused = pytest.raises(StoreError, match=r"eng_Latn in .* is being written by another process")
    with held_elsewhere(store), refused, store.writing("eng_Latn"):
        pass


def test_its_other_languages_are_free(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    with held_elsewhere(store), store.writing("rus_Cyrl"):
        write(store, "rus_Cyrl")


def test_a_language_that_another_process_writes_is_not_overwritten(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    write(store, "rus_Cyrl")
    with held_elsewhere(store), pytest.raises(StoreError, match="is being written by another process"):
        ActivationStore.create(tmp_path, manifest_of(), overwrite=True)
    assert store.file("rus_Cyrl").exists()


def test_a_killed_writer_lets_go_of_its_language(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    with held_elsewhere(store) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / "eng_Latn.h5.lock").exists()  # left by the killed one, held by nobody
        with store.writing("eng_Latn"):
            write(store, "eng_Latn")
    assert set(contents(tmp_path)) == {"eng_Latn.h5", "manifest.json"}


def test_a_lock_is_gone_after_a_fault(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path, manifest_of())
    with pytest.raises(ZeroDivisionError), store.writing("eng_Latn"):
        raise ZeroDivisionError
    assert set(contents(tmp_path)) == {"manifest.json"}


COUNT = """
import sys
from pathlib import Path
from probe.store import locked
counter = Path(sys.argv[1])
sys.stdin.readline()
for _ in range(150):
    with locked(counter, "the counter", wait=True):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def in_parallel(program: str, arguments: list[tuple[str | Path, ...]]) -> list[str]:
    """What each process printed; they start together once all of them are ready."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(start_python(program, *each)) for each in arguments]
        time.sleep(0.5)  # most are imported by then; a late one only makes the race milder
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), answers
    return [out for out, _ in answers]


def test_no_two_processes_hold_a_lock_at_once(tmp_path: Path) -> None:
    """Each holder removes the lock file, so a waiter may get a lock on a file that is no longer there."""
    (tmp_path / "counter").write_text("0")
    in_parallel(COUNT, [(tmp_path / "counter",)] * 4)
    assert (tmp_path / "counter").read_text() == "600"
    assert not (tmp_path / "counter.lock").exists()


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "file", "the file"):
            assert (tmp_path / "file.lock").exists()
    assert list(tmp_path.iterdir()) == []


CREATE = """
import json, sys
from pathlib import Path
from probe.errors import StoreError
from probe.store import ActivationStore
manifest = json.loads(sys.argv[2])
sys.stdin.readline()
try:
    print(ActivationStore.create(Path(sys.argv[1]), manifest).manifest["command"])
except StoreError as error:
    print("refused", error)
"""


def test_processes_that_create_one_store_agree_on_its_manifest(tmp_path: Path) -> None:
    manifests = [json.dumps(manifest_of(command=f"process {i}", batch_tokens=64 + i)) for i in range(4)]
    told = in_parallel(CREATE, [(tmp_path / "store", manifest) for manifest in manifests])
    kept = ActivationStore.reopen(tmp_path / "store").manifest["command"]
    assert told == [f"{kept}\n"] * 4
    assert set(contents(tmp_path / "store")) == {"manifest.json"}


def test_of_processes_with_other_settings_one_creates_the_store(tmp_path: Path) -> None:
    manifests = [json.dumps(manifest_of(command=f"process {i}", rows=3 + i)) for i in range(4)]
    told = in_parallel(CREATE, [(tmp_path / "store", manifest) for manifest in manifests])
    kept = ActivationStore.reopen(tmp_path / "store").manifest["command"]
    assert told.count(f"{kept}\n") == 1
    assert sum("was made with rows" in answer for answer in told) == 3


def test_layers_are_named_by_three_digits() -> None:
    assert [layer_name(layer) for layer in (0, 8, 80, 126)] == ["000", "008", "080", "126"]


def test_float16_underflow_is_refused(tmp_path: Path) -> None:
    """A vector that storage turns to zero would be no vector."""
    store = ActivationStore.create(tmp_path, manifest_of(store_dtype="float16"))
    states = np.full((2, 2, 3, 4), 2e-8, dtype=np.float32)
    with pytest.raises(StoreError, match="eng_Latn row 1 layer 0 underflows float16"):
        store.write_language("eng_Latn", states, np.ones(3, dtype=np.int32), None, 64, 0)
