"""Files in a bucket or on a web server, by URL, through fsspec: described, listed, fetched and written whole.

Every call tries again after an error that may pass: `WAITS` seconds between, six times in all. What a URL holds is
known by its ETag, or by size and time where a store has none. So nothing is taken for a file that was replaced while
it was read.
"""

import errno
import logging
import random
import re
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec

from distill_mtl.errors import ShardError, UserError, brief
from distill_mtl.reading import shown
from distill_mtl.system_errors import reason_of

SCHEMES = (
    *("http", "https", "s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oss", "oci"),
    *("ftp", "sftp", "ssh", "hdfs", "webhdfs", "memory"),
)
"""Where shards are fetched from: plain stores of files. fsspec knows others, which open archives, run through other
layers or read this machine's own folders."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the attempts of one call."""
SLOW = 15.0
"""Seconds without a byte, after which an answer is given up."""
_APPEAR_WHOLE = ("s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oss", "oci")
"""Stores in which what is written appears when it is whole; in others it is written aside and renamed."""
_IN_BUCKETS = ("s3", "s3a", "gs", "gcs")
_MATCHED = ("s3://", "s3a://")
"""Whose client asks for each part with the ETag of the first, so that no other file can come in between."""
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(:|//)", re.IGNORECASE)
_TAGS = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "Content-MD5", "Digest")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")
_FINAL = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ImportError,
    NotImplementedError,
)
_CHUNK = 8 << 20  # bytes of one request
_AT_ONCE = 16  # requests that only ask
_log = logging.getLogger(__name__)
T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class RemoteFile:
    """A file as it stands under a URL now.

    Attributes:
        url: where.
        size: in bytes; -1 where the server does not say.
        state: its ETag, or size and time; another one means that the file was replaced.
    """

    url: str
    size: int
    state: str

    @property
    def name(self) -> str:
        """The last part of the URL's path."""
        return self.url.split("?")[0].rpartition("/")[2]


class ChangedError(ShardError):
    """A file under a URL is not the one that it was."""


def is_remote(url: object) -> bool:
    """Whether a place is a URL for fsspec, not a path."""
    url = str(url)
    return _SCHEME.match(url) is not None and not url.startswith("file://")


def open_system(url: str, place: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Its own attempts are off: those of this module are enough.

    Raises:
        ShardError: a URL of another kind, or one whose package is not installed.
    """
    scheme = _SCHEME.match(url)
    kind = scheme[1].lower() if scheme is not None else "file"
    if scheme is not None and ("::" in url or kind not in (*SCHEMES, "file")):
        raise ShardError(
            f"{place}: {shown(url)} is not read. Name paths on this machine, or URLs that begin with "
            f"{', '.join(SCHEMES[:-1])}, without `::`."
        )
    try:
        system, path = fsspec.core.url_to_fs(url, **_options(kind))
    except ImportError as error:
        mend = "Run `pip install 'distill_mtl[s3]'`" if kind in ("s3", "s3a") else "Install what it names"
        raise ShardError(f"{place}: {shown(url)} cannot be read: {brief(error)}. {mend}.") from None
    # Credentials, or whatever a client asks for at once.
    except Exception as error:
        raise ShardError(f"{place}: {shown(url)} cannot be read: {brief(error)}.") from None
    if kind in ("s3", "s3a"):
        system.retries = 1
    return system, path


def join(folder: str, name: str) -> str:
    """The URL of a file in a folder; a query stays at the end."""
    path, mark, query = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def folder_of(url: str) -> str:
    """The URL of the folder that a file lies in."""
    path, mark, query = url.partition("?")
    return path.rpartition("/")[0] + mark + query


def describe(url: str, place: str) -> RemoteFile | None:
    """The file under a URL as it is now; None where nothing is there.

    Raises:
        ShardError: there is no answer.
    """

    def ask() -> RemoteFile:
        system, path = open_system(url, place)
        system.invalidate_cache()  # what was listed may have changed
        return _file(url, system.info(path))

    try:
        return patiently(ask, f"{place}: {shown(url)} cannot be looked at")
    except FileNotFoundError:
        return None


def describe_all(urls: Sequence[str], place: str) -> list[RemoteFile | None]:
    """As `describe`; folders that hold several of the files are listed once, where that can be done."""
    found: dict[str, RemoteFile] = {}
    folders = {folder_of(url) for url in urls}
    if len(folders) < len(urls) and not any(url.startswith("http") for url in urls):
        for folder in folders:
            listed = list_folder(folder, place)
            found |= {join(folder, name): file for name, file in listed.items()}
        return [found.get(url) for url in urls]
    return at_once(lambda url: describe(url, place), urls)


def refuse_no_bucket(url: str, place: str) -> None:
    """Refuse a URL in a bucket that does not exist: called where nothing is there, which may be why.

    Raises:
        ShardError: names the bucket, and the store that was asked.
    """
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1].lower() not in _IN_BUCKETS:
        return
    try:
        system, path = open_system(url, place)
        bucket = path.partition("/")[0]
        if _is_bucket(system, bucket):
            return
    # Who may not look at a bucket may still read from it.
    except Exception as error:
        _log.info("%s: the bucket of %s cannot be looked at (%s)", place, url, brief(error))
        return
    asked = getattr(getattr(getattr(system, "s3", None), "meta", None), "endpoint_url", None)
    where = f" at {asked}" if asked else ""
    told = ", and the store with AWS_ENDPOINT_URL" if asked else ""
    raise ShardError(
        f"{place}: {shown(url)}: there is no bucket '{bucket}'{where}. Check its name{told}, or create it."
    )


def _is_bucket(system: Any, bucket: str) -> bool:
    try:
        system.info(bucket)
    except FileNotFoundError:
        return bool(system.exists(bucket))  # earlier versions of s3fs find no description of an empty one
    return True


def list_folder(url: str, place: str) -> dict[str, RemoteFile]:
    """The files of a folder by name, not of those below it; none where it is not there.

    Raises:
        ShardError: there is no answer, or no such bucket.
    """

    def ask() -> dict[str, RemoteFile]:
        system, path = open_system(url, place)
        system.invalidate_cache()
        entries = [entry for entry in system.ls(path, detail=True) if entry["type"] == "file"]
        files = [_file(join(url, entry["name"].rpartition("/")[2]), entry) for entry in entries]
        return {file.name: file for file in files}

    try:
        return patiently(ask, f"{place}: {shown(url)} cannot be listed")
    except (FileNotFoundError, NotADirectoryError):
        refuse_no_bucket(url, place)
        return {}


def glob_remote(pattern: str, place: str) -> list[RemoteFile]:
    """The files that a URL with `*` stands for, by name.

    Raises:
        ShardError: there is no answer, or no such bucket.
    """

    def ask() -> list[RemoteFile]:
        system, path = open_system(pattern, place)
        system.invalidate_cache()
        matches = system.glob(path, detail=True)
        return [_file(system.unstrip_protocol(name), matches[name]) for name in sorted(matches)]

    try:
        found = patiently(ask, f"{place}: {shown(pattern)} cannot be listed")
    except FileNotFoundError:
        found = []
    if not found:
        refuse_no_bucket(pattern, place)
    return found


def read(url: str, place: str, most: int, size: int | None = None) -> bytes:
    """The content of a small file.

    Args:
        url: of the file.
        place: who needs it, for messages.
        most: bytes that are read.
        size: of the file, where it is known.

    Raises:
        FileNotFoundError: nothing is there.
        ShardError: there is no answer, or it is larger.
    """

    def ask() -> bytes:
        system, path = open_system(url, place)
        system.invalidate_cache()
        whole = system.info(path).get("size") if size is None else size
        if whole is not None and whole > most:
            raise ShardError(f"{place}: {shown(url)} has {whole:,} bytes; at most {most:,} are read.")
        content: bytes = system.cat_file(path)
        if whole is not None and len(content) != whole:
            raise OSError(errno.EIO, f"{len(content):,} of {whole:,} bytes came")
        return content

    return patiently(ask, f"{place}: {shown(url)} cannot be read")


def fetch(
    file: RemoteFile, to: BinaryIO, place: str, noting: Callable[[int], None] = lambda count: None
) -> int:
    """Copy a file, whole and as it was described; the CRC32 of its bytes.

    Args:
        file: as it was when it was described.
        to: a file; each attempt writes it from its beginning.
        place: who needs it, for messages.
        noting: called with the number of bytes that are there so far.

    Raises:
        ChangedError: it was replaced since.
        ShardError: it is gone, or there is no answer.
        WriteError: it cannot be written here.
    """

    def copy() -> int:
        to.seek(0)
        system, path = open_system(file.url, place)
        system.invalidate_cache()
        checksum = written = 0
        with system.open(path, "rb", cache_type="none", block_size=_CHUNK) as remote:
            now = remote.details if file.url.startswith(_MATCHED) else system.info(path)
            _refuse_changed(file, _file(file.url, now), place)
            while chunk := remote.read(_CHUNK):
                to.write(chunk)
                checksum, written = zlib.crc32(chunk, checksum), written + len(chunk)
                noting(written)
        if written != file.size >= 0:
            raise OSError(errno.EIO, f"{written:,} of {file.size:,} bytes came")
        to.truncate(written)
        if not file.url.startswith(_MATCHED):
            system.invalidate_cache()
            _refuse_changed(file, _file(file.url, system.info(path)), place)
        return checksum

    try:
        return patiently(copy, f"{place}: {file.url} cannot be fetched")
    except FileNotFoundError:
        raise ChangedError(
            f"{place}: {file.url} is not there any more. Put it back, or start again."
        ) from None


def send(source: Path, url: str, place: str) -> RemoteFile:
    """Write a file under a URL, where it appears whole or not at all.

    Raises:
        ShardError: it cannot be written there, or there is no such bucket.
    """

    def copy() -> RemoteFile:
        system, path = open_system(url, place)
        scheme = _SCHEME.match(url)
        if scheme is not None and scheme[1].lower() in _APPEAR_WHOLE:
            system.put_file(str(source), path)
        else:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.put_file(str(source), f"{path}.part")
            system.mv(f"{path}.part", path)
        system.invalidate_cache()
        sent, size = _file(url, system.info(path)), source.stat().st_size
        if sent.size not in (size, -1):
            raise OSError(errno.EIO, f"{sent.size:,} of {size:,} bytes arrived")
        return sent

    failing = f"{place}: {url} cannot be written"
    try:
        return patiently(copy, failing)
    except FileNotFoundError as error:
        refuse_no_bucket(url, place)
        raise ShardError(f"{failing} ({brief(error)}).") from None


def remove(url: str, place: str) -> None:
    """Delete a file, if it is there.

    Raises:
        ShardError: it cannot be deleted.
    """

    def delete() -> None:
        system, path = open_system(url, place)
        system.rm_file(path)

    try:
        patiently(delete, f"{place}: {shown(url)} cannot be deleted")
    except FileNotFoundError:
        return


def at_once(work: Callable[[Item], T], items: Iterable[Item], threads: int = _AT_ONCE) -> list[T]:
    """`work` done on each item by some threads, in their order."""
    items = list(items)
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(work, items))


def patiently(
    work: Callable[[], T], failing: str, final: tuple[type[BaseException], ...] = (FileNotFoundError,)
) -> T:
    """What `work` gives, tried again after `WAITS`.

    Args:
        work: that asks a server.
        failing: how the message begins where all attempts fail.
        final: errors that are the caller's.

    Raises:
        ShardError: every attempt failed, or one in a way that does not pass (no permission, no such package).
    """
    began = time.monotonic()
    for wait in (*WAITS, None):
        try:
            return work()
        except UserError:
            raise
        # The clients of the stores have errors of their own.
        except Exception as error:
            if isinstance(error, final):
                raise
            lacking = reason_of(error)
            if isinstance(error, _FINAL) or lacking is not None:
                denied = isinstance(error, PermissionError)
                mend = " Access is denied: check the credentials and their rights." if denied else ""
                raise ShardError(f"{failing} ({lacking or brief(error)}).{mend}") from None
            if wait is None:
                raise ShardError(
                    f"{failing}: {len(WAITS) + 1} attempts in {time.monotonic() - began:.0f} s failed, the last with "
                    f"{brief(error)}. When the server answers again, start the same command again."
                ) from None
            _log.info("%s (%s); again in %.1f s", failing, brief(error), wait)
        # Processes of a fleet must not come back together.
        time.sleep(wait * random.SystemRandom().uniform(0.75, 1.25))
    raise AssertionError("the last attempt returns or raises")


def _options(kind: str) -> dict[str, Any]:
    """What fsspec's file system of a kind is told: no attempts of its own, and no waiting for ever."""
    if kind in ("s3", "s3a"):
        told = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        return {"config_kwargs": {"retries": {"total_max_attempts": 1}, "read_timeout": SLOW, **told}}
    if kind in ("http", "https"):
        try:
            import aiohttp
        except ImportError:  # fsspec says what it needs
            return {}
        told = fsspec.config.conf.get(kind, {}).get("client_kwargs", {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SLOW, sock_read=SLOW)
        return {"client_kwargs": {"timeout": timeout, **told}}
    return {}


def _file(url: str, info: dict[str, Any]) -> RemoteFile:
    size = info.get("size")
    tag = next((info[key] for key in _TAGS if info.get(key)), None)
    if tag is None:
        tag = f"{size} bytes, {next((info[key] for key in _TIMES if info.get(key)), 'no time')}"
    return RemoteFile(url, -1 if size is None else int(size), str(tag).strip('"'))


def _refuse_changed(then: RemoteFile, now: RemoteFile, place: str) -> None:
    if (then.size, then.state) != (now.size, now.state):
        raise ChangedError(
            f"{place}: {then.url} was replaced: it was {_state(then)} and is {_state(now)} now. Put the first one back "
            "and go on with --resume; or start again with --overwrite."
        )


def _state(file: RemoteFile) -> str:
    return f"{file.size:,} bytes with ETag {file.state}" if "bytes," not in file.state else file.state
