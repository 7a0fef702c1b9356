"""The file format: what is put is what is read, by us and by safetensors, and a cut file is never read."""

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from distill_mtl.errors import CacheError
from distill_mtl.targets.sidecar import Sidecar, Slot, hash_of, sidecar_size, write_sidecar

TYPES = [np.dtype(name) for name in ("float16", "float32", "int8", "uint8", "uint16", "int32")]
SLOTS = st.builds(
    Slot, st.sampled_from(TYPES), st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)


def write(
    path: Path, rows: int, slots: dict[str, Slot], cut: int = 3, **metadata: str
) -> dict[str, np.ndarray]:
    """A sidecar of random rows, put in blocks of `cut`."""
    random = np.random.default_rng(0)
    tensors = {name: Slot(slot.dtype, (rows, *slot.shape)) for name, slot in slots.items()}
    arrays = {
        name: random.integers(0, 100, tensor.shape).astype(tensor.dtype) for name, tensor in tensors.items()
    }
    with write_sidecar(path, metadata, tensors, list(tensors)[:1]) as writer:
        for first in range(0, rows, cut):
            writer.put({name: array[first : first + cut] for name, array in arrays.items()})
    return arrays


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.dictionaries(NAMES, SLOTS, min_size=1, max_size=4),
    rows=st.integers(1, 9),
    cut=st.integers(1, 9),
    note=st.text(st.characters(codec="utf-8"), max_size=20),
)
def test_what_is_put_is_what_is_read_by_us_and_by_safetensors(
    tmp_path: Path, slots: dict[str, Slot], rows: int, cut: int, note: str
) -> None:
    path = tmp_path / "a.safetensors"
    arrays = write(path, rows, slots, cut, note=note)
    sidecar = Sidecar(path)
    theirs = load_file(path)
    assert sidecar.tensors.keys() == theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(sidecar.array(name), array)
        assert np.array_equal(theirs[name], array)
        assert sidecar.array(name).ctypes.data % array.dtype.itemsize == 0, "aligned"
    with safe_open(path, "np") as opened:
        assert opened.metadata() == sidecar.metadata
    assert sidecar.metadata["note"] == note
    assert path.stat().st_size == sidecar.size


def test_the_bytes_do_not_depend_on_how_rows_were_put(tmp_path: Path) -> None:
    slots = {"x": Slot(np.dtype(np.float16), (5,)), "y": Slot(np.dtype(np.int32), ())}
    for cut in (1, 4, 7):
        write(tmp_path / f"{cut}.safetensors", 7, slots, cut)
    contents = {(tmp_path / f"{cut}.safetensors").read_bytes() for cut in (1, 4, 7)}
    assert len(contents) == 1
    assert len(contents.pop()) == sidecar_size(
        {}, {name: Slot(slot.dtype, (7, *slot.shape)) for name, slot in slots.items()}, ["x"]
    )


def test_the_hash_in_the_header_follows_the_tensor(tmp_path: Path) -> None:
    slots = {"x": Slot(np.dtype(np.int8), (2,))}
    hashes = set()
    for rows in (3, 4):
        write(tmp_path / "a.safetensors", rows, slots)
        hashes.add(Sidecar(tmp_path / "a.safetensors").metadata[hash_of("x")])
    assert len(hashes) == 2


def test_a_file_cut_at_any_byte_is_refused_by_name(tmp_path: Path) -> None:
    path, cut = tmp_path / "a.safetensors", tmp_path / "cut.safetensors"
    write(path, 3, {"x": Slot(np.dtype(np.float16), (3,))}, note="n")
    whole = path.read_bytes()
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(CacheError, match=r"cut\.safetensors is cut"):
            Sidecar(cut)
    cut.write_bytes(whole + b"x")
    with pytest.raises(CacheError, match=f"{len(whole) + 1} bytes.*{len(whole)}"):
        Sidecar(cut)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_says_the_same(tmp_path: Path, place: int, byte: int) -> None:
    """Never another exception, whatever byte is wrong."""
    path = tmp_path / "a.safetensors"
    write(path, 3, {"x": Slot(np.dtype(np.float16), (3,)), "y": Slot(np.dtype(np.int8), ())}, note="n")
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(bytes(content))
    with suppress(CacheError):
        sidecar = Sidecar(path)
        for name in sidecar.tensors:
            sidecar.array(name)


@pytest.mark.parametrize("shape", [[-3, -2], [3.0, 2], [True, 6], ["3", 2]])
def test_a_shape_that_is_none_is_refused(tmp_path: Path, shape: list[object]) -> None:
    entry = {"dtype": "U8", "shape": shape, "data_offsets": [0, 6]}
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(6))
    with pytest.raises(CacheError, match=r"a\.safetensors is cut, damaged or no sidecar"):
        Sidecar(path)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(CacheError, match="FIFO"):
        Sidecar(tmp_path / "a.safetensors")


def test_a_stopped_writer_leaves_nothing_and_the_earlier_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    slots = {"x": Slot(np.dtype(np.int8), (2,))}
    write(path, 3, slots)
    before = path.read_bytes()
    tensors = {"x": Slot(np.dtype(np.int8), (9, 2))}
    with pytest.raises(KeyboardInterrupt):
        put_four(path, tensors, KeyboardInterrupt())
    with pytest.raises(ValueError, match="5 rows were never put"):
        put_four(path, tensors, None)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def put_four(path: Path, tensors: dict[str, Slot], stopped: BaseException | None) -> None:
    with write_sidecar(path, {}, tensors) as writer:
        writer.put({"x": np.zeros((4, 2), np.int8)})
        if stopped is not None:
            raise stopped


def test_a_thousand_open_sidecars_hold_no_file_open(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", 2, {"x": Slot(np.dtype(np.int8), ())})
    before = len(os.listdir("/dev/fd"))
    opened = [Sidecar(tmp_path / "a.safetensors") for _ in range(50)]
    assert all(sidecar.array("x").shape == (2,) for sidecar in opened)
    assert len(os.listdir("/dev/fd")) == before


def test_a_copy_in_another_process_maps_the_file_itself(tmp_path: Path) -> None:
    arrays = write(tmp_path / "a.safetensors", 1000, {"x": Slot(np.dtype(np.float32), (100,))})
    sidecar = Sidecar(tmp_path / "a.safetensors")
    sidecar.array("x")
    travelling = pickle.dumps(sidecar)
    assert len(travelling) < 2000
    assert np.array_equal(pickle.loads(travelling).array("x"), arrays["x"])


def test_a_full_disk_is_a_message_that_says_how_to_go_on(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    too_large = {"x": Slot(np.dtype(np.int8), (1 << 50,))}
    with (
        pytest.raises(CacheError, match="cannot be written .* the same command again"),
        write_sidecar(tmp_path / "a.safetensors", {}, too_large),
    ):
        pass
    assert not list(tmp_path.iterdir())
