"""What can go wrong, in words a person can act on.

Every message says which file or case is meant and what to do. The command line prints the message of an
`AnatoBenchError` as one line and exits with 1, and that of an `OSError` by which a disk refuses (`refusal_of_disk`);
anything else is a bug and keeps its traceback.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Any

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What only a write can meet."""
_REFUSED = {
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""What a disk or a path says against reading or writing; a bug can, too, but not of a file with a name."""


class AnatoBenchError(Exception):
    """A failure that is not a bug: bad input, a missing file, a run that diverged."""


class UsageError(AnatoBenchError):
    """Wrong arguments: the command line exits with 2."""


class CaseError(AnatoBenchError):
    """One case cannot be used. `prepare` records it in `rejected.csv` and goes on with the rest.

    `reason` is a short stable keyword (`truncated`, `nan`, `bad-spacing`, ...) that a script can count by;
    the message is the sentence for a person.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:  # crosses process boundaries whole
        return (type(self), (self.reason, str(self)))


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `UsageError` that names the choices, unless the value of the argument `name` is one of them."""
    allowed = tuple(choices)
    if value not in allowed:
        raise UsageError(f"{name}={value!r:.80}: choose one of {', '.join(allowed)}")


def check_kind(name: str, value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Raise `UsageError` that says `what` the argument `name` must be, unless its value is of these types."""
    if not isinstance(value, kinds):
        raise UsageError(f"{name} must be {what}, not {value!r:.80}")


def listed(problems: Sequence[str], most: int = 8) -> str:
    """Return the first of the problems in one line, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def install_command(extra: str) -> str:
    """Return how README installs an extra, in the folder of the checkout."""
    return f"pip install -e '.[{extra}]' -c constraints.txt"


def refusal_of_disk(error: OSError) -> AnatoBenchError | None:
    """Return one sentence for a disk that is full, read-only or failing, or a path that cannot be used; None if the
    error says something else, and so may be a bug."""
    advice = "make room or correct the permissions, then give the same command again: what is finished stays"
    if error.errno in _FULL:
        return AnatoBenchError(f"{error.filename or 'a file'}: cannot be written ({error.strerror}): {advice}")
    if error.errno in _REFUSED and error.filename is not None:
        return AnatoBenchError(f"{error.filename}: cannot be used ({error.strerror}): {advice}")
    return None
