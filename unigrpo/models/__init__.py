"""Unified models (slot ``model``): what a run asks of one, and those that are shipped."""

from unigrpo.models.bagel import Bagel
from unigrpo.models.janus import Janus
from unigrpo.models.model import LoadedModel, Model
from unigrpo.models.mot import Mot
from unigrpo.models.pipelines import Diffusers

__all__ = ["Bagel", "Diffusers", "Janus", "LoadedModel", "Model", "Mot"]
