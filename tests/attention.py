"""
Each attention of each config of the paper under each of PyTorch's kernels: `PYTHONPATH=. python
tests/attention.py`.

The shapes are those that the model asks for. Where there is padding, half of each sample's keys may be cut off.
A row of the table says how far output and gradients are from float64's, relative to the largest number there,
and how long the first call and the tenth take, forward and backward, in bfloat16; or why the kernel does not
take the case.

A number as an argument divides the batch, and cuts rows to 64 inputs: a trial on a CPU.
"""

import math
import sys
import time
import warnings
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from configurator import ROOT, configure
from masking import Masking
from model import build
from util.bench import BYTES, FLOATS

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CONFIGS = ('higgs', 'chemistry', 'protein', 'text', 'imagenet100')
KERNELS = {'default': None, 'cudnn': SDPBackend.CUDNN_ATTENTION, 'flash': SDPBackend.FLASH_ATTENTION,
           'efficient': SDPBackend.EFFICIENT_ATTENTION, 'plain': SDPBackend.MATH}
NAMES = ('first', 'block', 'decoder', 'first, tuning', 'block, tuning', 'head')  # in the order of the calls
MOST_NUMBERS = 2 ** 28  # of q, k or v: the batch is made smaller, so that all kernels have memory enough
SMALL = int(sys.argv[1]) if len(sys.argv) > 1 else 0


def main():
    warnings.simplefilter('ignore')  # PyTorch says why a kernel was not taken; the table does too
    print('| config | attention | q, k, v | mask | dropout | kernel | error | ms, first | ms, tenth |')
    print('|---' * 9 + '|')
    for name in CONFIGS:
        knobs = configure({'__file__': ROOT / 'pretrain.py'}, [f'config/{name}.py'])
        done = set()
        for attention, shapes in attention_shapes(knobs).items():
            shapes = fit_in_memory(shapes)
            if shapes in done:
                continue
            done.add(shapes)
            # the latents of a Perceiver have no padding
            is_padded = knobs['dataset'] in BYTES and not (knobs['n_latent'] and attention == 'block')
            print_cases(f'{name} | {attention}', shapes, is_padded)


def print_cases(title, shapes, is_padded):
    """The rows of one attention: with a mask and without, with dropout and without, by each kernel."""
    tensors = random_inputs(shapes)
    text = ' '.join('x'.join(map(str, shape)) for shape in shapes)
    masks = {'no': None}
    if is_padded:
        masks['yes'] = random_padding(shapes)
    for has_mask, mask in masks.items():
        for dropout in (0.0, 0.1):
            for kernel, backend in KERNELS.items():
                cells = measure(tensors, mask, dropout, backend)
                print(f'| {title} | {text} | {has_mask} | {dropout} | {kernel} | {cells} |', flush=True)


def attention_shapes(knobs):
    """{attention: shapes of its q, k, v, each (B, h, n, d)} in a step of this config; no number is computed."""
    name = knobs['dataset']
    n = BYTES[name][0] + 2 if name in BYTES else knobs['seq_len']
    if knobs['n_latent']:
        n = 32 * math.ceil(n / 32)  # as data.py pads
    B = knobs['batch_size']
    if SMALL:
        n = min(n, 64)
        B = max(B // SMALL, 2)

    seen = []
    attention = F.scaled_dot_product_attention

    def note(q, k, v, *more):
        seen.append((q.shape, k.shape, v.shape))
        return attention(q, k, v, *more)
    F.scaled_dot_product_attention = note
    d_raw = FLOATS.get(name, 0)
    with torch.device('meta'):
        x = torch.zeros(B, n, d_raw) if d_raw else torch.zeros(B, n, dtype=torch.int64)
        for n_out in (0, 1):  # pre-training, fine-tuning
            model = build(knobs, d_raw=d_raw, n_layer=2, n_out=n_out)
            model(x, None, Masking.of(knobs))
    F.scaled_dot_product_attention = attention
    return dict(zip(NAMES, seen, strict=True))


def fit_in_memory(shapes):
    """The same shapes with a smaller batch, if they are large."""
    of_a_sample = max(shape[1:].numel() for shape in shapes)
    B = max(min(shapes[0][0], MOST_NUMBERS // of_a_sample), 2)
    return tuple((B, *shape[1:]) for shape in shapes)


def random_inputs(shapes):
    """q, k, v as the layer lays them out: heads are cut from the width of (B, n, h d)."""
    torch.manual_seed(0)
    tensors = []
    for B, h, n, d in shapes:
        t = torch.randn(B, n, h, d, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
        tensors.append(t.requires_grad_())
    return tensors


def random_padding(shapes):
    """A mask (B, 1, 1, u), True = may be attended to: half to all of the keys of each sample."""
    B, _, u, _ = shapes[1]
    lengths = torch.randint(u // 2, u + 1, (B, 1), device=DEVICE)
    return (torch.arange(u, device=DEVICE) < lengths)[:, None, None]


def measure(tensors, mask, dropout, backend):
    """Three cells of the table: error, first and tenth call; or why it does not run."""
    wait = getattr(torch, DEVICE).synchronize
    times = []
    try:
        with sdpa_kernel(backend) if backend else nullcontext():
            for _ in range(10):
                wait()
                start = time.perf_counter()
                result = both_passes(tensors, mask, dropout)
                wait()
                times.append(1000 * (time.perf_counter() - start))
        error = '' if dropout else f'{error_of(result, tensors, mask):.1e}'
        return f'{error} | {times[0]:.2f} | {times[9]:.2f}'
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[0]
        return f'{type(problem).__name__}: {reason[:60]} | | '


def both_passes(tensors, mask, dropout):
    """-> output and gradients of one forward and backward pass"""
    y = F.scaled_dot_product_attention(*tensors, mask, dropout)
    return [y, *torch.autograd.grad(y, tensors, torch.ones_like(y))]


def error_of(result, tensors, mask):
    """The largest error of the first two samples against float64, over the largest number there."""
    double = [t[:2].detach().double().requires_grad_() for t in tensors]
    with sdpa_kernel(SDPBackend.MATH):
        exact = both_passes(double, None if mask is None else mask[:2], 0.0)
    errors = []
    for ours, right in zip(result, exact):
        largest = right.abs().max().clamp(min=1e-3)
        errors.append(((ours[:2] - right).abs().max() / largest).item())
    return max(errors)


if __name__ == '__main__':
    main()
