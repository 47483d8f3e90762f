"""
Each attention of each config of the paper under each of PyTorch's kernels: `PYTHONPATH=. python tests/attention.py`.

For every one (its shapes are those that the model asks for, half of the samples' rows cut short where there is
padding): how far output and gradients are from float64's, relative to the largest, and milliseconds of the first call
and of the tenth, forward and backward, in bfloat16. A kernel that does not take it says why. A number as an argument
divides the batch, and cuts rows to 64 inputs: a trial on a CPU.
"""

import sys
import time
import warnings
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from bench import BYTES, FLOATS
from torch.nn.attention import SDPBackend, sdpa_kernel

from configurator import ROOT, configure
from masking import Masking
from model import build

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
KERNELS = dict(default=None, cudnn=SDPBackend.CUDNN_ATTENTION, flash=SDPBackend.FLASH_ATTENTION,
               efficient=SDPBackend.EFFICIENT_ATTENTION, plain=SDPBackend.MATH)
SMALL = int(sys.argv[1]) if len(sys.argv) > 1 else 0


def asked_for(knobs):
    """{name: shapes of q, k, v, each (B, h, n, d)} in a step of this config, of which no number is computed."""
    name, attention, seen = knobs['dataset'], F.scaled_dot_product_attention, []
    n = BYTES[name][0] + 2 if name in BYTES else knobs['seq_len']
    n, d_raw = (n if not knobs['n_latent'] else -(-n // 32) * 32), FLOATS.get(name, 0)
    n, B = (min(n, 64), max(knobs['batch_size'] // SMALL, 2)) if SMALL else (n, knobs['batch_size'])

    def note(*args):
        seen.append([t.shape for t in args[:3]])
        return attention(*args)
    F.scaled_dot_product_attention = note
    with torch.device('meta'):
        x = torch.zeros(B, n, d_raw) if d_raw else torch.zeros(B, n, dtype=torch.int64)
        for n_out in (0, 1):
            build(knobs, d_raw=d_raw, n_layer=2, n_out=n_out)(x, None, Masking.of(knobs))
    F.scaled_dot_product_attention = attention
    return dict(zip(('first', 'block', 'decoder', 'first, tuning', 'block, tuning', 'head'), seen))


def inputs(shapes, kind):
    """q, k, v as the layer lays them out: heads are cut from the width of (B, n, h d)."""
    torch.manual_seed(0)
    made = (torch.randn(B, n, h, d, device=DEVICE, dtype=kind).transpose(1, 2) for B, h, n, d in shapes)
    return [t.requires_grad_() for t in made]


def passes(tensors, see, dropout):
    """-> output and gradients of one forward and backward pass"""
    y = F.scaled_dot_product_attention(*tensors, see, dropout)
    return [y, *torch.autograd.grad(y, tensors, torch.ones_like(y))]


def error(tensors, see, got):
    """The largest error of the first two samples against float64, over the largest number there."""
    double = [t[:2].detach().double().requires_grad_() for t in tensors]
    with sdpa_kernel(SDPBackend.MATH):
        right = passes(double, None if see is None else see[:2], 0.0)
    return max(((a[:2] - b).abs().max() / b.abs().max().clamp(min=1e-3)).item() for a, b in zip(got, right))


def row(tensors, see, dropout, kernel):
    """What the table says of one case: error, first and tenth call, or why it does not run."""
    times = []
    try:
        with sdpa_kernel(kernel) if kernel else nullcontext():
            for _ in range(10):
                getattr(torch, DEVICE).synchronize()
                begin = time.perf_counter()
                got = passes(tensors, see, dropout)
                getattr(torch, DEVICE).synchronize()
                times.append(1000 * (time.perf_counter() - begin))
        far = '' if dropout else f'{error(tensors, see, got):.1e}'
        return f'{far} | {times[0]:.2f} | {times[9]:.2f}'
    except RuntimeError as problem:
        return f'{type(problem).__name__}: {str(problem).strip().splitlines()[0][:60]} | | '


def main():
    warnings.simplefilter('ignore')  # why a kernel was not taken: row says that it was not
    print('| config | attention | q, k, v | mask | dropout | kernel | error | ms, first | ms, tenth |')
    print('|---' * 9 + '|')
    for name in ('higgs', 'chemistry', 'protein', 'text', 'imagenet100'):
        knobs, done = configure({'__file__': ROOT / 'pretrain.py'}, [f'config/{name}.py']), set()
        for which, shapes in asked_for(knobs).items():
            B = max(min(shapes[0][0], 2 ** 28 // max(s[1:].numel() for s in shapes)), 2)  # memory for all of it
            shapes = tuple((B, *s[1:]) for s in shapes)
            if shapes in done:
                continue
            done.add(shapes)
            u, padded = shapes[1][2], knobs['dataset'] in BYTES and not (knobs['n_latent'] and which == 'block')
            tensors = inputs(shapes, torch.bfloat16)
            some = torch.arange(u, device=DEVICE) < torch.randint(u // 2, u + 1, (B, 1), device=DEVICE)
            for see in (None, some[:, None, None]) if padded else (None,):
                for dropout in (0.0, 0.1):
                    for kernel, backend in KERNELS.items():
                        text = ' '.join('x'.join(map(str, s)) for s in shapes)
                        print(f'| {name} | {which} | {text} | {"no" if see is None else "yes"} | {dropout} | {kernel} '
                              f'| {row(tensors, see, dropout, backend)} |', flush=True)


if __name__ == '__main__':
    main()
