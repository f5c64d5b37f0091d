"""One simple local sign per finding of CT-RATE and RAD-ChestCT, and look-alikes in other places.

Where a sign lies is what its label means: a ball in a lobe is a nodule, the same ball in fat is nothing; a bright dot
in the aorta or the heart is calcification, the same dot in muscle is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anatobench.phantom.body import Body, Canvas, Finding, body_map, place, shaped_blob
from anatobench.phantom.chest import LOBES, LOWER_LOBES, UPPER_LOBES, Chest, chest_body
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.scans import Scan
from anatobench.phantom.shapes import Bars, Below, Blob, Cut, Grown, Ripple, Shape, Tube

PREVALENCE = 0.3
CARDIOMEGALY = "Cardiomegaly"
COARSENESS = {"full": 1.0, "tiny": 1.7}


@dataclass(frozen=True)
class Scene:
    """What a sign needs to be drawn."""

    rng: np.random.Generator
    chest: Chest
    body_map: Canvas
    coarse: float
    """1 for full scans; more widens thin things so that they outlast coarse voxels."""

    def balls(self, hosts: tuple[str, ...], count: int, radius: float, hu: float) -> Iterator[Finding]:
        """Yield irregular balls of absolute HU inside the hosts."""
        for _ in range(count):
            size = radius * self.rng.uniform(0.85, 1.2)
            centre = place(self.rng, self.body_map, hosts, depth=0.8 * size)
            yield replaced(shaped_blob(self.rng, centre, size), hu, hosts)

    def dots(self, hosts: tuple[str, ...], count: int) -> Iterator[Finding]:
        """Return specks of calcium."""
        return self.balls(hosts, count, 3.5 * self.coarse**1.3, 800.0)

    def point_in(self, lobes: tuple[str, ...], depth: float) -> tuple[str, np.ndarray]:
        """Return one of the lobes and a point [3] in it, about `depth` mm below its surface."""
        lobe = lobes[self.rng.integers(len(lobes))]
        return lobe, place(self.rng, self.body_map, (lobe,), depth)


def replaced(shape: Shape, hu: float, hosts: tuple[str, ...] = ()) -> Finding:
    """Return tissue of other HU inside the hosts."""
    return Finding(shape, hu, absolute=True, hosts=hosts)


def _medical_material(scene: Scene) -> Iterator[Finding]:
    line = np.array([(70, 62, 145), (28, 14, 95), (21, 8, 30), (18, 6, -25)]) + scene.rng.normal(0, 2, (4, 3))
    yield replaced(Tube.of(line, 1.6 * scene.coarse**1.6), 1800.0)


def _pericardial_effusion(scene: Scene) -> Iterator[Finding]:
    heart = scene.chest.heart
    shell = Cut(Grown(heart, scene.rng.uniform(8, 12) * scene.coarse**0.5), (), (heart,))
    yield replaced(shell, scene.rng.uniform(0, 20), ("", *LOBES))


def _hernia(scene: Scene) -> Iterator[Finding]:
    x, y, z = np.array([-6.0, -34.0, -72.0]) + scene.rng.normal(0, 4, 3)
    radius = scene.rng.uniform(19, 24)
    sac = Blob((x, y, z), (radius, radius * 0.9, radius * 1.1), Ripple.draw(scene.rng, 2.0, (30.0, 60.0)))
    gas = Blob((x, y + 6, z + 2), (radius * 0.5, radius * 0.4, radius * 0.5))
    for shape, hu in ((sac, 40.0), (gas, -700.0)):
        yield replaced(shape, hu, ("", "esophagus", *LOBES))


def _lymphadenopathy(scene: Scene) -> Iterator[Finding]:
    for _ in range(4):
        centre = (scene.rng.uniform(-22, 26), scene.rng.uniform(-10, 34), scene.rng.uniform(35, 105))
        blob = shaped_blob(scene.rng, centre, scene.rng.uniform(8, 11) * scene.coarse**0.7)
        yield replaced(blob, 75.0, ("",))


def _atelectasis(scene: Scene) -> Iterator[Finding]:
    lobe, centre = scene.point_in(LOWER_LOBES, depth=14.0)
    plate = Blob(centre, (34.0, 30.0, 4.5 * scene.coarse**1.2), tilt=scene.rng.uniform(-0.4, 0.4))
    yield replaced(plate, 25.0, (lobe,))


def _opacity(scene: Scene) -> Iterator[Finding]:
    _, centre = scene.point_in(LOBES, depth=20.0)
    yield Finding(shaped_blob(scene.rng, centre, scene.rng.uniform(26, 34)), 260.0, hosts=LOBES)


def _fibrotic_sequela(scene: Scene) -> Iterator[Finding]:
    for _ in range(5):
        _, start = scene.point_in(UPPER_LOBES, depth=8.0)
        heading = scene.rng.normal(size=3)
        strand = Tube.of([start, start + 38 * heading / np.linalg.norm(heading)], 1.8 * scene.coarse)
        yield replaced(strand, -100.0, UPPER_LOBES)


def _pleural_effusion(scene: Scene) -> Iterator[Finding]:
    lung = scene.chest.lungs[scene.rng.integers(2)]
    layer = Cut(lung, (Below((0.0, 0.8, 0.6), scene.rng.uniform(-76, -62)),))
    yield replaced(layer, 10.0, ("", *LOBES))


def _mosaic(scene: Scene) -> Iterator[Finding]:
    patches = Ripple.draw(scene.rng, 30.0, (70.0, 110.0), count=5)
    for lung in scene.chest.lungs:
        yield Finding(Cut(lung, (patches,)), 90.0, hosts=LOBES)


def _peribronchial_thickening(scene: Scene) -> Iterator[Finding]:
    for tube in scene.chest.bronchi:
        yield replaced(Cut(Grown(tube, 3.0 * scene.coarse + 1.5), (), (tube,)), 30.0)


def _consolidation(scene: Scene) -> Iterator[Finding]:
    lobe, centre = scene.point_in((*LOWER_LOBES, "lung_middle_lobe_right"), depth=18.0)
    yield replaced(shaped_blob(scene.rng, centre, scene.rng.uniform(22, 28)), 35.0, (lobe,))


def _bronchiectasis(scene: Scene) -> Iterator[Finding]:
    for _ in range(4):
        _, start = scene.point_in(LOWER_LOBES, depth=14.0)
        airway = Tube.of([start, start + scene.rng.normal(0, 6, 3) + [0, 0, -34]], 4.5 * scene.coarse**0.9)
        wall = Cut(Grown(airway, 2.5 * scene.coarse**0.7), (), (airway,))
        yield replaced(airway, -1000.0, LOWER_LOBES)
        yield replaced(wall, -150.0, LOWER_LOBES)


def _septal_thickening(scene: Scene) -> Iterator[Finding]:
    bars = Bars(13.0 * scene.coarse**1.3, 2.2 * scene.coarse**1.7, scene.rng.uniform(-0.5, 0.5))
    for lung in scene.chest.lungs:
        yield Finding(Cut(lung, (bars,), (Grown(lung, -22.0),)), 220.0, hosts=LOBES)


ARTERIAL = ("Arterial wall calcification", "Coronary artery wall calcification")
SIGNS: Mapping[str, Callable[[Scene], Iterator[Finding]]] = {
    "Mosaic attenuation pattern": _mosaic,
    "Lung opacity": _opacity,
    "Emphysema": lambda scene: (
        bubble for lobe in UPPER_LOBES for bubble in scene.balls((lobe,), 5, 12 * scene.coarse**0.5, -1000.0)
    ),
    "Interlobular septal thickening": _septal_thickening,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Pleural effusion": _pleural_effusion,
    "Pulmonary fibrotic sequela": _fibrotic_sequela,
    "Peribronchial thickening": _peribronchial_thickening,
    "Bronchiectasis": _bronchiectasis,
    "Lung nodule": lambda scene: scene.balls(LOBES, int(scene.rng.integers(1, 3)), 7.0 * scene.coarse, 50.0),
    "Pericardial effusion": _pericardial_effusion,
    "Hiatal hernia": _hernia,
    "Lymphadenopathy": _lymphadenopathy,
    "Arterial wall calcification": lambda scene: scene.dots(("aorta",), 5),
    "Coronary artery wall calcification": lambda scene: scene.dots(("heart",), 3),
    "Calcification": lambda scene: SIGNS[ARTERIAL[scene.rng.integers(2)]](scene),
    "Medical material": _medical_material,
}
"""By CT-RATE's names, in the order in which they are drawn: small things over large ones. Cardiomegaly is the body's
own; RAD-ChestCT's calcification is one of the `ARTERIAL` ones."""


def draw_targets(plan: CohortPlan, index: int, labels: Sequence[str]) -> tuple[int, ...]:
    """Return 0 or 1 per label for patient `index`."""
    return tuple(plan.grade(index, question, (1 - PREVALENCE, PREVALENCE)) for question in range(len(labels)))


def chest_patient(plan: CohortPlan, scan: Scan, signs: Sequence[str]) -> tuple[Body, tuple[Finding, ...]]:
    """Return the patient of a scan: the body, the signs of the findings that are present, and look-alikes drawn
    whatever is present. `signs` is what each of the data set's labels means, by CT-RATE's names."""
    present = {sign for sign, value in zip(signs, scan.targets, strict=True) if value}
    chest = chest_body(plan.rng(scan.patient, Stream.BODY), CARDIOMEGALY in present)
    rng = plan.rng(scan.patient, Stream.FINDINGS)
    scene = Scene(rng, chest, body_map(chest.body), COARSENESS[plan.size])
    drawn = [*(sign for name, sign in SIGNS.items() if name in present), _lookalikes]
    return chest.body, tuple(finding for sign in drawn for finding in sign(scene))


def _lookalikes(scene: Scene) -> Iterator[Finding]:
    """Balls, dots, gas, cysts and wires where they mean nothing, as often in healthy patients as in others."""
    rng, muscles = scene.rng, ("autochthon_left", "autochthon_right")
    for _ in range(rng.integers(0, 4)):
        side = -1 if rng.random() < 0.5 else 1
        centre = (side * rng.uniform(98, 118), rng.uniform(-20, 20), rng.uniform(-80, 110))
        yield replaced(shaped_blob(rng, centre, 7.0 * scene.coarse), 50.0, ("",))
    yield from scene.dots((*muscles, "liver"), int(rng.integers(0, 6)))
    yield from scene.balls(("liver", "spleen"), int(rng.integers(0, 4)), 8.0 * scene.coarse**0.5, -900.0)
    for _ in range(rng.integers(0, 3)):
        yield from scene.balls(("liver",), 1, rng.uniform(10, 20), rng.uniform(0, 20))
    for _ in range(rng.integers(0, 4)):
        y, height = scene.chest.front, rng.uniform(-60, 80)
        wire = [(rng.uniform(30, 80), y - 12, height + 40), (0, y + 2, height), (rng.uniform(-80, -30), y - 12, height)]
        yield replaced(Tube.of(wire, 1.6 * scene.coarse**1.6), 1800.0)
