"""Where TotalSegmentator's published weights lie, and how they get there: looked at before any scan is read.

They are the one file from elsewhere that is a pickle, which may hold code, and that is not read by this suite but by
nnU-Net, which runs it; and no digest of them is published with TotalSegmentator. So whoever knows their SHA-256 gives
it, and nothing is run that has another; whoever does not is told what was trusted.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from anatobench.errors import AnatoBenchError, install_command
from anatobench.training.pretrained.weights_file import fetch

TASK = 297
"""The 3 mm model of `total`, which `fast` means."""
MODEL = "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"
FILES = ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth")
ADDRESS = "https://github.com/wasserth/TotalSegmentator/releases/download"
INSTALL = f"python3 -m venv .venv-masks && .venv-masks/bin/{install_command('masks')}"
SHA256_VARIABLE = "ANATOBENCH_TOTALSEGMENTATOR_SHA256"
"""What the checkpoint's SHA-256 must be, where it is set."""


@dataclass(frozen=True)
class Weights:
    """The weights of the `fast` model on this machine."""

    folder: Path
    """What TotalSegmentator knows as TOTALSEG_WEIGHTS_PATH."""
    model: Path
    """The folder with `plans.json`."""
    version: str
    """Of the package TotalSegmentator."""

    def sha256(self) -> str:
        """Return the checkpoint's digest."""
        with (self.model / FILES[2]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(weights: Weights) -> str | None:
    """Compare the checkpoint with `$ANATOBENCH_TOTALSEGMENTATOR_SHA256`; without it, a sentence that says what is
    trusted unchecked. `AnatoBenchError` if it differs, or if the variable is no SHA-256."""
    path, wanted = weights.model / FILES[2], os.environ.get(SHA256_VARIABLE, "").strip().lower()
    found = weights.sha256()
    if not wanted:
        return (
            f"{path} has SHA-256 {found} and is trusted unchecked: no digest of it is published, and nnU-Net runs what "
            f"is in it; set {SHA256_VARIABLE} to the one you know"
        )
    if not re.fullmatch("[0-9a-f]{64}", wanted):
        raise AnatoBenchError(f"{SHA256_VARIABLE}={wanted}: give the 64 hexadecimal digits of a SHA-256")
    if found != wanted:
        raise AnatoBenchError(
            f"{path}: its SHA-256 is {found}, not {wanted} as {SHA256_VARIABLE} says: delete {weights.model.parent} "
            "and fetch it again"
        )
    return None


def find_or_download() -> Weights:
    """Return the weights where TotalSegmentator looks for them, downloaded if they are missing.

    `AnatoBenchError` if the package is not installed, or says what to fetch and where to put it.
    """
    if importlib.util.find_spec("totalsegmentator") is None:
        raise AnatoBenchError(
            f"TotalSegmentator is not installed: give it an environment of its own: {INSTALL} (docs/masks.md)"
        )
    published = importlib.import_module("totalsegmentator.map_tasks_config").TASK_ID_WEIGHTS_CONFIGS[TASK]
    name, address = published["foldername"], f"{ADDRESS}/{published['version']}/{published['foldername']}.zip"
    folder = weights_folder()
    weights = Weights(folder, folder / name / MODEL, importlib.metadata.version("TotalSegmentator"))
    if not (folder / name).exists():
        _download(folder, name, address)
    missing = [file for file in FILES if not (weights.model / file).is_file()]
    if missing:
        raise AnatoBenchError(
            f"{weights.model}: {missing[0]} is missing, so the weights of task {TASK} are not whole: delete "
            f"{folder / name} and unpack {address} into {folder}"
        )
    return weights


def weights_folder() -> Path:
    """As `totalsegmentator.config.get_weights_dir` has it, without importing PyTorch as that module does."""
    if own := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(own)
    if home := os.environ.get("TOTALSEG_HOME_DIR"):
        return Path(home) / "nnunet" / "results"
    home_folder = Path("/tmp") if str(Path.home()) == "/" else Path.home()
    return home_folder / ".totalsegmentator" / "nnunet" / "results"


def _download(folder: Path, name: str, address: str) -> None:
    """Fetch and unpack beside the place, then let the folder appear whole: several jobs may do so at once."""
    try:
        content = fetch(address)
    except (OSError, HTTPException) as error:
        raise AnatoBenchError(
            f"the weights of TotalSegmentator's task {TASK} (total, fast) are not in {folder} and cannot be downloaded "
            f"({error}): fetch {address} where there is network and unpack it into {folder}, as {folder / name}"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                archive.extractall(scratch)
            if not (folder / name).exists():
                shutil.move(Path(scratch) / name, folder / name)
    except (OSError, zipfile.BadZipFile) as error:
        if not (folder / name).is_dir():  # else another job was faster
            raise AnatoBenchError(f"{folder}: {address} cannot be unpacked here ({error})") from None
