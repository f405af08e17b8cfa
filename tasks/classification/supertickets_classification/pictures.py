"""Predictions as pictures: a sheet of named images, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont
from torch import Tensor

from supertickets.fonts import text_font

TILE_PX, TEXT_PX, GAP_PX, COLUMNS = 160, 14, 8, 8
PAPER, INK, RIGHT, WRONG = (255, 255, 255), (25, 25, 25), (20, 120, 40), (190, 30, 30)
NUMBERED, NAMED = 16, 60  # up to this many classes, a confusion matrix shows counts, or class names
CHARS_PER_INCH = 13  # of its title


@dataclass(frozen=True)
class Tile:
    """An image with its predicted class, and its true class if that is known."""

    image: NDArray[np.uint8]  # (H, W, 3)
    predicted: str
    share: float  # the network's confidence, 0..1
    truth: str | None = None


def draw_sheet(tiles: Sequence[Tile], title: str = "") -> Image.Image:
    """The images in rows of eight, each above its predicted class; wrong predictions are red and followed by the true class."""
    font = text_font(TEXT_PX)
    line_px, columns = round(TEXT_PX * 1.4), min(COLUMNS, len(tiles))
    lines = 2 if any(tile.truth is not None for tile in tiles) else 1
    top = 2 * line_px if title else GAP_PX
    cell = TILE_PX + GAP_PX, TILE_PX + lines * line_px + GAP_PX
    sheet = Image.new("RGB", (columns * cell[0] + GAP_PX, top + ceil(len(tiles) / columns) * cell[1]), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX, line_px), title, INK, font=font, anchor="lm")
    for number, tile in enumerate(tiles):
        left, upper = GAP_PX + number % columns * cell[0], top + number // columns * cell[1]
        picture = _fitted(Image.fromarray(tile.image))
        sheet.paste(picture, (left + (TILE_PX - picture.width) // 2, upper + (TILE_PX - picture.height) // 2))
        wrong = tile.truth not in (None, tile.predicted)
        colour = INK if tile.truth is None else WRONG if wrong else RIGHT
        texts = [f"{tile.share:.0%} {tile.predicted}", f"is {tile.truth}" if wrong else ""]
        for row, text in enumerate(texts[:lines]):
            place = left, upper + TILE_PX + row * line_px + line_px // 2
            pen.text(place, _cut(text, font), colour, font=font, anchor="lm")
    return sheet


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture (H, W, 3) reduced to the size that a sheet shows; a smaller picture is returned as it is."""
    return image if max(image.shape[:2]) <= TILE_PX else np.array(_fitted(Image.fromarray(image)))


def _fitted(image: Image.Image) -> Image.Image:
    """The image with a longer side of `TILE_PX`; the pixels of a tiny image stay visible as squares."""
    zoom = TILE_PX / max(image.size)
    width, height = (max(1, round(side * zoom)) for side in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST if zoom >= 4 else Image.Resampling.BICUBIC)


def _cut(text: str, font: FreeTypeFont) -> str:
    while text and font.getlength(text) > TILE_PX:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text


def draw_confusion(confusion: Tensor, names: Sequence[str], path: Path, title: str) -> Path:
    """Write the confusion matrix (classes, classes), rows = truth, as shares of each row.

    With many classes, the most frequent mistakes are listed below it. The title is wrapped to the width of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = len(names)
    counts = confusion.double().numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * classes, 16)
    figure = Figure(figsize=(side + (4 if classes > NAMED else 1), side), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    drawn = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(drawn, ax=axis, shrink=0.7, label="share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    figure.suptitle("\n".join(wrap(title, round(CHARS_PER_INCH * figure.get_figwidth()))), fontsize=9, parse_math=False)
    if classes <= NAMED:
        axis.set_xticks(range(classes), names, rotation=90, parse_math=False)  # `$` in a name is no formula
        axis.set_yticks(range(classes), names, parse_math=False)
    if classes <= NUMBERED:
        for row, column in np.argwhere(counts > 0):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=ink, fontsize=8)
    if classes > NAMED:
        figure.supxlabel(
            "\n".join(["most confused (true: predicted)", *confused(confusion, names)]), fontsize=8, parse_math=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(partial, dpi=120, format="png")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def confused(confusion: Tensor, names: Sequence[str], count: int = 10) -> list[str]:
    """The most frequent mistakes, one line per mistake."""
    mistakes = confusion.clone()
    mistakes.fill_diagonal_(0)
    found = mistakes.flatten().sort(descending=True, stable=True)
    pairs = zip(found.values[:count].tolist(), found.indices[:count].tolist(), strict=True)
    return [f"{names[i // len(names)]}: {names[i % len(names)]} ({n} times)" for n, i in pairs if n]
