"""
util/scaling.py: standard scores and quantiles against trusted libraries,
holes, and offsets that dwarf the spread.
"""

import json

import numpy as np
import pytest
import torch
from test_data import opened, table

import data
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
    x = np.random.default_rng(0).normal(size=(3000, 3)) ** 3
    np.save(tmp_path / 'x.npy', x)
    d = opened(tmp_path, tmp_path / 'x.npy')
    rows = d.rows('train')
    norm = fit_norm(d, rows, 'quantile')
    oracle = sklearn.QuantileTransformer(n_quantiles=len(norm['quantiles']), output_distribution='normal',
                                         subsample=None).fit(np.asarray(d.x[rows, :, 0], np.float64))
    x = np.concatenate([d.x[:500], d.x[:1] + 1000, d.x[:1] - 1000])
    want = oracle.transform(x[:, :, 0].astype(np.float64))
    np.testing.assert_allclose(normalise(x, norm)[:, :, 0], want, atol=1e-5)


def columns_of_many_kinds(n=2000):
    rng = np.random.default_rng(0)
    ordinary = rng.random(n)
    sentinel = ordinary.copy()
    sentinel[7] = 999_999
    outlier = rng.normal(size=n)
    outlier[7] = 1e6
    return {'ordinary': ordinary, 'a sentinel': sentinel, 'an outlier': outlier,
            'a long tail': rng.lognormal(sigma=3, size=n),
            'mostly zeros': np.where(rng.random(n) < 0.8, 0, rng.lognormal(size=n)),
            'tiny whole numbers': rng.integers(0, 6, n) * 1e-12,
            'huge whole numbers': rng.integers(0, 6, n) * 1e12,
            'two values': rng.integers(0, 2, n), 'constant': np.full(n, 3.0)}


@pytest.mark.parametrize('kind', columns_of_many_kinds())
def test_a_rank_is_the_middle_of_the_share_below_and_the_share_up_to_a_value(tmp_path, kind):
    """Whatever the unit, the ties and the tail of a column."""
    column = columns_of_many_kinds()[kind].astype(np.float32)
    np.save(tmp_path / 'x.npy', column[:, None])
    d = opened(tmp_path, tmp_path / 'x.npy')
    got = normalise(column[:, None, None], fit_norm(d, np.arange(len(column)), 'quantile'))[:, 0, 0]
    below = (column < column[:, None]).mean(1)
    up_to = (column <= column[:, None]).mean(1)
    np.testing.assert_allclose(torch.special.ndtr(torch.from_numpy(got)), (below + up_to) / 2, atol=0.03)


def test_an_input_that_is_always_missing_has_quantiles(tmp_path, recwarn):
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    x[:, 1] = np.nan
    np.save(tmp_path / 'x.npy', x)
    d = opened(tmp_path, tmp_path / 'x.npy', missing='mean')
    got = normalise(x[:, :, None], fit_norm(d, d.rows('train'), 'quantile'))
    assert (got[:, 1] == 0).all() and not recwarn.list


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


# ---- offsets that dwarf the spread

def seconds(tmp_path, name='a', begin=1_700_000_000, n=600):
    """A table of Unix seconds and a second column; the label follows the seconds."""
    rng = np.random.default_rng(0)
    t = begin + rng.permutation(n)
    a = rng.normal(size=n).round(3)
    rows = ''.join(f'{t[i]},{a[i]},{(t[i] - begin) / 5}\n' for i in range(n))
    (tmp_path / f'{name}.csv').write_text('t,a,y\n' + rows)
    return np.stack([t, a], 1)


def scaled(x, like):
    return (x - like.mean(0)) / like.std(0)


def test_seconds_keep_their_digits(tmp_path):
    """In float32 they would be two values."""
    x = seconds(tmp_path)
    d = opened(tmp_path, tmp_path / 'a.csv', label_column='y')
    assert d.x.dtype == np.float64 and np.array_equal(d.x[:, :, 0], x) and d.meta['distinct'] == 600
    rows = d.rows('train')
    d.norm = fit_norm(d, rows, 'standard')
    got, _ = d.batch(np.arange(600))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got[:, :, 0], scaled(x, x[rows]), atol=1e-6)
    d.norm = fit_norm(d, rows, 'quantile')
    rank = np.argsort(np.argsort(x[:, 0]))
    got = d.batch(np.arange(600))[0][:, 0, 0]
    assert np.corrcoef(rank, torch.special.ndtr(got))[0, 1] > 0.999


def test_ordinary_columns_are_float32_as_ever(tmp_path):
    x = np.random.default_rng(0).normal(2000, 10, size=(300, 4))
    np.save(tmp_path / 'x.npy', x)
    d = opened(tmp_path, tmp_path / 'x.npy')
    assert (d.folder / 'x.bin').read_bytes() == x.astype(np.float32).tobytes()
    assert fit_norm(d, d.rows('train'), 'standard')['mean'].dtype == torch.float32


@pytest.mark.parametrize('kind', ['standard', 'quantile'])
def test_a_table_of_seconds_on_the_device(tmp_path, monkeypatch, kind):
    seconds(tmp_path)
    d = opened(tmp_path, tmp_path / 'a.csv', label_column='y')
    d.norm = fit_norm(d, d.rows('train'), kind)
    want, _ = d.batch(np.arange(600))
    monkeypatch.setattr(data, 'fits', lambda n_bytes, device: n_bytes == 600 * 2 * 4)
    d.keep_on('cpu', np.arange(600))
    rows, _ = d.batch(np.arange(600))
    assert rows.ndim == 1 and d.table.dtype == torch.float32 and torch.equal(d.inputs(rows), want)


@pytest.mark.parametrize('kind', ['standard', 'quantile'])
def test_another_file_is_scaled_as_the_checkpoint_learned(tmp_path, kind):
    """Whatever that file's own offset and spread: two rows a year apart would lose their seconds."""
    x = seconds(tmp_path)
    d = opened(tmp_path, tmp_path / 'a.csv', label_column='y')
    norm = fit_norm(d, np.arange(600), kind)
    checkpoint = dict(config={'dataset': str(tmp_path / 'a.csv')}, columns=d.columns, norm=norm,
                      model_args={'d_raw': 1})
    new = np.array([[1_700_000_077, 0.5], [1_700_000_177, 0.5], [1_731_536_000, 0.5]])
    (tmp_path / 'new.csv').write_text('t,a\n' + ''.join(f'{t:.0f},{a}\n' for t, a in new))
    knobs = {**dict.fromkeys(data.PREPARE_KNOBS), 'dataset': str(tmp_path / 'new.csv'),
             'data_dir': str(tmp_path / 'd')}
    knobs = data.data_knobs(knobs, checkpoint)
    other = data.open_dataset(**knobs)
    other.norm = norm
    got = other.batch(np.arange(3))[0][:, :, 0].numpy()
    if kind == 'standard':
        np.testing.assert_allclose(got, scaled(new, x), rtol=1e-6, atol=1e-6)
    else:
        want = torch.special.ndtri(torch.tensor([77, 177]) / 600)
        np.testing.assert_allclose(got[:2, 0], want, atol=0.05)
    # splits do not depend on how the floats are kept
    alone = data.open_dataset(**{**knobs, 'x_type': None, 'val_share': 0.3, 'test_share': 0.3})
    both = data.open_dataset(**{**knobs, 'val_share': 0.3, 'test_share': 0.3})
    assert alone.x.dtype == np.float32 and both.x.dtype == np.float64
    assert np.array_equal(alone.split, both.split)


@pytest.mark.slow
def test_a_regression_on_seconds(tmp_path, run):
    """Predicting the mean scores about 34, and so did seconds in float32: 17."""
    seconds(tmp_path)
    options = ['--dataset=a.csv', '--label_column=y', '--batch_size=32', '--val_share=0.2', '--test_share=0.2',
               '--max_steps=120', '--eval_interval=30', '--seeds=0', '--device=cpu']
    run('finetune.py', *options, '--init_from=scratch', '--out_dir=ft')
    assert json.loads((tmp_path / 'ft/results.jsonl').read_text())['test'][0] < 3
    ckpt = next((tmp_path / 'ft').glob('*.pt'))
    run('eval.py', f'--ckpt={ckpt}', '--predict=a.csv', '--device=cpu')
    lines = (tmp_path / 'a.predictions.csv').read_text().splitlines()[1:]
    predicted = [float(line.split(',')[1]) for line in lines]
    labels = [float(line.split(',')[2]) for line in (tmp_path / 'a.csv').read_text().splitlines()[1:]]
    assert np.sqrt(np.mean(np.subtract(predicted, labels) ** 2)) < 3


@pytest.mark.parametrize('unit', [1e-12, 1e-3, 1e6])
def test_quantiles_do_not_depend_on_the_unit(tmp_path, unit):
    """Noise of a fixed size once drowned columns of small numbers."""
    x = np.random.default_rng(0).normal(size=(2000, 2))
    x[:, 1] = np.round(x[:, 1])  # ties
    scaled = []
    for name, values in (('a', x), ('b', x * unit)):
        np.save(tmp_path / f'{name}.npy', values)
        d = opened(tmp_path, tmp_path / f'{name}.npy')
        scaled.append(normalise(np.asarray(d.x), fit_norm(d, np.arange(2000), 'quantile')))
    np.testing.assert_allclose(scaled[1], scaled[0], atol=2e-3)
    assert 0.9 < scaled[1][:, 0].std() < 1.1


def test_a_constant_input_has_the_middle_of_the_ranks(tmp_path):
    x = np.random.default_rng(0).normal(size=(500, 2))
    x[:, 1] = 1e-5
    np.save(tmp_path / 'x.npy', x)
    d = opened(tmp_path, tmp_path / 'x.npy')
    scaled = normalise(np.asarray(d.x), fit_norm(d, d.rows('train'), 'quantile'))
    assert np.abs(scaled[:, 1]).max() < 0.5
