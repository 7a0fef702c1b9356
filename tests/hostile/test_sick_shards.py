"""Damaged and hostile shards: each is refused with one line, or read as if nothing were wrong where nothing is.

A dozen are read in this process; the study runs `check --deep` on every one, and trains on those that it accepts.
"""

import gzip
import os
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import forked
import fsspec
import numpy as np
import pytest
import toy_world

from distill_mtl.data import shard_files
from distill_mtl.data.checksums import SUFFIX, write_checksums
from distill_mtl.data.index import load_index
from distill_mtl.data.shard_files import find_shards
from distill_mtl.errors import ShardError
from distill_mtl.files import cache_folder

BLOCK = tarfile.BLOCKSIZE
GNU_LONG, GNU_SPARSE = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE


# ---- parts of an archive ----------------------------------------------------------------------------
def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def block(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A header with a right checksum, whatever its size says."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if 0 <= size < 8**11:
        header[124:136] = b"%011o\0" % size
    else:  # the sign, and eleven bytes of two's complement
        header[124:136] = bytes([255 if size < 0 else 128]) + (size % 256**11).to_bytes(11, "big")
    return mended(header)


def mended(header: bytes) -> bytes:
    """The same header with its right checksum."""
    content = bytearray(header)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    return bytes(content)


def member(name: str, content: bytes) -> bytes:
    return block(name, len(content)) + padded(content)


def attributes(text: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return block("PaxHeader", len(text), kind) + padded(text)


def attribute(key: str, value: str) -> bytes:
    body = f" {key}={value}\n"
    size = len(body) + 1
    while len(f"{size}{body}") != size:
        size = len(f"{size}{body}")
    return f"{size}{body}".encode()


class Whole:
    """A whole shard of 40 rows, a picture and a class each, and where its members lie."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        with tarfile.open(path) as archive:
            self.members = archive.getmembers()
        self.end = self.members[-1].offset_data + BLOCK  # a class takes one block
        self.rows = self.content[: self.end]
        self.close = bytes(20 * BLOCK)
        self.picture = self.payload(0)

    def payload(self, number: int) -> bytes:
        found = self.members[number]
        return self.content[found.offset_data : found.offset_data + found.size]

    def changed(self, place: int, to: bytes) -> bytes:
        return self.content[:place] + to + self.content[place + len(to) :]

    def flipped(self, place: int) -> bytes:
        return self.changed(place, bytes([self.content[place] ^ 1]))

    def resized(self, number: int, change: int) -> bytes:
        """The size in a header is another one, and its checksum is right."""
        found = self.members[number]
        header = bytearray(self.content[found.offset : found.offset + BLOCK])
        header[124:136] = b"%011o\0" % (found.size + change)
        return self.changed(found.offset, mended(header))

    def followed_by(self, more: bytes) -> bytes:
        return self.rows + more + self.close

    def led_by(self, more: bytes) -> bytes:
        return more + self.rows + self.close

    def row(self, key: str, label: bytes = b"1") -> bytes:
        return member(f"{key}.png", self.picture) + member(f"{key}.cls", label)


PNG, CLS = 20, 21
"""Numbers of members of the eleventh row."""
CUT = r"cut or damaged"
OK = ""
Damage = Callable[[Whole], bytes]
DAMAGES: dict[str, tuple[Damage, str]] = {
    # what is missing
    "an empty file": (lambda w: b"", CUT),
    "cut in the first header": (lambda w: w.content[:200], CUT),
    "cut at a member's border": (
        lambda w: w.content[: w.members[PNG].offset],
        "without an end-of-archive mark",
    ),
    "cut in a header": (lambda w: w.content[: w.members[PNG].offset + 300], CUT),
    "cut in a picture": (lambda w: w.content[: w.members[PNG].offset_data + 50], CUT),
    "cut before its closing zeros": (lambda w: w.rows, "without an end-of-archive mark"),
    "one closing block of two": (lambda w: w.rows + bytes(BLOCK), "without an end-of-archive mark"),
    # flipped bits
    **{
        f"a flipped bit in a header's {what}": (
            lambda w, place=place: w.flipped(w.members[PNG].offset + place),
            CUT,
        )
        for what, place in (("name", 3), ("size", 130), ("checksum", 150), ("type", 156), ("magic", 259))
    },
    "a flipped bit in a picture": (lambda w: w.flipped(w.members[PNG].offset_data + 60), "row .*png"),
    "a flipped bit in a label": (lambda w: w.changed(w.members[CLS].offset_data, b"q"), r"cls"),
    # other blocks
    "zeros for a header": (lambda w: w.changed(w.members[PNG].offset, bytes(BLOCK)), "more data follows"),
    "zeros for a picture": (
        lambda w: w.changed(w.members[PNG].offset_data, bytes(w.members[PNG].size)),
        "row .*png",
    ),
    "zeros for a label": (lambda w: w.changed(w.members[CLS].offset_data, b"\0"), "cls"),
    "zeros alone": (lambda w: bytes(len(w.content)), "no rows|" + CUT),
    "ones alone": (lambda w: b"\xff" * len(w.content), CUT),
    "noise": (lambda w: np.random.default_rng(0).bytes(len(w.content)), CUT),
    "zeros from the middle on": (
        lambda w: w.content[: w.members[PNG].offset] + bytes(8 << 20),
        "more zeros than close one",
    ),
    "text": (lambda w: b"<html>not found</html>\n" * 90, CUT),
    # members that come twice
    "a member twice": (lambda w: w.led_by(member("a.png", w.picture) * 2), "occurs twice"),
    "a key again at the end": (lambda w: w.followed_by(w.row(w.members[0].name[:-4])), "come again"),
    "two archives": (lambda w: w.content + w.content, "more data follows"),
    # members of others
    "files without an ending, of a system, in folders": (
        lambda w: w.led_by(
            b"".join(
                member(name, b"x") for name in ("README", ".DS_Store", "._a.png", "a/b/c/", "__MACOSX/a.png")
            )
        ),
        OK,
    ),
    "a file of others in the middle": (lambda w: w.led_by(member("notes.txt", b"x")), "lack a picture"),
    "names that lead out": (lambda w: w.led_by(w.row("../../etc/x") + w.row("/etc/passwd")), OK),
    "a row 40 folders deep": (lambda w: w.led_by(w.row("d/" * 40 + "x")), OK),
    "names with newlines and colours": (lambda w: w.led_by(w.row("a\n\x1b[31mb")), OK),
    "a name that is not UTF-8": (lambda w: w.led_by(w.row("\udcff\udcfe")), OK),
    "a name of 100,000 letters": (
        lambda w: w.led_by(attributes(b"a" * 100_000 + b".png\0", GNU_LONG) + w.row("x")),
        "a name of 100,004 letters",
    ),
    "a picture that is a symbolic link": (
        lambda w: w.led_by(block("x.png", 0, tarfile.SYMTYPE, "/etc/passwd") + member("x.cls", b"1")),
        "lack a picture",
    ),
    "a label that is a hard link": (
        lambda w: w.led_by(member("x.png", w.picture) + block("x.cls", 0, tarfile.LNKTYPE, "a")),
        "lack the label",
    ),
    "devices and FIFOs": (
        lambda w: w.led_by(block("x.png", 0, tarfile.CHRTYPE) + block("y.png", 0, tarfile.FIFOTYPE)),
        OK,
    ),
    # sizes
    "a size a block too large": (lambda w: w.resized(PNG, BLOCK), "lack"),
    "a size a block too small": (lambda w: w.resized(PNG, -BLOCK), "row .*png|" + CUT),
    "a size of two bytes less": (lambda w: w.resized(PNG, -2), "row .*png"),
    "a size of 0": (lambda w: w.resized(CLS, -w.members[CLS].size), CUT),
    "a size beyond the end": (lambda w: w.resized(PNG, 1 << 30), CUT),
    "a size below 0, which leads back": (lambda w: w.led_by(block("x", -BLOCK)), r"announces -512 bytes"),
    "a size of 2 to the 70": (lambda w: w.led_by(block("x.png", 2**70)), CUT),
    # headers of more than a block
    "a size below 0 in an attribute": (
        lambda w: w.led_by(attributes(attribute("size", "-2048")) + member("x", b"1")),
        r"size of -2,048 bytes",
    ),
    "a size of 1e18 in an attribute": (
        lambda w: w.led_by(attributes(attribute("size", "9" * 18)) + member("x", b"1")),
        CUT,
    ),
    "attributes of 64 MB": (lambda w: w.led_by(attributes(bytes(64 << 20))), r"announces 67,108,864 bytes"),
    "attributes that announce 8 EB": (
        lambda w: w.led_by(block("PaxHeader", 2**62, tarfile.XHDTYPE)),
        "announces",
    ),
    "2,000 headers around a member": (
        lambda w: w.led_by(attributes(attribute("comment", "x")) * 2000 + member("x.png", w.picture)),
        "a header that no program writes",
    ),
    "100,000 digits in an attribute": (lambda w: w.led_by(attributes(b"9" * 100_000)), "1,000 digits"),
    "20,000 attributes for all members": (
        lambda w: w.led_by(
            b"".join(
                attributes(
                    b"".join(attribute(f"k{n}", "x") for n in range(first, first + 5000)), tarfile.XGLTYPE
                )
                for first in range(0, 20_000, 5000)
            )
        ),
        "attributes for all members",
    ),
    "attributes in an unknown alphabet": (
        lambda w: w.led_by(attributes(b"20 hdrcharset=\xff\xfe\xfd\n")),
        "a header that no program writes|" + CUT,
    ),
    "a sparse file": (lambda w: w.led_by(block("x.png", 0, GNU_SPARSE)), "sparse file, which is not read"),
    "a sparse file of attributes": (
        lambda w: w.led_by(
            attributes(attribute("GNU.sparse.major", "1") + attribute("GNU.sparse.minor", "0"))
            + member("x.png", b"abc")
        ),
        "sparse file, which is not read",
    ),
    # labels
    "a label of 9,000 digits": (lambda w: w.led_by(w.row("x", b"9" * 9000)), "cls"),
    "a label of 3 MB": (lambda w: w.led_by(w.row("x", b"[" * (3 << 20))), "cls"),
}
"""Name -> the shard's bytes, and what its error says; nothing where it is as good as any."""
PACKED: dict[str, tuple[Damage, str]] = {
    "gzip, cut": (lambda w: gzip.compress(w.content)[:-20], "could not be brought"),
    "gzip, a flipped bit": (
        lambda w: flipped(gzip.compress(w.content)),
        "could not be brought",
    ),
    "gzip of 1 GB of zeros": (lambda w: zeros(1 << 30), "unpacks to more than 200 times its size"),
    "gzip of nothing": (lambda w: gzip.compress(b""), CUT),
    "no gzip": (lambda w: w.content, "could not be brought.*[Nn]ot a gzipped file"),
}
"""The same of what is called `.tar.gz`."""


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]


def zeros(size: int) -> bytes:
    """Zeros packed by gzip, without so many of them in memory."""
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(size >> 24)) + packer.flush()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Whole:
    return Whole(recipe.with_name("hue-train.tar"))


READ_HERE = [name for name, (_, said) in DAMAGES.items() if said not in (OK, "cls") and "row " not in said]


@pytest.mark.parametrize("case", [name for name in READ_HERE if "lack" not in DAMAGES[name][1]])
def test_a_damaged_archive_is_refused_with_its_cause(whole: Whole, case: str, tmp_path: Path) -> None:
    damage, said = DAMAGES[case]
    shard = tmp_path / "pets.tar"
    shard.write_bytes(damage(whole))
    with pytest.raises(ShardError, match=said) as caught:
        load_index(shard)
    assert str(shard) in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("case", [name for name, (_, said) in DAMAGES.items() if said == OK])
def test_an_unusual_archive_is_read(whole: Whole, case: str, tmp_path: Path) -> None:
    shard = tmp_path / "pets.tar"
    shard.write_bytes(DAMAGES[case][0](whole))
    assert len(load_index(shard)) >= 40


@pytest.mark.parametrize("case", ["gzip, cut", "gzip, a flipped bit", "no gzip"])
def test_a_damaged_compressed_shard_leaves_nothing(whole: Whole, case: str, tmp_path: Path) -> None:
    damage, said = PACKED[case]
    shard = tmp_path / "pets.tar.gz"
    shard.write_bytes(damage(whole))
    kept = files_of_the_cache()
    with pytest.raises(ShardError, match=said):
        find_shards(str(shard), "data.pets.shards")
    assert files_of_the_cache() == kept


def files_of_the_cache() -> set[Path]:
    return {path for path in (cache_folder() / "shards").rglob("*") if path.is_file()}


@pytest.mark.parametrize("remote", [False, True])
def test_what_a_compressed_shard_unpacks_to_is_bounded(
    monkeypatch: pytest.MonkeyPatch, remote: bool, tmp_path: Path
) -> None:
    monkeypatch.setattr(shard_files, "_SMALL", 1 << 20)
    monkeypatch.setattr(shard_files, "_CHUNK", 1 << 16)
    shard, bomb = tmp_path / "pets.tgz", zeros(1 << 25)
    if remote:
        fsspec.filesystem("memory").pipe("/bomb/pets.tgz", bomb)
    else:
        shard.write_bytes(bomb)
    kept = files_of_the_cache()
    with pytest.raises(
        ShardError, match=r"pets\.tgz.* unpacks to more than 200 times its size: \d\.\d MB from"
    ):
        find_shards("memory://bomb/pets.tgz" if remote else str(shard), "data.pets.shards")
    assert files_of_the_cache() == kept


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz"])
def test_a_shard_of_labels_alone_is_no_bomb(
    monkeypatch: pytest.MonkeyPatch, ending: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(shard_files, "_SMALL", 1 << 12)
    content = b"".join(member(f"{row:06d}.cls", b"%d" % (row % 10)) for row in range(5000)) + bytes(2 * BLOCK)
    shard = tmp_path / f"pets{ending}"
    shard.write_bytes(gzip.compress(content))
    (found,) = find_shards(str(shard), "data.pets.shards")
    assert found.path.read_bytes() == content


def test_more_than_the_disk_has_free_is_not_fetched(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shard_files, "free_bytes", lambda path: (path.parent, 20_000))
    shard = tmp_path / "pets.tar.gz"
    shard.write_bytes(gzip.compress(whole.content))
    kept = files_of_the_cache()
    with pytest.raises(
        ShardError, match=r"more than 20 kB unpacked, which is all that the disk of .* has free"
    ):
        find_shards(str(shard), "data.pets.shards")
    assert files_of_the_cache() == kept


# ---- what lies beside a shard -----------------------------------------------------------------------
def test_rows_that_zeros_have_replaced_are_missed_where_there_are_checksums(
    whole: Whole, tmp_path: Path
) -> None:
    shard = tmp_path / "pets.tar"
    shard.write_bytes(whole.content)
    names = [each.name.split(".") for each in whole.members]
    write_checksums(
        shard, {(key, ending): zlib.crc32(whole.payload(n)) for n, (key, ending) in enumerate(names)}
    )
    assert len(load_index(shard)) == 40
    shard.write_bytes(whole.content[: whole.members[PNG].offset] + whole.close)
    with pytest.raises(ShardError, match=r"pets\.tar: 60 members are missing that pets\.tar\.crc32 lists"):
        load_index(shard)


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.zeros((40, 3), np.int64)},
        {"sizes": np.full((40, 2), 1 << 40)},
        {"offsets": np.full((40, 2), -5)},
        {"checksums": np.zeros((40, 2))},
        {"key_ends": np.arange(40)[::-1].copy()},
        {"key_ends": np.zeros(0, np.int64)},
        {"key_text": np.zeros(3, np.uint8)},
    ],
)
def test_an_index_that_does_not_fit_its_shard_is_made_again(
    whole: Whole, change: dict[str, np.ndarray], tmp_path: Path
) -> None:
    shard = tmp_path / "pets.tar"
    shard.write_bytes(whole.content)
    right = load_index(shard)
    place = tmp_path / "pets.tar.index.npz"
    with np.load(place) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez(place, **(content | change))
    found = load_index(shard)
    assert np.array_equal(found.offsets, right.offsets)
    assert found.key_text == right.key_text


@pytest.mark.parametrize("ending", [SUFFIX, ".index.npz"])
def test_a_fifo_beside_a_shard_is_not_waited_for(whole: Whole, ending: str, tmp_path: Path) -> None:
    shard = tmp_path / "pets.tar"
    shard.write_bytes(whole.content)
    os.mkfifo(tmp_path / f"pets.tar{ending}")
    if ending == SUFFIX:
        with pytest.raises(ShardError, match=r"pets\.tar\.crc32: cannot be read .*FIFO"):
            load_index(shard)
    else:
        assert len(load_index(shard)) == 40


def test_a_link_in_the_place_of_an_index_does_not_choose_what_is_replaced(
    whole: Whole, tmp_path: Path
) -> None:
    shard, precious = tmp_path / "pets.tar", tmp_path / "precious"
    shard.write_bytes(whole.content)
    precious.write_text("precious")
    (tmp_path / "pets.tar.index.npz").symlink_to(precious)
    assert len(load_index(shard)) == 40
    assert precious.read_text() == "precious"


def test_an_index_that_unpacks_without_end_is_made_again(whole: Whole, tmp_path: Path) -> None:
    shard, place = tmp_path / "pets.tar", tmp_path / "pets.tar.index.npz"
    shard.write_bytes(whole.content)
    np.savez_compressed(place, offsets=np.zeros(100 << 20, np.uint8))
    assert len(load_index(shard)) == 40
    assert place.stat().st_size < 20_000


# ---- the study --------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_whole_commands_on_all_damaged_shards(recipe: Path, whole: Whole) -> None:
    shard, packed = recipe.with_name("hue-train.tar"), recipe.with_name("hue-train.tar.gz")
    zipped = recipe.with_name("zipped.yaml")
    zipped.write_text(recipe.read_text().replace(str(shard), str(packed)))
    wrong = []
    for case, (damage, _) in {**DAMAGES, **PACKED}.items():
        used, place = (zipped, packed) if case in PACKED else (recipe, shard)
        place.write_bytes(damage(whole))
        ended = [forked.run("check", used, "--deep", seconds=20)]
        if ended[0].finding == "ok":
            train = [
                "distill",
                used,
                "--out",
                recipe.with_name("run"),
                "--overwrite",
                "--set=training.steps=3",
            ]
            ended.append(forked.run(*train))
        found = ended[-1]
        # What is said of each is tested above, on the shard alone. A bit in a row that no step reads may pass.
        if found.finding not in ("ok", "refused"):
            wrong.append(case)
        times = "+".join(f"{each.seconds:.0f}" for each in ended)
        sys.stdout.write(
            f"{'WRONG' if case in wrong else 'right':6}{case:50}{found.finding:9}{times:>8} s  {found.line[-110:]}\n"
        )
        sys.stdout.flush()
    assert not wrong
