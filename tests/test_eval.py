"""eval.py's pictures and statistics against brute-force loops, its probes against scikit-learn."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import eval as eval_py
import masking
from conftest import DATA_KNOBS
from data import HIGGS_COLUMNS, fit_norm, open_dataset
from masking import SPACES
from model import SMA, SMAConfig, save
from pretrain import probe_rows, settle_target

RUN = SimpleNamespace(device=torch.device('cpu'), rank=0, world=1, autocast=torch.no_grad)
KNOBS = {**DATA_KNOBS, 'valid_share': 0.2, 'test_share': 0.2}


def tiny(tmp_path, name, d_raw, n, n_latent=0, columns=None):
    """A data set file, and an untrained model for it in ckpt/last.pt. -> the model"""
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=d_raw, embed_dim=16, qk_dim=16, v_dim=16, n_head=2, seq_len=n, n_layer=2,
                          n_latent=n_latent))
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    config = {**KNOBS, 'dataset': name, 'max_len': None, 'mask': 'random', 'mask_ratio': 0.4, 'n_query': 1}
    save(tmp_path / 'ckpt/last.pt', dict(model=model.state_dict(), model_args=dict(vars(model.config)), config=config,
                                         norm={'kind': 'none'}))
    return model


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    np.savez(tmp_path / 't.npz', X=x, y=(x[:, 0] + 0.5 * rng.normal(size=300) > 0).astype(int))
    return tiny(tmp_path, 't.npz', 1, 6)


@pytest.mark.parametrize('n_latent', [0, 5])
def test_overlap_counts_choices_made_before(n_latent, monkeypatch):
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=1, embed_dim=16, qk_dim=16, v_dim=16, n_head=2, seq_len=12, n_layer=1,
                          n_latent=n_latent))
    for p in model.parameters():
        p.data += 0.5 * torch.randn_like(p)
    x = torch.randn(1, 12, 1)
    for n_inputs in (12, 9):
        seen = {}

        def queries(can_query, m, generator):
            seen['part'] = can_query[0] if not n_latent else None
            seen['R'] = masking.sample_queries(can_query, m, generator)
            return seen['R']
        monkeypatch.setattr(eval_py, 'sample_queries', queries)
        attention = model.attention
        monkeypatch.setattr(model, 'attention', lambda x_hat, valid, R: seen.update(valid=valid[0]) or
                            attention(x_hat, valid, R))
        value = eval_py.overlap(model, x, n_inputs, 3, 2, torch.Generator().manual_seed(1))
        assert int(seen['valid'].sum()) == n_inputs
        A = attention(model.embed(x), seen['valid'][None], seen['R'])[0].sum(0)  # (3, 12)
        made, again = set(), 0
        for row in A.tolist():
            for j in sorted(range(12), key=lambda j: -row[j])[:2]:
                again += j in made
                made.add(j)
        assert value.tolist() == pytest.approx([again / 6])
        monkeypatch.undo()


def test_measure_is_what_loops_count():
    torch.manual_seed(0)
    hidden, other, exact = torch.rand(3, 30, 36) < 0.4
    hidden[:, 0] = True
    shared, with_exact = ([sum(a and b for a, b in zip(h, o)) / sum(h) for h, o in zip(hidden.tolist(), t.tolist())]
                          for t in (other, exact))

    image = eval_py.measure(hidden, other, exact, torch.zeros(30, 36, 3), True)
    around = []
    for h in hidden.reshape(30, 6, 6).tolist():
        both = places = 0
        for i in range(6):
            for j in range(6):
                for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                    if h[i][j] and 0 <= a < 6 and 0 <= b < 6:
                        places, both = places + 1, both + h[a][b]
        around.append(both / places)
    np.testing.assert_allclose(image['hidden neighbours of a hidden pixel, share'], around)
    np.testing.assert_allclose(image['also hidden in another view'], shared, rtol=1e-6)
    np.testing.assert_allclose(image['also hidden by guided_exact, the same queries'], with_exact, rtol=1e-6)

    x = torch.randint(6, 262, (30, 36))
    x[:, ::5] = SPACES[0]
    text = eval_py.measure(hidden, other, exact, x, False)
    for b, h in enumerate(hidden.tolist()):
        runs = [len(r) for r in ''.join('x' if v else ' ' for v in h).split()]
        assert text['run of hidden bytes, mean length'][b] == pytest.approx(np.mean(runs))
        spaces = [v in SPACES for v, was in zip(x[b].tolist(), h) if was]
        assert text['spaces among the hidden bytes, share'][b] == pytest.approx(np.mean(spaces))


def test_joined_is_what_loops_count():
    often = torch.tensor([0.2, 0.4, 0.5, 0.5, 0.8, 0.9])
    hidden = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < often
    hidden[:, 2] = hidden[:, 3]
    values = eval_py.joined(hidden, {'some': [(0, 1), (2, 3)], 'one': [(4, 5)]})
    h = hidden.tolist()
    np.testing.assert_allclose(values['some: both hidden'], [((r[0] and r[1]) + (r[2] and r[3])) / 2 for r in h])
    C = np.corrcoef(hidden.numpy().T)
    assert values['some: correlation'].mean().item() == pytest.approx((C[0, 1] + 1) / 2)
    assert values['one: correlation'].mean().item() == pytest.approx(C[4, 5])


def test_higgs_pairs_are_of_one_object():
    pairs = eval_py.higgs_pairs(HIGGS_COLUMNS)
    assert [len(p) for p in pairs.values()] == [3, 1, 4 * 6, 11]
    name = HIGGS_COLUMNS.__getitem__
    for several in list(pairs.values())[:3]:
        assert all(name(i).split('_')[0] == name(j).split('_')[0] for i, j in several)
    assert all(name(i).startswith('m_') for i, _ in list(pairs.values())[3])
    assert eval_py.higgs_pairs([f'c{i}' for i in range(28)]) == pairs and eval_py.higgs_pairs(['a', 'b']) == {}


def png(path):
    Image = pytest.importorskip('PIL.Image')
    with Image.open(path) as image:
        image.load()
        return image.convert('RGB')


def test_masks_of_a_table(run, table, tmp_path):
    """A model trained with random masks is asked for the guided ones it would choose; the map is their correlation."""
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all').stdout
    assert re.search(r'also hidden by guided_exact, the same queries +1\.0000', out)  # with one query they are the same
    rows = [line.split() for line in out.splitlines() if line.split()[0] in ('c0', 'c1', 'c2', 'c3', 'c4', 'c5')]
    C = np.array([[0 if v == '.' else int(v) for v in r[1:]] for r in rows])
    assert C.shape == (6, 6) and (C == C.T).all() and (abs(C) <= 100).all() and C.any()
    share = [float(part.split()[1]) for part in out.split('how often each is hidden: ')[1].splitlines()[0].split(', ')]
    assert np.mean(share) == pytest.approx(2 / 6, abs=0.01)  # round(0.4 * 6) of 6
    assert 'also hidden in another view' in out and '300 masks, ratio 0.4' in out
    assert png(tmp_path / 'ckpt/masks.png').size[0] > 100


def test_masks_of_text_when_piped(run, tmp_path):
    """As many characters are blocks as the ratio says, and the others are the text's."""
    text = 'the quick brown fox jumps over the lazy dog'
    (tmp_path / 's.txt').write_text('\n'.join([text] * 30))
    tiny(tmp_path, 's.txt', 0, 48, n_latent=4)
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all').stdout
    assert '\033' not in out
    lines = {line[:10].strip(): line[11:] for line in out.splitlines() if line[11:].strip()}
    assert lines['reference'] == f'·{text}·'
    for name in ('word', 'random', 'guided 1', 'guided 2'):
        marked = [c in '█░' for c in lines[name]]
        assert sum(marked) == round(0.4 * 45)
        assert all(m or c == r for m, c, r in zip(marked, lines[name], lines['reference']))
    assert 'run of hidden bytes' in out and png(tmp_path / 'ckpt/masks.png')


def test_masks_of_images(run, tmp_path):
    """Reference, squares, random, two views, and the answer, which is the reference where nothing was hidden."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / 'i.npz', X=rng.random((20, 64, 3)).astype(np.float32))
    tiny(tmp_path, 'i.npz', 3, 64, n_latent=4)
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all', '--show_out=pics').stdout
    assert 'hidden neighbours of a hidden pixel' in out
    image = png(tmp_path / 'pics/masks.png')
    assert image.size == (8 + 6 * 9 * 12 + 8, 18 + 4 * 9 * 12 + 8)  # 8 x 8 pixels and a gap, twelvefold


def test_reconstruction_leaves_visible_inputs_alone():
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=2, embed_dim=16, qk_dim=16, v_dim=16, n_head=2, seq_len=9, n_layer=2)).eval()
    x, hidden = torch.randn(4, 9, 2), torch.rand(4, 9).argsort(1) < 3
    answer = eval_py.reconstruct(model, x, model.embed(x), hidden)
    assert torch.equal(answer[~hidden], x[~hidden])
    for b in range(4):  # one sample, one hidden input at a time
        H, rows = model.encode(model.embed(x)[b:b + 1, ~hidden[b]])
        for j in hidden[b].nonzero()[:, 0]:
            torch.testing.assert_close(answer[b, j], model.decode(H, rows, j[None, None])[0, 0])


def test_overlap_prints_and_draws(run, table, tmp_path):
    out = run('eval.py', '--ckpt=ckpt', '--show=overlap', '--inputs_per_query=1', '--split=all').stdout.splitlines()
    head = next(i for i, line in enumerate(out) if 'queries' in line)
    rows = [[float(v) for v in line.split()] for line in out[head + 1:head + 6]]
    assert [r[0] for r in rows] == [2, 3, 4, 5, 6] and all(0 <= r[3] < 1 for r in rows)
    for n, m, k, value, chance, hidden in rows:
        assert m == max(round(0.4 * n / k), 1) and hidden == pytest.approx((1 - value) * m * k / n, abs=2e-3)
    assert png(tmp_path / 'ckpt/overlap.png')


def test_curves(run, tmp_path):
    for name, losses in (('a', [3.0, 2.0, 1.0]), ('b', [1.0, 1.0, 4.0])):
        (tmp_path / name).mkdir()
        lines = [json.dumps(dict(step=10 * i, loss=v, grad_norm=1.0)) for i, v in enumerate(losses)]
        (tmp_path / name / 'log.jsonl').write_text('\n'.join(lines) + '\n{"step": 40, "lo')  # still being written
    out = run('eval.py', '--show=curves', '--runs=a,b', '--show_out=pics').stdout
    assert '█▅▁' in out and '3 -> 1  a' in out and '▁▁█' in out and 'grad_norm' not in out
    assert png(tmp_path / 'pics/curves.png')
    assert 'no c/log.jsonl' in run('eval.py', '--show=curves', '--runs=c', status=2).stderr.replace('\\', '/')


def test_without_pillow_the_text_is_printed(run, table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'PIL', None)
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all').stdout
    assert out.count('Pillow is not installed') == 1 and 'how often each is hidden' in out
    assert not list(tmp_path.rglob('*.png'))


@pytest.mark.parametrize('options, word', [
    (['--ckpt=ckpt', '--show=mask'], 'masks, overlap or curves'),
    (['--ckpt=ckpt', '--show=masks', '--mask=word'], 'word'),
    (['--ckpt=ckpt', '--probe', '--target=regression', '--metric=f1'], 'does not fit'),
    (['--ckpt=ckpt', '--probe'], 'target'), (['--show=masks'], 'which checkpoint')])
def test_mistakes(run, table, options, word):
    err = run('eval.py', *options, status=2).stderr
    assert word in err and err.count('\n') == 1


def test_probe_of_a_checkpoint(run, table):
    out = run('eval.py', '--ckpt=ckpt', '--probe', '--target=binary', '--n_train=100').stdout
    assert 'probe_knn, accuracy on 60 test rows, 100 labels: 0.' in out and 'probe_linear' in out


@pytest.mark.parametrize('target, metric',
                         [('binary', 'roc_auc'), ('multiclass', 'accuracy'), ('regression', 'rmse')])
def test_probes_are_scikit_learns(tmp_path, target, metric):
    pytest.importorskip('sklearn')
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import accuracy_score, roc_auc_score, root_mean_squared_error
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    v = x[:, 0] + x[:, 1] + 0.3 * rng.normal(size=400)
    y = {'binary': v > 0, 'multiclass': np.digitize(v, [-1, 1]), 'regression': 5 + 3 * v}[target].astype(float)
    np.savez(tmp_path / 't.npz', X=x, y=y)
    dataset = open_dataset({**KNOBS, 'dataset': str(tmp_path / 't.npz'), 'data_dir': tmp_path / 'd'})
    dataset.norm = fit_norm(dataset, dataset.rows('train'), 'standard')
    model = tiny(tmp_path, 't.npz', 1, 6)
    head, labelled = settle_target(dataset, dict(dataset='t', target=target, metric=metric), ('train', 'valid'))
    ours = probe_rows(model, dataset, head, labelled['train'], labelled['valid'], dict(batch_size=64), RUN)

    with torch.no_grad():
        H = {s: model.features(dataset.batch(rows)[0]).double().numpy() for s, rows in labelled.items()}
    scale = StandardScaler().fit(H['train'])
    X, Z = scale.transform(H['train']), scale.transform(H['valid'])
    a, b = (dataset.y[labelled[s]] for s in ('train', 'valid'))
    if target == 'regression':
        readers = KNeighborsRegressor(20, metric='cosine'), Ridge(alpha=1.0)
        # the labels are standardised, which leaves ridge with an intercept its predictions
        theirs = [root_mean_squared_error(b, r.fit(X, a).predict(Z)) for r in readers]
    else:
        readers = KNeighborsClassifier(20, metric='cosine'), LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
        theirs = [roc_auc_score(b, r.fit(X, a).predict_proba(Z)[:, 1]) if target == 'binary' else
                  accuracy_score(b, r.fit(X, a).predict(Z)) for r in readers]
    assert [ours['probe_knn'], ours['probe_linear']] == pytest.approx(theirs, abs=1e-4)
    assert theirs[1] < 0.8 * b.std() if target == 'regression' else theirs[1] > 0.7  # there is something to find


def test_columns_in_another_order_are_refused(run, tmp_path):
    rng = np.random.default_rng(0)
    lines = [','.join(f'{v:.3f}' for v in row) for row in rng.normal(size=(60, 3))]
    (tmp_path / 'a.csv').write_text('\n'.join(['x,y,z', *lines]))
    (tmp_path / 'b.csv').write_text('\n'.join(['x,z,y', *lines]))
    run('pretrain.py', '--dataset=a.csv', '--mask=random', '--max_steps=1', '--batch_size=8', '--embed_dim=16',
        '--qk_dim=16', '--v_dim=16', '--device=cpu', '--out_dir=o')
    error = run('eval.py', '--ckpt=o/random', '--dataset=b.csv', '--device=cpu', status=2).stderr
    assert '--input_column=x,y,z' in error
    same = [run('eval.py', '--ckpt=o/random', f'--dataset={name}.csv', '--input_column=x,y,z', '--device=cpu').stdout
            for name in 'ab']
    assert 'masked loss' in same[0] and 'masked loss' in same[1]
