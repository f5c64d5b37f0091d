"""What a store's cases could look like on disk: bytes and time per random crop, beside the present format.

    python benchmarks/storage_formats.py --scan cxr.nii.gz --mask mask.nii.gz [--rounds 15] [--out FILE] [--json]

One real scan is prepared at full size and written in every format; each then reads the same random crops in turns,
from the page cache, on one thread. Processor time is compared, which other work on the machine disturbs little.
Chunked formats are read by tensorstore, which comes with the extra `jax`.
"""

from __future__ import annotations

import argparse
import mmap
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anatobench.bench.record_file import add_record_options, hand_out
from anatobench.bench.rounds import measure_in_turns, ratio_with_interval
from anatobench.datasets.case import Case
from anatobench.errors import AnatoBenchError, install_command
from anatobench.store.case_file import encode_case, read_crop
from anatobench.store.crops import random_crop_start
from anatobench.store.prepare import prepare_case
from anatobench.system.host import describe_code, host_record
from anatobench.tasks import Size, get_task

PRESENT = "safetensors, read in pieces"
CHUNKS: Mapping[str, Size] = {"24x48x48": (24, 48, 48), "40x120x120": (40, 120, 120), "whole volume": (120, 240, 240)}
_BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}
CODECS: Mapping[str, list[dict[str, Any]]] = {
    "raw": [],
    "zstd 1": [{"name": "zstd", "configuration": {"level": 1}}],
    "blosc lz4": [{"name": "blosc", "configuration": _BLOSC}],
    "blosc zstd": [{"name": "blosc", "configuration": {**_BLOSC, "cname": "zstd", "clevel": 1}}],
}
Crops = dict[str, np.ndarray]
Place = tuple[slice, slice, slice]
Reader = Callable[[Place, Crops], None]
"""Fills arrays of a crop's size."""


@dataclass(frozen=True)
class Format:
    """A case written in one way."""

    name: str
    read: Reader
    bytes: int


def present(case: Crops, folder: Path) -> Format:
    path = folder / "case.safetensors"
    path.write_bytes(encode_case(case["volume"], case["organs"]))

    def read(place: tuple[slice, slice, slice], out: Crops) -> None:
        d, h, w = (part.start for part in place)
        read_crop(path, case["volume"].shape, (d, h, w), out["volume"], out["organs"])

    return Format(PRESENT, read, path.stat().st_size)


def mapped_safetensors(case: Crops, folder: Path) -> Format:
    path = folder / "case.safetensors"
    total = path.stat().st_size
    sizes = {name: array.nbytes for name, array in case.items()}
    first = total - sum(sizes.values())
    offsets = {"volume": first, "organs": first + sizes["volume"]}

    def read(place: tuple[slice, slice, slice], out: Crops) -> None:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for name, array in case.items():
            np.copyto(out[name], np.ndarray(array.shape, array.dtype, memory, offsets[name])[place])

    return Format("safetensors, memory map", read, total)


def numpy_files(case: Crops, folder: Path) -> Format:
    paths = {name: folder / f"{name}.npy" for name in case}
    for name, path in paths.items():
        np.save(path, case[name], allow_pickle=False)

    def read(place: tuple[slice, slice, slice], out: Crops) -> None:
        for name, path in paths.items():
            np.copyto(out[name], np.load(path, mmap_mode="r", allow_pickle=False)[place])

    return Format(".npy, memory map", read, sum(path.stat().st_size for path in paths.values()))


def deflated(case: Crops, folder: Path) -> Format:
    paths = {name: folder / f"{name}.deflated" for name in case}
    for name, path in paths.items():
        path.write_bytes(zlib.compress(case[name].tobytes(), 1))

    def read(place: tuple[slice, slice, slice], out: Crops) -> None:
        for name, path in paths.items():
            content = np.frombuffer(zlib.decompress(path.read_bytes()), case[name].dtype)
            np.copyto(out[name], content.reshape(case[name].shape)[place])

    return Format("deflate 1, whole volume", read, sum(path.stat().st_size for path in paths.values()))


def chunked(case: Crops, folder: Path, chunk_name: str, codec_name: str) -> Format:
    """Zarr version 3 by tensorstore, on one thread, without its cache."""
    import tensorstore

    context = tensorstore.Context(
        {
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 1},
            "cache_pool": {"total_bytes_limit": 0},
        }
    )
    place_of = {name: folder / f"zarr {chunk_name} {codec_name}" / name for name in case}
    opened = {}
    for name, array in case.items():
        chunk = [min(size, full) for size, full in zip(CHUNKS[chunk_name], array.shape, strict=True)]
        opened[name] = tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(place_of[name])},
                "metadata": {
                    "shape": list(array.shape),
                    "data_type": str(array.dtype),
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
                    "codecs": [
                        {"name": "bytes", **({"configuration": {"endian": "little"}} if array.itemsize > 1 else {})},
                        *_with_item_size(CODECS[codec_name], array.itemsize),
                    ],
                },
                "create": True,
            },
            context=context,
        ).result()
        opened[name].write(array).result()

    def read(place: tuple[slice, slice, slice], out: Crops) -> None:
        for name in case:
            np.copyto(out[name], opened[name][place].read().result())

    files = [path for folder in place_of.values() for path in folder.rglob("*") if path.is_file()]
    return Format(f"zarr {chunk_name}, {codec_name}", read, sum(path.stat().st_size for path in files))


def _with_item_size(codecs: list[dict[str, Any]], item_size: int) -> list[dict[str, Any]]:
    """Blosc wants to know how far apart a number's bytes are."""
    return [
        {**codec, "configuration": {**codec["configuration"], "typesize": item_size, "blocksize": 0}}
        if codec["name"] == "blosc"
        else codec
        for codec in codecs
    ]


def all_formats(case: Crops, folder: Path) -> list[Format]:
    """Return every way there is here, the present one first."""
    found = [present(case, folder), mapped_safetensors(case, folder), numpy_files(case, folder), deflated(case, folder)]
    try:
        import tensorstore  # noqa: F401
    except ImportError:
        print(f"storage_formats: no tensorstore, so no chunked formats: {install_command('jax')}", file=sys.stderr)
        return found
    return found + [chunked(case, folder, chunk, codec) for chunk in CHUNKS for codec in CODECS]


def _place(start: Size, crop: Size) -> Place:
    """Return the voxels of a crop."""
    depth, height, width = (slice(first, first + size) for first, size in zip(start, crop, strict=True))
    return depth, height, width


def benchmark(case: Crops, crop: Size, folder: Path, rounds: int, crops: int) -> dict[str, Any]:
    """Return the record that benchmarks/results/schemas/storage_formats.json describes."""
    formats = all_formats(case, folder)
    rng = np.random.default_rng(0)
    depth, height, width = case["volume"].shape
    padded: Size = (depth, height, width)
    starts = [random_crop_start(rng, padded, crop) for _ in range(crops)]
    places = [_place(start, crop) for start in starts]
    out = {name: np.ones(crop, array.dtype) for name, array in case.items()}

    def read_all(read: Reader) -> None:
        for place in places:
            read(place, out)

    for entry in formats:
        entry.read(places[0], out)
        if not all(np.array_equal(out[name], case[name][places[0]]) for name in case):
            raise AnatoBenchError(f"{entry.name} reads other voxels than were written")
        for array in out.values():
            array.fill(1)
    contestants = {entry.name: partial(read_all, entry.read) for entry in formats}
    with tqdm(total=rounds + 1, desc="rounds", disable=None) as bar:
        measured = measure_in_turns(contestants, rounds, bar.update)
    raw = sum(array.nbytes for array in case.values())
    return {
        "kind": "storage_formats",
        "padded_size": list(padded),
        "crop_size": list(crop),
        "rounds": rounds,
        "crops_per_round": crops,
        "host": host_record(),
        "code": describe_code(),
        "formats": [
            {
                "name": entry.name,
                "bytes": entry.bytes,
                "share_of_raw": entry.bytes / raw,
                "cpu_ms_per_crop": float(np.median(measured[entry.name].cpu_s)) / crops * 1000,
                "times_present": ratio_with_interval(measured[entry.name].cpu_s, measured[PRESENT].cpu_s),
            }
            for entry in formats
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, required=True, help="a NIfTI chest scan")
    parser.add_argument("--mask", type=Path, required=True, help="its TotalSegmentator mask")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (default 15)")
    parser.add_argument("--crops", type=int, default=4, help="crops per round (default 4)")
    parser.add_argument("--note", default="", help="a sentence for the record, such as what else the machine did")
    add_record_options(parser)
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error("--rounds: at least 2, or there is no interval")
    task = get_task("ct_rate")
    unknown = (-1,) * len(task.groups)
    try:
        prepared = prepare_case(
            Case("scan", "patient", args.scan, "train", unknown, args.mask, "totalsegmentator_v2"), task, args.size
        )
        assert prepared.organs is not None
        case = {"volume": prepared.volume, "organs": prepared.organs}
        with tempfile.TemporaryDirectory(prefix="anatobench-formats-") as folder:
            record = benchmark(case, task.geometry(args.size).crop_size, Path(folder), args.rounds, args.crops)
    except AnatoBenchError as error:
        print(f"storage_formats: {error}", file=sys.stderr)
        return 1
    record |= {"scan": args.scan.name, "note": args.note}
    for entry in record["formats"]:
        times = entry["times_present"]
        interval = "{:.2f} to {:.2f}".format(*times["ci95"])
        print(
            f"{entry['name']:30} {entry['bytes'] / 1e6:6.1f} MB {entry['cpu_ms_per_crop']:8.2f} ms per crop, "
            f"{times['ratio']:6.2f} times the present ({interval})",
            file=sys.stderr,
        )
    hand_out(record, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
