"""COMET in another environment: the protocol, and everything that can be wrong at the other end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from align.tasks.comet import Comet, Triple
from align.tasks.task import TaskRow
from align.tasks.translation import Segment, Translation
from probe.errors import AlignError

StandIn = Callable[..., Path]

TRIPLES = [
    Triple("Hund", "dog", "dog"),
    Triple("Katze", " \n", "cat"),
    Triple("Äpfel\u2028und", "a “pear”", "apples and"),
    Triple("Maus", "a long mouse", "mouse"),
]
HELLO = 'say({"comet": "2.2.7", "torch": "2.4.0"})'
LOOP = """
for line in sys.stdin:
    request = json.loads(line)
    log.write(line)
    log.flush()
    scores = [1 / (1 + abs(len(each["mt"]) - len(each["ref"]))) for each in request["triples"]]
    say({"scores": scores, "system": sum(scores) / len(scores), "revision": None})
"""


def expected(triple: Triple) -> float:
    """The stand-in's score."""
    return 1 / (1 + abs(len(triple.mt) - len(triple.ref))) if triple.mt.strip() else 0.0


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """An executable that speaks the protocol in place of a Python with COMET, or fails to."""

    def make(body: str = HELLO + LOOP) -> Path:
        path = tmp_path / "python"
        path.write_text(
            f"#!{sys.executable}\nimport json, os, sys, time\n"
            f"log = open({str(tmp_path / 'asked.jsonl')!r}, 'a')\nlog.write('started\\n')\nlog.flush()\n"
            f"def say(fields):\n    print(json.dumps(fields), flush=True)\n{body}\n",
            encoding="utf-8",
        )
        path.chmod(0o755)
        return path

    return make


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked.jsonl").read_text(encoding="utf-8").splitlines()


def refused(python: Path, message: str, triples: list[Triple] = TRIPLES) -> str:
    with pytest.raises(AlignError, match=message) as caught:
        Comet(python).judge([triples])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_scores_in_order_from_one_process(stand_in: StandIn, tmp_path: Path) -> None:
    many = [Triple("x" * 50, "y" * (number % 7 + 1), "zzz") for number in range(3000)]
    first, second, third = Comet(stand_in(), batch_size=4).judge([TRIPLES, [Triple("a", "", "b")], many])
    assert first.scores == tuple(map(expected, TRIPLES))
    assert second.scores == (0.0,)
    assert third.scores == tuple(map(expected, many))
    assert first.signature == "model:Unbabel/wmt22-comet-da|comet:2.2.7|torch:2.4.0"
    started, *requests = asked(tmp_path)
    assert started == "started"
    shown = [json.loads(line) for line in requests]
    assert len(shown) == 2, "a set without any translation is not asked about"
    assert shown[0]["triples"] == [TRIPLES[row]._asdict() for row in (0, 2, 3)]
    assert (shown[0]["model"], shown[0]["batch_size"]) == ("Unbabel/wmt22-comet-da", 4)


def test_comet_beside_bleu(stand_in: StandIn) -> None:
    rows = [
        TaskRow(f"{name}:{number}", name, (), triple.ref, Segment(triple.src, triple.ref, "made", False))
        for name in ("deu_Latn-eng_Latn", "eng_Latn-deu_Latn")
        for number, triple in enumerate(TRIPLES)
    ]
    answers = [triple.mt for triple in TRIPLES] * 2
    scored = Translation(comet=Comet(stand_in())).score(rows, answers, draws=200)
    values = {(each.language, each.metric): each for each in scored.scores}
    found = values["deu_Latn-eng_Latn", "comet"]
    assert found.value == pytest.approx(100 * sum(map(expected, TRIPLES)) / len(TRIPLES))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert values["(mean)", "comet"].value == pytest.approx(found.value)
    assert [each.metric for each in scored.scores[:3]] == ["bleu", "chrf", "comet"]
    assert scored.details["signatures"]["eng_Latn-deu_Latn"]["comet"].startswith("model:Unbabel/wmt22-comet-da|")
    without = Translation().score(rows, answers, draws=200)
    assert [each for each in scored.scores if each.metric != "comet"] == list(without.scores)


def test_comet_sees_one_line(stand_in: StandIn, tmp_path: Path) -> None:
    rows = [TaskRow("a:1", "deu_Latn-eng_Latn", (), "b\nc", Segment("a\nb", "b\nc", "made", False))]
    Translation(comet=Comet(stand_in())).score(rows, ["\nx\r\ny"], draws=0)
    assert json.loads(asked(tmp_path)[1])["triples"] == [{"src": "a b", "mt": "x y", "ref": "b c"}]


def test_what_leads_our_python_does_not_lead_the_other(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.setenv("KEPT", "yes")
    path = stand_in(
        f'{HELLO}\nsys.stdin.readline()\nsay({{"error": str([os.environ.get(n) for n in ("PYTHONPATH", "KEPT")])}})'
    )
    refused(path, r"\[None, 'yes'\]")


def test_a_check_starts_and_ends_it_without_a_question(stand_in: StandIn, tmp_path: Path) -> None:
    Comet(stand_in()).check()
    assert asked(tmp_path) == ["started"]
    Translation().check()
    with pytest.raises(AlignError, match="has no COMET"):
        Translation(comet=Comet(Path(sys.executable))).check()


def test_comet_that_is_not_there_is_told_before_anything_is_generated(
    run_probe: Callable[..., subprocess.CompletedProcess[str]], stand_in: StandIn, tmp_path: Path
) -> None:
    for code, line in (("de", "Zeile"), ("en", "line")):
        (tmp_path / f"test.de-en.{code}").write_text(f"{line} 1\n{line} 2\n")
    what = ("--task", "translation", "--data", ".", "--langs", "de-en", "--model", "builtin:tiny", "--device", "cpu")
    how = (*what, "--max-new-tokens", "2", "--dtype", "fp32", "--draws", "0", "--out", "scores", "--comet-python")
    for python, told in (("absent", "absent cannot be run"), (sys.executable, "has no COMET")):
        done = run_probe("evaluate", *how, python)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert told in done.stderr
        assert not (tmp_path / "scores").exists()
    done = run_probe("evaluate", *how, stand_in())
    assert done.returncode == 0, done.stderr
    assert [line for line in asked(tmp_path) if line == "started"] == ["started"] * 2


def test_no_python_there(tmp_path: Path) -> None:
    message = refused(tmp_path / "absent", "absent cannot be run .No such file")
    assert "pip install unbabel-comet 'setuptools<82'" in message
    refused(tmp_path, "cannot be run .Permission denied")
    text = tmp_path / "notes.txt"
    text.write_text("no program")
    refused(text, "cannot be run .Permission denied")


def test_a_python_without_comet() -> None:
    """Our own: also, the worker does not take the module of its own folder for COMET."""
    refused(Path(sys.executable), r"has no COMET \(ModuleNotFoundError: No module named 'comet'\)")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit(3)", r"ended with 3 before it answered \(without a word\)"),
        (f"{HELLO}\nsys.stdin.readline()\nsys.exit('CUDA\\nout of memory')", r"ended with 1 .*\(out of memory\)"),
        (f"{HELLO}\nos.kill(os.getpid(), 9)", "ended with -9 before it answered"),
        (f"{HELLO}\nos.close(0)\ntime.sleep(0.3)\nsys.exit(4)", "ended with 4 before it answered"),
        ("print('Welcome', flush=True)\ntime.sleep(60)", "answered 'Welcome'; expected COMET's answer"),
        ("say([1])\ntime.sleep(60)", r"answered '\[1\]'"),
        ("say({'comet': 'new'})\ntime.sleep(60)", "answered "),
        ('say({"comet": "1.1.2", "torch": "1"})', "has COMET 1.1.2; expected 2 or later"),
        (f'{HELLO}\nsay({{"error": "KeyError: no such model"}})', r"could not score .* \(KeyError: no such model\)"),
        (f'{HELLO}\nsay({{"scores": "high"}})', "answered "),
        (f'{HELLO}\nsay({{"scores": [0.5, 0.5, None], "system": 0.5}})', "answered "),
        (f'{HELLO}\nsay({{"scores": [0.5, 0.5, float("nan")], "system": 0.5}})', "answered "),
        (f'{HELLO}\nsay({{"scores": [0.5, 0.5, 0.5]}})', "answered "),
        (f'{HELLO}\nsay({{"scores": [0.5, 0.5], "system": 0.5}})', "gave 2 scores for 3 translations"),
        (f'{HELLO}\nsay({{"scores": [], "system": 0.5}})', "gave 0 scores for 3 translations"),
        (
            f'{HELLO}\nsay({{"scores": [0.5, 0.5, 0.5], "system": 0.6}})',
            "gave 0.6 as the mean of scores whose mean is 0.5",
        ),
    ],
)
def test_what_can_be_wrong_at_the_other_end(body: str, message: str, stand_in: StandIn) -> None:
    refused(stand_in(body), message)


def test_nothing_is_left_running(stand_in: StandIn, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid()))\nprint('?', flush=True)\ntime.sleep(60)"
    begin = time.monotonic()
    refused(stand_in(body), "answered")
    assert time.monotonic() - begin < 40
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


FAKE_COMET = """
import sys
print("a library that prints on stdout")
def download_model(name):
    if name != "known/model":
        raise KeyError(f"Model '{name}' not supported by COMET.")
    return "/cache/snapshots/abc123/checkpoints/model.ckpt"
class Model:
    loads = 0
    def predict(self, samples, batch_size, gpus):
        print("Predicting", len(samples), flush=True)
        scores = [len(each["mt"]) / 100 for each in samples]
        if samples[0]["mt"] == "many":
            raise RuntimeError("CUDA out of memory.\\nTried to allocate")
        return {"scores": scores, "system_score": sum(scores) / len(scores)}
def load_from_checkpoint(path):
    Model.loads += 1
    assert Model.loads == 1, "loaded again"
    return Model()
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The interpreter of an environment whose packages look like COMET and torch to the worker."""
    packages = tmp_path / "packages"
    for name, text in (
        ("comet", FAKE_COMET),
        ("torch", "__version__ = '2.4.0'\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"),
    ):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(text)
    (packages / "unbabel_comet-2.2.7.dist-info").mkdir()
    (packages / "unbabel_comet-2.2.7.dist-info" / "METADATA").write_text("Name: unbabel-comet\nVersion: 2.2.7\n")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH='{packages}' exec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    return python


def test_the_worker_itself(environment: Path) -> None:
    """What libraries print is kept off the answers, and the model is loaded once."""
    first, second = Comet(environment, "known/model").judge([TRIPLES, TRIPLES[:1]])
    assert first.scores == tuple(len(each.mt) / 100 if each.mt.strip() else 0.0 for each in TRIPLES)
    assert second.scores == (0.03,)
    assert first.signature == "model:known/model|revision:abc123|comet:2.2.7|torch:2.4.0"
    refused(environment, r"could not score with Unbabel/wmt22-comet-da \(KeyError: .*not supported by COMET")
    with pytest.raises(AlignError, match=r"RuntimeError: CUDA out of memory\. Tried to allocate"):
        Comet(environment, "known/model").judge([[Triple("a", "many", "b")]])


# The real package, where there is an environment with it

_TINY = """
import os, sys, torch, yaml
from comet.models import RegressionMetric
from pytorch_lightning import Trainer
from tokenizers import Tokenizer, models, processors
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast
folder = sys.argv[1]
encoder = os.path.join(folder, "encoder")
pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(chr, range(32, 127)), "<mask>"]
tokenizer = Tokenizer(models.Unigram([(piece, -3.0) for piece in pieces], unk_id=3))
tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=128).save_pretrained(encoder)
torch.manual_seed(0)
config = XLMRobertaConfig(vocab_size=len(pieces), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                          intermediate_size=32, max_position_embeddings=140)
XLMRobertaModel(config).save_pretrained(encoder)
model = RegressionMetric(encoder_model="XLM-RoBERTa", pretrained_model=encoder, hidden_sizes=[8], layer="mix")
trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1)
trainer.strategy.connect(model)
trainer.save_checkpoint(os.path.join(folder, "checkpoints", "model.ckpt"))
with open(os.path.join(folder, "hparams.yaml"), "w") as file:
    yaml.safe_dump({"class_identifier": "regression_metric"}, file)
for name, lines in (("src", ["Hallo Welt", "Ja"]), ("mt", ["Hello there", "Yes sir"]), ("ref", ["Hello world", "Yes"])):
    with open(os.path.join(folder, name), "w") as file:
        file.write("".join(line + "\\n" for line in lines))
"""


def test_the_real_package(tmp_path: Path) -> None:
    """A small random model of COMET's own kind, against its own command line (which computes in half precision)."""
    given = os.environ.get("MIDPROBE_COMET_PYTHON")
    if not given:
        pytest.skip("MIDPROBE_COMET_PYTHON names no Python that has COMET")
    environment = {name: each for name, each in os.environ.items() if name != "PYTHONPATH"}
    run = {"cwd": tmp_path, "env": environment, "check": True, "timeout": 300, "capture_output": True, "text": True}
    subprocess.run([given, "-c", _TINY, str(tmp_path)], **run)
    checkpoint = str(tmp_path / "checkpoints" / "model.ckpt")
    triples = [Triple("Hallo Welt", "Hello there", "Hello world"), Triple("Ja", "Yes sir", "Yes")]
    (judged,) = Comet(Path(given), checkpoint).judge([triples])
    command = [str(Path(given).with_name("comet-score")), "-s", "src", "-t", "mt", "-r", "ref", "--model", checkpoint]
    done = subprocess.run([*command, "--gpus", "0", "--quiet"], **run)
    theirs = [float(line.split("score: ")[1]) for line in done.stdout.splitlines() if "Segment" in line]
    assert judged.scores == pytest.approx(theirs, abs=5e-4)
    assert abs(judged.scores[0] - judged.scores[1]) > 5e-3
    assert "|comet:2." in judged.signature
