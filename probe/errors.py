"""What goes wrong through the user's input, told in one line: what was given, what was expected, the next step."""


class ProbeError(Exception):
    """A fault in what the user gave. The command line prints it as one line and exits with 2.

    Args:
        given: what was found, with the file, language and row where there is one.
        expected: what would have been right.
        next_step: what the reader can do now.
    """

    def __init__(self, given: str, expected: str, next_step: str) -> None:
        super().__init__(f"{given}; expected {expected}; {next_step}".replace("\n", " "))


class CorpusError(ProbeError):
    """Text that is missing, malformed or not parallel."""


class ModelError(ProbeError):
    """A model, tokenizer or adapter that cannot be loaded or gives unusable hidden states."""


class StoreError(ProbeError):
    """An activation store that is damaged, incomplete, locked, or made with other settings."""


class RetrievalError(ProbeError):
    """Vectors that cannot be searched, or a retrieval result that does not fit."""


class AnalysisError(ProbeError):
    """Results, scores or reports that do not fit each other, or in which a statistic is undefined."""


class AlignError(ProbeError):
    """Training or merging that cannot be."""
