"""The workflow, the Makefile, the changelog and CITATION.cff say one thing."""

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml
from documentation import REPOSITORY, blocks

from anatobench import __version__
from anatobench.errors import install_command
from anatobench.masks.weights import INSTALL

MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
WORKFLOW: dict[Any, Any] = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
PYTHONS = ["3.11", "3.12", "3.13"]


def made(job: dict[str, Any]) -> list[str]:
    """Return what a job runs."""
    return [step["run"] for step in job["steps"] if "run" in step]


def test_what_is_missing_is_installed_as_the_pages_say() -> None:
    assert INSTALL in (REPOSITORY / "docs" / "masks.md").read_text()
    assert install_command("torch,jax") in (REPOSITORY / "README.md").read_text()
    of_an_index = ("install 'anatobench[", 'install "anatobench[')
    for folder in ("anatobench", "torch_ref", "jax_impl", "benchmarks", "docs"):
        for file in (one for ending in ("py", "md", "sh") for one in (REPOSITORY / folder).rglob(f"*.{ending}")):
            assert not any(words in file.read_text() for words in of_an_index), file


def test_what_readme_s_commands_leave_in_the_checkout_is_ignored() -> None:
    ignored = [line.removeprefix("/") for line in (REPOSITORY / ".gitignore").read_text().split()]
    for left in (".venv/", "demo/", "runs/", "compare-14.log", "smoke-1.log", "experiments-12_3.log"):
        assert any(fnmatch(left, line) for line in ignored), left
    assert not any(fnmatch("CHANGELOG.md", line) for line in ignored)


def test_readme_and_the_page_of_dependencies_count_the_same_disk() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    counted = re.search(r"CUDA build: ([\d.]+) GB \((\d+) MiB\)", (REPOSITORY / "docs" / "dependencies.md").read_text())
    assert counted is not None
    assert f"{int(counted[2]) * 2**20 / 1e9:.1f}" == counted[1]
    assert re.search(r"minutes and ([\d.]+)\sGB", readme)[1] == counted[1]  # type: ignore[index]
    assert f"instead of {counted[1]}:" in readme


def test_readme_submits_no_job_before_the_site_is_known() -> None:
    for block in blocks(REPOSITORY / "README.md"):
        jobs = block.text.find("sbatch ")
        assert jobs < 0 or 0 <= block.text.find("source slurm/site.conf") < jobs, block.text


def test_the_workflow_only_calls_make() -> None:
    for name, job in JOBS.items():
        assert made(job), name
        for command in made(job):
            target = re.fullmatch(r"make ([a-z-]+)", command)
            assert target, f"{name}: {command}"
            assert target[1] in TARGETS, f"{name}: make {target[1]}"


def test_every_part_of_the_tests_is_in_the_workflow() -> None:
    called = {command.removeprefix("make ") for job in JOBS.values() for command in made(job)}
    assert called == {"check", "test", "test-parity", "test-cluster", "test-masks", "docs"}


def test_every_supported_python_is_checked() -> None:
    assert JOBS["check"]["strategy"]["matrix"]["python"] == PYTHONS
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={PYTHONS[0]}"
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (REPOSITORY / "README.md").read_text()


def test_the_cluster_runs_nightly() -> None:
    events = WORKFLOW[True]  # YAML reads `on` as a truth value
    assert events["schedule"]
    assert JOBS["cluster"]["if"] == "github.event_name == 'schedule'"


def test_ci_runs_every_part() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    for target in ("test", "test-cluster", "test-masks", "docs"):
        assert re.search(rf"^ *make {target}\b", script, re.M), target


def test_no_test_is_left_out() -> None:
    """`make test` leaves out two folders, and each file of them is another target's."""
    recipe = re.search(r"^test: .*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert recipe is not None
    assert re.findall(r"--ignore (\S+)", recipe[1]) == ["tests/cluster", "tests/masks"]
    assert "pytest --durations 5 tests/masks tests/cluster/test_masks_jobs.py" in MAKEFILE
    if shutil.which("make") is None:
        pytest.skip("needs make")
    make = ["make", "--dry-run", "--no-print-directory", "test-cluster"]
    said = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    files = {path.name for path in (REPOSITORY / "tests" / "cluster").glob("test_*.py")}
    assert set(re.findall(r"tests/cluster/(\S+)", said)) == files - {"test_masks_jobs.py"}


def test_versions_and_dates_agree() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", changelog, re.M)
    assert len(versions) == len(re.findall(r"^## ", changelog, re.M)), "each version has its date"
    assert versions == sorted(versions, reverse=True)
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert versions[0] == (__version__, str(citation["date-released"]))
    assert citation["version"] == __version__
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]


def test_packages_say_that_they_are_typed() -> None:
    data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("anatobench", "torch_ref", "jax_impl"):
        assert (REPOSITORY / package / "py.typed").is_file()
        assert data[package] == ["py.typed"]
