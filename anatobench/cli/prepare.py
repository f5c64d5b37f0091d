"""`anatobench prepare`: raw scans and masks to a store of checked, resampled cases."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from anatobench.cli.arguments import SEED, crop, shard, share, spacing, whole, window
from anatobench.datasets.grades import parse_grades
from anatobench.datasets.mask_files import check_masks_fit
from anatobench.datasets.options import MASK_LABELS, RESCALE, WEIGHTS, ListingOptions
from anatobench.datasets.registry import DATASETS, list_cases
from anatobench.errors import UsageError
from anatobench.recipes import SIZES
from anatobench.store.prepare import Summary, prepare
from anatobench.store.reader import REJECTED_FILE, Store, file_checksum
from anatobench.system.progress import progress_bar
from anatobench.system.worker_pool import usable_cores
from anatobench.tasks import GEOMETRIES, ORGANS, TASKS, LabelGroup

MANY_TIMES = 8
"""A store that takes so many times the bytes of its scans is remarked upon: a compressed scan on its own grid is 2 to 4
times as large without compression, and with room for random crops."""
SMALL_SHARE = 1 / 8
"""Of the grid: scans that fill less of it are remarked upon, since the model sees little but air."""
EXAMPLES = """\
examples:
  anatobench prepare --dataset ratic --raw rsna-2023/ --store stores/ratic --validation-fraction 0.1
  anatobench prepare --dataset manifest --raw cohort/ --anatomy chest --store stores/cohort --size tiny
  anatobench prepare --dataset organ_folders --raw AbdomenAtlas1.1Mini/ --task ratic --store stores/atlas
  anatobench prepare --store stores/ratic --verify

It can be stopped at any time: the same command goes on where it was. Cases that cannot be used are listed with their
reason in STORE/rejected.csv and tried again next time. Scans whose voxels cannot be HU are among them (--rescale hu
overrides that), and those whose reading takes longer than 60 s and 2 s per MB (ANATOBENCH_READING_SECONDS=N sets the
60). One scan in two splits under two names is found by its voxels: such a store is not trained on. A case whose mask
has another content or label map now, or whose scan another path or metadata, is prepared again.
--verify names every case that is damaged. What reads a store later compares each file with its checksum once per
process, on its first crop (ANATOBENCH_CASE_CHECKSUMS=off leaves that out; docs/stores.md has its cost).
organ_folders is one folder per scan with ct.nii.gz and segmentations/<organ>.nii.gz, as TotalSegmentator's data set and
AbdomenAtlas are; an organ without a file is not annotated, and all diagnoses are unknown.
To spread the work over n jobs give each --shard I/n, I from 0: they may run at once. Jobs that would share cases (the
same shard twice, another n, with and without --shard) may not: the second one stops at once.

a manifest (RAW/manifest.csv, or --csv) has one row per scan:
  scan           NIfTI file, or folder of one DICOM series, relative to RAW
  split          train, validation or test
  label:<name>   one column per finding, 0, 1 or empty for not known; with --grades the grade's name, or its number from
                 0 (with --task: one per group, under its own name)
  patient        optional: without it every scan is a patient of its own
  case           optional name of the case
  mask           optional organ mask, with mask_labels optionally naming its label map; or a folder with one file per
                 organ, such as segmentations/liver.nii.gz
  annotated      optional: the organs that the mask annotates, where that is not all of them, such as liver;spleen,
                 or the template of its source, such as clip_driven/04
  weight         optional: what the scan's classification loss is multiplied by in training; empty for 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.epilog = EXAMPLES
    parser.add_argument("--dataset", choices=list(DATASETS), help="format of the raw data")
    parser.add_argument("--raw", type=Path, metavar="DIR", help="folder of the raw data, laid out as it is published")
    parser.add_argument("--store", type=Path, metavar="DIR", required=True, help="folder to write, or to go on with")
    parser.add_argument("--size", choices=SIZES, default="full", help=_sizes())
    parser.add_argument(
        "--workers",
        type=whole(0),
        default=usable_cores(),
        metavar="N",
        help="parallel processes, 0 for none (default %(default)s)",
    )
    parser.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="do every N-th case from I on")
    parser.add_argument("--verify", action="store_true", help="then compare every file of the store with its checksum")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    _add_listing_arguments(parser.add_argument_group("how the raw data is listed"))


def _sizes() -> str:
    """Say what each size means in millimetres."""
    grids = (
        f"{size}: " + "; ".join(f"{anatomy} {geometries[size].in_words}" for anatomy, geometries in GEOMETRIES.items())
        for size in SIZES
    )
    return (
        "what the model sees of a scan, from head to feet, front to back, right to left (the paper's, or the same "
        f"millimetres with a quarter of the voxels per axis). {'. '.join(grids)}. Default full; with --spacing and "
        "--crop it names the network alone"
    )


def _grades(text: str) -> LabelGroup:
    """`FINDING=GRADE,GRADE,...`, for argparse."""
    try:
        return parse_grades(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_listing_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--masks", type=Path, metavar="DIR", help="folder of organ masks named after the scans")
    group.add_argument("--mask-labels", metavar="MAP", choices=MASK_LABELS,
                       help="label map of those masks: auto (default), totalsegmentator_v2, totalsegmentator_v1, "
                            "ratic, or clip_driven/T with the template T of their source, as clip_driven/04, which "
                            "says what they annotate")  # fmt: skip
    group.add_argument("--validation-fraction", type=share, metavar="F", help="share of training patients (default 0)")
    group.add_argument("--seed", type=SEED, metavar="S", help="of splits that are drawn (default 0)")
    group.add_argument("--csv", metavar="NAME", help="RATIC: the label table, train.csv or train_2024.csv")
    group.add_argument(
        "--rescale",
        choices=RESCALE,
        help="hu: the scans are in HU whatever their voxels look like; raw: CT-RATE's originals (default auto)",
    )
    group.add_argument("--keep-validation", action="store_true", help="RAD-ChestCT: keep imgvalid as validation split")
    group.add_argument("--mapping", type=Path, metavar="JSON", help="RAD-ChestCT: class to abnormalities")
    group.add_argument("--task", choices=list(TASKS), help="manifest, organ_folders: a built-in task")
    group.add_argument("--anatomy", choices=list(ORGANS), help="manifest: organs and window of an own task")
    group.add_argument(
        "--spacing", type=spacing, metavar="D,H,W", help="manifest: millimetres between voxels, with --crop"
    )
    group.add_argument("--crop", type=crop, metavar="D,H,W",
                       help="manifest: voxels that the model sees; stored is a quarter more on each axis")  # fmt: skip
    group.add_argument("--window", type=window, metavar="LOW,HIGH",
                       help="manifest: HU that the model tells apart, as in --window=-150,250")  # fmt: skip
    group.add_argument("--grades", type=_grades, action="append", metavar="FINDING=GRADE,...",
                       help="manifest: grades of a finding that is not just absent or present, the healthy one first, "
                            "as liver=healthy,low,high; with weights of their losses as "
                            "liver=healthy:1,low:2,high:4; once per finding")  # fmt: skip
    group.add_argument("--weights", choices=WEIGHTS,
                       help="manifest: weigh the loss of every grade by its share of the training cases, so that all "
                            "grades of a finding have the same part in it")  # fmt: skip
    group.add_argument(
        "--allow-absolute", action="store_true", help="manifest: follow absolute paths, and links out of RAW"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare, verify, or both."""
    if args.dataset is None and args.raw is None and args.verify:
        return _verify(args.store)
    if args.dataset is None or args.raw is None:
        raise UsageError("give --dataset and --raw, or --verify alone to check a store")
    options = {
        field.name: getattr(args, field.name)
        for field in fields(ListingOptions)
        if getattr(args, field.name) not in (None, False)
    }
    if args.grades:
        options["grades"] = tuple(args.grades)
    args.goes_on = True
    listing = list_cases(args.dataset, args.raw, **options)
    if args.masks is not None:
        check_masks_fit(listing, args.masks)
    summary = prepare(
        listing,
        args.store,
        args.size,
        args.workers,
        args.shard,
        dataset=args.dataset,
        raw_root=args.raw,
        options=_recorded(args.dataset, ListingOptions(**options)),
    )
    _show(summary, "crop" in DATASETS[args.dataset].options)
    figures = summary.to_json()
    if args.verify and summary.passed:
        figures |= _verify(args.store)
    return figures


def _recorded(dataset: str, options: ListingOptions) -> dict[str, Any]:
    """Return what the store remembers of the listing. Files by their content, the masks' folder not at all: they
    move."""
    recorded = {}
    for name in sorted(DATASETS[dataset].options - {"masks"}):
        if name in ("window", "spacing", "crop", "grades", "weights"):
            continue  # the task has them
        value = getattr(options, name)
        if name == "rescale" and not DATASETS[dataset].raw_values:
            continue  # it is each case's own (`StoredCase.reading`)
        recorded[name] = file_checksum(value) if isinstance(value, Path) else value
    return recorded


def _show(summary: Summary, chosen_grid: bool) -> None:
    """Tell a person; `chosen_grid`: whether the data set lets one choose spacing and crop."""

    def say(line: str) -> None:
        print(line)

    for note in summary.notes:
        say(note)
    counts = {
        "were there already": summary.skipped,
        "were there already and have new labels, splits or patients": summary.relabelled,
        "rejected": sum(summary.rejected.values()),
    }
    others = "".join(f", {count} {what}" for what, count in counts.items() if count)
    say(f"{summary.prepared} {'case' if summary.prepared == 1 else 'cases'} prepared{others}")
    if summary.prepared:
        speed = f"{summary.cases_per_second:.2f} cases and {summary.volumes_per_second:.2f} volumes (scans and masks)"
        say(f"{summary.seconds:.1f} s: {speed} per second")
    if summary.cases_in_store:
        store = Store.read_index(summary.store)
        say(f"{summary.store} holds {store.contents}, {sum(case.has_mask for case in store.cases)} with organ masks")
        times, share = summary.times_its_scans, summary.share_of_grid
        if chosen_grid and times is not None and share is not None and (times >= MANY_TIMES or share < SMALL_SHARE):
            padded = " x ".join(map(str, store.geometry.padded_size))
            say(f"it takes {times:.2g} times the bytes of its scans, which fill {share:.2g} of {padded} voxels each,")
            say(f"and the model sees {store.geometry.in_words}: small scans want a smaller grid (--spacing, --crop)")
    for reason, count in summary.rejected.items():
        say(f"  rejected as {reason}: {count}")
    if summary.rejected:
        say(f"reasons in full: {Path(summary.store) / REJECTED_FILE}")
    if not summary.cases_in_store and not summary.rejected:
        say(f"{summary.store} holds no case, since the raw data lists none: look at --raw, and at its table")
    if summary.leakage is not None:
        say(f"leakage: {summary.leakage}")
    elif not summary.passed:
        say("no case could be used: see the reasons above")


def _verify(root: Path) -> dict[str, Any]:
    """Check a store's index, and every file against its checksum; all faults are named."""
    store = Store.read_index(root)
    total = sum(case.byte_size for case in store.cases)
    with progress_bar(total, "verify", "B", unit_scale=True) as bar:
        faults = store.verify(bar.update)
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults in {len(store.cases)} cases of {root}")
    return {"store": str(root), "passed": not faults, "verified_cases": len(store.cases), "damaged": faults}
