"""
Augmentation of images, batched, on the device of the images: x (B, 3, H, W) float in [0, 1].

All randomness comes from torch's global generators.
"""

import math

import torch
import torch.nn.functional as F

# -----------------------------------------------------------------------------
# crops

def random_boxes(n, side, scale, device):
    """
    n random boxes in a square image, as torchvision's RandomResizedCrop draws them (Szegedy et al. 2015).

    A share of the area is drawn from `scale`, and a ratio of width to height from 3/4 to 4/3, uniform in its
    logarithm; both sides are rounded to whole pixels. The first of ten tries that fits the image is taken, else
    the whole image. -> top, left, height, width, each (n,) float
    """
    area = side ** 2 * torch.empty(10, n, device=device).uniform_(*scale)
    ratio = torch.empty(10, n, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    width = (area * ratio).sqrt().round().clamp(min=1)  # (10, n)
    height = (area / ratio).sqrt().round().clamp(min=1)

    whole = torch.full((1, n), float(side), device=device)  # the eleventh try, which always fits
    width = torch.cat([width, whole])
    height = torch.cat([height, whole])
    fits = (width <= side) & (height <= side)
    first = fits.int().argmax(0, keepdim=True)  # (1, n); of equal entries argmax takes the first
    width = width.gather(0, first)[0]
    height = height.gather(0, first)[0]

    top = torch.floor(torch.rand(n, device=device) * (side - height + 1))
    left = torch.floor(torch.rand(n, device=device) * (side - width + 1))
    return top, left, height, width


def crop(x, top, left, height, width, mirror, size):
    """
    Cut a box out of each image and resize it to size x size pixels. -> (B, 3, size, size)
    top, left, height, width (B,) float; mirror (B,) bool, True = flipped left to right.
    """
    rows = resize_weights(top, height, x.shape[2], size)  # (B, size, H)
    columns = resize_weights(left, width, x.shape[3], size)  # (B, size, W)
    columns = torch.where(mirror[:, None, None], columns.flip(1), columns)
    resized = rows[:, None] @ x @ columns[:, None].transpose(2, 3)
    return resized.clamp(0, 1)  # bicubic interpolation overshoots at edges


def resize_weights(start, length, n_in, n_out):
    """
    The matrix that resizes a part of a line of n_in pixels to n_out pixels. The part begins at start (B,) and
    is length (B,) long, both in pixels. -> (B, n_out, n_in)

    Bicubic interpolation (a = -0.5). Where the part shrinks the kernel is wider by as much (antialiasing), as
    in Pillow.
    """
    scale = (length / n_out)[:, None]
    centre = start[:, None] + (torch.arange(n_out, device=start.device) + 0.5) * scale  # (B, n_out)
    pixel = torch.arange(n_in, device=start.device) + 0.5  # (n_in,)
    t = (pixel - centre[..., None]).abs() / scale.clamp(min=1)[..., None]  # (B, n_out, n_in)
    near = (1.5 * t - 2.5) * t ** 2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weight = torch.where(t < 1, near, far) * (t < 2)

    start = start[:, None, None]
    end = start + length[:, None, None]
    weight = weight * ((pixel > start) & (pixel < end))  # pixels outside the box are not seen
    return weight / weight.sum(-1, keepdim=True)


# -----------------------------------------------------------------------------
# colours

def three_augment(x):
    """
    3-Augment (Touvron, Cord, Jegou 2022, arXiv:2204.07118): each image is made grey, solarised or blurred. Then
    its brightness, contrast and saturation are changed by up to 0.3, in an order that is drawn once for the
    batch.
    """
    which = torch.randint(3, (len(x), 1, 1, 1), device=x.device)
    sigma = uniform(x, 0.1, 2.0)
    x = torch.where(which == 0, grey(x), torch.where(which == 1, solarise(x), blur(x, sigma)))
    changes = brightness, contrast, saturation
    for i in torch.randperm(3).tolist():
        x = changes[i](x, uniform(x, 0.7, 1.3))
    return x


def uniform(x, low, high):
    """A random number for each image: (B,)"""
    return torch.empty(len(x), device=x.device).uniform_(low, high)


def grey(x):
    """Luma (ITU-R 601), in one channel: (B, 1, H, W)."""
    # The weights are no tensor, which would have to be copied to the device.
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def solarise(x):
    """The bright half inverted: values from 128 of 255 on."""
    return torch.where(x < 127.5 / 255, x, 1 - x)


def blur(x, sigma):
    """Gaussian blur; sigma (B,) in pixels. At the border the weights of the pixels that are there sum to 1."""
    return blur_weights(x.shape[2], sigma) @ x @ blur_weights(x.shape[3], sigma).transpose(2, 3)


def blur_weights(n, sigma):
    """The matrix that blurs n pixels in a line: sigma (B,) -> (B, 1, n, n)"""
    at = torch.arange(n, device=sigma.device)
    weight = torch.exp(-(at - at[:, None]) ** 2 / (2 * sigma[:, None, None] ** 2))  # (B, n, n)
    return (weight / weight.sum(-1, keepdim=True))[:, None]


# Pillow's ImageEnhance: away from, or towards, an image without any of the property; factor (B,), 1 = no change

def brightness(x, factor):
    return blend(torch.zeros_like(x), x, factor)


def contrast(x, factor):
    return blend(grey(x).mean((2, 3), keepdim=True), x, factor)


def saturation(x, factor):
    return blend(grey(x), x, factor)


def blend(base, x, factor):
    return (base + factor[:, None, None, None] * (x - base)).clamp(0, 1)


# -----------------------------------------------------------------------------
# mixing

def mix(x, y, n_classes):
    """
    Mix each image, and its label, with its partner: the image at its place in the reversed batch.

    With chance 1/2 mixup (arXiv:1710.09412, share from Beta(0.8, 0.8)), else CutMix (arXiv:1905.04899, share
    from Beta(1, 1)); one share and one box for the batch, as in timm by default.

    x (B, n, 3) pixels of square images, row by row; y (B,) int64 classes -> x, targets (B, n_classes): labels
    smoothed by 0.1, then mixed by the share of the pixels that are the image's own.
    """
    targets = F.one_hot(y, n_classes) * 0.9 + 0.1 / n_classes
    if torch.rand(()) < 0.5:
        share = torch.distributions.Beta(0.8, 0.8).sample().item()
        x = share * x + (1 - share) * x.flip(0)
    else:
        x, share = cut_mix(x)
    return x, share * targets + (1 - share) * targets.flip(0)


def cut_mix(x):
    """Fill one random square with the partner's pixels: x (B, n, 3) -> x, the share of pixels that stay."""
    side = math.isqrt(x.shape[1])
    half = int(side * math.sqrt(torch.rand(()).item())) // 2  # the square's share is uniform: Beta(1, 1)
    row, column = torch.randint(side, (2,)).tolist()  # its centre
    top, bottom = max(row - half, 0), min(row + half, side)
    left, right = max(column - half, 0), min(column + half, side)

    swap = torch.zeros(side, side, 1, dtype=torch.bool, device=x.device)
    swap[top:bottom, left:right] = True
    x = torch.where(swap.flatten(0, 1), x.flip(0), x)
    return x, 1 - (bottom - top) * (right - left) / side ** 2  # counted, as the border may cut the square
