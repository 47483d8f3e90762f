"""util/baseline.py against brute force."""

import numpy as np
import pytest
import torch

from data import open_dataset
from model import SMA, SMAConfig
from util import baseline
from util.baseline import constant_loss
from util.scaling import fit_norm


def opened(tmp_path, name, **knobs):
    usual = dict(val_share=0.3, test_share=0.1, data_dir=str(tmp_path / 'datasets'))
    return open_dataset(str(tmp_path / name), **{**usual, **knobs})


def loss_of(d):
    return SMA(SMAConfig(d_raw=d.d_raw)).loss


@pytest.mark.parametrize('kind', ['standard', 'quantile', 'none'])
@pytest.mark.parametrize('at_once', [baseline.NUMBERS_AT_ONCE, 40])
def test_floats_mean_squared_error_about_the_training_mean(tmp_path, monkeypatch, kind, at_once):
    monkeypatch.setattr(baseline, 'NUMBERS_AT_ONCE', at_once)  # in one part, and in many
    rng = np.random.default_rng(0)
    np.save(tmp_path / 'x.npy', rng.exponential(size=(400, 5)) * [1, 10, 100, 1, 0])
    d = opened(tmp_path, 'x.npy')
    train, val = d.rows('train'), d.rows('val')
    d.norm = fit_norm(d, train, kind)
    mean = d.batch(train)[0].double().mean(0)
    errors = [(d.batch(np.array([row]))[0].double() - mean).square().mean().item() for row in val]
    assert constant_loss(loss_of(d), d, train, val) == pytest.approx(np.mean(errors), rel=1e-9)
    if kind == 'standard':
        # 4 of 5 columns vary, with variance 1
        assert 0.3 < constant_loss(loss_of(d), d, train, train) <= 0.8001


def test_bytes_cross_entropy_of_the_training_frequencies(tmp_path):
    rng = np.random.default_rng(0)
    lines = [bytes(rng.integers(65, 70, length).tolist()) for length in rng.integers(1, 30, 300)]
    (tmp_path / 'a.txt').write_bytes(b'\n'.join(lines))
    d = opened(tmp_path, 'a.txt')
    d.set_lengths(None, 20)  # long ones are cut
    train, val = d.rows('train'), d.rows('val')

    def ids(rows):
        every = []
        for row in rows:
            x, _ = d.batch(np.array([row]))
            every += x[0].tolist()
        return every
    count = {i: 1 for i in range(262)}
    for i in ids(train):
        count[i] += 1
    total = sum(count.values())
    losses = [-np.log(count[i] / total) for i in ids(val)]
    assert constant_loss(loss_of(d), d, train, val) == pytest.approx(np.mean(losses), rel=1e-12)
    assert len(ids(val)) == d.lengths(val).sum()  # with CLS and SEP, without padding


def test_a_byte_that_training_lacks_has_a_finite_loss(tmp_path):
    (tmp_path / 'a.txt').write_text('aaaa\n' * 50)
    (tmp_path / 'v.txt').write_text('zzzz\n' * 5)
    d = opened(tmp_path, 'a.txt', val_file=str(tmp_path / 'v.txt'))
    d.set_lengths(None)
    assert 1 < constant_loss(loss_of(d), d, d.rows('train'), d.rows('val')) < 10


def test_it_is_what_an_average_of_random_masks_gives(tmp_path):
    """The masked loss of a model that predicts the mean, over many random masks."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / 'x.npy', rng.normal(size=(500, 6)))
    d = opened(tmp_path, 'x.npy')
    train, val = d.rows('train'), d.rows('val')
    d.norm = fit_norm(d, train, 'standard')
    x = d.batch(val)[0].double()
    error = (x - d.batch(train)[0].double().mean(0)).square().mean(2)  # (rows, 6)
    torch.manual_seed(0)
    masked = []
    for _ in range(300):
        hidden = torch.rand(error.shape).argsort(1) < 3
        masked.append(error[hidden].mean().item())
    assert constant_loss(loss_of(d), d, train, val) == pytest.approx(np.mean(masked), rel=0.01)


def test_its_cost_is_bounded(tmp_path, monkeypatch):
    np.save(tmp_path / 'x.npy', np.random.default_rng(0).normal(size=(2000, 4)))
    d = opened(tmp_path, 'x.npy')
    monkeypatch.setattr(baseline, 'MOST_ROWS', 200)
    seen = []
    batch = d.batch
    monkeypatch.setattr(d, 'batch', lambda rows: seen.extend(rows.tolist()) or batch(rows))
    first = constant_loss(loss_of(d), d, d.rows('train'), d.rows('val'))
    assert len(seen) == 400
    assert set(seen[:200]) <= set(d.rows('train')) and set(seen[200:]) <= set(d.rows('val'))
    assert constant_loss(loss_of(d), d, d.rows('train'), d.rows('val')) == first  # always the same rows
    monkeypatch.setattr(baseline, 'MOST_NUMBERS', 4)
    assert len(baseline.sample(d, d.rows('train'))) == 100


def test_images_mean_squared_error_about_the_mean_image(tmp_path):
    pictures = pytest.importorskip('pictures', reason='Pillow writes pictures')
    for i in range(30):
        pictures.put(tmp_path / f'p/{i}.png', i)
    d = opened(tmp_path, 'p', image_size=8)
    train, val = d.rows('train'), d.rows('val')
    d.norm = fit_norm(d, train, 'standard')
    mean = d.inputs(d.batch(train)[0]).double().mean(0)
    error = (d.inputs(d.batch(val)[0]).double() - mean).square().mean().item()
    assert constant_loss(loss_of(d), d, train, val) == pytest.approx(error, rel=1e-6)
