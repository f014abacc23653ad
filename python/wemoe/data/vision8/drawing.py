"""Images of one size, from pixels, strokes of a pen, and vector graphics."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 32
Pixels = NDArray[np.uint8]  # [H, W] or [H, W, 3]


def padded(images: NDArray[np.number[Any]]) -> Pixels:
    """Put a black margin around images [S, 28, 28]."""
    margin = (SIZE - images.shape[1]) // 2
    return np.pad(images.astype(np.uint8), ((0, 0), (margin, margin), (margin, margin)))


def enlarged(image: Pixels, how: Image.Resampling) -> Pixels:
    """Bring an image to the size of all."""
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), how))


def pen_strokes(points: Sequence[tuple[float, float]]) -> Pixels:
    """Draw the way of a pen on a field of 100 by 100, whose origin is at the bottom left, in white on black."""
    canvas = Image.new("L", (96, 96))
    ImageDraw.Draw(canvas).line([(10 + 0.76 * x, 86 - 0.76 * y) for x, y in points], fill=255, width=7, joint="curve")
    return enlarged(np.asarray(canvas), Image.Resampling.BILINEAR)


def vector_graphic(svg: str) -> Pixels:
    """Render an SVG on white [SIZE, SIZE, 3].

    Raises:
        ModuleNotFoundError: `resvg_py`, which renders, is not installed.
        ValueError: it is no SVG.
    """
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "vector graphics are rendered by the package resvg-py, which is not there: pip install 'wemoe[vision8]'"
        ) from error
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    drawing = Image.open(io.BytesIO(png)).convert("RGBA").resize((SIZE, SIZE))
    page = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 255))
    page.alpha_composite(drawing)
    return np.asarray(page.convert("RGB"))
