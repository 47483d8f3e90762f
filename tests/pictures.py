"""Pictures for tests, and ways to and from Pillow's."""

import numpy as np
import pytest
import torch

Image = pytest.importorskip('PIL.Image', reason='Pillow reads images')


def photo(seed, width=40, height=30):
    """A smooth picture with sharp edges and noise: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 10
    channels = []
    for a, b, c in rng.normal(size=(3, 3)):
        channels.append(128 + 90 * np.sin(a * x + b * y + c))
    picture = np.stack(channels, -1)
    picture = picture + rng.normal(0, 8, (height, width, 3))
    picture[height // 3:height // 2, width // 4:width // 2] = rng.integers(0, 256, 3)
    return picture.clip(0, 255).astype(np.uint8)


def put(path, seed=0, **size):
    """Save a photo(seed) in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(seed, **size)).save(path)
    return path


def as_batch(*pictures):
    """(H, W, 3) uint8 each -> (B, 3, H, W) float32 in [0, 1]"""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def levels(x):
    """The 0..255 of (3, H, W) in [0, 1], or of a PIL image: (H, W, 3) float"""
    if torch.is_tensor(x):
        return (x * 255).permute(1, 2, 0).numpy()
    return np.asarray(x, np.float32)
