"""A reward of one's own: how red an image is, and less for long thoughts."""


def redness(images, prompts, texts, **meta):
    """A number for each of B images [B, 3, H, W] in [0, 1]; ``texts`` are what the policy wrote before them."""
    red = images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))
    return [float(share) - 0.001 * len(text.split()) for share, text in zip(red, texts, strict=True)]
