"""The Python language reference as it is bundled with the interpreter that runs: English technical prose."""

from __future__ import annotations

import hashlib


def python_reference() -> tuple[str, str]:
    """Return (text, sha256 of it): all help topics in alphabetical order, in one string (0.46 million characters).

    They come with CPython (``pydoc_data.topics``, PSF licence) and differ between its versions, so that the digest
    belongs beside every number taken from them.
    """
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    return text, hashlib.sha256(text.encode()).hexdigest()
