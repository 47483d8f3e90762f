"""
How fast pre-training and fine-tuning are, beside the machine's own limit.

    python -m util.bench                                                     the defaults of pretrain.py
    python -m util.bench config/higgs.py config/protein.py                   configs of pretrain.py, a row each
    python -m util.bench config/chemistry_cpu.py --dataset=molecules.smi     a file of yours
    python -m util.bench config/protein_cpu.py --lengths=1024,4096,16384     time and memory against inputs
    python -m util.bench config/higgs.py --theirs=sma/src                    beside the authors' code, after
        git clone https://github.com/Johnathan-Xie/sma
        pip install 'numpy<2' 'huggingface-hub<0.20' tokenizers==0.13.3 regex pyyaml safetensors

Data sets known by name are replaced by random rows of the same shape, so nothing is downloaded. Each number of
a row is the median over a few batches. For each batch everything is timed in turn, so that other work on the
machine slows all of it alike, and each thing runs once untimed before it is timed. The columns:

    memory GB             peak of guided steps on a GPU; elsewhere of the whole process up to then
    guided, random, fine-tuning   samples/s of whole optimiser steps
    TFLOP/step            matrix products of a guided step, as torch counts them, without the mask's
    limit                 TFLOP/s of plain matrix products of the MLP's size, in the same dtype
    of the limit          the share of it that a guided step reaches
    mask                  choosing the guided mask, not compiled, as a share of the guided step
    exact                 time of a step with the sequential top-k of section 4.1, over that with Eq. 4; both
                          with 32 queries, and not compiled
    loading               time of a guided step over the time that reading its batch takes
    theirs                time of the authors' step, not compiled, over that of a guided one. Both start from
                          the same weights, and must have the same first loss
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
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from configurator import ROOT, configure
from data import DEFAULT_DATASET, micro_batches, open_data
from masking import FIRST_BYTE, Masking
from model import N_IDS, SMA, all_true, build
from util.authors import from_theirs
from util.checkpoint import load_weights
from util.checks import check_batch, check_numbers
from util.errors import fail, run_cli
from util.optim import make_optimizer, make_scaler, update
from util.runtime import set_up, wrap
from util.scaling import fit_norm

SHARED_KNOBS = ('util/runtime.py',)  # device, dtype
# -----------------------------------------------------------------------------
dataset: str | None = None  # a file, or a name, in place of the config's; None = random rows in its place
batch_size: int | None = None  # samples a step; None = the config's, on a CPU 0.5 TFLOP at most
rounds = 5  # batches; each number is the median over them
lengths: int | None = ()  # numbers of inputs: time and memory against them, one sample a step; no other table
theirs = ''  # folder that holds the authors' code: their step beside ours
compile: str | None = None  # torch.compile: true, false, reduce-overhead (CUDA graphs); None = on cuda
out = 'out/bench.jsonl'  # results are appended here, a line each

# random rows: bytes of log-normal lengths (median, sigma of the logarithm), floats (d_raw; seq_len inputs)
BYTES = {'pfam': (250, 0.6), 'guacamol': (45, 0.25), 'wiki_books': (1022, 0.0)}
FLOATS = {'collider': 1, 'higgs': 1, 'higgs_small': 1, 'year': 1, 'imagenet100': 3}
CPU_FLOPS = 0.5e12  # of a step, at most, where the batch size is not given
LR = 1e-4


def main():
    files, options = split_arguments(sys.argv[1:])
    config = configure(globals(), options)
    if Path(out).is_dir():
        fail(f'{out=} must name a file')
    if theirs and not Path(theirs, 'transformers/models/sma').is_dir():
        fail(f'{theirs=} must be a folder with transformers/models/sma in it')
    if len(files) > 1:
        one_by_one(files, options)
        return

    knobs = pretraining_knobs(files, 'guided')
    guided = Masking.of(knobs)
    random = Masking.of(pretraining_knobs(files, 'random'))  # a config may choose another ratio for it
    check_numbers({**knobs, 'rounds': rounds}, ('rounds',))
    run = set_up(config)
    row = {'config': Path(files[0]).stem if files else 'defaults'}
    row.update(device=str(run.device), dtype=run.dtype, compiled=run.compile)
    if lengths:
        table = against_length(knobs, guided, run)
        row['lengths'] = table
    else:
        with tempfile.TemporaryDirectory() as folder:
            if dataset is None:
                replace_by_random_rows(knobs, folder)
            row.update(measure(knobs, guided, random, run))
        table = [row]
    append_line(out, row)
    show(table)


def append_line(path, row):
    """Appends a row to a file of JSON lines."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a') as f:
        f.write(json.dumps(row) + '\n')


def split_arguments(arguments):
    """-> config files of pretrain.py, and options of this script"""
    files, options = [], []
    for argument in arguments:
        if argument.endswith('.py') and not argument.startswith('--'):
            files.append(argument)
        else:
            options.append(argument)
    return files, options


def pretraining_knobs(files, mask):
    """The settings of pretrain.py with this config file, and what is given for it on the command line."""
    arguments = [*files, f'--mask={mask}']
    if dataset is not None:
        arguments.append(f'--dataset={dataset}')
    if batch_size is not None:
        arguments.append(f'--batch_size={batch_size}')
    knobs = configure({'__file__': ROOT / 'pretrain.py'}, arguments)
    if knobs['dataset'] is None:
        knobs['dataset'] = DEFAULT_DATASET
    return knobs


def one_by_one(files, options):
    """A process for each config, so that none inherits the memory and the kernels of another; then all rows."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for file in files:
        done = subprocess.run([sys.executable, '-m', 'util.bench', file, *options], env=environment)
        if done.returncode:
            raise SystemExit(2)
    if not lengths:
        lines = Path(out).read_text().splitlines()[-len(files):]
        show([json.loads(line) for line in lines])


def show(rows):
    """Print a Markdown table."""
    columns = [name for name in rows[0] if name not in ('device', 'dtype', 'compiled')]
    print('| ' + ' | '.join(columns) + ' |')
    print('| ' + ' | '.join(['---'] * len(columns)) + ' |')
    for row in rows:
        cells = [f'{row[name]:.3g}' if isinstance(row[name], float) else str(row[name]) for name in columns]
        print('| ' + ' | '.join(cells) + ' |')


# -----------------------------------------------------------------------------
# the two tables

def measure(knobs, guided, random, run):
    """One row of the table, {column: value}. guided, random: Masking."""
    data, seq_len = open_data(knobs, run)
    rows = data.rows('train')
    check_batch(len(rows), {'batch_size': knobs['batch_size'], 'accumulation': 1}, run)
    data.norm = fit_norm(data, rows, knobs['norm'])
    inputs = partial(data.inputs, scale=(0.2, 1.0))  # of images random crops, as in pre-training
    raw = build(knobs, d_raw=data.d_raw, seq_len=seq_len).to(run.device)
    typical = int(np.median(data.lengths(rows)))
    size = knobs['batch_size']
    if batch_size is None and run.device.type == 'cpu':
        of_one_sample = step_flops(raw.config, guided.mask_ratio, 1, typical)
        size = max(min(size, int(CPU_FLOPS / of_one_sample)), 1)
    batches = list(islice(micro_batches(data, rows, size, 1, 0, 0, run), rounds))

    if theirs:
        other = their_model(raw.config, guided, typical).to(run.device)
        x, valid, *_ = batches[0]
        share_weights(raw, other, inputs(x), valid, guided)
    steps = pretraining_steps(raw, inputs, guided, random, knobs, run)
    for x, valid, *_ in batches:
        steps['guided'](x, valid)
    memory = peak_gb(run)  # now, while there is one model (and theirs)
    steps['fine-tuning'] = tuning_step(raw.config, inputs, knobs, run)
    if theirs:
        steps['theirs'] = their_step(other, inputs, knobs, run)

    mlp_rows = size * (raw.config.n_latent or round((1 - guided.mask_ratio) * typical))
    turns = []
    for x, valid, _, step_rows in batches:
        times = {name: seconds(partial(step, x, valid), run) for name, step in steps.items()}
        times['batch'] = seconds(partial(data.batch, step_rows), run)
        x = data.inputs(x)
        times['mask'] = seconds(mask_choice(raw, x, valid, guided, run), run)
        flops = step_flops(raw.config, guided.mask_ratio, size, x.shape[1])
        turns.append(columns(times, size, flops, matmul_speed(raw.config, mlp_rows, run)))
    row = {'batch': size, 'memory GB': memory}
    for name in turns[0]:
        row[name] = float(np.median([turn[name] for turn in turns]))
    return row


def columns(times, size, flops, limit):
    """{column: value} of one batch. times {what: seconds}, flops of its step, limit in FLOP/s."""
    t = times['guided']
    values = {
        'guided/s': size / t,
        'random/s': size / times['random'],
        'fine-tuning/s': size / times['fine-tuning'],
        'TFLOP/step': flops / 1e12,
        'limit': limit / 1e12,
        'of the limit': flops / t / limit,
        'mask': times['mask'] / t,
        'exact': times['exact'] / times['32 queries'],
        'loading': t / times['batch']}
    if 'theirs' in times:
        values['theirs'] = times['theirs'] / t
    return values


def against_length(knobs, masking, run):
    """Rows of the other table, one for each number of inputs: guided steps on one sample, shortest first."""
    table = []
    d_raw = FLOATS.get(knobs['dataset'], 0)
    for n in sorted(lengths):
        raw = build(knobs, seq_len=n, d_raw=d_raw).to(run.device)
        loss = partial(masked_loss, wrap(raw, run), masking)
        step = make_step(raw, loss, adamw(raw, knobs, run), knobs, run)
        x = torch.randn(1, n, d_raw) if d_raw else torch.randint(FIRST_BYTE, N_IDS, (1, n))
        step = partial(step, x.to(run.device), None)
        median = float(np.median([seconds(step, run) for _ in range(rounds)]))
        table.append({'inputs': n, 'seconds': median, 'memory GB': peak_gb(run)})
    return table


def replace_by_random_rows(knobs, folder):
    """Write a few batches of random rows to a file in a user's format, in place of a data set known by name."""
    name, n = knobs['dataset'], knobs['seq_len']
    if name not in {**BYTES, **FLOATS} or name == 'collider':  # which is simulated, and need not be replaced
        return
    if n is None:
        fail(f'how long are the random rows in place of {name}? Set seq_len in the config, or give --dataset')
    rng = np.random.default_rng(0)
    n_rows = 64 * knobs['batch_size']
    if name in BYTES:
        median, sigma = BYTES[name]
        row_lengths = np.clip(median * np.exp(sigma * rng.normal(size=n_rows)), 8, n - 2).astype(int)
        letters = [rng.integers(ord('A'), ord('Z') + 1, length, np.uint8).tobytes() for length in row_lengths]
        file = Path(folder, 'x.txt')
        file.write_bytes(b'\n'.join(letters))
    else:
        d_raw = FLOATS[name]
        n_rows = max(min(n_rows, 2 ** 24 // (n * d_raw)), knobs['batch_size'])
        file = Path(folder, 'x.npy')
        np.save(file, rng.normal(size=(n_rows, n, d_raw)).astype(np.float32))
    knobs.update(dataset=str(file), data_dir=folder, val_share=0.0, test_share=0.0)


# -----------------------------------------------------------------------------
# the steps

def pretraining_steps(raw, inputs, guided, random, knobs, run):
    """{name: function (x, valid) that takes one optimiser step}, all of the same model."""
    compiled = wrap(raw, run)
    queries = replace(guided, n_query=32)
    kinds = {'guided': (compiled, guided), 'random': (compiled, random), '32 queries': (raw, queries),
             'exact': (raw, replace(queries, mask='guided_exact'))}
    optimizer = adamw(raw, knobs, run)
    steps = {}
    for name, (model, masking) in kinds.items():
        loss = partial(masked_loss, model, masking)
        steps[name] = make_step(raw, loss, optimizer, knobs, run, inputs)
    return steps


def tuning_step(config, inputs, knobs, run):
    raw = build(vars(config), dropout=0.1, n_out=1).to(run.device)
    loss = partial(label_loss, wrap(raw, run))
    return make_step(raw, loss, adamw(raw, knobs, run), knobs, run, inputs)


def their_step(other, inputs, knobs, run):
    optimizer = torch.optim.AdamW(other.parameters(), LR, weight_decay=knobs['weight_decay'])
    return make_step(other, partial(their_loss, other), optimizer, knobs, run, inputs)


def adamw(model, knobs, run):
    return make_optimizer(model, {**knobs, 'lr': LR}, run.device)


def make_step(model, loss_of, optimizer, knobs, run, inputs=None):
    """-> function of a batch (x, valid) that takes one optimiser step, as the stages do. inputs: Dataset's."""
    scaler = make_scaler(run)

    def step(x, valid):
        if inputs is not None:
            x = inputs(x)
        with run.autocast():
            loss = loss_of(x, valid)
        scaler.scale(loss).backward()
        update(model, optimizer, scaler, knobs['grad_clip'])
    return step


def masked_loss(model, masking, x, valid):
    loss, hidden = model(x, valid, masking)
    return loss.sum() / hidden.sum()


def label_loss(model, x, valid):
    """Of a fine-tuned model, for labels that are all 0."""
    return model(x, valid).square().mean()


def their_loss(other, x, valid):
    """The authors' loss of a batch."""
    if valid is None:
        valid = all_true(x)
    return other(inputs=x, attention_mask=valid.float()).loss


def mask_choice(raw, x, valid, masking, run):
    """-> function that chooses the masks of a batch, its inputs being embedded"""
    if valid is None:
        valid = all_true(x)
    with torch.no_grad(), run.autocast():
        x_hat = raw.embed(x)

    def choose():
        with torch.no_grad(), run.autocast():
            raw.choose_mask(x, x_hat, valid, masking)
    return choose


# -----------------------------------------------------------------------------
# what a step costs

def step_flops(config, mask_ratio, batch_size, n):
    """
    Floating-point operations of the matrix products of a pre-training step, forward and backward, on a batch
    (batch_size, n), as torch counts them on tensors that hold no values. Without the mask's, and without what
    is computed twice to save memory.
    """
    with torch.device('meta'):
        model = SMA(replace(config, decode_pieces=1))
        if config.d_raw:
            x = torch.zeros(batch_size, n, config.d_raw)
        else:
            x = torch.zeros(batch_size, n, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # other kernels compute twice
        loss, _ = model(x, None, Masking('random', mask_ratio))
        loss.sum().backward()
    return counter.get_total_flops()


def matmul_speed(config, rows, run):
    """FLOP/s of the three products of an MLP's first Linear, forward and backward, on so many rows."""
    like = dict(device=run.device, dtype=getattr(torch, run.dtype))
    d_in, d_out = config.v_dim, config.mlp_ratio * config.v_dim
    x = torch.randn(rows, d_in, **like)
    W = torch.randn(d_out, d_in, **like)
    dy = torch.randn(rows, d_out, **like)
    y, dx, dW = torch.empty_like(dy), torch.empty_like(x), torch.empty_like(W)
    repeats = 1

    def products():
        for _ in range(repeats):
            torch.mm(x, W.t(), out=y)
            torch.mm(dy, W, out=dx)
            torch.mm(dy.t(), x, out=dW)
    t = seconds(products, run)
    while t < 0.05:  # long enough for the clock
        repeats *= 2
        t = seconds(products, run)
    return repeats * 6 * rows * d_in * d_out / t


def seconds(function, run):
    """How long function() takes the second time, with all that it left running on a GPU."""
    wait = getattr(torch, run.device.type).synchronize  # that of torch.cpu does nothing
    function()
    wait()
    start = time.perf_counter()
    function()
    wait()
    return max(time.perf_counter() - start, 1e-9)  # a clock may stand still


def peak_gb(run):
    """The most memory so far in GB: of the GPU's allocator, or of the process."""
    if run.device.type == 'cuda':
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# -----------------------------------------------------------------------------
# the authors' model

def their_model(c, masking, n):
    """The authors' SMAForSSL in the shape of our SMAConfig c, for rows of about n inputs."""
    sys.path.insert(0, theirs)
    from transformers.models.sma.modeling_sma import SMAConfig, SMAForSSL
    inputs_per_query = max(1, round(masking.mask_ratio * n / masking.n_query))
    mask = dict(masking_ratio=masking.mask_ratio, num_per_query=inputs_per_query)
    decoder = dict(
        # the second LayerNorm of their decoder is as wide as its queries, the position embeddings: so are its
        # values
        query_num_channels=c.embed_dim, v_channels=c.embed_dim, qk_channels=c.qk_dim,
        num_heads=math.gcd(c.n_head, c.embed_dim), widening_factor=c.mlp_ratio, use_query_residual=False,
        share_decoder_queries=True)
    return SMAForSSL(SMAConfig(
        encoder_type='cross_attention' if c.n_latent else 'self_attention',
        input_type='continuous' if c.d_raw else 'discrete',
        input_channels=c.d_raw or 1,
        max_position_embeddings=c.seq_len,
        num_latents=c.n_latent,
        embedded_channels=c.embed_dim, latent_channels=c.v_dim, qk_channels=c.qk_dim, v_channels=c.v_dim,
        dense_use_bias=True,
        num_self_attends_per_block=c.n_layer - 1,
        num_self_attention_heads=c.n_head, num_cross_attention_heads=c.n_head,
        self_attention_widening_factor=c.mlp_ratio, cross_attention_widening_factor=c.mlp_ratio,
        cross_train_noising_args=[['RandomlySelectedCrossAttentionMasking', mask]],
        teacher_args=dict(reconstruction_decoder_args=decoder,
                          reconstruction_loss_fn='mse' if c.d_raw else 'crossentropy')))


@torch.no_grad()
def share_weights(raw, other, x, valid, masking):
    """Give our model the authors' weights; fails unless both have the same loss, with all queries drawn."""
    config = {**other.config.to_dict(), 'architectures': ['SMAForSSL']}
    checkpoint, _ = from_theirs(config, other.state_dict())
    load_weights(raw, checkpoint['model'])

    noise = other.perceiver.encoder.cross_attention.attention.attention.train_noising_function.transforms[0]
    usual = noise.num_per_query
    noise.num_per_query = 1e-3  # so few inputs a query that all queries are drawn
    their_first = their_loss(other, x, valid).item()
    noise.num_per_query = usual
    all_queries = replace(masking, n_query=raw.config.n_latent or x.shape[1])
    our_first = masked_loss(raw, all_queries, x, valid).item()

    n_theirs, n_ours = (sum(p.numel() for p in model.parameters()) for model in (other, raw))
    print(f'parameters: {n_theirs:,} theirs, {n_ours:,} ours; first loss: {their_first:.6f}, {our_first:.6f}')
    if not math.isclose(their_first, our_first, rel_tol=1e-3):  # float32, in which two inputs may change places
        fail('the two codes do not have the same loss on the same weights')


if __name__ == '__main__':
    run_cli(main)
