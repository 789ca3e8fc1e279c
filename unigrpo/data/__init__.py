"""Datasets: where prompts come from (slot ``dataset``)."""

from unigrpo.data.dataset import Dataset, Split
from unigrpo.data.jsonl import Jsonl
from unigrpo.data.prompt import ImageFile, ImageSource, Prompt
from unigrpo.data.text_file import TextFile

__all__ = ["Dataset", "ImageFile", "ImageSource", "Jsonl", "Prompt", "Split", "TextFile"]
