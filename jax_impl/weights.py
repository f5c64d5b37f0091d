"""The model and the optimizer as dicts of numpy arrays under torchvision's names, and back.

Every backbone lists its arrays in a table of `Entry`; an array that the table does not name, on either side, is an
error. The canonical form holds parameters and BatchNorm's running mean and variance; what torchvision keeps besides
(`is_unread`) is left out, and a file that has it loads all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.typing import DTypeLike

from anatobench.engine import Arrays, check_arrays, is_unread
from anatobench.errors import AnatoBenchError, listed
from anatobench.objectives.heads import HEADS, auxiliary_heads, of_another_head, weights_prefix
from jax_impl.optimizer import Moments, Tree

Path = tuple[str | int, ...]
Place = Callable[[np.ndarray, DTypeLike], jax.Array]
"""Puts an array, of any shape, on the device as a type."""


@dataclass(frozen=True)
class Entry:
    """One array of the model."""

    name: str
    """torchvision's."""
    path: Path
    """Where it stands in the NNX model."""
    permutation: tuple[int, ...]
    """NNX array = canonical array transposed by this."""
    shape: tuple[int, ...]
    """Canonical."""
    buffer: bool = False
    """A running statistic: no gradient, no moments."""

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        """Canonical layout to the model's."""
        return array.transpose(self.permutation)

    def to_canonical(self, array: jax.Array) -> np.ndarray:
        """Return a contiguous host copy in the canonical layout. A copy because the step that follows may reuse the
        memory."""
        return np.array(np.asarray(array).transpose(np.argsort(self.permutation)), order="C")


def conv3d_entries(name: str, path: Path, shape: tuple[int, ...], bias: bool = False) -> Iterator[Entry]:
    """torch's [out, in, D, H, W] is [D, H, W, in, out] here."""
    yield Entry(f"{name}.weight", (*path, "kernel"), (2, 3, 4, 1, 0), shape)
    if bias:
        yield Entry(f"{name}.bias", (*path, "bias"), (0,), shape[:1])


def linear_entries(name: str, path: Path, shape: tuple[int, int], bias: bool = True) -> Iterator[Entry]:
    """torch's [out, in] is [in, out] here."""
    yield Entry(f"{name}.weight", (*path, "kernel"), (1, 0), shape)
    if bias:
        yield Entry(f"{name}.bias", (*path, "bias"), (0,), shape[:1])


def batch_norm_entries(name: str, path: Path, channels: int) -> Iterator[Entry]:
    """Scale, offset and the running statistics."""
    for theirs, ours in (("weight", "scale"), ("bias", "bias")):
        yield Entry(f"{name}.{theirs}", (*path, ours), (0,), (channels,))
    for theirs in ("running_mean", "running_var"):
        yield Entry(f"{name}.{theirs}", (*path, theirs), (0,), (channels,), buffer=True)


def check_table(table: Sequence[Entry], parameters: Tree, statistics: Tree) -> None:
    """Raise if table and model disagree in a path, a shape or in what is a parameter: the table is wrong."""
    problems = []
    for tree, buffer in ((parameters, False), (statistics, True)):
        shapes = {path: array.shape for path, array in _leaves(tree)}
        entries = {e.path: tuple(e.shape[axis] for axis in e.permutation) for e in table if e.buffer == buffer}
        problems += [f"{path} is not in the table" for path in shapes.keys() - entries.keys()]
        problems += [f"{path} is not in the model" for path in entries.keys() - shapes.keys()]
        problems += [
            f"{path} has shape {shapes[path]}, the table {entries[path]}"
            for path in shapes.keys() & entries.keys()
            if shapes[path] != entries[path]
        ]
    if problems:
        raise AnatoBenchError(f"the weight table does not fit the model: {listed(sorted(problems))}")


def export_arrays(table: Iterable[Entry], tree: Tree) -> Arrays:
    """Return the entries' arrays of a tree of the model's structure, in canonical form."""
    return {entry.name: entry.to_canonical(array_at(tree, entry.path)) for entry in table}


def import_weights(
    table: Sequence[Entry],
    weights: Mapping[str, np.ndarray],
    like_parameters: Tree,
    like_statistics: Tree,
    place: Place,
) -> tuple[Tree, Tree]:
    """Canonical weights as (parameters, statistics) of the types of the trees given, each put on the device by `place`.

    An auxiliary head that the table does not have is dropped; any other mismatch is an error.
    """
    given = {n: w for n, w in weights.items() if not is_unread(n)}
    own = tuple(h for h in auxiliary_heads(tuple(HEADS)) if any(e.name.startswith(weights_prefix(h)) for e in table))
    given = {n: w for n, w in given.items() if not of_another_head(n, own)}
    check_arrays(given, {e.name: e.shape for e in table}, "weights")
    parameters = [e for e in table if not e.buffer]
    statistics = [e for e in table if e.buffer]
    return _filled(like_parameters, parameters, given, place), _filled(like_statistics, statistics, given, place)


def import_arrays(
    table: Sequence[Entry], arrays: Mapping[str, np.ndarray], like: Tree, place: Place, what: str
) -> Tree:
    """Return the inverse of `export_arrays`; names and shapes are checked, and `what` names the arrays in an error."""
    check_arrays(arrays, {entry.name: entry.shape for entry in table}, what)
    return _filled(like, table, arrays, place)


def names_of(table: Iterable[Entry], parameters: Tree) -> Tree:
    """Return the parameters' canonical names in their structure."""
    names = {entry.path: entry.name for entry in table if not entry.buffer}
    return jax.tree.map_with_path(lambda path, leaf: names[_path(path)], parameters)


def export_moments(table: Iterable[Entry], moments: Moments, group_of: Callable[[str], str]) -> Arrays:
    """`exp_avg/<name>`, `exp_avg_sq/<name>`, each as its parameter in canonical form, and `step_counts`."""
    parameters = [entry for entry in table if not entry.buffer]
    arrays = step_counts(parameters, moments, group_of)
    for moment, tree in (("exp_avg", moments.first), ("exp_avg_sq", moments.second)):
        arrays |= {f"{moment}/{name}": array for name, array in export_arrays(parameters, tree).items()}
    return arrays


def step_counts(table: Iterable[Entry], moments: Moments, group_of: Callable[[str], str]) -> Arrays:
    """`step`, the largest count; where counts differ, each parameter's as `step/<name>`, too: int64 scalars. `group_of`
    is that of a parameter's name."""
    counts = {group: np.asarray(int(count), np.int64) for group, count in moments.counts.items()}
    arrays: Arrays = {"step": max(counts.values())}
    if len({int(count) for count in counts.values()}) > 1:
        arrays |= {f"step/{entry.name}": counts[group_of(entry.name)] for entry in table if not entry.buffer}
    return arrays


def import_moments(
    table: Iterable[Entry],
    arrays: Mapping[str, np.ndarray],
    like: Moments,
    group_of: Callable[[str], str],
    place: Place,
) -> Moments:
    """Return the inverse of `export_moments`; names and shapes are checked as for weights."""
    parameters = [entry for entry in table if not entry.buffer]
    shapes: dict[str, tuple[int, ...]] = {
        f"{moment}/{e.name}": e.shape for moment in ("exp_avg", "exp_avg_sq") for e in parameters
    }
    shapes["step"] = ()
    if any(name.startswith("step/") for name in arrays):
        shapes |= {f"step/{entry.name}": () for entry in parameters}
    check_arrays(arrays, shapes, "optimizer state")
    first = _filled(like.first, parameters, {e.name: arrays[f"exp_avg/{e.name}"] for e in parameters}, place)
    second = _filled(like.second, parameters, {e.name: arrays[f"exp_avg_sq/{e.name}"] for e in parameters}, place)
    steps: dict[str, int] = {}
    for entry in parameters:
        count = int(arrays.get(f"step/{entry.name}", arrays["step"]))
        if steps.setdefault(group_of(entry.name), count) != count:
            raise AnatoBenchError(
                f"optimizer state does not fit the plan's phases: {entry.name} has {count} steps, parameters that "
                f"are always trained with it have {steps[group_of(entry.name)]}: resume with the run's own objective"
            )
    counts = {group: place(np.asarray(steps[group]), count.dtype) for group, count in like.counts.items()}
    return Moments(first, second, counts)


def _filled(like: Tree, entries: Iterable[Entry], given: Mapping[str, np.ndarray], place: Place) -> Tree:
    """Return a tree of `like`'s structure and types with the arrays given."""
    arrays = {entry.path: entry.to_jax(given[entry.name]) for entry in entries}
    return jax.tree.map_with_path(lambda path, leaf: place(arrays[_path(path)], leaf.dtype), like)


def array_at(tree: Tree, path: Path) -> jax.Array:
    """Return the array, of any shape, that stands at a path of the model."""
    for key in path:
        tree = tree[key]
    leaf: jax.Array = tree
    return leaf


def _leaves(tree: Tree) -> list[tuple[Path, jax.Array]]:
    return [(_path(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _path(keys: Iterable[jax.tree_util.DictKey]) -> Path:
    return tuple(key.key for key in keys)
