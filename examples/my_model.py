"""A model of one's own: a recurrent net that reads words and images into one state."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from unigrpo.checkpoints import digest_of_files
from unigrpo.models import LoadedModel, Model
from unigrpo.models.autoencoder import TinyAutoencoder
from unigrpo.models.linear import Linear
from unigrpo.models.processor import LatentGrid, StandardProcessor
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.models.weights import read
from unigrpo.registry import register


@dataclass(frozen=True)
class State:
    h: torch.Tensor  # [B, D]

    @property
    def batch(self):
        return len(self.h)

    def repeat(self, times):
        return State(self.h.repeat_interleave(times, 0))

    def rows(self, index):
        return State(self.h[index])

    def detach(self):
        return State(self.h.detach())

    def followed_by(self, longer):  # the values of longer, the gradient of this
        return State(longer.h.detach() + (self.h - self.h.detach()))


class MyPolicy(nn.Module):
    def __init__(self, words, channels=3, width=32):
        super().__init__()
        self.embed, self.reader, self.head = nn.Embedding(words, width), nn.GRUCell(width, width), Linear(width, words)
        self.looker = nn.GRUCell(channels, width)
        self.painter = nn.Sequential(Linear(channels + width + 1, 64), nn.SiLU(), Linear(64, channels))

    @property
    def device(self):
        return self.head.weight.device

    def start(self, batch):
        return State(torch.zeros(batch, self.head.in_features, device=self.device))

    def extend_text(self, context, tokens, mask, *, logits=True):
        h, found = context.h, []
        for token, said in zip(self.embed(tokens).unbind(1), mask.unbind(1), strict=True):
            h = self.reader(token, h).where(said[:, None], h)
            found.append(h)
        return self.head(torch.stack(found, 1)[:, : None if logits else 0]), State(h)

    def extend_image(self, context, latents, alive):
        return State(self.looker(latents.mean((2, 3)), context.h).where(alive[:, None], context.h))

    def velocity(self, context, x, t):
        pixels = x.flatten(2).transpose(1, 2)
        known = torch.cat((context.h, t.to(x).expand(len(x))[:, None]), 1)[:, None].expand(-1, pixels.shape[1], -1)
        return self.painter(torch.cat((pixels, known), -1)).transpose(1, 2).reshape(x.shape)

    def parameters_of(self, modality):
        modules = {"text": (self.embed, self.reader, self.head), "image": (self.looker, self.painter)}[modality]
        return (p for module in modules for p in module.parameters() if p.requires_grad)


@register("model", "my_model", source="a page of this project")
@dataclass(frozen=True)
class MyModel(Model):
    """A recurrent policy."""

    seed: int = 0
    weights: str = ""
    """Folder ``model/`` of a run, to go on from; random weights if empty."""

    @property
    def files(self):
        return [Path(self.weights, "model.safetensors")] if self.weights else []

    def digest(self):
        return digest_of_files(self.files)

    def conflicts(self, config):
        for file in self.files:
            if not file.is_file():
                yield f"model.weights={self.weights}: expected the folder model/ of a run, but there is no {file}"

    def load(self, device, dtype=None):
        torch.manual_seed(self.seed)
        tokenizer = Tokenizer.of_words(["a", "red", "blue", "kite", "circle", "square", "over", *"ABCDEFGHIJKL"])
        policy = MyPolicy(len(tokenizer))
        autoencoder = TinyAutoencoder(channels=3, width=8).eval().requires_grad_(False)
        for file in self.files:
            policy.load_state_dict(read(file))
        processor = StandardProcessor(tokenizer, autoencoder, LatentGrid(channels=3, height=4, width=4))
        return LoadedModel(policy.to(device, dtype).eval(), processor.to(device))
