"""What can go wrong, in words a person can act on.

Every message says which file or case is meant and what to do. The command line prints the message of an
`AnatoBenchError` as one line and exits with 1; anything else is a bug and keeps its traceback.
"""

from typing import Any


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
