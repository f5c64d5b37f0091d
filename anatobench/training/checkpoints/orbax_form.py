"""Arrays that JAX wrote with Orbax, read by tensorstore alone: JAX need not be installed.

Orbax keeps arrays in the Zarr format, in a database of tensorstore's (OCDBT), and their paths in the tree in
`_METADATA`. Here a tree has two levels: its name, and the canonical name of an array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anatobench.engine import Arrays
from anatobench.system.json_text import parse_json
from anatobench.system.state_files import ORBAX

METADATA = "_METADATA"


def read_orbax(folder: Path, total_bytes: int) -> dict[str, Arrays]:
    """Read every tree of a checkpoint's folder, in canonical form; its files were verified and take `total_bytes`.

    ValueError, KeyError or TypeError if they hold anything else than two levels of arrays. They are written without
    compression, so arrays that claim more than the files have are refused before memory is taken.
    """
    import tensorstore  # not at the top: a command that reads none of this starts faster without it

    metadata = parse_json((folder / ORBAX / METADATA).read_bytes())
    places = [tuple(str(key["key"]) for key in entry["key_metadata"]) for entry in metadata["tree_metadata"].values()]
    if any(len(place) != 2 for place in places):
        raise ValueError(f"{METADATA} holds more than named trees of arrays")
    base = (folder / ORBAX).resolve().as_uri() + "/"
    context = tensorstore.Context()
    opening = {
        place: tensorstore.open(_spec(base, ".".join(place)), open=True, read=True, context=context) for place in places
    }
    opened: dict[tuple[str, ...], Any] = {place: pending.result() for place, pending in opening.items()}
    claimed = sum(array.size * array.dtype.numpy_dtype.itemsize for array in opened.values())
    if claimed > total_bytes:
        raise ValueError(f"arrays of {claimed} bytes in files of {total_bytes}")
    reading = {place: array.read() for place, array in opened.items()}
    trees: dict[str, Arrays] = {}
    for (tree, name), pending in reading.items():
        trees.setdefault(tree, {})[name] = pending.result()
    return trees


def _spec(base: str, name: str) -> dict[str, Any]:
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
