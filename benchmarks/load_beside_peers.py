"""Load random crops from a store beside MONAI and plain nibabel, in one run on the same scans.

    python benchmarks/load_beside_peers.py [--geometry chest] [--rounds 7] [--workers 2] [--out FILE] [--json]

The scans are random, in prepared form: a store for us, NIfTI for the others. Everybody is measured in turns in this
process without worker processes, so that processor time, which other work on the machine disturbs little, gives
volumes per second and core. `--workers W` adds a measurement of the wall clock with W threads (ours) or W worker
processes (theirs, started anew each round). That everybody crops the same voxels is checked first. Needs torch and
the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from tqdm import tqdm

from anatobench.bench.loading import (
    MEMORY_COPY,
    PLAIN_COPY,
    Loading,
    LoadPlan,
    MemoryCopy,
    PlainCopy,
    crop_bytes,
    first_batch,
    store_record,
)
from anatobench.bench.random_store import write_random_store
from anatobench.bench.record_file import add_record_options, hand_out
from anatobench.bench.rounds import Closable, measure_in_turns, rates, ratio_with_interval
from anatobench.errors import AnatoBenchError, install_command
from anatobench.store.crops import centre_crop_start
from anatobench.store.reader import Store
from anatobench.system.host import describe_code, host_record
from anatobench.tasks import TASKS

OURS = "anatobench"
NIBABEL, GZIP = "nibabel", "nibabel, gzip"
TASK_OF = {"chest": "ct_rate", "abdomen": "ratic"}
LISTED_AS = 100
"""Cases of our store per scan; the shuffle of Grain takes 30 ms per epoch however few cases there are."""
Contestants = dict[str, Callable[[], Closable | None]]


class Endless:
    """Batches of a torch DataLoader, epoch after epoch, so that its worker processes start once per call alone."""

    def __init__(self, loader: Any, count: int) -> None:
        self._loader, self._count = loader, count

    def __call__(self) -> None:
        batches = self._epochs()
        for _ in range(self._count):
            next(batches)

    def _epochs(self) -> Iterator[Any]:
        while True:
            yield from self._loader


class Peers:
    """The peers' files and loaders."""

    def __init__(self, store: Store, scans: int, folder: Path) -> None:
        sys.path.insert(0, str(Path(__file__).parent))
        try:
            self._monai = importlib.import_module("peers.load_monai")
            self._nibabel = importlib.import_module("peers.load_nibabel")
        except ImportError as error:
            raise SystemExit(f"load_beside_peers: {error}: {install_command('torch,benchmarks')}") from None
        self._crop, self._folder = store.geometry.crop_size, folder
        self._plain = write_nifti_files(store, scans, folder / "nifti", "nii")
        self._gzip = write_nifti_files(store, scans, folder / "nifti", "nii.gz")
        self.versions = {"monai": self._monai.VERSION, "nibabel": self._nibabel.VERSION}

    def contestants(self, batch_size: int, batches: int, workers: int) -> Contestants:
        found = {
            **self._monai.loaders(self._plain, self._crop, batch_size, self._folder / "cache", workers),
            NIBABEL: self._nibabel.loader(self._plain, self._crop, batch_size, workers),
            GZIP: self._nibabel.loader(self._gzip, self._crop, batch_size, workers),
        }
        return {name: Endless(loader, batches) for name, loader in found.items()}

    def centre_crops(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {
            **self._monai.centre_crops(self._plain, self._crop, self._folder / "cache of one"),
            NIBABEL: self._nibabel.centre_crops(self._plain, self._crop),
            GZIP: self._nibabel.centre_crops(self._gzip, self._crop),
        }


def write_nifti_files(store: Store, scans: int, folder: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Volume and organs of the store's scans, with W the fastest axis in the file, as in the store."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in tqdm(store.split("train")[:scans], desc=f"write .{suffix}", disable=None):
        pair = store.read_crop(index, (0, 0, 0), store.geometry.padded_size)
        names = [folder / f"{store.cases[index].case_id}_{what}.{suffix}" for what in ("volume", "organs")]
        for array, name in zip(pair, names, strict=True):
            nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), name)
        files.append((names[0], names[1]))
    return files


def check_same_voxels(store: Store, peers: Peers) -> None:
    """`AnatoBenchError` unless every peer crops the voxels that we do."""
    start = centre_crop_start(store.geometry.padded_size, store.geometry.crop_size)
    ours = store.read_crop(store.split("train")[0], start, store.geometry.crop_size)
    for name, theirs in peers.centre_crops().items():
        if not all(np.array_equal(mine, other) for mine, other in zip(ours, theirs, strict=True)):
            raise AnatoBenchError(f"{name} does not crop the same voxels: the comparison would mean nothing")


def benchmark(
    store: Store, scans: int, folder: Path, rounds: int, batches: int, batch_size: int, workers: int
) -> dict[str, Any]:
    """Return the whole comparison as one record; see benchmarks/results/schemas/load_beside_peers.json."""
    peers = Peers(store, scans, folder)
    check_same_voxels(store, peers)
    first = first_batch(store, batch_size)
    record = {
        "kind": "load_beside_peers",
        "store": store_record(store),
        "batch_size": batch_size,
        "bytes_per_volume": crop_bytes(first) // batch_size,
        "rounds": rounds,
        "batches_per_round": batches,
        "batch_digest": first.digest(),
        "versions": peers.versions,
        "host": host_record(),
        "code": describe_code(),
    }

    def measure(count: int) -> dict[str, Any]:
        plan = LoadPlan(batch_size, (count,), batches, rounds)
        contestants: Contestants = {
            OURS: Loading(store, plan, count),
            **peers.contestants(batch_size, batches, count),
            PLAIN_COPY: PlainCopy(store, first, batches),
            MEMORY_COPY: MemoryCopy(first, batches),
        }
        with tqdm(total=rounds + 1, desc=f"{count} workers", disable=None) as bar:
            measured = measure_in_turns(contestants, rounds, bar.update)
        clock = "cpu_s" if count == 0 else "wall_s"
        return {
            name: {
                **rates(found, batches * batch_size),
                "times_as_long_as_ours": ratio_with_interval(getattr(found, clock), getattr(measured[OURS], clock)),
            }
            for name, found in measured.items()
        }

    record["per_core"] = measure(0)
    if workers:
        record["with_workers"] = {"workers": workers, "results": measure(workers)}
    return record


def tell(results: dict[str, Any], key: str, what: str) -> None:
    print(what, file=sys.stderr)
    for name, entry in results.items():
        times = entry["times_as_long_as_ours"]
        interval = "{:.2f} to {:.2f}".format(*times["ci95"])
        print(f"  {name:24} {entry[key]:9.1f}, {times['ratio']:6.2f} times our time ({interval})", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=sorted(TASK_OF), default="chest", help="default: %(default)s")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="default: full")
    parser.add_argument("--cases", type=int, default=10, help="scans (default 10)")
    parser.add_argument("--batch-size", type=int, default=5, help="cases per batch (default 5)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default 7)")
    parser.add_argument("--round-batches", type=int, default=4, help="batches per round (default 4)")
    parser.add_argument("--workers", type=int, default=0, help="measure the wall clock with that many, too")
    parser.add_argument("--note", default="", help="a sentence for the record, such as what else the machine did")
    add_record_options(parser)
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error("--rounds: at least 2, or there is no interval")
    with tempfile.TemporaryDirectory(prefix="anatobench-peers-") as temporary:
        folder = Path(temporary)
        try:
            task = TASKS[TASK_OF[args.geometry]]
            store = write_random_store(folder / "store", task, args.size, args.cases * LISTED_AS, scans=args.cases)
            record = benchmark(
                store, args.cases, folder, args.rounds, args.round_batches, args.batch_size, args.workers
            )
        except AnatoBenchError as error:
            print(f"load_beside_peers: {error}", file=sys.stderr)
            return 1
    record["note"] = args.note
    tell(record["per_core"], "volumes_per_s_per_core", "volumes per second and core:")
    if args.workers:
        tell(record["with_workers"]["results"], "volumes_per_s", f"volumes per second with {args.workers} workers:")
    hand_out(record, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
