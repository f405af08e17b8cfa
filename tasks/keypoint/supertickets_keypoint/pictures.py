"""Poses as pictures: skeletons over images, with different colours for the left and right of the person."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, hypot

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from supertickets.fonts import text_font
from supertickets_keypoint.joints import Joints

Poses = Sequence[NDArray[np.floating]]  # each (joints, 3): x, y in pixels, score
# Sides of the person, in colours that colour-blind people can tell apart.
COLOURS = {"left": (255, 140, 0), "right": (0, 150, 255), "middle": (60, 220, 90)}
PAPER, INK = (255, 255, 255), (20, 20, 20)
LEAST_PX = 320  # smaller pictures are enlarged by an integer factor until their longer side reaches this
FINE = 3  # lines are drawn at this many times the size, then averaged down


def side_of(name: str) -> str:
    """The side of the person on which a joint lies, according to its name: left, right or middle."""
    return "left" if "left" in name.lower() else "right" if "right" in name.lower() else "middle"


def draw_poses(image: NDArray[np.uint8], poses: Poses, joints: Joints, *, min_score: float = 0.2) -> Image.Image:
    """Draw skeletons over a picture (H, W, 3) uint8, which is enlarged if it is small; joints below `min_score` are omitted."""
    factor = max(1, ceil(LEAST_PX / max(image.shape[:2])))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    ink = Image.new("RGBA", (size[0] * FINE, size[1] * FINE))
    pen = ImageDraw.Draw(ink)
    for pose in poses:
        places = (np.asarray(pose)[:, :2] + 0.5) * factor * FINE
        _draw_pose(pen, places, np.asarray(pose)[:, 2] >= min_score, joints)
    ink = ink.reduce(FINE)
    picture.paste(ink, mask=ink.getchannel("A"))
    return picture


def _draw_pose(pen: ImageDraw.ImageDraw, places: NDArray[np.floating], seen: NDArray[np.bool_], joints: Joints) -> None:
    if not seen.any():
        return
    extent = hypot(*np.ptp(places[seen], axis=0))
    width = max(2 * FINE, round(extent / 60))
    xy = [(float(x), float(y)) for x, y in places]
    lines = [(a, b) for a, b in joints.skeleton if seen[a] and seen[b]]
    for rim in (FINE, 0):  # a dark rim below all lines makes them visible on any background
        for a, b in lines:
            sides = {side_of(joints.names[a]), side_of(joints.names[b])} - {"middle"}
            colour = COLOURS[sides.pop() if len(sides) == 1 else "middle"]
            pen.line([xy[a], xy[b]], fill=INK if rim else colour, width=width + 2 * rim)
    for joint in np.flatnonzero(seen):
        x, y = xy[joint]
        radius = width * 0.9 + FINE / 2
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=COLOURS[side_of(joints.names[joint])], outline=INK, width=FINE)


def compose(panels: dict[str, Image.Image]) -> Image.Image:
    """Pictures of one size side by side under their titles, with a legend of the colours."""
    gap, first = 8, next(iter(panels.values()))
    width = len(panels) * first.width + (len(panels) - 1) * gap
    text_px = int(np.clip(width / 40, 13, 36))
    font, line_px = text_font(text_px), round(text_px * 1.8)
    sheet = Image.new("RGB", (width, first.height + 2 * line_px), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (title, panel) in enumerate(panels.items()):
        left = i * (first.width + gap)
        pen.text((left + 2, line_px // 2), title, INK, font=font, anchor="lm")
        sheet.paste(panel, (left, line_px))
    x, middle = 6, line_px + first.height + line_px // 2
    for name, colour in COLOURS.items():
        label = name if name == "middle" else f"person's {name}"
        pen.ellipse((x, middle - text_px // 2, x + text_px, middle - text_px // 2 + text_px), fill=colour, outline=INK)
        pen.text((x + text_px * 1.4, middle), label, INK, font=font, anchor="lm")
        x += round(text_px * 2.6 + font.getlength(label))
    return sheet
