"""A few cases of `python -m tests.fuzz`: no reader raises, hangs, dies or grows on damaged input."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the workers, too
fuzz = importlib.import_module("tests.fuzz")


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_the_inputs_are_good_before_they_are_changed(tmp_path: Path, kind: str) -> None:
    for name, content in fuzz.good(kind).items():
        (tmp_path / name).write_bytes(content)
    fuzz.read(kind, tmp_path)


def test_changes_are_the_same_for_the_same_seed() -> None:
    assert fuzz.mutated("dicom", 3, 0) == fuzz.mutated("dicom", 3, 0)
    assert fuzz.mutated("dicom", 3, 0) != fuzz.mutated("dicom", 3, 1)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("raise SystemError('decoder')", "SystemError: decoder"),
        ("raise CaseError('internal', 'TypeError')", "TypeError"),
        ("raise CaseError('nan', 'somewhere')", "no path: somewhere"),
        # Pages of its own: what other tests in this process have freed would be used again, and nothing would grow.
        ("np.ndarray(300 << 20, np.uint8, __import__('mmap').mmap(-1, 300 << 20)).fill(1)", "grew by"),
    ],
)
def test_findings_are_found(monkeypatch: pytest.MonkeyPatch, fault: str, found: str) -> None:
    monkeypatch.setattr(fuzz, "read", lambda kind, folder: exec(fault, vars(fuzz)))
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *limits: None)
    report = fuzz.Report()
    report.add(("nifti", 0, 0), fuzz.run_case(("nifti", 0, 0)))
    assert found in report.findings["nifti:0"]


@pytest.mark.slow
def test_nothing_unexpected_hung_or_grown() -> None:
    report = fuzz.fuzz(600, seed=7, workers=1)
    assert report.findings == {}
    assert report.cases == 600
    assert report.outcomes["read"] > 60
    assert report.outcomes.total() - report.outcomes["read"] > 60
