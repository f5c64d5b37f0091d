"""The data sets there are, and the checks that every listing passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from anatobench.datasets import ct_rate, manifest, medmnist3d, organ_folders, rad_chestct, ratic
from anatobench.datasets.case import Listing, check_patient_leakage, similar_patients_note
from anatobench.datasets.options import ListingOptions
from anatobench.errors import AnatoBenchError, UsageError


@dataclass(frozen=True)
class Dataset:
    """A data set's format."""

    list_cases: Callable[[Path, ListingOptions], Listing]
    options: frozenset[str]
    """The fields of `ListingOptions` that it knows."""
    raw_values: bool = False
    """Whether its files may hold raw stored values that a table rescales."""
    one_file: bool = False
    """Whether it is one file that holds all its volumes, and no folder."""


_EVERYWHERE = {"masks", "mask_labels", "validation_fraction", "seed", "rescale"}

DATASETS: Mapping[str, Dataset] = {
    "ratic": Dataset(ratic.list_cases, frozenset({*_EVERYWHERE, "csv"})),
    "ct_rate": Dataset(ct_rate.list_cases, frozenset(_EVERYWHERE), raw_values=True),
    "rad_chestct": Dataset(rad_chestct.list_cases, frozenset({*_EVERYWHERE, "keep_validation", "mapping"})),
    "organ_folders": Dataset(organ_folders.list_cases, frozenset({"task", "validation_fraction", "seed", "rescale"})),
    "medmnist3d": Dataset(medmnist3d.list_cases, frozenset(), one_file=True),
    "manifest": Dataset(
        manifest.list_cases,
        frozenset(
            {*_EVERYWHERE, "csv", "task", "anatomy", "window", "spacing", "crop", "grades", "weights", "allow_absolute"}
        ),
    ),
}


def list_cases(dataset: str, root: Path, **options: Any) -> Listing:
    """Return the cases of a data set's folder, checked: no patient in two splits, no case id twice.

    `options` are fields of `ListingOptions`; `UsageError` for one that the data set does not know. Raises
    `AnatoBenchError` where the folder or a table is missing or malformed as a whole.
    """
    if dataset not in DATASETS:
        raise UsageError(f"dataset {dataset!r}: choose one of {', '.join(DATASETS)}")
    chosen = _options(dataset, options)
    if DATASETS[dataset].one_file:
        if not root.is_file():
            raise AnatoBenchError(f"{root}: there is no such file: {dataset} is one .npz file")
    elif not root.is_dir():
        raise AnatoBenchError(f"{root}: there is no such folder")
    if chosen.rescale == "raw" and not DATASETS[dataset].raw_values:
        raise UsageError(f"option rescale=raw: {dataset} has no such option: no table of it rescales raw values")
    listing = DATASETS[dataset].list_cases(root, chosen)
    if chosen.rescale != "auto":
        listing = replace(listing, cases=tuple(replace(case, rescale=chosen.rescale) for case in listing.cases))
    check_patient_leakage(listing.cases)
    similar = similar_patients_note(listing.cases)
    if similar is not None:
        listing = replace(listing, notes=(*listing.notes, similar))
    repeated = [case_id for case_id, count in Counter(case.case_id for case in listing.cases).items() if count > 1]
    if repeated:
        raise AnatoBenchError(f"{root}: {len(repeated)} case id(s) stand twice, for example {repeated[0]}")
    return listing


def _options(dataset: str, options: Mapping[str, Any]) -> ListingOptions:
    known = {field.name: field.default for field in fields(ListingOptions)}
    for name, value in options.items():
        if name not in known or (name not in DATASETS[dataset].options and value != known[name]):
            raise UsageError(f"option {name}={value}: {dataset} has no such option")
    return ListingOptions(**options)
