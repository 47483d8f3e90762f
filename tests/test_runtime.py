"""runtime.py: the device, the learning rate, what decays, and checks of knobs."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT

import data
from data import open_data
from eval import outputs
from masking import Masking
from model import SMA, SMAConfig
from util.checkpoint import check_state, must_match
from util.checks import check_masking
from util.errors import UserError
from util.optim import Skips, lr_at, make_optimizer, make_scaler, update
from util.runtime import lock_output_dir, log_line, rewrite_log, set_up, wrap


def test_cuda_is_found_with_an_index(monkeypatch, capsys):
    """set_up on a machine with a GPU, its calls stood in for: an index for set_device, bfloat16, compiled."""
    used = []
    for name, value in dict(is_available=lambda: True, set_device=used.append, is_bf16_supported=lambda: True,
                            get_device_name=lambda: 'a GPU').items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, 'empty', lambda *args, **options: None)
    found = set_up(dict(device='auto', dtype='auto', compile=None))
    assert str(found.device) == 'cuda:0' and used == [found.device] and found.dtype == 'bfloat16' and found.compile
    assert 'a GPU' in capsys.readouterr().out
    assert not set_up(dict(device='cuda', dtype='float16', compile='False')).compile


@pytest.mark.parametrize('compile, mode', [(None, ''), ('false', ''), ('True', 'default'),
                                           ('reduce-overhead', 'reduce-overhead'), ('max', None)])
def test_compile_has_three_values(monkeypatch, compile, mode):
    """What the knob says is what torch.compile is told; the bare model keeps its weights."""
    told, wrapped = [], torch.nn.Linear(2, 2)
    monkeypatch.setattr(torch, 'compile', lambda model, mode: told.append(mode) or wrapped)
    config = dict(device='cpu', dtype='auto', compile=compile)
    if mode is None:
        with pytest.raises(UserError, match="compile='max': true, false or reduce-overhead"):
            set_up(config)
        return
    model = torch.nn.Linear(2, 2)
    assert wrap(model, set_up(config)) is (wrapped if mode else model) and told == [mode] * bool(mode)


@pytest.mark.parametrize('knobs, checkpoint, step', [
    (dict(n_latent=4), None, 32), (dict(n_latent=0), None, 1), (dict(n_latent=0), dict(n_latent=4), 32)])
def test_on_cuda_widths_are_few_or_cudnn_is_not_asked(tmp_path, monkeypatch, knobs, checkpoint, step):
    """Of a Perceiver and a Transformer of bytes, whatever a later stage's own knobs say; no GPU is needed for it."""
    (tmp_path / 'a.txt').write_text('abcdefgh\n' * 9 + 'abc\n' * 9)
    told = []
    monkeypatch.setattr(torch.backends.cuda, 'enable_cudnn_sdp', told.append)
    config = {**dict.fromkeys(data.PREPARE_KNOBS), **knobs, 'data_dir': str(tmp_path)}
    config['dataset'] = str(tmp_path / 'a.txt')
    if checkpoint:
        checkpoint = dict(config={}, norm={'kind': 'none'}, model_args=dict(checkpoint, d_raw=0, seq_len=64))
    for kind, widths in (('cpu', (5, 10)), ('cuda', (min(5 * step, 32), 10 if step == 1 else 32))):
        run = SimpleNamespace(device=torch.device(kind), rank=0, world=1)
        dataset, seq_len = open_data({**config, 'seq_len': 64}, run, checkpoint)
        assert (dataset.width(np.array([17])), dataset.width(np.array([0, 17]))) == widths and seq_len == 64
    assert told == [False] * (step == 1)


GRADIENTS = '''
import sys
from copy import deepcopy
from functools import partial
import torch
import torch.distributed as dist
from masking import Masking
from model import SMA, SMAConfig
from util.runtime import finish, set_up, syncing, wrap
torch.compile = partial(torch.compile, backend='aot_eager')
run = set_up(dict(device='cpu', dtype='float32', compile=sys.argv[1]))
torch.manual_seed(0)
raw = SMA(SMAConfig(embed_dim=16, qk_dim=16, v_dim=16, n_head=2, seq_len=20, n_layer=2))
model, alone = wrap(raw, run), deepcopy(raw)
getattr(model, '_orig_mod', model).bucket_bytes_cap = dist._DEFAULT_FIRST_BUCKET_BYTES = 8000  # several pieces
x = torch.randint(6, 262, (3, 2, 4, 20))  # micro-batch, rank
def loss(model, x, seed):
    torch.manual_seed(seed)
    return model(x[:, :20 - seed].contiguous(), None, Masking('guided', 0.3))[0].sum()  # another width each
for i in range(3):
    with syncing(model, run, last=i == 2):
        loss(model, x[i, run.rank], 2 * i + run.rank).backward()
    mine = torch.cat([p.grad.flatten() for p in raw.parameters()])
    both = [torch.zeros_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert torch.equal(*both) == (i == 2), i  # until the last one each has its own
for i in range(3):
    for rank in range(2):
        (loss(alone, x[i, rank], 2 * i + rank) / 2).backward()
want = torch.cat([p.grad.flatten() for p in alone.parameters()])
torch.testing.assert_close(mine, want, rtol=1e-4, atol=1e-5)
finish(run)
'''


@pytest.mark.parametrize('compile', ['false', 'true'])
def test_processes_add_up_their_gradients_in_the_last_micro_batch_alone(two_processes, tmp_path, compile):
    """Two gloo processes, three micro-batches each: the sum is that of one process over all six, compiled or not."""
    (tmp_path / 'gradients.py').write_text(f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n{GRADIENTS}')
    two_processes(tmp_path / 'gradients.py', compile)


def test_scores_do_not_depend_on_the_batches(tmp_path, monkeypatch):
    """Predictions of rows in batches of one, of eight, and all at once."""
    (tmp_path / 'a.txt').write_bytes(b'\n'.join(b'abcdefghij'[:1 + i % 10] for i in range(40)))
    dataset = data.open_dataset(str(tmp_path / 'a.txt'), data_dir=str(tmp_path))
    run = set_up(dict(device='cpu', dtype='float32'))
    model = SMA(SMAConfig(n_out=2, v_dim=32, qk_dim=32, embed_dim=32, n_head=4)).double()
    many = []
    for size in (1, 8, 40):
        monkeypatch.setattr(data, 'at_once', lambda *args: size)
        many.append(outputs(model, model, 2, dataset, np.arange(40), 5, run))
    assert many[0].std() > 0 and all(torch.allclose(p, many[0], rtol=1e-5, atol=1e-7) for p in many)


def trained(steps):
    """A tiny model, its optimizer and scaler after a few steps."""
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=1, seq_len=6, n_layer=1, embed_dim=8, v_dim=8, qk_dim=8, n_head=2))
    optimizer, scaler = make_optimizer(model, 1e-2, 0.1, 'cpu'), make_scaler(HERE)
    for _ in range(steps):
        scaler.scale(model(torch.randn(4, 6, 1))[0].sum()).backward()
        update(model, optimizer, scaler, 1.0)
    return model, optimizer, scaler


HERE = SimpleNamespace(device=torch.device('cpu'), dtype='float32', rank=0, world=1)


def test_a_step_that_is_not_finite_is_not_taken():
    """Nothing moves: no weight, no moment, no count of steps. The next step is as if it had never been."""
    def state():
        return [t.clone() for t in (*model.state_dict().values(),
                                    *(t for s in optimizer.state.values() for t in s.values()))]
    model, optimizer, scaler = trained(3)
    before, skips = state(), Skips(HERE)
    for bad in (torch.nan, torch.inf):
        scaler.scale(model(torch.randn(4, 6, 1))[0].sum()).backward()
        next(model.parameters()).grad[0] = bad
        assert skips.note(update(model, optimizer, scaler, 1.0))
        assert all(map(torch.equal, before, state())) and scaler.get_scale() == 1
    same, other, third = trained(3)
    torch.manual_seed(1)
    for m, o, s in ((model, optimizer, scaler), (same, other, third)):
        torch.manual_seed(1)
        s.scale(m(torch.ones(4, 6, 1))[0].sum()).backward()
        update(m, o, s, 1.0)
    assert all(map(torch.equal, model.state_dict().values(), same.state_dict().values()))
    skips.check(5)
    for _ in range(8):
        skips.note(torch.tensor(torch.nan))
    with pytest.raises(UserError, match='lower lr'):
        skips.check(13)
    skips.note(torch.tensor(1.0))
    skips.check(14)  # ten in a row, not ten in all


def test_the_state_of_another_optimizer_is_refused():
    """Fused AdamW would write out of bounds (exit status 139)."""
    model, optimizer, _ = trained(2)
    good = optimizer.state_dict()
    check_state(optimizer, good, 'last.pt')
    check_state(trained(0)[1], good, 'last.pt')

    def with_(place, **change):
        return {**good, 'state': {**good['state'], place: {**good['state'][0], **change}}}
    moment = good['state'][0]['exp_avg']
    for bad in (with_(0, exp_avg=moment[:1]), with_(0, exp_avg_sq=moment.double()), with_(0, step=torch.zeros(2)),
                with_(0, exp_avg=torch.full_like(moment, torch.nan)), with_(999), with_(0, exp_avg=3), {'state': {}},
                {**good, 'param_groups': good['param_groups'][:1]}, with_(0, more=moment), {},
                {**good, 'param_groups': [{**g, 'betas': (2, 2)} for g in good['param_groups']]}):
        with pytest.raises(UserError, match='optimizer'):
            check_state(optimizer, bad, 'last.pt')


def test_a_folder_has_one_writer(tmp_path):
    code = f"""if 1:
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from types import SimpleNamespace
        from util.runtime import lock_output_dir
        lock_output_dir(Path({str(tmp_path / 'out')!r}), run := SimpleNamespace(rank=0))
        print('mine', flush=True)
        time.sleep(60)"""
    other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'mine\n'
    with pytest.raises(UserError, match='another run'):
        lock_output_dir(tmp_path / 'out', SimpleNamespace(rank=0))
    lock_output_dir(tmp_path / 'out', SimpleNamespace(rank=1))  # ranks are one run
    other.kill()  # -9
    other.wait()
    lock_output_dir(tmp_path / 'out', run := SimpleNamespace(rank=0))
    assert run.lock and os.listdir(tmp_path / 'out') == ['.lock']
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot write'):
        lock_output_dir(tmp_path / 'file/out', SimpleNamespace(rank=0))


def test_the_log_is_json_and_is_shortened_whole(tmp_path, monkeypatch):
    path = tmp_path / 'log.jsonl'
    for step in range(5):
        log_line(path, HERE, step=step, loss=math.nan if step == 1 else 1.5)
    with open(path, 'a') as f:
        f.write('{"step": 5, "lo')  # killed here
    rewrite_log(path, HERE, lambda entry: entry['step'] < 3)
    strict = partial(json.loads, parse_constant=lambda name: pytest.fail(name))
    assert [strict(line) for line in path.read_text().splitlines()] == [
        {'step': 0, 'loss': 1.5}, {'step': 1, 'loss': None}, {'step': 2, 'loss': 1.5}]
    before = path.read_text()
    monkeypatch.setattr(os, 'fsync', lambda handle: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(UserError, match='No space left'):
        rewrite_log(path, HERE, lambda entry: False)
    assert path.read_text() == before and os.listdir(tmp_path) == ['log.jsonl']


def test_learning_rate():
    lrs = [lr_at(s, 100, 1.0, 0.1, 10) for s in range(100)]
    falling = sorted(lrs[10:], reverse=True)
    assert lrs[0] == 0.1 and lrs[9] == lrs[10] == 1.0 and lrs[-1] < 0.102 and lrs == lrs[:10] + falling
    assert lr_at(55, 100, 1.0, 0.1, 10) == pytest.approx(0.55)  # half-way down the cosine
    assert {lr_at(s, 10, 0.5, 0.5, 0) for s in range(10)} == {0.5}


def test_only_matrices_decay():
    model = SMA(SMAConfig(n_latent=6))
    decay, rest = make_optimizer(model, 1e-3, 0.1, 'cpu').param_groups
    assert decay['weight_decay'] == 0.1 and rest['weight_decay'] == 0
    assert {id(p) for p in decay['params']} == {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    assert len(decay['params']) + len(rest['params']) == len(list(model.parameters()))


@pytest.mark.parametrize('ratio, word', [(0.0, 'nothing'), (0.04, 'nothing'), (1.0, 'everything'),
                                         (0.85, 'row of 3'), (-1.0, 'nothing')])
def test_ratios_that_hide_nothing_or_everything(ratio, word):
    lengths = np.array([3, 10])
    check_masking(Masking('guided', 0.5), lengths, 1)
    with pytest.raises(UserError, match=word):
        check_masking(Masking('guided', ratio), lengths, 1)


@pytest.mark.parametrize('mask, d_raw, n', [('word', 1, 16), ('patch', 0, 16), ('patch', 3, 20)])
def test_masks_that_do_not_fit_the_data(mask, d_raw, n):
    with pytest.raises(UserError, match=f'mask={mask}'):
        check_masking(Masking(mask, 0.5), np.full(3, n), d_raw)
    check_masking(Masking('word', 0.5), np.full(3, n), 0)
    check_masking(Masking('patch', 0.5), np.full(3, 16), 3)


def test_what_an_older_run_does_not_know_counts_as_the_default():
    must_match({'lr': 1.0}, {'lr': 1.0, 'new': 3}, 'a run', defaults={'lr': 2.0, 'new': 3})
    for old, new in (({'lr': 1.0}, {'lr': 2.0}), ({}, {'lr': 1.0}), ({'lr': 1.0}, {'lr': 1.0, 'new': 4})):
        with pytest.raises(UserError, match='a run was made with'):
            must_match(old, new, 'a run', defaults={'lr': 2.0, 'new': 3})


def test_each_field_of_a_mask_is_a_knob_where_masks_are_made():
    """pretrain.py's, of the same type; eval.py's, None = as the checkpoint was trained."""
    from conftest import ROOT

    from configurator import find_knobs
    pre, evaluate = (find_knobs(ROOT / f'{name}.py')[0] for name in ('pretrain', 'eval'))
    for name, default in vars(Masking()).items():
        assert type(pre[name].default) is type(default) and evaluate[name].default is None, name
