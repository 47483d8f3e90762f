"""
How fast, beside the machine's own limit.

    python bench.py                                                 a quick look: the defaults of pretrain.py
    python bench.py config/higgs.py config/protein.py               any configs of pretrain.py, a row each, at full size
    python bench.py config/chemistry_cpu.py --dataset=molecules.smi     on a file of yours
    python bench.py config/protein_cpu.py --lengths=1024,4096,16384     time and memory against the number of inputs

A row is measured in one run, in turns, on the same batches: other work on the machine slows all of it alike.

    guided, random, fine-tuning   samples/s of whole optimiser steps; tokens/s of the guided ones (padding not counted)
    padding         share of the places in a batch that hold no token
    TFLOP/step      what the shapes call for: matrix products of visible tokens, forward and backward; no padding, no
                    recomputation, and not the choice of the mask (step_flops)
    limit           TFLOP/s of the machine's own matrix products in the same dtype, at the sizes of the model's MLP
    of the limit    TFLOP/step / seconds / limit
    mask            choosing the guided mask, as a share of the guided step
    exact           seconds of a step with the sequential top-k of section 4.1 over those with Eq. 4
    loading         seconds of a guided step over those of reading and padding its batch (which CUDA hides in a thread)
    memory          peak: of the GPU's allocator, or of the process

Data sets known by name are stood in for by random ones of like lengths, so that nothing is downloaded. JSON lines go to
`out`, a line each.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import pretrain
from configurator import configure, fail
from data import fit_norm, micro_batches, prefetch
from model import N_IDS, SMAConfig, build, make_optimizer
from pretrain import check_batch, prepared, set_up, take_step, wrap

# -----------------------------------------------------------------------------
dataset: str | None = None  # a file, or a name from data.py, in place of the config's; None = a random stand-in
batch_size: int | None = None  # samples a step; None = the config's, on a CPU halved until a step is below `tflop`
tflop = 0.5  # see batch_size
rounds = 5  # each number is the median of so many turns
dropout = 0.1  # of fine-tuning
exact_queries = 32  # queries of the comparison with the exact procedure; 0 = leave it out
lengths = ()  # numbers of inputs: time and memory against them, one sample a step, instead of the table
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
compile: bool | None = None  # torch.compile; None = on cuda only
out = 'out/bench.jsonl'  # results are appended here
# -----------------------------------------------------------------------------

# Stand-ins: bytes of log-normal lengths (median, sigma of the log), floats (inputs, d_raw; None = the config's seq_len)
BYTES = {'pfam': (250, 0.6), 'guacamol': (45, 0.25), 'wiki_books': (1022, 0.0)}
FLOATS = {'collider': 1, 'higgs': 1, 'higgs_small': 1, 'year': 1, 'imagenet100': 3}
SHOWN = ('config', 'batch', 'guided/s', 'random/s', 'fine-tuning/s', 'tokens/s', 'padding', 'TFLOP/step', 'limit',
         'of the limit', 'mask', 'exact', 'loading', 'memory GB')


def step_flops(c, n, m):
    """
    Floating-point operations of one step's matrix products, forward and backward, on rows of n inputs with m hidden.

    c SMAConfig; n (B,) and m (B,), padding not counted. A multiply and an add are two; backward does each product
    twice more, for the gradients of its two factors. What the batch shares (latents, P) is projected once.
    """
    n, m = np.asarray(n, np.float64), np.asarray(m, np.float64)
    u, B = n - m, len(n)

    def layer(asked, l, u, q_dim, kv_dim):
        """Multiply-adds: `asked` rows projected to queries, l rows of output, u rows of keys and values."""
        return (asked * q_dim * c.qk_dim + u * kv_dim * (c.qk_dim + c.v_dim) + l * u * (c.qk_dim + c.v_dim)
                + l * c.v_dim * (c.v_dim + 2 * c.mlp_ratio * c.v_dim))
    l = c.n_latent or u
    first = layer(c.n_latent / B or u, l, u, c.v_dim, c.embed_dim)
    blocks = (c.n_layer - 1) * layer(l, l, l, c.v_dim, c.v_dim)
    asked, answers, width = (1, 1, c.n_out) if c.n_out else (c.seq_len, m, c.d_raw or N_IDS)
    decoder = layer(asked / B, answers, l, c.embed_dim, c.v_dim) + answers * c.v_dim * width
    embedding = 4 * n * c.d_raw * c.embed_dim  # raw floats need no gradient; bytes are looked up
    return round((6 * (first + blocks + decoder) + embedding).sum())  # shares of the batch add up to whole numbers


def stand_in(config, folder):
    """Writes random rows, a few batches of them, in the format of a user's file -> its path."""
    rng, name, seq_len = np.random.default_rng(0), config['dataset'], config['seq_len']
    rows = 64 * (batch_size or config['batch_size'])
    if name in BYTES:
        median, sigma = BYTES[name]
        n_bytes = np.clip(median * np.exp(sigma * rng.normal(size=rows)), 8, seq_len - 2).astype(int)
        lines = [rng.integers(ord('A'), ord('Z') + 1, n, np.uint8).tobytes() for n in n_bytes]
        (folder / 'x.txt').write_bytes(b'\n'.join(lines))
        return str(folder / 'x.txt')
    rows = max(min(rows, 2 ** 24 // (seq_len * FLOATS[name])), batch_size or config['batch_size'])
    np.save(folder / 'x.npy', rng.normal(size=(rows, seq_len, FLOATS[name])).astype(np.float32))
    return str(folder / 'x.npy')


def seconds(function, run):
    """How long function() takes, with all that it left running on a GPU."""
    wait = getattr(torch, run.device.type).synchronize  # torch.cuda's, torch.mps's; torch.cpu's does nothing
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def peak_gb(run):
    """GB at the most: of the GPU's allocator, or of the process since it started."""
    if run.device.type == 'cuda':
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 1e9


def limit(c, rows, run):
    """-> function: FLOP/s of the three products of an MLP's first Linear, forward and backward, of so many rows."""
    kind = getattr(torch, run.dtype)
    x, w, g = (torch.randn(shape, device=run.device, dtype=kind) for shape in (
        (rows, c.v_dim), (c.mlp_ratio * c.v_dim, c.v_dim), (rows, c.mlp_ratio * c.v_dim)))
    y, dx, dw = torch.empty_like(g), torch.empty_like(x), torch.empty_like(w)
    again = 1

    def products():
        for _ in range(again):
            torch.mm(x, w.t(), out=y)
            torch.mm(g, w, out=dx)
            torch.mm(g.t(), x, out=dw)
    while seconds(products, run) < 0.05:  # long enough for the clock
        again *= 2
    return lambda: again * 6 * rows * c.mlp_ratio * c.v_dim ** 2 / seconds(products, run)


def stepper(c, views, mask, mask_ratio, n_query, config, run):
    """-> function (batch) that takes one whole optimiser step on it, as the stages do. c.n_out: fine-tuning."""
    raw = build(vars(c)).to(run.device)
    optimizer = make_optimizer(raw, 1e-4, config['weight_decay'], run.device)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == 'float16')
    model = wrap(raw, run)

    def loss_of(x, valid, labels, whole):
        if c.n_out:
            return F.binary_cross_entropy_with_logits(model(x, valid)[:, 0], labels)
        loss, hidden = model(x, valid, mask, mask_ratio, n_query)
        return loss.sum() / hidden.sum()
    return lambda batch: take_step(model, optimizer, scaler, iter([batch]), views, loss_of, 0, 0, config, run)


def measure(name, config, run):
    """One row of the table, {column: value}, in samples, seconds and TFLOP."""
    data = prepared(config, run)
    rows = data.rows('train')
    data.norm = fit_norm(data, rows, config['norm'])
    raw = build(config, d_raw=data.d_raw)
    c, n_query = raw.config, config['n_query']
    ratio = dict(zip(config['mask'][::-1], config['mask_ratio'][::-1]))  # one for all comes last, as guided's
    ratio = {mask: ratio.get(mask, config['mask_ratio'][-1]) for mask in ('guided', 'random')}

    def flops(lengths):
        return step_flops(c, lengths, np.round(ratio['guided'] * lengths))
    size = batch_size or config['batch_size']
    while not batch_size and run.device.type == 'cpu' and flops(data.lengths(rows[:size])) > tflop * 1e12 and size > 1:
        size //= 2
    check_batch(len(rows), {'batch_size': size, 'accumulation': 1}, run)
    config.update(batch_size=size, accumulation=1)
    labels = torch.zeros(len(data.y))
    batches = list(islice(prefetch(micro_batches(data, rows, config, 0, 0, run, labels), run.device), rounds + 2))

    tuned = SMAConfig(**{**vars(c), 'dropout': dropout, 'n_out': 1})

    def views(x, labels):
        return data.inputs(x, scale=(0.2, 1.0)), labels
    steps = {'guided': stepper(c, views, 'guided', ratio['guided'], n_query, config, run),
             'random': stepper(c, views, 'random', ratio['random'], n_query, config, run),
             'fine-tuning': stepper(tuned, views, None, None, None, config, run)}
    if exact_queries:
        for mask in ('guided', 'guided_exact'):
            steps[mask, 'many'] = stepper(c, views, mask, ratio['guided'], exact_queries, config, run)
    raw.to(run.device)
    places = np.mean([b[0].shape[1] for b in batches])
    products = limit(c, size * (c.n_latent or round((1 - ratio['guided']) * places)), run)
    if run.device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    turns = []
    for x, valid, y, whole in batches:
        turn = {k: seconds(lambda: step((x, valid, y, whole)), run) for k, step in steps.items()}
        turn['limit'] = products()
        with torch.no_grad(), run.autocast():
            x = data.inputs(x)
            x_hat = raw.embed(x)
            real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
            args = x, x_hat, real, 'guided', ratio['guided'], n_query, None
            turn['mask'] = seconds(lambda: raw.choose_mask(*args), run)
        turn['limit'] = max(turn['limit'], products())
        turn['loading'] = seconds(lambda: data.batch(whole, data.width(whole)), run)
        turn['tokens'], turn['padding'] = data.lengths(whole).sum(), 1 - data.lengths(whole).sum() / (size * x.shape[1])
        turn['flops'] = flops(data.lengths(whole))
        turns.append(turn)

    def middle(of):
        """The median over the turns, without the two that warm up allocators and torch.compile."""
        return float(np.median([of(turn) for turn in turns[2:]]))
    row = {'config': name, 'device': str(run.device), 'dtype': run.dtype, 'compiled': run.compile, 'batch': size,
           **{f'{k}/s': size / middle(lambda t: t[k]) for k in ('guided', 'random', 'fine-tuning')},
           'tokens/s': middle(lambda t: t['tokens'] / t['guided']), 'padding': middle(lambda t: t['padding']),
           'TFLOP/step': middle(lambda t: t['flops']) / 1e12, 'limit': middle(lambda t: t['limit']) / 1e12,
           'of the limit': middle(lambda t: t['flops'] / t['guided'] / t['limit']),
           'mask': middle(lambda t: t['mask'] / t['guided']), 'loading': middle(lambda t: t['guided'] / t['loading']),
           'memory GB': peak_gb(run)}
    if ('guided_exact', 'many') in steps:
        row['exact'] = middle(lambda t: t['guided_exact', 'many'] / t['guided', 'many'])
    return row


def against_length(name, config, run):
    """Rows of (inputs, seconds, GB) of guided steps on one sample, the shortest first."""
    table = []
    for n in sorted(int(n) for n in lengths):
        d_raw = FLOATS.get(config['dataset'], 0)
        c = build(config, seq_len=n, d_raw=d_raw).config
        x = torch.randn(1, n, d_raw) if d_raw else torch.randint(6, N_IDS, (1, n))
        step = stepper(c, lambda x, labels: (x, labels), 'guided', config['mask_ratio'][-1], config['n_query'],
                       {**config, 'accumulation': 1}, run)
        batch = (x.to(run.device), None, None, None)
        if run.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        step(batch)
        table.append((n, float(np.median([seconds(lambda: step(batch), run) for _ in range(rounds)])), peak_gb(run)))
    print('\n| inputs | seconds | memory GB |\n|---|---|---|\n' +
          '\n'.join(f'| {n:,} | {t:.3g} | {gb:.3g} |' for n, t, gb in table))
    n, *columns = np.array(table).T
    for what, v in zip(('time', 'memory'), columns):
        if len(n) > 2:
            slope, start = np.polyfit(n, v, 1)
            off = abs(v - start - slope * n).max() / v.max()
            print(f'{what}: {start:.3g} and {slope:.3g} an input; at most {off:.1%} of the largest off that line')
    return {'config': name, 'lengths': table}


def show(rows):
    """The Markdown table."""
    cells = [[f'{v:.3g}' if isinstance(v, float) else str(v) for v in (row.get(k, '-') for k in SHOWN)] for row in rows]
    print('\n' + '\n'.join('| ' + ' | '.join(line) + ' |' for line in (SHOWN, ['---'] * len(SHOWN), *cells)))


def main():
    files = [arg for arg in sys.argv[1:] if arg.endswith('.py')]
    options = [arg for arg in sys.argv[1:] if arg not in files]
    config = configure(globals(), options)
    for name in ('rounds', 'tflop', 'batch_size'):
        if config[name] is not None and not config[name] > 0:
            fail(f'{name}={config[name]} must be above 0')
    if exact_queries < 0 or not all(isinstance(n, int) and n > 1 for n in lengths):
        fail(f'exact_queries={exact_queries}, lengths={lengths}: whole numbers are wanted')
    path = Path(out)
    if not out or path.is_dir():
        fail(f'out={out!r} must name a file')
    if len(files) > 1:  # a process each, so that none inherits another's memory
        for file in files:
            if subprocess.run([sys.executable, __file__, file, *options]).returncode:
                raise SystemExit(2)
        if not lengths:
            show([json.loads(line) for line in path.read_text().splitlines()[-len(files):]])
        return
    knobs = configure(dict(vars(pretrain)), files)  # the config's settings over pretrain.py's own
    run = set_up(config)
    with tempfile.TemporaryDirectory() as folder:
        if dataset:
            knobs['dataset'] = dataset
        elif knobs['dataset'] in {*BYTES, *FLOATS} - {'collider'} and not lengths:  # the collider is simulated
            knobs.update(dataset=stand_in(knobs, Path(folder)), data_dir=folder, valid_share=0.0, test_share=0.0)
        row = (against_length if lengths else measure)(Path(*files).stem or 'defaults', knobs, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a') as f:
        f.write(json.dumps(row) + '\n')
    if not lengths:
        show([row])


if __name__ == '__main__':
    main()
