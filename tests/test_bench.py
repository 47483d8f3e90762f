"""bench.py against torch's own count of operations; and what must hold of memory, whatever the speed."""

import json

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench import SHOWN, step_flops
from model import SMA, SMAConfig

ENCODERS = [pytest.param(0, id='transformer'), pytest.param(5, id='perceiver')]


def make(n_latent, d_raw, n_out=0, **more):
    torch.manual_seed(0)
    fields = dict(embed_dim=24, qk_dim=16, v_dim=40 if n_latent else 24, n_head=4, seq_len=20, n_layer=3, mlp_ratio=2)
    return SMA(SMAConfig(**{**fields, **more}, n_latent=n_latent, d_raw=d_raw, n_out=n_out))


@pytest.mark.parametrize('n_out', [0, 3])
@pytest.mark.parametrize('d_raw', [0, 2])
@pytest.mark.parametrize('n_latent', ENCODERS)
def test_flops_are_torchs(n_latent, d_raw, n_out):
    """No padding: equal to the last operation. Plain attention, for the fused one counts what it computes again."""
    model = make(n_latent, d_raw, n_out)
    x = torch.randn(7, 18, d_raw) if d_raw else torch.randint(6, 262, (7, 18))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        (model(x) if n_out else model(x, None, 'random', 0.3)[0]).sum().backward()
    m = 0 if n_out else round(0.3 * 18)
    assert step_flops(model.config, np.full(7, 18), np.full(7, m)) == counter.get_total_flops()


def test_padding_is_not_counted():
    c = make(5, 0).config
    n, m = np.array([4, 9, 17]), np.array([1, 3, 5])
    alone = [step_flops(c, n[i:i + 1], m[i:i + 1]) for i in range(3)]
    shared = 6 * (c.n_latent * c.v_dim + c.seq_len * c.embed_dim) * c.qk_dim  # projected once a batch
    assert step_flops(c, n, m) == sum(alone) - 2 * shared


class Largest(TorchDispatchMode):
    """Notes the most elements that any operation inside it returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(result) if torch.is_tensor(t))])
        return result


@pytest.mark.parametrize('mask', ['guided', 'random'])
def test_no_map_of_latents_by_inputs_is_stored(mask):
    """The Perceiver of Table 11, an eighth as large: nothing as large as the h x l x n attention map, or half of it."""
    h, l, n = 8, 64, 4608
    model = make(l, 3, embed_dim=24, qk_dim=96, v_dim=96, n_head=h, seq_len=n)
    with Largest() as largest:
        model(torch.randn(1, n, 3), None, mask, 0.75)[0].sum().backward()
    assert n * 96 <= largest.elements < h * l * n / 2


def test_memory_grows_linearly_with_the_inputs():
    """Bytes kept for the backward pass of a Perceiver, counted at four lengths."""
    def kept(n):
        model, storages = make(8, 1, seq_len=n), {}

        def note(t):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
            return t
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            model(torch.randn(2, n, 1), None, 'guided', 0.5)
        return sum(s.nbytes() for s in storages.values())
    a, b, c, d = (kept(n) for n in (1024, 2048, 4096, 8192))
    assert c - b == pytest.approx(2 * (b - a), rel=0.01) and d - c == pytest.approx(4 * (b - a), rel=0.01)


TINY = ['--rounds=1', '--batch_size=4', '--device=cpu', '--dtype=float32', '--out=bench.jsonl']


def test_bench_runs(run, tmp_path):
    """A row for a config whose data are far away, and one for the user's own file, with every column filled."""
    (tmp_path / 'small.py').write_text("dataset = 'guacamol'\nseq_len = 40\nn_layer = 2\nmask_ratio = 0.3\n")
    (tmp_path / 'x.smi').write_text('CCO\nc1ccccc1O\nCCN(CC)CC\n' * 20)
    for options in (['small.py'], ['small.py', '--dataset=x.smi', '--exact_queries=0']):
        table = run('bench.py', *options, *TINY).stdout.splitlines()[-3:]
        assert all(line.count('|') == len(SHOWN) + 1 for line in table) and table[0] == f'| {" | ".join(SHOWN)} |'
    rows = [json.loads(line) for line in (tmp_path / 'bench.jsonl').read_text().splitlines()]
    assert len(rows) == 2 and all(set(SHOWN) - {'exact'} <= set(row) for row in rows)
    for row in rows:
        assert row['batch'] == 4 and 0 < row['of the limit'] < 1 and 0 <= row['padding'] < 1 and row['loading'] > 1
        assert row['TFLOP/step'] / row['of the limit'] / row['limit'] == pytest.approx(4 / row['guided/s'])


def test_lengths(run, tmp_path):
    (tmp_path / 'small.py').write_text("dataset = 'imagenet100'\nseq_len = 64\nn_latent = 4\nn_layer = 1\n")
    out = run('bench.py', 'small.py', *TINY, '--lengths=64,128,256').stdout
    assert [line.split()[1] for line in out.splitlines() if line[:3] in ('| 6', '| 1', '| 2')] == ['64', '128', '256']
    assert 'time:' in out and 'memory:' in out


def test_no_rounds(run):
    assert 'rounds=0 must be above 0' in run('bench.py', '--rounds=0', status=2).stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('qk_dim, padded, kernel', [(64, False, SDPBackend.FLASH_ATTENTION),
                                                   (64, True, SDPBackend.EFFICIENT_ATTENTION),
                                                   (32, False, SDPBackend.EFFICIENT_ATTENTION),
                                                   (32, True, SDPBackend.EFFICIENT_ATTENTION)])
@pytest.mark.parametrize('n_latent', [0, 64])
def test_cuda_takes_a_fused_attention_kernel(n_latent, qk_dim, padded, kernel):
    """With one fused kernel allowed and nothing else the step runs: flash where no row is padded and heads are as wide
    in v as in q and k, the memory-efficient one elsewhere (padding, and Table 8, whose v is four times as wide)."""
    model = make(n_latent, 0, seq_len=128, embed_dim=64, qk_dim=qk_dim, v_dim=64).cuda()
    x = torch.randint(6, 262, (8, 120), device='cuda')
    valid = torch.arange(120, device='cuda') < torch.randint(90, 121, (8, 1), device='cuda') if padded else None
    with sdpa_kernel(kernel), torch.autocast('cuda', torch.bfloat16):
        model(x, valid, 'guided', 0.3)[0].sum().backward()
