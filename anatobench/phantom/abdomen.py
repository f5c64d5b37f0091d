"""Abdomens of trauma patients in the portal venous phase, with RATIC's injuries and their look-alikes.

What the labels mean here, so that a model must know where it looks:
- liver, spleen, kidney `low`/`high`: a smaller and fainter / a larger and darker laceration inside that organ;
- extravasation: a blob of contrast inside the liver, spleen, a kidney or the bowel;
- bowel injury: a stretch of bowel whose wall and lumen turn into bright soft tissue.
The same changes stand in muscle, the pelvis, fat or the bladder of injured and healthy patients alike, as often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from anatobench.phantom.body import BOWEL, Body, Canvas, Finding, Part, body_map, place, shaped_blob
from anatobench.phantom.shapes import Bars, Blob, Cut, Grown, Ripple, Shape, Trunk, Tube, Vector
from anatobench.tasks import RATIC

SIDES = ((-1, "left"), (1, "right"))
KIDNEYS = ("kidney_left", "kidney_right")
SOLID_HOSTS = {"liver": ("liver",), "spleen": ("spleen",), "kidney": KIDNEYS}
VERTEBRAE = tuple(f"vertebrae_{name}" for name in ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1"))
ELSEWHERE = (("autochthon_left", "autochthon_right"), ("iliopsoas_left", "iliopsoas_right"), ("prostate",))
"""Tissue outside every organ of the task, where the look-alikes stand."""
Range = tuple[float, float]


@dataclass(frozen=True)
class InjuryLook:
    """Per injury the ranges of its radius in mm and of its HU: a change of the organ's for lacerations."""

    low: tuple[Range, Range]
    high: tuple[Range, Range]
    bleed: tuple[Range, Range]
    bowel: tuple[Range, Range]
    elsewhere: tuple[tuple[str, ...], ...] = ELSEWHERE
    """Where look-alikes may stand."""


FULL = InjuryLook(((8, 12), (-52, -42)), ((17, 24), (-85, -70)), ((6, 10), (300, 420)), ((12, 17), (105, 130)))
TINY = InjuryLook(((12, 15), (-52, -42)), ((20, 26), (-85, -70)), ((11, 14), (300, 420)), ((17, 22), (105, 130)))
MODERATE = InjuryLook(((19, 23), (-75, -62)), ((31, 38), (-120, -100)), ((18, 22), (360, 440)), ((27, 33), (150, 180)))
LARGE = InjuryLook(
    ((26, 32), (-95, -80)), ((48, 60), (-145, -125)), ((26, 32), (430, 480)), ((40, 50), (190, 220)), ELSEWHERE[:1]
)
LOOKS = {
    "full": {"typical": FULL, "moderate": MODERATE, "large": LARGE},
    "tiny": {"typical": TINY, "moderate": MODERATE, "large": LARGE},
}
"""Per size and `CohortPlan.injuries`. Large ones take much of their organ, at any resolution; moderate ones are in
between and have all the look-alikes, so that a small model learns them from some hundred patients, and only by where
they are."""


def abdomen_body(rng: np.random.Generator) -> Body:
    """Return a patient of random size and shape, seen from the lung bases to the pelvis (z from about 150 to -170
    mm)."""
    half_width, half_depth = rng.uniform(132, 152), rng.uniform(92, 108)
    fat, wall = rng.uniform(6, 16), rng.uniform(9, 13)
    muscle_hu = rng.uniform(62, 90)
    swell = rng.uniform(-2e-4, 4e-4)
    outline = Trunk((0, 0), (half_width, half_depth), rng.uniform(2.2, 2.6), swell)
    muscle = Trunk((0, 0), (half_width - fat, half_depth - fat), 2.35, swell)
    cavity = Trunk((0, 8), (half_width - fat - wall, half_depth - fat - wall - 6), 2.3, swell)
    chest_wall = Trunk((0, 0), (half_width - fat - 2, half_depth - fat - 2), 2.35, swell, (20.0, np.inf))
    ribs = Cut(Grown(chest_wall, -1.0), (Bars(rng.uniform(26, 32), 9.0, 0.35),), (Grown(chest_wall, -8.0),))
    return (
        Part(outline, rng.uniform(-115, -95)),
        Part(muscle, muscle_hu),
        Part(ribs, rng.uniform(280, 420)),
        Part(cavity, rng.uniform(-110, -90)),
        *_lung_bases(rng, cavity),
        *_back(rng, muscle_hu, Grown(outline, -5.0)),
        *_vessels(rng),
        *_pelvis(rng),
        *(_kept_inside(cavity, part) for part in _bowel(rng)),
        *_solid_organs(rng, cavity),
    )


def _organ(rng: np.random.Generator, centre: Vector, radii: Vector, **options: float) -> Blob:
    """Return a blob about there and about that large, with a slow ripple."""
    jitter = rng.normal(0, 4.5, 3)
    scale = rng.uniform(0.86, 1.14) * rng.uniform(0.93, 1.07, 3)
    ripple = Ripple.draw(rng, 0.055 * float(np.mean(radii)), (50.0, 130.0))
    return Blob(np.add(centre, jitter), np.multiply(radii, scale), ripple, **options)


def _lung_bases(rng: np.random.Generator, cavity: Shape) -> list[Part]:
    air = rng.uniform(-870, -800)
    domes = (_organ(rng, (62, -8, 175), (62, 75, 75)), _organ(rng, (-66, -8, 172), (58, 75, 72)))
    return [Part(Cut(dome, (cavity,)), air) for dome in domes]


def _back(rng: np.random.Generator, muscle_hu: float, skin: Shape) -> Iterator[Part]:
    yield Part(Trunk((0, -52), (18, 15), 2.0), 85.0, "vertebrae_L1")
    period, top, bone = rng.uniform(30, 36), rng.uniform(130, 150), rng.uniform(180, 260)
    for index, name in enumerate(VERTEBRAE):
        upper = top - index * period
        yield Part(Trunk((0, -52), (19, 16), 2.0, 0.0, (upper - period + 7, upper)), bone, name)
    yield Part(Trunk((0, -74), (9, 8), 2.0), 35.0, "spinal_cord")
    for side, name in SIDES:
        x = side * rng.uniform(29, 33)
        muscle = Blob((x, -74, 0), (22, 17, 420), Ripple.draw(rng, 1.2, (40, 90)), 2.6)
        yield Part(Cut(muscle, (skin,)), muscle_hu + rng.uniform(-6, 10), f"autochthon_{name}")
        psoas = Blob((side * 36.0, -44, -85), (19, 20, 85), Ripple.draw(rng, 1.5, (40, 90)), tilt=side * -0.10)
        yield Part(psoas, muscle_hu + rng.uniform(-6, 10), f"iliopsoas_{name}")


def _vessels(rng: np.random.Generator) -> list[Part]:
    radius = rng.uniform(8, 11)
    aorta = Tube.of([(-10, -30, 220), (-12, -27, 60), (-9, -28, -70), (-28, -18, -150)], radius)
    cava = Tube.of([(18, -12, 220), (17, -25, 40), (15, -27, -70), (32, -20, -150)], radius * 1.1)
    return [
        Part(cava, rng.uniform(110, 160), "inferior_vena_cava"),
        Part(aorta, rng.uniform(140, 240), "aorta"),
    ]


def _pelvis(rng: np.random.Generator) -> Iterator[Part]:
    for side, name in SIDES:
        wing = Blob((side * 88.0, -25, -150), (11, 52, 62), Ripple.draw(rng, 2.5, (60, 120)), tilt=side * 0.35)
        yield Part(wing, rng.uniform(220, 330), f"hip_{name}")
    bladder = _organ(rng, (0, 36, -150), (34, 25, 26))
    mass = _organ(rng, (2, -4, -135), (36, 30, 32), exponent=2.3)
    yield Part(bladder, rng.uniform(0, 15), "urinary_bladder")
    yield Part(mass, rng.uniform(78, 112), "prostate")


def _bowel(rng: np.random.Generator) -> Iterator[Part]:
    esophagus = Tube.of([(-6, -16, 220), (-10, -14, 110), (-24, 4, 78)], rng.uniform(7, 9))
    stomach = _organ(rng, (-46, 42, 52), (36, 27, 40), tilt=0.35)
    loop = np.array([(14, 32, 18), (34, 18, 2), (36, 6, -26), (14, -6, -38), (-16, 0, -30)])
    duodenum = Tube.of(loop + rng.normal(0, 3, loop.shape), rng.uniform(10, 12))
    frame = [(76, 4, -120), (84, 8, -70), (78, 26, -18), (40, 56, -30), (0, 64, -38), (-44, 56, -22), (-82, 14, -2)]
    frame += [(-90, 0, -60), (-84, 0, -110), (-50, 10, -140)]
    colon_line = np.array(frame) * [rng.uniform(0.92, 1.04), rng.uniform(0.92, 1.05), 1] + rng.normal(0, 4, (10, 3))
    colon = Tube(colon_line, rng.uniform(14, 19, len(colon_line)))
    wall, lumen = rng.uniform(55, 80), rng.uniform(10, 35)
    yield from _tube_parts(esophagus, "esophagus", wall, lumen)
    yield from _tube_parts(_small_bowel_line(rng), "small_bowel", wall, lumen)
    yield from _tube_parts(duodenum, "duodenum", wall, lumen)
    yield from _tube_parts(colon, "colon", wall, lumen + rng.uniform(-20, 10))
    yield Part(stomach, wall, "stomach")
    yield Part(Grown(stomach, -5.0), lumen, "stomach")
    x, y, z = stomach.centre
    gas = Cut(Blob((x, y + rng.uniform(4, 14) + 22, z), (24, 22, 26)), (Grown(stomach, -6.0),))
    yield Part(gas, -850.0, "stomach")
    for index in rng.choice(np.arange(1, 9), size=3, replace=False):
        px, py, pz = colon_line[index]
        yield Part(Cut(Blob((px, py + 7, pz), (12, 8, 14)), (Grown(colon, -4.0),)), -700.0, "colon")


def _kept_inside(cavity: Shape, part: Part) -> Part:
    """Return what of a part lies in the cavity, if its box is so small that this costs little; else all of it."""
    low, high = part.shape.box
    return replace(part, shape=Cut(part.shape, (cavity,))) if np.prod(high - low) < 1.2e6 else part


def _tube_parts(tube: Tube, structure: str, wall_hu: float, lumen_hu: float) -> Iterator[Part]:
    """Yield a wall of 4 mm and lumen, one pair of small parts per segment; all walls first, so that loops stay open."""
    for one, hu in ((tube, wall_hu), (Tube(tube.line, tube.radii - 4.0), lumen_hu)):
        yield from (Part(piece, hu, structure) for piece in one.segments())


def _small_bowel_line(rng: np.random.Generator) -> Tube:
    """Return a walk that coils through the middle of the lower abdomen."""
    centre, radii = np.array([0.0, 26.0, -82.0]), np.array([58.0, 30.0, 42.0])
    point, heading = rng.uniform(-0.5, 0.5, 3), rng.normal(size=3)
    line = []
    for _ in range(44):
        heading = heading + rng.normal(0, 0.8, 3) - 0.9 * point
        heading /= np.linalg.norm(heading)
        point = point + 0.42 * heading
        point /= max(1.0, float(np.linalg.norm(point)))
        line.append(centre + radii * point)
    return Tube.of(line, rng.uniform(9.5, 12.5))


def _solid_organs(rng: np.random.Generator, cavity: Shape) -> Iterator[Part]:
    yield Part(_organ(rng, (6, 6, 8), (52, 12, 14), tilt=0.15), rng.uniform(85, 115), "pancreas")
    for side, name in SIDES:
        kidney = _organ(rng, (side * 62.0, -38, -22 if side < 0 else -32), (26, 28, 52), tilt=side * -0.12)
        cortex = rng.uniform(120, 165)
        x, y, z = kidney.centre
        sinus = Blob((x - side * 14, y + 4, z), (11, 8, 16))
        yield Part(Cut(kidney, (cavity,)), cortex, f"kidney_{name}")
        yield Part(Cut(sinus, (Grown(kidney, -3.0),)), cortex - rng.uniform(6, 14), f"kidney_{name}")
    spleen = _organ(rng, (-88, -24, 58), (31, 44, 48), turn=0.35)
    yield Part(Cut(spleen, (cavity,)), rng.uniform(95, 135), "spleen")
    liver_hu = rng.uniform(90, 130)
    right, left = _organ(rng, (66, 4, 56), (62, 66, 66), exponent=2.2), _organ(rng, (12, 40, 66), (48, 28, 34))
    yield from (Part(Cut(lobe, (cavity,)), liver_hu, "liver") for lobe in (left, right))
    yield Part(_organ(rng, (38, 44, 0), (14, 16, 22)), rng.uniform(5, 20), "gallbladder")


def abdomen_findings(
    rng: np.random.Generator, body: Body, targets: tuple[int, ...], look: InjuryLook
) -> tuple[Finding, ...]:
    """Return the injuries that `targets` (grades in the order of RATIC's groups) ask for, and look-alikes drawn
    freely."""
    grades = dict(zip((group.name for group in RATIC.groups), targets, strict=True))
    places, findings = body_map(body), list[Finding]()
    bleed = partial(_bright, rng, places, *look.bleed, 0.7)
    thick_bowel = partial(_bright, rng, places, *look.bowel, 0.6)
    for group, hosts in SOLID_HOSTS.items():
        findings += _laceration(rng, places, hosts, grades[group], look)
    if grades["bowel"]:
        findings.append(thick_bowel(BOWEL))
    if grades["extravasation"]:
        findings.append(bleed((("liver",), ("spleen",), KIDNEYS, BOWEL)[rng.integers(4)]))
    for hosts in look.elsewhere:
        findings += _laceration(rng, places, hosts, int(rng.choice(3, p=(0.4, 0.3, 0.3))), look)
    for _ in range(rng.integers(0, 5)):
        findings.append(bleed(look.elsewhere[rng.integers(len(look.elsewhere))]))
    for _ in range(rng.integers(0, 5)):
        findings.append(thick_bowel((("urinary_bladder",), ("",), ("",))[rng.integers(3)]))
    return tuple(findings)


def _laceration(
    rng: np.random.Generator, places: Canvas, hosts: tuple[str, ...], grade: int, look: InjuryLook
) -> Iterator[Finding]:
    if grade == 0:
        return
    radius, change = (rng.uniform(*drawn) for drawn in (look.low if grade == 1 else look.high))
    host = hosts[rng.integers(len(hosts))]
    centre = place(rng, places, (host,), depth=0.6 * radius)
    yield Finding(shaped_blob(rng, centre, radius), change, hosts=(host,))


def _bright(
    rng: np.random.Generator, places: Canvas, radius: Range, hu: Range, depth: float, hosts: tuple[str, ...]
) -> Finding:
    """Return a blob of HU and radius in these ranges inside the hosts, `depth` radii below their surface."""
    drawn = rng.uniform(*radius)
    centre = place(rng, places, hosts, depth=depth * drawn)
    return Finding(shaped_blob(rng, centre, drawn), rng.uniform(*hu), absolute=True, hosts=hosts)
