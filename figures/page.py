"""The report page: one HTML file that holds its data, style and script, and opens offline from disk."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.dashboard import Run, dashboard, read_run
from analysis.report import Report
from probe.errors import AnalysisError
from probe.provenance import versions
from probe.results import RetrievalResult, writing

_PARTS = Path(__file__).with_name("page_template")


@dataclass(frozen=True)
class Page:
    """A page that was written, and what it shows."""

    path: Path
    """The HTML file."""
    base: str
    """The name of the result that the others are compared with, or the first where nothing was compared."""
    others: tuple[str, ...]
    """The names of the other results."""
    omitted: tuple[str, ...]
    """The results in the folder, or in its comparisons, that the page does not show: by name, or by path where a shown one has that
    name."""


def build_page(run_dir: str | Path, out: str | Path, *, documents: str | Path | None = None) -> Page:
    """Write the page of a result folder, a comparison, or a folder that holds results and reports.

    Args:
        run_dir: what to show.
        out: the HTML file; its folder is made where it is missing.
        documents: what the intervals regard as sampled: None for the corpus's documents, `sentences`, or a file that names them.

    Returns:
        The file, and what it shows of the folder.

    Raises:
        AnalysisError: a file that is not called *.html, nothing to show in the folder, or documents that do not fit.
        RetrievalError: a damaged result, or a file that cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise AnalysisError(f"--out {out}", "a file that ends in .html", "give for example --out report.html")
    run = read_run(run_dir)
    page = render_page(run, dashboard(run, documents))
    partial = out.with_name(f"{out.name}.partial")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(page, encoding="utf-8", newline="\n")
            partial.replace(out)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    base, *others = run.results
    return Page(out, base, tuple(others), run.omitted)


def render_page(run: Run, payload: Mapping[str, Any]) -> str:
    """The page's text. Only the style and the script of this file run in it: its policy names their digests."""
    environment = Environment(
        loader=FileSystemLoader(_PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    style, script = (
        (_PARTS / name).read_text(encoding="utf-8").replace("\r\n", "\n") for name in ("page.css", "page.js")
    )
    base = next(iter(run.results.values()))
    return environment.get_template("page.html.j2").render(
        payload=payload,
        style=Markup(style),  # noqa: S704 (our own files, in the package)
        script=Markup(script),  # noqa: S704
        style_digest=_digest(style),
        script_digest=_digest(script),
        heading=_heading(run),
        base=base,
        other=_other(run),
        corpus=_corpus(base),
        directions=len(base.languages) * (len(base.languages) - 1),
        groupings=list(dict.fromkeys(result["grouping"] for result in payload["results"])),
        results=[_provenance(name, result) for name, result in run.results.items()],
        reports=[_finding(folder, report) for folder, report in run.reports.items()],
        folder=run.folder.resolve().name,
        version=versions().get("midprobe", "(not installed)"),
    )


def _digest(text: str) -> str:
    """As a content security policy names an inline block."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _heading(run: Run) -> str:
    """The models, each once; adapters of one model are told apart by their results' names."""
    models = [str((result.settings.get("model") or {}).get("name") or name) for name, result in run.results.items()]
    return ", ".join(dict.fromkeys(models))


def _other(run: Run) -> str:
    """What stands beside the first result: aligned where a comparison holds an adapter."""
    adapted = any((result.settings.get("model") or {}).get("adapter") for result in list(run.results.values())[1:])
    return "Aligned" if run.compared and adapted else "Other"


def _corpus(result: RetrievalResult) -> str:
    corpus = result.settings.get("corpus") or {}
    named = " ".join(str(corpus[key]) for key in ("name", "split") if corpus.get(key))
    return named or "a corpus without a name"


def _provenance(name: str, result: RetrievalResult) -> dict[str, Any]:
    """The settings of a result as rows, the digests of its texts apart."""
    rows = dict(_flat(result.settings))
    digests = {key.rpartition(" ")[2]: value for key, value in rows.items() if key.startswith("corpus digests ")}
    settings = {key: value for key, value in rows.items() if not key.startswith("corpus digests ")}
    repeated = {code: count for code, count in result.duplicates.items() if count}
    if repeated:
        settings["repeated sentences"] = ", ".join(f"{code} {count}" for code, count in repeated.items())
    return {"name": name, "settings": settings, "digests": digests}


def _code(text: str) -> Markup:
    """What stands between backticks as code, all else as text."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 (escaped)


def _finding(folder: str, report: Report) -> dict[str, Any]:
    """What a report says of itself; the settings it repeats of a result are shown with that result."""
    facts = {key: value for key, value in report.facts.items() if key != "settings"}
    return {
        "folder": folder,
        "kind": report.kind,
        "title": report.title,
        "remarks": report.remarks,
        "facts": dict(_flat(facts)),
    }


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested settings as (words of the path, value) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        path = f"{above} {key}".strip()
        if isinstance(value, Mapping):
            rows += _flat(value, path)
        elif isinstance(value, (list, tuple)):
            rows += [(path, ", ".join(map(_text, value)))]
        else:
            rows += [(path, _text(value))]
    return rows


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {inner}" for key, inner in _flat(value))
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
