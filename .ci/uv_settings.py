"""Print what pip is told here of indexes and certificates as uv's variables, for a shell: uv reads none of it."""

import ast
import os
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
    "no-index": "UV_NO_INDEX",
}
SECTIONS = ("global", "install", ":env:")
"""Of pip's settings, those that `pip install` heeds, the weakest first."""


def main() -> None:
    """Ask pip, whose variables come before its files."""
    speaking = {name: value for name, value in os.environ.items() if name != "PIP_QUIET"}
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, env=speaking, capture_output=True, text=True, check=True)
    told = [
        (*key.rpartition(".")[::2], text) for key, _, text in (x.partition("=") for x in listed.stdout.splitlines())
    ]
    heeded = sorted((one for one in told if one[0] in SECTIONS), key=lambda one: SECTIONS.index(one[0]))
    found = {}
    for _, name, text in heeded:
        if name in VARIABLES:
            found[VARIABLES[name]] = " ".join(ast.literal_eval(text).split())
    found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip does: the best of all indexes
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = found["UV_FIND_LINKS"].replace(" ", ",")
    for name, text in found.items():
        print(f"export {name}={shlex.quote(text)}")


main()
