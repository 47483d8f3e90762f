"""Floats -> standard scores or quantiles, and the statistics for it."""

import numpy as np
import torch

from util.errors import fail
from util.files import CHUNK


def fit_norm(dataset, rows, kind):
    """
    'standard': mean and standard deviation of each input. 'quantile': ranks mapped to a Gaussian, as
    Gorishniy et al. 2021 (github.com/yandex-research/rtdl) do with scikit-learn's QuantileTransformer: up to
    1,000 quantiles of the values plus a little noise, which spreads the ties of discrete features. 'none': as
    they are.
    """
    if kind not in ('standard', 'quantile', 'none'):
        fail(f'norm={kind!r}: standard, quantile or none')
    if kind == 'none' and dataset.meta['kind'] == 'floats' and np.isnan(dataset.x).any():
        fail('norm=none knows no mean to put in for what is missing: standard or quantile')
    if dataset.is_bytes or kind == 'none':
        return {'kind': 'none'}
    if dataset.is_images:  # of each channel, over the pixels of 1,000 images
        if kind != 'standard':
            fail(f'norm={kind!r}: images take standard or none')
        some = (dataset.x[row] / 255 for row in np.random.default_rng(0).permutation(rows)[:1000])
        mean, square = torch.tensor(np.mean([(x.mean((0, 1)), (x ** 2).mean((0, 1))) for x in some], 0))
        std = (square - mean ** 2).clamp(min=0).sqrt()
        return {'kind': kind, 'mean': mean.float(), 'std': torch.where(std > 1e-6, std, 1.0).float()}
    if kind == 'standard':
        n, total, square = 0, 0.0, 0.0
        shift = dataset.x[rows[:CHUNK]].astype(np.float64)  # about the mean: squares do not cancel
        shift = np.nansum(shift, 0) / np.maximum((~np.isnan(shift)).sum(0), 1)
        for at in range(0, len(rows), CHUNK):
            x = dataset.x[rows[at:at + CHUNK]].astype(np.float64) - shift  # NaN: missing
            n, total = n + (~np.isnan(x)).sum(0), total + np.nansum(x, 0)
            square = square + np.nansum(x ** 2, 0)
        n = np.maximum(n, 1)
        std = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
        std[std == 0] = 1  # a constant input stays constant
        return {'kind': kind, 'mean': torch.from_numpy((shift + total / n).astype(np.float32)),
                'std': torch.from_numpy(std.astype(np.float32))}
    rng = np.random.default_rng(0)
    x = dataset.x[np.sort(rng.permutation(rows)[:200_000])].astype(np.float64)  # (k, n, d_raw)
    x += rng.normal(size=x.shape) * 1e-3 / np.maximum(np.nanstd(x, 0), 1e-3)
    n_quantiles = max(min(len(rows) // 30, 1000), 10)
    quantile = np.nanquantile if np.isnan(x).any() else np.quantile  # the first is slow
    quantiles = quantile(x, np.linspace(0, 1, n_quantiles), axis=0)  # (n_quantiles, n, d_raw)
    return {'kind': kind, 'quantiles': torch.from_numpy(quantiles)}


def normalise(x, norm):
    """x (B, n, d_raw) float32 -> the same, scaled by fit_norm's statistics."""
    if norm['kind'] == 'none':
        return x
    if norm['kind'] == 'standard':
        return np.nan_to_num((x - norm['mean'].numpy()) / norm['std'].numpy(), copy=False)  # missing: the mean
    q = norm['quantiles'].numpy()  # (n_quantiles, n, d_raw) float64
    levels, rank = np.linspace(0, 1, len(q)), np.empty(x.shape, np.float64)
    for i, j in np.ndindex(x.shape[1:]):
        # from below and from above, so that a value repeated in many quantiles gets the middle of its ranks
        v, q_ij = x[:, i, j].astype(np.float64), q[:, i, j]
        rank[:, i, j] = (np.interp(v, q_ij, levels) - np.interp(-v, -q_ij[::-1], -levels[::-1])) / 2
        rank[v - 1e-7 < q_ij[0], i, j], rank[v + 1e-7 > q_ij[-1], i, j] = 0, 1
    gauss = torch.special.ndtri(torch.from_numpy(rank))
    gauss = gauss.clamp(-5.199337582605575, 5.19933758270342).float()  # scikit-learn's ends
    return gauss.nan_to_num(0.0).numpy()  # missing: the median
