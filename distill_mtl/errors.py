"""The errors that a user's own input can cause.

Every mistake a user can make (in a recipe, a shard, a teacher's folder, a command) is raised as a
`UserError` whose message says what was found, where, and how to correct it. The command line prints the
message alone, without a traceback, and exits with status 2.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from itertools import islice

_LONGEST, _MOST = (
    100,
    10_000,
)  # letters and names among which a near one is looked for: it takes their product


class UserError(Exception):
    """A mistake in what the user gave us; the message names the place and the remedy.

    Attributes:
        everywhere: every process of a run has found it. False: only this one has, and must say so itself.
    """

    everywhere = True


class RecipeError(UserError):
    """The recipe is wrong. One error may carry several findings, a paragraph each."""


class ShardError(UserError):
    """A shard or a row in it is missing, cut, corrupt or lacks a member."""


class TeacherError(UserError):
    """A teacher cannot be loaded, or does not fit its task or its data."""


class CacheError(UserError):
    """The target cache is missing, stale, cut, foreign or wrong, or cannot be written."""


class StudentError(UserError):
    """A student cannot be built or loaded as asked."""


class ExportError(UserError):
    """A student cannot be exported as asked, or the exported file does not answer as the student does."""


class WriteError(UserError, OSError):
    """A file or folder cannot be written: the disk is full, read-only or the like.

    An OSError too, with its `errno` and `strerror`, for callers that have a place to fall back to.

    Args:
        message: what could not be written, why, what is whole, how to go on.
        number: the operating system's number of the error, where it gave one.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number
        self.strerror = None if number is None else os.strerror(number)

    def __str__(self) -> str:
        return str(self.args[0])


class Stopped(Exception):
    """The run was asked to stop and did, with a checkpoint; the message says how to go on."""


class StoppedElsewhere(Stopped):
    """Another process of the run met a mistake and says what it is."""


def nearest(word: str, names: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name closest to `word`, or an empty string."""
    if len(word) > _LONGEST:
        return ""
    some = [name for name in islice(names, _MOST) if len(name) <= _LONGEST]
    close = difflib.get_close_matches(word, some, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def a_few(names: Sequence[str], most: int = 8) -> str:
    """The first of many names, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def brief(error: BaseException) -> str:
    """What a library's error says, in one line fit for a message of ours; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        lines = lines[-1:]
    text = " ".join(lines).rstrip(".")
    return (text if len(text) <= 400 else text[:400] + "…") or type(error).__name__
