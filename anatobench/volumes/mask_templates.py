"""Multilabel masks that were put together from many sources, each of which drew its own organs.

The numbering of 32 structures, and of each source the structures that it annotates, as the CLIP-Driven Universal Model
(Liu et al., ICCV 2023) and SuPreM (Li et al., ICLR 2024) list them. These are facts of the data, written down anew; the
code of neither is used. The names are TotalSegmentator's where it has the structure.
"""

from __future__ import annotations

from collections.abc import Mapping

_STRUCTURES = """
spleen kidney_right kidney_left gallbladder esophagus liver stomach aorta inferior_vena_cava
portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left duodenum hepatic_vessel lung_right
lung_left colon small_bowel rectum urinary_bladder prostate femur_left femur_right celiac_trunk kidney_tumour
liver_tumour pancreas_tumour hepatic_vessel_tumour lung_tumour colon_tumour kidney_cyst
"""
CLIP_DRIVEN: Mapping[int, str] = dict(enumerate(_STRUCTURES.split(), start=1))

TEMPLATES: Mapping[str, tuple[int, ...]] = {
    "01": tuple(range(1, 15)),  # BTCV
    "01_2": (1, 3, 4, 5, 6, 7, 11, 14),  # BTCV, ids from 60 on
    "02": (1, 3, 4, 5, 6, 7, 11, 14),  # Pancreas-CT
    "03": (6,),  # CHAOS
    "04": (6, 27),  # LiTS
    "05": (2, 3, 26, 32),  # KiTS
    "06": (1, 2, 3, 4, 6, 7, 11, 16, 17),  # 3D-IRCADb
    "07": (6, 1, 3, 2, 7, 4, 5, 11, 14, 18, 19, 12, 13, 20, 21, 23, 24),  # WORD
    "08": (6, 2, 3, 1, 11),  # AbdomenCT-1K
    "09": (*range(1, 10), *range(11, 15), 21, 22),  # AMOS
    "10_03": (6, 27),  # Medical Segmentation Decathlon: liver
    "10_06": (30,),  # lung
    "10_07": (11, 28),  # pancreas
    "10_08": (15, 29),  # hepatic vessel
    "10_09": (1,),  # spleen
    "10_10": (31,),  # colon
    "12": (6, 21, 16, 17, 2, 3),  # CT-ORG; which of 12 and 13 is which was told by their content
    "13": (6, 2, 3, 1, 11, 8, 9, 7, 4, 5, 12, 13, 25),  # AbdomenCT-12organ
    "14": (11, 28),
    "15": tuple(range(1, 18)),  # TotalSegmentator
}
"""By the beginning of the data set's name in those lists."""
PREFIX = "clip_driven/"
"""`clip_driven/04` names a template where a label map is asked for."""

WITHIN: Mapping[str, tuple[str, ...]] = {
    "liver_tumour": ("liver",),
    "hepatic_vessel": ("liver",),
    "hepatic_vessel_tumour": ("liver",),
    "pancreas_tumour": ("pancreas",),
    "colon_tumour": ("colon",),
    "rectum": ("colon",),
    "lung_tumour": ("lung_left", "lung_right"),
    "kidney_tumour": ("kidney_left", "kidney_right"),
    "kidney_cyst": ("kidney_left", "kidney_right"),
}
"""Structures that lie in another, and count as it where they are no organ of their own; of two as that one whose
voxels are nearest. (TotalSegmentator's colon ends with the rectum.)"""


def template_of(mask_labels: str) -> frozenset[str] | None:
    """Return the structures that a template annotates; None for a label map that is no template."""
    labels = TEMPLATES.get(mask_labels.removeprefix(PREFIX)) if mask_labels.startswith(PREFIX) else None
    return None if labels is None else frozenset(CLIP_DRIVEN[label] for label in labels)


TEMPLATE_NAMES = tuple(PREFIX + name for name in TEMPLATES)
