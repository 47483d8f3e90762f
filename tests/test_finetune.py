"""finetune.py and eval.py as a user runs them: every kind of label, honest selection, the same score from both."""

import json
import re

import numpy as np
import pytest
import torch

TINY = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--device=cpu']
PRE = [*TINY, '--batch_size=16', '--max_steps=3', '--warmup_steps=1', '--mask_ratio=0.4']
FINE = [*TINY, '--batch_size=16', '--epochs=3', '--lr=3e-3', '--n_train=None', '--dropout=0', '--seeds=0']


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    total = x.sum(1)
    kind = np.array(['low', 'middle', 'top'])[np.digitize(total, (-1, 1))]
    rows = [[*x[i], total[i] * 100 + 5000, int(total[i] > 0), kind[i]] for i in range(300)]
    text = 'a,b,c,d,value,side,kind\n' + '\n'.join(','.join(map(str, row)) for row in rows)
    (tmp_path / 't.csv').write_text(text)
    return ['--dataset=t.csv', '--input_column=a,b,c,d', '--valid_share=0.2', '--test_share=0.2']


def results(folder):
    return [json.loads(line) for line in (folder / 'results.jsonl').read_text().splitlines()]


def test_binary_from_scratch_and_pretrained_and_its_score_again(run, table, tmp_path):
    """A table row for each start, the test score equal to eval.py's and to a recount from the predictions."""
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre')
    done = run('finetune.py', *FINE, *table, '--label_column=side', '--target=binary',
               '--init_from=scratch,pre/random,pre/guided', '--out_dir=ft', '--seeds=0,1', '--lr=3e-3,1e-5')
    rows = results(tmp_path / 'ft')
    assert [r['mask'] for r in rows] == [None, 'random', 'guided']
    saved = (tmp_path / 'ft/results.md').read_text()
    assert '| none (scratch) |' in done.stdout and '| guided masks (pre/guided) |' in saved
    for r, name in zip(rows, ('scratch', 'pre-random', 'pre-guided')):
        for i, seed in enumerate((0, 1)):
            path = f'ft/{name}-lr{r["lr"]:g}-seed{seed}.pt'
            out = run('eval.py', f'--ckpt={path}', '--device=cpu').stdout if seed == 0 else None
            if out:
                assert f'accuracy on 60 test rows: {r["test"][i]:.4f}' in out
                out = run('eval.py', f'--ckpt={path}', '--split=valid', '--device=cpu').stdout
                assert f': {r["valid"][i]:.4f}' in out
        # the learning rate is the one that validates best, whatever the test says
        valid = {lr: np.mean([torch.load(tmp_path / f'ft/{name}-lr{lr:g}-seed{s}.pt', weights_only=True)['valid']
                              for s in (0, 1)])
                 for lr in (3e-3, 1e-5)}
        assert r['lr'] == max(valid, key=valid.get) and np.isclose(np.mean(r['valid']), max(valid.values()))
        line = next(text for text in done.stdout.splitlines() if text.startswith('|') and (r['init_from'] in text))
        mean, std = re.search(r'\| ([\d.]+) ± ([\d.]+) \|', line).groups()
        assert float(mean) == round(np.mean(r['test']), 4) and float(std) == round(np.std(r['test'], ddof=1), 4)
    assert np.mean(rows[0]['test']) > 0.8  # a sum of four numbers can be learned


def test_weights_come_from_the_checkpoint_and_the_head_is_new(run, table, tmp_path):
    """With a learning rate of next to nothing, the encoder is still the pre-trained one."""
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre', '--mask=guided')
    run('finetune.py', *FINE, *table, '--label_column=side', '--target=binary', '--init_from=pre/guided',
        '--out_dir=ft', '--lr=1e-12')
    old = torch.load(tmp_path / 'pre/guided/last.pt', weights_only=True)
    new = torch.load(tmp_path / 'ft/pre-guided-lr1e-12-seed0.pt', weights_only=True)
    for name, w in new['model'].items():
        assert name.startswith('head') or torch.allclose(w, old['model'][name], atol=1e-6), name
    assert not any(name.startswith('decoder') for name in new['model'])
    assert all(torch.equal(new['norm'][k], old['norm'][k]) for k in ('mean', 'std'))


def test_regression_is_scored_in_the_labels_units(run, table, tmp_path):
    run('finetune.py', *FINE, *table, '--label_column=value', '--target=regression', '--init_from=scratch',
        '--out_dir=ft', '--epochs=12')
    r, = results(tmp_path / 'ft')
    assert r['metric'] == 'rmse' and 5 < r['test'][0] < 150  # labels have a mean of 5,000 and a deviation of 200
    assert f': {r["test"][0]:.4f}' in run('eval.py', '--ckpt=ft/scratch-lr0.003-seed0.pt', '--device=cpu').stdout


def test_classes_may_be_text_and_other_files_are_scored_by_name(run, table, tmp_path):
    run('finetune.py', *FINE, *table, '--label_column=kind', '--target=multiclass', '--init_from=scratch',
        '--out_dir=ft')
    lines = (tmp_path / 't.csv').read_text().splitlines()
    (tmp_path / 'new.csv').write_text('\n'.join([lines[0]] + [line for line in lines[1:] if not line.endswith('low')]))
    common = ['--ckpt=ft/scratch-lr0.003-seed0.pt', '--input_column=a,b,c,d', '--label_column=kind',
              '--split=all', '--device=cpu']
    score = float(run('eval.py', *common, '--dataset=new.csv').stdout.split(': ')[-1])
    assert score > 0.5  # 'middle' is class 1 there although it is the first label of the new file
    (tmp_path / 'odd.csv').write_text((tmp_path / 'new.csv').read_text().replace('top', 'huge'))
    assert "'huge'" in run('eval.py', *common, '--dataset=odd.csv', status=2).stderr


def test_n_train_draws_labelled_rows_by_seed_and_resume_keeps_finished_runs(run, table, tmp_path):
    options = [*FINE, *table, '--label_column=side', '--target=binary', '--init_from=scratch', '--out_dir=ft',
               '--n_train=40', '--epochs=1']
    run('finetune.py', *options)
    path = tmp_path / 'ft/scratch-lr0.003-seed0.pt'
    assert torch.load(path, weights_only=True)['n_train'] == 40
    stamp = path.stat().st_mtime_ns
    run('finetune.py', *options, '--resume', '--seeds=0,1')
    assert path.stat().st_mtime_ns == stamp and len(results(tmp_path / 'ft')) == 2
    assert 'epochs=1' in run('finetune.py', *options, '--resume', '--epochs=2', status=2).stderr


def test_two_processes_are_one(run, two_processes, table, tmp_path):
    """PyTorch's DDP on two gloo processes ends where one process with two micro-batches ends."""
    options = [*FINE, *table, '--label_column=value', '--target=regression', '--init_from=scratch', '--dropout=0.1',
               '--epochs=1']
    run('finetune.py', *options, '--out_dir=one', '--accumulation=2')
    two_processes('finetune.py', *options, '--out_dir=two')
    (a,), (b,) = results(tmp_path / 'one'), results(tmp_path / 'two')
    assert np.isclose(a['valid'], b['valid'], rtol=1e-3) and np.isclose(a['test'], b['test'], rtol=1e-3)


def test_embeddings_of_a_users_file(run, table, tmp_path):
    """A vector a row, in the order of the file, labels or not; bytes as well as floats."""
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre', '--mask=guided')
    run('eval.py', '--ckpt=pre/guided', '--embed=t.csv', '--input_column=a,b,c,d', '--device=cpu')
    vectors = np.load(tmp_path / 't.embeddings.npy')
    assert vectors.shape == (300, 16) and vectors.dtype == np.float32
    lines = (tmp_path / 't.csv').read_text().splitlines()
    (tmp_path / 'two.csv').write_text('\n'.join([lines[0], lines[8], lines[3]]))
    run('eval.py', '--ckpt=pre/guided', '--embed=two.csv', '--input_column=a,b,c,d', '--embed_out=v.npy',
        '--device=cpu')
    np.testing.assert_allclose(np.load(tmp_path / 'v.npy'), vectors[[7, 2]], atol=1e-5)
    (tmp_path / 's.txt').write_text('\n'.join('abc' * (i % 7 + 1) for i in range(60)))
    run('pretrain.py', *PRE, '--dataset=s.txt', '--out_dir=text', '--mask=random', '--n_latent=3', '--valid_share=0.2')
    out = run('eval.py', '--ckpt=text/random', '--embed=s.txt', '--device=cpu').stdout
    assert '60 vectors of 16' in out
    v = np.load(tmp_path / 's.embeddings.npy')
    np.testing.assert_allclose(v[0], v[7], atol=1e-5)  # the same text
    assert abs(v[0] - v[1]).max() > 1e-5


def test_masked_loss_of_a_pretrained_checkpoint_is_the_logged_one(run, table, tmp_path):
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre', '--mask=guided')
    logged = [json.loads(line) for line in (tmp_path / 'pre/guided/log.jsonl').read_text().splitlines()][-1]
    options = ['--ckpt=pre/guided', '--split=valid', '--batch_size=16', '--device=cpu']
    assert f': {logged["val_loss"]:.4f}' in run('eval.py', *options).stdout
    assert f': {logged["val_loss_random"]:.4f}' in run('eval.py', *options, '--mask=random').stdout


def test_mistakes_end_in_one_line(run, table, tmp_path):
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre', '--mask=guided')
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'pre/guided/last.pt').read_bytes()[:3000])
    (tmp_path / 's.txt').write_text('abc\n' * 90)
    fine = [*FINE, *table, '--init_from=scratch', '--target=binary', '--label_column=side']
    for script, options, word in (
            ('finetune.py', ['--init_from=nowhere'], 'no checkpoint nowhere'),
            ('finetune.py', ['--init_from=cut.pt'], 'cut short'),
            ('finetune.py', ['--target=none'], '--target=binary'),
            ('finetune.py', ['--label_column=value'], 'values'),
            ('finetune.py', ['--label_column=value', '--target=multiclass'], 'no class'),
            ('finetune.py', ['--label_column=kind', '--target=regression'], 'text'),
            ('finetune.py', ['--metric=rmse'], 'does not fit'),
            ('finetune.py', ['--n_train=5000'], 'n_train=5000'),
            ('finetune.py', ['--init_from=pre/guided', '--input_column=a,b'], 'seq_len=4'),
            ('eval.py', [], '--ckpt'),
            ('eval.py', ['--ckpt=pre/guided', '--split=tset'], 'split='),
            ('eval.py', ['--ckpt=pre/guided', '--embed=s.txt'], 'wants 4 inputs'),
            ('eval.py', ['--ckpt=pre/guided', '--mask=gided'], "'guided'")):
        err = run(script, *(fine if script == 'finetune.py' else []), *options, status=2).stderr
        assert err.count('\n') == 1 and err.startswith('error: ') and word in err, (options, err)
    assert not (tmp_path / 'out').exists()
