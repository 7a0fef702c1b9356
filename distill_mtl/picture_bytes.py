"""What the bytes of an encoded picture say before anything is decoded: format, size, checksums.

The bytes decide the format, from a fixed list; a file's name counts for TGA alone, which has no signature. Damage and
absurd sizes are refused here, so that no decoder meets them.
"""

import re
import struct
import zlib

from distill_mtl.reading import stand_in

MOST_PIXELS = 89_478_485
"""Of a picture that is decoded: a quarter of a gigabyte as RGB, which is also where Pillow suspects a bomb."""

MOST_BYTES = 1 << 30
"""Of a picture's file: what one of `MOST_PIXELS` takes unpacked, four times."""

_FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif",),
    "JPEG2000": ("jp2", "j2k", "jpx"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "TGA": ("tga",),
}
"""Pillow's name of each format that is read -> endings of its files."""

PICTURE_ENDINGS = tuple(ending for endings in _FORMATS.values() for ending in endings)
"""Endings of picture files, without dots."""

_SIGNATURES = re.compile(
    rb"""(?P<JPEG>\xff\xd8\xff)
    |(?P<PNG>\x89PNG\r\n\x1a\n)
    |(?P<WEBP>RIFF....WEBP)
    |(?P<GIF>GIF8[79]a)
    |(?P<BMP>BM)
    |(?P<TIFF>II[*+]\0|MM\0[*+])
    |(?P<AVIF>....ftypavi[fs])
    |(?P<JPEG2000>\0\0\0\x0cjP\x20\x20\r\n\x87\n|\xff\x4f\xff\x51)
    |(?P<PPM>P[1-6]\s)""",
    re.DOTALL | re.VERBOSE,
)
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers of a frame's header
_SEGMENTS = frozenset(range(0x02, 0xFF)) - _FRAMES - frozenset(range(0xD0, 0xD9))  # those with a length


_SEGMENT = struct.Struct(">BBHxHH").unpack_from  # 0xFF, marker, length; then of a frame: bits, height, width


def format_of(payload: bytes, ending: str = "") -> str:
    """Pillow's name of a picture's format.

    Args:
        payload: the encoded picture.
        ending: of its file's name, without a dot.

    Raises:
        ValueError: it has none of the formats that are read.
    """
    match = _SIGNATURES.match(payload)
    if match and match.lastgroup:
        return match.lastgroup
    if payload.endswith(_TGA_FOOTER) or ending.lower() in _FORMATS["TGA"]:
        return "TGA"
    if instead := stand_in(payload):
        raise ValueError(f"it is {instead}")
    raise ValueError(
        f"no format that is known: it begins with {payload[:8]!r}, and {', '.join(_FORMATS)} are read"
    )


def refuse_size(width: int, height: int) -> None:
    """Refuse a declared size that is absurd.

    Raises:
        ValueError: with both numbers.
    """
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"it declares {width:,} x {height:,} = {width * height:,} pixels, and at most {MOST_PIXELS:,} are decoded"
        )


def jpeg_size(payload: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG declares; None where its segments do not lead there."""
    at = 2
    try:
        while True:
            mark, marker, length, height, width = _SEGMENT(payload, at)
            if mark != 0xFF:
                return None
            if marker in _SEGMENTS:
                at += 2 + length
            elif marker in _FRAMES:
                return width, height
            else:
                at += 1 if marker == 0xFF else 2  # a fill byte, or a marker without a length
    except struct.error:  # the end
        return None


def check_png(payload: bytes) -> None:
    """Compare every chunk of a PNG with its checksum, and the declared size with `MOST_PIXELS`.

    Decoders do not: libpng warns or ends the process, Pillow does not look at the chunks that hold the pixels.

    Raises:
        ValueError: it is cut, a chunk is damaged, or the size is absurd.
    """
    view, at, kind = memoryview(payload), 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(view[at : at + 4]), payload[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(view):
            raise ValueError("it is cut")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise ValueError(f"it is damaged: the chunk {kind!r} at byte {at} does not have its checksum")
        at = end + 4
    if payload[12:16] != b"IHDR":
        raise ValueError("it does not begin with its size")
    refuse_size(int.from_bytes(view[16:20]), int.from_bytes(view[20:24]))
