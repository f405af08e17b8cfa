"""The surroundings of the person: sky, clouds, hilly ground, houses, trees, boxes and balls in random colours."""

from collections.abc import Callable
from functools import partial

import numpy as np

from supertickets.scenes.canvas import Canvas, Colour, pick, pick_colour, shade

Extent = tuple[float, float, float, float]  # left, top, right, bottom in fractions of the picture


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return (
        first[0] + (second[0] - first[0]) * share,
        first[1] + (second[1] - first[1]) * share,
        first[2] + (second[2] - first[2]) * share,
    )


class World:
    """Sky and ground, painted by the constructor, and things on the ground or in the air."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator):
        self.canvas, self.rng = canvas, rng
        self.horizon = rng.uniform(0.42, 0.68)
        blue = rng.random() < 0.6
        self.sky = pick_colour(rng, hue=(0.5, 0.68) if blue else (0, 1), saturation=(0.05, 0.55), value=(0.4, 1.0))
        self.ground = pick_colour(rng, saturation=(0.1, 0.6), value=(0.2, 0.85), away_from=[self.sky], distance=80)
        sky = canvas.material("sky", self.sky, "coarse", strength=rng.uniform(0, 0.06))
        canvas.rectangle(0, 0, 1, 1, sky)
        for _ in range(rng.integers(0, 4)):
            self._cloud()
        texture = pick(rng, ("coarse", "medium", "fine", "rows"))
        ground = canvas.material("ground", self.ground, texture, strength=rng.uniform(0.06, 0.2))
        self._shadow = canvas.material("ground", shade(self.ground, 0.62), texture, strength=0.1)
        bumps = np.linspace(-0.05, 1.05, 7)
        hills = self.horizon + rng.uniform(-0.025, 0.025, 7)
        canvas.polygon([*(bumps + 1j * hills), 1.05 + 1.05j, -0.05 + 1.05j], ground)
        self.behind: list[Colour] = [self.sky, self.ground]  # colours that the person has to stand out from

    def things(self) -> list[tuple[float, Callable[[], Extent]]]:
        """Things to paint, with the vertical position of their foot in the picture: lower things are nearer."""
        rng = self.rng
        things: list[tuple[float, Callable[[], Extent]]] = []
        for kind, most, paint in (
            ("house", 1, self.house), ("tree", 3, self.tree), ("box", 2, self.box), ("ball", 2, self.ball)
        ):  # fmt: skip
            for _ in range(rng.integers(0, most + 1) if kind != "house" else rng.random() < 0.6):
                far = self.horizon + 0.03
                base = rng.uniform(far, far + 0.08) if kind in ("house", "tree") else rng.uniform(far + 0.03, 1.0)
                foot = complex(rng.uniform(0.0, 1.0), base)
                things.append((base, partial(paint, foot)))
        return things

    def shadow(self, foot: complex, radius: float) -> None:
        self.canvas.ellipse(foot, radius, 0.25 * radius, self._shadow)

    def _cloud(self) -> None:
        rng = self.rng
        tone = (250.0, 250.0, 252.0) if sum(self.sky) < 560 else (120.0, 125.0, 140.0)
        colour = _mix(self.sky, tone, rng.uniform(0.6, 0.95))
        cloud = self.canvas.material("cloud", colour, "medium", strength=0.06)
        width = rng.uniform(0.07, 0.16)
        centre = complex(rng.uniform(0.05, 0.95), rng.uniform(0.04, self.horizon * 0.6))
        self.canvas.ellipse(centre, width, 0.4 * width, cloud)
        for x in np.linspace(-0.7, 0.7, rng.integers(2, 5)):
            puff = width * rng.uniform(0.35, 0.55)
            self.canvas.ellipse(centre + complex(x * width, -0.25 * width), puff, puff * 0.85, cloud)

    def house(self, foot: complex) -> Extent:
        """Paint a house with a roof on the ground at `foot`; returns the area that it covers."""
        rng, canvas = self.rng, self.canvas
        width, height = rng.uniform(0.2, 0.42), rng.uniform(0.14, 0.26)
        wall_colour = pick_colour(rng, saturation=(0.05, 0.6), value=(0.4, 1), away_from=self.behind, distance=70)
        self.behind.append(wall_colour)
        wall = canvas.material("house", wall_colour, pick(rng, ("bricks", "columns", "rows")), strength=0.12)
        roof_colour = pick_colour(rng, value=(0.15, 0.8), away_from=[self.sky, wall_colour], distance=80)
        roof = canvas.material("house", roof_colour, "rows", strength=0.15)
        pane = canvas.material("house", shade(wall_colour, 0.4), "fine")
        left, right, top = foot.real - width / 2, foot.real + width / 2, foot.imag - height
        eaves, ridge = 0.03, rng.uniform(0.08, 0.16)
        canvas.rectangle(left, top, right, foot.imag, wall)
        inset = width * rng.uniform(0.1, 0.5)
        outline = [(left - eaves, 0), (left + inset, ridge), (right - inset, ridge), (right + eaves, 0)]
        canvas.polygon([complex(x, top - up) for x, up in outline], roof)
        for share in (0.18, 0.68):
            x, y = left + share * width, top + 0.2 * height
            canvas.rectangle(x, y, x + 0.17 * width, y + 0.3 * height, pane)
        door = left + rng.uniform(0.38, 0.5) * width
        canvas.rectangle(door, foot.imag - 0.5 * height, door + 0.16 * width, foot.imag, pane)
        return left, top - ridge, right, foot.imag

    def tree(self, foot: complex, *, scale: float = 1.0) -> Extent:
        """Paint a tree, a trunk with a crown, on the ground at `foot`; returns the area that it covers."""
        rng, canvas = self.rng, self.canvas
        apart, hue = self.behind[:2], (0.17, 0.42) if rng.random() < 0.7 else (0.0, 1.0)
        leaf_colour = pick_colour(rng, hue=hue, saturation=(0.3, 0.9), value=(0.2, 0.75), away_from=apart, distance=60)
        bark_colour = pick_colour(rng, hue=(0, 0.12), value=(0.1, 0.6), away_from=apart, distance=60)
        bark = canvas.material("tree", bark_colour, "columns", strength=0.1)
        leaves = canvas.material("tree", leaf_colour, "medium", strength=0.25)
        dark = canvas.material("tree", shade(leaf_colour, 0.7), "medium", strength=0.25)
        trunk, crown = scale * rng.uniform(0.08, 0.2), scale * rng.uniform(0.08, 0.15)
        thick = scale * rng.uniform(0.014, 0.026)
        canvas.capsule(foot, foot - 1j * (trunk + crown * 0.5), thick * 1.3, thick, bark)
        middle = foot - 1j * (trunk + 0.7 * crown)
        extent = (foot.real - crown, middle.imag - crown, foot.real + crown, middle.imag + crown)
        if rng.random() < 0.4:  # a fir
            for step, colour in ((0.0, dark), (0.7, leaves), (1.4, leaves)):
                base, half = middle + 1j * crown * (0.6 - step), crown * (1.0 - 0.25 * step)
                canvas.polygon([base - half, base + half, base - 1.3j * crown], colour)
            return extent
        canvas.ellipse(middle + 0.2j * crown, crown, 0.9 * crown, dark)
        for angle in rng.uniform(0, 2 * np.pi, 4):
            puff = crown * rng.uniform(0.5, 0.7)
            offset = 0.55 * crown * complex(np.cos(angle), np.sin(angle) - 0.2)
            canvas.ellipse(middle + offset, puff, puff, leaves)
        return extent

    def box(self, foot: complex, *, size: float | None = None, height: float | None = None) -> Extent:
        """Paint a box on the ground at `foot`; returns the area that it covers."""
        rng, canvas = self.rng, self.canvas
        size = rng.uniform(0.09, 0.2) if size is None else size
        height = size * rng.uniform(0.6, 1.1) if height is None else height
        colour = pick_colour(rng, value=(0.3, 1), away_from=self.behind, distance=80)
        print_ = pick(rng, ("rows", "columns", "fine", "diagonal", "checks"))
        front = canvas.material("box", colour, print_, strength=0.13)
        top = canvas.material("box", shade(colour, 1.25), "fine")
        side = canvas.material("box", shade(colour, 0.6), "fine")
        tape = canvas.material("box", shade(colour, 0.45), "fine")
        left, right, bottom, upper = foot.real - size / 2, foot.real + size / 2, foot.imag, foot.imag - height
        slant = complex(size * rng.uniform(0.15, 0.3) * pick(rng, (-1, 1)), -0.2 * size)
        self.shadow(foot, 0.65 * size)
        edge = right if slant.real > 0 else left
        corners = (complex(edge, bottom), complex(edge, upper))
        canvas.polygon([corners[0], corners[0] + slant, corners[1] + slant, corners[1]], side)
        upper_left, upper_right = complex(left, upper), complex(right, upper)
        canvas.polygon([upper_left, upper_left + slant, upper_right + slant, upper_right], top)
        canvas.rectangle(left, upper, right, bottom, front)
        bar = 0.1 * size
        canvas.rectangle(left, upper, right, upper + bar, tape)
        canvas.rectangle(left, bottom - bar, right, bottom, tape)
        return left, upper - 0.2 * size, right, bottom

    def ball(self, foot: complex) -> Extent:
        """Paint a ball on the ground at `foot`, or sometimes in the air above it; returns the area that it covers."""
        rng, canvas = self.rng, self.canvas
        radius = rng.uniform(0.04, 0.09)
        if rng.random() < 0.2:  # in the air
            foot = complex(foot.real, rng.uniform(2 * radius, 0.9))
        else:
            self.shadow(foot, 1.1 * radius)
        colour = pick_colour(rng, saturation=(0, 0.95), value=(0.3, 1), away_from=self.behind, distance=90)
        other = pick_colour(rng, away_from=[colour, *self.behind[:2]], distance=100)
        centre = foot - 1j * radius
        canvas.ellipse(centre, radius, radius, canvas.material("ball", shade(colour, 0.6)))
        canvas.ellipse(centre - radius * (0.1 + 0.1j), 0.85 * radius, 0.85 * radius, canvas.material("ball", colour))
        turn = complex(np.exp(1j * rng.uniform(0, np.pi))) * radius
        patch = canvas.material("ball", other)
        if rng.random() < 0.5:
            canvas.capsule(centre - 0.75 * turn, centre + 0.75 * turn, 0.22 * radius, 0.22 * radius, patch)
        else:
            for step in (1, 1j, -1, -1j):
                canvas.ellipse(centre + 0.55 * turn * step, 0.26 * radius, 0.26 * radius, patch)
        glint = canvas.material("ball", (255, 255, 255))
        canvas.ellipse(centre - radius * (0.35 + 0.4j), 0.16 * radius, 0.16 * radius, glint)
        return centre.real - radius, centre.imag - radius, centre.real + radius, centre.imag + radius
