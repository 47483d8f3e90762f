"""
data.py: readers on files made here and on the real ones, batches.
Normalisation and metrics against trusted libraries.
"""

import gzip
import lzma

import numpy as np
import pytest
import torch

import data
from conftest import DATA_KNOBS
from data import CLS, PAD, SEP, METRICS, epoch_batches, fit_norm, normalise, open_dataset, prefetch, score

KNOBS = {**DATA_KNOBS, 'valid_share': 0.2, 'test_share': 0.2}


def opened(tmp_path, dataset, **knobs):
    return open_dataset({**KNOBS, 'data_dir': str(tmp_path / 'datasets'), 'dataset': str(dataset), **knobs})


def sequences(dataset):
    return [bytes(dataset.x[a:b]) for a, b in zip(dataset.offsets, dataset.offsets[1:])]


def fails(capsys, word, f, *args, **kwargs):
    """f ends in one line on stderr that has `word` in it, and status 2."""
    with pytest.raises(SystemExit) as end:
        f(*args, **kwargs)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count('\n') == 1 and word in err, err


# ---- readers

LINES = [b'CCO', b'c1ccccc1', b'N', b'CC(=O)O', b'C#N']


@pytest.mark.parametrize('ending, pack', [('.txt', bytes), ('.txt.gz', gzip.compress), ('.txt.xz', lzma.compress)])
def test_lines(tmp_path, ending, pack):
    path = tmp_path / f'a{ending}'
    path.write_bytes(pack(b'CCO\nc1ccccc1\r\n\nN\n  \nCC(=O)O\nC#N'))
    d = opened(tmp_path, path)
    assert sequences(d) == LINES and d.meta['left_out'] == {'blank lines': 2}
    assert np.isnan(d.y).all()


def test_smi_takes_the_molecule_and_fasta_joins_lines(tmp_path):
    (tmp_path / 'a.smi').write_text('CCO ethanol\nC#N\tx\n')
    assert sequences(opened(tmp_path, tmp_path / 'a.smi')) == [b'CCO', b'C#N']
    (tmp_path / 'a.fasta').write_text('>one\nMKV\nLL*\n>empty\n>two x\n\nACD\n')
    d = opened(tmp_path, tmp_path / 'a.fasta')
    assert sequences(d) == [b'MKVLL', b'ACD'] and d.meta['left_out'] == {'empty sequences': 1}


def test_csv_text_and_labels(tmp_path):
    (tmp_path / 'a.csv').write_text('\ufeffname,smiles,y,part\n'
                                    '"x, 1",CCO ,1.5,train\ny,C#N,,valid\nz, ,3,test\nw,N,2,test\n')
    d = opened(tmp_path, tmp_path / 'a.csv', input_column='smiles', label_column='y', split_column='part')
    assert sequences(d) == [b'CCO', b'C#N', b'N'] and d.meta['left_out'] == {'empty inputs': 1}
    assert d.labels([0, 1, 2]) == [1.5, None, 2.0] and d.split.tolist() == [0, 1, 2]


def test_csv_numbers_with_text_labels(tmp_path):
    (tmp_path / 'a.tsv').write_text('a\tkind\tb\n1\tcat\t2\n3\tdog\t4\n5\tcat\t6.5\n')
    d = opened(tmp_path, tmp_path / 'a.tsv', label_column='kind', valid_share=0, test_share=0)
    assert d.x[:, :, 0].tolist() == [[1, 2], [3, 4], [5, 6.5]] and d.columns == ['a', 'b']
    assert d.labels([0, 1, 2]) == ['cat', 'dog', 'cat']
    d = opened(tmp_path, tmp_path / 'a.tsv', input_column='b, a', valid_share=0, test_share=0)
    assert d.x[:, :, 0].tolist() == [[2, 1], [4, 3], [6.5, 5]]


def test_a_table_without_a_header(tmp_path):
    (tmp_path / 'a.csv').write_text('1.0,2,3\n0,5,6\n')
    d = opened(tmp_path, tmp_path / 'a.csv', label_column='c0', valid_share=0, test_share=0)
    assert d.x[:, :, 0].tolist() == [[2, 3], [5, 6]] and d.y.tolist() == [1, 0]


def test_arrays(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3, 2)), np.arange(20) % 2
    np.save(tmp_path / 'x.npy', x)
    np.save(tmp_path / 'y.npy', y)
    np.savez(tmp_path / 'a.npz', X=x, y=y)
    for name in (f'{tmp_path}/x.npy,{tmp_path}/y.npy', tmp_path / 'a.npz'):
        d = opened(tmp_path, name)
        assert (d.x == x.astype(np.float32)).all() and d.y.tolist() == y.tolist() and (d.n, d.d_raw) == (3, 2)


def test_splits_by_share_and_by_file(tmp_path):
    for name, n in (('a', 50), ('b', 7), ('c', 9)):
        (tmp_path / f'{name}.txt').write_text('\n'.join(f'{name}{i}' for i in range(n)))
    d = opened(tmp_path, tmp_path / 'a.txt')
    assert [len(d.rows(s)) for s in data.SPLITS] == [30, 10, 10]
    again = opened(tmp_path, tmp_path / 'a.txt', data_dir=str(tmp_path / 'elsewhere'))
    assert (d.split == again.split).all()
    d = opened(tmp_path, tmp_path / 'a.txt', valid_file=str(tmp_path / 'b.txt'), test_file=str(tmp_path / 'c.txt'))
    assert [len(d.rows(s)) for s in data.SPLITS] == [50, 7, 9] and sequences(d)[d.rows('test')[0]] == b'c0'


def test_prepared_once_and_again_when_the_file_changes(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('a\nb\nc')
    first = opened(tmp_path, path, test_share=0).folder
    stamp = (first / 'x.bin').stat().st_mtime_ns
    assert opened(tmp_path, path, test_share=0).folder == first and (first / 'x.bin').stat().st_mtime_ns == stamp
    path.write_text('a\nb\nc\nd')
    assert opened(tmp_path, path, test_share=0).folder != first
    assert not list((tmp_path / 'datasets').glob('*.tmp*'))


def test_a_reader_that_fails_leaves_nothing_behind(tmp_path, capsys):
    (tmp_path / 'a.csv').write_text('a,b\n1,2\n3\n')
    fails(capsys, 'line 3: 1 cells where the header has 2', opened, tmp_path, tmp_path / 'a.csv')
    assert [p.name for p in (tmp_path / 'datasets').iterdir()] == ['.lock']


@pytest.mark.parametrize('text, knobs, word', [
    ('a,b\n1,2\n3,nan\n', {}, "line 3, column 'b'"),
    ('a,b\n1,2\n3,\n', {}, "line 3, column 'b'"),
    ('a,b\n1,2\n3,x\n', {}, "'x' is not a number"),
    ('a,b\n1,inf\n', {}, 'infinite'),
    ('a,b\n1,C\n', {}, '--input_column'),
    ('smiles,y\nC,1\n', dict(input_column='smile'), "'smiles'"),
    ('smiles,y\nC,1\n', dict(input_column='smiles', label_column='Y'), "'y'"),
    ('smiles,s\nC,train\nN,dev2\n', dict(input_column='smiles', split_column='s'), "'dev2'"),
    ('smiles,y\n', dict(input_column='smiles'), 'no rows'),
    ('', {}, 'is empty'),
    ('smiles\n"C\n', dict(input_column='smiles'), 'line 2'),
])
def test_tables_that_are_wrong(tmp_path, capsys, text, knobs, word):
    (tmp_path / 'a.csv').write_text(text)
    fails(capsys, word, opened, tmp_path, tmp_path / 'a.csv', **knobs)


def test_files_that_are_wrong(tmp_path, capsys):
    whole = gzip.compress(b'hello\nworld\n' * 1000)
    np.save(tmp_path / 'pickle.npy', np.array([{}], dtype=object))
    np.save(tmp_path / 'flat.npy', np.arange(3))
    np.save(tmp_path / 'hole.npy', np.array([[1.0, 2.0], [np.nan, 1.0]]))
    np.save(tmp_path / 'cut.npy', np.zeros((50, 4)))
    (tmp_path / 'cut.npy').write_bytes((tmp_path / 'cut.npy').read_bytes()[:300])
    np.savez(tmp_path / 'odd.npz', A=np.zeros((3, 2)))
    for name, content, word in (
            ('cut.txt.gz', whole[:-20], 'cut short'), ('bad.txt.xz', b'no xz at all', 'damaged'),
            ('blank.txt', b'\n\n', 'no rows'), ('a.fasta', b'MKV\n', 'FASTA'), ('a.doc', b'x', 'unknown ending'),
            ('latin.csv', b'a,b\n\xe9,1\n', 'UTF-8'), ('pickle.npy', None, 'cannot read'),
            ('flat.npy', None, 'shape (3,)'), ('hole.npy', None, 'row 1, column 0'),
            ('cut.npy', None, 'cannot read'), ('odd.npz', None, "no array 'X'"), ('a.npz', b'PK', 'a.npz')):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        fails(capsys, word, opened, tmp_path, tmp_path / name)
    fails(capsys, 'collider', opened, tmp_path, 'colider')


# ---- batches

def text_data(tmp_path, n=400):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 90, n)
    (tmp_path / 'a.txt').write_bytes(b'\n'.join(bytes(rng.integers(65, 91, k).astype(np.uint8)) for k in lengths))
    return opened(tmp_path, tmp_path / 'a.txt')


def test_ids_are_cls_bytes_sep_pad(tmp_path):
    (tmp_path / 'a.txt').write_bytes('AB\né\nlonger than that'.encode())
    d = opened(tmp_path, tmp_path / 'a.txt', valid_share=0, test_share=0)
    assert d.set_lengths(8) == 8 and d.n_cut == 1
    x, valid = d.batch(np.arange(3), 9)
    assert x[0].tolist() == [CLS, 65 + 6, 66 + 6, SEP] + [PAD] * 5 and valid[0].tolist() == [True] * 4 + [False] * 5
    assert bytes((x[1, 1:3] - 6).tolist()).decode() == 'é'
    assert bytes((x[2, 1:7] - 6).tolist()) == b'longer' and x[2, 7] == SEP and valid[2].sum() == 8


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


def test_scoring_covers_every_row_once_over_any_number_of_ranks(tmp_path):
    from types import SimpleNamespace
    d = text_data(tmp_path)
    rows = d.rows('valid')
    for world in (1, 3):
        seen = [batch for rank in range(world)
                for batch in data.scoring(d, rows, 7, SimpleNamespace(rank=rank, world=world, device='cpu'))]
        assert sorted(torch.cat([at for _, at, _, _ in seen]).tolist()) == list(range(len(rows)))
        assert len({number for number, *_ in seen}) == len(seen)
        number, at, x, valid = seen[0]
        assert torch.equal(valid.sum(1), torch.from_numpy(d.lengths(rows[at])))


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


# ---- metrics

@pytest.mark.parametrize('seed', range(5))
def test_metrics_are_those_of_scikit_learn_and_scipy(seed):
    sk = pytest.importorskip('sklearn.metrics', reason='scikit-learn is the oracle of the metrics')
    stats = pytest.importorskip('scipy.stats', reason='scipy is the oracle of Spearman')
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, 200), np.round(rng.normal(size=200), 1)  # with ties
    assert np.isclose(METRICS['roc_auc'](y, p), sk.roc_auc_score(y, p))
    assert np.isclose(METRICS['f1'](y, p), sk.f1_score(y, p > 0))
    assert np.isclose(METRICS['accuracy'](y, p), sk.accuracy_score(y, p > 0))
    many, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 4))
    assert np.isclose(METRICS['accuracy'](many, logits), sk.accuracy_score(many, logits.argmax(1)))
    t = np.round(rng.normal(size=200), 1)
    assert np.isclose(METRICS['rmse'](t, p), sk.mean_squared_error(t, p) ** 0.5)
    assert np.isclose(METRICS['spearman'](t, p), stats.spearmanr(t, p).statistic)


def test_metrics_at_the_edges(capsys):
    assert METRICS['spearman'](np.arange(3), np.zeros(3)) == 0 and METRICS['f1'](np.zeros(3), -np.ones(3)) == 0
    fails(capsys, 'both classes', METRICS['roc_auc'], np.ones(3), np.arange(3.0))


def test_score_goes_back_to_the_labels_units(capsys):
    p = np.array([[0.0], [1.0]])
    assert score(dict(target='regression', metric='rmse', mean=10.0, std=2.0), [10.0, 12.0], p) == 0
    head = dict(target='binary', metric='accuracy', classes=['cat', 'dog'])
    assert score(head, ['cat', 'dog'], p) == 1
    fails(capsys, "'bird'", score, head, ['cat', 'bird'], p)


# ---- real files

@pytest.mark.parametrize('name, knobs, rows', [
    ('chemistry/delaney-processed.csv',
     dict(input_column='smiles', label_column='measured log solubility in mols per litre'), 1128),
    ('chemistry/SAMPL.csv', dict(input_column='smiles', label_column='expt'), 642),
    ('chemistry/Lipophilicity.csv', dict(input_column='smiles', label_column='exp'), 4200),
    ('chemistry/BBBP.csv', dict(input_column='smiles', label_column='p_np'), 2050),
    ('chemistry/bace.csv', dict(input_column='mol', label_column='Class'), 1513),
    ('protein/stability_test.csv.gz', dict(input_column='primary', label_column='stability_score'), 12851),
    ('protein/swissprot201401_sample20k_len50-512.fasta.xz', {}, 20000),
    ('physics/higgs_train_42k.npz', {}, 42265),
    ('physics/HIGGS_first_rows_official_format.csv.gz', dict(label_column='c0'), 2000),
])
def test_real_files(tmp_path, shared, name, knobs, rows):
    d = opened(tmp_path, shared / name, **knobs)
    assert d.meta['rows'] == rows and not d.meta['left_out']
    if d.is_bytes:
        assert not any(s != s.strip() or not s for s in sequences(d))
    else:
        assert d.n == 28
    if knobs or not d.is_bytes:
        assert not np.isnan(d.y).any()


def test_what_a_review_found(tmp_path, capsys):
    """Each of these once passed in silence, hung, or ended in a traceback."""
    def file(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)
    a, b = file('a.csv', 'a,b,y\n10,20,0\n11,21,1\n' * 1), file('b.csv', 'a,b,y\n1,2,0\n')
    as_valid = opened(tmp_path, a, label_column='y', valid_file=b)
    as_test = opened(tmp_path, a, label_column='y', test_file=b, valid_share=0.5)
    assert [len(as_valid.rows(s)) for s in data.SPLITS] == [2, 1, 0]
    assert [len(as_test.rows(s)) for s in data.SPLITS] == [1, 1, 1]
    other = file('c.csv', 'b,a,y\n1,2,0\n')
    fails(capsys, 'its inputs are b, a', opened, tmp_path, a, label_column='y', valid_file=other)
    text = file('t.csv', 's,y\nabc,1\n')
    fails(capsys, 'window joins lines', opened, tmp_path, text, input_column='s', label_column='y', window=10)
    fails(capsys, 'at least 4', opened, tmp_path, file('t.txt', '😀' * 9), window=3)
    fails(capsys, 'no inputs beside y', opened, tmp_path, file('y.csv', 'y\n1\n'), label_column='y')
    np.save(tmp_path / 'x.npy', np.zeros((5, 0)))
    fails(capsys, 'wanted are numbers', opened, tmp_path, tmp_path / 'x.npy')
    fails(capsys, 'label_column', opened, tmp_path, tmp_path / 'x.npy', label_column='y')
    np.savez(tmp_path / 'z.npz', X=np.zeros((2, 2)), y=np.array(['2020-01-01', '2021-01-01'], 'datetime64[D]'))
    fails(capsys, 'labels of shape', opened, tmp_path, tmp_path / 'z.npz')
    fails(capsys, 'brings its own labels', opened, tmp_path, f'{tmp_path / "z.npz"},{tmp_path / "x.npy"}')
    (tmp_path / 'z.npz').rename(tmp_path / 'z.npy')
    fails(capsys, 'z.npy', opened, tmp_path, tmp_path / 'z.npy')
    fails(capsys, 'e.json', opened, tmp_path, file('e.json', '[{"a": []}]'), input_column='b')
    arff = file('q.arff', "@attribute 'two words' numeric\n@attribute class {'p','n'}\n@data\n1,p\n2,n\n")
    assert opened(tmp_path, arff, label_column='class').columns == ['two words']
    (tmp_path / 'latin.arff').write_bytes(b'@attribute caf\xe9 numeric\n@data\n1\n')
    fails(capsys, 'not UTF-8', opened, tmp_path, tmp_path / 'latin.arff')
    smiles = opened(tmp_path, file('s.csv', 'smiles,y\n1984,1\nCCO,2\n'), input_column='smiles', label_column='y')
    assert sequences(smiles) == [b'1984', b'CCO']
