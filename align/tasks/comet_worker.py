"""Scores translations with COMET. Run by the Python that has it, as a script: nothing but the standard library and COMET is used.

One JSON object a line. It first says which COMET there is, `{"comet": "2.2.7", "torch": "..."}`, then answers each request
`{"model": ..., "batch_size": ..., "triples": [{"src": ..., "mt": ..., "ref": ...}, ...]}` with
`{"scores": [...], "system": ..., "revision": ...}`, or anything with `{"error": ...}`. Progress goes to stderr.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from importlib import metadata


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to stderr: stdout carries answers only
    here = os.path.dirname(os.path.abspath(__file__))  # its comet.py is not COMET
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        import comet
        import torch

        answer(comet=metadata.version("unbabel-comet"), torch=torch.__version__)
    except Exception as error:
        answer(error=told(error))
        return
    models: dict = {}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            name = request["model"]
            if name not in models:
                path = name if os.path.isfile(name) else comet.download_model(name)
                models[name] = path, comet.load_from_checkpoint(path)
            path, model = models[name]
            gpus = 1 if torch.cuda.is_available() else 0
            said = model.predict(request["triples"], batch_size=request["batch_size"], gpus=gpus)
            revision = re.search(r"snapshots[/\\](\w+)", path)
            scores = [float(score) for score in said["scores"]]
            answer(scores=scores, system=float(said["system_score"]), revision=revision.group(1) if revision else None)
        except Exception as error:
            answer(error=told(error))


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":
    main()
