"""The terms of every kind of supervision, per case.

A kind is one module with one function of that signature. It is given what the model makes of a batch (`step.View`) and
the batch's arrays as they travel, and returns each term of the objective under its name, [B].
"""

from __future__ import annotations

from torch_ref.losses.diagnosis import diagnosis_terms
from torch_ref.losses.partial_masks import partial_masks_terms
from torch_ref.step import CaseTerms

CASE_TERMS: dict[str, CaseTerms] = {
    "diagnosis": diagnosis_terms,
    "partial_masks": partial_masks_terms,
}
