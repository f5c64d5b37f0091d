"""Time the preparation of one scan, from the file to the resampled array, against MONAI and SimpleITK.

    python benchmarks/prepare_scan.py --scan cxr.nii.gz [--mask mask.nii.gz] [--repeat 15] [--json] [--out FILE]

All run in this process, on one thread, in turns, so that a busy machine slows all of them alike. What they return is
compared voxel by voxel inside the body, as proof that they do the same work. Needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import anatobench
from anatobench.bench.record_file import add_record_options, hand_out
from anatobench.bench.rounds import ratio_with_interval
from anatobench.system.host import cpu_name
from anatobench.tasks import Spacing
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.resample import resample_mask, resample_volume, resampled_grid
from anatobench.volumes.volume import Grid

OURS = "anatobench"
PEERS = ("monai", "simpleitk")
SPACING: Spacing = (3.0, 1.5, 1.5)
BODY_HU = -500

Prepared = tuple[np.ndarray, np.ndarray | None, Grid]
Preparation = Callable[[Path, Path | None, Spacing], Prepared]


@dataclass(frozen=True)
class Contestant:
    """One way to prepare a scan."""

    name: str
    version: str
    prepare: Preparation


def prepare_ours(scan: Path, mask: Path | None, spacing: Spacing) -> Prepared:
    """Scan int16 [D, H, W] in HU and mask (or None) in IPL orientation at `spacing`, and their grid."""
    volume = read_volume(scan)
    grid = resampled_grid(volume.grid, spacing)
    voxels = resample_volume(volume, grid)
    if mask is None:
        return voxels, None, grid
    stored = read_mask(mask)
    return voxels, resample_mask(stored.labels, stored.affine, grid), grid


def contestants() -> list[Contestant]:
    """Ours first, then the peers, each told to use one thread (ours knows no other way)."""
    sys.path.insert(0, str(Path(__file__).parent))
    found = [Contestant(OURS, anatobench.__version__, prepare_ours)]
    for name in PEERS:
        peer = importlib.import_module(f"peers.prepare_scan_{name}")
        peer.use_one_thread()
        found.append(Contestant(peer.NAME, peer.VERSION, peer.prepare))
    return found


def measure(runs: Sequence[Contestant], scan: Path, mask: Path | None, repeats: int) -> dict[str, list[float]]:
    """Seconds per contestant and repeat, in turns; one round beforehand fills caches and is not counted."""
    seconds: dict[str, list[float]] = {run.name: [] for run in runs}
    for repeat in tqdm(range(-1, repeats), desc="rounds", disable=None):
        for run in runs:
            start = time.perf_counter()
            run.prepare(scan, mask, SPACING)
            if repeat >= 0:
                seconds[run.name].append(time.perf_counter() - start)
    return seconds


def disagreement(scan: Path, mask: Path | None, theirs: Prepared) -> dict[str, Any]:
    """Return how far a peer's result is from ours on the peer's own grid: mean |HU| inside the body, share of other
    labels."""
    voxels, labels, grid = theirs
    ours = resample_volume(read_volume(scan), grid)
    body = ours > BODY_HU
    found: dict[str, Any] = {
        "size": list(grid.size),
        "spacing": list(grid.spacing),
        "mean_abs_hu_in_body": float(np.abs(voxels.astype(np.float64) - ours)[body].mean()),
    }
    if mask is not None and labels is not None:
        stored = read_mask(mask)
        organs = resample_mask(stored.labels, stored.affine, grid)
        found["other_labels_share"] = float(np.mean(labels[organs > 0] != organs[organs > 0]))
    return found


def benchmark(scan: Path, mask: Path | None, repeats: int) -> dict[str, Any]:
    """Return the whole comparison as one JSON-able record."""
    runs = contestants()
    seconds = measure(runs, scan, mask, repeats)
    results = {}
    for run in runs:
        entry: dict[str, Any] = {
            "version": run.version,
            "median_s": float(np.median(seconds[run.name])),
            "seconds": seconds[run.name],
        }
        if run.name != OURS:
            found = ratio_with_interval(seconds[run.name], seconds[OURS])
            entry |= {"times_ours": found["ratio"], "times_ours_ci95": found["ci95"]}
            entry |= disagreement(scan, mask, run.prepare(scan, mask, SPACING))
        results[run.name] = entry
    return {
        "name": "prepare_scan",
        "scan": scan.name,
        "stored_size": list(read_volume(scan).grid.size),
        "with_mask": mask is not None,
        "threads": 1,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "repeats": repeats,
        "results": results,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, required=True, help="a NIfTI scan at full resolution")
    parser.add_argument("--mask", type=Path, help="its organ mask, prepared along with it")
    parser.add_argument("--repeat", type=int, default=15, help="rounds that count (default 15)")
    add_record_options(parser)
    args = parser.parse_args(argv)
    if args.repeat < 2:
        parser.error("--repeat: at least 2 rounds, or there is no interval")
    record = benchmark(args.scan, args.mask, args.repeat)
    for name, entry in record["results"].items():
        line = f"{name:12} {entry['median_s']:.3f} s"
        if name != OURS:
            low, high = entry["times_ours_ci95"]
            line += f", {entry['times_ours']:.2f} times ours (95 %: {low:.2f} to {high:.2f})"
            line += f", mean difference in the body {entry['mean_abs_hu_in_body']:.3f} HU"
        print(line, file=sys.stderr)
    hand_out(record, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
