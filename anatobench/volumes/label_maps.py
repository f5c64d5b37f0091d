"""What the labels of the organ masks in use mean."""

from __future__ import annotations


def _numbered(names: str) -> dict[int, str]:
    return dict(enumerate(names.split(), start=1))


def _pairs(stem: str) -> str:
    return f"{stem}_left {stem}_right"


_VERTEBRAE = " ".join(
    f"vertebrae_{part}{number}" for part, count in (("L", 5), ("T", 12), ("C", 7)) for number in range(count, 0, -1)
)
_RIBS = " ".join(f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13))
_LOBES = "lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right"
_LIMBS = " ".join(_pairs(stem) for stem in ("humerus", "scapula", "clavicula", "femur", "hip"))
_MUSCLES = " ".join(
    _pairs(stem) for stem in ("gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas")
)
_ILIAC = f"{_pairs('iliac_artery')} {_pairs('iliac_vena')}"

TOTALSEGMENTATOR_V2 = _numbered(
    f"""spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
    {_LOBES} esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate
    kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1 {_VERTEBRAE} heart aorta pulmonary_vein
    brachiocephalic_trunk subclavian_artery_right subclavian_artery_left common_carotid_artery_right
    common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left
    superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein {_ILIAC} {_LIMBS} spinal_cord {_MUSCLES}
    brain skull {_RIBS} sternum costal_cartilages"""
)
"""Task `total` of TotalSegmentator v2: 117 structures."""

TOTALSEGMENTATOR_V1 = _numbered(
    f"""spleen kidney_right kidney_left gallbladder liver stomach aorta inferior_vena_cava
    portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left {_LOBES} {_VERTEBRAE}
    esophagus trachea heart_myocardium heart_atrium_left heart_ventricle_left heart_atrium_right
    heart_ventricle_right pulmonary_artery brain {_ILIAC} small_bowel duodenum colon {_RIBS} {_LIMBS} sacrum face
    {_MUSCLES} urinary_bladder"""
)
"""Task `total` of TotalSegmentator v1: 104 structures."""

RATIC_LABELS = _numbered("liver spleen kidney_left kidney_right bowel")
"""The segmentations of the RSNA 2023 Abdominal Trauma Detection competition on Kaggle."""
