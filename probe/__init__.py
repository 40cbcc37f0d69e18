"""midprobe: where in a language model do languages meet? From Python:

from probe import retrieve_all
result = retrieve_all({"eng_Latn": english, "deu_Latn": german})   # (sentences, dim) arrays, or the path of a store
result.curve()
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ActivationStore": "probe.store",
    "ParallelCorpus": "probe.corpus",
    "ProbeError": "probe.errors",
    "RetrievalResult": "probe.results",
    "Settings": "probe.extract",
    "extract_all": "probe.extract",
    "load_corpus": "probe.sources",
    "retrieve_all": "probe.retrieve",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
