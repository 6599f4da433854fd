"""Letters: the font that PIL brings along, and texts that fit."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return PIL's own scalable font (Aileron; no file is searched), ``size`` pixels high.

    It has the letters of ASCII; another letter is seen as an empty box.
    """
    letters = ImageFont.load_default(size)
    assert isinstance(letters, ImageFont.FreeTypeFont)  # with a size it is never the bitmap font
    return letters


def fit(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """Return ``text``, cut short by an ellipsis where it is wider than ``width`` pixels."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
