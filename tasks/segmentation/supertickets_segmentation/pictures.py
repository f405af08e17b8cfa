"""Predictions as pictures: the classes' colours over the image, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from supertickets.fonts import text_font

LEAST_PX = 320  # smaller panels are enlarged by an integer factor until their longer side reaches this
ALPHA = 0.6  # weight of the class colour in the overlay
VOID_COLOUR = (0, 0, 0)
PAPER, INK = (255, 255, 255), (25, 25, 25)


def overlay(image: NDArray[np.uint8], labels: NDArray[np.integer], palette: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """Lay the classes' colours over a picture: (H, W, 3) uint8 and (H, W) -> (H, W, 3) uint8.

    The picture is converted to gray, so that its own colours are not mistaken for classes. Labels beyond the palette are void
    and drawn in black.
    """
    colours = np.array([*palette, VOID_COLOUR], np.float32)
    laid = colours[np.minimum(labels.astype(np.int64), len(palette))]
    gray = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return np.rint((1 - ALPHA) * gray + ALPHA * laid).astype(np.uint8)


def draw_panels(
    image: NDArray[np.uint8],
    maps: dict[str, NDArray[np.integer]],
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    show_input: bool = True,
) -> Image.Image:
    """A sheet with the image, each label map laid over it under its title, and a legend of the classes that occur."""
    factor = max(1, ceil(LEAST_PX / max(image.shape[:2])))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    large = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    panels = {"input": large} if show_input else {}
    for title, labels in maps.items():
        wide = labels.repeat(factor, axis=0).repeat(factor, axis=1)
        panels[title] = overlay(large, wide, palette[: len(names)])
    present = sorted({int(value) for labels in maps.values() for value in np.unique(labels)})
    entries = [(names[v], tuple(palette[v])) for v in present if v < len(names)]
    if present and present[-1] >= len(names):
        entries.append(("void", VOID_COLOUR))
    return _compose(panels, size, entries)


def _compose(panels: dict[str, NDArray[np.uint8]], size: tuple[int, int], entries: list[tuple[str, tuple]]) -> Image.Image:
    gap = 8
    width = len(panels) * size[0] + (len(panels) - 1) * gap
    text_px = int(np.clip(width / 45, 13, 36))
    font = text_font(text_px)
    title_px = round(text_px * 1.7) if len(panels) > 1 else 0
    legend = _legend(entries, width, font, text_px)
    sheet = Image.new("RGB", (width, title_px + size[1] + legend.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (title, pixels) in enumerate(panels.items()):
        left = i * (size[0] + gap)
        if title_px:
            pen.text((left + 2, title_px // 2), title, INK, font=font, anchor="lm")
        sheet.paste(Image.fromarray(pixels), (left, title_px))
    sheet.paste(legend, (0, title_px + size[1]))
    return sheet


def _legend(entries: list[tuple[str, tuple]], width: int, font: FreeTypeFont, text_px: int) -> Image.Image:
    """Colour swatches with class names, in columns that are as wide as the longest name."""
    row_px, swatch_px, pad = round(text_px * 1.6), text_px, max(4, text_px // 2)
    longest = max((font.getlength(name) for name, _ in entries), default=0)
    cell_px = ceil(longest) + swatch_px + 3 * pad
    columns = max(1, min(len(entries), width // cell_px))
    rows = ceil(len(entries) / columns)
    legend = Image.new("RGB", (width, rows * row_px + 2 * pad), PAPER)
    pen = ImageDraw.Draw(legend)
    for i, (name, colour) in enumerate(entries):
        left, top = pad + i % columns * cell_px, pad + i // columns * row_px
        middle = top + row_px // 2
        box = (left, middle - swatch_px // 2, left + swatch_px, middle - swatch_px // 2 + swatch_px)
        pen.rectangle(box, fill=colour, outline=INK)
        pen.text((box[2] + pad, middle), name, INK, font=font, anchor="lm")
    return legend


def index_picture(labels: NDArray[np.integer], palette: Sequence[Sequence[int]]) -> Image.Image:
    """A label map as a picture whose pixel values are the class numbers; with a palette if the numbers fit in 8 bits."""
    if labels.max(initial=0) > 255:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8)).convert("P")
    colours = [channel for colour in palette[:256] for channel in colour]
    picture.putpalette(
        colours + [0] * (768 - len(colours))
    )  # always 256 colours, as PIL stores fewer bits for a shorter palette
    return picture
