"""data.py: batches and normalisation against trusted libraries."""

import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
from configurator import defaults_of
from data import CLS, PAD, SEP, epoch_batches, open_dataset
from util.files import name_of
from util.scaling import fit_norm, normalise

MAIN = SimpleNamespace(rank=0, world=1, is_main=True, device=torch.device('cpu'))
NONE_GIVEN = {**dict.fromkeys(data.PREPARE_KNOBS), 'data_dir': 'datasets'}  # the knobs of a stage


def opened(tmp_path, dataset, **knobs):
    usual = dict(val_share=0.2, test_share=0.2, data_dir=str(tmp_path / 'datasets'))
    return open_dataset(str(dataset), **{**usual, **knobs})


# ---- batches

def text_data(tmp_path, n=400):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 90, n)
    rows = [bytes(rng.integers(65, 91, k).astype(np.uint8)) for k in lengths]
    (tmp_path / 'a.txt').write_bytes(b'\n'.join(rows))
    return opened(tmp_path, tmp_path / 'a.txt')


def test_ids_are_cls_bytes_sep_pad(tmp_path):
    (tmp_path / 'a.txt').write_bytes('AB\né\nlonger than that'.encode())
    d = opened(tmp_path, tmp_path / 'a.txt', val_share=0, test_share=0)
    assert d.set_lengths(8) == 8 and d.n_cut == 1
    x, valid = d.batch(np.arange(3), 9)
    ids = [CLS, 65 + 6, 66 + 6, SEP] + [PAD] * 5
    assert x[0].tolist() == ids and valid[0].tolist() == [True] * 4 + [False] * 5
    assert bytes((x[1, 1:3] - 6).tolist()).decode() == 'é'
    assert bytes((x[2, 1:7] - 6).tolist()) == b'longer' and x[2, 7] == SEP and valid[2].sum() == 8


@pytest.mark.parametrize('a, b, max_len', [
    (5, 5, 20), (30, 5, 20), (5, 30, 20), (30, 31, 20), (9, 8, 20), (9, 9, 19)])
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


def table(tmp_path, n=3000):
    rng = np.random.default_rng(0)
    columns = [rng.normal(50, 3, n), rng.exponential(size=n), rng.integers(0, 3, n), np.full(n, 7.0)]
    x = np.stack(columns, 1).astype(np.float32)
    np.save(tmp_path / 'x.npy', x)
    return opened(tmp_path, tmp_path / 'x.npy')


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
        assert d.table is None
        monkeypatch.setattr(data, 'fits', lambda *args: True)
        with monkeypatch.context() as m:
            m.setattr(data, 'normalise', lambda x, norm: scaled.extend(x) or normalise(x, norm))
            m.setattr(data, 'CHUNK', 64)
            kept = batches()
        assert len(scaled) == len(train) + len(val) and d.batch(train)[0].ndim == 1
        for (a, y, rows), (b, z, same) in zip(streamed, kept, strict=True):
            assert torch.equal(a, b) and torch.equal(y, z) and np.array_equal(rows, same)
        assert d.batch(d.rows('test'))[0].ndim == 3  # these were not asked for
        d.table = d.table_norm = None
        scaled.clear()


def test_none_means_the_default(tmp_path):
    (tmp_path / 'a.txt').write_text('\n'.join(f'{i:04}' for i in range(2000)))
    knobs = {**dict.fromkeys(data.PREPARE_KNOBS), 'dataset': str(tmp_path / 'a.txt'),
             'data_dir': str(tmp_path / 'd')}
    a, b = open_dataset(**knobs), open_dataset(str(tmp_path / 'a.txt'), data_dir=str(tmp_path / 'd'))
    assert a.folder == b.folder and np.array_equal(a.split, b.split)
    assert abs(np.bincount(a.split) / 2000 - [0.88, 0.02, 0.1]).max() < 0.03


def test_each_knob_is_declared_once_and_none_of_them_decides_for_a_checkpoint():
    """All are None, which a stage reads as what the checkpoint's run had; but the folder of prepared data."""
    knobs = defaults_of(data.__file__)
    assert len(knobs) == 16 and {name for name, value in knobs.items() if value is not None} == {'data_dir'}
    assert set(data.PREPARE_KNOBS) == set(knobs)


def test_names_with_a_comma(tmp_path, monkeypatch):
    """A whole name counts first; else a comma parts two files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a,b').mkdir()
    for name in ('my,data.csv', 'a,b/c.csv'):
        (tmp_path / name).write_text('x,y\n1,2\n3,4\n')
        assert opened(tmp_path, name).x[:, :, 0].tolist() == [[1, 2], [3, 4]]
    np.save('X.npy', np.eye(3))
    np.save('y.npy', np.arange(3))
    assert opened(tmp_path, 'X.npy,y.npy').y.tolist() == [0, 1, 2]
    assert [name_of(name) for name in ('my,data.csv', 'X.npy,y.npy', 'some/esol.csv.gz', 'esol', 'a.2.csv')
            ] == ['my,data', 'X', 'esol', 'esol', 'a.2']


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.txt').write_text('abc\ndef\n')
    d = open_dataset('~/a.txt', data_dir='~/kept')
    assert d.folder.parent == tmp_path / 'kept' and len(d.y) == 2


def test_a_name_that_is_not_utf8(tmp_path, run):
    name = os.fsdecode(b'caf\xe9.csv')
    (tmp_path / name).write_text('a,b\n1,2\n3,4\n')
    assert 'datasets/caf\\udce9-' in run('data.py', name).stdout
    assert 'caf\\udce9' in run('data.py').stdout
    assert 'caf\\udce9x' in run('data.py', os.fsdecode(b'caf\xe9x'), status=2).stderr


def test_lengths_that_differ_from_the_checkpoints_are_told(tmp_path, capsys):
    d = text_data(tmp_path)
    config = {**dict.fromkeys(data.PREPARE_KNOBS), 'dataset': str(tmp_path / 'a.txt'),
              'data_dir': str(tmp_path / 'datasets'), 'val_share': 0.2, 'test_share': 0.2}
    checkpoint = dict(config={**config, 'max_len': 50}, norm={'kind': 'none'}, data=d.fingerprint,
                      model_args={'d_raw': 0, 'seq_len': 64})
    same, seq_len = data.open_data(config, MAIN, checkpoint)
    assert (same.max_len, seq_len) == (50, 64) and 'trained on up to' not in capsys.readouterr().out
    data.open_data({**config, 'max_len': 60}, MAIN, checkpoint)
    assert 'trained on up to 50 tokens a row, here they are up to 60' in capsys.readouterr().out
    for own, told in ((0.2, False), (0.1, True), (None, True)):
        data.open_data(config, MAIN, {**checkpoint, 'config': {**checkpoint['config'], 'val_share': own}})
        warning = f'warning: the checkpoint was trained with val_share {own or 0.02} (now 0.2)'
        assert (warning in capsys.readouterr().out) == told
    data.open_data(config, MAIN, {**checkpoint, 'data': 'x.bin 00000000'})
    assert 'warning: the checkpoint was trained with other contents of a' in capsys.readouterr().out


def test_columns_of_another_table_are_matched_by_name():
    """What opens a data set: the stage's own knobs, else the checkpoint's run's, else the defaults."""
    from data import PREPARE_KNOBS, data_knobs
    own = {**PREPARE_KNOBS, 'dataset': 'a.csv', 'label_column': 'y', 'val_share': 0.3, 'image_size': 64}
    checkpoint = dict(config=own, columns=['p', 'q'], model_args={'d_raw': 1})
    same = data_knobs(NONE_GIVEN, checkpoint)
    found = (same['dataset'], same['label_column'], same['val_share'], same['input_column'])
    assert found == ('a.csv', 'y', 0.3, None)
    other = data_knobs({**NONE_GIVEN, 'dataset': 'b.csv.gz', 'label_column': 'z'}, checkpoint)
    assert (other['input_column'], other['label_column'], other['val_share']) == (['p', 'q'], 'z', 0.02)
    arrays = data_knobs({**NONE_GIVEN, 'dataset': 'b.npz'}, checkpoint)
    assert other['image_size'] == 64 and arrays['input_column'] is None
    assert data_knobs({**NONE_GIVEN, 'dataset': 'b.csv'})['val_share'] == 0.02
    checkpoint = {**checkpoint, 'categories': {'q': {'red': 0}}, 'config': {**own, 'missing': 'mean'}}
    # how it fills in, and numbers texts, goes along
    other = data_knobs({**NONE_GIVEN, 'dataset': 'b.csv'}, checkpoint)
    assert (other['missing'], other['categories']) == ('mean', {'q': {'red': 0}})
    assert data_knobs({**NONE_GIVEN, 'dataset': 'b.npz'}, checkpoint)['missing'] is None


def test_text_of_another_table_is_found_by_name_and_read_alike():
    """Not by its place, which is another one there; and quotation marks mean what they meant."""
    own = {**data.PREPARE_KNOBS, 'dataset': 'a.tsv', 'input_column': '-2', 'label_column': '-1',
           'quotes': False}
    checkpoint = dict(config=own, columns=['text'], model_args={'d_raw': 0})
    found = data.data_knobs({**NONE_GIVEN, 'dataset': 'b.tsv'}, checkpoint)
    assert (found['input_column'], found['label_column'], found['quotes']) == ('text', None, False)
    assert data.data_knobs({**NONE_GIVEN, 'dataset': 'b.csv'}, checkpoint)['quotes'] is None
    pair = {**checkpoint, 'columns': ['first', 'second']}
    assert data.data_knobs({**NONE_GIVEN, 'dataset': 'b.csv'}, pair)['input_column'] == 'first,second'
    lines = {**checkpoint, 'columns': None, 'config': {**own, 'dataset': 'a.txt', 'input_column': None}}
    assert data.data_knobs({**NONE_GIVEN, 'dataset': 'b.csv'}, lines)['input_column'] is None


def test_arrays_of_another_npz_have_the_names_that_they_had():
    own = {**data.PREPARE_KNOBS, 'dataset': 'a.npz', 'input_column': 'B', 'label_column': 'z'}
    checkpoint = dict(config=own, columns=['c0'], model_args={'d_raw': 1})

    def names(**config):
        found = data.data_knobs({**NONE_GIVEN, **config}, checkpoint)
        return found['input_column'], found['label_column']
    assert names(dataset='b.npz') == ('B', 'z')
    assert names(dataset='b.npz', label_column='y') == ('B', 'y')
    assert names(dataset='b.npz', predict='b.npz') == ('B', None)  # which may have no labels


def test_a_file_is_the_same_by_any_path_and_its_copy_is_known(tmp_path, monkeypatch, capsys):
    """Else the splits are drawn anew, and training rows are scored as test rows."""
    monkeypatch.chdir(tmp_path)
    rows = [f'{i},{i * i % 7},{part}' for i, part in enumerate(['train', 'val', 'test'] * 20)]
    (tmp_path / 'a.csv').write_text('\n'.join(['p,q,part', *rows]))
    config = {**NONE_GIVEN, 'dataset': 'a.csv', 'split_column': 'part'}
    d, _ = data.open_data(config, MAIN)
    checkpoint = dict(config=config, norm={'kind': 'none'}, columns=d.columns, data=d.fingerprint,
                      model_args={'d_raw': 1, 'seq_len': 2})
    for path in ('a.csv', './a.csv', str(tmp_path / 'a.csv')):
        again, _ = data.open_data({**NONE_GIVEN, 'dataset': path}, MAIN, checkpoint)
        assert (again.split == d.split).all()
    may_be_test = 'rows that it learned from may be validation or test rows now'
    assert may_be_test not in capsys.readouterr().out
    (tmp_path / 'b.csv').write_bytes((tmp_path / 'a.csv').read_bytes())
    data.open_data({**NONE_GIVEN, 'dataset': 'b.csv'}, MAIN, checkpoint)
    assert may_be_test in capsys.readouterr().out
    given = {**NONE_GIVEN, 'dataset': 'b.csv', 'split_column': 'part'}
    data.open_data({**given, 'val_share': 0.3}, MAIN, checkpoint)  # which draws nothing
    data.open_data({**NONE_GIVEN, 'dataset': 'b.csv', 'embed': 'b.csv'}, MAIN, checkpoint)
    assert may_be_test not in capsys.readouterr().out
