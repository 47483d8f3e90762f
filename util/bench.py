"""
How fast, beside the machine's own limit.

    python -m util.bench                                                     the defaults of pretrain.py
    python -m util.bench config/higgs.py config/protein.py                   configs of pretrain.py, a row each
    python -m util.bench config/chemistry_cpu.py --dataset=molecules.smi     a file of yours
    python -m util.bench config/protein_cpu.py --lengths=1024,4096,16384     time and memory against inputs
    python -m util.bench config/higgs.py --theirs=sma/src                    beside the authors' code, after
        git clone https://github.com/Johnathan-Xie/sma
        pip install 'numpy<2' 'huggingface-hub<0.20' tokenizers==0.13.3 regex pyyaml safetensors

A row is measured in one run, in turns: other work on the machine slows all of it alike. Each batch is taken
once untimed before it is timed. Data sets known by name are stood in for by random ones: no download.

    guided, random, fine-tuning   samples/s of whole optimiser steps
    tokens/s, padding     of the guided ones; the share of the places in a batch that hold no token
    TFLOP/step            what the shapes call for: see step_flops
    limit, of the limit   TFLOP/s of the machine's own products, same dtype, sizes of the MLP; ours over that
    mask                  choosing the guided mask, not compiled, as a share of the guided step
    exact                 seconds of a step with the sequential top-k of section 4.1, over Eq. 4; not compiled
    loading               seconds of a guided step, over those of reading its batch (in a thread on CUDA)
    memory                peak of guided steps on a GPU; elsewhere of the whole process up to then
    theirs                seconds of the authors' step, not compiled, over those of a guided one, both from the
                          very same weights; their first losses are compared before anything is timed
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from configurator import ROOT, configure
from data import micro_batches, open_data
from masking import Masking
from model import N_IDS, SMA, build
from util.authors import from_theirs
from util.checkpoint import load_weights
from util.checks import check_batch, check_numbers
from util.errors import fail, run_cli
from util.optim import make_optimizer, make_scaler, update
from util.runtime import log_line, set_up, wrap
from util.scaling import fit_norm

# -----------------------------------------------------------------------------
dataset: str | None = None  # a file, or a name, in place of the config's; None = a random stand-in
batch_size: int | None = None  # samples a step; None = the config's, on a CPU 0.5 TFLOP at most
rounds = 5  # batches; each number is the median over them
lengths: int | None = ()  # numbers of inputs: time and memory against them, a sample a step; no other table
theirs = ''  # folder that holds the authors' code: their step beside ours
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
compile: str | None = None  # torch.compile: true, false, reduce-overhead (CUDA graphs); None = on cuda
out = 'out/bench.jsonl'  # results are appended here, a line each
# stand-ins: bytes of log-normal lengths (median, sigma of the log), floats (d_raw; as many as seq_len)
BYTES = {'pfam': (250, 0.6), 'guacamol': (45, 0.25), 'wiki_books': (1022, 0.0)}
FLOATS = {'collider': 1, 'higgs': 1, 'higgs_small': 1, 'year': 1, 'imagenet100': 3}


def step_flops(c, ratio, lengths):
    """
    Floating-point operations of a pre-training step's matrix products, both passes, on rows of these lengths,
    as torch counts them, without a value in any tensor. Not in it: padding, what is computed twice, the mask.
    """
    @cache
    def count(n, n_layer=1, B=1):
        with torch.device('meta'):
            model = SMA(replace(c, n_layer=n_layer, decode_pieces=1))
            x = torch.zeros(B, n, c.d_raw) if c.d_raw else torch.zeros(B, n, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others compute twice
            model(x, None, Masking('random', ratio))[0].sum().backward()
        return counter.get_total_flops()
    shared = 2 * count(lengths[0]) - count(lengths[0], B=2)  # latents and P; blocks are all alike:
    return shared + sum(count(n) - shared + (c.n_layer - 1) * (count(n, 2) - count(n)) for n in lengths)


def stand_in(knobs, folder):
    """Random rows, a few batches of them, in a user's format, in place of a data set known by name."""
    rng, name, n, size = np.random.default_rng(0), knobs['dataset'], knobs['seq_len'], knobs['batch_size']
    file = Path(folder, 'x.txt' if name in BYTES else 'x.npy')
    if name in BYTES:
        median, sigma = BYTES[name]
        many = np.clip(median * np.exp(sigma * rng.normal(size=64 * size)), 8, n - 2).astype(int)
        file.write_bytes(b'\n'.join(rng.integers(ord('A'), ord('Z') + 1, k, np.uint8).tobytes() for k in many))
    else:
        rows = max(min(64 * size, 2 ** 24 // (n * FLOATS[name])), size)
        np.save(file, rng.normal(size=(rows, n, FLOATS[name])).astype(np.float32))
    knobs.update(dataset=str(file), data_dir=folder, val_share=0.0, test_share=0.0)


def seconds(function, run):
    """How long function() takes the second time, with all that it left running on a GPU."""
    wait = getattr(torch, run.device.type).synchronize  # torch.cuda's, torch.mps's; torch.cpu's does nothing
    for _ in range(2):
        wait()
        begin = time.perf_counter()
        function()
    wait()
    return max(time.perf_counter() - begin, 1e-9)  # a clock may stand still


def peak_gb(run):
    """GB at the most so far: of the GPU's allocator, or of the process."""
    if run.device.type == 'cuda':
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 1e9


def limit(c, rows, run):
    """-> function: FLOP/s of the products of an MLP's first Linear, forward and backward, of so many rows."""
    kind, d, again = dict(device=run.device, dtype=getattr(torch, run.dtype)), c.mlp_ratio * c.v_dim, 1
    x, w, g = (torch.randn(shape, **kind) for shape in ((rows, c.v_dim), (d, c.v_dim), (rows, d)))
    trio = [(x, w.t(), torch.empty_like(g)), (g, w, torch.empty_like(x)), (g.t(), x, torch.empty_like(w))]

    def products():
        for a, b, result in trio * again:
            torch.mm(a, b, out=result)
    while seconds(products, run) < 0.05:  # long enough for the clock
        again *= 2
    return lambda: again * 6 * rows * d * c.v_dim / seconds(products, run)


def their_model(c, how, n):
    """The authors' SMAForSSL in the shape of our SMAConfig c, for rows of about n inputs."""
    sys.path.insert(0, theirs)
    from transformers.models.sma.modeling_sma import SMAConfig, SMAForSSL
    r, h, mlp, loss = how.mask_ratio, c.n_head, c.mlp_ratio, 'mse' if c.d_raw else 'crossentropy'
    noise = dict(masking_ratio=r, num_per_query=max(1, round(r * n / how.n_query)))
    # their decoder's second LayerNorm is as wide as its queries, the position embeddings: so are its values
    decoder = dict(query_num_channels=c.embed_dim, v_channels=c.embed_dim, qk_channels=c.qk_dim,
                   num_heads=math.gcd(h, c.embed_dim), widening_factor=mlp, use_query_residual=False,
                   share_decoder_queries=True)
    return SMAForSSL(SMAConfig(
        encoder_type='cross_attention' if c.n_latent else 'self_attention', max_position_embeddings=c.seq_len,
        input_type='continuous' if c.d_raw else 'discrete', input_channels=c.d_raw or 1, dense_use_bias=True,
        embedded_channels=c.embed_dim, latent_channels=c.v_dim, qk_channels=c.qk_dim, v_channels=c.v_dim,
        num_self_attends_per_block=c.n_layer - 1, num_self_attention_heads=h, num_cross_attention_heads=h,
        self_attention_widening_factor=mlp, cross_attention_widening_factor=mlp, num_latents=c.n_latent,
        cross_train_noising_args=[['RandomlySelectedCrossAttentionMasking', noise]],
        teacher_args=dict(reconstruction_decoder_args=decoder, reconstruction_loss_fn=loss)))


@torch.no_grad()
def share_weights(raw, other, x, valid, how):
    """Gives ours the authors' weights, and fails unless both have the same loss, with all queries drawn."""
    checkpoint, _ = from_theirs({**other.config.to_dict(), 'architectures': ['SMAForSSL']}, other.state_dict())
    load_weights(raw, checkpoint['model'])
    noise = other.perceiver.encoder.cross_attention.attention.attention.train_noising_function.transforms[0]
    usual, noise.num_per_query = noise.num_per_query, 1e-3  # so many queries that all are drawn
    first = their_loss(other, x, valid).item()
    noise.num_per_query = usual
    loss, hidden = raw(x, valid, replace(how, n_query=raw.config.n_latent or x.shape[1]))
    loss = (loss.sum() / hidden.sum()).item()
    print(f'parameters: {sum(p.numel() for p in other.parameters()):,} theirs, '
          f'{sum(p.numel() for p in raw.parameters()):,} ours; first loss: {first:.6f}, {loss:.6f}')
    if not math.isclose(first, loss, rel_tol=1e-3):  # float32, in which two inputs may change places
        fail('the two codes do not have the same loss on the same weights')


def their_loss(other, x, valid):
    """The authors' loss of a batch."""
    real = torch.ones(x.shape[:2], device=x.device) if valid is None else valid.float()
    return other(inputs=x, attention_mask=real).loss


def stepper(raw, inputs, knobs, run, may_compile=True):
    """-> function (x, valid, how) that takes an optimiser step, as the stages do; how = None: fine-tuning."""
    ours, model = isinstance(raw, SMA), wrap(raw, run) if may_compile else raw
    optimizer = make_optimizer(raw, {**knobs, 'lr': 1e-4}, run.device) if ours else \
        torch.optim.AdamW(raw.parameters(), 1e-4, weight_decay=knobs['weight_decay'])
    scaler = make_scaler(run)

    def step(x, valid, how=None):
        x = inputs(x)
        with run.autocast():
            if ours:
                answer = model(x, valid, how)  # loss and hidden; or predictions, whose labels shall all be 0
                loss = answer[0].sum() / answer[1].sum() if how else answer.square().mean()
            else:
                loss = their_loss(model, x, valid)
        scaler.scale(loss).backward()
        update(raw, optimizer, scaler, knobs['grad_clip'])
    return step


def measure(knobs, guided, random, run):
    """One row of the table, {column: value}; guided, random Masking."""
    data, seq_len = open_data(knobs, run)
    rows, size = data.rows('train'), knobs['batch_size']
    check_batch(len(rows), {'batch_size': size, 'accumulation': 1}, run)
    data.norm = fit_norm(data, rows, knobs['norm'])
    inputs, typical = partial(data.inputs, scale=(0.2, 1.0)), int(np.median(data.lengths(rows)))
    raw = build(knobs, d_raw=data.d_raw, seq_len=seq_len).to(run.device)
    c, flops = raw.config, partial(step_flops, raw.config, guided.mask_ratio)
    if batch_size is None and run.device.type == 'cpu':
        size = max(min(size, int(0.5e12 / flops([typical]))), 1)
    batches = list(islice(micro_batches(data, rows, size, 1, 0, 0, run), rounds))

    if theirs:
        other = their_model(c, guided, typical).to(run.device)
        share_weights(raw, other, inputs(batches[0][0]), batches[0][1], guided)
    step = stepper(raw, inputs, knobs, run)
    seconds(lambda: [step(x, valid, guided) for x, valid, *_ in batches], run)
    memory = peak_gb(run)  # first of all, while there is one model (and theirs)
    steps = {'guided': partial(step, how=guided), 'random': partial(step, how=random)}
    for k, mask in (('many', 'guided'), ('exact', 'guided_exact')):
        steps[k] = partial(stepper(raw, inputs, knobs, run, False), how=replace(guided, mask=mask, n_query=32))
    steps['fine-tuning'] = stepper(build(vars(c), dropout=0.1, n_out=1).to(run.device), inputs, knobs, run)
    if theirs:
        steps['theirs'] = stepper(other, inputs, knobs, run, False)
    products = limit(c, size * (c.n_latent or round((1 - guided.mask_ratio) * typical)), run)

    turns = []
    for x, valid, _, step_rows in batches:
        t = {k: seconds(partial(take, x, valid), run) for k, take in steps.items()}
        n, t_guided, peak = data.lengths(step_rows), t['guided'], products()
        t_batch, work = seconds(lambda: data.batch(step_rows), run), flops(n.tolist())
        with torch.no_grad(), run.autocast():
            x = data.inputs(x)
            real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
            t_mask = seconds(partial(raw.choose_mask, x, raw.embed(x), real, guided), run)
        turns.append({**{f'{k}/s': size / t[k] for k in ('guided', 'random', 'fine-tuning')},
                      'tokens/s': n.sum() / t_guided, 'padding': 1 - n.mean() / n.max(),
                      'TFLOP/step': work / 1e12, 'limit': peak / 1e12, 'of the limit': work / t_guided / peak,
                      'mask': t_mask / t_guided, 'exact': t['exact'] / t['many'],
                      'loading': t_guided / t_batch, 'memory GB': memory,
                      **{k: t[k] / t_guided for k in ('theirs',) if theirs}})
    return {'batch': size, **{k: float(np.median([turn[k] for turn in turns])) for k in turns[0]}}


def against_length(knobs, how, run):
    """Rows of another table, a number of inputs each: steps on one sample, the shortest first."""
    table, d_raw = [], FLOATS.get(knobs['dataset'], 0)
    for n in sorted(lengths):
        raw = build(knobs, seq_len=n, d_raw=d_raw).to(run.device)
        x = torch.randn(1, n, d_raw) if d_raw else torch.randint(6, N_IDS, (1, n))
        step = partial(stepper(raw, lambda x: x, knobs, run), x.to(run.device), None, how)
        t = float(np.median([seconds(step, run) for _ in range(rounds)]))
        table.append({'inputs': n, 'seconds': t, 'memory GB': peak_gb(run)})
    return {'lengths': table}


def show(rows):
    """Prints a Markdown table."""
    head = [k for k in rows[0] if k not in ('device', 'dtype', 'compiled')]
    for line in (head, ['---'] * len(head), *([row[k] for k in head] for row in rows)):
        print('| ' + ' | '.join(f'{v:.3g}' if isinstance(v, float) else str(v) for v in line) + ' |')


def main():
    files = [arg for arg in sys.argv[1:] if arg.endswith('.py') and arg[:2] != '--']
    options = [arg for arg in sys.argv[1:] if arg not in files]
    config = configure(globals(), options)
    if Path(out).is_dir() or theirs and not Path(theirs, 'transformers/models/sma').is_dir():
        fail(f'{out=} must name a file; {theirs=}, if given, a folder with transformers/models/sma in it')
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    if len(files) > 1:  # a process each, so that none inherits another's memory
        if any(subprocess.run([sys.executable, '-m', 'util.bench', file, *options], env=environment).returncode for file in files):
            raise SystemExit(2)
        rows = [json.loads(line) for line in Path(out).read_text().splitlines()[-len(files):]]
        return None if lengths else show(rows)

    # a config's settings over pretrain.py's own, for either mask, from which some of them follow
    given = [*files, *(f'--{k}={config[k]}' for k in ('dataset', 'batch_size') if config[k] is not None)]
    knobs, blind = (configure({'__file__': ROOT / 'pretrain.py'}, [*given, f'--mask={mask}'])
                    for mask in ('guided', 'random'))
    guided, random = map(Masking.of, (knobs, blind))
    check_numbers({**knobs, 'rounds': rounds}, ('rounds',))
    run, row = set_up(config), {'config': Path(*files).stem or 'defaults'}
    row.update(device=str(run.device), dtype=run.dtype, compiled=run.compile)
    with tempfile.TemporaryDirectory() as folder:
        if dataset is None and not lengths and knobs['dataset'] in {*BYTES, *FLOATS} - {'collider'}:
            stand_in(knobs, folder)  # the collider is simulated
        row.update(against_length(knobs, guided, run) if lengths else measure(knobs, guided, random, run))
    log_line(Path(out), run, **row)
    show(row.get('lengths', [row]))


if __name__ == '__main__':
    run_cli(main)
