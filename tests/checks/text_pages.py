"""Pages and lines of printed words, which need no data set."""

import random

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

_TEXT = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its about"
)
_WORDS = _TEXT.split()


def page(seed: int, side: int = 320) -> tuple[Image.Image, Image.Image]:
    """A page of short lines, and a mask of them: 1 on a line, 0 beside it."""
    draw, font = random.Random(seed), _font(13)
    picture, mask = Image.new("RGB", (side, side), "white"), Image.new("L", (side, side), 0)
    on_picture, on_mask = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    top = 12
    while top < side - 21:
        words = draw.choices(_WORDS, k=draw.randint(3, 8))
        while on_picture.textlength(line := " ".join(words).capitalize(), font=font) > side - 24:
            words.pop()
        on_picture.text((12, top), line, "black", font=font)
        on_mask.rectangle(on_picture.textbbox((12, top), line, font=font), fill=1)
        top += 21 if draw.random() < 0.85 else 39
    return picture, mask


def line(seed: int) -> Image.Image:
    """Three words, 48 pixels high."""
    words, font = " ".join(random.Random(seed).choices(_WORDS, k=3)), _font(30)
    picture = Image.new("RGB", (max(192, int(font.getlength(words)) + 16), 48), "white")
    ImageDraw.Draw(picture).text((8, 6), words, "black", font=font)
    return picture


def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), pixels)
