"""Seeded mutations of every kind of input, read under a watchdog and a memory limit.

    python -m tests.fuzz --cases 10000 [--seed 0] [--workers 2] [--json]

Each case is a small good input of one kind, changed by bytes, by tags or by length, and read as `prepare`, `masks` and
`predict` read it. It may be read, or refused with a reason and a sentence that names the file. Anything else is a
finding: another exception, reading that does not end, a process that dies, memory that grows beyond the limit. A
finding is repeated with `--only KIND:NUMBER`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import resource
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).parent / "support"))

from scan_files import AFFINE, body_voxels, turned, write_dicom_series, write_nifti_file

from anatobench.datasets.registry import list_cases
from anatobench.errors import AnatoBenchError, CaseError
from anatobench.system.worker_pool import TimedOut, WorkerDied, run_in_workers
from anatobench.tasks import get_task
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2
from anatobench.volumes.mask_fit import best_flip
from anatobench.volumes.nifti import write_nifti
from anatobench.volumes.organs import organ_table
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.scan_folder import find_scans
from anatobench.volumes.volume import Volume

SECONDS = 30.0
"""A case that takes longer hangs: a good one takes 0.01 s."""
GROWTH_BYTES = 256 << 20
"""By which the memory of a process may grow over a case; what a damaged header of a small file may claim at most."""
ADDRESS_SPACE = 8 << 30
BODY = np.maximum(body_voxels((8, 16, 16)), -1024)

Files = dict[str, bytes]
"""By name, of one input."""


def _made(write: Callable[[Path], object]) -> Files:
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))
        return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}


def _deflated(files: Files) -> Files:
    found = {}
    for name, content in files.items():
        start = 144 + int.from_bytes(content[140:144], "little")
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        head = content[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
        grown = len(head) - start
        size = int.from_bytes(head[138:140], "little")
        at = head.index(b"1.2.840.10008.1.2.1.99")
        length = (int.from_bytes(head[140:144], "little") + grown).to_bytes(4, "little")
        head = head[:140] + length + head[144 : at - 2] + (22).to_bytes(2, "little") + head[at:]
        assert size == 4
        found[name] = head + packer.compress(content[start:]) + packer.flush()
    return found


def _bare(files: Files) -> Files:
    return {name: content[144 + int.from_bytes(content[140:144], "little") :] for name, content in files.items()}


def _jpeg_2000(folder: Path) -> None:
    from PIL import Image

    write_dicom_series(folder, BODY)
    for path, plane in zip(sorted(folder.iterdir()), BODY, strict=True):
        buffer = io.BytesIO()
        Image.fromarray((plane.astype(np.int32) + 1024).astype(np.uint16)).save(buffer, "JPEG2000", irreversible=False)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)


def _label_mask(folder: Path) -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[4:12, 5:20, 3:14] = 5
    labels[4:10, 16:22, 18:25] = 1
    labels[12:18, 16:22, 5:9] = 2
    labels[12:18, 16:22, 20:24] = 3
    labels[18:26, 6:14, 8:22] = 18
    write_nifti(folder / "mask.nii", labels, AFFINE * 3, TOTALSEGMENTATOR_V2)


MANIFEST = (
    "scan,split,patient,case,mask,label:x\na.nii,train,p1,c1,,1\na.nii,train,p2,c2,m.nii,0\n"
    '"b, of nii",test,p3,c3,,\n' + "".join(f"s{n}.nii,train,q{n},d{n},,{n % 2}\n" for n in range(20))
)


@cache
def good(kind: str) -> Files:
    """Return the input of a kind before it is changed."""
    array, affine = turned(BODY, AFFINE, "RAS")
    makers: dict[str, Callable[[Path], object]] = {
        "nifti": lambda folder: write_nifti_file(folder / "scan.nii", array, affine),
        "nifti gz": lambda folder: write_nifti_file(folder / "scan.nii.gz", array, affine),
        "nifti float": lambda folder: write_nifti_file(folder / "scan.nii", array.astype(np.float32), affine),
        "mask": _label_mask,
        "npz": lambda folder: np.savez_compressed(folder / "scan.npz", ct=BODY),
        "dicom": lambda folder: write_dicom_series(folder, BODY),
        "dicom rle": lambda folder: write_dicom_series(folder, BODY, rle=True),
        "dicom jpeg 2000": _jpeg_2000,
        "manifest": lambda folder: (folder / "manifest.csv").write_text(MANIFEST),
    }
    if kind == "dicom deflated":
        return _deflated(good("dicom"))
    if kind == "dicom bare":
        return _bare(good("dicom"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _made(makers[kind])


KINDS = (
    *("nifti", "nifti gz", "nifti float", "mask", "npz", "dicom", "dicom rle", "dicom jpeg 2000", "dicom deflated"),
    *("dicom bare", "manifest"),
)
ODD = (b"\0", b"\xff", b"\x7f", b"\x80", b"1e400", b"nan", b"-1", b"\\", b"", b"9" * 40, b"\0\0\0\x80", b"\xff" * 4)


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Up to five changes, most of them where headers are."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        if not data:
            break
        end = min(len(data), 1500) if rng.random() < 0.7 else len(data)
        at = int(rng.integers(0, end))
        size = int(rng.integers(1, 9))
        match int(rng.integers(0, 8)):
            case 0:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at] = int(rng.integers(0, 256))
            case 2:
                data[at : at + size] = rng.bytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size * 8]
            case 5:
                odd = ODD[int(rng.integers(0, len(ODD)))]
                data[at : at + len(odd)] = odd
            case 6:
                data[at:at] = ODD[int(rng.integers(0, len(ODD)))]
            case 7 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def mutated(kind: str, number: int, seed: int) -> Files:
    """Case `number` of a kind: one file of the good input, changed; of gzip half of the time what it holds."""
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    files = dict(good(kind))
    name = sorted(files)[int(rng.integers(0, len(files)))]
    if name.endswith(".gz") and rng.random() < 0.8:
        files[name] = gzip.compress(changed(gzip.decompress(files[name]), rng), 1)
    else:
        files[name] = changed(files[name], rng)
    return files


def read(kind: str, folder: Path) -> None:
    """As the commands do."""
    find_scans(folder)
    if kind == "manifest":
        list_cases("manifest", folder, anatomy="chest")
    elif kind == "mask":
        mask = read_mask(folder / "mask.nii")
        organ_table(mask, get_task("ratic"), "auto")
        best_flip(mask, Volume(BODY, AFFINE))
    else:
        name = next(iter(good(kind)))
        read_volume(folder if kind.startswith("dicom") else folder / name)


def run_case(job: tuple[str, int, int]) -> str:
    """Return what came of a case: `read`, `refused: REASON`, or a finding that begins with `FINDING`."""
    kind, number, seed = job
    if resource.getrlimit(resource.RLIMIT_AS)[0] != ADDRESS_SPACE:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    before = _peak_bytes(afresh=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, content in mutated(kind, number, seed).items():
            (folder / name).write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(kind, folder)
            result = "read"
        except CaseError as error:
            named = str(folder) in str(error) or kind == "mask"  # what judges labels knows no path
            result = f"refused: {error.reason}" if named else f"FINDING no path: {error}"
            if error.reason in ("internal", "unreadable"):
                result = f"FINDING {error}"
        except AnatoBenchError as error:
            result = "refused" if str(folder) in str(error) or kind == "manifest" else f"FINDING no path: {error}"
        except BaseException as error:
            result = f"FINDING {type(error).__name__}: {error}"
    grown = _peak_bytes() - before
    return f"FINDING grew by {grown >> 20} MiB ({result})" if grown > GROWTH_BYTES else result


def _peak_bytes(afresh: bool = False) -> int:
    """Return the most memory that this process had, since the start or, on Linux, since this was last called
    `afresh`."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if afresh:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@dataclass
class Report:
    """What came of all cases."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)
    """By KIND:NUMBER."""
    hung: int = 0
    died: int = 0

    def add(self, job: tuple[str, int, int], result: str | TimedOut | WorkerDied) -> None:
        self.cases += 1
        name = f"{job[0]}:{job[1]}"
        if isinstance(result, TimedOut):
            self.hung += 1
            self.findings[name] = f"not done after {result.seconds:g} s"
        elif isinstance(result, WorkerDied):
            self.died += 1
            self.findings[name] = f"the process died ({result.exit_code})"
        elif result.startswith("FINDING"):
            self.findings[name] = result.removeprefix("FINDING ")
        else:
            self.outcomes[result] += 1


def fuzz(cases: int, seed: int = 0, workers: int = 1, kinds: Sequence[str] = KINDS) -> Report:
    """Run so many cases, of each kind about as many."""
    jobs = [(kinds[n % len(kinds)], n // len(kinds), seed) for n in range(cases)]
    report = Report()
    for job, result in run_in_workers(run_case, jobs, workers, time_limit=lambda job: SECONDS):
        report.add(job, result)
        if sys.stderr.isatty() and report.cases % 50 == 0:
            print(f"\r{report.cases} of {cases}, {len(report.findings)} findings", end="", file=sys.stderr)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="repeat one case in this process")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    args = parser.parse_args(argv)
    if args.only:
        kind, _, number = args.only.rpartition(":")
        print(run_case((kind, int(number), args.seed)))
        return 0
    report = fuzz(args.cases, args.seed, args.workers)
    for name, found in sorted(report.findings.items()):
        print(f"{name}: {found}", file=sys.stderr)
    for outcome, count in report.outcomes.most_common():
        print(f"{count:7} {outcome}", file=sys.stderr)
    print(f"{report.cases} cases, {len(report.findings)} findings ({report.hung} hung, {report.died} died)",
          file=sys.stderr)  # fmt: skip
    if args.json:
        print(json.dumps({"cases": report.cases, "seed": args.seed, "findings": report.findings, "hung": report.hung,
                          "died": report.died, "outcomes": dict(report.outcomes.most_common())}))  # fmt: skip
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
