"""The ways in which a user's wish can fail; each carries one line that names the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The command line prints the message as one line and exits with status 2."""


class Blocked(Exception):
    """Data, hardware or a package is absent. The run ends as `blocked` with this reason."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, else what exists."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else " (none exist)"


def require(package: str, extra: str) -> None:
    """Raise `Blocked` with the install hint unless `package` can be imported."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise Blocked(f"package {package!r} is not installed: pip install 'reproven[{extra}]'")
