"""util/bench.py against a count by hand and torch's own; and what must hold of memory, whatever the speed."""

import json
import re
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from masking import Masking
from model import SMA, SMAConfig
from util.bench import step_flops


def make(n_latent, d_raw, **more):
    """A small SMA with weights from seed 0."""
    torch.manual_seed(0)
    shape = dict(embed_dim=24, qk_dim=16, v_dim=40 if n_latent else 24, n_head=4, seq_len=20, n_layer=3,
                 mlp_ratio=2)
    shape.update(more)
    return SMA(SMAConfig(n_latent=n_latent, d_raw=d_raw, **shape))


# -----------------------------------------------------------------------------
# the operations of a step

def test_flops_are_those_counted_by_hand():
    """A Perceiver of bytes, on 3 rows of 17 inputs, of which 5 are hidden."""
    c = make(5, 0).config
    latents, d, qk, embed = c.n_latent, c.v_dim, c.qk_dim, c.embed_dim
    B, n, m = 3, 17, 5

    def layer(queries, keys, key_width, width):
        """Products of one sample, without those that make the queries; one product is one multiply and add."""
        keys_and_values = keys * key_width * (qk + width)
        attention = queries * keys * (qk + width)
        projection = queries * width * width
        mlp = 2 * queries * width * (2 * width)
        return keys_and_values + attention + projection + mlp
    shared = latents * d * qk + c.seq_len * embed * qk  # queries from the latents and from P: once a batch
    first = layer(latents, n - m, embed, d)
    block = latents * d * qk + layer(latents, latents, d, d)
    decoder = layer(m, latents, d, embed) + m * embed * 262
    products = shared + B * (first + 2 * block + decoder)
    # 2 operations each; the backward pass has twice as many as the forward pass
    assert step_flops(c, 0.3, B, n) == 6 * products


@pytest.mark.parametrize('d_raw', [0, 2])
@pytest.mark.parametrize('n_latent', [0, 5])
def test_flops_are_those_of_a_step_on_real_numbers(n_latent, d_raw):
    model = make(n_latent, d_raw)
    x = torch.randn(7, 18, d_raw) if d_raw else torch.randint(6, 262, (7, 18))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss, _ = model(x, None, Masking('random', 0.3))
        loss.sum().backward()
    assert step_flops(model.config, 0.3, 7, 18) == counter.get_total_flops()


# -----------------------------------------------------------------------------
# memory

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
    """The Perceiver of Table 11, an eighth as large: nothing as large as half the h x l x n attention map."""
    heads, latents, n = 8, 64, 4608
    model = make(latents, 3, embed_dim=24, qk_dim=96, v_dim=96, n_head=heads, seq_len=n)
    with Largest() as largest:
        loss, _ = model(torch.randn(1, n, 3), None, Masking(mask, 0.75))
        loss.sum().backward()
    assert n * 96 <= largest.elements < heads * latents * n / 2


def bytes_kept(n):
    """What a Perceiver keeps for the backward pass on n inputs."""
    model = make(8, 1, seq_len=n)
    storages = {}

    def note(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model(torch.randn(2, n, 1), None, Masking('guided', 0.5))
    return sum(storage.nbytes() for storage in storages.values())


def test_memory_grows_linearly_with_the_inputs():
    a, b, c, d = (bytes_kept(n) for n in (1024, 2048, 4096, 8192))
    assert c - b == pytest.approx(2 * (b - a), rel=0.01)
    assert d - c == pytest.approx(4 * (b - a), rel=0.01)


# -----------------------------------------------------------------------------
# the script

TINY = ['--rounds=1', '--batch_size=4', '--device=cpu', '--dtype=float32', '--out=bench.jsonl']
SMALL = "n_layer = 2\nseq_len = 40\nmask_ratio = 0.5 if mask == 'random' else 0.3\n"
COLUMNS = ['config', 'batch', 'memory GB', 'guided/s', 'random/s', 'fine-tuning/s', 'TFLOP/step', 'limit',
           'of the limit', 'mask', 'exact', 'loading']


def table(out, n_rows):
    """The last lines of what was printed, cell by cell."""
    return [line.strip('| ').split(' | ') for line in out.splitlines()[-n_rows - 2:]]


@pytest.mark.slow
def test_bench_runs(run, tmp_path):
    """A row for a config whose data are far away, and one for the user's own file: every column is filled."""
    (tmp_path / 'far.py').write_text("dataset = 'guacamol'\n" + SMALL)
    (tmp_path / 'own.py').write_text("dataset = 'x.smi'\n" + SMALL)
    (tmp_path / 'x.smi').write_text('CCO\nc1ccccc1O\nCCN(CC)CC\n' * 20)
    head, _, *shown = table(run('util/bench.py', 'far.py', 'own.py', *TINY).stdout, 2)
    assert head == COLUMNS and [line[0] for line in shown] == ['far', 'own']
    rows = [json.loads(line) for line in (tmp_path / 'bench.jsonl').read_text().splitlines()]
    assert [row['config'] for row in rows] == ['far', 'own']
    for row in rows:
        assert set(COLUMNS) <= set(row)
        assert row['batch'] == 4 and row['loading'] > 1
        assert 0 < row['of the limit'] < 1 and 0 < row['mask'] < 1 and row['memory GB'] > 0
        assert row['TFLOP/step'] / row['of the limit'] / row['limit'] == pytest.approx(4 / row['guided/s'])


THEIRS = '''
import torch
from types import SimpleNamespace as Object
from masking import Masking
from model import SMA, SMAConfig as Ours
class SMAConfig:
    def __init__(self, **given):
        assert given['num_latents'] == 0 and given['max_position_embeddings'] == 28
        assert given['cross_train_noising_args'][0][1] == dict(masking_ratio=0.5, num_per_query=14)
    def to_dict(self):
        return {}
class SMAForSSL(torch.nn.Module):
    def __init__(self, config):
        torch.manual_seed(7)
        super().__init__()
        self.config, self.inner = config, SMA(Ours(1, 64, 28, 3, 64, 4, 64))
        self.state_dict = self.inner.state_dict
        self.transform = Object(num_per_query=14)
        inner = Object(train_noising_function=Object(transforms=[self.transform]))
        attention = Object(attention=Object(attention=inner))
        self.perceiver = Object(encoder=Object(cross_attention=attention))
    def forward(self, inputs, attention_mask):
        assert attention_mask.shape == (4, 28) and attention_mask.all()
        if self.transform.num_per_query == 14:
            return Object(loss=self.inner.P.sum() * inputs.mean())
        loss, hidden = self.inner(inputs, masking=Masking('guided', 0.5, 28))
        return Object(loss=loss.sum() / hidden.sum() WRONG)
'''


@pytest.mark.slow
@pytest.mark.parametrize('wrong', [False, True])
def test_their_step_has_a_column_when_their_code_is_given(run, tmp_path, monkeypatch, wrong):
    (tmp_path / 'src/transformers/models/sma').mkdir(parents=True)
    assert 'transformers/models/sma' in run('util/bench.py', *TINY, '--theirs=elsewhere', status=2).stderr
    source = THEIRS.replace('WRONG', '* 1.01' if wrong else '')
    (tmp_path / 'src/transformers/models/sma/modeling_sma.py').write_text(source)
    (tmp_path / 'src/transformers/__init__.py').touch()
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setattr('util.authors.from_theirs', lambda config, state: (dict(model=state), ''))
    done = run('util/bench.py', *TINY, f'--theirs={tmp_path}/src', status=2 if wrong else 0)
    for name in [name for name in sys.modules if name.partition('.')[0] == 'transformers']:
        del sys.modules[name]
    if wrong:
        assert 'do not have the same loss on the same weights' in done.stderr
        return
    first = re.search(r'first loss: (\S+), (\S+)', done.stdout)
    assert first[1] == first[2]
    head, _, row = table(done.stdout, 1)
    assert head == [*COLUMNS, 'theirs']
    assert 0 < float(row[-1]) < 1  # that stub has next to nothing to do


def test_lengths(run, tmp_path):
    (tmp_path / 'small.py').write_text("dataset = 'imagenet100'\nn_latent = 4\nn_layer = 1\n")
    head, _, *rows = table(run('util/bench.py', 'small.py', *TINY, '--lengths=128,64').stdout, 2)
    assert head == ['inputs', 'seconds', 'memory GB'] and [row[0] for row in rows] == ['64', '128']
    logged = json.loads((tmp_path / 'bench.jsonl').read_text())['lengths']
    assert [row['inputs'] for row in logged] == [64, 128] and all(row['seconds'] > 0 for row in logged)


@pytest.mark.parametrize('option, message', [('--rounds=0', 'rounds=0 must be at least 1'),
                                             ('--lengths=64,x', 'lengths: wants'),
                                             ('--out=.', "out='.' must name a file")])
def test_bad_knobs(run, option, message):
    assert message in run('util/bench.py', option, status=2).stderr


def test_random_rows_need_a_length(run, tmp_path):
    (tmp_path / 'far.py').write_text("dataset = 'guacamol'\n")
    error = run('util/bench.py', 'far.py', *TINY, status=2).stderr
    assert 'Set seq_len' in error and error.count('\n') == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('qk_dim, padded, kernel', [(64, False, SDPBackend.FLASH_ATTENTION),
                                                   (64, True, SDPBackend.EFFICIENT_ATTENTION),
                                                   (32, False, SDPBackend.EFFICIENT_ATTENTION),
                                                   (32, True, SDPBackend.EFFICIENT_ATTENTION)])
@pytest.mark.parametrize('n_latent', [0, 64])
def test_cuda_takes_a_fused_attention_kernel(n_latent, qk_dim, padded, kernel):
    """
    With one fused kernel allowed and nothing else the step runs: flash where no row is padded and heads are
    as wide in v as in q and k, the memory-efficient one elsewhere (padding, and Table 8, whose v is four times
    as wide).
    """
    model = make(n_latent, 0, seq_len=128, embed_dim=64, qk_dim=qk_dim, v_dim=64).cuda()
    x = torch.randint(6, 262, (8, 120), device='cuda')
    lengths = torch.randint(90, 121, (8, 1), device='cuda')
    valid = torch.arange(120, device='cuda') < lengths if padded else None
    with sdpa_kernel(kernel), torch.autocast('cuda', torch.bfloat16):
        model(x, valid, Masking('guided', 0.3))[0].sum().backward()
