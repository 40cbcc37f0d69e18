"""`probe extract` as users run it: killed, interrupted, resumed, shared over processes, watched."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import probe
from probe.errors import StoreError
from probe.store import ActivationStore

CODES = ("eng_Latn", "rus_Cyrl", "zho_Hans", "arb_Arab")
EXTRACT = (
    *("extract", "--model", "builtin:tiny", "--corpus", "everyday", "--langs", ",".join(CODES)),
    *("--dtype", "fp32", "--device", "cpu", "--out", "store"),
)
"""The store lies in the working directory, so that equal commands leave equal manifests."""
LARGEST_FIRST = ("rus_Cyrl", "arb_Arab", "eng_Latn", "zho_Hans")
"""The order of work: by the size of the text."""
FILES = {*(f"{code}.h5" for code in CODES), "index.h5", "manifest.json"}


def environment(**changes: str) -> dict[str, str]:
    """The surroundings of a user's shell, with threads that wait without spinning: tests share the machine."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD_SIZE"))}
    root = str(Path(probe.__file__).parents[1])
    return {
        **own,
        "PYTHONPATH": root,
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "OMP_WAIT_POLICY": "passive",
        **changes,
    }


def run(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """`python -m probe …` in the folder, to its end."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "probe", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**changes), capture_output=True, text=True, timeout=120, check=False
    )


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def appears(path: Path, process: subprocess.Popen) -> bool:
    """Wait until a file is there; False where the process ended before."""
    while not path.exists():
        if process.poll() is not None:
            return path.exists()
        time.sleep(0.001)
    return True


@dataclass(frozen=True)
class Run:
    """A finished command and the store it worked on."""

    store: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process from beginning to end, without a terminal."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run(folder, *EXTRACT)
    assert done.returncode == 0, done.stderr
    return Run(folder / "store", done)


# ---- what is shown -------------------------------------------------------------------------------------------


def test_without_a_terminal_every_language_is_a_line(uninterrupted: Run) -> None:
    pattern = r"(\w+) (\d)/4: 128 sentences, \d+ tokens, [\d,]+ tok/s, \d+ s left"
    lines = [re.fullmatch(pattern, line) for line in uninterrupted.done.stderr.splitlines()]
    assert [line and line.groups() for line in lines] == [(code, str(i)) for i, code in enumerate(LARGEST_FIRST, 1)]


def test_without_a_terminal_nothing_but_the_result_is_on_stdout(uninterrupted: Run) -> None:
    pattern = r"store is complete: 4 languages x 128 sentences x 5 layers, [\d.]+ MB, float32\n"
    assert re.fullmatch(pattern, uninterrupted.done.stdout)


def test_a_finished_command_run_again_says_so_and_changes_no_file(uninterrupted: Run) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in uninterrupted.store.iterdir()}

    before = state()
    again = run(uninterrupted.store.parent, *EXTRACT)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("store is complete: 4 languages")
    assert state() == before


# ---- killed --------------------------------------------------------------------------------------------------

ATTEMPTS = """
import json, os, signal, sys, time
from pathlib import Path
import align.adapter, probe.extract, probe.progress, probe.sources, transformers.models.llama.modeling_llama
from probe.cli import main

def attempt(folder, kill_at=('fsync', 0), kill_after=None):
    '''One run of the command in a process of its own; how it ended, and the files it left.'''
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        name, number = kill_at
        call, calls = getattr(os, name), []
        def call_and_die(*arguments):
            call(*arguments)
            calls.append(arguments)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, call_and_die)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main()
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    store = Path(folder, "store")
    return status, sorted(path.name for path in store.iterdir()) if store.exists() else []

attempts = json.loads(sys.argv[1])
sys.argv[1:] = sys.argv[2:]
print(json.dumps([attempt(**each) for each in attempts]))
"""
"""Libraries are imported once for many runs of the command; each run is a fork that SIGKILL ends."""

FLUSHES = 7
"""Files that a run flushes before it renames them: the manifest, four languages, the index, the manifest."""


def attempts(cwd: Path, plan: list[dict]) -> list[tuple[int, list[str]]]:
    command = [sys.executable, "-c", ATTEMPTS, json.dumps(plan), *EXTRACT]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [(status, left) for status, left in json.loads(done.stdout)]


@dataclass(frozen=True)
class Killed:
    """A run that was killed, and its store after the same command had been run again."""

    status: int
    left: list[str]
    resumed: int
    store: Path


@dataclass(frozen=True)
class Kills:
    at_flush: dict[int, Killed]
    """By the flush at which the run was killed, before the renaming."""
    at_rename: Killed
    """After the renaming of the second language, which is still locked."""
    at_random: Killed
    """Killed again and again; `left` and `status` are those of the first time."""


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    folders = {n: tmp_path_factory.mktemp(f"flush{n}") for n in range(1, FLUSHES + 1)}
    often = tmp_path_factory.mktemp("often")
    delays = random.Random(0).sample([0.03 * step for step in range(1, 21)], 6)
    plan = [{"folder": str(folder), "kill_at": ("fsync", n)} for n, folder in folders.items()]
    plan += [{"folder": str(folder)} for folder in folders.values()]
    renamed = tmp_path_factory.mktemp("renamed")
    plan += [{"folder": str(renamed), "kill_at": ("replace", 3)}, {"folder": str(renamed)}]
    plan += [{"folder": str(often), "kill_after": delay} for delay in delays] + [{"folder": str(often)}]
    ends = attempts(often, plan)
    killed, resumed, rest = ends[:FLUSHES], ends[FLUSHES : 2 * FLUSHES], ends[2 * FLUSHES :]
    return Kills(
        {n: Killed(*killed[n - 1], resumed[n - 1][0], folder / "store") for n, folder in folders.items()},
        Killed(*rest[0], rest[1][0], renamed / "store"),
        Killed(*rest[2], rest[-1][0], often / "store"),
    )


@pytest.mark.parametrize("flush", range(1, FLUSHES + 1))
def test_killed_before_a_file_is_renamed_and_resumed_is_uninterrupted(
    kills: Kills, uninterrupted: Run, flush: int
) -> None:
    killed = kills.at_flush[flush]
    assert killed.status == -signal.SIGKILL
    assert any(name.endswith(".partial") for name in killed.left)
    assert killed.resumed == 0
    assert contents(killed.store) == contents(uninterrupted.store)


def test_a_language_exists_whole_or_not_at_all(kills: Kills) -> None:
    """The third flush is that of the second language: the first is there, the second under its temporary name."""
    left = [name for name in kills.at_flush[3].left if ".h5" in name and not name.endswith(".lock")]
    assert left == ["arb_Arab.h5.partial", "rus_Cyrl.h5"]


def test_killed_before_a_language_is_unlocked_and_resumed_is_uninterrupted(kills: Kills, uninterrupted: Run) -> None:
    """Nobody will write that language again, so its lock file would stay for ever."""
    assert "arb_Arab.h5" in kills.at_rename.left
    assert "arb_Arab.h5.lock" in kills.at_rename.left
    assert kills.at_rename.resumed == 0
    assert contents(kills.at_rename.store) == contents(uninterrupted.store)


def test_killed_again_and_again_at_any_time_and_resumed_is_uninterrupted(kills: Kills, uninterrupted: Run) -> None:
    assert kills.at_random.status == -signal.SIGKILL
    assert kills.at_random.resumed == 0
    assert contents(kills.at_random.store) == contents(uninterrupted.store)


@dataclass(frozen=True)
class Resumed:
    kept: dict[str, int]
    """Language files that the killed run had finished -> time of their last change."""
    run: Run


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    """`python -m probe` killed from outside once a language is finished, then run again with --json."""
    folder = tmp_path_factory.mktemp("resumed")
    command, quiet = [sys.executable, "-m", "probe", *EXTRACT], subprocess.DEVNULL
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=quiet, stderr=quiet) as process:
        assert appears(folder / "store" / "rus_Cyrl.h5", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "store").glob("*.h5")}
    return Resumed(kept, Run(folder / "store", run(folder, *EXTRACT, "--json")))


def test_a_killed_command_run_again_leaves_the_bytes_of_an_uninterrupted_run(
    resumed: Resumed, uninterrupted: Run
) -> None:
    assert resumed.run.done.returncode == 0
    assert contents(resumed.run.store) == contents(uninterrupted.store)


def test_a_resumed_command_does_not_compute_finished_languages_again(resumed: Resumed) -> None:
    assert 1 <= len(resumed.kept) < len(CODES)
    assert {name: (resumed.run.store / name).stat().st_mtime_ns for name in resumed.kept} == resumed.kept
    told = [line.split()[0] for line in resumed.run.done.stderr.splitlines()]
    assert told == [code for code in LARGEST_FIRST if f"{code}.h5" not in resumed.kept]


def test_with_json_stdout_is_one_object(resumed: Resumed) -> None:
    told = json.loads(resumed.run.done.stdout)
    assert (told["store"], told["complete"], told["missing"]) == ("store", True, [])
    assert set(told["files"]) == set(CODES)


# ---- interrupted by hand -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtTerminal:
    """A run on a terminal that was ended by Ctrl-C."""

    exit_code: int
    shown: str
    """What stderr showed, control characters included."""
    stdout: str
    files: set[str]


def _take_terminal(terminal: int) -> None:
    """So that Ctrl-C reaches the process, also where the tests run in the background of a shell, which ignores it."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def at_terminal(tmp_path_factory: pytest.TempPathFactory) -> AtTerminal:
    """stderr on a pseudo-terminal; Ctrl-C is typed there once a language is finished. Batches of one, to be slow."""
    folder = tmp_path_factory.mktemp("terminal")
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "probe", *EXTRACT, "--batch-tokens", "1"],
        cwd=folder,
        env=environment(TERM="xterm"),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        start_new_session=True,
        preexec_fn=partial(_take_terminal, terminal),
    ) as process:
        os.close(terminal)
        shown, typed, end = b"", False, time.monotonic() + 120
        while time.monotonic() < end:
            if not typed and (folder / "store" / "rus_Cyrl.h5").exists():
                os.write(keyboard, b"\x03")
                typed = True
            if select.select([keyboard], [], [], 0.01)[0]:
                try:
                    shown += os.read(keyboard, 65536)
                except OSError:  # the other side has closed the terminal
                    break
        assert process.stdout is not None
        stdout = process.stdout.read()
    os.close(keyboard)
    assert typed
    return AtTerminal(process.returncode, shown.decode(), stdout, set(contents(folder / "store")))


def test_ctrl_c_exits_with_130_and_one_line_that_says_how_to_resume(at_terminal: AtTerminal) -> None:
    assert at_terminal.exit_code == 130
    told = [line for line in at_terminal.shown.splitlines() if "probe: " in line]
    assert len(told) == 1
    assert "interrupted; run the same command again (without --overwrite) to go on where it stopped" in told[0]
    assert "Traceback" not in at_terminal.shown


def test_ctrl_c_leaves_finished_languages_and_nothing_half_written(at_terminal: AtTerminal) -> None:
    """An empty lock file may stay: its lock ended with the process, and the next one takes it."""
    files = {name for name in at_terminal.files if not name.endswith(".lock")}
    assert {"manifest.json", "rus_Cyrl.h5"} <= files < FILES


def test_on_a_terminal_a_bar_shows_sentences_speed_and_time_left(at_terminal: AtTerminal) -> None:
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", at_terminal.shown)
    frames = re.findall(r"extract\s+━.*?\s(\d+)/512 sentences ([\d,]+) tok/s (\d:\d\d:\d\d)", shown)
    sentences = [int(frame[0]) for frame in frames]
    assert sentences == sorted(sentences)
    assert len(set(sentences)) > 1
    assert sentences[-1] >= 128


def test_on_a_terminal_there_is_no_line_a_language(at_terminal: AtTerminal) -> None:
    assert "rus_Cyrl 1/4" not in at_terminal.shown


def test_on_a_terminal_stdout_stays_empty_until_the_result(at_terminal: AtTerminal) -> None:
    assert at_terminal.stdout == ""


# ---- several processes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shards:
    first: subprocess.CompletedProcess[str]
    after_first: list[str]
    opened: str
    """What opening the store for reading said after the first share."""
    second: subprocess.CompletedProcess[str]
    store: Path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Share 0/2, then the second of two tasks (numbers 3 and 5) of a SLURM array."""
    folder = tmp_path_factory.mktemp("shards")
    first = run(folder, *EXTRACT, "--shard", "0/2")
    missing = ActivationStore.reopen(folder / "store").missing()
    with pytest.raises(StoreError) as caught:
        ActivationStore.open(folder / "store")
    array = {"ID": "5", "MIN": "3", "MAX": "5", "STEP": "2", "COUNT": "2"}
    variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    second = run(folder, *EXTRACT, "--shard", "slurm", **variables)
    return Shards(first, missing, str(caught.value), second, folder / "store")


def test_the_first_share_says_that_the_store_is_not_complete(shards: Shards) -> None:
    assert shards.first.returncode == 0, shards.first.stderr
    said = "store: this process's share is done; 2 of 4 languages are still to be written by others\n"
    assert shards.first.stdout == said


def test_a_share_is_half_of_the_languages_and_not_a_complete_store(shards: Shards) -> None:
    assert len(shards.after_first) == 2
    assert "holds 2 of 4 languages" in shards.opened


def test_the_last_share_completes_the_store(shards: Shards) -> None:
    assert shards.second.returncode == 0, shards.second.stderr
    assert shards.second.stdout.startswith("store is complete: 4 languages")


def test_shares_together_leave_the_bytes_of_one_process(shards: Shards, uninterrupted: Run) -> None:
    """All but the command line that the manifest keeps."""
    one, many = contents(uninterrupted.store), contents(shards.store)
    manifests = [{**json.loads(files.pop("manifest.json")), "command": ""} for files in (one, many)]
    assert many == one
    assert manifests[0] == manifests[1]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`torchrun --nproc-per-node 2 -m probe extract …`."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "probe")
    command = [sys.executable, "-m", *ranks, *EXTRACT]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    return Run(folder / "store", done)


def test_two_ranks_complete_one_store(two_ranks: Run) -> None:
    assert two_ranks.done.returncode == 0, two_ranks.done.stderr
    assert set(contents(two_ranks.store)) == FILES
    assert ActivationStore.open(two_ranks.store).languages == CODES


def test_two_ranks_share_the_languages(two_ranks: Run) -> None:
    """Each says a line for two of them."""
    assert len(re.findall(r"\w{3}_\w{4} [12]/2: 128 sentences", two_ranks.done.stderr)) == 4


def test_two_ranks_give_the_numbers_of_one_process(two_ranks: Run, uninterrupted: Run) -> None:
    one, two = ActivationStore.open(uninterrupted.store), ActivationStore.open(two_ranks.store)
    for code in CODES:
        assert one.text(code) == two.text(code)
        np.testing.assert_array_equal(one.tokens(code), two.tokens(code))
        for layer in one.layers:
            expected, found = one.layer(code, layer, "mean"), two.layer(code, layer, "mean")
            difference = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
            assert difference.max() <= 1e-5, (code, layer)
