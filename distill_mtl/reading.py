"""How this program reads files that somebody else may have written: regular files only, of bounded size and depth.

Notes (config.json, results.json, metrics.jsonl, the JSON in an exported file, …) are read through a schema, so that
what is read has the types that its reader expects. Everything that can be wrong with a file is a `UserError`, or one
derived from it, that names the file, what was found and what to do.

XML is read without a DOCTYPE: entities, and with them other files and texts without end, are declared there.
"""

import io
import json
import os
import re
import stat
import tokenize
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pydantic import TypeAdapter, ValidationError

from distill_mtl.errors import UserError

MAX_BYTES = 64 << 20
"""Of a note, unless its reader says otherwise."""
DAMAGED_ARRAY = (
    *(OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, SyntaxError),
    tokenize.TokenError,
)
"""What NumPy raises for a file of arrays that is cut, damaged or none: it reads the header as Python's source."""
MAX_DEPTH = 64
"""Lists and mappings inside each other."""
_SHOWN = 60
_BEGIN = 512
_WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html|head)\b", re.IGNORECASE)
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class Remedy(NamedTuple):
    """What an error about a file says at its end, and its type."""

    mend: str = "Correct it, or write it again."
    error: type[UserError] = UserError


REMEDY = Remedy()


def open_regular(path: Path | str) -> io.BufferedReader:
    """A regular file, or a link to one, to be read. A FIFO or a device is refused before it is opened: it could block,
    or never end.

    Raises:
        OSError: there is no such file, it cannot be read, or is of another kind; `strerror` says so.
    """
    try:
        kind = os.stat(path).st_mode
    except ValueError:  # a NUL in the name
        raise FileNotFoundError(None, "no file has such a name", repr(str(path))[:_SHOWN]) from None
    if not stat.S_ISREG(kind):
        raise OSError(None, f"it is {_kind(kind)}, not a regular file", str(path))
    return open(path, "rb")


def read_bytes(path: Path | str, max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as `open_regular`, or the file is larger.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        size = max(os.stat(path).st_size, len(content))
        raise OSError(None, f"it has {size:,} bytes; at most {max_bytes:,} are read", str(path))
    return content


def read_text(path: Path | str, max_bytes: int = MAX_BYTES, *, remedy: Remedy = REMEDY) -> str:
    """The text of a UTF-8 file, `\\n` at the ends of its lines.

    Raises:
        UserError: it is not there, not a regular file, too large, or not UTF-8.
    """
    try:
        content = read_bytes(path, max_bytes)
    except OSError as error:
        raise remedy.error(f"{path} cannot be read: {error.strerror or error}. {remedy.mend}") from error
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise remedy.error(f"{path} is not UTF-8 text (byte {error.start}). {remedy.mend}") from error


def read_json(
    path: Path | str, schema: Any = Any, max_bytes: int = MAX_BYTES, *, remedy: Remedy = REMEDY
) -> Any:
    """What a JSON file holds, as its schema.

    Args:
        path: the file.
        schema: any type that pydantic can check: a model, a dataclass, `dict[str, float]`.
        max_bytes: that the file may have.
        remedy: the end of the message.

    Raises:
        UserError: as `read_text`; it is not JSON, nested too deep, or does not fit the schema.
    """
    return parse_json(read_text(path, max_bytes, remedy=remedy), schema, str(path), remedy=remedy)


def parse_json(text: str, schema: Any, where: str, *, remedy: Remedy = REMEDY) -> Any:
    """As `read_json`, of a text that has been read; `where` names its place.

    Raises:
        UserError: it is not JSON, nested too deep, or does not fit the schema.
    """
    try:
        value = loads(text)
    except ValueError as error:
        raise remedy.error(f"{where} is not valid JSON: {error}. {remedy.mend}") from error
    return fit(value, schema, where, remedy=remedy)


def read_xml(path: Path | str, max_bytes: int = MAX_BYTES, *, remedy: Remedy = REMEDY) -> Element:
    """The root of an XML file.

    Raises:
        UserError: the file cannot be read or is too large; it is not XML, has a DOCTYPE, or is nested too deep.
    """
    try:
        content = read_bytes(path, max_bytes)
    except OSError as error:
        raise remedy.error(f"{path} cannot be read: {error.strerror or error}. {remedy.mend}") from error
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        if (depth := depth + 1) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise ValueError("it has a DOCTYPE, which is not read")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: of an encoding
        raise remedy.error(f"{path} is not valid XML: {error}. {remedy.mend}") from error
    return builder.close()


def stand_in(begin: bytes) -> str | None:
    """What lies in the place of a file that was not fetched, by its first bytes; None where they do not say so."""
    if begin.startswith(b"version https://git-lfs.github.com/"):
        return "a pointer of Git LFS and not the file itself, which `git lfs pull` fetches"
    if _WEB_PAGE.match(begin):
        return "a web page: what was fetched from its address is not the file"
    return None


def stand_in_note(path: Path) -> str:
    """`stand_in` of a file as a sentence with a space before it; empty where there is nothing to say."""
    try:
        with open_regular(path) as file:
            found = stand_in(file.read(_BEGIN))
    except OSError:
        return ""
    return f" It is {found}." if found else ""


def fit(value: Any, schema: Any, where: str, *, remedy: Remedy = REMEDY) -> Any:
    """A plain value as its schema.

    Raises:
        UserError: it does not fit.
    """
    try:
        return _adapter(schema).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = "".join(f", {shown(str(step))}" for step in first["loc"][:1])
        at += "".join(f".{shown(str(step))}" for step in first["loc"][1:])
        found = "" if first["type"] == "missing" else f"; found {shown(first['input'])}"
        raise remedy.error(f"{where}{at}: {first['msg']}{found}. {remedy.mend}") from error


def loads(text: str | bytes) -> Any:
    """`json.loads` of an untrusted text.

    Raises:
        ValueError: it is not UTF-8, not JSON, or nested too deep.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    if text.count("[") + text.count("{") > MAX_DEPTH and (depth := _depth(text)) > MAX_DEPTH:
        raise ValueError(f"it is nested {depth:,} deep; at most {MAX_DEPTH} is read")
    return json.loads(text)


def shown(value: Any) -> str:
    """An untrusted value in a message: short, in one line, a plain word as it is."""
    if isinstance(value, str) and value.isprintable() and len(value) <= _SHOWN:
        return value if value.isidentifier() or value.isdecimal() else repr(value)
    if isinstance(value, dict | list | tuple):
        noun = "mapping" if isinstance(value, dict) else "list"
        return f"a {noun} of {len(value):,}"
    half = _SHOWN // 2
    if isinstance(value, str) and len(value) > _SHOWN:  # the end of a path says most
        value = f"{value[:half]}…{value[-half:]}"
    text = repr(value[:_SHOWN] if isinstance(value, bytes) else value)
    return text if len(text) <= _SHOWN + 3 else f"{text[:half]}…{text[-half:]}"


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _TOKENS.finditer(text):
        mark = token[0][0]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in kinds if test(mode)), "something else")


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)
