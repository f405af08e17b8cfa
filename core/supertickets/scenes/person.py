"""A person in one of eight activities: joint angles -> 3-D joints -> turned towards the viewer -> painted limbs.

Left and right can be distinguished because the chest always faces the viewer (turned by less than 90 degrees), so the person's
left shoulder is further right in the picture than the right one, and because the far arm and leg are darker and covered by the
near ones. Colours do not distinguish them, so a mirrored picture is correct once left and right are swapped. Joints:
https://cocodataset.org/#keypoints-2020
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from supertickets.scenes.canvas import Canvas, Colour, pick, pick_colour, shade

JOINTS: tuple[str, ...] = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
SKELETON: tuple[tuple[int, int], ...] = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
FLIP_PAIRS: tuple[tuple[int, int], ...] = tuple((i, i + 1) for i in range(1, 17, 2))


@dataclass(frozen=True)
class Activity:
    """Angles in degrees. For each limb: how far it swings forward and outward from hanging straight down."""

    left_arm: tuple[int, int, int, int]  # upper arm forward, outward; forearm forward, outward
    right_arm: tuple[int, int, int, int]
    left_leg: tuple[int, int, int, int]  # thigh forward, outward; shin forward, outward
    right_leg: tuple[int, int, int, int]
    turn: tuple[int, int]  # how far the body turns to the side
    lean: int = 0  # forward, of the back
    lift: float = 0.0  # feet above the ground, in body heights


_POSES: dict[str, Activity] = {
    "standing": Activity((0, 10, 8, 6), (0, 10, 8, 6), (0, 4, -2, 4), (0, 4, -2, 4), (0, 55)),
    "walking": Activity((-26, 6, -10, 4), (28, 6, 48, 4), (28, 2, 12, 2), (-22, 2, -38, 2), (40, 65), 4),
    "running": Activity((-52, 8, 30, 4), (42, 8, 125, 0), (54, 3, -18, 3), (-28, 3, -88, 3), (40, 65), 16, 0.03),
    "jumping": Activity((0, 135, 0, 155), (0, 135, 0, 155), (5, 28, -20, 26), (5, 28, -20, 26), (0, 35), 0, 0.14),
    "waving": Activity((5, 95, 8, 168), (0, 10, 8, 6), (0, 4, -2, 4), (0, 4, -2, 4), (0, 35)),
    "sitting": Activity((25, 8, 62, 2), (25, 8, 62, 2), (88, 8, 4, 4), (88, 8, 4, 4), (40, 65), 2),
    "kicking": Activity((-30, 40, -20, 45), (25, 50, 35, 55), (78, 4, 72, 4), (-8, 4, -14, 4), (42, 68), -14),
    "reaching": Activity((118, 10, 122, 4), (118, 10, 122, 4), (10, 4, 4, 4), (-12, 4, -20, 4), (42, 68), 12),
}
ACTIVITIES: tuple[str, ...] = tuple(_POSES)

# Body parts, in the order of their numbers; a joint is visible if its pixel shows one of its own parts.
HEAD, TORSO = 0, 1
_LIMBS = ("upper_arm", "forearm", "thigh", "shin")
_LIMB_JOINTS = {"upper_arm": (5, 7), "forearm": (7, 9), "thigh": (11, 13), "shin": (13, 15)}  # right: + 1
_LIMB_RADII = {"upper_arm": (0.043, 0.036), "forearm": (0.036, 0.031), "thigh": (0.056, 0.044), "shin": (0.044, 0.034)}
_LENGTHS = np.array([0.165, 0.155, 0.165, 0.155, 0.235, 0.235, 0.235, 0.235])
_SIDES = np.array([1, 1, -1, -1, 1, 1, -1, -1])  # the person's left is at +x for the viewer


def limb_part(limb: str, right: int) -> int:
    """The number of a limb's body part; hands count as forearms, shoes as shins."""
    return 2 + 2 * _LIMBS.index(limb) + right


def _joint_parts() -> list[set[int]]:
    parts: list[set[int]] = [{HEAD} for _ in range(5)] + [set() for _ in range(12)]
    for limb, joints in _LIMB_JOINTS.items():
        for right in (0, 1):
            for joint in joints:
                parts[joint + right].add(limb_part(limb, right))
    for joint in (5, 6, 11, 12):
        parts[joint].add(TORSO)
    return parts


JOINT_PARTS: list[set[int]] = _joint_parts()


@dataclass
class Body:
    """A posed body in units of its height: x points to the viewer's right, y up from the ground, z to the viewer."""

    joints: np.ndarray  # (17, 3)
    head: np.ndarray  # (3,) its centre
    hands: np.ndarray  # (2, 3) left, right
    toes: np.ndarray  # (2, 3)
    gaze: np.ndarray  # (3,) unit vector


def _direction(forward: np.ndarray, outward: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(n, 3) unit vectors of limbs that swing from hanging straight down; angles in radians."""
    reach = np.cos(forward)
    return np.stack((sides * np.sin(outward) * reach, -np.cos(outward) * reach, np.sin(forward)), axis=-1)


def pose_body(rng: np.random.Generator, activity: str) -> Body:
    """Draw a body in the given activity, with random changes of up to 9 degrees in all angles."""
    pose = _POSES[activity]
    angles = np.array(pose.left_arm + pose.right_arm + pose.left_leg + pose.right_leg, dtype=np.float64).reshape(8, 2)
    angles += rng.uniform(-1, 1, (8, 2)) * (9, 4.5)
    angles = np.radians(angles)
    limbs = _direction(angles[:, 0], angles[:, 1], _SIDES)
    lean, sway, tilt = np.radians(rng.uniform(-5, 5, 3) + (pose.lean, 0, 0))
    back = np.array([np.sin(sway), np.cos(lean) * np.cos(sway), np.sin(lean)])
    across = np.array([1.0, np.sin(tilt), 0.0])
    joints = np.zeros((17, 3))
    joints[11], joints[12] = 0.07 * across, -0.07 * across
    joints[5], joints[6] = 0.29 * back + 0.125 * across, 0.29 * back - 0.125 * across
    head = 0.435 * back
    steps = limbs * _LENGTHS[:, None]
    for right in (0, 1):
        arm, leg = 2 * right, 4 + 2 * right
        joints[7 + right] = joints[5 + right] + steps[arm]
        joints[9 + right] = joints[7 + right] + steps[arm + 1]
        joints[13 + right] = joints[11 + right] + steps[leg]
        joints[15 + right] = joints[13 + right] + steps[leg + 1]
    hands = joints[9:11] + 0.035 * limbs[1:4:2]
    toes = joints[15:17] + 0.085 * _direction(angles[5::2, 0] + 1.2, angles[5::2, 1] + 0.2, _SIDES[5::2])
    nod, look = np.radians(rng.uniform((-10, -15), (10, 15)))
    azimuth = np.radians([0, 30, -30, 82, -82]) + look
    height = np.radians([-10, 14, 14, 2, 2]) + nod
    face = np.stack((np.cos(height) * np.sin(azimuth), np.sin(height), np.cos(height) * np.cos(azimuth)), axis=-1)
    joints[:5] = head + 0.078 * face
    gaze = np.array([np.sin(look), np.sin(nod), np.cos(look)])
    turn = np.radians(rng.uniform(*pose.turn)) * pick(rng, (-1, 1))
    spin = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    joints, head, hands, toes, gaze = (points @ spin for points in (joints, head, hands, toes, gaze))
    lift = pose.lift * rng.uniform(0.7, 1.4)
    rise = lift + 0.04 - joints[15:17, 1].min()
    for points in (joints, head, hands, toes):
        points[..., 1] += rise
    return Body(joints, head, hands, toes, gaze)


class Outfit:
    """The person's colours, all clearly different from possible backgrounds."""

    def __init__(self, rng: np.random.Generator, behind: Sequence[Colour]):
        self.shirt = pick_colour(rng, away_from=behind, distance=110)
        self.trousers = pick_colour(rng, away_from=[*behind, self.shirt], distance=90)
        self.shoes = pick_colour(rng, away_from=[*behind, self.trousers], distance=80)
        apart = [*behind, self.shirt]
        self.skin = pick_colour(rng, hue=(0.03, 0.09), saturation=(0.25, 0.6), value=(0.35, 1), away_from=apart, distance=80)
        self.hair = pick_colour(rng, hue=(0.0, 0.14), value=(0.05, 0.8), away_from=[self.skin, *behind], distance=90)
        self.sleeves = self.shirt if rng.random() < 0.5 else self.skin
        self.legs = self.trousers if rng.random() < 0.65 else self.skin
        prints = ("coarse", "medium", "rows", "columns", "diagonal", "checks", "dots")
        self.shirt_print, self.trousers_print = pick(rng, prints), pick(rng, prints)


class _Painter:
    """Paints body parts at a position on the canvas; far parts are darker, and each part has a dark rim."""

    def __init__(self, canvas: Canvas, foot: complex, height: float):
        self.canvas, self.foot, self.height = canvas, foot, height
        self.rim = 0.012 * height
        self.least = 1.8 / 96  # radius below which a limb would be hard to see

    def at(self, point: np.ndarray) -> complex:
        return self.foot + self.height * complex(point[0], -point[1])

    def colours(self, part: int, colour: Colour, print_: str, depth: float) -> tuple[int, int]:
        near = shade(colour, float(np.clip(1.0 + 1.6 * depth, 0.68, 1.1)))
        rim = self.canvas.material("person", shade(near, 0.4), part=part)
        return rim, self.canvas.material("person", near, print_, strength=0.05 if print_ == "fine" else 0.14, part=part)

    def bars(
        self,
        part: int,
        bars: Sequence[tuple[np.ndarray, np.ndarray, float, float]],
        colour: Colour,
        print_: str = "fine",
        depth: float | None = None,
    ) -> None:
        """Bars (start, end, radius, radius at the end) of one colour, with a common rim."""
        if depth is None:
            depth = float((bars[0][0][2] + bars[0][1][2]) / 2)
        for material, extra in zip(self.colours(part, colour, print_, depth), (self.rim, 0.0), strict=True):
            for start, end, radius, end_radius in bars:
                radius, end_radius = max(radius * self.height, self.least), max(end_radius * self.height, self.least)
                self.canvas.capsule(self.at(start), self.at(end), radius + extra, end_radius + extra, material)


def paint_body(canvas: Canvas, body: Body, outfit: Outfit, *, foot: complex, height: float) -> np.ndarray:
    """Paint the body with its ground point at `foot`, `height` tall; returns the joints' places, (17,) complex."""
    painter = _Painter(canvas, foot, height)
    joints = body.joints

    def limb(name: str, right: int) -> None:
        start, end = joints[_LIMB_JOINTS[name][0] + right], joints[_LIMB_JOINTS[name][1] + right]
        part = limb_part(name, right)
        depth = float(start[2] + end[2]) / 2
        if name == "forearm":
            painter.bars(part, [(end, body.hands[right], 0.034, 0.034)], outfit.skin, depth=depth)
        if name == "shin":
            painter.bars(part, [(end, body.toes[right], 0.04, 0.03)], outfit.shoes, depth=depth)
        cloth = {"upper_arm": outfit.shirt, "forearm": outfit.sleeves, "thigh": outfit.trousers, "shin": outfit.legs}
        colour = cloth[name]
        print_ = outfit.shirt_print if name.endswith("arm") else outfit.trousers_print
        print_ = "fine" if colour is outfit.skin else print_
        painter.bars(part, [(start, end, *_LIMB_RADII[name])], colour, print_, depth)

    def torso() -> None:
        left, right, left_hip, right_hip = joints[5], joints[6], joints[11], joints[12]
        middle, waist = (left + right) / 2, (left_hip + right_hip) / 2
        neck = [(middle, body.head, 0.035, 0.035)]
        painter.bars(HEAD, neck, outfit.skin, depth=-0.04)
        bars = [(left, left_hip, 0.045, 0.05), (right, right_hip, 0.045, 0.05), (left, right, 0.045, 0.045)]
        bars.append((middle, waist, 0.085, 0.08))
        painter.bars(TORSO, bars, outfit.shirt, outfit.shirt_print, 0.0)

    # From far to near; the torso stands a little behind its own depth so that hanging arms stay in front of it.
    layers: list[tuple[float, Callable[[], None]]] = [
        (-0.03, torso),
        (0.0, partial(_paint_head, painter, body, outfit)),
    ]
    for name in _LIMBS:
        for right in (0, 1):
            first, last = _LIMB_JOINTS[name]
            depth = float(joints[first + right, 2] + joints[last + right, 2]) / 2 - (0.03 if name == "thigh" else 0.0)
            layers.append((depth, partial(limb, name, right)))
    for _, paint in sorted(layers, key=lambda layer: layer[0]):
        paint()
    return foot + height * (joints[:, 0] - 1j * joints[:, 1])


def _paint_head(painter: _Painter, body: Body, outfit: Outfit) -> None:
    canvas, height, head, gaze = painter.canvas, painter.height, body.head, body.gaze
    rim, hair = painter.colours(HEAD, outfit.hair, "fine", 0.0)
    centre, radius = painter.at(head), 0.088 * height
    canvas.ellipse(centre, radius + painter.rim, radius * 1.08 + painter.rim, rim)
    canvas.ellipse(centre, radius, radius * 1.08, hair)
    skin = canvas.material("person", outfit.skin, part=HEAD)
    # The face is a disc on the side to which the person looks, surrounded by the hair.
    canvas.ellipse(painter.at(head + 0.03 * gaze - (0, 0.018, 0)), 0.072 * height, 0.076 * height, skin)
    eye = canvas.material("person", (20, 20, 30), part=HEAD)
    for joint in (1, 2):
        if body.joints[joint, 2] > head[2]:
            canvas.ellipse(painter.at(body.joints[joint]), 0.016 * height, 0.019 * height, eye)
    nose = canvas.material("person", shade(outfit.skin, 0.6), part=HEAD)
    canvas.ellipse(painter.at(body.joints[0]), 0.014 * height, 0.02 * height, nose)


def joint_hidden_by_head(body: Body) -> np.ndarray:
    """(17,) True for an eye, ear or nose on the far side of the head."""
    hidden = np.zeros(17, dtype=bool)
    hidden[:5] = body.joints[:5, 2] < body.head[2] - 0.01
    return hidden
