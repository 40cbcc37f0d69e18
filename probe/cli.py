"""The command line: one function a command, heavy imports inside the function, every fault one line."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer

from probe.errors import ProbeError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Where in a language model do languages meet? Extract hidden states, retrieve translations at every layer.",
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The corpora: list, fetch, verify.")
app.add_typer(data, name="data")

_WHOLE = 2**16
"""Columns of a page on which every table and sentence has room."""
_RESUMED = ("extract", "retrieve", "train", "demo", "reprobe", "reproduce")
"""Commands that go on where they stopped; the others begin anew."""

_DEMO_ALIGNED = "cy,sw"
"""The languages of the embedded corpus of which `builtin:lab` saw the fewest translations."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout, nothing else.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Langs = Annotated[
    str | None,
    typer.Option(
        help="Languages: codes (swh_Latn), ISO codes (sw) or sets (paper35, slots20, mt9, weakest5), comma-separated, or all. Not given: paper35 of flores200, slots20 of massive, else all."
    ),
]
Limit = Annotated[int | None, typer.Option(help="Take the first N sentences only.")]
Names = Annotated[
    str | None,
    typer.Option(
        help="What to call the inputs, comma-separated, one for each (of compare, the base first); not given: the names of their folders."
    ),
]
Documents = Annotated[
    str | None,
    typer.Option(
        help="What the bootstrap draws: sentences, or a file whose first column names each sentence's document. Not given: the corpus's own documents where its file is at hand (FLORES-200: metadata_dev.tsv)."
    ),
]
Draws = Annotated[int, typer.Option(min=100, help="Bootstrap draws.")]
Seed = Annotated[int, typer.Option(min=0, help="Of every random draw.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")]


_UsageError: Any = typer.BadParameter.__base__
"""What Typer raises of words that do not fit a command."""


def main() -> None:
    """Entry point of `probe` and `python -m probe`. Exit codes: 0 done, 1 a bug, 2 the user's input, 130 Ctrl-C."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    if not debug:
        _silence_libraries()
    try:
        code = app(standalone_mode=False)  # of a typer.Exit; 130 is what Typer makes of Ctrl-C, without a word
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if len(sys.argv) == 1 and isinstance(error, _UsageError):
            error.show()  # of `probe` alone, the help
            sys.exit(2)
        if debug:
            traceback.print_exc()
        _fail(*_told(error))
    if code == 130:
        _fail(_interrupted(), 130)
    sys.exit(code)


def _interrupted() -> str:
    """What Ctrl-C leaves; the command is the first argument that is no option, since no option before it takes a value."""
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if command in _RESUMED:
        return "interrupted; run the same command again (without --overwrite) to go on where it stopped"
    return "interrupted; nothing finished was lost; run the same command again"


def _told(error: Exception) -> tuple[str, int]:
    """The message and the exit code of a fault."""
    if isinstance(error, ProbeError):
        return str(error), 2
    if isinstance(error, _UsageError):
        command = error.ctx.command_path if error.ctx else "probe"
        return f"{error.format_message().rstrip('.')}; expected what {command} --help lists; correct the command", 2
    if isinstance(error, OSError) and error.strerror:  # the system's answer; libraries raise OSErrors without one
        where = error.filename or "a file"
        return f"{where}: {error.strerror}; expected to read or write it; check the path and its permissions", 2
    return (
        f"unexpected {type(error).__name__}: {error}; this is a bug: run again with --debug and report what it prints",
        1,
    )


def _fail(message: str, code: int) -> NoReturn:
    print(f"probe: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)


def _silence_libraries() -> None:
    """Third-party logging, warnings and bars; set in the environment before the libraries are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def _version(asked: bool) -> None:
    if asked:
        from probe.provenance import versions

        print(f"midprobe {versions().get('midprobe', 'not installed')} ({Path(__file__).parents[1]})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="The version and the folder it runs from."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the libraries' own messages; may stand anywhere.")
    ] = False,
) -> None: ...


@app.command()
def extract(
    model: Annotated[str, typer.Option(help="Hub id, local folder, builtin:lab or builtin:tiny.")],
    corpus: Annotated[
        str, typer.Option(help="flores200, massive, everyday, or a folder with one text file a language.")
    ],
    out: Annotated[Path, typer.Option(help="The store to write: a folder.")],
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter: folder or hub id.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of the corpus; dev for named corpora. In a folder only where a language has several files."
        ),
    ] = None,
    langs: Langs = None,
    layers: Annotated[str, typer.Option(help="all, even, 0,8,16 or start:stop:step with the stop included.")] = "all",
    pool: Annotated[
        str, typer.Option(help="mean, mean-nofirst, last, weighted; several comma-separated, in one pass.")
    ] = "mean",
    dtype: Annotated[
        str,
        typer.Option(help="Of the forward pass: auto (bf16 where the hardware is faster with it), bf16, fp16, fp32."),
    ] = "auto",
    store_dtype: Annotated[
        str, typer.Option(help="float32, or float16 (half the size; overflow is refused).")
    ] = "float32",
    batch_tokens: Annotated[
        str, typer.Option(help="Tokens a batch, padding included; auto halves it when memory runs out.")
    ] = "auto",
    device: Device = "auto",
    limit: Limit = None,
    final_norm: Annotated[
        str,
        typer.Option(help="model: the last layer is after the final norm, as in output_hidden_states; raw: before it."),
    ] = "model",
    shard: Annotated[
        str | None,
        typer.Option(help="This process's share of the languages: i/N with i from 0, or slurm for array tasks."),
    ] = None,
    text: Annotated[
        bool,
        typer.Option(
            "--text/--no-text", help="Keep the sentences in the store; without them a result has no controls."
        ),
    ] = True,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut sentences longer than the model's context instead of refusing them.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run a corpus through a model once and store the pooled hidden states of every layer."""
    from align.adapter import attach, find_adapter
    from probe.extract import Settings, extract_all
    from probe.progress import ExtractionProgress
    from probe.share import Share
    from probe.sources import load_corpus

    settings = Settings(
        layers, tuple(pool.split(",")), store_dtype, final_norm, _batch_tokens(batch_tokens), truncate, text
    )
    share = Share.parse(shard)
    texts = load_corpus(corpus, langs, split, limit)
    with ExtractionProgress() as progress:
        store = extract_all(
            model, texts, out, settings=settings, revision=revision, adapter=find_adapter(adapter) if adapter else None, attach=attach,
            dtype=dtype, device=device, trust_remote_code=trust_remote_code, share=share, overwrite=overwrite, observer=progress,
        )  # fmt: skip
    if as_json:
        _print_json({"store": str(out), **store.manifest, "missing": store.missing()})
    elif store.manifest["complete"]:
        size = sum(entry["bytes"] for entry in store.manifest["files"].values())
        print(
            f"{out} is complete: {len(store.languages)} languages x {store.manifest['rows']} sentences x {len(store.layers)} layers, {size / 1e6:,.1f} MB, {store.manifest['dtype']}"
        )
    else:
        print(
            f"{out}: this process's share is done; {len(store.missing())} of {len(store.languages)} languages are still to be written by others"
        )


def _batch_tokens(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ProbeError(
            f"--batch-tokens {text}", "auto or a positive number", "give for example --batch-tokens 2048"
        ) from None


@app.command()
def retrieve(
    source: Annotated[
        Path, typer.Argument(help="A store, or a folder of <lang>.npy arrays (sentences, dim).", metavar="STORE")
    ],
    out: Annotated[Path, typer.Option(help="The result to write: a folder.")],
    layers: Annotated[str, typer.Option(help="all, even, 0,8,16 or start:stop:step with the stop included.")] = "all",
    k: Annotated[int, typer.Option(help="Neighbours in the margin.")] = 4,
    margin: Annotated[str, typer.Option(help="ratio (xSIM), distance or absolute.")] = "ratio",
    backend: Annotated[str, typer.Option(help="auto (faiss where installed), faiss or torch.")] = "auto",
    device: Device = "auto",
    pool: Annotated[str, typer.Option(help="Which of the store's poolings.")] = "mean",
    langs: Langs = None,
    limit: Limit = None,
    centre: Annotated[
        bool,
        typer.Option(
            "--centre", help="Subtract each language's mean vector first, so that a language's offset does not count."
        ),
    ] = False,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="The model-free retrievals beside the layers.")
    ] = True,
    save_predictions: Annotated[
        bool, typer.Option("--save-predictions", help="Write every retrieved row to predictions.h5.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Retrieve every sentence's translation, in every direction at every layer (xSIM)."""
    from probe.progress import RetrievalProgress
    from probe.retrieve import retrieve_all

    finished = (out / "summary.json").exists() and not overwrite
    with RetrievalProgress() as advance:
        result = retrieve_all(
            source, layers=layers, k=k, margin=margin, backend=backend, device=device, pool=pool, langs=langs, limit=limit,
            centre=centre, controls=controls, save_predictions=save_predictions, out=out, overwrite=overwrite, advance=advance,
        )  # fmt: skip
    if finished:
        print(f"{out} was finished before with the same settings; nothing was computed", file=sys.stderr)
    _show_result(result.summary(), as_json)


def _show_result(summary: dict[str, Any], as_json: bool) -> None:
    from probe.tables import retrieval_table

    if as_json:
        _print_json(summary)
    else:
        _show(retrieval_table(summary), 100)


@app.command()
def correlate(
    result: Annotated[
        Path,
        typer.Argument(help="A retrieval result, or a CSV file with the columns of accuracy.csv.", metavar="RESULT"),
    ],
    scores: Annotated[
        str, typer.Option(help="A CSV file with the columns language,score, or paper:NAME, as paper:llama3-sft.")
    ],
    out: Annotated[Path, typer.Option(help="The report to write: a folder.")],
    layer: Annotated[str, typer.Option(help="middle, aggregate, all, or a layer's number.")] = "middle",
    relation: Annotated[
        str,
        typer.Option(
            help="Whose directions make a language's accuracy: all, to-english, from-english, to:a,b or from:a,b."
        ),
    ] = "all",
    langs: Annotated[
        str | None,
        typer.Option(
            help="Correlate over these languages as one group: codes, sets, supervised, transfer or all; not given: each group of the scores apart."
        ),
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="Leave these languages or this group out.")] = None,
    given: Annotated[
        str | None,
        typer.Option(
            help="Partial correlation given at most two of tokens, script, level, char; not given: each that is known, singly."
        ),
    ] = None,
    draws: Draws = 10_000,
    permutations: Annotated[int, typer.Option(min=100, help="Random permutations, above 8 languages.")] = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Does retrieval accuracy predict a downstream score?"""
    from analysis.accuracies import Accuracies
    from analysis.correlate import correlate as correlated
    from analysis.report import refuse_other_folder
    from analysis.scores import read_scores

    refuse_other_folder(out)
    report = correlated(
        Accuracies.read(result), read_scores(scores), layer=layer, relation=relation, langs=langs, exclude=exclude,
        given=_listed(given) or (), draws=draws, permutations=permutations, seed=seed,
    )  # fmt: skip
    _finish_report(report, out, as_json)


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="The retrieval result of the base model.", metavar="BASE")],
    others: Annotated[
        list[Path],
        typer.Argument(help="Results to compare with it: aligned, fine-tuned, other poolings.", metavar="OTHER"),
    ],
    out: Annotated[Path, typer.Option(help="The report to write: a folder.")],
    layer: Annotated[str, typer.Option(help="all, or a layer's number.")] = "all",
    aligned: Annotated[
        str | None, typer.Option(help="Languages that were aligned: their gains are given apart from the rest.")
    ] = None,
    names: Names = None,
    documents: Documents = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """What changed against a base, with paired intervals."""
    from analysis.compare import compare as compared
    from analysis.report import refuse_other_folder

    refuse_other_folder(out)
    report = compared(
        base, others, names=_listed(names), layer=layer, aligned=aligned, documents=documents, draws=draws, seed=seed
    )
    _finish_report(report, out, as_json)


@app.command()
def layers(
    result: Annotated[Path, typer.Argument(help="A retrieval result.", metavar="RESULT")],
    out: Annotated[Path, typer.Option(help="The report to write: a folder.")],
    by: Annotated[
        str,
        typer.Option(
            help="What the best layer is best in: mean, same_script, cross_script, to_english, from_english, high or low."
        ),
    ] = "mean",
    documents: Documents = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Which layer is best, and how sure that is."""
    from analysis.choice import choose_layer
    from analysis.report import refuse_other_folder

    refuse_other_folder(out)
    _finish_report(choose_layer(result, by=by, documents=documents, draws=draws, seed=seed), out, as_json)


@app.command()
def measure(
    store: Annotated[
        Path, typer.Argument(help="A store, or a folder of <lang>.npy arrays (sentences, dim).", metavar="STORE")
    ],
    out: Annotated[Path, typer.Option(help="The report to write: a folder.")],
    layers: Annotated[str, typer.Option(help="all, even, 0,8,16 or start:stop:step with the stop included.")] = "all",
    pool: Annotated[str, typer.Option(help="Which of the store's poolings.")] = "mean",
    langs: Langs = None,
    limit: Limit = None,
    k: Annotated[int, typer.Option(help="Neighbours in hubness.")] = 4,
    as_json: Json = False,
) -> None:
    """Cosine of true pairs, isotropy, CKA and hubness, by layer."""
    from analysis.report import refuse_other_folder

    refuse_other_folder(out)
    from analysis.measures import measure as measured
    from probe.progress import RetrievalProgress

    with RetrievalProgress() as advance:
        report = measured(store, layers=layers, pool=pool, langs=langs, limit=limit, k=k, advance=advance)
    _finish_report(report, out, as_json)


@app.command()
def figures(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Results and reports (of correlate, compare, layers, measure).", metavar="INPUT"),
    ],
    out: Annotated[Path, typer.Option(help="The folder for PDF, PNG and CSV files.")],
    names: Names = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer of the heatmaps, scatters and gains: a number, middle or aggregate; not given: the best one, or the report's own."
        ),
    ] = None,
    order: Annotated[str, typer.Option(help="Languages in heatmaps by family or cluster.")] = "family",
    marks: Annotated[
        str | None,
        typer.Option(help="Blocks that training aligned, marked on a comparison's curves: middle=16,top=32."),
    ] = None,
    documents: Documents = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw every figure that the inputs allow (PDF, PNG, CSV)."""
    from figures.draw import draw

    files = draw(
        inputs, out, names=_listed(names), layer=layer, order=order, documents=documents, draws=draws, seed=seed,
        marks=_marks(marks),
    )  # fmt: skip
    if as_json:
        _print_json({"files": [str(path) for path in files]})
    else:
        print("\n".join(str(path) for path in files if path.suffix == ".pdf"))


def _marks(given: str | None) -> dict[str, tuple[int, ...]]:
    """Blocks by model; a model may be named several times."""
    marks: dict[str, tuple[int, ...]] = {}
    for part in _listed(given) or ():
        name, _, block = part.rpartition("=")
        if not name or not block.isdecimal():
            raise ProbeError(
                f"--marks {part}", "NAME=BLOCK, comma-separated", "give for example --marks middle=16,top=32"
            )
        marks[name] = (*marks.get(name, ()), int(block))
    return marks


@app.command()
def report(
    source: Annotated[
        str,
        typer.Argument(
            help="A result, a comparison, or a folder that holds such and other reports; or paper-audit.",
            metavar="RUN_DIR",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page to write; not given: report.html in RUN_DIR. Of paper-audit: the folder of its report."
        ),
    ] = None,
    documents: Documents = None,
    as_json: Json = False,
) -> None:
    """One offline HTML page of a run; or paper-audit, the paper's claims tested."""
    if source == "paper-audit":
        if documents is not None:
            raise ProbeError(
                f"--documents {documents} with paper-audit", "a result, a comparison or a run, whose sentences they group",
                "leave --documents out",
            )  # fmt: skip
        from analysis.audit import audit
        from analysis.report import refuse_other_folder

        if out is not None:
            refuse_other_folder(out)
        _finish_report(audit(), out, as_json)
        return
    from figures.page import build_page

    page = build_page(Path(source), out or Path(source) / "report.html", documents=documents)
    size = page.path.stat().st_size
    if as_json:
        shown = {"base": page.base, "others": list(page.others), "omitted": list(page.omitted)}
        _print_json({"page": str(page.path), "bytes": size, **shown})
        return
    print(f"{page.path}: {size / 1e6:.2f} MB; open it in any browser, no network is needed")
    left_out = f"; not shown: {', '.join(page.omitted)}" if page.omitted else ""
    print(f"Shown   {', '.join((page.base, *page.others))}{left_out}")


def _finish_report(report: Any, out: Path | None, as_json: bool) -> None:
    """Save a report and show it."""
    from probe.tables import report_tables

    if out is not None:
        if (out / "report.json").exists():
            print(f"{out} held a report, which is replaced", file=sys.stderr)
        report.save(out)
    if as_json:
        _print_json(report.as_json())
        return
    _show(report_tables(report, saved=out is not None), _WHOLE)
    if out is not None:
        print(f"Report  {out / 'report.md'} (tables beside it as CSV, Markdown and LaTeX)")


@app.command()
def train(
    recipe: Annotated[
        str, typer.Option(help="A recipe's name (paper-as-written, paper-as-run, align) or a YAML file.")
    ],
    out: Annotated[Path | None, typer.Option(help="The adapter to write: a folder.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key: align.temperature=0.5; may be given several times.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe with the source of every constant, and stop.")
    ] = False,
    allow_flores_training: Annotated[
        bool,
        typer.Option(
            "--allow-flores-training",
            help="Train on FLORES-200 too where the data hold it, as the paper's ALMA does: probing with it says nothing then.",
        ),
    ] = False,
    device: Device = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter: alignment, a task, or both in turns."""
    from align.recipe import load_recipe, shown

    changes = changes or []
    if allow_flores_training:
        changes += ["align.allow_flores=true"]
        if load_recipe(recipe, changes).task.name == "translation":
            changes += ["task.keep_overlap=true"]
    if show:
        print(shown(load_recipe(recipe, changes)), end="")
        return
    if out is None:
        raise ProbeError(
            "probe train without --out", "a folder for the adapter", "give --out, or --show to see the recipe"
        )
    from dataclasses import asdict

    from align.train import train as trained
    from probe.progress import TrainingProgress

    asked = load_recipe(recipe, changes)
    finished = (out / "training.json").exists() and not overwrite
    with TrainingProgress(asked.updates) as progress:
        result = trained(
            asked, out, device=device, overwrite=overwrite, trust_remote_code=trust_remote_code, observe=progress
        )
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process tells
        return
    if finished:
        print(f"{out} was finished before; nothing is trained", file=sys.stderr)
    if as_json:
        _print_json({**asdict(result), "adapter": str(result.adapter)})
    else:
        losses = ", ".join(f"{name} {value:.4f}" for name, value in (result.development or {}).items())
        blocks = f"aligned at block {', '.join(map(str, result.layers))}, " if result.layers else ""
        print(
            f"{out}: {blocks}best at update {result.best_update} of {result.updates}, development loss {losses} (nats)"
        )


@app.command()
def evaluate(
    task: Annotated[str, typer.Option(help="slots, translation or entities.")],
    data_: Annotated[
        Path, typer.Option("--data", help="The task's data: MASSIVE, ALMA or WMT files, UNER. A folder or file.")
    ],
    model: Annotated[str | None, typer.Option(help="Hub id, local folder, builtin:lab or builtin:tiny.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A LoRA adapter: folder or hub id.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    langs: Annotated[
        str | None,
        typer.Option(
            help="Languages or, of translation, directions (de-en), comma-separated, or sets; not given: the paper's."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Take the first N rows of each language only.")] = None,
    style: Annotated[
        str | None, typer.Option(help="Prompts of slots: fine-tuned (the paper's), as-run (its code's) or zero-shot.")
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(help="A prompt of entities, with <$1$> and <$2$> for the example, <$3$> for the sentence."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score these instead of a model's: a line a row, our jsonl, or a folder of one a language."),
    ] = None,
    comet_python: Annotated[
        Path | None, typer.Option(help="Of translation: a Python that has unbabel-comet, for COMET-22.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens after which an answer is cut.")] = 256,
    batch: Annotated[int | None, typer.Option(help="Rows at once; not given: as many as fit.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.")] = "auto",
    device: Device = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")
    ] = False,
    draws: Annotated[int, typer.Option(min=0, help="Bootstrap draws; 0: no intervals.")] = 1000,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder for answers and scores; may be left out with --predictions.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a task's rows with a model, or take answers that exist, and score them."""
    if (model is None) == (predictions is None):
        given = "neither --model nor --predictions" if model is None else "--model and --predictions"
        raise ProbeError(given, "one of the two", "give --model ID, or --predictions FILE")
    if model is not None and out is None:
        raise ProbeError("--model without --out", "a folder for the answers", "give --out SCORES")
    if predictions is not None and adapter is not None:
        raise ProbeError("--adapter with --predictions", "a model to attach it to", "leave --adapter out")
    from align.answers import read_predictions
    from align.evaluate import answer_rows, write_scores
    from align.evaluate import as_json as described
    from align.tasks import task_named

    asked = task_named(task, style, comet_python, template)
    rows = asked.rows(data_, split, langs, limit)
    made: dict[str, Any] = {"data": data_.resolve().name, "split": split, "limit": limit}
    if model is not None and out is not None:
        from align.adapter import find_adapter
        from probe.progress import GenerationProgress

        with GenerationProgress() as progress:
            answered = answer_rows(
                asked, rows, out / "answers", model=model, adapter=None if adapter is None else find_adapter(adapter),
                revision=revision, max_new_tokens=max_new_tokens, batch=batch, device=device, dtype=dtype,
                trust_remote_code=trust_remote_code, observe=progress, note=progress.note,
            )  # fmt: skip
        made |= {**answered.made, "answers": dict(answered.counts), "near_ties": list(answered.near_ties)}
        answers = answered.texts
    else:
        answers = read_predictions(cast(Path, predictions), rows)
        made["predictions"] = cast(Path, predictions).name
    scored = asked.score(rows, answers, draws, seed)
    files = [] if out is None else write_scores(out, asked, scored, made)
    summary = described(asked, scored, made)
    if as_json:
        _print_json(summary)
        return
    from probe.tables import score_table

    _show(score_table(summary), _WHOLE)
    if "answers" in made:
        cut = ", ".join(f"{name} {count}" for name, count in made["answers"].items() if count)
        print(f"Answers {cut or 'all ended by themselves'}")
    if out is not None:
        print(f"Scores  {', '.join(map(str, files))} (for probe correlate), {out / 'metrics.csv'}")


@app.command()
def merge(
    task: Annotated[str, typer.Argument(help="The adapter of the task: folder or hub id.", metavar="TASK_ADAPTER")],
    align: Annotated[str, typer.Argument(help="The adapter of the alignment.", metavar="ALIGN_ADAPTER")],
    out: Annotated[Path, typer.Option(help="The adapter to write: a folder.")],
    weight: Annotated[float, typer.Option(help="w in w TASK + (1 - w) ALIGN.")] = 0.9,
    method: Annotated[
        str, typer.Option(help="exact (ranks add), svd (its best lower rank) or linear (PEFT's factor average).")
    ] = "exact",
    rank: Annotated[int | None, typer.Option(help="Rank of svd; not given: the larger of the two.")] = None,
    search: Annotated[
        str | None,
        typer.Option(help="Weights to try, as 0.5,0.7,0.9; the one of the lowest loss on --task-data is taken."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base model, for --search.")] = None,
    task_data: Annotated[Path | None, typer.Option(help="jsonl of development examples, for --search.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Merge two LoRA adapters into one, without the base model."""
    from dataclasses import asdict

    from align.adapter import find_adapter
    from align.merge import Method, merge_adapters, write_merged_card

    if search is not None and (model is None or task_data is None):
        raise ProbeError("--search without --model or --task-data", "both", "give --model BASE --task-data dev.jsonl")
    weights = _weights(search) if search is not None else []
    if Path(task).resolve() == Path(align).resolve():
        raise ProbeError(f"{task} twice", "two adapters", "give the task's and the alignment's")
    folders = find_adapter(task), find_adapter(align)
    losses: dict[float, float] = {}
    if weights and model is not None and task_data is not None:
        from align.search import search_weight

        losses = search_weight(
            *folders, weights, model=model, task_data=task_data, method=cast(Method, method), rank=rank,
            device=device, observe=lambda tried, loss: print(f"weight {tried}: loss {loss:.4f}", file=sys.stderr),
        )  # fmt: skip
        weight = min(losses, key=lambda tried: losses[tried])
    merged = merge_adapters(*folders, out, weight, cast(Method, method), rank)
    write_merged_card(out, Path(task), Path(align), merged, losses)
    if as_json:
        searched = [{"weight": tried, "loss": loss} for tried, loss in losses.items()]
        _print_json(
            {"adapter": str(out), **asdict(merged), "relative_error": merged.relative_error, "search": searched}
        )
    else:
        print(
            f"{out}: {weight} x {task} + {1 - weight:.3g} x {align}, {method}, {len(merged.modules)} modules, relative error {merged.relative_error:.1e}"
        )


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ProbeError(f"--search {text}", "numbers in 0..1", "give for example --search 0.5,0.7,0.9") from None


@app.command()
def reprobe(
    base: Annotated[Path, typer.Option(help="The retrieval result of the base model.", metavar="RESULT")],
    adapter: Annotated[str, typer.Option(help="The adapter: folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Where store, result, comparison, figures and page go.")],
    model: Annotated[
        str | None, typer.Option(help="The base model; not given: the one that RESULT names (hub ids and builtin).")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="The corpus; not given: the named one that RESULT was made from.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The base model's store: RESULT is retrieved from it where it is not there yet.")
    ] = None,
    aligned: Annotated[str | None, typer.Option(help="Languages that were aligned, for their gains.")] = None,
    device: Device = "auto",
    backend: Annotated[str, typer.Option(help="auto (faiss where installed), faiss or torch.")] = "auto",
    documents: Documents = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Probe a model with an adapter as the base was probed, and compare."""
    from probe.share import refuse_several_processes

    refuse_several_processes("probe reprobe")
    from align.adapter import attach, find_adapter
    from align.run import aligned_blocks
    from analysis.compare import aligned_masks
    from probe.extract import Settings, extract_all
    from probe.progress import ExtractionProgress, RetrievalProgress
    from probe.results import RetrievalResult
    from probe.retrieve import retrieve_all

    with RetrievalProgress() as advance:
        if store is not None and not (base / "summary.json").exists():
            retrieve_all(store, backend=backend, device=device, out=base, advance=advance)
    result = RetrievalResult.load(base)
    made = result.settings
    if "model" not in made:
        raise ProbeError(
            f"{base}, made from arrays", "a result of a model's store", "probe extract and retrieve the base first"
        )
    folder = find_adapter(adapter)
    aligned_masks(aligned, result.languages)  # refused now, not after hours
    texts = _texts_of(result, corpus or made["corpus"]["name"])
    settings = Settings(
        ",".join(map(str, sorted(result.layers))), (made["pooling"],), made["store_dtype"], made["final_norm"],
        made["batch_tokens"], made["truncate"],
    )  # fmt: skip
    name = model or made["model"]["name"]
    with ExtractionProgress() as progress:
        extract_all(
            name, texts, out / "store", settings=settings, revision=made["model"]["revision"] if name == made["model"]["name"] else None,
            adapter=folder, attach=attach, dtype=made["dtype"], device=device, observer=progress,
        )  # fmt: skip
    with RetrievalProgress() as advance:
        retrieve_all(
            out / "store", k=made["k"], margin=made["margin"], backend=backend, device=device, pool=made["pooling"],
            centre=made.get("centre", False), limit=made.get("limit"), controls=bool(result.controls), out=out / "result", advance=advance,
        )  # fmt: skip
    report = _compare_and_draw(
        base, out / "result", out, folder.name, aligned, documents, draws, seed, aligned_blocks(folder)
    )
    if as_json:
        _print_json(report.as_json())
    else:
        from probe.tables import report_tables

        _show(report_tables(report), _WHOLE)
        print(f"Page    {out / 'report.html'}\nFigures {out / 'figures'}\nReport  {out / 'comparison' / 'report.md'}")


def _texts_of(result: Any, name: str) -> Any:
    """The sentences from which a result was made, all of the corpus or its first ones: compared now, not after hours."""
    from probe.sources import load_corpus

    made = result.settings["corpus"]
    whole = load_corpus(name, ",".join(result.languages), made["split"])
    for texts in (whole, whole.limited(result.rows)):
        if all(made["digests"].get(code) == digest for code, digest in texts.digests().items()):
            return texts
    raise ProbeError(
        f"{name}, which has another text than the result was made from", f"the text of {made['name']}", "give --corpus"
    )


def _compare_and_draw(
    base: Path,
    other: Path,
    out: Path,
    name: str,
    aligned: str | None,
    documents: str | None,
    draws: int,
    seed: int,
    blocks: tuple[int, ...],
    correlation: Path | None = None,
) -> Any:
    """The comparison of two results, its figures with the aligned blocks marked, and its page, below a folder.

    A correlation of the base, a report in the same folder, is drawn and shown with them.
    """
    from analysis.compare import compare as compared
    from figures.draw import draw
    from figures.page import build_page

    names = ["base", name if name != "base" else "aligned"]
    report = compared(base, [other], names=names, aligned=aligned, documents=documents, draws=draws, seed=seed)
    report.save(out / "comparison")
    more = [] if correlation is None else [correlation]
    draw(
        [base, other, out / "comparison", *more],
        out / "figures",
        names=[*names, "comparison", *(path.name for path in more)],
        documents=documents,
        draws=draws,
        seed=seed,
        marks={names[1]: blocks} if blocks else None,
    )
    build_page(out if more else out / "comparison", out / "report.html", documents=documents)
    return report


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    updates: Annotated[int, typer.Option(min=1, help="Updates of the alignment.")] = 150,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """The whole loop with an embedded model and corpus: probe, correlate, align, probe again, compare."""
    from align.adapter import attach
    from align.recipe import load_recipe
    from align.train import train as trained
    from analysis.accuracies import Accuracies
    from analysis.correlate import correlate as correlated
    from analysis.scores import read_scores
    from data_manifests import data_folder
    from probe.corpus import ParallelCorpus
    from probe.extract import extract_all
    from probe.progress import ExtractionProgress, RetrievalProgress, TrainingProgress
    from probe.retrieve import retrieve_all
    from probe.share import refuse_several_processes
    from probe.sources import load_corpus

    refuse_several_processes("probe demo")
    whole = load_corpus("everyday")
    unseen = ParallelCorpus(
        "everyday, every second sentence", "dev", {code: own[1::2] for code, own in whole.sentences.items()}
    )
    text = out / "train-text"
    text.mkdir(parents=True, exist_ok=True)
    for code, own in whole.sentences.items():
        (text / f"{code}.txt").write_text("".join(f"{line}\n" for line in own[::2]), encoding="utf-8")

    def probed(name: str, adapter: Path | None) -> dict[str, Any]:
        with ExtractionProgress() as progress:
            store = extract_all(
                "builtin:lab", unseen, out / f"{name}-store", adapter=adapter, attach=attach, dtype="fp32", device="cpu",
                overwrite=overwrite, observer=progress,
            )  # fmt: skip
        with RetrievalProgress() as advance:
            result = retrieve_all(
                store, backend="torch", device="cpu", out=out / name, overwrite=overwrite, advance=advance
            )
        return result.summary()

    base = probed("base", None)
    scores = read_scores(str(data_folder() / "models" / "lab" / "slots.csv"))
    correlation = correlated(Accuracies.read(out / "base"), scores, layer="all")
    correlation.save(out / "correlation")
    changes = [
        f"align.pairs=[{json.dumps(str(text))}]", f"align.langs={_DEMO_ALIGNED}", "model=builtin:lab", "dtype=fp32",
        f"updates={updates}", "batch=32", "micro_batch=32", "warmup=0.1", f"evaluate_every={max(1, updates // 3)}",
    ]  # fmt: skip
    recipe = load_recipe("align", changes)
    with TrainingProgress(updates) as progress:
        adapter = trained(recipe, out / "adapter", device="cpu", overwrite=overwrite, observe=progress)
    aligned = probed("aligned", adapter.adapter)
    report = _compare_and_draw(
        out / "base", out / "aligned", out, "aligned", _DEMO_ALIGNED, None, 10_000, 0, adapter.layers, out / "correlation"
    )  # fmt: skip
    gain = report.frame("layers").query("group == 'aligned' and layer == @adapter.layers[0]").iloc[0]
    if as_json:
        change = {name: float(gain[name]) for name in ("base", "other", "difference", "low", "high")}
        _print_json(
            {
                "base": base,
                "aligned": aligned,
                "layer": adapter.layers[0],
                "change": change,
                "correlation": correlation.as_json(),
                "page": str(out / "report.html"),
            }
        )
        return
    _show_result(base, as_json=False)
    rows = f"{len(unseen.languages)} languages, {unseen.rows} sentences"
    verdict = (
        "the interval leaves out 0" if gain["low"] > 0 or gain["high"] < 0 else "no change can be told from chance"
    )
    print(
        f"\nAligned at block {adapter.layers[0]}: {_DEMO_ALIGNED} with English, of which builtin:lab has seen little beside a translation, {adapter.updates} updates\n"
        f"on the other half of the sentences. On these {rows}, which it has not seen, directions of the aligned languages:\n"
        f"  block {adapter.layers[0]}: {gain['base']:.1%} -> {gain['other']:.1%}, difference {100 * gain['difference']:+.1f} points, 95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}: {verdict}.\n"
        "builtin:lab is a test animal of 2 M parameters whose alignment was induced: no evidence about natural pre-training.\n"
        f"Page     {out / 'report.html'}  (open it in any browser)\n"
        f"Figures  {out / 'figures'}\nReports  {out / 'comparison' / 'report.md'}, {out / 'correlation' / 'report.md'}\n"
        "Next     probe extract --model YOUR_MODEL --corpus flores200 --out store\n"
        "         probe retrieve store --out result"
    )


@app.command()
def reproduce(
    name: Annotated[
        str, typer.Argument(help="A table or figure of the paper: fig1a, table2-slots, ...; list prints all.")
    ],
    model: Annotated[str, typer.Option(help="Hub id, local folder, or an embedded model.")] = "builtin:lab",
    seeds: Annotated[int, typer.Option(help="Seeds 1 to N of what is trained.")] = 3,
    constants: Annotated[
        str,
        typer.Option(
            help="paper, paper-as-written (the alternation as the text has it) or small; auto: small below a billion weights."
        ),
    ] = "auto",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a constant of the recipe: test_rows=20; may be given several times."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with its GPU hours and disk, and compute nothing.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Where steps, tables and figures go; recipes share their steps there.")
    ] = Path("reproduction"),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """A table or figure of the paper: its steps, resumed after a kill, and ours beside the paper's."""
    from data_manifests.reproduction import reproduction, reproduction_names

    if name == "list":
        titles = {each: reproduction(each)["title"] for each in reproduction_names()}
        _print_json(titles) if as_json else print("\n".join(f"{each:20} {title}" for each, title in titles.items()))
        return
    from align.estimate import structure
    from probe.steps import Steps, make_plan, refuse_missing_data

    make_plan(name, model, seeds, "paper", changes or ())  # an unknown name is refused before a model is looked for
    size = structure(model)
    chosen = ("small" if size.weights < 1e9 else "paper") if constants == "auto" else constants
    plan = make_plan(name, model, seeds, chosen, changes or ())
    costs = _costs(plan, size)
    if dry_run:
        _show_plan(plan, costs, size, as_json)
        return
    from align.adapter import find_adapter
    from analysis.beside import beside
    from analysis.report import refuse_other_folder
    from figures.reproduced import draw_reproduced
    from probe.model import open_model

    refuse_other_folder(out / name)
    refuse_missing_data(plan)
    adapters = {each: str(open_model(model, adapter=find_adapter(each)).identity["adapter"]) for each in plan.adapters}
    steps = Steps(plan, out, dict(open_model(model).identity), adapters)
    steps.run(lambda words: _execute(words, device), lambda line: print(line, file=sys.stderr))
    report = beside(steps)
    drawn = draw_reproduced(steps, out / name / "figures")
    _finish_report(report, out / name, as_json)
    if drawn and not as_json:
        print(f"Figures {out / name / 'figures'}")


@cache
def _root() -> Any:
    """The command line, to take and run the words of a step."""
    return typer.main.get_command(app)


def _parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """A command's name and its options as its function takes them, defaults included."""
    with _root().commands[words[0]].make_context(words[0], list(words[1:])) as context:
        return words[0], dict(context.params)


def _costs(plan: Any, size: Any) -> dict[str, Any]:
    """Step's id -> what it costs; a step whose words its command does not take is a fault of the recipe, found here."""
    from align.estimate import cost

    commands = {step.id: plan.command(step, lambda step_id: f"OUT/{step_id}") for step in plan.steps.values()}
    return {step: cost(*_parsed(words), size) for step, words in commands.items() if words[0] != "python"}


def _execute(words: list[str], device: str) -> None:
    """Run a step in this process; what it prints for people goes nowhere, since its files hold it."""
    import contextlib
    import gc
    import importlib
    import io

    if words[0] == "python":
        module, _, function = words[1].partition(":")
        getattr(importlib.import_module(module), function)(*words[2:])
        return
    if device != "auto" and words[0] in ("extract", "retrieve", "train", "evaluate"):
        words = [*words, "--device", device]
    with contextlib.redirect_stdout(io.StringIO()):
        _root().main(words, prog_name="probe", standalone_mode=False)
    gc.collect()  # a model's memory is free for the next step


def _show_plan(plan: Any, costs: dict[str, Any], size: Any, as_json: bool) -> None:
    """The steps of a plan with what each costs."""
    import shlex

    from align.estimate import ASSUMED

    none = {"flop": 0.0, "seconds": 0.0, "disk": 0.0}
    rows, digests = [], plan.digests(plan.model)
    first: dict[str, str] = {}  # of several steps alike
    for step in plan.steps.values():
        if first.setdefault(digests[step.id], step.id) == step.id:
            own = vars(costs[step.id]) if step.id in costs else none
            words = plan.command(step, lambda step_id: f"OUT/{first[digests[step_id]]}")
            rows.append({"step": step.id, "kept": step.keep, **own, "command": shlex.join(words)})
    kept = sum(row["disk"] for row in rows if row["kept"])
    passing = max((row["disk"] for row in rows if not row["kept"]), default=0.0)
    total = {"gpu_hours": sum(row["seconds"] for row in rows) / 3600, "disk": kept, "disk_most": kept + passing}
    data = {name: each.told for name, each in plan.data.items()}
    if as_json:
        told = {
            "recipe": plan.name,
            "model": plan.model,
            "constants": plan.chosen,
            "seeds": list(plan.seeds),
            "data": data,
            "unstated": plan.unstated,
        }
        _print_json({**told, "steps": rows, **total, "assumed": ASSUMED, "structure": vars(size)})
        return
    print(
        f"{plan.recipe['title']}\n{plan.model}: {size.depth} blocks, {size.weights / 1e9:.3g} billion weights; constants `{plan.chosen}`, {len(plan.seeds)} seeds"
    )
    print("\n".join(f"Data: {told}" for told in data.values()))
    print(f"\n{'step':32} {'PFLOP':>10} {'GPU h':>8} {'disk':>10}")
    for row in rows:
        dropped = "" if row["kept"] else " (removed when used)"
        print(
            f"{row['step']:32} {row['flop'] / 1e15:10.3g} {row['seconds'] / 3600:8.3f} {_bytes(row['disk']):>10}{dropped}\n    probe {row['command']}"
        )
    print(
        f"\nTogether {total['gpu_hours']:.2f} GPU hours, {_bytes(kept)} kept, at most {_bytes(total['disk_most'])} at a time"
    )
    print("\n".join(f"Assumed: {line}." for line in ASSUMED))
    for key, reason in plan.unstated.items():
        print(f"Our choice, since the paper does not tell it: {key} {plan.constants[key]} ({reason}).")


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@data.command("list")
def data_list(
    languages: Annotated[
        bool, typer.Option("--languages", help="The 204 languages and the named sets instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The named corpora with licence and sources, or the languages."""
    from dataclasses import asdict

    from rich.table import Table

    from data_manifests import corpus_manifest, corpus_names, language_sets
    from data_manifests import languages as known

    if as_json:
        corpora = {name: asdict(corpus_manifest(name)) for name in corpus_names()}
        _print_json(
            {"languages": [asdict(language) for language in known().values()], "sets": language_sets()}
            if languages
            else corpora
        )
        return
    table = Table()
    if languages:
        for heading in ("code", "name", "autonym", "family", "level", "ISO 639-1", "sets"):
            table.add_column(heading)
        for code, language in known().items():
            member = ", ".join(name for name, codes in language_sets().items() if code in codes)
            table.add_row(
                code, language.name, language.autonym, language.family, language.level, language.iso639_1, member
            )
    else:
        for heading in ("corpus", "languages", "rows", "licence", "sources"):
            table.add_column(heading, overflow="fold")
        for name in corpus_names():
            manifest = corpus_manifest(name)
            rows = ", ".join(f"{split} {count}" for split, count in manifest.rows.items())
            sources = ", ".join(
                f"{source.kind} {source.id or source.url or ''}{' (gated)' if source.gated else ''}".strip()
                for source in manifest.sources
            )
            table.add_row(name, str(len(manifest.languages)), rows, manifest.licence, sources)
    _show(table, 120)


@data.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A named corpus.")],
    langs: Langs = None,
    split: Annotated[
        str | None, typer.Option(help="One split, such as dev; all of them where it is not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep a local copy of a named corpus, from its first source that answers."""
    from probe.sources import fetch_corpus, local_data

    files = fetch_corpus(name, langs, (split,) if split else ())
    if as_json:
        _print_json({"files": [str(path) for path in files]})
    else:
        print(f"{len(files)} files below {local_data() / name}")


@data.command("verify")
def data_verify(
    corpus: Annotated[str, typer.Argument(help="A named corpus or a folder.")],
    langs: Langs = None,
    split: Annotated[str | None, typer.Option(help="Split of the corpus.")] = None,
    as_json: Json = False,
) -> None:
    """Counts, alignment, duplicates, digests, and the script of each file against its code."""
    from dataclasses import asdict

    from rich.table import Table

    from probe.sources import load_corpus
    from probe.verify import verify

    checks = verify(load_corpus(corpus, langs, split))
    faults = [f"{check.language}: {fault}" for check in checks for fault in check.faults]
    if as_json:
        _print_json({"languages": [asdict(check) for check in checks], "faults": faults})
    else:
        table = Table("language", "rows", "duplicates", "in its script", "numbers kept", "(row beside)", "sha256")
        for check in checks:
            numbers = [
                "-" if share is None else f"{share:.0%}" for share in (check.numbers_kept, check.numbers_shifted)
            ]
            table.add_row(
                check.language,
                str(check.rows),
                str(check.duplicates),
                f"{check.script_share:.0%}",
                *numbers,
                check.sha256[:12],
            )
        _show(table, 100)
        print(f"{len(checks)} languages, {len(faults)} faults")
    if faults:
        raise ProbeError(
            f"{len(faults)} faults, first {faults[0]}", "none", "mend the files, or leave these languages out"
        )


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, which devices and backends; what is wrong and how to mend it."""
    from probe.doctor import examine

    report = examine()
    if as_json:
        _print_json(report)
        return
    problems = report.pop("problems")
    for name, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif isinstance(value, list):
            value = "; ".join(map(str, value)) or "none"
        print(f"{name:14} {value}")
    print("\n".join(f"PROBLEM {problem}" for problem in problems) or "no problem found")


def _listed(given: str | None) -> tuple[str, ...] | None:
    """The parts of a comma-separated option; None where it is not given."""
    return None if given is None else tuple(part.strip() for part in given.split(","))


def _show(table: Any, width: int) -> None:
    """Print for people: as wide as the terminal, or a fixed number of columns where it goes elsewhere."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width).print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, default=str))
