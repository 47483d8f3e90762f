"""
pretrain.py as a user runs it: resumes bit for bit, is the same run on two processes, stops on a signal,
says what is wrong.
"""

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from conftest import ROOT
from runtime import lr_at

TINY = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--batch_size=8',
        '--log_interval=2', '--eval_interval=4', '--save_interval=4', '--warmup_steps=2', '--device=cpu']


@pytest.fixture
def table(tmp_path):
    """A float table with a label, as csv."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 1)) + rng.normal(size=(100, 5))
    np.savetxt(tmp_path / 't.csv', np.column_stack([x, x.sum(1) > 0]), delimiter=',', header='a,b,c,d,e,y',
               comments='', fmt='%.5g')
    return ['--dataset=t.csv', '--label_column=y', '--out_dir=out']


@pytest.fixture
def lines(tmp_path):
    """Byte sequences of many lengths."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 60, 120)
    (tmp_path / 's.txt').write_bytes(b'\n'.join(bytes(rng.integers(97, 103, n).astype(np.uint8)) for n in lengths))
    return ['--dataset=s.txt', '--out_dir=out']


def log(path):
    return [json.loads(line) for line in (path / 'log.jsonl').read_text().splitlines()]


def weights(path):
    return torch.load(path, weights_only=True)['model']


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('n_latent', [0, 4])
def test_a_resumed_run_is_bit_identical(run, lines, tmp_path, n_latent):
    """
    Stopped by SIGTERM wherever it was and resumed, over many epochs' ends, with dropout and micro-batches.
    Nothing differs.
    """
    options = [*TINY, *lines, f'--n_latent={n_latent}', '--dropout=0.1', '--accumulation=2',
               '--batch_size=16']
    cut = run_and_stop(tmp_path, [*options, '--max_steps=100', '--out_dir=cut'])
    assert 0 < cut['step'] < 100
    run('pretrain.py', *options, '--max_steps=100', '--out_dir=cut', '--resume')
    run('pretrain.py', *options, '--max_steps=100', '--out_dir=uncut')
    a, b = (torch.load(tmp_path / f'{name}/last.pt', weights_only=True) for name in ('cut', 'uncut'))
    assert same(a['model'], b['model']) and a['step'] == b['step'] == 100
    for p, q in zip(a['optimizer']['state'].values(), b['optimizer']['state'].values()):
        assert all(torch.equal(p[k], q[k]) for k in p)
    steps = [line['step'] for line in log(tmp_path / 'cut')]
    assert steps == sorted(set(steps)) and [s for s in steps if s % 2 == 0] == list(range(2, 101, 2))


def run_and_stop(tmp_path, options, sent=signal.SIGTERM):
    """Starts a run, sends it a signal once it has logged, and returns what it saved."""
    process = subprocess.Popen([sys.executable, str(ROOT / 'pretrain.py'), *options], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith('step '):
            process.send_signal(sent)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sent and 'go on with --resume' in out and 'Traceback' not in err, (out, err)
    return torch.load(tmp_path / 'cut/last.pt', weights_only=True)


def test_ctrl_c_saves_and_leaves(tmp_path, table):
    saved = run_and_stop(tmp_path, [*TINY, *table, '--out_dir=cut', '--max_steps=5000'], signal.SIGINT)
    assert saved['step'] > 0 and not list((tmp_path / 'cut').rglob('*.tmp'))


@pytest.mark.parametrize('data', ['table', 'lines'])
def test_two_processes_are_one(run, two_processes, tmp_path, data, request):
    """PyTorch's DDP on two gloo processes takes the steps that one process takes with two micro-batches."""
    options = [*TINY, *request.getfixturevalue(data), '--max_steps=6', '--dropout=0.1',
               '--dtype=float32']
    run('pretrain.py', *options, '--out_dir=one', '--accumulation=2')
    two_processes('pretrain.py', *options, '--out_dir=two')
    for a, b in zip(log(tmp_path / 'one'), log(tmp_path / 'two')):
        for key in {'loss', 'val_loss', 'grad_norm', 'val_loss_random'} & set(a):
            assert math.isclose(a[key], b[key], rel_tol=1e-4), (key, a, b)
    a, b = weights(tmp_path / 'one/last.pt'), weights(tmp_path / 'two/last.pt')
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize('mask', ['guided', 'random'])
def test_log_and_checkpoints(run, table, tmp_path, mask):
    """The log's numbers are those of the run. best.pt is the best validation, last.pt the last step."""
    done = run('pretrain.py', *TINY, *table[:-1], f'--mask={mask}', '--mask_ratio=0.4', '--max_steps=12',
               '--norm=quantile')
    assert done.stdout.startswith('device: cpu') and '\r' not in done.stdout
    lines = log(tmp_path / 'out/t' / mask)  # out/DATASET/MASK
    assert [line['step'] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(abs(line['masked'] - 0.4) < 1e-6 and line['padding'] == 0 and 0 < line['mask_entropy'] <= 1
               for line in lines)
    values = {line['step']: line['val_loss_random'] for line in lines if 'val_loss' in line}
    last, best = (torch.load(tmp_path / f'out/t/{mask}/{name}.pt', weights_only=True) for name in ('last', 'best'))
    assert list(values) == [4, 8, 12] and best['step'] == min(values, key=values.get) and last['step'] == 12
    assert best['best'] == min(values.values()) and last['config']['mask'] == mask
    assert last['norm']['kind'] == 'quantile' and last['model_args']['seq_len'] == 5
    assert last['columns'] == ['a', 'b', 'c', 'd', 'e'] and lines[0]['lr'] == lr_at(1, 12, 1e-3, 0.0, 2)
    assert all((line.get('val_loss') == line.get('val_loss_random')) == (mask == 'random') for line in lines[1::2])


def test_entropy_tells_a_stuck_mask():
    from types import SimpleNamespace

    from pretrain import Interval
    run = SimpleNamespace(world=1, rank=0, device='cpu')

    def entropy(hidden):
        since = Interval(8, run)
        since.add(torch.tensor(1.0), hidden, None, 8, len(hidden))
        values = since.report(1, 0.1, torch.tensor(1.0))
        return [values[k] for k in ('mask_entropy', 'hidden_least', 'hidden_most')]
    turns = torch.arange(10)[:, None] % 2 == torch.arange(8) % 2
    assert entropy(turns) == pytest.approx([1, 0.5, 0.5])
    stuck = entropy((torch.arange(8) < 2).expand(10, 8))
    assert stuck == pytest.approx([1 / 3, 0, 1], abs=1e-5)  # log 2 / log 8


def test_resume_refuses_other_settings_and_keeps_the_statistics(run, table, tmp_path):
    """Another split, input or learning rate would train on other rows, or another objective; more steps are fine."""
    first = [*TINY, *table, '--max_steps=2']
    run('pretrain.py', *first, '--test_share=0.2')
    for change in ('--test_share=0.3', '--input_column=a,b,c,d,e', '--lr=0.5', '--n_query=2', '--mask_ratio=0.4'):
        err = run('pretrain.py', *first, '--test_share=0.2', '--resume', change, status=2).stderr
        assert change[2:].split('=')[0] in err
    log_file = tmp_path / 'out/log.jsonl'
    log_file.write_text(log_file.read_text() + '{"step": 2, "lo')  # what a full disk leaves
    (tmp_path / 'u.csv').write_text((tmp_path / 't.csv').read_text().replace('0.', '9.'))
    run('pretrain.py', *first, '--dataset=u.csv', '--init_from=out', '--out_dir=next')
    run('pretrain.py', *first, '--dataset=u.csv', '--resume', '--max_steps=4', '--out_dir=next')  # without init_from
    a, b = (torch.load(tmp_path / f'{name}/last.pt', weights_only=True) for name in ('out', 'next'))
    assert torch.equal(a['norm']['mean'], b['norm']['mean']) and b['step'] == 4
    run('pretrain.py', *first, '--test_share=0.2', '--resume', '--max_steps=4')
    assert [line['step'] for line in log(tmp_path / 'out')] == [2, 4]


def test_start_from_another_run(run, table, tmp_path):
    run('pretrain.py', *TINY, *table, '--mask=random', '--max_steps=2')
    done = run('pretrain.py', *TINY, *table, '--max_steps=1', '--lr=1e-9', '--init_from=out', '--out_dir=next')
    assert ' 0 new' in done.stdout
    a, b = weights(tmp_path / 'out/last.pt'), weights(tmp_path / 'next/last.pt')
    assert all(torch.allclose(a[k], b[k], atol=1e-7) for k in a)


def test_long_sequences_are_counted(run, lines, tmp_path):
    done = run('pretrain.py', *TINY, *lines, '--max_steps=1', '--mask=random', '--max_len=20')
    n = sum(len(s) > 18 for s in (tmp_path / 's.txt').read_bytes().split(b'\n'))
    assert f'{n} of 120 sequences have more than 20 tokens' in done.stdout


MISTAKES = [
    (['--sed=1'], "'seed'"), (['--lr=fast'], 'wants float'), (['--n_layer=2.5'], 'wants int'),
    (['config/colider.py'], 'colider'), (['--dataset=missing.csv'], "no file 'missing.csv'"),
    (['--dataset=hole.csv'], 'finite'), (['--dataset=ragged.csv'], 'cells'),
    (['--dataset=empty.txt'], 'no rows'), (['--dataset=few.txt'], 'batch_size'), (['--mask_ratio=1'], 'everything'),
    (['--mask_ratio=0.01'], 'nothing'), (['--mask=guidd'], "'guided'"),
    (['--mask_ratio=0.1,0.2'], 'wants float'), (['--n_head=3'], 'n_head=3 must divide'),
    (['--seq_len=7'], 'seq_len=7'), (['--norm=max'], 'norm='), (['--device=tpu'], 'device'),
    (['--dtype=int8'], 'dtype'), (['--n_query=0'], 'n_query'), (['--init_from=t.csv'], 'no checkpoint'),
    (['--val_share=0.9'], 'val_share'),
    (['--log_interval=0'], 'log_interval'), (['--epochs=0'], 'epochs'), (['--seed=-1'], 'seed'),
    (['--n_latent=-1'], 'n_latent'), (['--mask=guided,random'], 'guided,random'), (['--data_dir=t.csv'], 'data_dir'),
    (['--batch_size=9', '--accumulation=2'], 'must divide'),
    (['--mask_anneal=2'], 'mask_anneal'), (['--mask=word'], 'mask=word'), (['--mask=patch'], 'mask=patch'),
    (['--label_column=z'], "'z'"),
]


def test_mistakes_end_in_one_line(run, tmp_path, table):
    """
    Exit status 2, one line on stderr, no traceback, no checkpoint, no half data set: in this process, and a
    few by a command line of their own.
    """
    (tmp_path / 'hole.csv').write_text('a,b,y\n1,2,0\n1,nan,0\n')
    (tmp_path / 'ragged.csv').write_text('a,b,y\n1,2,0\n1,0\n')
    (tmp_path / 'empty.txt').write_text('\n')
    (tmp_path / 'few.txt').write_text('abcdef\n' * 5)

    for i, (options, word) in enumerate(MISTAKES):
        named = [o for o in table if o.split('=')[0] not in [p.split('=')[0] for p in options]]
        if '.txt' in options[0]:
            named = named[-1:]
        words = [*TINY, '--max_steps=4', *named, *options]
        done = run('pretrain.py', *words, status=2)
        if i % 8 == 0:
            done = subprocess.run([sys.executable, str(ROOT / 'pretrain.py'), *words], cwd=tmp_path, text=True,
                                  capture_output=True, timeout=60)
            assert done.returncode == 2
        err = done.stderr
        assert err.count('\n') == 1 and err.startswith('error: ') and word in err, (options, err)
    assert not list(tmp_path.rglob('*.pt')) and not list(tmp_path.rglob('*.tmp*'))
