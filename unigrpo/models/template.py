"""Chat templates: how a model wants a request to be framed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from unigrpo.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template in the form of Hugging Face's, rendered up to where the reply begins.

    Attributes:
        source: the template.
        system_prompt: what stands before every request; empty for none.
        tokens: what the template may name besides the messages, such as ``bos_token``.
        in_parts: whether it wants what a message says as a list of parts, of which a text is one.
    """

    source: str
    system_prompt: str = ""
    tokens: Mapping[str, str] = field(default_factory=dict)
    in_parts: bool = False

    @classmethod
    def of_folder(cls, folder: Path, tokens: Mapping[str, str], system_prompt: str = "") -> ChatTemplate:
        """The template of a tokenizer's folder: ``chat_template.jinja``, or that of ``tokenizer_config.json``.

        Raises:
            ConfigError: it has none.
        """
        file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
        if file.is_file():
            return cls(file.read_text(encoding="utf-8"), system_prompt, tokens)
        found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        if not isinstance(found.get("chat_template"), str):
            raise ConfigError(f"{folder}: expected a chat template in {file.name} or {settings.name}, found none")
        return cls(found["chat_template"], system_prompt, tokens)

    def render(self, text: str) -> str:
        """The request ``text`` as the model wants it.

        Raises:
            ConfigError: the template cannot be rendered.
        """
        import jinja2

        said = {"system": self.system_prompt} if self.system_prompt else {}
        said["user"] = text
        messages = [
            {"role": role, "content": [{"type": "text", "text": words}] if self.in_parts else words}
            for role, words in said.items()
        ]
        try:
            return _compiled(self.source).render(messages=messages, add_generation_prompt=True, **self.tokens)
        except jinja2.TemplateError as error:
            raise ConfigError(f"the chat template cannot be rendered: {error}") from error


@cache
def _compiled(source: str) -> Template:
    """With what transformers gives a template to use; once, as all prompts of a run are rendered by one."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


def _refuse(reason: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(reason)
