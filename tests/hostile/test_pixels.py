"""Pictures as the world gives them: damaged, of other formats, of other ranges, absurdly large, deadly."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, features

from distill_mtl.data import DataSettings, Sources, decode, open_sources
from distill_mtl.data.decode import read_image
from distill_mtl.data.stream import read_ahead
from distill_mtl.errors import ShardError
from distill_mtl.picture_bytes import MOST_PIXELS, PICTURE_ENDINGS
from distill_mtl.recipe.schema import SourceSection
from distill_mtl.shards import folder_rows, write_shards
from distill_mtl.tasks.maps import read_png

ROOT = Path(__file__).parents[2]
PIXELS = np.kron(np.random.RandomState(0).randint(0, 256, (6, 8, 3)), np.ones((6, 6, 1))).astype(np.uint8)
RGB = Image.fromarray(PIXELS)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")


def encode(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, form, **options)
    return encoded.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(content: bytes, width: int = 8, height: int = 8) -> bytes:
    """An RGB PNG with right checksums around whatever stands for its pixels."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def flipped(payload: bytes, bit: int) -> bytes:
    damaged = bytearray(payload)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def finding(payload: bytes, ending: str = "") -> str:
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        read_image(payload, ending)
    return str(caught.value)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_one_flipped_bit_in_a_png_is_found_by_its_checksum(place: float) -> None:
    payload = encode(RGB)
    bit = int(8 * (33 + place * (len(payload) - 33 - 12)))  # after the header, before the last chunk
    finding(flipped(payload, bit))
    with pytest.raises(ValueError, match="cannot be read"):
        read_png(flipped(payload, bit), "the mask")


ROWS = (b"\0" + bytes(range(24))) * 8


@pytest.mark.parametrize(
    "content",
    [
        zlib.compress(ROWS)[:-8],
        zlib.compress(ROWS[:60]),
        b"\x78\x9c" + b"\xff" * 40,
        zlib.compress(ROWS.replace(b"\0\0", b"\7\0")),
        b"",
    ],
    ids=["stream cut", "rows missing", "not a stream", "unknown filter", "empty"],
)
def test_damage_behind_right_checksums_is_refused(content: bytes) -> None:
    assert torch.equal(
        read_image(png_of(zlib.compress(ROWS)))[0, 3], torch.arange(0, 24, 3, dtype=torch.uint8)
    )
    finding(png_of(content))


def test_half_a_picture_is_refused_whatever_another_library_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for form in ("JPEG", "PNG", "BMP", "TIFF"):
        payload = encode(RGB, form)
        finding(payload[: len(payload) * 2 // 3])


@pytest.mark.parametrize(
    "payload",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"%PDF-1.4\n",
        b"<svg/>",
        b"\0\0\1\0\1\0",
    ],
    ids=["eps", "pdf", "svg", "ico"],
)
def test_the_bytes_decide_the_format_and_other_formats_are_not_tried(
    payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", nobody)
    assert "no format that is known" in finding(payload, "png")


def test_a_name_counts_only_where_the_bytes_have_no_signature() -> None:
    without_footer = encode(RGB, "TGA").removesuffix(b"TRUEVISION-XFILE.\0")
    assert "no format" in finding(without_footer)
    assert read_image(without_footer, "TGA").shape == (3, 36, 48)
    assert torch.equal(read_image(encode(RGB), "tga"), torch.from_numpy(PIXELS).permute(2, 0, 1))


GREY = np.arange(240).reshape(12, 20)


def tiff(values: np.ndarray, **tags: Any) -> bytes:
    numbers = {"most": 281, "photometric": 262}
    return encode(
        Image.fromarray(values), "TIFF", tiffinfo={numbers[name]: tag for name, tag in tags.items()}
    )


def packed_twelve_bits(values: np.ndarray) -> bytes:
    """A TIFF of 12 bits per pixel, which Pillow does not write."""
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    pixels = packed.astype(np.uint8).tobytes()
    height, width = values.shape
    entries = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries.append((279, len(pixels)))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    directory = struct.pack("<H", len(entries)) + table + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def pgm(values: np.ndarray, most: int) -> bytes:
    return b"P5 %d %d %d\n" % (values.shape[1], values.shape[0], most) + values.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "payload",
    [
        encode(Image.fromarray((GREY * 257).astype(np.uint16))),
        tiff((GREY * 257).astype(np.uint16)),
        packed_twelve_bits(GREY * 16 + 3),
        tiff((GREY * 16 + 3).astype(np.uint16), most=4095),
        tiff((GREY * 16 + 3).astype(np.int32), most=4095),
        tiff((GREY / 255).astype(np.float32), most=1),
        pgm(GREY * 257, 65535),
        pgm(GREY * 16 + 8, 4095),
        tiff((65535 - GREY * 257).astype(np.uint16), photometric=0),
    ],
    ids=[
        "16-bit png",
        "16-bit tiff",
        "12-bit tiff",
        "12 of 16 bits",
        "12 of 32 bits",
        "float, 1 is white",
        "16-bit pgm",
        "12-bit pgm",
        "0 is white",
    ],
)
def test_values_are_scaled_by_what_the_file_says(payload: bytes) -> None:
    assert torch.equal(read_image(payload)[1], torch.from_numpy(GREY.astype(np.uint8)))


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ((GREY / 239).astype(np.float32), "values 0 … 1 in a float picture"),
        (GREY.astype(np.float32), "values 0 … 239 in a float picture"),
        ((GREY * 16).astype(np.int32), "values 0 … 3824 in a 32-bit picture"),
        (np.where(GREY == 7, np.nan, GREY / 255).astype(np.float32), "nan"),
    ],
)
def test_values_of_an_unknown_range_are_refused_with_what_was_seen(values: np.ndarray, seen: str) -> None:
    assert seen in finding(tiff(values))


def test_values_beyond_what_the_file_says_are_refused() -> None:
    assert "0 … 2 in a float picture, and the file says 0 … 1" in finding(
        tiff(np.linspace(0, 2, 240).reshape(12, 20).astype(np.float32), most=1)
    )


def declared(form: str, width: int, height: int) -> bytes:
    """A small picture that says it is larger."""
    small = bytearray(encode(RGB, form))
    if form == "PNG":
        return png_of(zlib.compress(b"\0" * 99), width, height)
    if form == "JPEG":
        at = small.index(b"\xff\xc0")
        small[at + 5 : at + 9] = struct.pack(">HH", height, width)
    if form == "GIF":
        small[6:10] = struct.pack("<HH", width, height)
    if form == "BMP":
        small[18:26] = struct.pack("<ii", width, height)
    if form == "TGA":
        small[12:16] = struct.pack("<HH", width, height)
    if form == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + b"\0" * 99
    return bytes(small)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TGA", "PPM"])
@pytest.mark.filterwarnings("error")
def test_an_absurd_size_is_refused_before_anything_is_decoded(form: str) -> None:
    said = finding(declared(form, 12_000, 12_000))
    assert "12,000 x 12,000 = 144,000,000 pixels" in said
    assert f"{MOST_PIXELS:,}" in said


def test_a_large_mask_is_refused_too() -> None:
    with pytest.raises(ValueError, match="144,000,000 pixels"):
        read_png(declared("PNG", 12_000, 12_000), "the mask")


def damaged(form: str, count: int) -> Iterator[bytes]:
    """Flipped bits, other bytes, cuts and holes, always the same ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options: list[dict[str, Any]] = [{}]
    if form == "JPEG":
        options += [{"progressive": True}, {"restart_marker_blocks": 2}, {"exif": exif.tobytes()}]
    if form == "TIFF":
        options += [{"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    if form == "WEBP":
        options += [{"lossless": True}, {"exif": exif.tobytes()}]
    wholes = [encode(RGB, form, **each) for each in options] + [encode(RGB.convert("L"), form)]
    random = Random(form)
    for number in range(count):
        payload = bytearray(wholes[number % len(wholes)])
        place = random.randrange(len(payload))
        match number // len(wholes) % 4:
            case 0:
                payload[place] ^= 1 << random.randrange(8)
            case 1:
                for _ in range(8):
                    payload[random.randrange(len(payload))] = random.randrange(256)
            case 2:
                del payload[place:]
            case _:
                del payload[place : place + random.randrange(1, 60)]
        yield bytes(payload)


def read_damaged(form: str, count: int) -> None:
    """What the child does: each is read or refused; nothing else may come out."""
    answers = {"read": 0, "refused": 0}
    for number, payload in enumerate(damaged(form, count)):
        sys.stdout.write(f"{form} {number}\n")
        sys.stdout.flush()
        try:
            read_image(payload, "tga" if form == "TGA" else "")
            answers["read"] += 1
        except ValueError:
            answers["refused"] += 1
    sys.stdout.write(f"{form} {answers}\n")


def in_a_child(form: str, count: int, seconds: float) -> str:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_pixels as test; "
    code += f"test.read_damaged({form!r}, {count})"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    last = ran.stdout.splitlines()[-1:]
    assert ran.returncode == 0, f"{last}: exit status {ran.returncode}: {ran.stderr[-2000:]}"
    return last[0]


def test_a_dozen_damaged_pngs_end_no_process() -> None:
    assert in_a_child("PNG", 12, 60) == "PNG {'read': 0, 'refused': 12}"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_three_hundred_damaged_pictures_of_a_format_end_no_process(form: str) -> None:
    sys.stdout.write(in_a_child(form, 300, 300) + "\n")


def photos(folder: Path) -> Path:
    """Two classes of twelve pictures."""
    for name in ("cat", "dog"):
        for number in range(12):
            path = folder / name / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.RandomState(number).randint(0, 256, (8, 8, 3)).astype(np.uint8)).save(
                path
            )
    return folder


def deadly(payload: bytes) -> Callable[..., torch.Tensor]:
    """A decoder that ends a reader process at one picture, as native code would; not this process."""
    here, whole = os.getpid(), decode.read_image

    def read(content: bytes, ending: str = "") -> torch.Tensor:
        if content == payload and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(content, ending)

    return read


@pytest.mark.parametrize("skip", [False, True])
def test_a_reader_of_shards_that_dies_is_an_error_that_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: bool
) -> None:
    folder = photos(tmp_path / "photos")
    bad = folder / "dog" / "07.png"
    bad.write_bytes(encode(RGB))
    monkeypatch.setattr("distill_mtl.shards.shard_writer.read_image", deadly(bad.read_bytes()))
    with pytest.raises(ShardError, match=r"dog/07\.png: reading this row ends the process \(SIGKILL\)"):
        write_shards(folder_rows(folder), tmp_path / "s", workers=2, skip_corrupt=skip)


def deadly_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """One source, under one view per row, with a row that ends its reader."""
    folder = photos(tmp_path / "photos")
    bad = folder / "dog" / "07.png"
    bad.write_bytes(encode(RGB))
    shard = write_shards(folder_rows(folder), tmp_path / "s", workers=0).shards[0]
    monkeypatch.setattr("distill_mtl.data.reader.read_image", deadly(bad.read_bytes()))
    section = SourceSection.model_validate({"shards": str(shard), "corrupt": "skip"})
    settings = DataSettings({"pets": section}, batch_size=6, views=1)
    return open_sources(settings, {}, (8, 8), every_set=False)


@pytest.mark.parametrize("work", ["training", "caching"])
def test_a_reader_of_a_run_that_dies_is_an_error_that_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    sources = deadly_sources(tmp_path, monkeypatch)
    made = (
        sources.stream(steps=4, workers=2)
        if work == "training"
        else sources.every_view([(0, np.arange(at, at + 6)) for at in range(0, 24, 6)], workers=2)
    )
    with pytest.raises(ShardError, match=r"data\.pets: .*s-000000\.tar, row dog-07, member .*SIGKILL"):
        list(map(step, made))


def step(_: object) -> None:
    """Takes its time; torch would raise here, in the middle of it."""
    time.sleep(0.3)


class Killing:
    """Work that ends its process once, at one number, and not where it is tried again."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self, number: int) -> int:
        if number == 5 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def one_by_one(self, number: int) -> list[tuple[str, int]]:
        return [(f"row {number}", number)]


def test_a_reader_that_was_killed_from_outside_is_an_error_too(tmp_path: Path) -> None:
    work = Killing(tmp_path / "killed")
    with pytest.raises(ShardError, match=r"SIGKILL.* between row \d and row \d.*memory may be short"):
        list(read_ahead(work, range(40), 2, work.one_by_one))


def test_every_picture_ending_is_written_to_shards(tmp_path: Path) -> None:
    forms = {"jfif": "JPEG", "gif": "GIF", "jp2": "JPEG2000", "tga": "TGA", "bmp": "BMP"}
    if features.check("avif"):
        forms["avif"] = "AVIF"
    assert forms.keys() <= set(PICTURE_ENDINGS)
    (tmp_path / "photos").mkdir()
    for ending, form in forms.items():
        RGB.save(tmp_path / "photos" / f"{ending}.{ending}", form)
    written = write_shards(folder_rows(tmp_path / "photos"), tmp_path / "s", workers=0)
    assert (written.counts.rows, written.left_out) == (len(forms), {})
