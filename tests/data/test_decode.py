"""Any common picture becomes uint8 RGB, upright; anything else is a clear error."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from distill_mtl.data.decode import read_image

PIXELS = np.random.RandomState(0).randint(0, 256, (12, 20, 4)).astype(np.uint8)
RGB = Image.fromarray(PIXELS[..., :3])


def encode(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, form, **options)
    return encoded.getvalue()


def as_pil(payload: bytes) -> torch.Tensor:
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(payload)))
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    "payload",
    [
        encode(RGB),
        encode(RGB, "JPEG", quality=80),
        encode(RGB.convert("L")),
        encode(RGB.convert("L"), "JPEG"),
        encode(Image.fromarray(PIXELS)),
        encode(RGB.convert("LA")),
        encode(RGB.convert("1")),
        encode(RGB.quantize(16)),
        encode(RGB.quantize(16), transparency=0),
        encode(RGB.convert("CMYK"), "JPEG"),
        encode(RGB, "WEBP", lossless=True),
        encode(RGB, "BMP"),
        encode(RGB, "GIF"),
        encode(RGB, "TIFF"),
    ],
    ids=[
        "png",
        "jpeg",
        "grey",
        "grey-jpeg",
        "rgba",
        "grey-alpha",
        "1-bit",
        "palette",
        "palette-alpha",
        "cmyk",
        "webp",
        "bmp",
        "gif",
        "tiff",
    ],
)
def test_every_form_gives_the_pixels_of_pil(payload: bytes) -> None:
    image = read_image(payload)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 12, 20)
    assert torch.equal(image, as_pil(payload))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = encode(RGB, form, exif=exif.tobytes(), **({"lossless": True} if form == "WEBP" else {}))
    assert read_image(payload).shape == ((3, 12, 20) if orientation < 5 else (3, 20, 12))
    assert torch.equal(read_image(payload), as_pil(payload))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(form: str) -> None:
    deep = np.arange(240, dtype=np.uint16).reshape(12, 20) * 256 + 77
    image = read_image(encode(Image.fromarray(deep), form))
    assert torch.equal(image, torch.arange(240, dtype=torch.uint8).view(1, 12, 20).expand(3, -1, -1))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_cut_picture_is_an_error(form: str, share: float) -> None:
    payload = encode(RGB, form)
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(payload[: int(len(payload) * share)])


@pytest.mark.parametrize("payload", [b"", b"3", b"\xff\xd8\xff", b"<html>not found</html>" * 9])
def test_what_is_no_picture_is_an_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(payload)
