"""JSON as models write it: cut off, fenced, single-quoted. What can be read is read, and every repair is told."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

FLAWS = (
    "code fence",  # the answer stands between ``` marks
    "leading text",  # words before the JSON
    "no braces",  # "Results": [...] without the object around it
    "single quotes",
    "duplicated keys",  # in one object; the last one counts, as for `json.loads`
    "loose syntax",  # a comma too many or missing, line breaks in strings, unknown escapes, Python's None, True, False
    "broken",  # something that cannot be JSON: reading ends there, as at a cut
    "truncated",  # the text ends before its brackets are closed, or before `LONGEST` lets it
    "trailing text",  # words or more JSON behind the answer
    "not JSON",  # no beginning of an answer anywhere
)

LONGEST = 50_000
"""Characters that are read: no answer is as long, and a generation that never ends need not be read to its end."""

_DEEPEST = 20
_FENCE = re.compile(r"```\w*")
_DOUBLE = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)("?)', re.DOTALL)
# A single quote ends a string only where JSON could go on behind it: 'O'Brien' is one string.
_SINGLE = re.compile(r"'((?:[^'\\]++|\\.|'(?!\s*(?:[,:\]}]|\Z)))*+)('?)", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s*")
_CONTROL = re.compile("[\x00-\x1f]")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_JSON_SPACE = " \t\n\r"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"'}
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


@dataclass(frozen=True)
class JsonAnswer:
    """What a generation says."""

    value: Any
    """The JSON value as far as it goes: members that were cut off are left out. None where there is none."""
    flaws: tuple[str, ...]
    """Of `FLAWS`, in that order; empty: what `json.loads` reads, and nothing else."""


def read_json(text: str, key: str) -> JsonAnswer:
    """Read the first JSON object or list of a text. Takes time linear in the text, and never raises.

    Args:
        key: of the answer's object; `"key": ...` is read as that object where its braces are missing.
    """
    flaws: set[str] = set()
    inside = _unfenced(text[:LONGEST], flaws)
    start = re.search(rf"""\{{\s*(?:["'}}]|\Z)|\[\s*(?:[\]{{]|\Z)|(["']){re.escape(key)}\1\s*:""", inside)
    if start is None:
        return JsonAnswer(None, ("not JSON",))
    if inside[: start.start()].strip():
        flaws.add("leading text")
    reader = _Reader(inside, start.start(), flaws)
    value = reader.member() if start[1] else reader.value()
    if inside[reader.at :].strip() and not reader.ended:
        flaws.add("trailing text")
    return JsonAnswer(value, tuple(flaw for flaw in FLAWS if flaw in flaws))


def _unfenced(text: str, flaws: set[str]) -> str:
    """The text of the first fence, if one opens before any bracket does; what stands around it is told."""
    fence = _FENCE.search(text)
    if fence is None or re.search(r"[{\[]", text[: fence.start()]):
        return text
    inside, _, after = text[fence.end() :].partition("```")
    flaws.add("code fence")
    if text[: fence.start()].strip():
        flaws.add("leading text")
    if after.strip():
        flaws.add("trailing text")
    return inside


class _EndedError(Exception):
    """The text is cut off, or broken, within a value that has no meaning in part."""


class _Reader:
    """Reads from `at` on. A container that cannot be read to its end holds what came before."""

    def __init__(self, text: str, at: int, flaws: set[str]) -> None:
        self.text, self.at, self.flaws = text, at, flaws
        self.ended = False
        self.depth = 0

    def value(self) -> Any:
        """Any value.

        Raises:
            _EndedError: no value, or one that is not whole and no container.
        """
        mark = self._next()
        if mark and mark in "{[":
            return self._container(mark)
        if mark and mark in "\"'":
            return self._string(mark)
        if number := _NUMBER.match(self.text, self.at):
            return self._number(number)
        return self._word()

    def member(self) -> dict[str, Any]:
        """`"key": value` without the braces around it."""
        self.flaws.add("no braces")
        found: dict[str, Any] = {}
        with suppress(_EndedError):
            self._member_into(found)
        return found

    def _container(self, opening: str) -> Any:
        """An object or a list, as far as it goes."""
        found: Any = {} if opening == "{" else []
        self.at += 1
        self.depth += 1
        with suppress(_EndedError):
            if self.depth > _DEEPEST:
                self._stop("broken")
            self._fill(found, "}" if opening == "{" else "]")
        self.depth -= 1
        return found

    def _fill(self, found: Any, closing: str) -> None:
        after_comma = False
        while (mark := self._next()) != closing:
            if mark == "":
                self._stop("truncated")
            if found and not after_comma:
                self.flaws.add("loose syntax")
            if isinstance(found, dict):
                self._member_into(found)
            else:
                found.append(self.value())
            if self.ended:
                raise _EndedError
            after_comma = self._next() == ","
            if after_comma:
                self.at += 1
        if after_comma:
            self.flaws.add("loose syntax")
        self.at += 1

    def _member_into(self, found: dict[str, Any]) -> None:
        mark = self._next()
        if mark not in ('"', "'"):
            self._stop("broken" if mark else "truncated")
        key = self._string(mark)
        if (mark := self._next()) != ":":
            self._stop("broken" if mark else "truncated")
        self.at += 1
        value = self.value()
        if key in found:
            self.flaws.add("duplicated keys")
        found[key] = value

    def _string(self, quote: str) -> str:
        match = (_DOUBLE if quote == '"' else _SINGLE).match(self.text, self.at)
        if match is None or not match[2]:
            self._stop("truncated")
        self.at = match.end()
        if quote == "'":
            self.flaws.add("single quotes")
        body = match[1]
        if _CONTROL.search(body):
            self.flaws.add("loose syntax")
        return _whole_characters(_ESCAPE.sub(self._escaped, body))

    def _escaped(self, match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) > 1:
            return chr(int(escape[1:], 16))
        if escape not in _ESCAPES:
            self.flaws.add("loose syntax")
        return _ESCAPES.get(escape, escape)

    def _number(self, match: re.Match[str]) -> int | float:
        self.at = match.end()
        if self.at == len(self.text):  # its next digit may be what was cut off
            self._stop("truncated")
        try:
            return int(match[0]) if match[0].removeprefix("-").isdecimal() else float(match[0])
        except ValueError:  # Python refuses integers of thousands of digits
            self._stop("broken")

    def _word(self) -> bool | None:
        word = _WORD.match(self.text, self.at)
        if word is None or word[0] not in _WORDS:
            self._stop("truncated" if (word.end() if word else self.at) == len(self.text) else "broken")
        self.at = word.end()
        if word[0][0].isupper():
            self.flaws.add("loose syntax")
        return _WORDS[word[0]]

    def _next(self) -> str:
        """The next character that is no white space; empty at the end."""
        blank = _SPACE.match(self.text, self.at)
        if blank and blank[0]:
            self.at = blank.end()
            if blank[0].strip(_JSON_SPACE):
                self.flaws.add("loose syntax")
        return self.text[self.at : self.at + 1]

    def _stop(self, flaw: str) -> NoReturn:
        self.flaws.add(flaw)
        self.ended = True
        raise _EndedError


def _whole_characters(text: str) -> str:
    """Join halves of surrogate pairs, as JSON escapes write them; a half alone becomes the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
