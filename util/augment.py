"""Augmentation of images, batched on the device: x (B, 3, H, W) in [0, 1]."""

import math

import torch
import torch.nn.functional as F


def random_boxes(n, side, scale, device):
    """
    RandomResizedCrop's rule (Szegedy et al. 2015, as torchvision has it): a share of the area drawn from
    `scale`, a ratio of width to height of 3/4 to 4/3, uniform in its logarithm, whole pixels; the first of
    ten tries that fits the square, else all of it. -> top, left, height, width, each (n,) float
    """
    area = side ** 2 * torch.empty(10, n, device=device).uniform_(*scale)
    ratio = torch.empty(10, n, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    whole = torch.full((1, n), float(side), device=device)
    width, height = (torch.cat([v.sqrt().round().clamp(min=1), whole]) for v in (area * ratio, area / ratio))
    first = ((width <= side) & (height <= side)).int().argmax(0, keepdim=True)  # argmax: the first of equals
    width, height = width.gather(0, first)[0], height.gather(0, first)[0]
    top, left = (torch.floor(torch.rand(n, device=device) * (side - v + 1)) for v in (height, width))
    return top, left, height, width


def resize_weights(start, length, n_in, n_out):
    """
    The matrix that resizes a line of n_in pixels, from `start` on over `length`, to n_out: (B,), (B,) -> (B,
    n_out, n_in). Bicubic (a = -0.5) and, where it shrinks, wider by as much (antialiased), as Pillow does.
    """
    scale = (length / n_out)[:, None]
    centre = start[:, None] + (torch.arange(n_out, device=start.device) + 0.5) * scale  # (B, n_out)
    pixel = torch.arange(n_in, device=start.device) + 0.5
    t = (pixel - centre[..., None]).abs() / scale.clamp(min=1)[..., None]  # (B, n_out, n_in)
    w = torch.where(t < 1, (1.5 * t - 2.5) * t ** 2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2) * (t < 2)
    start, end = start[:, None, None], (start + length)[:, None, None]
    w = w * ((pixel > start) & (pixel < end))  # what lies outside the box is not seen
    return w / w.sum(-1, keepdim=True)


def crop(x, top, left, height, width, mirror, size):
    """Boxes (B,) each, resized to size x size; those with mirror (B,) bool up are flipped left to right."""
    rows = resize_weights(top, height, x.shape[2], size)
    columns = resize_weights(left, width, x.shape[3], size)
    columns = torch.where(mirror[:, None, None], columns.flip(1), columns)
    return (rows[:, None] @ x @ columns[:, None].transpose(2, 3)).clamp(0, 1)  # bicubic overshoots at edges


def grey(x):
    """Luma (ITU-R 601), in one channel: (B, 1, H, W)."""
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]  # no tensor of them: it would be copied


def solarise(x):
    """The bright half inverted: values from 128 of 255 on."""
    return torch.where(x < 127.5 / 255, x, 1 - x)


def blur(x, sigma):
    """Gaussian blur, sigma (B,) in pixels; weights beyond the border are left out."""
    def weights(n):
        at = torch.arange(n, device=x.device)
        w = torch.exp(-(at - at[:, None]) ** 2 / (2 * sigma[:, None, None] ** 2))  # (B, n, n)
        return (w / w.sum(-1, keepdim=True))[:, None]
    return weights(x.shape[2]) @ x @ weights(x.shape[3]).transpose(2, 3)


def jitter(x, kind, factor):
    """Brightness (kind 0), contrast (1) or saturation (2) times factor (B,), as Pillow's ImageEnhance does."""
    base = (torch.zeros_like(x), grey(x).mean((2, 3), keepdim=True), grey(x))[kind]
    return (base + factor[:, None, None, None] * (x - base)).clamp(0, 1)


def three_augment(x):
    """
    3-Augment (Touvron, Cord, Jegou 2022, arXiv:2204.07118): each image is made grey, solarised or blurred,
    then its brightness, contrast and saturation are changed by up to 0.3, in an order drawn once for the
    batch.
    """
    def uniform(low, high):
        return torch.empty(len(x), device=x.device).uniform_(low, high)
    which = torch.randint(3, (len(x), 1, 1, 1), device=x.device)
    x = torch.where(which == 0, grey(x), torch.where(which == 1, solarise(x), blur(x, uniform(0.1, 2.0))))
    for kind in torch.randperm(3).tolist():
        x = jitter(x, kind, uniform(0.7, 1.3))
    return x


def mix(x, y, n_classes):
    """
    Each image with its partner, that of the reversed batch: mixup (arXiv:1710.09412, Beta(0.8, 0.8)) or, with
    chance 1/2, CutMix (arXiv:1905.04899, Beta(1, 1)), one share and one box for the batch, as timm does by
    default. x (B, n, 3), y (B,) classes -> x, targets (B, n_classes), smoothed by 0.1 and mixed by the share
    of pixels.
    """
    targets = F.one_hot(y, n_classes) * 0.9 + 0.1 / n_classes
    if torch.rand(()) < 0.5:
        share = torch.distributions.Beta(0.8, 0.8).sample().item()
        x = share * x + (1 - share) * x.flip(0)
    else:
        side = math.isqrt(x.shape[1])
        half = int(side * math.sqrt(torch.rand(()).item())) // 2  # 1 - share is uniform too
        centre = torch.randint(side, (2,)).tolist()
        (top, bottom), (left, right) = ((max(c - half, 0), min(c + half, side)) for c in centre)
        swap = torch.zeros(side, side, 1, dtype=torch.bool, device=x.device)
        swap[top:bottom, left:right] = True
        x = torch.where(swap.flatten(0, 1), x.flip(0), x)
        share = 1 - (bottom - top) * (right - left) / side ** 2  # the border may have cut the box
    return x, share * targets + (1 - share) * targets.flip(0)
