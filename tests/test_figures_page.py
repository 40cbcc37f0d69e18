"""The report page in a real browser, from disk: what it shows against the results it was built from."""

from __future__ import annotations

import csv
import dataclasses
import errno
import importlib.util
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.accuracies import language_means
from analysis.compare import digest_of
from analysis.dashboard import proportion_interval
from analysis.documents import Documents
from analysis.report import Report, Table
from data_manifests import language_sets, languages
from figures.page import build_page
from probe.errors import AnalysisError, RetrievalError
from probe.results import RetrievalResult

Simulate = Callable[..., RetrievalResult]
CODES = (
    "eng_Latn", "deu_Latn", "arb_Arab", "heb_Hebr", "zho_Hans", "jpn_Jpan", "hin_Deva", "swh_Latn", "jav_Latn", "khm_Khmr",
)  # fmt: skip
ROWS, DEPTH = 60, 4
MINUS = "\u2212"


# ---- the pages -----------------------------------------------------------------------------------------------


def correlation(result: RetrievalResult, codes: tuple[str, ...], near: int = 2) -> Report:
    """Scores of some languages: those of the first group follow the accuracy at a layer, the others are chance."""
    rng = np.random.default_rng(5)
    means = language_means(result.accuracy(near), result.languages)
    rows = []
    for at, code in enumerate(codes):
        accuracy = means[result.languages.index(code)]
        group = "supervised" if at < len(codes) // 2 else "transfer"
        score = 20 + 100 * accuracy + rng.normal(0, 0.2) if group == "supervised" else rng.uniform(20, 80)
        rows.append({"group": group, "layer": str(near), "language": code, "accuracy": accuracy, "score": score})
    points = Table(pd.DataFrame(rows), "Points.")
    scores = {"name": "own scores", "metric": "F1", "source": "a test"}
    facts = {"scores": scores, "relation": "all", "directions": "all", "result": "base"}
    return Report("correlation", "Accuracy & score", {"points": points}, ("No <b>bold</b> claim.",), facts)


def save_run(folder: Path, base: RetrievalResult, aligned: RetrievalResult, scored: tuple[str, ...]) -> Path:
    base.save(folder / "base")
    aligned.save(folder / "aligned")
    results = {"base": base, "aligned": aligned}
    sides = [
        {"name": name, "path": str(folder / name), "digest": digest_of(result)} for name, result in results.items()
    ]
    Report("comparison", "Compared", {}, (), {"base": sides[0], "others": sides[1:]}).save(folder / "comparison")
    correlation(base, scored).save(folder / "correlation")
    return folder


class Built(NamedTuple):
    folder: Path
    page: Path
    base: RetrievalResult
    aligned: RetrievalResult


@pytest.fixture(scope="module")
def built(simulate: Simulate, tmp_path_factory: pytest.TempPathFactory) -> Built:
    base = simulate(languages=CODES, depth=DEPTH, rows=ROWS)
    aligned = simulate(languages=CODES, depth=DEPTH, rows=ROWS, lift=0.2, seed=1, adapter="a")
    folder = save_run(tmp_path_factory.mktemp("page") / "run", base, aligned, CODES)
    return Built(folder, build_page(folder, folder.parent / "deep" / "report.html").path, base, aligned)


def test_the_same_run_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    assert build_page(built.folder, tmp_path / "again.html").path.read_bytes() == built.page.read_bytes()


def test_it_says_what_the_page_shows_and_what_it_leaves_out(built: Built, simulate: Simulate, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(built.folder, run)
    page = build_page(run, tmp_path / "page.html")
    assert (page.path, page.base, page.others, page.omitted) == (tmp_path / "page.html", "base", ("aligned",), ())
    sides = [{"name": name, "path": name, "digest": name} for name in ("far", "farther")]
    Report("comparison", "Elsewhere", {}, (), {"base": sides[0], "others": sides[1:]}).save(run / "a")
    assert build_page(run, tmp_path / "page.html").omitted == ("far", "farther")


def test_what_a_report_quotes_is_code_and_nothing_else_of_it_is_markup(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built.folder / "base", tmp_path / "run" / "base")
    remarks = ("Run `probe <i>x</i>`, then <b>look</b>; one ` stays.",)
    Report("layers", "Layers", {}, remarks, {"result": "base", "best": 2}).save(tmp_path / "run" / "of the base")
    text = build_page(tmp_path / "run", tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert "Run <code>probe &lt;i&gt;x&lt;/i&gt;</code>, then &lt;b&gt;look&lt;/b&gt;; one ` stays.</li>" in text
    assert '<h3 dir="auto">Layers <span class="count">of the base</span></h3>' in text


def test_the_page_asks_for_nothing_from_outside(built: Built) -> None:
    text = built.page.read_text(encoding="utf-8")
    references = re.findall(r"""(?:src|href|url\(|@import|action)\s*=?\s*["'(]?([^"')\s>]+)""", text)
    assert {reference for reference in references if re.match(r"(https?:)?//", reference)} == set()
    assert "default-src 'none'" in text


def test_a_page_that_cannot_be_written(built: Built, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match="cannot be written"):
        build_page(built.folder / "base", tmp_path / "file" / "report.html")


@pytest.mark.parametrize("name", ["summary.json", "hits.h5", "page", "report.html.gz"])
def test_a_page_replaces_nothing_but_a_page(built: Built, tmp_path: Path, name: str) -> None:
    shutil.copytree(built.folder / "base", tmp_path / "base")
    held = {path: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    with pytest.raises(AnalysisError, match=rf"--out .*{name}; expected a file that ends in \.html"):
        build_page(tmp_path / "base", tmp_path / "base" / name)
    assert {path: path.read_bytes() for path in (tmp_path / "base").iterdir()} == held


def test_a_page_that_fails_leaves_the_earlier_one(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "REPORT.HTM"
    out.write_text("earlier")

    def full(path: Path, text: str, **_: object) -> None:
        path.write_bytes(text[:10].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_text", full)
        with pytest.raises(RetrievalError, match="the disk is full"):
            build_page(built.folder / "base", out)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]
    build_page(built.folder / "base", out)
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.fixture(scope="module")
def large(simulate: Simulate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's size: 33 layers, 35 languages, two results."""
    folder = save_run(
        tmp_path_factory.mktemp("large") / "run", simulate(), simulate(lift=0.2, seed=1), language_sets()["slots20"]
    )
    return build_page(folder, folder.parent / "report.html").path


def test_the_papers_size_stays_below_a_megabyte_and_a_half(large: Path) -> None:
    assert large.stat().st_size < 1.5e6


def test_the_page_says_which_interval_is_which(built: Built) -> None:
    text = built.page.read_text(encoding="utf-8")
    assert (
        "Of a mean over directions or languages, and of its difference: percentiles of 10,000 bootstrap draws" in text
    )
    assert "Of a single direction, which may have no hit for a bootstrap to draw: Wilson" in text


# ---- the browser ---------------------------------------------------------------------------------------------


class Page:
    """A loaded page and the reader's hands."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def open(self, path: Path, width: int = 1300, height: int = 1000, scheme: str = "light") -> None:
        self.size(width, height, scheme)
        self.driver.get(path.as_uri())
        assert self.js("return document.readyState") == "complete"

    def size(self, width: int, height: int, scheme: str = "light") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def keys(self, selector: str, *pressed: str) -> None:
        self.find(selector).send_keys(*pressed)

    def view(self, name: str) -> None:
        self.js("document.querySelector(`input[name=view][value=${arguments[0]}]`).click()", name)

    def choose(self, selector: str, value: str) -> None:
        self.js(
            "const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
            selector,
            value,
        )

    def order(self) -> list[str]:
        return self.js("return document.getElementById('heat').dataset.order").split()

    def layer(self) -> int:
        return int(self.text("#layer-number"))

    def place(self, src: str, tgt: str) -> tuple[float, float]:
        """Where a cell's middle is in the window, scrolled into view."""
        return tuple(
            self.js(
                """const heat = document.getElementById("heat"), at = heat.dataset.order.split(" ");
                const middle = (code, start) => Number(start) + (at.indexOf(code) + 0.5) * Number(heat.dataset.cell);
                const [x, y] = [middle(arguments[1], heat.dataset.left), middle(arguments[0], heat.dataset.top)];
                scrollTo(0, heat.getBoundingClientRect().top + scrollY + y - innerHeight / 2);
                const box = heat.getBoundingClientRect();
                return [box.left + x, box.top + y];""",
                src,
                tgt,
            )
        )

    def hover(self, src: str, tgt: str) -> str:
        """What the tooltip reads with the pointer on a cell."""
        x, y = self.place(src, tgt)
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        assert self.find("#tip").is_displayed()
        return self.find("#tip").text

    def download(self, button: str) -> list[dict[str, str]]:
        shutil.rmtree(self.downloads, ignore_errors=True)
        self.downloads.mkdir()
        behaviour = {"behavior": "allow", "downloadPath": str(self.downloads)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
        self.js("document.querySelector(arguments[0]).click()", button)
        until = time.monotonic() + 10
        while not (found := list(self.downloads.glob("*.csv"))):
            assert time.monotonic() < until, "no download"
            time.sleep(0.02)
        with found[0].open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if importlib.util.find_spec("selenium") is None or not chromium or not chromedriver:
        pytest.skip("no browser (chromium, chromedriver and selenium are needed)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage",
        "disable-background-networking", "disable-component-update", "disable-sync", f"user-data-dir={folder / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield Page(driver, folder / "downloads")
    driver.quit()


@pytest.fixture
def page(browser: Page, built: Built) -> Iterator[Page]:
    browser.complaints()  # of the test before
    browser.open(built.page)
    yield browser
    assert browser.complaints() == []


def told(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    return f"{'+' if share > 0 else MINUS}{abs(100 * share):.1f} points"


def mean_of(result: RetrievalResult, layer: int, codes: list[str]) -> float:
    chosen = [result.languages.index(code) for code in codes]
    return float(np.nanmean(result.accuracy(layer)[np.ix_(chosen, chosen)]))


# ---- reading -------------------------------------------------------------------------------------------------


def test_it_opens_at_the_best_layer_and_says_what_it_shows(page: Page, built: Built) -> None:
    assert page.layer() == built.base.summary()["best_layer"]
    head = page.text(".masthead")
    assert "simulated" in head
    assert "60 sentences · 10 languages · 90 directions · 5 layers" in head
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    assert told(built.base.aggregate()) in page.text("#glance")


def test_the_slider_moves_everything_by_keyboard(page: Page, built: Built) -> None:
    from selenium.webdriver.common.keys import Keys

    for key, layer in ((Keys.HOME, 0), (Keys.ARROW_RIGHT, 1), (Keys.END, DEPTH), (Keys.ARROW_LEFT, DEPTH - 1)):
        page.keys("#layer", key)
        assert page.layer() == layer
        assert told(mean_of(built.base, layer, list(CODES))) in page.text("#heat-mean")
        assert page.text(".plot .now-name") == f"layer {layer}"
        assert {place.text for place in page.driver.find_elements("css selector", ".at-layer")} == {f"layer {layer}"}
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert f"layer {DEPTH - 1}, mean" in page.js("return document.activeElement.getAttribute('aria-valuetext')")


def test_hovering_reads_the_cell(page: Page, built: Built) -> None:
    for src, tgt in (("swh_Latn", "arb_Arab"), ("zho_Hans", "eng_Latn")):
        i, j = CODES.index(src), CODES.index(tgt)
        read = page.hover(src, tgt)
        hits = built.base.hits(page.layer())[i, j]
        sums = hits[None, None].astype(float)
        low, high = (end.item() for end in proportion_interval(sums, Documents(np.arange(ROWS), "").sizes))
        assert f"accuracy {told(hits.mean())} ({hits.sum()} of {ROWS})" in read
        assert f"95 % interval {100 * low:.1f}\u2013{100 * high:.1f} %, n = {ROWS}" in read
        assert f"char {told(built.base.accuracy('char')[i, j])}" in read
        for code in (src, tgt):
            assert all(name in read for name in (languages()[code].name, languages()[code].autonym, code))


def test_the_arrow_keys_read_cells_too(page: Page, built: Built) -> None:
    from selenium.webdriver.common.keys import Keys

    page.keys("#heat", Keys.HOME, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.END)
    order = page.order()
    src, tgt = order[3], order[-1]  # the first step down passed over the diagonal
    share = built.base.accuracy(page.layer())[CODES.index(src), CODES.index(tgt)]
    assert f"{languages()[src].name} to {languages()[tgt].name}: {told(share)}" in page.text("#heat-said")
    assert code_and_name(page.find("#tip").text, src, tgt)
    page.size(1300, 300)  # the focused cell stays in sight
    page.keys("#heat", Keys.ARROW_DOWN)
    read = "const b = document.getElementById('heat').getBoundingClientRect(); return b.top + arguments[0]"
    cell, top = (
        float(page.js("return document.getElementById('heat').dataset[arguments[0]]", key)) for key in ("cell", "top")
    )
    assert 0 < page.js(read, top + 4.5 * cell) < 300
    page.keys("#heat", Keys.ESCAPE)
    assert not page.find("#tip").is_displayed()


def code_and_name(read: str, *codes: str) -> bool:
    return all(code in read and languages()[code].name in read for code in codes)


def test_a_finger_reads_a_cell(page: Page, built: Built) -> None:
    x, y = page.place("deu_Latn", "hin_Deva")
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    share = built.base.accuracy(page.layer())[1, CODES.index("hin_Deva")]
    assert f"accuracy {told(share)}" in page.find("#tip").text


def test_colours_rise_with_accuracy(page: Page, built: Built) -> None:
    """In lightness too, so that the map reads in grey."""
    lightness = page.js(
        """const heat = document.getElementById("heat"), { left, top, cell } = heat.dataset;
        const n = heat.dataset.order.split(" ").length, at = (k, start) => 2 * (Number(start) + k * Number(cell)) + 7;
        const { data, width } = heat.getContext("2d").getImageData(0, 0, heat.width, heat.height);
        return Array.from({ length: n * n }, (_, k) => {
          const first = 4 * (at(Math.floor(k / n), top) * width + at(k % n, left));
          return 0.2126 * data[first] + 0.7152 * data[first + 1] + 0.0722 * data[first + 2];
        });"""
    )
    chosen = [CODES.index(code) for code in page.order()]
    share = built.base.accuracy(page.layer())[np.ix_(chosen, chosen)].ravel()
    off = np.isfinite(share)
    assert stats.spearmanr(share[off], np.array(lightness)[off]).statistic > 0.99


# ---- switching, sorting, choosing ----------------------------------------------------------------------------


def test_base_aligned_and_difference(page: Page, built: Built) -> None:
    src, tgt = "jav_Latn", "hin_Deva"
    layer = page.layer()
    i, j = CODES.index(src), CODES.index(tgt)
    first, second = (result.accuracy(layer)[i, j] for result in (built.base, built.aligned))
    page.view("other")
    assert f"accuracy {told(second)}" in page.hover(src, tgt)
    assert told(mean_of(built.aligned, layer, list(CODES))) in page.text("#heat-mean")
    page.view("difference")
    read = page.hover(src, tgt)
    assert points(second - first) in read
    assert f"({told(first)} → {told(second)})" in read
    gained = built.aligned.hits(layer)[i, j].astype(float) - built.base.hits(layer)[i, j]
    half = stats.t.ppf(0.975, ROWS - 1) * gained.std(ddof=1) / np.sqrt(ROWS)
    ends = [points(gained.mean() + side * half).removesuffix(" points") for side in (-1, 1)]
    assert f"95 % interval {ends[0]} to {ends[1]}, n = {ROWS}" in read
    assert page.text("#curve-title") == "Difference by layer"
    page.view("base")
    assert f"accuracy {told(first)}" in page.hover(src, tgt)


def test_sorting(page: Page, built: Built) -> None:
    known = languages()
    keys = {
        "name": lambda code: known[code].name,
        "family": lambda code: (known[code].family, known[code].name),
        "script": lambda code: (code[-4:].replace("Hans", "Hani"), known[code].name),
        "resource": lambda code: (known[code].level, known[code].name),
        "given": CODES.index,
    }
    for sort, key in keys.items():
        page.choose("#sort", sort)
        assert page.order() == sorted(CODES, key=key), sort
    page.choose("#sort", "accuracy")
    for layer in (page.layer(), 1):
        means = language_means(built.base.accuracy(layer), CODES)
        page.js(
            "const s = document.getElementById('layer'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
            layer,
        )
        assert page.order() == [CODES[at] for at in np.argsort(-means, kind="stable")]


def test_choosing_languages(page: Page, built: Built) -> None:
    low = {code for code in CODES if languages()[code].level == "low"}
    page.js("document.querySelector('[data-pick=low]').click()")
    assert set(page.order()) == low
    assert told(mean_of(built.base, page.layer(), sorted(low))) in page.text("#heat-mean")
    assert page.js("return document.querySelectorAll('#curve .g-shown').length") == 1
    page.js("document.querySelector('#languages input[value=eng_Latn]').click()")
    assert set(page.order()) == low | {"eng_Latn"}
    page.choose("#pick", "script:Latn")
    assert set(page.order()) == {code for code in CODES if code.endswith("Latn")}
    page.choose("#pick", "family:Austronesian")
    assert page.find("#heat-empty").is_displayed()  # Javanese alone
    page.js("document.querySelector('[data-pick=none]').click()")
    assert page.text("#shown-count") == "0 of 10 shown"
    assert page.text("#correlations tbody tr td:last-child") == "fewer than 3"
    page.js("document.querySelector('[data-pick=all]').click()")
    assert set(page.order()) == set(CODES)


def test_the_curve_shows_groups_and_controls(page: Page, built: Built) -> None:
    row = built.base.summary()["layers"][page.layer()]
    groups = ("mean", "low", "high", "same_script", "cross_script", "to_english", "from_english")
    shown = page.js(
        "return Object.fromEntries([...document.querySelectorAll('#groups tbody tr')].map("
        "tr => [tr.querySelector('input').value, Number(tr.querySelector('td').dataset.value)]))"
    )
    assert shown == pytest.approx({group: row[group] for group in groups}, abs=1e-12)
    drawn = "return [...document.querySelectorAll('#curve g')].map(g => [g.dataset.group, g.querySelectorAll('.char, .length').length])"
    assert page.js(drawn) == [["mean", 2], ["low", 2]]
    page.js("document.querySelector('#groups input[value=same_script]').click()")
    assert page.js(drawn) == [["mean", 2], ["low", 2], ["same_script", 2]]
    # A click on the plot goes to that layer.
    page.js("document.querySelectorAll('#curve .pick')[3].dispatchEvent(new MouseEvent('click'))")
    assert page.layer() == 3


# ---- correlation ---------------------------------------------------------------------------------------------


def shown_correlations(page: Page) -> list[tuple[float, float]]:
    return [
        tuple(pair)
        for pair in page.js(
            "return [...document.querySelectorAll('#correlations tbody tr')].map("
            "tr => [...tr.querySelectorAll('td[data-value]')].map(td => Number(td.dataset.value)))"
        )
    ]


def expected_correlations(result: RetrievalResult, report: Report, layer: int) -> list[tuple[float, float]]:
    means = language_means(result.accuracy(layer), result.languages)
    return [
        tuple(stats.pearsonr([means[result.languages.index(code)] for code in rows["language"]], rows["score"]))
        for _, rows in report.frame("points").groupby("group")
    ]


def test_r_and_p_are_scipys_at_every_layer(page: Page, built: Built) -> None:
    from selenium.webdriver.common.keys import Keys

    report = correlation(built.base, CODES)
    page.keys("#layer", Keys.HOME)
    for view, result in (("base", built.base), ("other", built.aligned)):
        page.view(view)
        for layer in range(DEPTH + 1):
            page.js(
                "const s = document.getElementById('layer'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
                layer,
            )
            shown, expected = shown_correlations(page), expected_correlations(result, report, layer)
            assert np.array(shown) == pytest.approx(np.array(expected), abs=1e-9, rel=1e-6)
    assert page.text("#correlations tbody th") == "supervised"


def test_the_papers_size_in_the_browser(browser: Page, large: Path, simulate: Simulate) -> None:
    browser.complaints()
    browser.open(large)
    assert browser.layer() == 16
    base = simulate()
    report = correlation(base, language_sets()["slots20"])
    shown, expected = shown_correlations(browser), expected_correlations(base, report, 16)
    assert np.array(shown) == pytest.approx(np.array(expected), abs=1e-9, rel=1e-6)
    assert min(p for _, p in expected) < 1e-3
    started = browser.js("return performance.now()")
    browser.js(
        "const s = document.getElementById('layer');"
        "for (let k = 0; k < 33; k++) { s.value = k; s.dispatchEvent(new Event('input')); }"
    )
    assert (browser.js("return performance.now()") - started) / 33 < 250  # ms a layer; some 20 on a quiet machine
    assert browser.complaints() == []


def test_the_scatter_follows_the_correlated_directions(browser: Page, built: Built, tmp_path: Path) -> None:
    """And says so of a result that lacks one of their languages."""
    report = correlation(built.base, CODES)
    facts = {**report.facts, "relation": "to:supervised", "directions": "to:eng_Latn,zho_Hans"}
    built.base.save(tmp_path / "run" / "a")
    keep = [code for code in CODES if code != "zho_Hans"]
    chosen = np.ix_(*2 * [[CODES.index(code) for code in keep]])
    layers = {at: type(each)(each.hits[chosen], each.mexa[chosen]) for at, each in built.base.layers.items()}
    dataclasses.replace(built.base, languages=tuple(keep), layers=layers, controls={}).save(tmp_path / "run" / "b")
    dataclasses.replace(report, facts=facts).save(tmp_path / "run" / "correlation")
    browser.complaints()
    browser.open(build_page(tmp_path / "run", tmp_path / "page.html").path)
    means = language_means(built.base.accuracy(browser.layer()), CODES, "to:eng_Latn,zho_Hans")
    for (r, p), (_, rows) in zip(shown_correlations(browser), report.frame("points").groupby("group"), strict=True):
        x = [means[CODES.index(code)] for code in rows["language"]]
        assert (r, p) == pytest.approx(tuple(stats.pearsonr(x, rows["score"])), abs=1e-9)
    assert "directions to English, Chinese" in browser.text("#scatter-caption")
    browser.view("other")
    assert browser.text("#scatter") == "b lacks a language of the directions that were correlated."
    assert browser.complaints() == []


def test_without_scores_there_is_no_scatter(browser: Page, built: Built, tmp_path: Path) -> None:
    browser.complaints()
    browser.open(build_page(built.folder / "base", tmp_path / "one.html").path)
    assert browser.js("return document.querySelectorAll('#scatter, #scatter-panel, #correlations').length") == 0
    assert not browser.find("#views").is_displayed()
    assert f"accuracy {told(built.base.accuracy(2)[0, 1])}" in browser.hover("eng_Latn", "deu_Latn")
    assert browser.complaints() == []


# ---- downloads -----------------------------------------------------------------------------------------------


def test_downloads_hold_the_shown_numbers(page: Page, built: Built) -> None:
    page.js("document.querySelector('[data-pick=low]').click()")
    rows = page.download("#csv-heat")
    shown = page.order()
    assert [(row["src"], row["tgt"]) for row in rows] == [(a, b) for a in shown for b in shown if a != b]
    share = built.base.accuracy(page.layer())
    for row in rows:
        cell = share[CODES.index(row["src"]), CODES.index(row["tgt"])]
        assert float(row["accuracy"]) == pytest.approx(cell, abs=1e-15)
        assert int(row["correct"]) / int(row["n"]) == pytest.approx(cell, abs=1e-15)
        assert float(row["low"]) <= cell <= float(row["high"])
    page.view("difference")
    rows = page.download("#csv-heat")
    other = built.aligned.accuracy(page.layer())
    for row in rows:
        at = CODES.index(row["src"]), CODES.index(row["tgt"])
        assert (float(row["base"]), float(row["other"])) == pytest.approx((share[at], other[at]), abs=1e-15)
        assert float(row["difference"]) == pytest.approx(other[at] - share[at], abs=1e-12)
    page.view("base")
    curve = pd.DataFrame(page.download("#csv-curve"))
    mean = curve[curve["group"] == "mean"].set_index("layer")["accuracy"].astype(float)
    assert mean.tolist() == pytest.approx(list(built.base.curve().values()), abs=1e-12)
    assert set(curve["group"]) == {"mean", "low", "shown"}
    points_shown = pd.DataFrame(page.download("#csv-scatter"))
    assert set(points_shown["language"]) == set(shown)
    rows = page.download("#csv-langs")
    means = dict(zip(CODES, language_means(share, CODES), strict=True))
    assert {row["language"]: float(row["accuracy"]) for row in rows} == pytest.approx(
        {code: means[code] for code in shown}
    )
    assert {row["autonym"] for row in rows} == {languages()[code].autonym for code in shown}


# ---- looks ---------------------------------------------------------------------------------------------------


def test_a_narrow_window_scrolls_no_page(page: Page) -> None:
    for width in (400, 320):
        page.size(width, 800)
        for view in ("base", "difference"):
            page.view(view)
            assert page.js("return document.documentElement.scrollWidth") <= width
        assert page.hover("eng_Latn", "deu_Latn")
        assert page.js(
            "const b = document.getElementById('tip').getBoundingClientRect(); return b.left >= 0 && b.right <= innerWidth"
        )


LIGHTNESS = (
    "return getComputedStyle(document.documentElement).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"
)


def test_light_and_dark(page: Page, built: Built) -> None:
    assert min(page.js(LIGHTNESS)) > 200
    page.open(built.page, scheme="dark")
    assert max(page.js(LIGHTNESS)) < 60
    page.js("document.getElementById('theme').click()")
    assert min(page.js(LIGHTNESS)) > 200
    page.js("document.getElementById('theme').click()")
    assert max(page.js(LIGHTNESS)) < 60


def test_names_keep_their_direction_and_language(page: Page) -> None:
    shown = {
        lang: (name, direction)
        for lang, name, direction in page.js(
            "return [...document.querySelectorAll('#languages .autonym')].map("
            "s => [s.lang, s.textContent, getComputedStyle(s).direction])"
        )
    }
    assert shown["ar-Arab"] == (languages()["arb_Arab"].autonym, "rtl")
    assert shown["he-Hebr"][1] == "rtl"
    assert shown["zh-Hans"] == (languages()["zho_Hans"].autonym, "ltr")


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    nameless = page.js(
        """return [...document.querySelectorAll("button, select, input, canvas, svg")].filter((each) =>
        !each.closest("[hidden]") && !each.ariaLabel && !each.textContent.trim() && !(each.labels && each.labels.length))
        .map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    assert page.js("return document.querySelectorAll('table th:not([scope])').length") == 0


def test_provenance_and_reports(page: Page) -> None:
    text = page.text("#provenance")
    for word in ("margin", "ratio", "corpus name", "simulated", "SHA-256"):
        assert word in text
    assert not page.js("return document.getElementById('provenance').open")
    assert "No <b>bold</b> claim." in page.js("return document.body.textContent")


def test_what_a_run_names_cannot_run(browser: Page, built: Built, tmp_path: Path) -> None:
    """Names are text, wherever they come from."""
    name = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    settings = {**built.base.settings, "model": {"name": name}, "command": "<b>x</b>"}
    codes = ("eng_Latn", "<i>own</i>", "deu_Latn")
    strange = dataclasses.replace(built.base, settings=settings, languages=codes, tokens={}, duplicates={}, layers={
        layer: dataclasses.replace(cells, hits=cells.hits[:3, :3], mexa=cells.mexa[:3, :3]) for layer, cells in built.base.layers.items()
    }, controls={})  # fmt: skip
    strange.save(tmp_path / "strange")
    browser.complaints()
    browser.open(build_page(tmp_path / "strange", tmp_path / "page.html").path)
    assert browser.driver.title.startswith("Retrieval by layer: </script>")
    assert browser.text("h1") == name
    assert "<i>own</i>" in browser.hover("<i>own</i>", "eng_Latn")
    assert "controls" in browser.text(".prose")
    assert browser.complaints() == []


def test_results_that_cannot_be_compared(browser: Page, built: Built, simulate: Simulate, tmp_path: Path) -> None:
    """They can be switched between, with their own layers and languages, and the page says why there is no difference."""
    built.base.save(tmp_path / "run" / "a")
    simulate(languages=("eng_Latn", "fra_Latn", "rus_Cyrl"), depth=2, rows=40).save(tmp_path / "run" / "b")
    built.aligned.save(tmp_path / "run" / "c")
    browser.complaints()
    browser.open(build_page(tmp_path / "run", tmp_path / "page.html").path)
    assert browser.text("#refused") == (
        "No difference: a and b have other languages: arb_Arab, deu_Latn, fra_Latn, heb_Hebr, hin_Deva … (arb_Arab only in a)."
    )
    assert browser.js("return document.querySelector('input[value=difference]').disabled")
    browser.view("other")
    assert set(browser.order()) == {"eng_Latn", "fra_Latn", "rus_Cyrl"}
    assert browser.layer() == 2
    offered = "return [...document.querySelectorAll('#pick option')].map((each) => each.value)"
    assert {"script:Latn", "script:Cyrl"} <= {*browser.js(offered)}
    assert "script:Arab" not in browser.js(offered)
    glance = browser.js(
        "return [...document.querySelectorAll('#glance tr')].map((r) => [...r.children].slice(0, 4).map((c) => c.textContent))"
    )
    assert glance[0] == ["All directions", "Sentences", "Languages", "Chance"]
    assert glance[2] == ["b", "40", "3", "2.5 %"]
    browser.choose("#other", "2")
    assert not browser.js("return document.querySelector('input[value=difference]').disabled")
    assert "script:Arab" in browser.js(offered)
    assert "script:Cyrl" not in browser.js(offered)
    browser.view("difference")
    assert points(built.aligned.accuracy(2)[0, 1] - built.base.accuracy(2)[0, 1]) in browser.hover(
        "eng_Latn", "deu_Latn"
    )
    assert browser.complaints() == []
