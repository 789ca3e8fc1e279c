"""Words of a sweep as a tracking store takes them, and of a store as a terminal may show them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable


def public(text: str) -> str:
    """``text`` without the user names and passwords of its addresses."""
    text = re.sub(r"//[^/\s]*@", "//", text)
    return re.sub(r"(?i)([?&][^=&\s]*(?:password|passwd|pwd|token|secret|key)[^=&\s]*=)[^&\s]*", r"\1...", text)


def text_of(text: str, most: int) -> str:
    """``text`` as a database holds it: without control characters and halves of characters, and not too long."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "_", text)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[half + 1 - most :]}"


def keys(names: Iterable[str]) -> dict[str, str]:
    """Each of ``names`` -> a key that MLflow takes; where two would share one, what was changed ends in its hash."""
    plain = {name: safe(name) for name in names}
    times = Counter(plain.values())
    return {
        name: key if key == name or times[key] == 1 else f"{key[:240]}-{_hash(name)}" for name, key in plain.items()
    }


def _hash(text: str) -> str:
    return hashlib.sha256(ascii(text).encode()).hexdigest()[:8]


def safe(name: str) -> str:
    """``name`` with what MLflow does not allow in names replaced, which may not be paths to elsewhere either."""
    parts = re.sub(r"[^\w\-./: ]", "_", name)[:250].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)
