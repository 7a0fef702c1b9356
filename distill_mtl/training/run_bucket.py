"""A run whose folder is in a bucket: `--out s3://bucket/runs/pets`.

The run works in a folder of this machine. `commit` sends what changed in it, and at last a small file,
`committed.json`, that names every file. What it does not name is not part of the run, so a run that was killed while it
sent goes on from the commit before. Checkpoints have digests of their own, as on a disk.

Two runs must not write to one URL. Each writes `.owner.json` when it begins or goes on. So the last start owns the run,
and a run that was killed blocks none. Before it sends, and again before it commits, a run reads that file; where it
finds another's, it stops and commits nothing. Between this look and the writing a moment remains: fsspec passes no
condition to a store.
"""

import fcntl
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill_mtl import remote_files
from distill_mtl.errors import Stopped, UserError
from distill_mtl.files import atomic_file, cache_folder, locked, write_text
from distill_mtl.reading import loads, read_json, shown
from distill_mtl.remote_files import RemoteFile, is_remote, join

COMMIT = "committed.json"
OWNER = ".owner.json"
_LONGEST = 64 << 20
_THREADS = 4


class RunBucket:
    """The folder of a run in a bucket, and the folder of this machine that stands for it.

    Args:
        url: of the folder.

    Attributes:
        folder: of this machine.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        place = cache_folder() / "runs" / hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()
        self.folder = place / (self.url.rpartition("/")[2] or "run")
        self._record = place / "sent.json"
        self._owner: dict[str, Any] | None = None
        self._known: dict[str, str] | None = None

    def bring(self) -> bool:
        """Make the folder what was committed last, and nothing else; False where nothing was.

        Raises:
            UserError: the bucket does not answer, or a committed file is gone.
        """
        with self._alone():
            return self._bring_all()

    def _bring_all(self) -> bool:
        names, sent = self._committed(), self._sent()
        self._known = names
        for path in self._files():
            if str(path.relative_to(self.folder)) not in names:
                path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted((path for path in self.folder.rglob("*") if path.is_dir()), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
        remote_files.at_once(lambda name: self._bring(name, sent), list(names), _THREADS)
        self._note(sent)
        return bool(names)

    def take(self) -> None:
        """Become the run that writes here. One that did so before stops at its next commit.

        Raises:
            UserError: the bucket cannot be written to.
        """
        self._owner = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        self._send_json(OWNER, self._owner)

    def commit(self) -> None:
        """Send what changed since the last commit, then the names of all files; then delete what is not named any more.

        Raises:
            UserError: the bucket cannot be written to, or another run or command has written to it meanwhile; the
                commit before is whole.
        """
        sent, before = self._sent(), self._committed()
        files = {str(path.relative_to(self.folder)): path for path in self._files()}
        changed = [name for name, path in files.items() if sent.get(name, [])[:2] != _stamp(path)]
        if not changed and set(files) == set(before):
            return
        self._refuse_another()
        remote_files.at_once(lambda name: self._send(name, files[name], sent), changed, _THREADS)
        self._note({name: sent[name] for name in files})
        self._refuse_another()  # sending may have taken long
        self._known = {name: sent[name][2] for name in sorted(files)}
        self._send_json(COMMIT, {"files": self._known})
        for name in set(before) - set(files):
            remote_files.remove(join(self.url, name), "--out")

    def refuse_unwritable(self) -> None:
        """Write a small file and delete it.

        Raises:
            UserError: that is not possible.
        """
        self._record.parent.mkdir(parents=True, exist_ok=True)
        probe = self._record.with_name("probe")
        probe.write_bytes(b"written before the work begins\n")
        remote_files.send(probe, join(self.url, ".probe"), "--out")
        remote_files.remove(join(self.url, ".probe"), "--out")

    def _refuse_another(self) -> None:
        """Refuse to write where another run has begun since, or, for what is no run, where something was committed."""
        if self._owner is None:
            if self._known is not None and self._committed() != self._known:
                raise UserError(
                    f"{self.url} was written to by another command while this one ran, so nothing was committed. Start "
                    "this one again."
                )
            return
        owner = self._read_owner()
        if owner is not None and owner.get("id") != self._owner["id"]:
            other = f"process {shown(owner.get('pid'))} on {shown(owner.get('host'))}"
            raise UserError(
                f"{self.url} belongs to another run since {shown(owner.get('since'))}: {other} began or resumed it. "
                f"This one (process {self._owner['pid']} on {self._owner['host']}) stops. It has committed nothing "
                "since; its files stay in the cache folder until the next start here."
            )

    def _read_owner(self) -> dict[str, Any] | None:
        try:
            content = remote_files.read(join(self.url, OWNER), "--out", _LONGEST)
            found = loads(content)
        except (FileNotFoundError, ValueError):  # deleted or spoiled by hand
            return None
        return found if isinstance(found, dict) else None

    def _send_json(self, name: str, content: dict[str, Any]) -> None:
        with atomic_file(self._record.with_name(name)) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
        remote_files.send(self._record.with_name(name), join(self.url, name), "--out")

    def _committed(self) -> dict[str, str]:
        """Name -> state in the bucket of each file of the last commit."""
        try:
            content = remote_files.read(join(self.url, COMMIT), "--out", _LONGEST)
        except FileNotFoundError:
            remote_files.refuse_no_bucket(self.url, "--out")
            return {}
        try:
            names = dict(json.loads(content)["files"])
            inside = not any(Path(name).is_absolute() for name in names)
            if not inside or any(".." in Path(name).parts for name in names):
                raise ValueError("a name leads out of the run")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{join(self.url, COMMIT)} is not what a run writes ({error}).") from None
        return names

    def _files(self) -> list[Path]:
        """What belongs to the run; hidden names are half-made."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return [
            path
            for path in found
            if not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        ]

    def _bring(self, name: str, sent: dict[str, list[Any]]) -> None:
        path, url = self.folder / name, join(self.url, name)
        file = remote_files.describe(url, "--out")
        if file is None:
            raise UserError(
                f"{url} is named in {COMMIT} and is not there. Put it back, or start again with --overwrite."
            )
        if path.is_file() and sent.get(name) == [*_stamp(path), file.state]:
            return
        with atomic_file(path) as to:
            remote_files.fetch(file, to, "--out")
        sent[name] = [*_stamp(path), file.state]

    def _send(self, name: str, path: Path, sent: dict[str, list[Any]]) -> None:
        stamp = _stamp(path)
        arrived: RemoteFile = remote_files.send(path, join(self.url, name), "--out")
        sent[name] = [*stamp, arrived.state]

    def _sent(self) -> dict[str, list[Any]]:
        """Name -> size and time of the file here, and its state in the bucket, when they were last alike."""
        try:
            return dict(read_json(self._record, dict[str, list[Any]]))
        except UserError:
            return {}

    def _note(self, sent: dict[str, list[Any]]) -> None:
        write_text(self._record, json.dumps(sent))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """For the block the folder of this machine belongs to this command: another that brought the last commit would
        delete what is not committed yet. Of several processes of a launch the first one of the machine holds it.

        Raises:
            UserError: another command uses it.
        """
        self._record.parent.mkdir(parents=True, exist_ok=True)
        with open(self._record.with_name(".used"), "w") as file:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(
                        f"{self.url} is in use by another command on this machine. Wait until it has ended."
                    ) from None
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process of this machine at a time."""
        self._record.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._record.with_name(".lock")):
            yield


def _stamp(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


@contextmanager
def run_at(place: Path | str) -> Iterator[Path]:
    """The folder of a run for a block that reads it and may write to it; one in a bucket comes here, and what the block
    changed goes back.

    Raises:
        UserError: there is no run in the bucket, or another command of this machine uses it; or what the block raises,
            with the URL in place of the folder.
    """
    if not is_remote(place):
        yield Path(place)
        return
    bucket = RunBucket(str(place))
    with bucket.in_use():
        if not bucket.bring():
            raise UserError(f"{bucket.url} holds no run: there is no {COMMIT}. Give the URL that --out had.")
        with naming_bucket(bucket):
            try:
                yield bucket.folder
            except Stopped:  # the same command continues from what it has written
                _commit_once(bucket)
                raise
        _commit_once(bucket)


def _commit_once(bucket: RunBucket) -> None:
    """By the first of all processes."""
    if os.environ.get("RANK", "0") == "0":
        bucket.commit()


@contextmanager
def naming_bucket(bucket: RunBucket) -> Iterator[None]:
    """Inside, a mistake about the folder of this machine is one about the bucket."""
    try:
        yield
    except (UserError, Stopped) as error:
        if str(bucket.folder) in str(error):
            error.args = (str(error).replace(str(bucket.folder), bucket.url), *error.args[1:])
        raise
