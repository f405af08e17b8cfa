"""The embedded data set: drawn scenes with an activity, a label for every pixel and the 17 joints of a person.

A scene is a pure function of (seed, index, size_px): nothing is downloaded or stored, and it does not depend on order, process
or batch.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import count as count_from

import numpy as np

from supertickets.errors import UserError
from supertickets.scenes.canvas import CLASSES, PALETTE, Canvas, pick
from supertickets.scenes.person import (
    ACTIVITIES,
    FLIP_PAIRS,
    JOINT_PARTS,
    JOINTS,
    SKELETON,
    Body,
    Outfit,
    joint_hidden_by_head,
    paint_body,
    pose_body,
)
from supertickets.scenes.world import Extent, World

__all__ = [
    "ACTIVITIES", "CLASSES", "FLIP_PAIRS", "JOINTS", "PALETTE", "SIZES_PX", "SKELETON", "VAL_START", "Scene",
    "draw_scene", "draw_scenes", "mirror",
]  # fmt: skip

SIZES_PX = (32, 512)  # smallest, largest
VAL_START = 1_000_000  # validation scenes are numbered from here on, regardless of the number of training scenes
_PERSON = CLASSES.index("person")
_SWAPPED = [0] + [joint for left, right in FLIP_PAIRS for joint in (right, left)]


@dataclass
class Scene:
    """A picture with its complete ground truth."""

    image: np.ndarray  # (H, W, 3) uint8
    labels: np.ndarray  # (H, W) uint8, index into CLASSES
    activity: int  # index into ACTIVITIES
    # (17, 3) float32: x and y in pixels, centres at integers; 0 outside the picture (x = y = 0), 1 hidden, 2 visible
    keypoints: np.ndarray
    bbox: np.ndarray  # (4,) float32: first column, first row, columns, rows of the person, including hidden parts


def draw_scene(index: int, *, seed: int = 0, size_px: int = 96) -> Scene:
    """Draw scene number `index` of the endless series `seed`.

    Raises `UserError` for a negative index or seed, and for a size outside of `SIZES_PX`.
    """
    for name, value, low, high in (("index", index, 0, None), ("seed", seed, 0, None), ("size_px", size_px, *SIZES_PX)):
        if value < low or (high is not None and value > high):
            raise UserError(f"{name} is {value}; valid: {f'at least {low}' if high is None else f'{low} to {high}'}")
    activity = _activities(seed, index // len(ACTIVITIES))[index % len(ACTIVITIES)]
    for attempt in count_from():
        rng = np.random.default_rng((seed, index, attempt))
        scene = _try_scene(rng, activity, size_px)
        if scene is not None:
            return mirror(scene) if rng.random() < 0.5 else scene
    raise AssertionError("unreachable")


def draw_scenes(count: int, *, seed: int = 0, size_px: int = 96, start: int = 0) -> dict[str, np.ndarray]:
    """Draw scenes `start` to `start + count - 1` and stack them, see `Scene`.

    Returns image (N, H, W, 3) uint8, labels (N, H, W) uint8, activity (N,) int64, keypoints (N, 17, 3) float32 and bbox (N, 4)
    float32.
    """
    stacks: dict[str, np.ndarray] = {
        "image": np.zeros((count, size_px, size_px, 3), dtype=np.uint8),
        "labels": np.zeros((count, size_px, size_px), dtype=np.uint8),
        "activity": np.zeros(count, dtype=np.int64),
        "keypoints": np.zeros((count, len(JOINTS), 3), dtype=np.float32),
        "bbox": np.zeros((count, 4), dtype=np.float32),
    }
    for row in range(count):
        scene = draw_scene(start + row, seed=seed, size_px=size_px)
        for name, stack in stacks.items():
            stack[row] = getattr(scene, name)
    return stacks


def mirror(scene: Scene) -> Scene:
    """The mirrored scene, in which left and right joints are swapped."""
    width = scene.image.shape[1]
    keypoints = scene.keypoints[_SWAPPED]
    inside = keypoints[:, 2] > 0
    keypoints[inside, 0] = width - 1 - keypoints[inside, 0]
    x, y, columns, rows = scene.bbox
    bbox = np.array([width - x - columns, y, columns, rows], dtype=np.float32)
    image, labels = np.ascontiguousarray(scene.image[:, ::-1]), np.ascontiguousarray(scene.labels[:, ::-1])
    return Scene(image, labels, scene.activity, keypoints, bbox)


@lru_cache(maxsize=256)
def _activities(seed: int, block: int) -> tuple[int, ...]:
    """The activity of a scene: each group of eight scenes contains every activity once, in random order."""
    rng = np.random.default_rng((seed, block, 1 << 31))
    return tuple(rng.permutation(len(ACTIVITIES)).tolist())


def _try_scene(rng: np.random.Generator, activity: int, size_px: int) -> Scene | None:
    """A scene, or None if too much of the person is outside the picture or hidden."""
    canvas = Canvas(size_px)
    world = World(canvas, rng)
    body = pose_body(rng, ACTIVITIES[activity])
    height = rng.uniform(0.46, 0.86)
    foot = _place(rng, body, height, world.horizon)
    if foot is None:
        return None
    things = sorted(world.things(), key=lambda thing: thing[0])
    for base, paint in things:
        if base <= foot.imag:
            paint()
    hips = body.joints[11:13].mean(axis=0)
    world.shadow(foot + height * float(hips[0]), 0.2 * height)
    if ACTIVITIES[activity] == "sitting" and rng.random() < 0.7:
        world.box(foot + height * complex(hips[0], 0), size=0.26 * height, height=float(hips[1] - 0.05) * height)
    places = paint_body(canvas, body, Outfit(rng, world.behind), foot=foot, height=height)
    whole = canvas.labels() == _PERSON
    covers = [paint() for base, paint in things if base > foot.imag]
    if rng.random() < 0.35:
        covers.append(_occlude(rng, world, foot + height * float(hips[0])))
    # Judged by geometry, not by pixels, so that a scene is the same at every size.
    x, y = places.real[:, None], places.imag[:, None]
    left, top, right, bottom = np.array(covers or [(2, 2, 2, 2)]).T
    if ((left < x) & (x < right) & (top < y) & (y < bottom)).any(axis=1).sum() > 5:
        return None
    keypoints = _keypoints(places, canvas, joint_hidden_by_head(body))
    return Scene(canvas.render(rng), canvas.labels(), activity, keypoints, _bounds(whole))


def _place(rng: np.random.Generator, body: Body, height: float, horizon: float) -> complex | None:
    """A position for the person's ground point, in fractions of the picture; None if the body does not fit there."""
    x, y = body.joints[:, 0] * height, body.joints[:, 1] * height
    top = height * float(body.head[1] + 0.1)
    lowest = max(horizon + 0.05, top + 0.01)
    foot_y = rng.uniform(lowest, max(lowest, 0.97))
    margin = rng.uniform(-0.12, 0.0) if rng.random() < 0.15 else 0.05  # some persons are cut by the edge
    low, high = margin - x.min(), 1 - margin - x.max()
    foot_x = rng.uniform(min(low, high), max(low, high))
    inside = (foot_x + x > 0) & (foot_x + x < 1) & (foot_y - y > 0) & (foot_y - y < 1)
    return complex(foot_x, foot_y) if inside.sum() >= 13 and foot_y < 1.04 else None


def _occlude(rng: np.random.Generator, world: World, foot: complex) -> Extent:
    """Put something in front of the person."""
    spot = foot + complex(rng.uniform(-0.16, 0.16), rng.uniform(0.01, 0.06))
    if rng.random() < 0.3:
        return world.tree(spot + pick(rng, (-0.1, 0.1)), scale=rng.uniform(1.2, 1.8))
    return pick(rng, (world.box, world.ball))(spot)


def _keypoints(places: np.ndarray, canvas: Canvas, hidden: np.ndarray) -> np.ndarray:
    """(17, 3): position in pixels and visibility of each joint, which other parts of the body can also hide."""
    size, parts = canvas.size_px, canvas.parts()
    keypoints = np.zeros((len(JOINTS), 3), dtype=np.float32)
    for joint, place in enumerate(places * size - (0.5 + 0.5j)):
        column, row = round(place.real), round(place.imag)
        if 0 <= column < size and 0 <= row < size:
            seen = parts[row, column] in JOINT_PARTS[joint] and not hidden[joint]
            keypoints[joint] = place.real, place.imag, 2 if seen else 1
    return keypoints


def _bounds(mask: np.ndarray) -> np.ndarray:
    """(4,) first column, first row, columns, rows of the true region in (H, W)."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    box = columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return np.array(box, dtype=np.float32)
