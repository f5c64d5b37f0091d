"""The folder of masks: one NIfTI file per scan, what made them, and why some are missing.

MASKS/<case_id>.nii.gz     a mask, whole or not there
MASKS/masks.json           what made them: masks of different models are not mixed
MASKS/rejected.csv         scans that have no mask, each with its reason
MASKS/rejected/<id>.json   the same, one file each, so that several jobs can write at once
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.datasets.case import Rejection, rejection_table
from anatobench.datasets.mask_files import find_mask
from anatobench.errors import AnatoBenchError
from anatobench.system.atomic_files import TEMPORARY_SUFFIX, write_atomically
from anatobench.system.folder_lock import folder_locked
from anatobench.system.json_text import parse_json
from anatobench.volumes.nifti import write_nifti

DESCRIPTION_FILE = "masks.json"
REJECTED_FILE = "rejected.csv"
REJECTED_FOLDER = "rejected"
_LEFTOVER = re.compile(r"\.(?P<case_id>.+)\.(nii\.gz|json)\.[0-9a-f]+\.tmp")


@dataclass(frozen=True)
class MasksFolder:
    """Holds no open file, so it can be sent to other processes."""

    root: Path

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write what makes the masks; `AnatoBenchError` if what is there already was made by something else."""
        (self.root / REJECTED_FOLDER).mkdir(parents=True, exist_ok=True)
        path = self.root / DESCRIPTION_FILE
        with folder_locked(self.root):
            if not path.exists():
                write_atomically(path, json.dumps(dict(description), indent=1).encode() + b"\n")
                return
        try:
            found = parse_json(path.read_bytes())
        except ValueError as error:
            raise AnatoBenchError(f"{path}: is damaged ({error}): write into a new folder") from None
        for name, value in description.items():
            if not isinstance(found, dict) or found.get(name) != value:
                before = found.get(name) if isinstance(found, dict) else None
                raise AnatoBenchError(
                    f"{self.root}: its masks were made with {name} {before}, not {value}: choose another folder"
                )

    def write(self, case_id: str, labels: np.ndarray, affine: np.ndarray, names: Mapping[int, str]) -> None:
        """Write a mask, uint8 [D, H, W] labels that `names` names, atomically, and forget that the scan was rejected;
        `affine` [4, 4] maps (d, h, w) to RAS+ millimetres."""
        write_nifti(self.root / f"{case_id}.nii.gz", labels, affine, names)
        self._rejection_file(case_id).unlink(missing_ok=True)

    def reject(self, rejection: Rejection) -> None:
        """Remember why a scan has no mask."""
        write_atomically(self._rejection_file(rejection.case_id), json.dumps(asdict(rejection)).encode() + b"\n")

    def remove_leftovers(self, case_ids: Collection[str]) -> None:
        """Remove the temporary files that killed writers of these masks left behind."""
        for folder in (self.root, self.root / REJECTED_FOLDER):
            for entry in os.scandir(folder):
                leftover = _LEFTOVER.fullmatch(entry.name)
                if leftover and leftover["case_id"] in case_ids:
                    Path(entry.path).unlink(missing_ok=True)

    def merge_rejections(self, listed: Iterable[Rejection]) -> None:
        """Write `rejected.csv` from what all jobs found, with what the listing of the scans found.

        Every job merges when it ends, one at a time, so the last one has everything.
        """
        with folder_locked(self.root):
            rejections = set(listed)
            for path in sorted((self.root / REJECTED_FOLDER).glob("*.json")):
                try:
                    rejection = Rejection(**parse_json(path.read_bytes()))
                except FileNotFoundError:  # another job made the mask just now
                    continue
                except (ValueError, TypeError) as error:
                    raise AnatoBenchError(f"{path}: is damaged ({error}): delete it and run again") from None
                if find_mask(self.root, (rejection.case_id,)) is None:
                    rejections.add(rejection)
            write_atomically(self.root / REJECTED_FILE, rejection_table(rejections))
            for leftover in self.root.glob(f".{REJECTED_FILE}.*{TEMPORARY_SUFFIX}"):
                leftover.unlink(missing_ok=True)

    def _rejection_file(self, case_id: str) -> Path:
        return self.root / REJECTED_FOLDER / f"{case_id}.json"
