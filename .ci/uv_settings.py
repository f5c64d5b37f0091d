"""Print what pip is told here of indexes and certificates as uv's variables, for a shell: uv reads none of it."""

import ast
import shlex
import subprocess
import sys

VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
}


def main() -> None:
    """Ask pip, whose variables come before its files."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    told = [line.partition("=") for line in listed.stdout.splitlines()]
    found = {}
    for key, _, value in sorted(told, key=lambda one: one[0].startswith(":env:")):
        name = key.rpartition(".")[2]
        if name in VARIABLES:
            found[VARIABLES[name]] = " ".join(ast.literal_eval(value).split())
    found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip does: the best of all indexes
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = found["UV_FIND_LINKS"].replace(" ", ",")
    for name, text in found.items():
        print(f"export {name}={shlex.quote(text)}")


main()
