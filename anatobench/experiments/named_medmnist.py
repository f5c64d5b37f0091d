"""MedMNIST's 3D sets as named runs: `anatobench train --named organmnist3d/r3d_18`.

A tiny backbone from scratch, without segmentation (the sets have no masks), with the batch of 32, the rate of 0.001 and
the 100 epochs of MedMNIST's own 3D benchmark (MedMNIST/experiments, MedMNIST3D/train_and_eval_pytorch.py); optimizer
and decay stay those of this suite (AdamW, cosine) where that has Adam and two drops. Nobody has tuned them.
"""

from __future__ import annotations

from collections.abc import Mapping

from anatobench.backbones import CARDS
from anatobench.datasets.medmnist3d import BENCHMARK, SETS
from anatobench.experiments.grid import Condition
from anatobench.experiments.published import PublishedAuc

SETTINGS = ("batch_size=32", "learning_rate=0.001", "epochs=100")
SIZE = "tiny"
_NOTES = {"vesselmnist3d": "a second copy of the benchmark's table has 90.5"}


def conditions() -> Mapping[str, tuple[Condition, PublishedAuc]]:
    """Return by name what is trained, and the benchmark's AUC on the same test split, of another model."""
    return {
        f"{name}/{model}": (
            Condition(name, model, pretrained=False, segmentation_weight=0.0),
            PublishedAuc(one.published_auc, BENCHMARK, _NOTES.get(name, "")),
        )
        for name, one in SETS.items()
        for model in CARDS
    }
