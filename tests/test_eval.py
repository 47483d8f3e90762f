"""eval.py: statistics against brute-force loops, probes against scikit-learn, pictures as files."""

import csv
import dataclasses
import json
import re
import sys

import numpy as np
import pytest
import torch

import eval as eval_py
import masking
from data import PREPARE_KNOBS, open_dataset
from masking import SPACES
from model import SMA, SMAConfig
from util import mask_statistics
from util.checkpoint import save
from util.collider import HIGGS_COLUMNS
from util.scaling import fit_norm
from util.tasks import infer_task

KNOBS = {**PREPARE_KNOBS, 'val_share': 0.2, 'test_share': 0.2}
TINY = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--batch_size=16',
        '--device=cpu']


def tiny_model(d_raw, n, n_latent=0):
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=d_raw, embed_dim=16, qk_dim=16, v_dim=16, n_head=2, seq_len=n, n_layer=2,
                          n_latent=n_latent))
    for p in model.parameters():
        p.data += 0.4 * torch.randn_like(p)
    return model.eval()


def tiny(tmp_path, name, d_raw, n, n_latent=0, columns=None, **more):
    """An untrained model of the data set file `name`, in ckpt/last.pt."""
    model = tiny_model(d_raw, n, n_latent)
    config = {**KNOBS, 'dataset': name, 'max_len': None, 'mask': 'random', 'mask_ratio': 0.4, 'n_query': 1}
    save(tmp_path / 'ckpt/last.pt', dict(model=model.state_dict(), model_args=dict(vars(model.config)),
                                         config={**config, **more}, norm={'kind': 'none'}, columns=columns))


def numbers(tmp_path, n, n_latent=0):
    """300 labelled rows of n numbers, and a model."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, n)).astype(np.float32)
    np.savez(tmp_path / 't.npz', X=x, y=(x[:, 0] + 0.5 * rng.normal(size=300) > 0).astype(int))
    tiny(tmp_path, 't.npz', 1, n, n_latent, columns=[f'c{i}' for i in range(n)])


@pytest.fixture
def table(tmp_path):
    numbers(tmp_path, 6)


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.startswith('matplotlib.')] + ['matplotlib']:
        monkeypatch.setitem(sys.modules, name, None)


# -----------------------------------------------------------------------------
# statistics

def test_measure_is_what_loops_count():
    torch.manual_seed(0)
    hidden, other = torch.rand(2, 30, 36) < 0.4
    hidden[:, 0] = True
    rows = hidden.tolist()
    ids = torch.randint(6, 262, (30, 36))
    ids[:, ::5] = SPACES[0]
    image = mask_statistics.measure(hidden, {'there': other, 'not asked': None}, None, True, {})
    text = mask_statistics.measure(hidden, {}, ids, False, {})
    assert [*image] == ['also hidden there', 'hidden neighbours of a hidden pixel, share'] and len(text) == 2
    for b, h in enumerate(rows):
        shared = [o for o, was in zip(other[b].tolist(), h) if was]
        assert image['also hidden there'][b] == pytest.approx(np.mean(shared))
        side = [h[i:i + 6] for i in range(0, 36, 6)]
        around = [side[a][c] for i in range(6) for j in range(6) if side[i][j]
                  for a, c in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)) if 0 <= a < 6 and 0 <= c < 6]
        assert image['hidden neighbours of a hidden pixel, share'][b] == pytest.approx(np.mean(around))
        runs = [len(r) for r in ''.join('x' if v else ' ' for v in h).split()]
        assert text['run of hidden bytes, mean length'][b] == pytest.approx(np.mean(runs))
        spaces = [v in SPACES for v, was in zip(ids[b].tolist(), h) if was]
        assert text['spaces among the hidden bytes, share'][b] == pytest.approx(np.mean(spaces))


def test_pairs_are_what_loops_count():
    often = torch.tensor([0.2, 0.4, 0.5, 0.5, 0.8, 0.9])
    hidden = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < often
    hidden[:, 2] = hidden[:, 3]
    values = mask_statistics.measure(hidden, {}, None, False, {'some': [(0, 1), (2, 3)], 'one': [(4, 5)]})
    both = [((r[0] and r[1]) + (r[2] and r[3])) / 2 for r in hidden.tolist()]
    np.testing.assert_allclose(values['some: both hidden'], both)
    C = np.corrcoef(hidden.numpy().T)
    assert values['some: correlation'].mean().item() == pytest.approx((C[0, 1] + 1) / 2)
    assert values['one: correlation'].mean().item() == pytest.approx(C[4, 5])


def test_higgs_groups_are_of_one_object():
    *objects, masses = mask_statistics.HIGGS_GROUPS.values()
    assert [[*map(len, groups)] for groups in objects] == [[3], [2], [4] * 4] and len(masses) == 11
    for names in (names for groups in objects for names in groups):
        assert len({name.split('_')[0] for name in names}) == 1
    assert all(m.startswith('m_') and {m, part} <= set(HIGGS_COLUMNS) for m, part in masses)


def test_reconstruction_leaves_visible_inputs_alone():
    model = tiny_model(2, 9)
    x, hidden = torch.randn(4, 9, 2), torch.rand(4, 9).argsort(1) < 3
    with torch.no_grad():
        answer, x_hat = mask_statistics.reconstruct(model, x, hidden), model.embed(x)
        assert torch.equal(answer[~hidden], x[~hidden])
        for b in range(4):  # one sample, one hidden input at a time
            H, H_filled = model.encode(x_hat[b:b + 1, ~hidden[b]])
            for j in hidden[b].nonzero()[:, 0]:
                torch.testing.assert_close(answer[b, j], model.decode(H, H_filled, j[None, None])[0, 0])


# -----------------------------------------------------------------------------
# --show

def test_masks_of_a_table(run, table, tmp_path, read_picture):
    """A model trained with random masks shows the guided ones it would choose; the map is a correlation."""
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all').stdout
    assert re.search(r'300 masks, ratio 0.4.* guided +random\n', out) and 'also hidden in another view' in out
    assert re.search(r'by guided_exact, the same queries +1\.0000', out)  # with one query they are the same
    rows = [line.split() for line in out.splitlines() if re.match(r'c\d ', line)]
    C = np.array([[0 if v == '.' else int(v) for v in r[1:]] for r in rows])
    assert C.shape == (6, 6) and (C == C.T).all() and (abs(C) <= 100).all() and C.any()
    assert [r[1 + i] for i, r in enumerate(rows)] == ['.'] * 6
    share = [float(part.split()[1]) for part in re.search('each is hidden: (.*)', out)[1].split(', ')]
    assert np.mean(share) == pytest.approx(2 / 6, abs=0.01)  # round(0.4 * 6) of 6
    read_picture(tmp_path / 'ckpt/masks.png')


@pytest.mark.slow
def test_masks_of_text_when_piped(run, tmp_path, read_picture):
    """As many characters are blocks as the ratio says, and the others are the text's."""
    text = 'the quick brown fox jumps over the lazy dog'
    (tmp_path / 's.txt').write_text('\n'.join([text, 'a short one'] * 30))
    tiny(tmp_path, 's.txt', 0, 48, n_latent=4)
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all').stdout
    assert '\033' not in out
    lines = {line[:14].strip(): line[15:] for line in out.splitlines()[-20:]}
    assert lines['reference'] == f'·{text}·'
    for name in ('word', 'random', 'guided 1', 'guided 2'):
        marked = [c in '█░' for c in lines[name]]
        assert sum(marked) == round(0.4 * 45)
        assert all(m or c == r for m, c, r in zip(marked, lines[name], lines['reference']))
    assert 'run of hidden bytes' in out
    pixels = read_picture(tmp_path / 'ckpt/masks.png')
    red = (pixels[..., 0] > 0.7) & (pixels[..., 1:].max(-1) < 0.3)
    assert 0.4 * 4 / 5 * 45 / 115 / 2 < red.mean() < 0.4 * 4 / 5 * 45 / 115  # the cells without their letters


@pytest.mark.slow
@pytest.mark.parametrize('options, kind', [
    ([], 'guided'), (['--mask=patch'], 'patch'), (['--mask=random'], 'random')])
def test_masks_of_images_are_those_asked_for(run, tmp_path, read_picture, monkeypatch, options, kind):
    """Reference, baselines, two views of the mask asked for, the answer; each at least 2 inches, four rows."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / 'i.npz', X=rng.random((20, 64, 3)).astype(np.float32))
    tiny(tmp_path, 'i.npz', 3, 64, n_latent=4)
    asked = []
    choose = SMA.choose_mask
    monkeypatch.setattr(SMA, 'choose_mask', lambda self, x, x_hat, valid, how, *more: asked.append(how.mask) or
                        choose(self, x, x_hat, valid, how, *more))
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all', '--show_out=pics', *options).stdout
    assert asked == ['patch', 'random', kind, kind] + ['guided_exact'] * (kind == 'guided')
    assert 'hidden neighbours of a hidden pixel' in out and ('guided_exact' in out) == (kind == 'guided')
    pixels = read_picture(tmp_path / 'pics/masks.png')
    assert pixels.shape[1] >= 6 * 200 and pixels.shape[0] >= 4 * 200
    grey = (abs(pixels - 0.6) < 0.01).all(-1)  # hidden pixels: none in the reference and in the answer
    share = [part.mean() for part in np.array_split(grey, 6, axis=1)]
    assert max(share[0], share[5]) < 0.01 and min(share[1:5]) > 0.25


def test_only_higgs_columns_get_their_names(run, tmp_path, no_matplotlib):
    numbers(tmp_path, 28)  # 28 columns without names are c0 to c27
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all').stdout
    assert 'lepton' not in out and 'm_jj' not in out and '\n c0 ' in out
    x = np.load(tmp_path / 't.npz')['X']
    lines = [','.join(map(str, row)) for row in [HIGGS_COLUMNS, *x]]
    (tmp_path / 'h.csv').write_text('\n'.join(lines))
    tiny(tmp_path, 'h.csv', 1, 28, columns=HIGGS_COLUMNS)
    out = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all').stdout
    assert out.count('lepton pt, eta, phi: ') == 2 and 'a mass and a part of it: correlation' in out


@pytest.mark.parametrize('n_latent', [0, 5])
def test_overlap_counts_choices_made_before(run, tmp_path, read_picture, monkeypatch, n_latent):
    numbers(tmp_path, 12, n_latent)
    attention, seen = SMA.attention, []

    def watched(self, x_hat, valid, R):
        seen.append((valid, R, attention(self, x_hat, valid, R)))
        return seen[-1][-1]
    monkeypatch.setattr(SMA, 'attention', watched)
    out = run('eval.py', '--ckpt=ckpt', '--show=overlap', '--inputs_per_query=2',
              '--split=all').stdout.splitlines()
    head = next(i for i, line in enumerate(out) if 'queries' in line)
    rows = [[float(v) for v in line.split()] for line in out[head + 1:head + 1 + len(seen)]]
    assert [r[0] for r in rows] == [4, 6, 7, 9, 10, 12]
    for (n, m, k, value, chance, hidden), (valid, R, A) in zip(rows, seen):
        assert m == max(round(0.4 * n / k), 1) and k == 2
        assert hidden == pytest.approx((1 - value) * m * k / n, abs=2e-3)
        assert chance == pytest.approx(1 - n * (1 - (1 - k / n) ** m) / (m * k), abs=1e-3)
        assert valid.shape == (64, 12) and (valid.sum(1) == n).all()
        assert (valid[0] != valid[1]).any() == (n < 12)
        again = 0
        for b in range(64):
            made = set()
            assert len(set(R[b].tolist())) == m and (n_latent or valid[b, R[b]].all())
            for row in A[b].sum(0).tolist():
                for j in sorted(range(12), key=lambda j: -row[j])[:2]:
                    again += j in made
                    made.add(j)
        assert value == pytest.approx(again / (64 * m * k), abs=1e-3)
    assert any(r[3] > 0.05 for r in rows)
    read_picture(tmp_path / 'ckpt/overlap.png')


def test_curves(run, tmp_path, read_picture):
    for name, losses in (('a', [3.0, 2.0, 1.0]), ('b', [1.0, 1.0, 4.0])):
        (tmp_path / name).mkdir()
        lines = [json.dumps(dict(step=10 * i, loss=v, lr=1.0)) for i, v in enumerate(losses)]
        half = '{"step": 40, "lo'  # still being written
        (tmp_path / name / 'log.jsonl').write_text('\n'.join([*lines, half]))
    (tmp_path / 'ft').mkdir()
    entry = dict(init_from='scratch', lr=0.1, seed=3, step=5, val_score=0.5)
    (tmp_path / 'ft/log.jsonl').write_text(json.dumps(entry) + '\n')
    out = run('eval.py', '--show=curves', '--runs=a,b,ft', '--show_out=pics').stdout
    assert '█▅▁' in out and '3 -> 1  a\n' in out and '▁▁█' in out and '\nlr' not in out
    assert '0.5 -> 0.5  ft: scratch lr 0.1 seed 3' in out
    pixels = read_picture(tmp_path / 'pics/curves.png')
    for blue_orange in ((31, 119, 180), (255, 127, 14)):  # curves of some height
        assert (abs(pixels * 255 - blue_orange) < 2).all(-1).any(1).mean() > 0.2
    (tmp_path / 'b/log.jsonl').write_text('{not json}')
    for name in 'bc':
        assert f'runs={name}' in run('eval.py', '--show=curves', f'--runs=a,{name}', status=2).stderr


def test_without_matplotlib_the_text_is_printed(run, table, tmp_path, no_matplotlib):
    done = run('eval.py', '--ckpt=ckpt', '--show=masks', '--split=all')
    assert 'matplotlib is not installed' in done.stdout.splitlines()[-1]
    assert 'how often each is hidden' in done.stdout and not done.stderr and not list(tmp_path.rglob('*.png'))


# -----------------------------------------------------------------------------
# scores, embeddings, probes

@dataclasses.dataclass(frozen=True)
class Wider(masking.Masking):
    """Masking as a user may extend it."""
    blend: float = 0.0
    heat: float = 1.0


def test_a_field_added_to_masking_comes_from_the_checkpoint(run, table, tmp_path, monkeypatch, no_matplotlib):
    seen = []
    choose = SMA.choose_mask
    monkeypatch.setattr(masking, 'Masking', Wider)
    monkeypatch.setattr(SMA, 'choose_mask', lambda self, x, x_hat, valid, how, *more: seen.append(how) or
                        choose(self, x, x_hat, valid, how, *more))
    tiny(tmp_path, 't.npz', 1, 6, columns=[f'c{i}' for i in range(6)], blend=0.7, n_query=3, mask='guided')
    run('eval.py', '--ckpt=ckpt')
    assert set(seen) == {Wider('guided', 0.4, 3, blend=0.7)}
    run('eval.py', '--ckpt=ckpt', '--mask=random', '--n_query=2', '--mask_ratio=0.5')
    assert seen[-1] == Wider('random', 0.5, 2, blend=0.7)
    run('eval.py', '--ckpt=ckpt', '--show=masks')
    assert {how.blend for how in seen} == {0.7} and seen[-1].mask == 'guided_exact'


def write_csv(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4))
    lines = [','.join(map(str, [*row, int(row.sum() > 0)])) for row in x]
    (tmp_path / 't.csv').write_text('\n'.join(['a,b,c,d,side', *lines]))
    return lines


def pretrained(run, *options):
    run('pretrain.py', *TINY, '--max_steps=3', '--warmup_steps=1', '--mask_ratio=0.4', *options)


def test_masked_loss_is_the_logged_one(run, tmp_path):
    write_csv(tmp_path)
    pretrained(run, '--dataset=t.csv', '--label_column=side', '--val_share=0.2', '--out_dir=pre')
    logged = json.loads((tmp_path / 'pre/log.jsonl').read_text().splitlines()[-1])
    options = ['--ckpt=pre', '--split=val', '--batch_size=16', '--device=cpu']
    assert f'guided masks, ratio 0.4: {logged["val_loss"]:.4f}' in run('eval.py', *options).stdout
    out = run('eval.py', *options, '--mask=random').stdout
    assert f'random masks, ratio 0.4: {logged["val_loss_random"]:.4f}' in out


def test_score_of_a_fine_tuned_checkpoint_is_that_of_the_table(run, tmp_path):
    lines = write_csv(tmp_path)
    run('finetune.py', *TINY, '--dataset=t.csv', '--label_column=side', '--val_share=0.2', '--test_share=0.3',
        '--init_from=scratch', '--out_dir=ft', '--epochs=3', '--seeds=0', '--lr=3e-3')
    r = json.loads((tmp_path / 'ft/results.jsonl').read_text())
    ckpt = '--ckpt=ft/scratch-lr0.003-seed0.pt'
    for split in ('test', 'val'):
        out = run('eval.py', ckpt, f'--split={split}', '--device=cpu').stdout
        assert re.search(rf'accuracy on \d+ {split} rows: {r[split][0]:.4f}\n', out)
        for name, value in r['means'].items() if split == 'test' else ():
            assert re.search(rf'{name}( of 1)? on \d+ test rows: {value:.4f}\n', out)
    # another file, whose columns are found by name, and a fine-tuned model has vectors too
    turned = (','.join(line.split(',')[::-1]) for line in ['a,b,c,d,side', *lines])
    (tmp_path / 'new.csv').write_text('\n'.join(turned))
    same = [run('eval.py', ckpt, *more, '--split=all').stdout.splitlines()[-1]
            for more in ([], ['--dataset=new.csv', '--label_column=side'])]
    assert same[0] == same[1] and 'on 120 all rows' in same[0]
    assert '120 vectors of 16' in run('eval.py', ckpt, '--embed=new.csv').stdout
    for option in ('--show=masks', '--n_query=2'):
        assert 'hides nothing' in run('eval.py', ckpt, option, status=2).stderr


def read_predictions(path):
    with open(path, newline='') as f:
        return [*csv.DictReader(f)]


@pytest.mark.parametrize('target', ['binary', 'multiclass', 'regression'])
def test_predictions_of_a_users_file(run, tmp_path, target):
    """A recount from the CSV is the score that is printed; rows without labels get the same answers."""
    rng = np.random.default_rng(0)
    x, colour = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    v = x.sum(1) + colour
    y = {'binary': np.where(v > 0, 'yes', 'no'),
         'multiclass': np.digitize(v, (-1, 1)),
         'regression': 500 + 100 * v}
    rows = [','.join(map(str, [*x[i], ['red', 'blue'][colour[i]], y[target][i]])) for i in range(300)]
    (tmp_path / 't.csv').write_text('\n'.join(['a,b,c,colour,y', *rows]))
    run('finetune.py', *TINY, '--dataset=t.csv', '--label_column=-1', '--val_share=0.2', '--init_from=scratch',
        '--epochs=4', '--seeds=0', '--lr=3e-3', '--out_dir=ft', f'--target={target}')
    ckpt = ['--ckpt=ft/scratch-lr0.003-seed0.pt', '--device=cpu']
    assert 't.predictions.csv: 300 predictions' in run('eval.py', *ckpt, '--predict=t.csv').stdout
    answers = read_predictions(tmp_path / 't.predictions.csv')
    assert [int(a['row']) for a in answers] == [*range(1, 301)]
    printed = run('eval.py', *ckpt, '--split=all').stdout
    if target == 'regression':
        error = np.array([float(a['prediction']) for a in answers]) - y[target]
        rmse = np.sqrt((error ** 2).mean())
        assert f'rmse on 300 all rows: {rmse:.4f}'[:-2] in printed and len(answers[0]) == 2
    else:
        right = np.mean([a['prediction'] == str(label) for a, label in zip(answers, y[target])])
        assert f'accuracy on 300 all rows: {right:.4f}' in printed
        for a in answers:
            shares = {k[2:-1]: float(p) for k, p in a.items() if k.startswith('p(')}
            assert {*shares} == {*map(str, y[target])} and abs(sum(shares.values()) - 1) < 1e-5
            assert shares[a['prediction']] == max(shares.values())
        table = run('eval.py', *ckpt, '--split=all', '--show=confusion').stdout.splitlines()
        classes = sorted({*map(str, y[target])})
        for name, line in zip(classes, table[-len(classes):]):
            counts = [sum(a['prediction'] == k and str(label) == name for a, label in zip(answers, y[target]))
                      for k in classes]
            assert line.split() == [name, *map(str, counts)]
    # no labels, other columns in another order, a colour that nobody knows, a hole
    lines = [f'z,{colour},{",".join(map(str, row[::-1]))}' for colour, row in zip(('blue', 'red'), x[:2])]
    (tmp_path / 'new.csv').write_text('\n'.join(['x,colour,c,b,a', *lines]))
    (tmp_path / 'odd.csv').write_text('\n'.join(['x,colour,c,b,a', *lines, 'z,green,1,2,3', 'z,red,,2,3']))
    run('eval.py', *ckpt, '--predict=new.csv')
    for a, i in zip(read_predictions(tmp_path / 'new.predictions.csv'), (0, 1)):
        same = [','.join(map(str, x[i])), ['blue', 'red'][i]]
        (tmp_path / 'one.csv').write_text('a,b,c,colour\n' + ','.join(same))
        run('eval.py', *ckpt, '--predict=one.csv')
        one, = read_predictions(tmp_path / 'one.predictions.csv')
        assert one.pop('prediction')[:6] == a['prediction'][:6]
        keys = [k for k in one if k != 'row']
        assert [float(one[k]) for k in keys] == pytest.approx([float(a[k]) for k in keys], abs=3e-6)
    err = run('eval.py', *ckpt, '--predict=odd.csv', status=2).stderr
    assert "'green' is not a finite number, nor one of the texts" in err
    assert not (tmp_path / 'odd.predictions.csv').exists()
    said = run('eval.py', *ckpt, '--predict=odd.csv', '--missing=mean').stdout
    answers = read_predictions(tmp_path / 'odd.predictions.csv')
    assert "1 cells say 'green', which is not known" in said and len(answers) == 4
    err = run('eval.py', *ckpt, '--predict=odd.csv', '--missing=drop', status=2).stderr
    assert 'take them out first' in err


def test_predictions_of_pictures_have_their_names(run, tmp_path):
    from pictures import put
    for i in range(24):
        put(tmp_path / f'p/{"ab"[i % 2]}/{i:02}.png', i)
    (tmp_path / 'new').mkdir()
    for name in ('z.png', 'y.png'):
        put(tmp_path / f'new/{name}', 5)
    run('finetune.py', *TINY, '--dataset=p', '--image_size=8', '--init_from=scratch', '--epochs=1', '--seeds=0',
        '--batch_size=8', '--val_share=0.3', '--test_share=0.3', '--out_dir=ft')
    ckpt = ['--ckpt=ft/scratch-lr0.001-seed0.pt', '--device=cpu']
    run('eval.py', *ckpt, '--predict=new')
    y, z = read_predictions(tmp_path / 'new.predictions.csv')
    names = (y.pop('row'), z.pop('row'))
    assert names == ('y.png', 'z.png') and y == z and [*y] == ['prediction', 'p(a)', 'p(b)']
    run('eval.py', *ckpt, '--embed=p')
    names = (tmp_path / 'p.embeddings.rows.txt').read_text().split()
    assert names == [f'a/{i:02}.png' for i in range(0, 24, 2)] + [f'b/{i:02}.png' for i in range(1, 24, 2)]
    assert np.load(tmp_path / 'p.embeddings.npy').shape == (24, 16)


def test_embeddings_of_a_users_file(run, tmp_path):
    """A vector a row, in the order of the file, labels or not, of that file alone; bytes as well as floats."""
    lines = write_csv(tmp_path)
    (tmp_path / 'v.csv').write_text((tmp_path / 't.csv').read_text())
    pretrained(run, '--dataset=t.csv', '--val_file=v.csv', '--label_column=side', '--out_dir=pre')
    assert '120 vectors of 16' in run('eval.py', '--ckpt=pre', '--embed=t.csv').stdout
    vectors = np.load(tmp_path / 't.embeddings.npy')
    assert vectors.shape == (120, 16) and vectors.dtype == np.float32
    assert (tmp_path / 't.embeddings.rows.txt').read_text().split() == [str(i) for i in range(1, 121)]
    two = [','.join(lines[i].split(',')[:4]) for i in (7, 2)]
    (tmp_path / 'two.csv').write_text('\n'.join(['a,b,c,d', *two]))
    run('eval.py', '--ckpt=pre', '--embed=two.csv', '--embed_out=x/v.npy')
    np.testing.assert_allclose(np.load(tmp_path / 'x/v.npy'), vectors[[7, 2]], atol=1e-5)
    (tmp_path / 's.txt').write_text('\n'.join('abc' * (i % 7 + 1) for i in range(60)))
    pretrained(run, '--dataset=s.txt', '--out_dir=text', '--n_latent=3')
    assert '60 vectors of 16' in run('eval.py', '--ckpt=text', '--embed=s.txt').stdout
    v = np.load(tmp_path / 's.embeddings.npy')
    np.testing.assert_allclose(v[0], v[7], atol=1e-5)  # the same text
    assert abs(v[0] - v[1]).max() > 1e-5


def test_paths_may_begin_with_a_tilde(run, table, tmp_path, monkeypatch, no_matplotlib):
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    run('pretrain.py', '--dataset=t.npz', '--max_steps=2', '--warmup_steps=1', '--out_dir=~/pre')
    run('pretrain.py', '--init_from=~/pre', '--dataset=t.npz', '--max_steps=2', '--warmup_steps=1')
    run('finetune.py', '--init_from=~/pre', '--max_steps=2', '--warmup_steps=1', '--seeds=0',
        '--out_dir=~/fine')
    run('eval.py', '--ckpt=~/pre', '--embed=t.npz', '--embed_out=~/v.npy')
    shown = run('eval.py', '--show=curves', '--runs=~/pre,~/fine', '--show_out=~/pictures').stdout
    assert len(np.load(tmp_path / 'home/v.npy')) == 300
    assert 'val_loss_random' in shown and 'val_score' in shown and not (tmp_path / '~').exists()


def test_probe_of_a_checkpoint(run, table):
    out = run('eval.py', '--ckpt=ckpt', '--probe', '--n_train=100').stdout
    assert 'target: binary, as the labels have 2 values' in out  # a guess, and so it is said
    assert re.search(r'probe_knn, accuracy on \d\d test rows, 100 labels: 0\.', out) and 'probe_linear' in out
    assert 'on 300 all rows, 173 labels' in run('eval.py', '--ckpt=ckpt', '--probe', '--split=all').stdout


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
    dataset = open_dataset(**{**KNOBS, 'dataset': str(tmp_path / 't.npz'), 'data_dir': str(tmp_path / 'd')})
    dataset.norm = fit_norm(dataset, dataset.rows('train'), 'standard')
    model = tiny_model(1, 6)

    def vectors(rows):
        with torch.no_grad():
            return model.features(dataset.batch(rows)[0])
    task, labelled, _ = infer_task(dataset, target, metric, ('train', 'val'))
    learn, rows = labelled['train'], labelled['val']
    ours = eval_py.probe_rows(vectors, dataset, task, learn, rows)

    scale = StandardScaler().fit(vectors(learn).double().numpy())
    X, Z = (scale.transform(vectors(r).double().numpy()) for r in (learn, rows))
    a, b = dataset.y[learn], dataset.y[rows]
    if target == 'regression':
        readers = KNeighborsRegressor(20, metric='cosine'), Ridge(alpha=1.0)
        # the labels are standardised, which leaves ridge with an intercept its predictions
        theirs = [root_mean_squared_error(b, r.fit(X, a).predict(Z)) for r in readers]
    else:
        readers = KNeighborsClassifier(20, metric='cosine'), LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
        theirs = [roc_auc_score(b, r.fit(X, a).predict_proba(Z)[:, 1]) if target == 'binary' else
                  accuracy_score(b, r.fit(X, a).predict(Z)) for r in readers]
    assert [ours['probe_knn'], ours['probe_linear']] == pytest.approx(theirs, abs=1e-4)
    assert theirs[1] < 0.8 * b.std() if target == 'regression' else theirs[1] > 0.6  # something is there


@pytest.mark.parametrize('options, word', [
    ([], '--ckpt'), (['--show=masks'], 'which checkpoint'), (['--ckpt=nowhere'], 'no checkpoint nowhere'),
    (['--ckpt=ckpt', '--show=mask'], 'masks, overlap, curves'), (['--ckpt=ckpt', '--split=valid'], 'split='),
    (['--ckpt=ckpt', '--show=masks', '--probe'], 'at a time'),
    (['--ckpt=ckpt', '--embed=t.npz', '--test_file=t.npz'], 'leave val_file and test_file unset'),
    (['--ckpt=ckpt', '--batch_size=0'], 'batch_size=0'),
    (['--ckpt=ckpt', '--show=masks', '--show_out=t.npz'], 'is a file'),
    (['--ckpt=ckpt', '--mask=gided'], "'guided'"), (['--ckpt=ckpt', '--show=masks', '--mask=word'], 'word'),
    (['--ckpt=ckpt', '--n_query=0'], 'n_query=0'), (['--ckpt=ckpt', '--embed=s.txt'], 'wants 6 inputs'),
    (['--ckpt=ckpt', '--show=overlap'], 'inputs_per_query'), (['--ckpt=ckpt', '--predict=t.npz'], 'no labels'),
    (['--ckpt=ckpt', '--show=confusion'], 'no classes'),
    (['--ckpt=ckpt', '--predict=a', '--embed=b'], 'at a time'),
    (['--ckpt=ckpt', '--probe', '--target=regression', '--metric=f1'], 'does not fit')])
def test_mistakes_end_in_one_line(run, table, tmp_path, options, word):
    (tmp_path / 's.txt').write_text('abc\n' * 90)
    err = run('eval.py', *options, status=2).stderr
    assert err.startswith('error: ') and word in err and err.count('\n') == 1


# ---- nothing is lost, nothing is silent

def test_the_file_that_is_embedded_is_not_overwritten(run, tmp_path):
    (tmp_path / 'seqs.txt').write_text('\n'.join('abc' * (i % 7 + 1) for i in range(60)))
    text = (tmp_path / 'seqs.txt').read_text()
    pretrained(run, '--dataset=seqs.txt', '--out_dir=text', '--n_latent=3')
    run('eval.py', '--ckpt=text', '--embed=seqs.txt', '--embed_out=seqs.npy')
    assert (tmp_path / 'seqs.txt').read_text() == text and np.load(tmp_path / 'seqs.npy').shape == (60, 16)
    assert (tmp_path / 'seqs.rows.txt').read_text().split()[:2] == ['1', '2']
    err = run('eval.py', '--ckpt=text', '--embed=seqs.txt', '--embed_out=v.txt', status=2).stderr
    assert 'must end in .npy' in err and not (tmp_path / 'v.txt').exists()


def test_an_array_that_is_embedded_is_not_overwritten(run, table, tmp_path):
    np.save(tmp_path / 'x.npy', np.zeros((5, 6), np.float32))
    err = run('eval.py', '--ckpt=ckpt', '--embed=x.npy', '--embed_out=x.npy', status=2).stderr
    assert 'x.npy is read, and would be replaced' in err and np.load(tmp_path / 'x.npy').shape == (5, 6)


@pytest.mark.parametrize('option, file', [
    ('--embed=x.npy,y.npy --embed_out=y.npy', 'y.npy'), ('--embed=u.embeddings.npy', None),
    ('--embed=w.embeddings.npy --embed_out=./w.embeddings.npy', 'w.embeddings.npy'),
    ('--embed=v.rows.txt --embed_out=v.npy', 'v.rows.txt')])
def test_no_file_that_is_read_is_replaced(run, table, tmp_path, option, file):
    for name in ('x.npy', 'u.embeddings.npy', 'w.embeddings.npy'):
        np.save(tmp_path / name, np.zeros((5, 6), np.float32))
    np.save(tmp_path / 'y.npy', np.zeros(5))
    (tmp_path / 'v.rows.txt').write_text('a\nb\n')
    before = {path: path.read_bytes() for path in tmp_path.glob('*.*')}
    done = run('eval.py', '--ckpt=ckpt', *option.split(), status=0 if file is None else 2)
    if file is not None:
        assert f'{file} is read, and would be replaced' in done.stderr
    assert before == {path: path.read_bytes() for path in before}


def test_names_of_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'photos.v2').mkdir()
    named = {name: eval_py.output_stem(name) for name in ('new.2023.csv', 'new.2024.csv.gz', '../b/x.npy,y.npy',
                                                          'photos.v2', '.')}
    assert named == {'new.2023.csv': 'new.2023', 'new.2024.csv.gz': 'new.2024', '../b/x.npy,y.npy': 'b-x',
                     'photos.v2': 'photos.v2', '.': tmp_path.name}


def test_files_of_one_name_have_outputs_of_their_own(run, table, tmp_path):
    for folder in 'ab':
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / 'x.npy', np.full((3, 6), ord(folder), np.float32))
        run('eval.py', '--ckpt=ckpt', f'--embed={folder}/x.npy')
    a, b = np.load(tmp_path / 'a-x.embeddings.npy'), np.load(tmp_path / 'b-x.embeddings.npy')
    assert a.shape == b.shape and (a != b).any()


def test_scores_recomputed_from_the_predictions_are_the_printed_ones(run, tmp_path):
    """A target near 1.7e9 with a spread of hundreds keeps its digits."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = 1.7e9 + 500 * x.sum(1) + rng.normal(size=300)
    lines = [','.join(repr(float(v)) for v in [*row, label]) for row, label in zip(x, y)]
    (tmp_path / 't.csv').write_text('\n'.join(['a,b,c,when', *lines]))
    run('finetune.py', *TINY, '--dataset=t.csv', '--label_column=when', '--val_share=0.2', '--test_share=0.2',
        '--init_from=scratch', '--epochs=3', '--seeds=0', '--lr=3e-3', '--out_dir=ft')
    ckpt = ['--ckpt=ft/scratch-lr0.003-seed0.pt', '--device=cpu']
    printed = run('eval.py', *ckpt, '--split=all').stdout
    run('eval.py', *ckpt, '--predict=t.csv')
    predicted = np.array([float(row['prediction']) for row in read_predictions(tmp_path / 't.predictions.csv')])
    rmse = np.sqrt(((predicted - y) ** 2).mean())
    assert f'rmse on 300 all rows: {rmse:.4f}' in printed and rmse < 2000


def test_a_row_whose_loss_is_not_finite_is_named_and_left_out(run, tmp_path):
    """One huge value in a validation row: the loss of the others is a number, and best.pt is written."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    part = np.array(['train'] * 100 + ['val'] * 20)
    x[110] = 3e38
    lines = [','.join([*(str(v) for v in row), name]) for row, name in zip(x, part)]
    (tmp_path / 't.csv').write_text('\n'.join(['a,b,c,d,part', *lines]))
    done = run('pretrain.py', *TINY, '--dataset=t.csv', '--split_column=part', '--max_steps=4',
               '--eval_interval=2', '--log_interval=2', '--warmup_steps=0', '--out_dir=pre')
    assert '1 of 20 rows are left out, as their loss is not finite: check the inputs of row 111' in done.stdout
    log = [json.loads(line) for line in (tmp_path / 'pre/log.jsonl').read_text().splitlines()]
    assert all(0 < entry['val_loss'] < 100 for entry in log) and (tmp_path / 'pre/best.pt').exists()


def test_curves_of_a_log_with_null(run, tmp_path, no_matplotlib):
    (tmp_path / 'a').mkdir()
    lines = [json.dumps(dict(step=i, loss=1.0 / i, val_loss=None)) for i in (1, 2, 3)]
    (tmp_path / 'a/log.jsonl').write_text('\n'.join(lines))
    out = run('eval.py', '--show=curves', '--runs=a').stdout
    assert '1 -> 0.3333  a' in out and 'val_loss' not in out


def test_pre_training_prints_the_loss_of_a_constant_prediction(run, tmp_path):
    write_csv(tmp_path)
    out = run('pretrain.py', *TINY, '--dataset=t.csv', '--label_column=side', '--val_share=0.2',
              '--max_steps=2', '--warmup_steps=0', '--out_dir=pre').stdout
    value = float(re.search(r'val_loss of a constant prediction: (\d+\.\d+)', out)[1])
    assert 0.7 < value < 1.4  # scaled inputs: about their variance
