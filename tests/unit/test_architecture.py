"""The rules that hold the house up: who may import whom, and how large a room may be."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORK_PACKAGES = {"torch", "torchvision", "jax", "jaxlib", "flax", "optax", "orbax"}
JAX_PACKAGES = {"jax", "jaxlib", "flax", "optax", "orbax"}
FORBIDDEN = {
    "anatobench": FRAMEWORK_PACKAGES | {"torch_ref", "jax_impl", "benchmarks", "tests"},
    "torch_ref": JAX_PACKAGES | {"jax_impl", "benchmarks", "tests"},
    "jax_impl": {"torch", "torchvision", "torch_ref", "benchmarks", "tests"},
}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Names of modules in import statements and in literals given to `import_module` and `framework_module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "anatobench")
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)
            else:  # an f-string: what it begins with
                yield ast.unparse(node.args[0]).removeprefix("f").strip("\"'").split("{")[0]


@pytest.mark.slow
@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_run_one_way(package: str) -> None:
    files = python_files(package)
    assert files, f"{package} has no Python files"
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if module.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


ORDER = (
    {"errors"},
    {"system"},
    {"tasks"},
    {"fast_forms"},
    {"backbones"},
    {"recipes"},
    {"volumes"},
    {"datasets"},
    {"phantom", "store"},
    {"objectives"},
    {"engine"},
    {"training"},
    {"masks", "bench", "parity", "evaluation"},
    {"session"},
    {"experiments"},
    {"report"},
    {"prediction"},
    {"cli"},
)
"""The rooms on the ground floor of `anatobench/`: each may use those before its own line, and itself."""


def rooms_of(package: Path) -> dict[str, list[Path]]:
    """Room to its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if not room.startswith("__"):
            found.setdefault(room, []).append(path)
    return found


def arrows_up(package: Path) -> list[str]:
    """Return every import of a room that does not stand before the importing one."""
    floor = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
    wrong = []
    for room, paths in rooms_of(package).items():
        for path in paths:
            for module in imported_modules(path):
                first, _, rest = module.partition(".")
                other = rest.split(".")[0]
                if first == "anatobench" and other in floor and other != room and floor[other] >= floor[room]:
                    wrong.append(f"{path.relative_to(package)} imports {module}")
    return wrong


def test_every_room_has_its_place_and_no_arrow_runs_up() -> None:
    rooms = set(rooms_of(ROOT / "anatobench"))
    assert rooms <= set().union(*ORDER), "a new room on the ground floor needs its line in ORDER"
    assert len(rooms) <= 25
    assert not arrows_up(ROOT / "anatobench")


@pytest.mark.parametrize(
    "line",
    [
        "from anatobench.datasets.case import Case",
        "import anatobench.store.reader",
        "from anatobench import engine",
        'import_module("anatobench.cli.main")',
        'importlib.import_module(f"anatobench.bench.{name}")',
    ],
)
def test_an_arrow_up_is_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "read.py").write_text(f"from anatobench.tasks import Size\n{line}\n")
    assert len(arrows_up(tmp_path)) == 1


def test_only_the_engine_knows_the_frameworks_packages() -> None:
    wrong = [
        path.relative_to(ROOT)
        for path in python_files("anatobench")
        if path.name != "engine.py" and any(f'"{package}' in path.read_text() for package in ("torch_ref", "jax_impl"))
    ]
    assert not wrong


WITHOUT_TWIN = {
    "pretrained_file.py",
    "transfer.py",
    "layers/triton_language.py",
    "layers/depthwise_walk.py",
    "layers/segmentation_kernels.py",
    "layers/window_kernels.py",
}
"""A file format that only PyTorch reads, copies that JAX makes by itself, Triton kernels for which it has no use."""


def test_the_frameworks_files_mirror_each_other() -> None:
    def names(package: str) -> set[str]:
        return {str(path.relative_to(ROOT / package)) for path in python_files(package)}

    only_in_torch = names("torch_ref") - names("jax_impl")
    assert only_in_torch == WITHOUT_TWIN, "every other file of the reference has its twin in the port"


def test_rooms_have_names() -> None:
    nameless = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
    found = [path for package in (*FORBIDDEN, "tests", "benchmarks") for path in python_files(package)]
    assert not [path for path in found if path.name in nameless]


ARRAY = re.compile(r"\b(ndarray|Tensor|jax\.Array|Arrays|Trees|Leaves)\b")
SHAPE = re.compile(r"\[[^]]+\]|\bshapes?\b|\bscalars?\b|\bcanonical\b|See `", re.IGNORECASE)
"""`[B, C]`, `of any shape`, the canonical form of weights (engine.py), or the contract where it stands."""


def without_shape(path: Path) -> Iterator[str]:
    """Yield the public functions that take or return an array of which neither they, nor their class, nor the file's
    protocol or abstract class that has them says the shape."""
    owners = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Module | ast.ClassDef)]
    functions = [(owner, node) for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef)]
    contracts = {
        function.name: ast.get_docstring(function)
        for owner, function in functions
        if isinstance(owner, ast.ClassDef) and {"Protocol", "ABC"} & set(map(ast.unparse, owner.bases))
    }
    for owner, function in functions:
        of_class = ast.get_docstring(owner) if isinstance(owner, ast.ClassDef) else None
        said = f"{of_class} {ast.get_docstring(function) or contracts.get(function.name)}"
        signature = f"{ast.unparse(function.args)} {function.returns and ast.unparse(function.returns)}"
        public = function.name == "__call__" or not function.name.startswith("_")
        if public and ARRAY.search(signature) and not SHAPE.search(said):
            yield f"{path}:{function.lineno}: {function.name}"


def test_public_functions_of_arrays_say_the_shape() -> None:
    paths = [path for package in FORBIDDEN for path in python_files(package)]
    assert not [wrong for path in paths for wrong in without_shape(path)]


@pytest.mark.parametrize(
    ("documented", "wrong"),
    [
        ("def mean(x: Tensor) -> float:\n    'Over the voxels.'", 1),
        ("def load() -> tuple[np.ndarray, str]: ...", 1),
        ("class Mean:\n    'Over the voxels.'\n    def __call__(self, x: jax.Array) -> float: ...", 1),
        ("def mean(x: Tensor) -> float:\n    'Over the voxels of [D, H, W].'", 0),
        ("class Mean:\n    'Of [D, H, W].'\n    def __call__(self, x: jax.Array) -> float: ...", 0),
        ("class Mean(Protocol):\n    def of(self, x: Arrays) -> float:\n        'See `Other.of`.'\n"
         "class Sum(Mean):\n    def of(self, x: Arrays) -> float: ...", 0),
        ("def _mean(x: Tensor) -> float: ...\ndef size(text: str) -> int: ...", 0),
    ],
)  # fmt: skip
def test_a_function_that_says_no_shape_is_seen(tmp_path: Path, documented: str, wrong: int) -> None:
    path = tmp_path / "mean.py"
    path.write_text(documented)
    assert len(list(without_shape(path))) == wrong


@pytest.mark.slow
def test_help_needs_no_framework() -> None:
    code = (
        "import sys\n"
        "from anatobench.cli.main import COMMANDS, build_parser\n"
        "build_parser(list(COMMANDS))\n"
        f"loaded = sorted(set(sys.modules) & {FRAMEWORK_PACKAGES!r})\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
