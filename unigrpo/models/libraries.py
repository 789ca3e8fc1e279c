"""Names for what comes from transformers, diffusers and peft, whose types do not say what is used of them here."""

from __future__ import annotations

from typing import Any

#: An object of one of them: a pipeline, a module, a tokenizer, a cache.
Foreign = Any
#: Keyword arguments of a call of theirs.
Arguments = dict[str, Any]
