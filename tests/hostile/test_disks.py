"""Sick disks and odd places: the error names what could not be written, and what was whole before still is."""

import errno
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distill_mtl.errors import UserError, WriteError
from distill_mtl.files import (
    atomic_file,
    atomic_files,
    atomic_folder,
    refuse_full_disks,
    refuse_unwritable,
    write_text,
)
from distill_mtl.system_errors import error_number, exhausted

BIG = bytes(1 << 20)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond it fails as on a full disk, in native code too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def by_file(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(BIG)


def by_text(path: Path) -> None:
    write_text(path, "x" * len(BIG))


def by_torch(path: Path) -> None:
    with atomic_folder(path) as made:
        torch.save({"a": torch.zeros(len(BIG))}, made / "state.pt")


def by_safetensors(path: Path) -> None:
    with atomic_folder(path) as made:
        save_file({"a": torch.zeros(len(BIG))}, made / "model.safetensors")


def by_numpy(path: Path) -> None:
    with atomic_files(path) as made:
        np.save(made / path.name, np.zeros(len(BIG)))


def by_zip(path: Path) -> None:
    with atomic_file(path) as file:
        np.savez_compressed(file, a=np.frombuffer(os.urandom(len(BIG)), np.uint8))


WRITERS = (by_file, by_text, by_torch, by_safetensors, by_numpy, by_zip)


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_named_whatever_library_meets_it_and_leaves_nothing(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    with (
        largest_file(100_000),
        pytest.raises(WriteError, match=re.escape(str(tmp_path / "net.npy"))) as failed,
    ):
        write(tmp_path / "net.npy")
    assert "written" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_what_the_system_refuses_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_text(tmp_path / "a.txt", "earlier")

    def refuse(descriptor: int, at_once: int) -> None:
        raise OSError(number, os.strerror(number))

    with (
        pytest.raises(WriteError, match="unchanged") as failed,
        atomic_file(tmp_path / "a.txt", durable=True),
    ):
        monkeypatch.setattr(os, "fsync", refuse_with(number))
    assert failed.value.errno == number
    assert (tmp_path / "a.txt").read_text() == "earlier"
    assert everything_in(tmp_path) == ["a.txt"]


def refuse_with(number: int) -> Callable[[int], None]:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_device_that_is_full_is_named_and_stays_a_device() -> None:
    with pytest.raises(WriteError, match=r"/dev/full cannot be written: no space"):
        write_text(Path("/dev/full"), "x")
    assert Path("/dev/full").is_char_device()
    write_text(Path("/dev/null"), "x")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(WriteError, match=r"/dev/null is a device"), atomic_files(Path("/dev/null")):
        pass


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("file", "new"):
        (tmp_path / name).symlink_to(tmp_path / "there" / f"{name}.txt")
    (tmp_path / "there" / "file.txt").write_text("earlier")
    for name in ("file", "new"):
        write_text(tmp_path / name, "later")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / f"{name}.txt").read_text() == "later"
    (tmp_path / "folder").symlink_to(tmp_path / "there")
    with atomic_folder(tmp_path / "folder") as made:
        (made / "a.txt").write_text("a")
    assert (tmp_path / "folder").is_symlink()
    assert everything_in(tmp_path / "there") == ["a.txt"]
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(WriteError, match="circle"):
        write_text(tmp_path / "circle", "x")


def test_a_pipe_and_standard_output_get_what_is_written(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from distill_mtl.files import write_text\n"
        "print('before', flush=True); write_text(Path(sys.argv[1]), 'answer\\n'); print('after')"
    )
    command = f'{sys.executable} -c "$0" '
    for to, expected in (
        ("/dev/stdout", "before\nanswer\nafter\n"),
        ("/dev/stdout > file; cat file", "before\nanswer\nafter\n"),
        (">(cat > piped); sleep 0.2; cat piped", "before\nafter\nanswer\n"),
        ("/proc/self/fd/2 2> other; cat other", "before\nafter\nanswer\n"),
    ):
        done = subprocess.run(
            ["bash", "-c", command + to, code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stdout == expected, (to, done.stderr)


def test_a_place_that_cannot_be_written_is_refused_before_the_work_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("mine")
    for path, folder in (
        (tmp_path / "file" / "run", True),
        (tmp_path / "file" / "deep" / "run", True),
        (tmp_path / "file", True),
        (tmp_path, False),
        (tmp_path / ("x" * 300), False),
        (Path("/proc/run"), True),
        (Path("/dev/full/run"), True),
    ):
        with pytest.raises(UserError, match=r"--out"):
            refuse_unwritable(path, "--out", folder=folder)
    refuse_unwritable(tmp_path / "new" / "run", "--out", folder=True)
    refuse_unwritable(tmp_path / "new" / "file", "--json")
    refuse_unwritable(Path("/dev/stdout"), "--json")
    assert everything_in(tmp_path) == ["file"]
    with pytest.raises(UserError, match=r"900 TB.*free"):
        refuse_full_disks({tmp_path / "new": 500 * 10**12, tmp_path / "more": 400 * 10**12}, "--out")


def test_few_file_descriptors_are_named(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, before[1]))
    opened = []
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(WriteError, match=r"ulimit -n"):
            write_text(tmp_path / "a.txt", "x")
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "ulimit -n" in str(exhausted(OSError(errno.EMFILE, "Too many open files")))


def test_a_disguised_error_is_known_and_a_mistake_of_ours_is_not_taken_for_one(tmp_path: Path) -> None:
    for text, number in (
        (
            "PytorchStreamWriter failed writing file data/0: file write failed",
            errno.EIO,
        ),
        ("unable to write to file </torch_1_2>: No space left on device (28)", errno.ENOSPC),
        (
            "unable to allocate shared memory(shm) for file </torch_1_2>: Resource temporarily unavailable (11)",
            errno.ENOSPC,
        ),
        ("received 0 items of ancdata", errno.EMFILE),
    ):
        assert error_number(RuntimeError(text)) == number
    with pytest.raises(KeyError), atomic_folder(tmp_path / "net"):
        {}["a"]
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "net"):
        (tmp_path / "other").read_text()
    assert exhausted(ValueError("No space left on device")) is None


def big(item: int) -> dict[str, torch.Tensor]:
    return {"images": torch.zeros(300_000)}


def test_little_shared_memory_is_an_error_and_not_a_hang() -> None:
    """What the reader processes hand over has no room; a limit on file sizes is like a small /dev/shm."""
    code = (
        "import resource; from test_disks import big; from distill_mtl.data.stream import read_ahead\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "print(*read_ahead(big, range(6), 2, lambda item: [(str(item), item)]))"
    )
    places = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert re.search(r"UserError: training\.workers: a batch of 1\.2 MB .*/dev/shm", done.stderr), done.stderr


def test_an_output_folder_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"--out .*out is a link to .*gone, which is not there"):
        refuse_unwritable(tmp_path / "out", "--out", folder=True)


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(1 << 50, dtype=torch.uint8),
        lambda: np.empty(1 << 50, np.uint8),
        lambda: (_ for _ in ()).throw(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        ),
    ],
    ids=["torch", "NumPy", "an accelerator"],
)
def test_memory_that_is_used_up_is_a_message(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as error:
        allocate()
    found = str(exhausted(error.value))
    assert found.startswith("memory is used up (")
    assert "training.batch_size" in found
    assert "\n" not in found
