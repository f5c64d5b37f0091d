"""Chests: lobes, heart, mediastinum, airways, vessels, the top of the abdomen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anatobench.phantom.body import Body, Part
from anatobench.phantom.shapes import Bars, Below, Blob, Cut, Grown, Ripple, Shape, Trunk, Tube

UPPER_LOBES = ("lung_upper_lobe_left", "lung_upper_lobe_right")
LOWER_LOBES = ("lung_lower_lobe_left", "lung_lower_lobe_right")
LOBES = (*UPPER_LOBES, *LOWER_LOBES, "lung_middle_lobe_right")
SIDES = ((1, "right"), (-1, "left"))
COVERED = (-152.0, 142.0)
"""z of the body that every scan shows, mm."""
VERTEBRAE = tuple(f"vertebrae_{name}" for name in ("T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11", "T12", "L1"))


@dataclass(frozen=True)
class Chest:
    """A chest and the shapes that findings attach to."""

    body: Body
    lungs: tuple[Shape, Shape]
    """Right and left."""
    heart: Blob
    bronchi: tuple[Tube, ...]
    front: float
    """y of the skin in front, mm."""


def chest_body(rng: np.random.Generator, cardiomegaly: bool = False) -> Chest:
    """Return a patient of random size and shape, seen from the lung tips to the upper abdomen (z about 140 to -150
    mm)."""
    half_width, half_depth = rng.uniform(136, 154), rng.uniform(94, 110)
    fat, wall = rng.uniform(5, 14), rng.uniform(9, 13)
    blood, muscle_hu = rng.uniform(40, 140), rng.uniform(45, 70)
    outline = Trunk((0, 0), (half_width, half_depth), 2.4)
    muscle = Trunk((0, 0), (half_width - fat, half_depth - fat), 2.4)
    cavity = Trunk((0, 2), (half_width - fat - wall, half_depth - fat - wall), 2.3)
    shell = Grown(muscle, -2.0)
    ribs = Cut(shell, (Bars(rng.uniform(24, 29), 9.0, 0.45),), (Grown(muscle, -9.0),))
    lungs = _lungs(rng, Grown(cavity, -1.0))
    heart = _heart(rng, cardiomegaly)
    bronchi = tuple(_bronchi(rng))
    parts = (
        Part(outline, rng.uniform(-115, -95)),
        Part(muscle, muscle_hu),
        Part(ribs, rng.uniform(280, 450)),
        Part(cavity, rng.uniform(-110, -85)),
        *_back(rng, muscle_hu, Grown(outline, -5.0)),
        Part(Blob((0, half_depth - fat - 9, 25), (15, 6, 80)), rng.uniform(150, 260), "sternum"),
        *_lobes(rng, lungs),
        *_mediastinum(rng, blood),
        Part(heart, blood, "heart"),
        *_airways(bronchi),
        *_upper_abdomen(rng, Grown(cavity, -2.0)),
    )
    return Chest(parts, lungs, heart, bronchi, half_depth)


def _lungs(rng: np.random.Generator, cavity: Shape) -> tuple[Shape, Shape]:
    shapes = []
    for side, _ in SIDES:
        radii = np.array([54, 80, 130]) * rng.uniform(0.93, 1.05, 3)
        ripple = Ripple.draw(rng, 2.5, (60.0, 140.0))
        shapes.append(Cut(Blob((side * rng.uniform(66, 72), -4, 0), radii, ripple, 2.5), (cavity,)))
    return shapes[0], shapes[1]


def _lobes(rng: np.random.Generator, lungs: tuple[Shape, Shape]) -> Iterator[Part]:
    """Fissures cut each lung: an oblique one on both sides, a horizontal one on the right. Vessels follow."""
    air = rng.uniform(-890, -790)
    for (side, name), lung in zip(SIDES, lungs, strict=True):
        hu = air + rng.uniform(-12, 12)
        oblique = Below((0.0, 0.67, 0.74), rng.uniform(4, 20))
        yield Part(lung, hu, f"lung_upper_lobe_{name}")
        if name == "right":
            yield Part(Cut(lung, (Below((0.0, 0.0, 1.0), rng.uniform(22, 36)),)), hu, "lung_middle_lobe_right")
        yield Part(Cut(lung, (oblique,)), hu + rng.uniform(0, 15), f"lung_lower_lobe_{name}")
        for _ in range(26):
            yield Part(Cut(_lung_vessel(rng, side), (Grown(lung, -3.0),)), 20.0, None)


def _lung_vessel(rng: np.random.Generator, side: int) -> Tube:
    hilum = np.array([side * 36.0, -8.0, 8.0]) + rng.normal(0, 6, 3)
    heading = np.array([side * rng.uniform(0.2, 1.0), rng.normal(0, 0.7), rng.normal(0, 1.0)])
    heading /= np.linalg.norm(heading)
    length = rng.uniform(55, 105)
    middle = hilum + 0.5 * length * heading + rng.normal(0, 5, 3)
    return Tube.of([hilum, middle, middle + 0.5 * length * heading + rng.normal(0, 9, 3)], (3.6, 2.4, 1.0))


def _heart(rng: np.random.Generator, cardiomegaly: bool) -> Blob:
    scale = rng.uniform(1.22, 1.34) if cardiomegaly else rng.uniform(0.88, 1.0)
    radii = np.array([53, 42, 47]) * scale * rng.uniform(0.97, 1.03, 3)
    centre = np.array([-20, 20, -52]) + rng.normal(0, 3, 3)
    return Blob(centre, radii, Ripple.draw(rng, 2.0, (60.0, 120.0)), turn=-0.5)


def _bronchi(rng: np.random.Generator) -> Iterator[Tube]:
    carina = np.array([2.0, -20.0, 36.0]) + rng.normal(0, 2, 3)
    for side, _ in SIDES:
        hilum = np.array([side * 36.0, -16.0, 12.0]) + rng.normal(0, 3, 3)
        yield Tube.of([carina, hilum], (6.5, 5.5))
        for rise in (55.0, -20.0, -62.0):
            end = hilum + np.array([side * rng.uniform(20, 34), rng.uniform(-30, 10), rise])
            yield Tube.of([hilum, end], (4.5, 3.0))


def _airways(bronchi: tuple[Tube, ...]) -> list[Part]:
    start = bronchi[0].line[0]
    trachea = Tube.of([(0, -12, 220), start], (8.5, 8.0))
    walls = [Part(Grown(tube, 1.5), -50.0, None) for tube in bronchi]
    return [*walls, Part(trachea, -990.0, "trachea"), *(Part(tube, -985.0, None) for tube in bronchi)]


def _mediastinum(rng: np.random.Generator, blood: float) -> list[Part]:
    fat = Blob((0, 0, 20), (rng.uniform(26, 34), 74, 170), Ripple.draw(rng, 2.0, (60.0, 120.0)))
    radius = rng.uniform(11.5, 14)
    aorta = Tube.of(
        [(4, 16, -30), (16, 20, 30), (10, 8, 62), (-8, -18, 70), (-22, -42, 48), (-22, -46, -30), (-14, -44, -220)],
        (radius * 1.1, radius * 1.1, radius, radius, radius, radius * 0.95, radius * 0.85),
    )
    cava = Tube.of([(26, 8, 220), (22, 10, 60), (20, 8, -30)], rng.uniform(8, 10))
    trunk = Tube.of([(-14, 24, -10), (-16, 4, 30), (-38, -10, 22)], 11.0)
    right_artery = Tube.of([(-14, 2, 28), (36, -8, 16)], 9.0)
    esophagus = Tube.of([(0, -34, 220), (4, -36, 20), (-4, -36, -90), (-26, -18, -130)], rng.uniform(6, 8))
    return [
        Part(fat, rng.uniform(-105, -80)),
        Part(esophagus, 35.0, "esophagus"),
        Part(trunk, blood, None),
        Part(right_artery, blood, None),
        Part(cava, blood + 10, "superior_vena_cava"),
        *(Part(piece, blood + rng.uniform(-5, 5), "aorta") for piece in aorta.segments()),
    ]


def _back(rng: np.random.Generator, muscle_hu: float, skin: Shape) -> Iterator[Part]:
    yield Part(Trunk((0, -64), (16, 13), 2.0), 85.0, "vertebrae_T6")
    period, top, bone = rng.uniform(24, 29), rng.uniform(135, 160), rng.uniform(170, 260)
    for index, name in enumerate(VERTEBRAE):
        upper = top - index * period
        yield Part(Trunk((0, -64), (17, 14), 2.0, 0.0, (upper - period + 6, upper)), bone, name)
    yield Part(Trunk((0, -83), (8, 7), 2.0), 35.0, "spinal_cord")
    for side, name in SIDES:
        muscle = Cut(Blob((side * 28.0, -82, 0), (20, 13, 420), Ripple.draw(rng, 1.2, (40, 90)), 2.6), (skin,))
        yield Part(muscle, muscle_hu, f"autochthon_{name}")


def _upper_abdomen(rng: np.random.Generator, cavity: Shape) -> list[Part]:
    """Domes of the diaphragm with what lies beneath."""
    right, left = rng.uniform(-92, -76), rng.uniform(-104, -88)
    ripples = [Ripple.draw(rng, 3.0, (70.0, 140.0)) for _ in range(2)]
    liver = Blob((60, 2, right - 95), (78, 92, 95), ripples[0], 2.2)
    fat = Blob((-60, 0, left - 95), (74, 88, 95), ripples[1], 2.2)
    spleen = Blob((-88, -34, left - 48), (28, 36, 40))
    size = rng.uniform(22, 40)
    stomach = Blob((-50, 26, left - 44), (size, size, size + 2))
    gas = Cut(Grown(stomach, -5.0), (), (Below((0.0, 1.0, 0.0), rng.uniform(26, 44)),))
    parts = [
        Part(fat, -95.0),
        Part(liver, rng.uniform(50, 75), "liver"),
        Part(spleen, rng.uniform(45, 60), "spleen"),
        Part(stomach, rng.uniform(0, 45), "stomach"),
        Part(gas, -900.0, "stomach"),
    ]
    return [Part(Cut(part.shape, (cavity,)), part.hu, part.structure) for part in parts]
