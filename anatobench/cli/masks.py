"""`anatobench masks`: organ masks for the scans that have none, by TotalSegmentator."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from anatobench.cli.arguments import shard, whole
from anatobench.datasets.case import Rejection
from anatobench.datasets.options import RESCALE, ListingOptions
from anatobench.datasets.registry import DATASETS, list_cases
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.masks import weights
from anatobench.masks.folder import REJECTED_FILE, MasksFolder
from anatobench.masks.making import Summary, make_masks, scans_of_shard, summarise
from anatobench.masks.quality import check_masks, quality_table
from anatobench.masks.scans import Scan, scans_in_folder, scans_of_listing
from anatobench.masks.segmenter import TotalSegmentator, worker_places
from anatobench.report.masks_page import build_masks_page
from anatobench.system.atomic_files import write_atomically
from anatobench.system.gpus import choose_gpus
from anatobench.system.signals import interrupted_by_signals
from anatobench.system.worker_pool import usable_cores
from anatobench.tasks import ORGANS, TASKS, get_task

QUALITY_TABLE = "quality.csv"
QUALITY_PAGE = "quality.html"

EXAMPLES = """\
examples:
  anatobench masks --dataset ratic --raw rsna-2023/ --out masks/ratic
  anatobench masks --raw folder-of-scans/ --out masks/own --gpus 2 --check
  anatobench prepare --dataset ratic --raw rsna-2023/ --masks masks/ratic --store stores/ratic

Each scan is resampled to 1.5 x 1.5 x 3.0 mm and clipped to -1000..1000 HU; TotalSegmentator (task total, fast) then
writes OUT/<case>.nii.gz with the names of its 117 structures, on the resampled scan's grid, where `prepare --masks OUT`
finds it. A scan that has a mask already is left alone: one that lies in OUT (of TotalSegmentator v1, too), CT-RATE's
ts_seg, RATIC's segmentations, a manifest's own. Without --dataset, RAW is any folder of NIfTI files, NPZ files and
folders of DICOM series.
It can be stopped at any time: the same command goes on where it was. Scans that cannot be segmented are listed with
their reason in OUT/rejected.csv and tried again next time. To spread the work over n jobs give each --shard I/n.
TotalSegmentator's usage statistics are off. Its weights are downloaded once, or put where the message says. nnU-Net
runs what is in them and no digest is published: ANATOBENCH_TOTALSEGMENTATOR_SHA256 is the one that they must have.
--check writes OUT/quality.csv and OUT/quality.html: organ volumes, what is missing, swapped, cut off or flipped against
its scan (which is read for that), and pictures of the worst cases.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--dataset",
        choices=[name for name, one in DATASETS.items() if not one.one_file],
        help="format of the raw data (default: a folder of scans)",
    )
    parser.add_argument("--raw", type=Path, metavar="DIR", required=True, help="folder of the raw data")
    parser.add_argument("--out", type=Path, metavar="MASKS", required=True, help="folder of the masks")
    parser.add_argument("--gpus", type=whole(0), metavar="G", help="GPUs, one process each; 0: the CPU (default: all)")
    parser.add_argument("--per-gpu", type=whole(1), default=1, metavar="P", help="scans at once per GPU, or on the CPU")
    parser.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="do every N-th scan from I on")
    parser.add_argument("--check", action="store_true", help="then look over all masks: OUT/quality.csv, quality.html")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    group = parser.add_argument_group("how the raw data is listed")
    group.add_argument("--csv", metavar="NAME", help="RATIC: the label table, train.csv or train_2024.csv")
    group.add_argument(
        "--rescale",
        choices=RESCALE,
        help="hu: the scans are in HU whatever their voxels look like; raw: CT-RATE's originals (default auto)",
    )
    group.add_argument("--task", choices=list(TASKS), help="manifest: a built-in task")
    group.add_argument("--anatomy", choices=list(ORGANS), help="manifest, folder: the organs that matter")
    group.add_argument(
        "--allow-absolute", action="store_true", help="manifest: follow absolute paths, and links out of RAW"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make what is missing, then look it over if asked to."""
    if args.check and args.shard != (0, 1):
        raise UsageError("--check looks over all masks at once: call it without --shard when all shards are done")
    args.goes_on = True
    scans, rejected, notes = _list(args)
    with interrupted_by_signals():
        summary = _make(args, scans, rejected, notes)
        _show(summary)
        figures = summary.to_json()
        if args.check and summary.passed:
            figures |= _check(args)
    return figures


def _check(args: argparse.Namespace) -> dict[str, Any]:
    """Look over every mask there is now, also those that were there before."""
    scans, _, _ = _list(args)
    anatomy = args.anatomy or (get_task(args.task or args.dataset).anatomy if args.dataset else None)
    organs = ORGANS[anatomy] if anatomy else tuple(organ for group in ORGANS.values() for organ in group)
    qualities = check_masks(scans, organs, usable_cores())
    without_mask = sum(scan.mask is None for scan in scans)
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out / QUALITY_TABLE, quality_table(qualities))
    write_atomically(args.out / QUALITY_PAGE, build_masks_page(qualities, organs, without_mask).encode())
    noted = sum(quality.severity > 0 for quality in qualities)
    print(f"{noted} of {len(qualities)} masks are worth a look: {args.out / QUALITY_PAGE}")
    counts = Counter(finding.finding for quality in qualities for finding in quality.findings)
    return {"checked": len(qualities), "worth_a_look": noted, "findings": dict(sorted(counts.items()))}


def _list(args: argparse.Namespace) -> tuple[list[Scan], list[Rejection], tuple[str, ...]]:
    if args.dataset is None:
        if not args.raw.is_dir():
            raise AnatoBenchError(f"{args.raw}: there is no such folder")
        if args.rescale == "raw":
            raise UsageError("--rescale raw: a folder of scans has no table that would rescale raw values")
        scans, rejected = scans_in_folder(args.raw, args.out, args.rescale or "auto")
        if not scans and not rejected:
            raise AnatoBenchError(f"{args.raw}: holds no scans (.nii, .nii.gz, .npz, folders of DICOM files)")
        return scans, rejected, ()
    given = {field.name: getattr(args, field.name, None) for field in fields(ListingOptions)}
    options = {name: value for name, value in given.items() if value not in (None, False)}
    if args.out.is_dir():
        options["masks"] = args.out
    listing = list_cases(args.dataset, args.raw, **options)
    return *scans_of_listing(listing), listing.notes


def _make(args: argparse.Namespace, scans: list[Scan], rejected: list[Rejection], notes: tuple[str, ...]) -> Summary:
    folder = MasksFolder(args.out)
    own = scans_of_shard(scans, args.shard)
    if all(scan.mask is not None for scan in own):  # then neither TotalSegmentator nor its weights are needed
        if rejected:
            args.out.mkdir(parents=True, exist_ok=True)
            folder.merge_rejections(rejected)
        reasons = Counter(rejection.reason for rejection in rejected)
        return summarise(own, folder, 0, reasons, 0.0, notes)
    gpus = choose_gpus(args.gpus)
    found = weights.find_or_download()
    trusted = weights.check_digest(found)
    if trusted is not None:
        print(trusted, file=sys.stderr)
    workers = max(1, len(gpus)) * args.per_gpu
    threads = max(1, usable_cores() // workers)
    segmenter = TotalSegmentator(found, bool(gpus), threads)
    device = f"{len(gpus)} GPU(s)" if gpus else "the CPU: a GPU is many times faster"
    print(f"TotalSegmentator {found.version} on {device}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="anatobench-masks-", ignore_cleanup_errors=True) as scratch:
        places = worker_places(found, gpus, Path(scratch), args.per_gpu)
        return make_masks(
            scans, folder, segmenter, places, threads, args.shard, listed_rejections=rejected, notes=notes
        )


def _show(summary: Summary) -> None:
    def say(line: str) -> None:
        print(line)

    for note in summary.notes:
        say(note)
    say(
        f"{summary.scans} scans: {summary.made} masks made, {summary.already_here} already in {summary.masks}, "
        f"{summary.of_the_data_set} of the data set's own, {sum(summary.rejected.values())} rejected"
    )
    if summary.made:
        say(f"{summary.seconds:.1f} s, {summary.seconds / summary.made:.1f} s per mask")
    for reason, count in summary.rejected.items():
        say(f"  rejected as {reason}: {count}")
    if summary.rejected and (Path(summary.masks) / REJECTED_FILE).is_file():
        say(f"reasons in full: {Path(summary.masks) / REJECTED_FILE}")
    if not summary.passed:
        say("no scan has a mask")
