"""util/scaling.py: standard scores and quantiles against trusted libraries, holes, and offsets that dwarf the spread."""

import numpy as np
import pytest
import torch
from test_data import opened, table

from util.errors import UserError
from util.scaling import fit_norm, normalise


def test_standard_scores_are_those_of_the_training_rows(tmp_path):
    d = table(tmp_path)
    rows = d.rows('train')
    norm = fit_norm(d, rows, 'standard')
    x = np.asarray(d.x[rows], np.float64)
    np.testing.assert_allclose(norm['mean'].numpy(), x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm['std'].numpy(), np.where(x.std(0) > 0, x.std(0), 1), rtol=1e-5)
    d.norm = norm
    assert torch.isfinite(d.batch(d.rows('test'))[0]).all()


def test_quantiles_are_scikit_learns(tmp_path):
    sklearn = pytest.importorskip('sklearn.preprocessing',
                                  reason='scikit-learn is the oracle of quantile normalisation')
    d = table(tmp_path)
    rows = d.rows('train')
    norm = fit_norm(d, rows, 'quantile')
    q = norm['quantiles'].numpy()[:, :, 0]
    oracle = sklearn.QuantileTransformer(n_quantiles=len(q), output_distribution='normal').fit(q)
    oracle.quantiles_ = q
    x = np.concatenate([d.x[:500], d.x[:1] + 1000, d.x[:1] - 1000])
    np.testing.assert_allclose(normalise(x, norm)[:, :, 0], oracle.transform(x[:, :, 0].astype(np.float64)), atol=1e-5)
    # noise spreads ties: none lands at the +-5.2 ends
    assert np.abs(normalise(np.asarray(d.x[rows]), norm)[:, 2]).max() < 3
    train = np.asarray(d.x[rows, :, 0], np.float64)
    oracle = sklearn.QuantileTransformer(n_quantiles=len(q), output_distribution='normal', subsample=None).fit(train)
    off = np.abs(normalise(np.asarray(d.x[rows]), norm)[:, :2, 0] - oracle.transform(train)[:, :2])
    assert off.mean() < 0.005  # the noise moves little but the outermost values


@pytest.mark.parametrize('kind', ['standard', 'quantile'])
def test_what_is_missing_is_the_mean(tmp_path, kind):
    x = np.random.default_rng(0).normal(5, 2, size=(3000, 2)).astype(np.float32)
    holes = np.random.default_rng(1).random(x.shape) < 0.2
    np.save(tmp_path / 'x.npy', np.where(holes, np.nan, x))
    d = opened(tmp_path, tmp_path / 'x.npy', missing='mean')
    rows = d.rows('train')
    d.norm = fit_norm(d, rows, kind)
    if kind == 'standard':
        known = np.where(holes, np.nan, x.astype(np.float64))[rows]
        np.testing.assert_allclose(d.norm['mean'][:, 0], np.nanmean(known, 0), rtol=1e-6)
        np.testing.assert_allclose(d.norm['std'][:, 0], np.nanstd(known, 0), rtol=1e-5)
    got = d.batch(np.arange(3000))[0][:, :, 0].numpy()
    assert (got[holes] == 0).all() and abs(got[~holes].std() - 1) < 0.05
    with pytest.raises(UserError, match='norm=none has no mean'):
        fit_norm(d, rows, 'none')
    assert len(opened(tmp_path, tmp_path / 'x.npy', missing='drop').y) == (~holes).all(1).sum()
