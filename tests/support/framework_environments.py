"""Virtual environments with one framework each, made from the one that runs the tests."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ALL = {"torch": ("torch", "torchvision"), "jax": ("jax", "flax", "optax", "orbax")}


def environment_with(framework: str, folder: Path) -> Path:
    """Return a virtual environment in which the other framework cannot be imported; its folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    (packages / "beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for other, names in ALL.items():
        for name in names if other != framework else ():
            (packages / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here', name='{name}')\n")
    program = folder / "bin" / "anatobench"
    program.write_text(f"#!{python}\nimport sys\nfrom anatobench.cli.main import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return folder
