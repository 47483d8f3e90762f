"""Floats -> standard scores or quantiles, and the statistics for it."""

import numpy as np
import torch

from util.errors import fail
from util.files import CHUNK

NO_SCALE = {'kind': 'none'}
N_IMAGES = 1000  # images that the scale of the channels is taken from
N_ROWS = 200_000  # rows that quantiles are taken from
ENDS = (-5.199337582605575, 5.19933758270342)  # where scikit-learn's QuantileTransformer cuts its Gaussian off


def fit_norm(dataset, rows, kind):
    """
    The statistics that scale a data set, of these rows: a dict of 'kind' and tensors, which normalise() takes.

    'standard': mean and std, (n, d_raw) float32. Where a data set is kept in float64, so are they, because an
    offset that dwarfs the spread must be taken off before digits are dropped. 'quantile': quantiles
    (n_quantiles, n, d_raw) float64. Images: mean and std of each channel, (3,) float32. 'none': values as they
    are.
    """
    if kind not in ('standard', 'quantile', 'none'):
        fail(f'norm={kind!r}: standard, quantile or none')
    if kind == 'none' and dataset.meta['kind'] == 'floats' and np.isnan(dataset.x).any():
        fail('norm=none has no mean to put in for a missing value: standard or quantile')
    if dataset.is_bytes or kind == 'none':
        return dict(NO_SCALE)
    if dataset.is_images:
        if kind != 'standard':
            fail(f'norm={kind!r}: images take standard or none')
        return fit_images(dataset.x, rows)
    if kind == 'standard':
        norm = fit_standard(dataset.x, rows)
    else:
        norm = fit_quantiles(dataset.x, rows)
    if dataset.x.dtype == np.float64:
        norm['x_type'] = 'float64'  # other data that are scaled by it must not lose their digits either
    return norm


def fit_images(x, rows):
    """Mean and standard deviation of each channel, over the pixels of some images x (N, S, S, 3) uint8."""
    moments = []
    for row in np.random.default_rng(0).permutation(rows)[:N_IMAGES]:
        pixels = x[row] / 255
        moments.append((pixels.mean((0, 1)), (pixels ** 2).mean((0, 1))))
    mean, square = torch.tensor(np.mean(moments, 0))  # (3,) each
    std = (square - mean ** 2).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6, std, 1.0)
    return {'kind': 'standard', 'mean': mean.float(), 'std': std.float()}


def fit_standard(x, rows):
    """Mean and standard deviation of each input of x (N, n, d_raw), computed in float64. NaN is left out."""
    first = x[rows[:CHUNK]].astype(np.float64)
    # about the mean, so that the squares do not cancel
    shift = np.nansum(first, 0) / np.maximum((~np.isnan(first)).sum(0), 1)
    count, total, square = 0, 0.0, 0.0
    for at in range(0, len(rows), CHUNK):
        part = x[rows[at:at + CHUNK]].astype(np.float64) - shift
        count = count + (~np.isnan(part)).sum(0)
        total = total + np.nansum(part, 0)
        square = square + np.nansum(part ** 2, 0)
    count = np.maximum(count, 1)
    std = np.sqrt(np.maximum(square / count - (total / count) ** 2, 0))
    std[std == 0] = 1  # a constant input stays constant
    mean = shift + total / count
    return {'kind': 'standard', 'mean': torch.from_numpy(mean.astype(x.dtype)),
            'std': torch.from_numpy(std.astype(x.dtype))}


def fit_quantiles(x, rows):
    """
    Up to 1,000 quantiles of each input, for ranks that are mapped to a Gaussian, as Gorishniy et al. 2021
    (github.com/yandex-research/rtdl) do it with scikit-learn's QuantileTransformer. They add noise to spread
    the ties of discrete features; here a repeated value gets the middle of its ranks, which needs no noise.
    """
    rng = np.random.default_rng(0)
    part = x[np.sort(rng.permutation(rows)[:N_ROWS])].astype(np.float64)  # (k, n, d_raw)
    part[:, np.isnan(part).all(0)] = 0  # an input that is always missing
    n_quantiles = max(min(len(rows) // 30, 1000), 10)
    quantile = np.nanquantile if np.isnan(part).any() else np.quantile  # the first is slow
    levels = np.linspace(0, 1, n_quantiles)
    return {'kind': 'quantile', 'quantiles': torch.from_numpy(quantile(part, levels, axis=0))}


def normalise(x, norm):
    """x (B, n, d_raw) float32 or float64 -> float32 of the same shape, scaled by fit_norm's statistics."""
    if norm['kind'] == 'none':
        return np.asarray(x, np.float32)
    if norm['kind'] == 'standard':
        with np.errstate(over='ignore'):  # a huge value: the stages name its row
            scaled = (x - norm['mean'].numpy()) / norm['std'].numpy()
        return np.nan_to_num(scaled.astype(np.float32, copy=False), copy=False)  # missing: the mean
    rank = ranks(x, norm['quantiles'].numpy())
    gauss = torch.special.ndtri(torch.from_numpy(rank)).clamp(*ENDS).float()
    return gauss.nan_to_num(0.0).numpy()  # missing: the median


def ranks(x, quantiles):
    """Where values lie among the quantiles (n_quantiles, n, d_raw) of their own input: x's shape, in [0, 1]."""
    levels = np.linspace(0, 1, len(quantiles))
    rank = np.empty(x.shape, np.float64)
    for i, j in np.ndindex(x.shape[1:]):
        value = x[:, i, j].astype(np.float64)  # (B,)
        q = quantiles[:, i, j]
        # from below and from above, so that a value repeated in many quantiles gets the middle of its ranks;
        # what lies outside the quantiles gets 0 or 1
        below = np.interp(value, q, levels)
        above = np.interp(-value, -q[::-1], -levels[::-1])
        rank[:, i, j] = (below - above) / 2
    return rank
