"""Every command that README and the pages print is a command, and every block that can be run small is run.

A block is run unless the comment before it says why not: `<!-- not run: REASON -->`. It is run as printed, by bash, in
one folder that all pages share, README first: what README trained is there for the others. `anatobench` then appends
what `SMALL` says to each command, so that data and models are tiny and nothing is trained for long. Blocks in `sh` are
docs/cluster.md's, which tests/cluster runs; Python is run by the tests of the page's subject.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from documentation import PAGES, REPOSITORY, SHELL, Block, blocks, name
from forked_python import SHALLOW

from anatobench.cli.main import COMMANDS, build_parser, main
from anatobench.volumes.nifti import write_nifti
from anatobench.volumes.read import read_volume

SMALL = {
    "phantom": "--size tiny --cases 24 --workers 1",
    "prepare": "--size tiny --workers 0",
    "train": "--steps 2 --set batch_size=2",
    "parity": "--size tiny --steps 1",
}
"""What is appended to each command of a block that is run; later options win."""
PROGRAMS = {"make", "pip", "python", "python3", "pytest", "sbatch", "source", "torchrun", "mkdir", "git", "cat"}
PLACEHOLDERS = {"NAME": "r3d_18", "I/N": "0/4"}
SHELL_BLOCKS = [block for page in PAGES for block in blocks(page) if block.language in SHELL]


def block_name(block: Block) -> str:
    return f"{name(block.page)}:{block.commands[0][:40]}"


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=block_name)
def test_every_command_is_one(block: Block) -> None:
    for command in block.commands:
        words = without_redirection(shlex.split(command))
        while words and re.fullmatch(r"\w+=.*", words[0]):  # settings of the environment
            words = words[1:]
        if words:
            check(words)


def without_redirection(words: list[str]) -> list[str]:
    cut = next((number for number, word in enumerate(words) if word[:1] in "<>|"), len(words))
    return words[:cut]


def check(words: list[str]) -> None:
    """Fail unless the words are a command that exists, with options that it knows."""
    program, *rest = words
    if program == "torchrun":
        check(["python", *rest[rest.index("-m") :]])
    elif program.endswith("anatobench") or (program.startswith("python") and rest[:2] == ["-m", "anatobench"]):
        parsed(rest if program.endswith("anatobench") else rest[2:])
    elif program == "make":
        assert rest[0] in make_targets(), f"make {rest[0]}: no such target"
    elif program == "sbatch":
        script = next(word for word in rest if word.endswith(".sh"))
        assert (REPOSITORY / script).is_file(), script
    elif "/" in program and not program.startswith(("$", ".venv")):
        assert (REPOSITORY / program).is_file(), program
    else:
        assert program in PROGRAMS or program.startswith((".", "$")), f"{program}: not a program that pages call"
        for word in rest:
            if word.startswith(("benchmarks/", "tests/", "slurm/")):
                assert (REPOSITORY / word).exists(), word


def parsed(words: list[str]) -> argparse.Namespace:
    """Parse as the command line does; what a page leaves to the reader (`NAME`, `$settings`) is filled in."""
    filled = [PLACEHOLDERS.get(word, word) for word in words if not word.startswith("$")]
    try:
        return build_parser([word for word in filled[:1] if word in COMMANDS]).parse_args(filled)
    except SystemExit as end:
        if end.code == 0:  # --help
            return argparse.Namespace()
        raise AssertionError(f"anatobench {shlex.join(words)}: the command line does not know this") from None


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("command", ["train --sett batch_size=4 --out run", "bench stepp", "predict"])
def test_a_wrong_command_is_seen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="does not know"):
        parsed(command.split())
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_stand_in_blocks_that_are_checked(page: Path) -> None:
    """A block without a language would hide its commands."""
    hidden = [block.text for block in blocks(page) if block.language not in (*SHELL, "python", "text")]
    assert not hidden, "say bash (run), text (shown) or python"
    assert not [b for b in blocks(page) if b.language == "sh" and page.name != "cluster.md"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, preloaded: Path) -> Iterator[Path]:
    """Return the folder in which all blocks are run, with data under the names that pages use."""
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    folder = tmp_path_factory.mktemp("pages")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(preloaded)
    (folder / "bin" / "anatobench").write_text(SHIM)
    (folder / "bin" / "anatobench").chmod(0o755)
    (folder / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


SHIM = f"""#!/bin/bash
# `anatobench` as a page prints it, with data and models made tiny; a run that goes on has its settings already.
declare -A small=({" ".join(f'[{key}]="{value}"' for key, value in SMALL.items())})
if [[ " $* " == *" --resume "* ]]; then small=(); fi
exec python -m anatobench "$@" ${{small[$1]:-}}
"""


def run(block: Block, folder: Path) -> None:
    environment = os.environ | {
        **SHALLOW,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{name(block.page)}\n{block.text}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "bash" and block.not_run is None]


README = REPOSITORY / "README.md"


@pytest.fixture(scope="module")
def after_readme(workplace: Path) -> Path:
    """Return the folder after README's commands: `raw`, `ratic.store`, `runs/torch` and `runs/jax`."""
    for block in runnable(README):
        run(block, workplace)
    return workplace


@pytest.mark.slow
def test_readme_runs_as_printed(after_readme: Path) -> None:
    assert (after_readme / "runs" / "torch" / "evaluation_test.json").is_file()
    assert (after_readme / "runs" / "jax" / "evaluation_test.json").is_file()
    assert "ROC" in (after_readme / "report.html").read_text()


OTHERS = [page for page in PAGES if page != README and runnable(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_pages_run_as_printed(page: Path, after_readme: Path) -> None:
    provide(after_readme)
    for block in runnable(page):
        run(block, after_readme)


def provide(folder: Path) -> None:
    """Put data under the names that pages give it, once: README's cohort as Kaggle's folder, two chest cohorts, a
    manifest of two chests, one with its mask, and a folder of scans to predict."""
    if (folder / "MASKS").exists():
        return
    (folder / "rsna-2023-abdominal-trauma-detection").symlink_to(folder / "raw")
    for form, target in {"ct_rate": "CT-RATE", "rad_chestct": "rad-chestct"}.items():
        options = ["--format", form, "--cases", "6", "--size", "tiny", "--workers", "1", "--out", str(folder / target)]
        assert main(["phantom", *options]) == 0
    shutil.copytree(folder / "raw" / "masks", folder / "MASKS")
    shutil.copytree(folder / "rad-chestct" / "masks", folder / "MASKS", dirs_exist_ok=True)
    shutil.copytree(folder / "runs" / "torch", folder / "runs" / "torch_no_seg")
    scans = sorted((folder / "raw" / "train_images").glob("*/*"))
    shutil.copytree(scans[0], folder / "dicom_folder")
    for scan in scans[:2]:
        shutil.copytree(scan, folder / "scans" / scan.name)
    chests = sorted((folder / "rad-chestct").glob("*.npz"))
    for path, scan in (("scan", scans[0]), ("cohort/scan", chests[0]), ("cohort/second", chests[1])):
        volume = read_volume(scan)
        write_nifti(folder / f"{path}.nii.gz", volume.voxels, volume.affine)
    shutil.copy(folder / "rad-chestct" / "masks" / f"{chests[0].stem}.nii.gz", folder / "cohort" / "mask.nii.gz")
    rows = ("scan,split,mask,label:effusion", "scan.nii.gz,train,mask.nii.gz,1", "second.nii.gz,train,,0", "")
    (folder / "cohort" / "manifest.csv").write_text("\n".join(rows))
