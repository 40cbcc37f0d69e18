"""Retrieval as a whole: properties of its answer, what it refuses, where vectors come from, resume, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from probe.corpus import ParallelCorpus
from probe.errors import ProbeError, RetrievalError, StoreError
from probe.extract import Settings, extract_all
from probe.knn import faiss_installed
from probe.margin import MARGINS
from probe.results import RetrievalResult
from probe.retrieve import retrieve_all
from probe.store import ActivationStore

ROOT = Path(__file__).resolve().parents[1]
NO_FAISS = pytest.mark.skipif(not faiss_installed(), reason="faiss is not installed")
BACKENDS = ("torch", pytest.param("faiss", marks=NO_FAISS))
LAYERS = ("000", "001", "002", "003", "004")

RunProbe = Callable[..., subprocess.CompletedProcess[str]]


def sides(rows: int = 40, dim: int = 16, noise: float = 0.5, seed: int = 0) -> dict[str, np.ndarray]:
    """Two noisy copies of the same points."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(rows, dim))
    return {
        code: (points + noise * random.normal(size=points.shape)).astype(np.float32)
        for code in ("eng_Latn", "deu_Latn")
    }


def retrieve(arrays: dict[str, np.ndarray], **options: object) -> RetrievalResult:
    return retrieve_all(arrays, **{"device": "cpu", "backend": "torch", "save_predictions": True, **options})


def forward(result: RetrievalResult) -> np.ndarray:
    """The rows of the second language that those of the first retrieve."""
    found = result.layers[0].predictions
    assert found is not None
    return found[0, 1]


# ---- properties ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("k", [1, 4])
def test_identical_sides_find_every_row(backend: str, margin: str, k: int) -> None:
    side = sides()["eng_Latn"]
    result = retrieve({"eng_Latn": side, "deu_Latn": side.copy()}, backend=backend, margin=margin, k=k)
    assert result.accuracy(0)[0, 1] == result.accuracy(0)[1, 0] == 1.0
    assert result.layers[0].mexa[0, 1] == 1.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("margin", MARGINS)
def test_unrelated_sides_find_one_row_in_n(backend: str, margin: str) -> None:
    random = np.random.default_rng(1)
    codes = ("eng_Latn", "deu_Latn", "fra_Latn", "spa_Latn", "ita_Latn", "por_Latn")
    result = retrieve({code: random.normal(size=(50, 24)) for code in codes}, backend=backend, margin=margin)
    right = round(result.curve()[0] * 30 * 50)
    assert 10 <= right <= 55  # of 1,500 expected 30, and 25 = four deviations beside it


@pytest.mark.parametrize("backend", BACKENDS)
def test_permuting_targets_permutes_the_answer(backend: str) -> None:
    arrays, order = sides(), np.random.default_rng(2).permutation(40)
    before = forward(retrieve(arrays, backend=backend))
    after = forward(retrieve({**arrays, "deu_Latn": arrays["deu_Latn"][order]}, backend=backend))
    np.testing.assert_array_equal(order[after], before)
    assert not np.array_equal(after, before)


def test_swapping_languages_swaps_directions() -> None:
    arrays = sides()
    ours, swapped = retrieve(arrays), retrieve(dict(reversed(arrays.items())))
    np.testing.assert_array_equal(ours.accuracy(0), swapped.accuracy(0).T)


def test_a_pair_does_not_depend_on_the_other_languages() -> None:
    arrays = sides()
    third = {**arrays, "fra_Latn": np.random.default_rng(5).normal(size=(40, 16))}
    np.testing.assert_array_equal(retrieve(arrays).accuracy(0), retrieve(third).accuracy(0)[:2, :2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positive_scaling_of_rows_changes_nothing(backend: str, dtype: type) -> None:
    """Between 1e-20 and 1e20, whose squares no float32 holds."""
    arrays = sides(seed=3)
    scale = 10.0 ** np.random.default_rng(3).integers(-20, 21, size=(40, 1))
    scaled = {code: (values * scale).astype(dtype) for code, values in arrays.items()}
    np.testing.assert_array_equal(forward(retrieve(scaled, backend=backend)), forward(retrieve(arrays)))


def test_rows_beyond_the_range_of_float32_are_no_zeros() -> None:
    arrays = {code: values.astype(np.float64) for code, values in sides(seed=4).items()}
    scaled = {code: values * 1e-60 for code, values in arrays.items()}
    np.testing.assert_array_equal(forward(retrieve(scaled)), forward(retrieve(arrays)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_the_callers_arrays_are_unchanged(backend: str, dtype: type) -> None:
    arrays = {code: (8 * values).astype(dtype) for code, values in sides().items()}
    before = {code: values.tobytes() for code, values in arrays.items()}
    retrieve(arrays, backend=backend)
    assert {code: values.tobytes() for code, values in arrays.items()} == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_read_only_and_strided_arrays_are_taken(backend: str) -> None:
    arrays = sides()
    wide = {code: np.asfortranarray(np.repeat(values, 2, axis=0))[::2] for code, values in arrays.items()}
    for values in wide.values():
        values.setflags(write=False)
    np.testing.assert_array_equal(forward(retrieve(wide, backend=backend)), forward(retrieve(arrays)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int64, ">f4"])
def test_any_numbers_are_taken(dtype: type | str) -> None:
    """Whole numbers below 100 are the same in every type."""
    arrays = {code: np.abs(np.round(20 * values)) for code, values in sides().items()}
    cast = {code: values.astype(dtype) for code, values in arrays.items()}
    np.testing.assert_array_equal(forward(retrieve(cast)), forward(retrieve(arrays)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_k_may_be_as_large_as_n(backend: str) -> None:
    arrays = sides(rows=6, noise=0.1)
    assert retrieve(arrays, k=6, margin="distance", backend=backend).accuracy(0)[0, 1] == 1.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_one_neighbour_every_margin_takes_the_nearest(backend: str) -> None:
    answers = [forward(retrieve(sides(noise=2), k=1, margin=margin, backend=backend)) for margin in MARGINS]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] == answers[2]).all()


def test_duplicate_rows_are_counted_not_refused() -> None:
    arrays = sides()
    arrays["deu_Latn"][[7, 9]] = arrays["deu_Latn"][3]
    result = retrieve(arrays)
    assert dict(result.duplicates) == {"eng_Latn": 0, "deu_Latn": 2}
    assert result.summary()["duplicate_rows"] == {"deu_Latn": 2}


def test_result_is_the_same_with_and_without_predictions() -> None:
    kept, not_kept = retrieve(sides(noise=2)), retrieve(sides(noise=2), save_predictions=False)
    np.testing.assert_array_equal(kept.layers[0].hits, not_kept.layers[0].hits)
    assert not_kept.layers[0].predictions is None


# ---- centred -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centring_is_retrieval_among_centred_arrays(backend: str, dtype: type) -> None:
    arrays = {code: (values + 0.5).astype(dtype) for code, values in sides(noise=2).items()}
    explicit = {code: values - values.mean(axis=0, dtype=np.float64) for code, values in arrays.items()}
    same(retrieve(arrays, centre=True, backend=backend), retrieve(explicit, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_offset_of_one_language_counts_unless_centred(backend: str) -> None:
    arrays = sides(noise=2)
    moved = {**arrays, "deu_Latn": arrays["deu_Latn"] + np.linspace(-20.0, 20.0, 16)}
    centred = [forward(retrieve(each, centre=True, backend=backend)) for each in (arrays, moved)]
    np.testing.assert_array_equal(*centred)
    as_they_are = [forward(retrieve(each, backend=backend)) for each in (arrays, moved)]
    assert (as_they_are[0] != as_they_are[1]).mean() > 0.2


def test_centring_is_over_the_rows_that_are_searched() -> None:
    arrays = sides(noise=2)
    first = {code: values[:12] for code, values in arrays.items()}
    assert (forward(retrieve(arrays, centre=True))[:12] != forward(retrieve(first, centre=True))).any()
    same(retrieve(arrays, centre=True, limit=12), retrieve(first, centre=True))


def test_centring_leaves_the_controls_and_is_told(store: ActivationStore, whole: RetrievalResult) -> None:
    centred = retrieve_all(store, centre=True, backend="torch", device="cpu")
    assert (centred.settings["centre"], whole.settings["centre"]) == (True, False)
    for name, cells in whole.controls.items():
        np.testing.assert_array_equal(centred.controls[name].hits, cells.hits)
    assert any((centred.layers[n].hits != cells.hits).any() for n, cells in whole.layers.items())


def test_centring_leaves_the_callers_arrays() -> None:
    arrays = sides()
    before = {code: values.tobytes() for code, values in arrays.items()}
    retrieve(arrays, centre=True)
    assert {code: values.tobytes() for code, values in arrays.items()} == before


@pytest.mark.parametrize("value", [0.1, -1e30, 7.0])
def test_nothing_is_left_of_equal_rows_centred(value: float) -> None:
    arrays = {**sides(), "deu_Latn": np.full((40, 16), value, dtype=np.float32)}
    assert retrieve(arrays).rows == 40
    with pytest.raises(RetrievalError, match="deu_Latn, centred, row 1 is all zero"):
        retrieve(arrays, centre=True)


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "holds NaN or inf"), (0.0, "is all zero")])
def test_a_bad_row_is_named_before_it_is_centred(value: float, fault: str) -> None:
    arrays = sides()
    arrays["deu_Latn"][12] = value
    with pytest.raises(RetrievalError, match=f"deu_Latn row 13 {fault}"):
        retrieve(arrays, centre=True)


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("value", "fault"),
    [(np.nan, "holds NaN or inf"), (np.inf, "holds NaN or inf"), (-np.inf, "holds NaN or inf"), (None, "is all zero")],
)
def test_a_bad_row_is_named(backend: str, value: float | None, fault: str) -> None:
    arrays = sides()
    if value is None:
        arrays["deu_Latn"][12] = 0
    else:
        arrays["deu_Latn"][12, 5] = value
    with pytest.raises(RetrievalError, match=f"deu_Latn row 13 {fault}"):
        retrieve(arrays, backend=backend)


def test_a_bad_row_beyond_the_limit_does_not_matter() -> None:
    arrays = sides()
    arrays["deu_Latn"][12] = 0
    assert retrieve(arrays, limit=12).rows == 12


@pytest.mark.parametrize("rows", [39, 41])
def test_unequal_rows_are_refused(rows: int) -> None:
    """More rows than the first language are as bad as fewer: no pair of rows can be trusted then."""
    arrays = {**sides(), "fra_Latn": np.ones((rows, 16))}
    with pytest.raises(RetrievalError, match=rf"fra_Latn has vectors of shape \({rows}, 16\); expected \(40, 16\)"):
        retrieve(arrays)


def test_unequal_dimensions_are_refused() -> None:
    arrays = {**sides(), "fra_Latn": np.ones((40, 17))}
    with pytest.raises(RetrievalError, match=r"fra_Latn has vectors of shape \(40, 17\); expected \(40, 16\)"):
        retrieve(arrays)


@pytest.mark.parametrize("values", [np.ones((40, 3, 4)), np.ones(40), np.array(1.0), np.full((40, 16), "x")])
def test_arrays_that_are_no_vectors_are_refused(values: np.ndarray) -> None:
    with pytest.raises(RetrievalError, match="deu_Latn is an array of shape"):
        retrieve({**sides(), "deu_Latn": values})


@pytest.mark.parametrize(("count", "words"), [(1, "1 language"), (0, "0 language")])
def test_fewer_than_two_languages_are_refused(count: int, words: str) -> None:
    with pytest.raises(RetrievalError, match=f"{words}; expected at least two"):
        retrieve(dict(list(sides().items())[:count]))


@pytest.mark.parametrize(("rows", "k"), [(3, 4), (1, 1), (40, 0), (40, -1), (40, 41)])
def test_k_must_fit_the_rows(rows: int, k: int) -> None:
    with pytest.raises(RetrievalError, match=f"{rows} rows with k = {k}"):
        retrieve(sides(rows=rows), k=k)


def test_a_language_under_two_names_is_refused() -> None:
    arrays = sides()
    with pytest.raises(RetrievalError, match="eng_Latn is given twice"):
        retrieve({**arrays, "en": arrays["deu_Latn"]})


@pytest.mark.parametrize(
    "options", [{"margin": "cosine"}, {"backend": "annoy"}, {"layers": "1"}, {"layers": "x"}, {"langs": "eng_Latn,tlh"}]
)
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ProbeError, match=str(*options.values()).split(",")[-1]):
        retrieve(sides(), **options)


# ---- where vectors come from ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(toy: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Four languages, 24 sentences, five layers."""
    return extract_all("builtin:tiny", toy, tmp_path_factory.mktemp("retrieve") / "store", dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def whole(store: ActivationStore) -> RetrievalResult:
    return retrieve_all(store, backend="torch", device="cpu", save_predictions=True)


def arrays_of(store: ActivationStore, layer: int) -> dict[str, np.ndarray]:
    return {code: store.layer(code, layer, "mean") for code in store.languages}


def same(a: RetrievalResult, b: RetrievalResult, layer_a: int = 0, layer_b: int = 0) -> None:
    np.testing.assert_array_equal(a.layers[layer_a].hits, b.layers[layer_b].hits)
    np.testing.assert_array_equal(a.layers[layer_a].mexa, b.layers[layer_b].mexa)


@pytest.mark.parametrize("layer", range(5))
def test_a_store_gives_what_its_arrays_give(store: ActivationStore, whole: RetrievalResult, layer: int) -> None:
    same(retrieve(arrays_of(store, layer)), whole, 0, layer)


def test_a_store_gives_the_same_by_its_path(store: ActivationStore, whole: RetrievalResult) -> None:
    result = retrieve_all(str(store.path), backend="torch", device="cpu", layers="3")
    same(result, whole, 3, 3)


def test_a_folder_of_arrays_gives_what_the_arrays_give(store: ActivationStore, tmp_path: Path) -> None:
    arrays = arrays_of(store, 3)
    for code, values in arrays.items():
        np.save(tmp_path / f"{code}.npy", values)
    folder = retrieve_all(tmp_path, backend="torch", device="cpu", langs=",".join(arrays))
    same(folder, retrieve(arrays))


def test_arrays_may_go_by_other_names(tmp_path: Path) -> None:
    arrays = sides()
    named = {"en": arrays["eng_Latn"], "de-DE": arrays["deu_Latn"]}
    for name, values in named.items():
        np.save(tmp_path / f"{name}.npy", values)
    for source in (named, tmp_path):
        result = retrieve_all(source, backend="torch", device="cpu")
        assert set(result.languages) == {"eng_Latn", "deu_Latn"}
        assert result.summary()["layers"][0]["to_english"] is not None


def test_unreadable_arrays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.npy").write_bytes(b"no array")
    with pytest.raises(RetrievalError, match=r"eng_Latn\.npy cannot be read"):
        retrieve_all(tmp_path, device="cpu")


def test_a_file_of_no_language_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "embeddings.npy", np.ones((4, 4)))
    with pytest.raises(RetrievalError, match=r"embeddings\.npy is named after no language"):
        retrieve_all(tmp_path, device="cpu")


def test_a_folder_of_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"a folder of <lang>\.npy"):
        retrieve_all(tmp_path, device="cpu")
    with pytest.raises(ProbeError, match="no folder"):
        retrieve_all(tmp_path / "absent", device="cpu")


def test_languages_come_in_the_order_asked_for(store: ActivationStore, whole: RetrievalResult) -> None:
    result = retrieve_all(store, langs="zh,eng_Latn", layers="2", backend="torch", device="cpu")
    assert result.languages == ("zho_Hans", "eng_Latn")
    chinese, english = whole.languages.index("zho_Hans"), whole.languages.index("eng_Latn")
    assert result.accuracy(2)[0, 1] == whole.accuracy(2)[chinese, english]
    assert result.accuracy(2)[1, 0] == whole.accuracy(2)[english, chinese]


def test_a_limit_takes_the_first_rows(store: ActivationStore) -> None:
    first = {code: values[:10] for code, values in arrays_of(store, 1).items()}
    limited = retrieve_all(store, limit=10, layers="1", backend="torch", device="cpu")
    assert limited.rows == 10
    same(limited, retrieve(first), 1, 0)


@pytest.mark.parametrize(
    ("asked", "given"), [("all", [0, 1, 2, 3, 4]), ("even", [0, 2, 4]), ("3,1", [1, 3]), ("1:4:2", [1, 3])]
)
def test_layers_as_asked(store: ActivationStore, whole: RetrievalResult, asked: str, given: list[int]) -> None:
    result = retrieve_all(store, layers=asked, backend="torch", device="cpu")
    assert list(result.layers) == given
    for layer in given:
        same(result, whole, layer, layer)


def test_no_layer_at_all_is_refused(toy: ParallelCorpus, tmp_path: Path) -> None:
    settings = Settings("1,3")
    odd = extract_all("builtin:tiny", toy, tmp_path / "store", settings=settings, dtype="fp32", device="cpu")
    with pytest.raises(ProbeError, match="--layers even"):
        retrieve_all(odd, layers="even", device="cpu")


@NO_FAISS
def test_backends_agree_on_a_store(store: ActivationStore, whole: RetrievalResult) -> None:
    result = retrieve_all(store, backend="faiss", device="cpu", save_predictions=True)
    differ = sum(
        int((result.layers[n].predictions != whole.layers[n].predictions).sum())
        for n in whole.layers  # type: ignore[operator]
    )
    assert differ <= 2, f"{differ} of {5 * 12 * 24} cells, which only ties explain"


def test_three_lines_of_python_and_a_light_import() -> None:
    """As the package's docstring shows it, in a fresh interpreter."""
    script = (
        "import sys, probe\n"
        "assert not {'torch', 'numpy', 'transformers', 'h5py'} & set(sys.modules)\n"
        "import numpy\n"
        "english = numpy.random.default_rng(0).normal(size=(9, 4)); german = english\n"
        "from probe import retrieve_all\n"
        "result = retrieve_all({'eng_Latn': english, 'deu_Latn': german})\n"
        "print(result.curve())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "{0: 1.0}\n", done.stderr


# ---- interrupted and resumed ---------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from probe.results import RetrievalResult
from probe.retrieve import retrieve_all
store, out, point, pair = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if point == "saving":
    RetrievalResult._write_hits = die
def advance(name, done, total):
    if (name, done) == (point, int(pair)):
        die()
retrieve_all(store, backend="torch", device="cpu", out=out, save_predictions=True, advance=advance)
"""
"""A retrieval that dies while it computes a pair of a layer, or while it writes its result."""

KILL_POINTS = {("002", 6): 2, ("char", 3): 5, ("saving", 0): 7}
"""Where -> how many layers and controls are finished there, of five and two."""


@pytest.fixture(scope="module")
def killed(store: ActivationStore, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """The folders that killed processes left, one a kill point."""
    folders, running = {}, []
    for point, pair in KILL_POINTS:
        folders[point, pair] = tmp_path_factory.mktemp("killed") / "result"
        arguments = [str(store.path), str(folders[point, pair]), point, str(pair)]
        command = [sys.executable, "-c", KILLED, *arguments]
        running.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}))
    assert [process.wait(300) for process in running] == [-signal.SIGKILL] * len(running)
    return folders


def resumed(store: ActivationStore, out: Path, **options: object) -> list[str]:
    """Run the same retrieval again; the layers and controls that it computed."""
    computed: list[str] = []
    settings = {"backend": "torch", "device": "cpu", "save_predictions": True, "out": out, **options}
    retrieve_all(store, advance=lambda name, done, total: computed.append(name), **settings)
    return list(dict.fromkeys(computed))


def contents(folder: Path) -> dict[str, bytes]:
    """File -> bytes, the recorded command aside."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    summary = json.loads(files["summary.json"])
    return {**files, "summary.json": json.dumps({**summary, "command": None}).encode()}


@pytest.mark.parametrize("point", KILL_POINTS, ids=str)
def test_a_killed_retrieval_goes_on_where_it_stopped(
    store: ActivationStore, killed: dict[tuple[str, int], Path], tmp_path: Path, point: tuple[str, int]
) -> None:
    names, finished = (*LAYERS, "char", "length"), KILL_POINTS[point]
    out = killed[point]
    assert not (out / "summary.json").exists()
    assert resumed(store, out) == list(names[finished:])
    assert resumed(store, tmp_path / "uninterrupted") == list(names)
    assert contents(out) == contents(tmp_path / "uninterrupted")


def interrupted(store: ActivationStore, out: Path, at: str, **options: object) -> None:
    """Stop a retrieval while it computes a layer."""

    def stop(name: str, done: int, total: int) -> None:
        if name == at:
            raise KeyboardInterrupt

    settings = {"backend": "torch", "device": "cpu", "out": out, **options}
    with pytest.raises(KeyboardInterrupt):
        retrieve_all(store, advance=stop, **settings)


@pytest.mark.parametrize(
    "change",
    [{"k": 5}, {"margin": "distance"}, {"limit": 20}, {"langs": "zh,en"}, {"centre": True}, {"save_predictions": True}],
    ids=lambda change: next(iter(change)),
)
def test_layers_made_with_other_settings_are_not_reused(
    store: ActivationStore, tmp_path: Path, change: dict[str, object]
) -> None:
    interrupted(store, tmp_path / "result", "003")
    assert resumed(store, tmp_path / "result", **{"save_predictions": False, **change})[:5] == list(LAYERS)


@pytest.mark.parametrize("changed", [False, True])
def test_layers_are_reused_only_for_the_same_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """The same folder and shape, other numbers."""

    def stop(self: RetrievalResult, folder: Path) -> None:
        raise KeyboardInterrupt

    folder, computed = tmp_path / "arrays", []
    folder.mkdir()
    options = {"backend": "torch", "device": "cpu", "out": tmp_path / "result"}
    for code, values in sides(seed=1).items():
        np.save(folder / f"{code}.npy", values)
    monkeypatch.setattr(RetrievalResult, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        retrieve_all(folder, **options)
    monkeypatch.undo()
    for code, values in sides(seed=2 if changed else 1).items():
        np.save(folder / f"{code}.npy", values)
    retrieve_all(folder, advance=lambda name, done, total: computed.append(name), **options)
    assert computed == (["000"] if changed else [])


def test_a_layer_cut_short_is_computed_again(store: ActivationStore, tmp_path: Path) -> None:
    interrupted(store, tmp_path / "result", "003", save_predictions=True)
    kept = tmp_path / "result" / "partial" / "001.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    assert resumed(store, tmp_path / "result") == ["001", "003", "004", "char", "length"]


def test_a_kill_before_the_settings_are_written_is_no_obstacle(store: ActivationStore, tmp_path: Path) -> None:
    (tmp_path / "result" / "partial").mkdir(parents=True)
    assert resumed(store, tmp_path / "result")[:5] == list(LAYERS)


def test_a_finished_result_keeps_no_partial_layers(store: ActivationStore, tmp_path: Path) -> None:
    resumed(store, tmp_path / "result")
    assert not (tmp_path / "result" / "partial").exists()


def test_a_finished_result_is_not_replaced_unasked(store: ActivationStore, tmp_path: Path) -> None:
    resumed(store, tmp_path / "result")
    before = contents(tmp_path / "result")
    with pytest.raises(RetrievalError, match=r"holds a finished result.*--overwrite"):
        resumed(store, tmp_path / "result", k=2)
    with pytest.raises(RetrievalError, match="holds a finished result with centre = False, this run has True"):
        resumed(store, tmp_path / "result", centre=True)
    assert contents(tmp_path / "result") == before


def test_a_finished_result_is_returned_as_it_is(store: ActivationStore, tmp_path: Path) -> None:
    first = retrieve_all(store, out=tmp_path / "result")
    before = contents(tmp_path / "result")
    computed: list[str] = []
    again = retrieve_all(store, out=tmp_path / "result", advance=lambda layer, done, total: computed.append(layer))
    assert computed == []
    assert again.curve() == first.curve()
    assert contents(tmp_path / "result") == before


def test_a_finished_result_is_replaced_on_request(store: ActivationStore, tmp_path: Path) -> None:
    resumed(store, tmp_path / "result")
    assert resumed(store, tmp_path / "result", k=2, save_predictions=False, overwrite=True)[:5] == list(LAYERS)
    assert RetrievalResult.load(tmp_path / "result").settings["k"] == 2
    assert not (tmp_path / "result" / "predictions.h5").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "partial/thesis.txt"])
def test_a_foreign_folder_is_left_alone(store: ActivationStore, tmp_path: Path, overwrite: bool, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("years of work", encoding="utf-8")
    with pytest.raises(RetrievalError, match="is not empty and no result"):
        resumed(store, tmp_path, overwrite=overwrite)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_a_file_in_place_of_the_result_is_refused(store: ActivationStore, tmp_path: Path) -> None:
    (tmp_path / "result").write_text("in the way", encoding="utf-8")
    with pytest.raises(RetrievalError, match="cannot be written"):
        resumed(store, tmp_path / "result")


# ---- the command line ----------------------------------------------------------------------------------------


def fault(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that refused its input."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("probe: ")
    return line


def test_the_command_prints_a_table(run_probe: RunProbe, store: ActivationStore, whole: RetrievalResult) -> None:
    done = run_probe("retrieve", store.path, "--backend", "torch", "--device", "cpu", "--out", "result")
    assert (done.returncode, done.stderr) == (0, "")
    first_words = {words[0]: words for line in done.stdout.splitlines() if (words := line.split())}
    for layer, mean in whole.curve().items():
        assert first_words[str(layer)][1] == f"{100 * mean:.1f}"
    assert {"layer", "char", "length"} <= first_words.keys()
    assert "4 languages, 12 directions, 24 sentences" in done.stdout


def test_json_is_the_summary(run_probe: RunProbe, store: ActivationStore, tmp_path: Path) -> None:
    done = run_probe("retrieve", store.path, "--json", "--layers", "1,2", "--save-predictions", "--out", "result")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads((tmp_path / "result" / "summary.json").read_text("utf-8"))
    with h5py.File(tmp_path / "result" / "predictions.h5") as h5:
        assert list(h5) == ["001", "002"]


BAD_OPTIONS = {
    ("--margin", "cosine"): "--margin cosine; expected one of ratio, distance, absolute",
    ("--backend", "annoy"): "--backend annoy; expected one of auto, faiss, torch",
    ("--layers", "5"): "layer 5 is not there; expected layers 0 to 4",
    ("--k", "25"): "24 rows with k = 25",
}


def test_bad_options_are_refused_in_one_line(store: ActivationStore, tmp_path: Path) -> None:
    """Started together, for time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(options: Sequence[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "probe", "retrieve", str(store.path), "--out", str(tmp_path / "r"), *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)

    running = [start(options) for options in BAD_OPTIONS]
    for process, words in zip(running, BAD_OPTIONS.values(), strict=True):
        out, err = process.communicate(timeout=300)
        assert words in fault(subprocess.CompletedProcess([], process.returncode, out, err))
    assert not (tmp_path / "r").exists()


@pytest.fixture
def without_faiss(tmp_path: Path) -> dict[str, str]:
    """An environment in which faiss cannot be imported."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text('import sys\nsys.modules["faiss"] = None\n', encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}


def test_without_faiss_auto_takes_torch(
    run_probe: RunProbe, store: ActivationStore, without_faiss: dict[str, str]
) -> None:
    done = run_probe("retrieve", store.path, "--layers", "1", "--json", "--out", "result", env=without_faiss)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["backend"] == "torch"


def test_without_faiss_the_message_names_the_extra(
    run_probe: RunProbe, store: ActivationStore, without_faiss: dict[str, str]
) -> None:
    done = run_probe("retrieve", store.path, "--backend", "faiss", "--out", "result", env=without_faiss)
    assert "pip install 'midprobe[cpu]'" in fault(done)


def test_equal_texts_are_no_strict_maximum_whatever_their_last_bits(tmp_path: Path, everyday: ParallelCorpus) -> None:
    """Every sentence stands twice, so that no row is strictly nearest, in whichever batch its copy was computed."""
    codes = ("eng_Latn", "deu_Latn")
    twice = {code: tuple(line for line in everyday.sentences[code][:20] for _ in range(2)) for code in codes}
    store = extract_all(
        "builtin:tiny", ParallelCorpus("twice", "", twice), tmp_path / "store", dtype="fp32", device="cpu",
        settings=Settings(batch_tokens=100),
    )  # fmt: skip
    result = retrieve_all(store, backend="torch", device="cpu")
    assert all(np.nanmax(cells.mexa) == 0 for cells in result.layers.values())


def test_a_folder_takes_one_retrieval_at_a_time(store: ActivationStore, tmp_path: Path) -> None:
    """Two with other settings would take each other's finished layers for their own."""
    refused: list[str] = []

    def second(layer: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(StoreError, match="is being written by another process") as caught:
                retrieve_all(store, k=2, out=tmp_path / "result")
            refused.append(str(caught.value))

    retrieve_all(store, out=tmp_path / "result", advance=second)
    assert len(refused) == 1
    assert RetrievalResult.load(tmp_path / "result").settings["k"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result"], "the lock is gone"


def test_arrays_have_no_other_pooling(tmp_path: Path) -> None:
    np.save(tmp_path / "eng_Latn.npy", np.eye(8))
    with pytest.raises(RetrievalError, match="--pool weighted"):
        retrieve_all(tmp_path, pool="weighted")
