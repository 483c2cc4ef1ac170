"""The one exception for what the user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was asked for cannot be done, and the user can mend it.

    The message, one line, says what was read, what is expected and, where there is one, the command that mends it.
    Commands and nodes print it and end with exit code 2; any other exception is a fault of ours, with its traceback.
    """


def unknown(what: str, word: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among ``known``: the nearest known one, and all of them."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {what} {word!r}; {hint}known: {', '.join(name or repr(name) for name in names)}")
