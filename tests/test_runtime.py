"""runtime.py: the device, the learning rate, what decays, and checks of knobs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT

import data
from data import open_data
from eval import outputs
from model import SMA, SMAConfig
from util.errors import UserError
from util.runtime import set_up, wrap


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
