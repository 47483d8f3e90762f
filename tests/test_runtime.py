"""runtime.py: the device, several processes, signals."""

import os
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, TORCHRUN

import data
from configurator import defaults_of, read_knobs
from data import open_data
from eval import outputs
from model import SMA, SMAConfig
from util import runtime
from util.errors import UserError
from util.runtime import Run, print0, set_up, warn, wrap

HERE = Run(torch.device('cpu'))


# ---- device

@pytest.fixture
def a_gpu(monkeypatch):
    """A machine with a GPU, whose calls are stood in for. -> the devices that set_device got"""
    used = []
    for name, value in dict(is_available=lambda: True, set_device=used.append, is_bf16_supported=lambda: True,
                            get_device_name=lambda: 'a GPU').items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, 'empty', lambda *args, **options: None)
    return used


def test_cuda_is_found_with_an_index(a_gpu, capsys):
    """An index for set_device, bfloat16, compiled."""
    found = set_up(dict(device='auto', dtype='auto', compile=None))
    assert str(found.device) == 'cuda:0' and a_gpu == [found.device]
    assert found.dtype == 'bfloat16' and found.compile
    assert 'a GPU' in capsys.readouterr().out
    assert not set_up(dict(device='cuda', dtype='float16', compile='False')).compile


@pytest.mark.parametrize('change, word', [(dict(device='tpu'), "device='tpu' cannot be used here"),
                                          (dict(dtype='int8'), "dtype='int8'")])
def test_devices_and_types_that_are_not_there(change, word):
    with pytest.raises(UserError, match=word):
        set_up({**dict(device='cpu', dtype='auto'), **change})


def test_a_run_computes_in_the_type_that_it_says():
    x = torch.ones(2, 2)
    for dtype in ('float32', 'bfloat16', 'float16'):
        with set_up(dict(device='cpu', dtype=dtype)).autocast():
            assert (x @ x).dtype == getattr(torch, dtype)


def test_the_shared_knobs_are_those_of_the_device():
    """And no other name of runtime.py is taken for a knob."""
    knobs, _ = read_knobs((ROOT / 'util/runtime.py').read_text())
    assert {name: knob.default for name, knob in knobs.items()} == dict(device='auto', dtype='auto')
    assert dict(device='auto', dtype='auto').items() <= defaults_of(ROOT / 'pretrain.py').items()


@pytest.mark.parametrize('compile, mode', [(None, ''), ('false', ''), ('True', 'default'),
                                           ('reduce-overhead', 'reduce-overhead'), ('max', None)])
def test_compile_has_three_values(monkeypatch, compile, mode):
    """What the knob says is what torch.compile is told; the bare model keeps its weights."""
    told = []
    wrapped = torch.nn.Linear(2, 2)
    monkeypatch.setattr(torch, 'compile', lambda model, mode: told.append(mode) or wrapped)
    config = dict(device='cpu', dtype='auto', compile=compile)
    if mode is None:
        with pytest.raises(UserError, match="compile='max' must be true, false or reduce-overhead"):
            set_up(config)
        return
    model = torch.nn.Linear(2, 2)
    got = wrap(model, set_up(config))
    if mode:
        assert got is wrapped and told == [mode]
    else:
        assert got is model and told == []


# ---- which process this is

TORCHRUN_SETS = dict(RANK='3', WORLD_SIZE='4', LOCAL_RANK='1', MASTER_ADDR='localhost', MASTER_PORT='1')


@pytest.fixture
def environment(monkeypatch):
    """environment(RANK='1', ..): of the variables that torchrun sets, there are these alone."""
    def only(**variables):
        for name in TORCHRUN_SETS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    only()
    return only


def test_a_process_knows_which_it_is(environment):
    assert runtime.processes() == (0, 1, 0)
    assert runtime.is_first_process() and runtime.is_first_local_process()
    environment(**TORCHRUN_SETS)
    assert runtime.processes() == (3, 4, 1)
    assert not runtime.is_first_process() and not runtime.is_first_local_process()
    environment(**{**TORCHRUN_SETS, 'LOCAL_RANK': '0'})  # the first on its machine, of two machines
    assert not runtime.is_first_process() and runtime.is_first_local_process()


@pytest.mark.parametrize('left', [dict(LOCAL_RANK='1'), dict(RANK='1'), dict(RANK='2', LOCAL_RANK='2'),
                                  dict(WORLD_SIZE='8'), dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='3'),
                                  dict(WORLD_SIZE='2', LOCAL_RANK='1')])
def test_what_is_left_in_the_environment_makes_no_second_process(environment, a_gpu, capsys, left):
    """It would print and write nothing, take a GPU that is not there, or wait for ever."""
    environment(**left)
    assert runtime.is_first_process() and runtime.is_first_local_process()
    run = set_up(dict(device='auto', dtype='auto'))
    assert run.is_main and run.world == 1 and str(run.device) == 'cuda:0'
    assert '1 process(es)' in capsys.readouterr().out


def test_a_script_prepares_its_data_whatever_is_left_in_the_environment(tmp_path):
    (tmp_path / 'a.txt').write_text('abc\n' * 40)
    done = subprocess.run([sys.executable, str(ROOT / 'data.py'), 'a.txt'], cwd=tmp_path, text=True,
                          capture_output=True, timeout=60, env={**os.environ, 'LOCAL_RANK': '1'})
    assert done.returncode == 0 and 'waiting' not in done.stdout, done.stderr


@pytest.mark.parametrize('change, word', [
    (dict(RANK='one'), "RANK='one'"), (dict(WORLD_SIZE='-2'), "WORLD_SIZE='-2'"),
    (dict(LOCAL_RANK=''), "LOCAL_RANK=''"), (dict(RANK='4'), 'less than WORLD_SIZE=4')])
def test_numbers_in_the_environment_that_cannot_be(environment, change, word):
    environment(**{**TORCHRUN_SETS, **change})
    with pytest.raises(UserError, match=word):
        set_up(dict(device='cpu', dtype='auto'))


def test_several_processes_need_an_address(environment):
    environment(RANK='0', WORLD_SIZE='2')
    with pytest.raises(UserError, match='MASTER_ADDR is not set: start them with torchrun, or unset WORLD'):
        set_up(dict(device='cpu', dtype='auto'))


@pytest.mark.parametrize('device, backend', [('cuda', 'cpu:gloo,cuda:nccl'), ('cpu', 'gloo')])
def test_processes_have_a_way_for_each_device_and_are_patient(environment, a_gpu, monkeypatch, device, backend):
    """NCCL takes no CPU tensors. And one process may prepare data for hours while the others wait for it."""
    joined = []
    monkeypatch.setattr(dist, 'init_process_group', lambda *args, **options: joined.append((args, options)))
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    environment(**TORCHRUN_SETS)
    run = set_up(dict(device=device, dtype='auto'))
    (args, options), = joined
    assert args == (backend,) and options['timeout'] >= timedelta(hours=12)
    if device == 'cuda':
        assert str(run.device) == 'cuda:1'


# ---- two processes

def script(path, code):
    """A script of its own that can import the project."""
    path.write_text(f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}')
    return path


GRADIENTS = '''
import sys
from copy import deepcopy
from functools import partial
import torch
import torch.distributed as dist
from masking import Masking
from model import SMA, SMAConfig
from util.runtime import finish, no_sync, set_up, wrap
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
    with no_sync(model, run, last=i == 2):
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


@pytest.mark.slow
@pytest.mark.parametrize('compile', ['false', 'true'])
def test_processes_add_up_their_gradients_in_the_last_micro_batch_alone(two_processes, tmp_path, compile):
    """Two gloo processes, three micro-batches each: the sum is that of one process over all six."""
    two_processes(script(tmp_path / 'gradients.py', GRADIENTS), compile)


TIMEOUT = '''
import torch
import torch.distributed as dist
from util.runtime import finish, set_up, sum_ranks
run = set_up(dict(device='cpu', dtype='float32'))
seconds = dist.group.WORLD._get_backend(torch.device('cpu')).options._timeout.total_seconds()
assert seconds >= 12 * 3600, seconds
assert sum_ranks(torch.ones(3) + run.rank, run).tolist() == [3, 3, 3]
finish(run)
'''


@pytest.mark.slow
def test_two_processes_wait_for_hours(two_processes, tmp_path):
    two_processes(script(tmp_path / 'timeout.py', TIMEOUT))


OUT_OF_MEMORY = '''
import os, runpy, torch
from util import optim
update, steps = optim.update, []
def update_until_memory_is_full(*args):
    steps.append(1)
    if len(steps) == 3 and os.environ['RANK'] == '1':
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
    return update(*args)
optim.update = update_until_memory_is_full
runpy.run_path({script!r}, run_name='__main__')
'''


@pytest.mark.slow
def test_a_process_without_memory_ends_all(tmp_path):
    """With a line that names what helps, and no traceback of ours."""
    x = np.random.default_rng(0).normal(size=(100, 3))
    np.savetxt(tmp_path / 't.csv', x, delimiter=',', header='a,b,y', comments='')
    code = OUT_OF_MEMORY.format(script=str(ROOT / 'pretrain.py'))
    tiny = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=1', '--batch_size=8']
    options = [*tiny, '--dataset=t.csv', '--label_column=y', '--device=cpu', '--max_steps=1000000']
    command = [*TORCHRUN, str(script(tmp_path / 'full.py', code)), *options]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    short, = [line for line in errors if '--accumulation' in line]
    assert 'not enough memory' in short and '--batch_size' in short and '--decode_pieces' in short
    for line in set(errors) - {short}:
        assert line == 'error: process 0 waited for another process, which has died'
    assert 'pretrain.py", line' not in done.stderr


# ---- printing

def test_the_main_process_alone_prints(capsys):
    for rank in (0, 1):
        run = Run(torch.device('cpu'), rank=rank, world=2)
        print0(run, f'from {rank}: \x1b[31m')
        warn(run, f'careful, {rank}')
        warn(run, '')
    assert capsys.readouterr().out == 'from 0: \\x1b[31m\nwarning: careful, 0\n'


# ---- batches on a device (data.py, eval.py)

@pytest.mark.parametrize('knobs, checkpoint, step', [
    (dict(n_latent=4), None, 32), (dict(n_latent=0), None, 1), (dict(n_latent=0), dict(n_latent=4), 32)])
def test_on_cuda_widths_are_few_or_cudnn_is_not_asked(tmp_path, monkeypatch, knobs, checkpoint, step):
    """Of a Perceiver and a Transformer of bytes, whatever a later stage's own knobs say."""
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


def test_scores_do_not_depend_on_the_batches(tmp_path, monkeypatch):
    """Predictions of rows in batches of one, of eight, and all at once."""
    (tmp_path / 'a.txt').write_bytes(b'\n'.join(b'abcdefghij'[:1 + i % 10] for i in range(40)))
    dataset = data.open_dataset(str(tmp_path / 'a.txt'), data_dir=str(tmp_path))
    run = set_up(dict(device='cpu', dtype='float32'))
    model = SMA(SMAConfig(n_out=2, v_dim=32, qk_dim=32, embed_dim=32, n_head=4)).double()
    many = []
    for size in (1, 8, 40):
        monkeypatch.setattr(data, 'at_once', lambda *args, size=size: size)
        many.append(outputs(model, model, 2, dataset, np.arange(40), 5, run))
    assert many[0].std() > 0 and all(torch.allclose(p, many[0], rtol=1e-5, atol=1e-7) for p in many)
