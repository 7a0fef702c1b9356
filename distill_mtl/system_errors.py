"""What the operating system refuses, as a message: what could not be written, why, how much was needed, how to go on.

Libraries hide it: PyTorch raises RuntimeError, safetensors an error of its own. `files` calls this wherever it writes,
and the command line for what happens elsewhere.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distill_mtl.errors import UserError, WriteError, brief

_ROOM = "Make room there, or choose a place on another disk."
_OTHER = "Choose a place that you may write to."
_FILES = "Raise the limit with `ulimit -n`, or lower training.workers."
_KNOWN = {
    errno.ENOSPC: ("no space is left on the device", _ROOM),
    errno.EDQUOT: ("your quota is used up", _ROOM),
    errno.EFBIG: ("a file may not be that large (ulimit -f, or a limit of the file system)", _ROOM),
    errno.EROFS: ("the file system is read-only", _OTHER),
    errno.EACCES: ("permission denied", _OTHER),
    errno.EPERM: ("operation not permitted", _OTHER),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", _OTHER),
    errno.EEXIST: ("a file stands where a folder is needed", _OTHER),
    errno.ELOOP: ("its links lead in a circle", _OTHER),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter name."),
    errno.EIO: (
        "the device reports an input/output error",
        "Check the disk, or choose a place on another one.",
    ),
    errno.EMFILE: ("the process has as many files open as it may", _FILES),
    errno.ENFILE: ("the machine has as many files open as it may", _FILES),
}
_NO_MEMORY = (
    "out of memory",  # of an accelerator
    "can't allocate memory",
    "Cannot allocate memory",
)
_LESS = (
    "In a run, raise training.accumulate, or lower training.batch_size, evaluation.batch_size, student.input_size or "
    "training.workers; `targets: cached` trains without teachers in memory."
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What can only be the machine's state, wherever it is raised.
_EXHAUSTED = (*_FULL, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
_NUMBER = re.compile(
    r"os error (\d+)|Os \{ code: (\d+)|\[Errno (\d+)\]|error code: <?(\d+)|torch_.*\((\d+)\)$"
)
_DISGUISES = {
    "No space left on device": errno.ENOSPC,
    "Too many open files": errno.EMFILE,
    "received 0 items of ancdata": errno.EMFILE,
    "requested and": errno.ENOSPC,  # NumPy's `1000 requested and 512 written`
    "PytorchStreamWriter failed": errno.EIO,
    "unexpected pos": errno.EIO,  # PyTorch again, when it closes a file that it could not write
    "unable to write to file": errno.ENOSPC,
    "unable to allocate shared memory": errno.ENOSPC,  # with EAGAIN as its number
    "Unexpected bus error encountered in worker": errno.ENOSPC,
}


def error_number(error: BaseException) -> int | None:
    """The operating system's number of the error, or of its cause; None if the system did not raise it."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    for each in chain:
        if isinstance(each, OSError) and each.errno is not None:
            return each.errno
    text = str(error)
    if isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError":
        disguised = next((number for words, number in _DISGUISES.items() if words in text), None)
        if (found := _NUMBER.search(text)) is None:
            return disguised
        number = int(next(filter(None, found.groups())))
        return number if number in _KNOWN else disguised or number
    return None


@contextmanager
def naming(path: Path, written: Callable[[], int] = lambda: 0, *, every: bool = False) -> Iterator[None]:
    """Inside, a refusal of the operating system becomes a `WriteError` about `path`.

    Args:
        path: the file or folder that the block writes.
        written: how many bytes the block had written when it failed.
        every: whatever OSError is raised is about `path`; else only those that writing has.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:  # raised again where it is not the system's
        number = error_number(error)
        if not (number in _KNOWN or (every and isinstance(error, OSError))):
            raise
        raise _write_error(path, number, error, written()) from error


def reason_of(error: BaseException) -> str | None:
    """What the machine lacks, where that is why the error was raised, wherever it was raised; else None."""
    number = error_number(error)
    return _KNOWN[number][0] if number in _EXHAUSTED else None


def exhausted(error: BaseException) -> str | None:
    """A message for an error that no caller took for its own, where the machine lacks something; else None."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return f"memory is used up ({brief(error)}). {_LESS}"
    reason, number = reason_of(error), error_number(error)
    if reason is None or number is None:
        return None
    place = getattr(error, "filename", None)
    return f"{f'{place}: ' if place else ''}{reason} ({brief(error)}). {_KNOWN[number][1]}"


def free_bytes(path: Path) -> tuple[Path, int]:
    """The nearest folder above `path`, or above where its link leads, that is there, and the bytes free on its disk."""
    real = Path(os.path.realpath(path))
    folder = next(folder for folder in (real, *real.parents) if os.path.isdir(folder))
    return folder, shutil.disk_usage(folder).free


def megabytes(size: int) -> str:
    """Bytes with two significant digits: `310 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.{0 if size >= 10 * factor else 1}f} {unit}"
    return f"{max(1, round(size / 1e3))} kB"


def _write_error(path: Path, number: int | None, error: BaseException, written: int) -> WriteError:
    reason, remedy = _KNOWN.get(number or 0, (os.strerror(number) if number else brief(error), _OTHER))
    if number in _FULL and written:
        reason += f", after {megabytes(written)} of it"
    if number == errno.ENOSPC:
        folder, free = free_bytes(path.parent)
        reason += f"; {megabytes(free)} are free in {folder}"
    kept = "What was there before is unchanged" if os.path.exists(path) else "Nothing of it is left"
    return WriteError(f"{path} cannot be written: {reason}. {kept}. {remedy}", number)
