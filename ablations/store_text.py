"""Makes names and texts fit for a tracking store, and hides secrets of its address."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

#: Most characters of a name, a parameter and a tag in MLflow or its database.
NAME, VALUE, TAG = 250, 6000, 5000


def public(text: str) -> str:
    """``text`` with user names, passwords and tokens removed from its URLs."""
    text = re.sub(r"//[^/\s]*@", "//", text)
    return re.sub(r"(?i)([?&][^=&\s]*(?:password|passwd|pwd|token|secret|key)[^=&\s]*=)[^&\s]*", r"\1...", text)


def text_of(text: str, most: int) -> str:
    """``text`` for a database: without control characters and surrogates, and at most ``most`` characters."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "_", text)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[half + 1 - most :]}"


def keys(names: Iterable[str]) -> dict[str, str]:
    """Each of ``names`` -> a key that MLflow accepts; a changed name gets a hash if its key would not be unique."""
    plain = {name: safe(name) for name in names}
    times = Counter(plain.values())
    return {
        name: key if key == name or times[key] == 1 else f"{key[:240]}-{_hash(name)}" for name, key in plain.items()
    }


def _hash(text: str) -> str:
    return hashlib.sha256(ascii(text).encode()).hexdigest()[:8]


def safe(name: str) -> str:
    """``name`` without characters that MLflow refuses, and without parts that would make it a path elsewhere."""
    parts = re.sub(r"[^\w\-./: ]", "_", name)[:250].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)
