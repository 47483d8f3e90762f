"""data.py: batches and normalisation against trusted libraries."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
from data import CLS, PAD, SEP, epoch_batches, open_dataset, prefetch
from util.errors import UserError
from util.scaling import fit_norm, normalise


def opened(tmp_path, dataset, **knobs):
    usual = dict(val_share=0.2, test_share=0.2, data_dir=str(tmp_path / 'datasets'))
    return open_dataset(str(dataset), **{**usual, **knobs})


# ---- batches

def text_data(tmp_path, n=400):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 90, n)
    (tmp_path / 'a.txt').write_bytes(b'\n'.join(bytes(rng.integers(65, 91, k).astype(np.uint8)) for k in lengths))
    return opened(tmp_path, tmp_path / 'a.txt')


def test_ids_are_cls_bytes_sep_pad(tmp_path):
    (tmp_path / 'a.txt').write_bytes('AB\né\nlonger than that'.encode())
    d = opened(tmp_path, tmp_path / 'a.txt', val_share=0, test_share=0)
    assert d.set_lengths(8) == 8 and d.n_cut == 1
    x, valid = d.batch(np.arange(3), 9)
    assert x[0].tolist() == [CLS, 65 + 6, 66 + 6, SEP] + [PAD] * 5 and valid[0].tolist() == [True] * 4 + [False] * 5
    assert bytes((x[1, 1:3] - 6).tolist()).decode() == 'é'
    assert bytes((x[2, 1:7] - 6).tolist()) == b'longer' and x[2, 7] == SEP and valid[2].sum() == 8


@pytest.mark.parametrize('a, b, max_len', [(5, 5, 20), (30, 5, 20), (5, 30, 20), (30, 31, 20), (9, 8, 20), (9, 9, 19)])
def test_a_pair_that_is_too_long_loses_the_end_of_the_longer(tmp_path, a, b, max_len):
    """Brute force: take a byte off the longer one, the second if they are alike, until it fits."""
    (tmp_path / 'p.csv').write_text(f'p,q\n{"a" * a},{"b" * b}\n')
    d = opened(tmp_path, tmp_path / 'p.csv', input_column='p,q', val_share=0, test_share=0)
    d.set_lengths(max_len)
    x, _ = d.batch(np.array([0]))
    while a + b + 3 > max_len:
        a, b = (a, b - 1) if b >= a else (a - 1, b)
    text = ''.join({0: '', 4: 'C', 5: 'S'}.get(v) if v < 6 else chr(v - 6) for v in x[0].tolist())
    got = text.split('S')
    assert (len(got[0]) - 1, len(got[1])) == (a, b)


def test_one_row_far_longer_than_the_others_is_said(tmp_path, capsys):
    for longest in (50, 5000):
        (tmp_path / 'a.txt').write_text('abcdefgh\n' * 500 + 'x' * longest)
        data.describe(opened(tmp_path, tmp_path / 'a.txt'))
        assert ('ten times as long' in capsys.readouterr().out) == (longest == 5000)


def test_an_epoch_has_every_row_once_in_buckets_of_alike_length(tmp_path):
    d = text_data(tmp_path)
    rows = d.rows('train')
    batches = epoch_batches(d, rows, 16, seed=0, epoch=0)
    flat = np.concatenate(batches)
    assert len(batches) == len(rows) // 16 and len(set(flat.tolist())) == len(flat) and set(flat) <= set(rows)
    spread = np.mean([np.ptp(d.lengths(b)) for b in batches])
    shuffled = np.random.default_rng(0).permutation(flat).reshape(-1, 16)
    assert spread < 0.2 * np.mean([np.ptp(d.lengths(b)) for b in shuffled])
    assert np.array_equal(batches, epoch_batches(d, rows, 16, 0, 0))
    next_epoch, next_seed = epoch_batches(d, rows, 16, 0, 1), epoch_batches(d, rows, 16, 1, 0)
    assert not np.array_equal(batches, next_epoch) and not np.array_equal(batches, next_seed)


def test_scoring_covers_every_row_once_over_any_number_of_ranks(tmp_path, monkeypatch):
    d = text_data(tmp_path)
    rows = d.rows('val')
    monkeypatch.setattr(data, 'TOKENS', 9 * 60)
    alone = data.at_once
    assert (alone(7, 30, 'cpu'), alone(7, 30, 'cuda'), alone(19, 30, 'cuda')) == (7, 18, 19)
    monkeypatch.setattr(data, 'at_once', lambda size, length, device: alone(size, length, 'cuda'))
    for world in (1, 3):
        seen = [batch for rank in range(world)
                for batch in data.scoring(d, rows, 7, SimpleNamespace(rank=rank, world=world, device='cpu'))]
        assert sorted(torch.cat([at for _, at, _, _ in seen]).tolist()) == list(range(len(rows)))
        assert len({number for number, *_ in seen}) == len(seen)
        number, at, x, valid = seen[0]
        assert torch.equal(valid.sum(1), torch.from_numpy(d.lengths(rows[at])))
        if world == 1:  # as many as the tokens allow, and more than batch_size where rows are short
            sizes = [len(at) for _, at, _, _ in seen]
            assert sizes[0] == 7 and sizes == sorted(sizes[:-1]) + sizes[-1:] and sizes[-2] > 14
            assert all(len(x) == 7 or x.numel() <= 9 * 60 for _, _, x, _ in seen)


def test_a_batch_without_padding_has_no_mask_and_widths_may_be_rounded_up(tmp_path):
    d = text_data(tmp_path)
    assert d.set_lengths(None) == 96
    rows = np.argsort(d.lengths(np.arange(400)), kind='stable')
    alike, mixed = (rows[d.lengths(rows) == 50][:2], rows[[0, 200]])
    assert d.batch(alike)[1] is None and d.batch(alike, 51)[1].sum() == 100 and d.batch(mixed)[1] is not None
    d.width_step = 32
    x, valid = d.batch(alike)
    assert x.shape == (2, 64) and valid.sum(1).tolist() == [50, 50] and not x[:, 50:].any()
    assert {d.width(rows[[i]]) for i in range(400)} == {32, 64, 96}
    d.max_len = 70  # P may have no more rows
    assert d.width(rows) == 70


@pytest.mark.parametrize('kind', ['standard', 'quantile'])
def test_a_table_kept_on_the_device_gives_the_same_batches(tmp_path, monkeypatch, kind):
    """For training and for scoring, also by another scale later; each row is scaled once by each."""
    d, run, scaled = table(tmp_path, 300), SimpleNamespace(rank=0, world=1, device=torch.device('cpu')), []
    train, val = np.random.default_rng(0).permutation(d.rows('train'))[:100], d.rows('val')

    def batches():
        some = [(d.inputs(x), y, rows) for x, _, y, rows in itertools.islice(
            data.micro_batches(d, train, 16, 2, 0, 0, run, torch.arange(300)), 40)]
        return some + [(d.inputs(x), at, i) for _ in range(2) for i, at, x, _ in data.scoring(d, val, 16, run)]
    for norm in (fit_norm(d, train, kind), fit_norm(d, val, kind)):
        d.norm = norm
        monkeypatch.setattr(data, 'fits', lambda *args: False)
        streamed = batches()
        assert d.kept is None
        monkeypatch.setattr(data, 'fits', lambda *args: True)
        with monkeypatch.context() as m:
            m.setattr(data, 'normalise', lambda x, norm: scaled.extend(x) or normalise(x, norm))
            m.setattr(data, 'CHUNK', 64)
            kept = batches()
        assert len(scaled) == len(train) + len(val) and d.batch(train)[0].ndim == 1
        for (a, y, rows), (b, z, same) in zip(streamed, kept, strict=True):
            assert torch.equal(a, b) and torch.equal(y, z) and np.array_equal(rows, same)
        assert d.batch(d.rows('test'))[0].ndim == 3  # these were not asked for
        d.kept = d.kept_norm = None
        scaled.clear()


def test_prefetch_on_cuda_is_a_thread_that_keeps_order_and_passes_errors_on(monkeypatch):
    """There is no GPU here: pinning and moving are stood in for, the thread and its queue are the real ones."""
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda t: t)
    monkeypatch.setattr(torch.Tensor, 'to', lambda t, *args, **options: t)

    def batches():
        for i in range(20):
            yield torch.tensor(i), None
        raise RuntimeError('disk gone')
    seen = []
    with pytest.raises(RuntimeError, match='disk gone'):
        for t, _ in prefetch(batches(), 'cuda:0'):
            seen.append(t.item())
    assert seen == list(range(20))
    endless = prefetch(((torch.tensor(i),) for i in iter(int, 1)), 'cuda:0')
    next(endless)
    endless.close()  # a consumer that leaves early does not hang


def test_prefetch_hands_on_what_it_gets():
    batches = [(torch.arange(3), None), (torch.ones(2), 'text')]
    for got, sent in zip(prefetch(iter(batches), 'cpu'), batches):
        assert torch.equal(got[0], sent[0]) and got[1] is sent[1]


# ---- normalisation

def table(tmp_path, n=3000):
    rng = np.random.default_rng(0)
    columns = [rng.normal(50, 3, n), rng.exponential(size=n), rng.integers(0, 3, n), np.full(n, 7.0)]
    x = np.stack(columns, 1).astype(np.float32)
    np.save(tmp_path / 'x.npy', x)
    return opened(tmp_path, tmp_path / 'x.npy')


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
    with pytest.raises(UserError, match='norm=none knows no mean'):
        fit_norm(d, rows, 'none')
    assert len(opened(tmp_path, tmp_path / 'x.npy', missing='drop').y) == (~holes).all(1).sum()


def test_columns_of_another_table_are_matched_by_name():
    """What opens a data set: the stage's own knobs, else the checkpoint's run's, else the defaults."""
    from data import PREPARE_KNOBS, data_knobs
    none = {k: None for k in PREPARE_KNOBS} | {'data_dir': 'datasets'}
    own = {**PREPARE_KNOBS, 'dataset': 'a.csv', 'label_column': 'y', 'val_share': 0.3, 'image_size': 64}
    checkpoint = dict(config=own, columns=['p', 'q'], model_args={'d_raw': 1})
    same = data_knobs(none, checkpoint)
    assert (same['dataset'], same['label_column'], same['val_share'], same['input_column']) == ('a.csv', 'y', 0.3, None)
    other = data_knobs({**none, 'dataset': 'b.csv.gz', 'label_column': 'z'}, checkpoint)
    assert (other['input_column'], other['label_column'], other['val_share']) == (['p', 'q'], 'z', 0.02)
    assert other['image_size'] == 64 and data_knobs({**none, 'dataset': 'b.npz'}, checkpoint)['input_column'] is None
    assert data_knobs({**none, 'dataset': 'b.csv'})['val_share'] == 0.02
    checkpoint = {**checkpoint, 'categories': {'q': {'red': 0}}, 'config': {**own, 'missing': 'mean'}}
    other = data_knobs({**none, 'dataset': 'b.csv'}, checkpoint)  # how it fills in, and numbers texts, goes along
    assert (other['missing'], other['categories']) == ('mean', {'q': {'red': 0}})
    assert data_knobs({**none, 'dataset': 'b.npz'}, checkpoint)['missing'] is None
