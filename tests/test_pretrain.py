"""
pretrain.py as a user runs it: resumes bit for bit, is the same run on two processes, stops on a signal,
says what is wrong.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TORCHRUN

import model
from util import optim
from util.optim import lr_at

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
    rows = [bytes(rng.integers(97, 103, n).astype(np.uint8)) for n in lengths]
    (tmp_path / 's.txt').write_bytes(b'\n'.join(rows))
    return ['--dataset=s.txt', '--out_dir=out']


def log(path):
    return [json.loads(line) for line in (path / 'log.jsonl').read_text().splitlines()]


def weights(path):
    return torch.load(path, weights_only=True)['model']


def wait_for(text, process):
    assert any(text in line for line in process.stdout), 'it ended before'


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('data', ['table', 'lines'])
def test_masks_anneal_unless_told_otherwise(run, request, tmp_path, data):
    """
    A run without a word about it is the run with the defaults, bit for bit, and not that of the paper's masks.
    """
    options = [*TINY, *request.getfixturevalue(data), '--max_steps=8']
    runs = {'plain': [],
            'given': ['--mask_anneal=1', '--min_random_fraction=0.25'],
            'paper': ['--mask_anneal=0'],
            'no_floor': ['--min_random_fraction=0']}
    for name, more in runs.items():
        run('pretrain.py', *options, *more, f'--out_dir={name}')
    plain, given, paper, no_floor = (weights(tmp_path / name / 'last.pt') for name in runs)
    assert same(plain, given) and not same(plain, paper) and not same(plain, no_floor)


def test_the_random_fraction_falls_from_one_to_its_floor(monkeypatch):
    import pretrain
    monkeypatch.setattr(pretrain, 'min_random_fraction', 0.25)
    fractions = [pretrain.random_fraction_at(step, 10) for step in range(15)]
    assert fractions[0] == 1 and fractions[5] == pytest.approx(0.625) and fractions[10:] == [0.25] * 5
    assert all(a > b for a, b in zip(fractions[:10], fractions[1:11]))
    assert pretrain.random_fraction_at(3, 0) == 0.0  # mask_anneal=0: the paper's masks


@pytest.mark.parametrize('warmup_steps, message', [
    (10, 'only 10 steps, all of them warm-up'), (6, 'only 10 steps, most of them warm-up'), (3, None)])
def test_a_run_that_is_mostly_warm_up_is_warned_of(run, table, warmup_steps, message):
    out = run('pretrain.py', *TINY, *table, f'--warmup_steps={warmup_steps}', '--epochs=1').stdout
    assert 'warning: ' + message in out if message else 'warm-up' not in out


@pytest.mark.parametrize('n_latent', [0, pytest.param(4, marks=pytest.mark.slow)])
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
    is_told = 'go on with --resume' in out and 'Traceback' not in err
    assert process.returncode == 128 + sent and is_told, (out, err)
    return torch.load(tmp_path / 'cut/last.pt', weights_only=True)


@pytest.mark.slow
def test_the_log_of_a_resumed_run_is_that_of_one_piece(run, table, tmp_path):
    """
    Killed between two lines of the log. The first line after --resume averages over the steps since the save;
    all lines before it and after it are those of a run that was not killed.
    """
    options = [*TINY, *table, '--log_interval=10', '--save_interval=3', '--eval_interval=40']
    run('pretrain.py', *options, '--max_steps=40', '--out_dir=uncut')
    with open(tmp_path / 'cut.py', 'w') as f:  # dies at step 17, as by kill -9: after the save of step 15
        f.write('import os, sys, runpy\nfrom util import optim\nold, n = optim.update, [0]\n'
                'def update(*args):\n    n[0] += 1\n    return os._exit(9) if n[0] == 17 else old(*args)\n'
                f'optim.update = update\nrunpy.run_path({str(ROOT / "pretrain.py")!r}, run_name="__main__")\n')
    killed = subprocess.run([sys.executable, 'cut.py', *options, '--max_steps=40', '--out_dir=cut'],
                            cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True)
    assert killed.returncode == 9
    run('pretrain.py', *options, '--max_steps=40', '--out_dir=cut', '--resume')
    cut, uncut = log(tmp_path / 'cut'), log(tmp_path / 'uncut')
    for entry in cut + uncut:
        del entry['tokens_per_s']
    assert [entry['step'] for entry in cut] == [10, 20, 30, 40]
    assert cut[0] == uncut[0] and cut[2:] == uncut[2:]
    at_step_20 = ('lr', 'grad_norm', 'masked')
    assert all(cut[1][name] == uncut[1][name] for name in at_step_20)
    assert same(weights(tmp_path / 'cut/last.pt'), weights(tmp_path / 'uncut/last.pt'))


def run_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in ('.pt', '.jsonl')}


@pytest.mark.slow
def test_an_earlier_run_is_kept_until_the_new_one_saves_and_after(run, table, tmp_path):
    """To train anew by mistake loses nothing, however often, and whenever it is stopped."""
    table = [*table, '--val_share=0.2']
    run('pretrain.py', *TINY, *table, '--max_steps=4')
    first = run_files(tmp_path / 'out')
    assert first.keys() == {'last.pt', 'best.pt', 'log.jsonl'}
    long = [*TINY, *table, '--max_steps=1000000', '--save_interval=1000000', '--eval_interval=1000000']
    process = subprocess.Popen([sys.executable, str(ROOT / 'pretrain.py'), *long], cwd=tmp_path,
                               stdout=subprocess.PIPE, text=True)
    wait_for('step 2:', process)
    process.kill()  # before its first save
    process.wait()
    assert run_files(tmp_path / 'out') == first
    out = run('pretrain.py', *TINY, *table, '--max_steps=4', '--resume').stdout
    assert 'resumed out/last.pt at step 4' in out
    assert run_files(tmp_path / 'out') == first
    out = run('pretrain.py', *TINY, *table, '--max_steps=8', '--seed=1').stdout
    assert 'holds an earlier run' in out and run_files(tmp_path / 'out/previous-1') == first
    second = run_files(tmp_path / 'out')
    assert torch.load(tmp_path / 'out/last.pt', weights_only=True)['step'] == 8
    assert [entry['step'] for entry in log(tmp_path / 'out')] == [2, 4, 6, 8]
    run('pretrain.py', *TINY, *table, '--max_steps=4', '--seed=2')
    assert run_files(tmp_path / 'out/previous-1') == first and run_files(tmp_path / 'out/previous-2') == second


def test_resume_without_last_pt_loses_nothing(run, table, tmp_path):
    run('pretrain.py', *TINY, *table, '--max_steps=4')
    (tmp_path / 'out/last.pt').rename(tmp_path / 'elsewhere.pt')
    left = run_files(tmp_path / 'out')
    out = run('pretrain.py', *TINY, *table, '--max_steps=4', '--resume', '--seed=1').stdout
    assert 'there is no out/last.pt' in out and run_files(tmp_path / 'out/previous-1') == left


def test_resume_of_a_finished_run_says_that_there_is_nothing_to_do(run, table, tmp_path):
    run('pretrain.py', *TINY, *table, '--max_steps=4')
    before = run_files(tmp_path / 'out')
    out = run('pretrain.py', *TINY, *table, '--max_steps=4', '--resume').stdout
    assert 'nothing is left to do' in out and 'wrote' not in out and run_files(tmp_path / 'out') == before


@pytest.mark.slow
@pytest.mark.parametrize('signal_sent', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_start_leaves_an_earlier_run_alone_or_keeps_it(run, table, tmp_path, signal_sent):
    run('pretrain.py', *TINY, *table, '--max_steps=4')
    first = run_files(tmp_path / 'out')
    command = [sys.executable, str(ROOT / 'pretrain.py'), *TINY, *table, '--max_steps=1000000']
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for('device: ', process)
    process.send_signal(signal_sent)
    process.communicate(timeout=60)
    kept = tmp_path / 'out/previous-1' if (tmp_path / 'out/previous-1').exists() else tmp_path / 'out'
    assert run_files(kept) == first


def test_resume_refuses_data_that_have_changed(run, table, tmp_path):
    run('pretrain.py', *TINY, *table, '--max_steps=4')
    text = (tmp_path / 't.csv').read_text().splitlines()
    # the same rows, in another order
    (tmp_path / 't.csv').write_text('\n'.join([text[0], *text[:0:-1]]) + '\n')
    assert 'has changed' in run('pretrain.py', *TINY, *table, '--max_steps=6', '--resume', status=2).stderr


def test_resume_refuses_the_state_of_another_optimizer(run, table, tmp_path):
    """Today's faulty checkpoint corrupted the heap; it must not even start."""
    run('pretrain.py', *TINY, *table, '--max_steps=4')
    checkpoint = torch.load(tmp_path / 'out/last.pt', weights_only=True)
    for state in checkpoint['optimizer']['state'].values():
        state['exp_avg'] = state['exp_avg'].flatten()[:1]
    torch.save(checkpoint, tmp_path / 'out/last.pt')
    assert 'optimizer' in run('pretrain.py', *TINY, *table, '--max_steps=6', '--resume', status=2).stderr


def test_other_processes_are_said_on_resume(run, lines, tmp_path):
    run('pretrain.py', *TINY, *lines, '--max_steps=4')
    done = run('pretrain.py', *TINY, *lines, '--max_steps=6', '--resume', '--accumulation=2').stdout
    assert 'accumulation x processes was 1, is 2: other masks' in done
    done = run('pretrain.py', *TINY, *lines, '--max_steps=8', '--resume', '--accumulation=2').stdout
    assert 'other masks' not in done


def test_what_is_not_finite_is_never_saved(run, table, tmp_path):
    """Its weights are huge from the first step on, and all later steps are skipped: ten of them end the run."""
    done = run('pretrain.py', *TINY, *table, '--lr=1e30', '--min_lr=1e30', '--max_steps=400', status=2)
    assert 'not finite' in done.stderr and 'Traceback' not in done.stderr
    for path in (tmp_path / 'out').glob('*.pt'):
        assert all(torch.isfinite(w).all() for w in weights(path).values()), path
    run('pretrain.py', *TINY, *table, '--max_steps=8', '--out_dir=good')
    before = (tmp_path / 'good/last.pt').read_bytes()
    run('pretrain.py', *TINY, *table, '--max_steps=8', '--out_dir=good', '--lr=1e38', '--min_lr=1e38', status=2)
    assert (tmp_path / 'good/last.pt').read_bytes() == before  # the new run has saved nothing


def test_a_skipped_step_is_counted(run, table, tmp_path, monkeypatch):
    """One batch in twenty is not finite: its steps are left out, of the weights and of the averages."""
    old, n = model.SMA.loss, [0]

    def loss(self, prediction, truth):
        n[0] += 1
        return old(self, prediction, truth) * (torch.nan if n[0] in (3, 7) else 1.0)
    monkeypatch.setattr(model.SMA, 'loss', loss)
    out = run('pretrain.py', *TINY, *table, '--max_steps=8', '--log_interval=8', '--eval_interval=100').stdout
    entry, = log(tmp_path / 'out')
    assert entry['skipped'] == 2 and 0 < entry['loss'] < 9 and 'skipped 2' in out


@pytest.mark.slow
@pytest.mark.parametrize('script', ['pretrain.py', 'finetune.py'])
def test_two_runs_do_not_share_a_folder(run, table, tmp_path, script):
    own = ['--init_from=scratch', '--target=binary', '--val_share=0.2'] if script == 'finetune.py' else []
    tiny = [o for o in TINY if script == 'pretrain.py' or not o.startswith(('--log', '--save'))]
    process = subprocess.Popen([sys.executable, str(ROOT / script), *tiny, *table, *own, '--max_steps=1000000'],
                               cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / 'out/log.jsonl').exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert 'another run' in run(script, *tiny, *table, *own, '--max_steps=4', status=2).stderr
    finally:
        process.terminate()
        process.communicate()


def test_an_out_dir_that_cannot_be_written_is_said_at_once(run, table, tmp_path, file_limit):
    (tmp_path / 'file').touch()
    err = run('pretrain.py', *TINY, *table, '--out_dir=file/out', status=2).stderr
    assert err.count('\n') == 1 and 'cannot write' in err
    run('pretrain.py', *TINY, *table, '--max_steps=4')
    before = (tmp_path / 'out/last.pt').read_bytes()
    for limit in (20_000, 1000):  # it takes the log, but not a checkpoint; then nothing at all
        with file_limit(limit):
            err = run('pretrain.py', *TINY, *table, '--max_steps=8', '--resume', status=2).stderr
        assert err.count('\n') == 1 and 'cannot write' in err and 'File too large' in err
        assert (tmp_path / 'out/last.pt').read_bytes() == before and not list(tmp_path.rglob('*.tmp'))


def test_a_folder_that_vanishes_is_made_again(run, table, tmp_path, monkeypatch):
    old, n = optim.update, [0]

    def update(*args):
        n[0] += 1
        if n[0] == 6:
            shutil.rmtree(tmp_path / 'out')
        return old(*args)
    monkeypatch.setattr(optim, 'update', update)
    run('pretrain.py', *TINY, *table, '--max_steps=8')
    assert torch.load(tmp_path / 'out/last.pt', weights_only=True)['step'] == 8


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run(table, tmp_path):
    """Within 30 seconds, with a line, no traceback of ours, and no orphan."""
    process = subprocess.Popen([*TORCHRUN, str(ROOT / 'pretrain.py'), *TINY, *table, '--max_steps=1000000'],
                               cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for('step 4:', process)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    if not children.exists():
        process.terminate()
        pytest.skip('needs /proc')
    ranks = [int(pid) for pid in children.read_text().split()]
    os.kill(ranks[1], signal.SIGKILL)
    begin = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begin < 30 and process.returncode != 0
    assert 'which has died' in err or 'SIGTERM' in err or 'Signal 9' in err
    assert 'pretrain.py", line' not in err
    for pid in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_ranks_do_not_outlive_torchrun(table, tmp_path):
    process = subprocess.Popen([*TORCHRUN, str(ROOT / 'pretrain.py'), *TINY, *table, '--max_steps=1000000'],
                               cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait_for('step 4:', process)
    ranks = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    process.kill()
    begin = time.monotonic()
    while any(Path(f'/proc/{pid}').exists() for pid in ranks):
        assert time.monotonic() - begin < 30
        time.sleep(0.1)
    assert torch.load(tmp_path / 'out/last.pt', weights_only=True)['step'] > 4


def test_ctrl_c_saves_and_leaves(tmp_path, table):
    saved = run_and_stop(tmp_path, [*TINY, *table, '--out_dir=cut', '--max_steps=5000'], signal.SIGINT)
    assert saved['step'] > 0 and not list((tmp_path / 'cut').rglob('*.tmp'))


@pytest.mark.slow
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


QUIET = ['--log_interval=99', '--eval_interval=99', '--save_interval=99']
STEPS = pytest.mark.parametrize('data, options, n', [
    ('table', ['--mask_anneal=1', '--dropout=0.1', '--drop_path=0.1'], 1), ('table', ['--mask=random'], 1),
    ('lines', ['--mask=word', '--accumulation=2'], 4), ('lines', ['--n_latent=4', '--mask_anneal=1'], 2)])


@pytest.mark.slow
@STEPS
def test_a_step_waits_for_nothing_but_its_batch(copies, request, data, options, n):
    """x, and valid of bytes, are all that comes to the device in a step."""
    assert copies('pretrain.py', *TINY, *request.getfixturevalue(data), *QUIET, *options) == [n] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@STEPS
def test_cuda_is_not_waited_for_in_a_step(run, request, monkeypatch, data, options, n, dtype):
    """
    From the third step on PyTorch watches, and waiting is an error.
    (Each tenth asks whether steps were skipped.)
    """
    taken, update = [], optim.update

    def watched(*args):
        norm = update(*args)
        taken.append(norm)
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode({2: 'error', 8: 'default'}.get(len(taken), mode))
        return norm if len(taken) < 8 else sys.exit(0)
    monkeypatch.setattr(optim, 'update', watched)
    try:
        run('pretrain.py', *TINY, *request.getfixturevalue(data), *QUIET, *options, '--max_steps=9',
            '--compile=false', '--device=cuda', f'--dtype={dtype}')
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert len(taken) == 8


@pytest.mark.parametrize('mask', ['guided', 'random'])
def test_log_and_checkpoints(run, table, tmp_path, mask):
    """The log's numbers are those of the run. best.pt is the best validation, last.pt the last step."""
    done = run('pretrain.py', *TINY, *table[:-1], f'--mask={mask}', '--mask_ratio=0.4', '--max_steps=12',
               '--norm=quantile', '--val_share=0.1')
    assert done.stdout.startswith('device: cpu') and '\r' not in done.stdout
    lines = log(tmp_path / 'out/t' / mask)  # out/DATASET/MASK
    assert [line['step'] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(abs(line['masked'] - 0.4) < 1e-6 and line['padding'] == 0 and 0 < line['mask_entropy'] <= 1
               for line in lines)
    values = {line['step']: line['val_loss_random'] for line in lines if 'val_loss' in line}
    last, best = (torch.load(tmp_path / f'out/t/{mask}/{name}.pt', weights_only=True)
                  for name in ('last', 'best'))
    assert list(values) == [4, 8, 12] and best['step'] == min(values, key=values.get) and last['step'] == 12
    assert best['best'] == min(values.values()) and last['config']['mask'] == mask
    assert last['norm']['kind'] == 'quantile' and last['model_args']['seq_len'] == 5
    first_lr = lr_at(1, 12, dict(lr=1e-3, min_lr=0.0, warmup_steps=2))
    assert last['columns'] == ['a', 'b', 'c', 'd', 'e'] and lines[0]['lr'] == first_lr
    assert all((line.get('val_loss') == line.get('val_loss_random')) == (mask == 'random')
               for line in lines[1::2])


def test_entropy_tells_a_stuck_mask():
    from types import SimpleNamespace

    from pretrain import Interval
    run = SimpleNamespace(world=1, rank=0, device='cpu')

    def entropy(hidden):
        interval = Interval(8, 0, run)
        interval.add(torch.tensor(1.0), hidden, None, 8, len(hidden))
        values = interval.report(1, 0.1, torch.tensor(1.0))
        return [values[k] for k in ('mask_entropy', 'hidden_least', 'hidden_most')]
    turns = torch.arange(10)[:, None] % 2 == torch.arange(8) % 2
    assert entropy(turns) == pytest.approx([1, 0.5, 0.5])
    stuck = entropy((torch.arange(8) < 2).expand(10, 8))
    assert stuck == pytest.approx([1 / 3, 0, 1], abs=1e-5)  # log 2 / log 8


def test_resume_refuses_other_settings_and_keeps_the_statistics(run, table, tmp_path):
    """
    Another split, input or learning rate would train on other rows, or another objective; more steps are fine.
    """
    first = [*TINY, *table, '--max_steps=2']
    run('pretrain.py', *first, '--test_share=0.2')
    for change in ('--test_share=0.3', '--input_column=a,b,c,d,e', '--lr=0.5', '--n_query=2',
                   '--mask_ratio=0.4'):
        err = run('pretrain.py', *first, '--test_share=0.2', '--resume', change, status=2).stderr
        assert change[2:].split('=')[0] in err
    log_file = tmp_path / 'out/log.jsonl'
    log_file.write_text(log_file.read_text() + '{"step": 2, "lo')  # what a full disk leaves
    (tmp_path / 'u.csv').write_text((tmp_path / 't.csv').read_text().replace('0.', '9.'))
    run('pretrain.py', *first, '--dataset=u.csv', '--init_from=out', '--out_dir=next')
    # without init_from
    run('pretrain.py', *first, '--dataset=u.csv', '--resume', '--max_steps=4', '--out_dir=next')
    a, b = (torch.load(tmp_path / f'{name}/last.pt', weights_only=True) for name in ('out', 'next'))
    assert torch.equal(a['norm']['mean'], b['norm']['mean']) and b['step'] == 4
    run('pretrain.py', *first, '--test_share=0.2', '--resume', '--max_steps=4')
    assert [line['step'] for line in log(tmp_path / 'out')] == [2, 4]


def test_start_from_another_run(run, table, tmp_path):
    run('pretrain.py', *TINY, *table, '--mask=random', '--max_steps=2')
    done = run('pretrain.py', *TINY, *table, '--max_steps=1', '--lr=1e-9', '--init_from=out', '--out_dir=next')
    assert ' 0 new' in done.stdout
    err = run('pretrain.py', *TINY, *table, '--mlp_ratio=3', '--init_from=out', '--out_dir=next',
              status=2).stderr
    assert err == 'error: mlp_ratio=3 is given, and the weights of out have mlp_ratio=4: leave it out\n'
    a, b = weights(tmp_path / 'out/last.pt'), weights(tmp_path / 'next/last.pt')
    assert all(torch.allclose(a[k], b[k], atol=1e-7) for k in a)


def test_long_sequences_are_counted(run, lines, tmp_path):
    done = run('pretrain.py', *TINY, *lines, '--max_steps=1', '--mask=random', '--max_len=20')
    n = sum(len(s) > 18 for s in (tmp_path / 's.txt').read_bytes().split(b'\n'))
    assert f'{n} of 120 sequences have more than 20 tokens' in done.stdout


MISTAKES = [
    (['--sed=1'], "'seed'"), (['--lr=fast'], 'wants float'), (['--n_layer=2.5'], 'wants int'),
    (['config/colider.py'], 'colider'), (['--dataset=missing.csv'], "no file 'missing.csv'"),
    (['--dataset=hole.csv'], 'missing'), (['--dataset=ragged.csv'], 'cells'),
    (['--dataset=empty.txt'], 'no rows'), (['--dataset=few.txt'], 'batch_size'),
    (['--mask_ratio=1'], 'everything'),
    (['--mask_ratio=0.01'], 'nothing'), (['--mask=guidd'], "'guided'"),
    (['--mask_ratio=0.1,0.2'], 'wants float'), (['--n_head=3'], 'n_head=3 must divide'),
    (['--seq_len=7'], 'seq_len=7'), (['--norm=max'], 'norm='), (['--device=tpu'], 'device'),
    (['--dtype=int8'], 'dtype'), (['--n_query=0'], 'n_query'), (['--init_from=t.csv'], 'no checkpoint'),
    (['--val_share=0.9'], 'val_share'),
    (['--log_interval=0'], 'log_interval'), (['--epochs=0'], 'epochs'), (['--seed=-1'], 'seed'),
    (['--n_latent=-1'], 'n_latent'), (['--mask=guided,random'], 'guided,random'),
    (['--data_dir=t.csv'], 'data_dir'),
    (['--batch_size=9', '--accumulation=2'], 'divisible'),
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
