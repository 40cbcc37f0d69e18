"""The command line as a user meets it: help, exit codes, one line for each fault, and JSON for programs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from analysis.accuracies import language_means
from probe import cli
from probe.cli import app
from probe.results import RetrievalResult

ROOT = Path(__file__).resolve().parents[1]
RunProbe = Callable[..., "subprocess.CompletedProcess[str]"]


def told(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The message of a refusal: one line, no traceback."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("probe: ")] == lines[-1:], done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1].removeprefix("probe: ")


def python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own after `code`, which breaks something there."""
    program = f"import sys\nsys.argv = ['probe', *sys.argv[1:]]\n{code}\nfrom probe.cli import main\nmain()\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment, capture_output=True, text=True, timeout=300, check=False, **options,
    )  # fmt: skip


# Help


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """`data list` and the like -> the command."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_the_commands_of_this_version_are_there() -> None:
    assert dict(commands()).keys() >= {
        "extract",
        "retrieve",
        "demo",
        "doctor",
        "data list",
        "data fetch",
        "data verify",
    }


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_every_command_and_option_has_help(name: str, command: Any) -> None:
    assert command.help, name
    for parameter in command.params:
        assert getattr(parameter, "help", None), (name, parameter.name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "extract",
            "model adapter revision corpus split langs layers pool dtype store-dtype batch-tokens device limit overwrite "
            "final-norm shard trust-remote-code truncate out json no-text",
        ),
        ("retrieve", "layers k margin backend pool langs save-predictions out json"),
        ("demo", "out updates overwrite json"),
        ("data list", "languages json"),
        ("data verify", "langs split json"),
        ("doctor", "json"),
    ],
)
def test_a_command_has_its_options(name: str, options: str) -> None:
    command = dict(commands())[name]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert known >= {f"--{option}" for option in options.split()}


def modules_imported(*command: str) -> set[str]:
    """The top-level modules that a Python process imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", done.stderr, flags=re.MULTILINE)}


@pytest.mark.parametrize("arguments", [["--help"], ["extract", "--help"], ["--version"], ["data", "list", "--json"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    imported = modules_imported("-m", "probe", *arguments)
    assert {"probe", "typer"} <= imported
    assert not imported & {"torch", "transformers", "h5py", "faiss", "peft", "datasets", "numpy", "scipy", "sklearn"}


def test_the_import_check_can_fail() -> None:
    assert "numpy" in modules_imported("-c", "import numpy")


def test_python_minus_m_is_the_command(run_probe: RunProbe) -> None:
    command, module = python("", "--help"), run_probe("--help")
    assert command.returncode == module.returncode == 0
    assert command.stdout.replace("Usage: probe ", "") == module.stdout.replace("Usage: python -m probe ", "")


def test_the_command_alone_shows_its_help(run_probe: RunProbe) -> None:
    done = run_probe()
    assert done.returncode == 2
    assert "retrieve" in done.stdout + done.stderr


def test_the_version_names_the_folder_it_runs_from(run_probe: RunProbe) -> None:
    done = run_probe("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("midprobe ")
    assert f"({ROOT})" in done.stdout


# Exit codes and messages


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["data", "list", "--nothing"],
        ["extract"],
        ["retrieve", "store", "--out", "result", "--k", "four"],
        ["data", "verify"],
        ["layers", "result", "--out", "report", "--seed", "-1"],
    ],
)
def test_wrong_usage_is_told_in_one_line_and_exits_with_2(run_probe: RunProbe, arguments: list[str]) -> None:
    done = run_probe(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.match(
        r"probe: (Missing|No such|Invalid).*; expected what .*probe .*--help lists; correct the command", done.stderr
    )
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data verify nothing", "no corpus 'nothing'; expected everyday, flores200, massive or a folder"),
        ("data fetch nothing", "no corpus 'nothing'; expected everyday, flores200, massive"),
        ("data verify everyday --langs english", "unknown language 'english'"),
        ("extract --model builtin:tiny --corpus everyday --langs enx --out store", "did you mean eng_Latn?"),
        ("extract --model builtin:tiny --corpus everyday --batch-tokens many --out store", "--batch-tokens many"),
    ],
)
def test_wrong_input_gives_one_line_and_2(run_probe: RunProbe, arguments: str, message: str) -> None:
    done = run_probe(*arguments.split())
    assert message in told(done)
    assert done.stdout == ""


def test_an_output_that_cannot_be_written_gives_one_line_and_2(run_probe: RunProbe, tmp_path: Path) -> None:
    """A path below a regular file: permission bits would not stop root."""
    (tmp_path / "file").write_text("in the way")
    message = told(run_probe("extract", "--model", "builtin:tiny", "--corpus", "everyday", "--out", "file/store"))
    assert "file" in message
    assert "Not a directory" in message
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            "OSError(errno.ENOSPC, 'No space left on device', 'store/eng_Latn.h5')",
            2,
            "store/eng_Latn.h5: No space left",
        ),
        ("OSError(errno.ENOSPC, 'No space left on device')", 2, "No space left on device"),
        ("OSError('a library gave up')", 1, "unexpected OSError: a library gave up; this is a bug"),
        (
            "RuntimeError('first line\\nsecond line')",
            1,
            "unexpected RuntimeError: first line second line; this is a bug",
        ),
        ("ProbeError('first\\nline', 'b', 'c')", 2, "first line; expected b; c"),
        ("KeyboardInterrupt()", 130, "interrupted; nothing finished was lost; run the same command again"),
    ],
)
def test_every_fault_gives_one_line_and_its_code(error: str, code: int, message: str) -> None:
    broken = f"""
import errno, probe.sources
from probe.errors import ProbeError
def load_corpus(*_):
    raise {error}
probe.sources.load_corpus = load_corpus
"""
    assert message in told(python(broken, "data", "verify", "everyday"), code)


@pytest.mark.parametrize(("place", "arguments"), [("before", ["--debug", "data"]), ("after", ["data", "--debug"])])
def test_debug_adds_the_traceback_and_keeps_the_code(run_probe: RunProbe, place: str, arguments: list[str]) -> None:
    done = run_probe(*arguments, "verify", "nothing")
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("probe: no corpus 'nothing'")


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    """In the middle of an extraction; what was finished stays."""
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from probe.cli import main; main()"
    )
    arguments = ["extract", "--model", "builtin:tiny", "--corpus", "everyday", "--dtype", "fp32", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--out", "store"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, first + rest
    assert "1/13" in first
    assert "Traceback" not in rest
    assert (
        rest.splitlines()[-1]
        == "probe: interrupted; run the same command again (without --overwrite) to go on where it stopped"
    )
    assert list((tmp_path / "store").glob("*_*.h5"))


@pytest.mark.parametrize("command", ["compare", "layers", "figures", "measure", "correlate", "report", "merge"])
def test_ctrl_c_promises_to_go_on_only_where_a_command_does(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr("sys.argv", ["probe", "--debug", command, "train", "--out", "extract"])
    assert cli._interrupted() == "interrupted; nothing finished was lost; run the same command again"
    monkeypatch.setattr("sys.argv", ["probe", "train", command])
    assert cli._interrupted().endswith("(without --overwrite) to go on where it stopped")


# Data


def test_data_list_as_json_is_the_manifests(run_probe: RunProbe) -> None:
    corpora = json.loads(run_probe("data", "list", "--json").stdout)
    assert corpora.keys() == {"everyday", "flores200", "massive"}
    assert corpora["flores200"]["rows"] == {"dev": 997, "devtest": 1012}
    assert [source["kind"] for source in corpora["flores200"]["sources"]] == ["folder", "hub", "archive", "hub"]


def test_data_list_is_a_table_of_licence_and_sources(run_probe: RunProbe) -> None:
    table = run_probe("data", "list").stdout
    for text in ("CC BY-SA 4.0", "CC0 1.0", "mteb/FloresBitextMining", "(gated)", "dev 997"):
        assert text in table


def test_data_list_languages(run_probe: RunProbe) -> None:
    known = json.loads(run_probe("data", "list", "--languages", "--json").stdout)
    assert len(known["languages"]) == 204
    assert len(known["sets"]["paper35"]) == 35
    table = run_probe("data", "list", "--languages").stdout
    assert "swh_Latn" in table
    assert "Kiswahili" in table


def test_data_verify_of_sound_text_exits_with_0(run_probe: RunProbe) -> None:
    done = run_probe("data", "verify", "everyday", "--langs", "sw,en", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["faults"] == []
    assert [check["language"] for check in report["languages"]] == ["swh_Latn", "eng_Latn"]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_data_verify_with_faults_exits_with_2(run_probe: RunProbe, tmp_path: Path, options: list[str]) -> None:
    """The whole report still stands on stdout."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for code, text in (("eng_Latn", "A house."), ("rus_Cyrl", "A house.")):
        (folder / f"{code}.txt").write_text(f"{text}\n")
    done = run_probe("data", "verify", "mine", *options)
    assert "1 faults, first rus_Cyrl: only 0% of letters" in told(done)
    if options:
        assert json.loads(done.stdout)["faults"] == ["rus_Cyrl: only 0% of letters are in the script of rus_Cyrl"]
    else:
        assert "2 languages, 1 faults" in done.stdout


@pytest.mark.shared
def test_data_fetch_keeps_a_copy_that_verifies(run_probe: RunProbe, shared_data: Path, tmp_path: Path) -> None:
    """From a local copy of MASSIVE to text files, which are then the only source at hand."""
    data = tmp_path / "data"
    (data / "massive/1.1/data").mkdir(parents=True)
    for locale in ("en-US", "cy-GB"):
        name = f"{locale}.jsonl.gz"
        (data / "massive/1.1/data" / name).symlink_to(shared_data / "massive/1.1/data" / name)
    here = {"MIDPROBE_DATA": str(data)}
    done = run_probe("data", "fetch", "massive", "--langs", "en,cy", "--split", "dev", "--json", env=here)
    files = [data / "massive/dev" / f"{code}.dev" for code in ("eng_Latn", "cym_Latn")]
    assert json.loads(done.stdout) == {"files": [str(path) for path in files]}
    for path in (data / "massive/1.1/data").iterdir():
        path.unlink()
    done = run_probe("data", "verify", "massive", "--langs", "en,cy", env=here)
    assert done.returncode == 0, done.stderr
    assert "2 languages, 0 faults" in done.stdout


# Doctor and demo


def test_doctor_as_json_is_json_and_nothing_else(run_probe: RunProbe) -> None:
    done = run_probe("doctor", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert {"versions", "devices", "blas", "faiss", "free_disk_gb", "problems"} <= report.keys()


def test_doctor_for_people_ends_in_problems_or_none(run_probe: RunProbe) -> None:
    done = run_probe("doctor")
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    assert last == "no problem found" or last.startswith("PROBLEM ")
    assert "torch" in done.stdout


def test_demo_closes_the_loop_in_an_empty_folder_and_again(run_probe: RunProbe, tmp_path: Path) -> None:
    """The second run takes everything that is finished as it is, and gives the same numbers as JSON."""
    one_thread = {"OMP_NUM_THREADS": "1"}  # threads that wait for each other are slow where cores are shared
    first = run_probe("demo", "--updates", "6", env=one_thread)
    assert first.returncode == 0, first.stderr
    assert "builtin:lab is a test animal" in first.stdout
    assert "13 languages, 64 sentences, which it has not seen" in first.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"demo"}
    demo = tmp_path / "demo"
    kept = [*demo.glob("*-store/*_*.h5"), demo / "adapter" / "adapter_model.safetensors", demo / "base" / "hits.h5"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) == 28
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert "<canvas" in page
    assert len(list((demo / "figures").glob("comparison-difference-aligned-layer*.pdf"))) == 1

    second = run_probe("demo", "--updates", "6", "--json", env=one_thread)
    assert second.returncode == 0, second.stderr
    told = json.loads(second.stdout)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert told["base"] == json.loads((demo / "base" / "summary.json").read_text())
    assert told["aligned"] == json.loads((demo / "aligned" / "summary.json").read_text())
    change = told["change"]
    assert told["layer"] == 3
    results = [RetrievalResult.load(demo / name) for name in ("base", "aligned")]
    base, aligned = (language_means(each.accuracy(3), each.languages) for each in results)
    weak = [results[0].languages.index(code) for code in ("cym_Latn", "swh_Latn")]
    assert change["base"] == pytest.approx(base[weak].mean())
    assert change["difference"] == pytest.approx((aligned - base)[weak].mean())
    assert change["low"] <= change["difference"] <= change["high"]
