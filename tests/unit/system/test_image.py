"""What records say of their image, which driver a build of CUDA needs, and that the two recipes agree."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from anatobench import __version__
from anatobench.errors import AnatoBenchError
from anatobench.system import cuda_driver, image
from anatobench.system.cuda_driver import OLDEST_DRIVER, cuda_of, describe_cuda, driver_version, refuse_old_driver
from anatobench.system.host import describe_code
from anatobench.system.image import DESCRIPTION_VARIABLE, DIGEST_VARIABLE, describe_image, digest_of, in_words, labels

CONTAINERS = Path(__file__).parents[3] / "containers"
MODULE = "NVRM version: NVIDIA UNIX {}  {}  Release Build  (dvs-builder)\nGCC version:  gcc version 12.3.0\n"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    describe_image.cache_clear()
    yield
    describe_image.cache_clear()


@pytest.mark.parametrize("form", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_the_kernel_module_tells_the_driver(tmp_path: Path, form: str) -> None:
    (tmp_path / "version").write_text(MODULE.format(form, "580.159.04"))
    assert driver_version(tmp_path / "version") == "580.159.04"


def test_without_the_modules_file_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 535.104.05\necho 535.104.05\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert driver_version(tmp_path / "none") == "535.104.05"
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\n")
    assert driver_version(tmp_path / "none") is None
    tool.unlink()
    assert driver_version(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("driver", "cuda", "refused"),
    [("535.104.05", 13, True), ("580.65.06", 13, False), ("535.104.05", 12, False), ("470.1", 12, True),
     (None, 13, False), ("535.1", None, False)],
)  # fmt: skip
def test_a_driver_too_old_is_one_line(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, cuda: int | None, refused: bool
) -> None:
    monkeypatch.setattr(cuda_driver, "cuda_of", lambda framework: cuda)
    monkeypatch.setattr(cuda_driver, "driver_version", lambda: driver)
    monkeypatch.setattr(cuda_driver, "visible_gpus", lambda: ["0"])
    monkeypatch.delenv("ANATOBENCH_DEVICE", raising=False)
    if not refused:
        refuse_old_driver("torch")
        return
    with pytest.raises(AnatoBenchError) as caught:
        refuse_old_driver("torch")
    said = str(caught.value)
    assert f"driver {driver} is too old for torch with CUDA {cuda}, which needs {OLDEST_DRIVER[cuda or 0]}" in said
    assert ("build.sh torch --cuda 12" in said) == (driver == "535.104.05"), "only where that would help"
    assert "\n" not in said
    monkeypatch.setenv("ANATOBENCH_DEVICE", "cpu")
    refuse_old_driver("torch")


def test_which_cuda_a_build_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.setattr(cuda_driver, "find_spec", lambda name: Spec(str(tmp_path / name / "__init__.py")))
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n")
    assert cuda_of("torch") == 12
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = None\n")
    assert cuda_of("torch") is None
    assert describe_cuda("torch", "580.1") == "torch without CUDA"

    def installed(name: str) -> str:
        if name != "jax-cuda12-plugin":
            raise PackageNotFoundError(name)
        return "0.10.2"

    monkeypatch.setattr(cuda_driver, "version", installed)
    assert cuda_of("jax") == 12
    assert describe_cuda("jax", "550.1") == "jax for CUDA 12, driver 525 or newer (here 550.1)"


class Spec:
    """As `find_spec` returns one."""

    def __init__(self, origin: str) -> None:
        self.origin = origin


def test_records_name_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DESCRIPTION_VARIABLE, raising=False)
    assert describe_code()["image"] is None
    describe_image.cache_clear()
    (tmp_path / "image.json").write_text('{"framework": "jax", "commit": "c0ffee", "version": "0.1.0", "cuda": 13}')
    (tmp_path / "jax.sif").write_bytes(b"an image")
    monkeypatch.setenv(DESCRIPTION_VARIABLE, str(tmp_path / "image.json"))
    monkeypatch.setenv("APPTAINER_CONTAINER", str(tmp_path / "jax.sif"))
    monkeypatch.delenv(DIGEST_VARIABLE, raising=False)
    sum_of_it = "sha256:" + hashlib.sha256(b"an image").hexdigest()
    code = describe_code()
    assert code["image"] == {
        "framework": "jax", "commit": "c0ffee", "version": "0.1.0", "cuda": 13,
        "path": str(tmp_path / "jax.sif"), "digest": sum_of_it,
    }  # fmt: skip
    assert in_words(code["image"]) == f"in jax.sif: AnatoBench 0.1.0, commit c0ffee, {sum_of_it}"
    describe_image.cache_clear()
    monkeypatch.setenv(DIGEST_VARIABLE, "sha256:told")
    told = describe_image()
    assert told is not None
    assert told["digest"] == "sha256:told", "a job, or who started the container, knows without reading it"


def test_the_sums_beside_an_image_are_taken_unless_they_are_older(tmp_path: Path) -> None:
    file, sums = tmp_path / "torch.sif", tmp_path / "torch.sif.sha256"
    file.write_bytes(b"first")
    sums.write_text("0" * 64 + "  torch.sif\n")
    os.utime(file, (100, 100))
    assert digest_of(file) == "sha256:" + "0" * 64
    os.utime(sums, (99, 99))
    assert digest_of(file) == "sha256:" + hashlib.sha256(b"first").hexdigest()
    assert digest_of(tmp_path) is None
    assert digest_of(tmp_path / "not-there.sif") is None


def test_an_image_describes_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", image.__name__, "--describe", "torch", "c0ffee"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert (said["framework"], said["commit"], said["cuda"]) == ("torch", "c0ffee", cuda_of("torch"))
    shown = labels(said)
    for name, found in said["packages"].items():
        assert f"org.anatobench.{name} {found}\n" in shown


def test_both_recipes_copy_install_and_set_the_same() -> None:
    definition, dockerfile = ((CONTAINERS / name).read_text() for name in ("image.def", "Dockerfile"))
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", definition, re.MULTILINE | re.DOTALL))
    arguments = dict(re.findall(r"^    (\w+)=(.*)$", sections["arguments"], re.MULTILINE))
    assert arguments.pop("BOOTSTRAP") == "docker"
    assert arguments == dict(re.findall(r"^ARG (\w+)=(.*)$", dockerfile, re.MULTILINE))
    copied = {line.split()[0] for line in sections["files"].splitlines() if line.strip()}
    assert copied == {
        word for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()
    }
    assert "bash /opt/source/containers/install.sh" in sections["post"]
    assert "RUN bash /opt/source/containers/install.sh" in dockerfile
    exported = " ".join(re.findall(r"^    export (.*)$", sections["environment"], re.MULTILINE))
    assert exported.split() == " ".join(re.findall(r"^ENV (.*)$", dockerfile, re.MULTILINE)).split()
    labelled = dict(line.strip().split(" ", 1) for line in sections["labels"].splitlines() if line.strip())
    docker_labels = dict(re.findall(r'^LABEL (\S+)="(.*)"$', dockerfile, re.MULTILINE))
    assert {name: re.sub(r"\{\{ (\w+) \}\}", r"${\1}", value) for name, value in labelled.items()} == docker_labels


@pytest.mark.parametrize(("program", "words"), [("apptainer", []), ("docker", ["--with", "docker"])])
def test_build_tells_the_builder_framework_cuda_and_commit(tmp_path: Path, program: str, words: list[str]) -> None:
    tool = tmp_path / program
    tool.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" > "$SAID"\nfor w in "$@"; do case $w in *.sif) echo x > "$w";; esac; done\n'
    )
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(tmp_path / "said")}
    done = subprocess.run(
        [CONTAINERS / "build.sh", "jax", "--cuda", "12", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert {"FRAMEWORK=jax", "CUDA=12", f"VERSION={__version__}"} <= set(said)
    assert any(re.fullmatch(r"COMMIT=([0-9a-f]{40}(-dirty)?)?", word) for word in said)
    if program == "apptainer":
        sha256 = hashlib.sha256((tmp_path / "jax.sif").read_bytes()).hexdigest()
        assert (tmp_path / "jax.sif.sha256").read_text() == f"{sha256}  jax.sif\n"
    else:
        assert said[-5:] == ["--tag", "anatobench-jax", "--file", "containers/Dockerfile", "."]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--cuda", "11"], "--cuda 11: 13, 12 or none"), (["--with", "kaniko"], "--with kaniko: apptainer"),
     (["--out"], "--out: its value is missing")],
)  # fmt: skip
def test_build_refuses_in_one_line(words: list[str], message: str) -> None:
    done = subprocess.run([CONTAINERS / "build.sh", "torch", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"build.sh: {message}")
    assert done.stderr.count("\n") == 1
