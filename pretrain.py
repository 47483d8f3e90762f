"""
Stage 1: masked-reconstruction pre-training (Algorithm 1). No labels.

    python pretrain.py                                          the defaults: collider events, a minute or two on a CPU
    python pretrain.py config/higgs_small.py --dataset=X.npz    a config, then any knob
    python pretrain.py --dataset=my.csv --label_column=y        your own table; --help lists all knobs
    torchrun --nproc_per_node=8 pretrain.py config/NAME.py      one machine, 8 GPUs
    torchrun --nnodes=2 --node_rank=0 --nproc_per_node=8 --master_addr=10.0.0.1 pretrain.py config/NAME.py
                                                                two machines that share a disk

Each kind of mask named by the knob `mask` is one run, written to OUT_DIR/MASK/: last.pt (the latest step; --resume goes
on from it), best.pt (the lowest validation loss on random masks, the same masks every time) and log.jsonl.
"""

import gc
import json
import math
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from configurator import configure, fail
from data import (DATASETS, METRICS, SPLITS, class_numbers, describe, fit_norm, is_number, micro_batches, open_dataset,
                  prefetch, score, scoring)
from masking import check_masks
from model import build, load, load_weights, make_optimizer, masked_loss, outputs, save

# -----------------------------------------------------------------------------
# data
dataset = 'collider'  # a name from data.py, or a file: .txt .smi .fasta .csv .tsv .npy .npz; or a folder of images
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: one text column, or number columns 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column, kept out of the inputs. npz: 'y'
split_column: str | None = None  # csv: a column that says train, valid or test
valid_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
valid_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test
window: int | None = None  # text: join the lines and cut them into windows of so many bytes; None = a line a sequence
image_size = 192  # images: side in pixels that the model sees
max_len: int | None = None  # tokens kept of a byte sequence, CLS and SEP included; None = seq_len
norm = 'standard'  # how floats are scaled: standard, quantile (ranks to a Gaussian) or none
# model (Tables 8-12)
embed_dim = 64  # width of the embedded inputs
seq_len: int | None = None  # most inputs; None = as many as the data has
n_layer = 3  # the masking layer and n_layer - 1 blocks
qk_dim = 64  # queries and keys, all heads together
n_head = 4  # heads
v_dim = 64  # values, all heads together; the width of the residual stream
n_latent = 0  # latents of a Perceiver; 0 = a Transformer
mlp_ratio = 4  # width of an MLP over v_dim
dropout = 0.0  # of embeddings, attention and MLP
drop_path = 0.0  # chance that a sample skips a block's branch
# masks: one run for each
mask = ('random', 'guided')  # guided is the paper's method, random its baseline; masking.py's MASKS has all
mask_ratio = (0.5,)  # share of the inputs hidden: one for all masks, or one each
n_query = 1  # queries drawn for each guided mask, |R|; at most all there are
mask_anneal = 0.0  # share of the steps over which guided masks tighten, from random ones (authors: 0.25 for physics)
# optimiser
batch_size = 256  # samples a step, over all processes and micro-batches
accumulation = 1  # micro-batches a step, for batches that do not fit in memory
epochs = 3  # passes over the training rows
max_steps: int | None = None  # optimiser steps; None = what the epochs take
lr = (1e-3,)  # peak learning rate: one for all masks, or one each
min_lr = 0.0  # where the cosine ends
warmup_steps = 100  # linear warm-up
weight_decay = 0.01  # of matrices; biases, LayerNorms and embeddings have none
grad_clip = 1.0  # largest gradient norm; 0 = off
# run
seed = 0  # of weights, batches and masks
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
compile: bool | None = None  # torch.compile; None = on cuda only
out_dir = 'out/collider'  # runs are written to OUT_DIR/MASK
resume = False  # go on from OUT_DIR/MASK/last.pt where there is one
init_from: str | None = None  # a checkpoint whose weights to start from
log_interval = 100  # steps between lines of the log
eval_interval = 500  # steps between validations
save_interval = 500  # steps between saves of last.pt
probe = 0  # labelled training rows from which probes of frozen features learn, at each validation; 0 = no probes
target: str | None = None  # of the probes: binary, multiclass or regression; None = the data set's own
metric: str | None = None  # one of METRICS in data.py; None = the data set's own, else accuracy or rmse
# -----------------------------------------------------------------------------

# what --resume may change: the rest decides what is learned from which rows
MAY_CHANGE = {'resume', 'init_from', 'out_dir', 'data_dir', 'epochs', 'max_steps', 'accumulation', 'device', 'dtype',
              'compile', 'log_interval', 'eval_interval', 'save_interval', 'probe', 'target', 'metric'}


# Run-time pieces, shared with finetune.py and eval.py

def set_up(config):
    """Finds device and ranks, and says so. -> namespace: device, dtype, autocast, compile, rank, world"""
    run = SimpleNamespace(rank=int(os.environ.get('RANK', 0)), world=int(os.environ.get('WORLD_SIZE', 1)))
    device = config['device']
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if device == 'cuda':
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
    try:
        run.device = torch.device(device)
        torch.empty(1, device=run.device)
    except (RuntimeError, AssertionError) as error:
        fail(f'device={config["device"]!r} cannot be used here: {str(error).splitlines()[0]}')
    kind = run.device.type
    if kind == 'cuda':
        torch.cuda.set_device(run.device)
    torch.set_float32_matmul_precision('high')  # TF32 where there is any
    run.dtype = config['dtype']
    if run.dtype == 'auto':
        run.dtype = 'float32' if kind != 'cuda' else 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
    if run.dtype not in ('float32', 'bfloat16', 'float16'):
        fail(f'dtype={run.dtype!r}: auto, float32, bfloat16 or float16')
    run.autocast = nullcontext if run.dtype == 'float32' else lambda: torch.autocast(kind, getattr(torch, run.dtype))
    run.compile = kind == 'cuda' if config.get('compile') is None else config['compile']
    if run.world > 1 and not dist.is_initialized():
        dist.init_process_group('nccl' if kind == 'cuda' else 'gloo')
    name = torch.cuda.get_device_name() if kind == 'cuda' else f'{torch.get_num_threads()} threads'
    say(run, f'device: {run.device} ({name}), {run.dtype}, {run.world} process(es)' + ', compiled' * run.compile)
    return run


def check_knobs(config, positive=()):
    """Fails on numbers that no run can be made with, and on an out_dir that is a file."""
    for k in ('batch_size', 'accumulation', 'epochs', 'max_steps', *positive):
        if config[k] is not None and config[k] < 1:
            fail(f'{k}={config[k]} must be at least 1')
    for k in ('min_lr', 'warmup_steps', 'weight_decay', 'grad_clip', 'lr', 'seed', 'seeds'):
        value = config.get(k, 0)
        if min(value if isinstance(value, tuple) else (value,), default=0) < 0:
            fail(f'{k}={value} must not be negative')
    if Path(config['out_dir']).is_file():
        fail(f'out_dir={config["out_dir"]!r} is a file: a folder is wanted')


def check_batch(n_rows, config, run):
    """Fails unless a step's samples are there, and can be dealt out."""
    if n_rows < config['batch_size']:
        fail(f'batch_size={config["batch_size"]}, but there are only {n_rows} rows to train on: lower it')
    if config['batch_size'] % (config['accumulation'] * run.world):
        fail(f'batch_size={config["batch_size"]} must divide by accumulation x processes = '
             f'{config["accumulation"] * run.world}')


def say(run, text):
    """One line, from one rank; above the progress bar if there is one."""
    if run.rank == 0:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def prepared(config, run):
    """The data set, its rows cut to seq_len, which is put into config."""
    dataset = open_dataset(config)  # of several processes one prepares it, the others wait at its lock
    if not len(dataset.rows('train')):
        fail(f'{config["dataset"]} has no train rows: see split_column, valid_file, valid_share and their like')
    if run.rank == 0:
        describe(dataset)
    config['seq_len'] = cut(dataset, config['seq_len'], config['max_len'], run)
    return dataset


def cut(dataset, seq_len, max_len, run):
    """Cuts rows to what the model takes, and says how many lose their end. -> the model's seq_len"""
    seq_len = dataset.set_lengths(seq_len, max_len)
    if dataset.n_cut:
        say(run, f'{dataset.n_cut:,} of {len(dataset.y):,} sequences have more than {dataset.max_len} tokens '
                 'and lose their end')
    return seq_len


def sum_ranks(t, run):
    """The sum of a tensor over all processes."""
    if run.world > 1:
        dist.all_reduce(t)
    return t


def score_rows(model, dataset, rows, head, config, run):
    """The metric of a fine-tuned model on these rows, the same on every rank."""
    batches = scoring(dataset, rows, config['batch_size'], run)
    p = sum_ranks(outputs(model, model, (len(rows), model.config.n_out), batches, run.device, run.autocast), run)
    return score(head, dataset.labels(rows), p.cpu().numpy())


def settle_target(dataset, config, splits=SPLITS):
    """What the labels are and what to measure. -> head (see data.score), {split: rows with a label}"""
    entry = DATASETS.get(config['dataset'], {})
    target = config['target'] or entry.get('target')
    if target not in ('binary', 'multiclass', 'regression'):
        fail(f'target={target!r}: say --target=binary, multiclass or regression')
    metric = config['metric'] or entry.get('metric') or ('rmse' if target == 'regression' else 'accuracy')
    if metric not in METRICS:
        fail(f'metric={metric!r}: one of {", ".join(METRICS)}')
    if (target == 'regression') != (metric in ('rmse', 'spearman')):
        fail(f'metric={metric} does not fit target={target}')
    if metric in ('roc_auc', 'f1', 'matthews') and target != 'binary':
        fail(f'metric={metric} is for target=binary')
    labelled = {split: dataset.rows(split) for split in splits}
    labelled = {split: rows[~np.isnan(dataset.y[rows])] for split, rows in labelled.items()}
    for split, rows in labelled.items():
        if not len(rows):
            fail(f'{config["dataset"]} has no labelled {split} rows: see label_column and the split knobs')
    head = dict(target=target, metric=metric)
    if target == 'regression':
        if dataset.meta['classes']:
            text = next((c for c in dataset.meta['classes'] if not is_number(c)), '')
            fail(f'target=regression, but labels are text, such as {text!r}')
        return head, labelled

    def distinct(rows):
        return dataset.labels(rows[np.unique(dataset.y[rows], return_index=True)[1]])
    head['classes'] = sorted(distinct(labelled['train']))
    if target == 'binary' and len(head['classes']) != 2:
        fail(f'target=binary, but the training labels have {len(head["classes"])} values: '
             f'say --target=multiclass or regression')
    for c in head['classes']:
        if isinstance(c, float) and c != round(c):
            fail(f'target={target}, but the label {c:g} is no class: say --target=regression')
    for split in splits:
        class_numbers(distinct(labelled[split]), head['classes'])  # fails on a class that no training row has
    return head, labelled


def encode(dataset, rows, head):
    """The labels of rows as a model learns them, standardised or class numbers. -> y (k,), head with mean and std"""
    if head['target'] != 'regression':
        return class_numbers(dataset.labels(rows), head['classes']), head
    y = dataset.y[rows]
    head = {**head, 'mean': float(y.mean()), 'std': float(y.std()) or 1.0}
    return (y - head['mean']) / head['std'], head


def probe_rows(model, dataset, head, learn, rows, config, run):
    """
    What frozen features are worth: the metric, on `rows`, of two small readers that know the labels of `learn` only.

    Features (model.features) are standardised by those of `learn`. probe_knn: a vote of, or the mean over, the 20
    nearest by cosine. probe_linear: ridge regression, or logistic regression, |W|^2 / 2 added to the summed loss.
    learn, rows (k,) int64 row numbers with labels. -> dict(probe_knn=, probe_linear=)
    """
    H = []
    for r in (learn, rows):
        batches = scoring(dataset, r, config['batch_size'], run)
        h = outputs(model.features, model, (len(r), model.config.v_dim), batches, run.device, run.autocast)
        H.append(sum_ranks(h, run).cpu().double())  # (k, d)
    X, Z = ((h - H[0].mean(0)) / H[0].std(0, correction=0).clamp(min=1e-8) for h in H)
    y, head = encode(dataset, learn, head)
    y = torch.from_numpy(y)
    Y = F.one_hot(y).double() if head['target'] == 'multiclass' else y[:, None].double()  # (k, n_out)
    near = [(z @ F.normalize(X).T).topk(min(20, len(X))).indices for z in F.normalize(Z).split(1024)]
    votes = torch.cat([Y[i].mean(1) for i in near]) - 0.5 * (head['target'] == 'binary')  # (rows, n_out); 0 = a draw

    def loss(W, b):
        f = X @ W + b
        f = F.cross_entropy(f, y, reduction='sum') if head['target'] == 'multiclass' else \
            F.binary_cross_entropy_with_logits(f, Y, reduction='sum')
        return (f + W.square().sum() / 2) / len(X)
    if head['target'] == 'regression':  # means are zero: no intercept
        W, b = torch.linalg.solve(X.T @ X + torch.eye(X.shape[1]).double(), X.T @ Y), 0.0
    else:
        shape = X.shape[1], Y.shape[1]
        W, b = (torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in (shape, shape[1:]))
        optimizer = torch.optim.LBFGS([W, b], max_iter=200, line_search_fn='strong_wolfe')

        def closure():
            optimizer.zero_grad()
            value = loss(W, b)
            value.backward()
            return value
        optimizer.step(closure)
    predicted = (Z @ W + b).detach()
    labels = dataset.labels(rows)
    return dict(probe_knn=score(head, labels, votes.numpy()), probe_linear=score(head, labels, predicted.numpy()))


def finish(run):
    """Leaves the process group, all together, and without old DDP wrappers, whose threads would outlive it."""
    if run.world > 1:
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def wrap(model, run):
    """The model as the loop calls it: compiled, and averaged over processes. The bare one is what is saved."""
    model = torch.compile(model) if run.compile else model
    if run.world > 1:
        model = DistributedDataParallel(model, device_ids=[run.device] if run.device.type == 'cuda' else None)
    return model


def lr_at(step, total, lr, min_lr, warmup_steps):
    """Linear warm-up, then a cosine from lr to min_lr at the last step."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(total - warmup_steps, 1)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def seed_all(*numbers):
    """Seeds torch from several integers, mixed (torch's CPU generator looks at 32 bits only)."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def take_step(model, optimizer, scaler, batches, views, loss_of, step, seed, config, run):
    """
    One optimiser step: the gradient of loss_of(x, valid, labels, whole) over the micro-batches, clipped. -> its norm

    views(x, labels) makes of a batch what is trained on: the crops of images. It runs in full precision.
    loss_of returns this micro-batch's part of the whole step's loss, so parts add up however the step is dealt out.
    Random numbers (crops, masks, dropout) are seeded by (seed, step, micro-batch): two processes do what one does with
    accumulation=2, and a resumed run needs no generator's state.
    """
    for i in range(config['accumulation']):
        x, valid, labels, whole = next(batches)
        seed_all(seed, step, i * run.world + run.rank)
        x, labels = views(x, labels)
        last = i == config['accumulation'] - 1
        with model.no_sync() if run.world > 1 and not last else nullcontext():
            with run.autocast():
                loss = loss_of(x, valid, labels, whole)
            scaler.scale(loss * run.world).backward()  # times world, as DDP averages over ranks
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config['grad_clip'] or math.inf)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm


def must_match(old, new, what):
    """Fails, naming the first that differs, unless the settings `new` are what they were when `what` was written."""
    for k in new:
        if old.get(k) != new[k]:
            fail(f'{what} was made with {k}={old.get(k)}, this run has {k}={new[k]}: make them the same')


class Stop:
    """Ctrl-C and SIGTERM: finish the step, save, leave. A second Ctrl-C leaves at once."""

    def __init__(self):
        self.signal = None
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self.catch)

    def catch(self, number, frame):
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def asked(self, run, step, every):
        """Whether to stop after this step. Several processes agree on it, once in `every` steps."""
        if run.world == 1:
            return self.signal is not None
        if (step + 1) % every:
            return False
        flag = torch.tensor(float(self.signal is not None), device=run.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)


def log_line(path, run, **values):
    """One JSON object a line in log.jsonl."""
    if run.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'a') as f:
            f.write(json.dumps(values) + '\n')


# -----------------------------------------------------------------------------

def train(mask, mask_ratio, lr, dataset, probed, config, run, stop):
    """One pre-training run, from first step to last. probed: a function from the model to the scores of its probes."""
    out = Path(config['out_dir']) / mask
    rows, valid_rows = dataset.rows('train'), dataset.rows('valid')
    seed_all(config['seed'])
    raw = build(config, d_raw=dataset.d_raw).to(run.device)  # the model without wrappers
    model_args = dict(vars(raw.config))
    optimizer = make_optimizer(raw, lr, config['weight_decay'], run.device)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == 'float16')
    steps_per_epoch = len(rows) // config['batch_size']
    total = config['max_steps'] or config['epochs'] * steps_per_epoch
    step, best = 0, math.inf
    settings = {**config, 'mask': mask, 'mask_ratio': mask_ratio, 'lr': lr}

    if config['resume'] and (out / 'last.pt').exists():
        checkpoint = load(out, keys=('model', 'model_args', 'optimizer', 'scaler', 'step', 'best', 'config'))
        must_match(checkpoint['model_args'], model_args, f'{out}/last.pt')
        must_match(checkpoint['config'], {k: v for k, v in settings.items() if k not in MAY_CHANGE}, f'{out}/last.pt')
        dataset.norm = checkpoint['norm']
        load_weights(raw, checkpoint['model'])
        optimizer.load_state_dict(checkpoint['optimizer'])
        scaler.load_state_dict(checkpoint['scaler'])
        step, best = checkpoint['step'], checkpoint['best']
        if run.rank == 0 and (out / 'log.jsonl').exists():  # forget what was logged after that save
            lines = [s for s in (out / 'log.jsonl').read_text().splitlines() if s.endswith('}')]  # whole ones
            lines = [s + '\n' for s in lines if json.loads(s)['step'] <= step]
            (out / 'log.jsonl').write_text(''.join(lines))
        say(run, f'{mask}: resumed {out}/last.pt at step {step:,} of {total:,}')
    else:
        if config['init_from']:
            start = load(config['init_from'])
            loaded, new = load_weights(raw, start['model'], new=('decoder.',), dropped=('head.', 'head_query'))
            say(run, f'{mask}: {loaded} weights from {config["init_from"]}, {new} new')
        for name in ('log.jsonl', 'best.pt') if run.rank == 0 else ():  # of an earlier run
            (out / name).unlink(missing_ok=True)
    model = wrap(raw, run)

    def views(x, labels):
        return dataset.inputs(x, scale=(0.2, 1.0)), labels  # reference notes

    def loss_of(x, valid, labels, whole):
        loss, hidden = model(x, valid, mask, mask_ratio, config['n_query'], looseness=looseness)
        lengths = dataset.lengths(whole)
        loss = loss.sum() / max(np.round(mask_ratio * lengths).sum(), 1)  # hidden inputs of the whole step, unsynced
        with torch.no_grad():
            sums['loss'] += loss
            sums['hidden'][:x.shape[1]] += hidden.sum(0)
            sums['real'][:x.shape[1]] += len(x) if valid is None else valid.sum(0)
        sums['tokens'] += int(lengths.sum()) // config['accumulation']
        sums['places'] += x.shape[1] * len(whole) // config['accumulation']
        return loss

    def fresh():
        return dict(loss=torch.zeros((), device=run.device), tokens=0, places=0, time=time.time(), step=step,
                    hidden=torch.zeros(config['seq_len'], device=run.device),
                    real=torch.zeros(config['seq_len'], device=run.device))

    def checkpoint():
        return dict(model=raw.state_dict(), model_args=model_args, norm=dataset.norm, columns=dataset.columns,
                    step=step, best=best, config=settings, optimizer=optimizer.state_dict(), scaler=scaler.state_dict(),
                    epoch=step // steps_per_epoch, position=step % steps_per_epoch)

    def validate(mask):
        batches = scoring(dataset, valid_rows, config['batch_size'], run)
        total = sum_ranks(masked_loss(raw, batches, mask, mask_ratio, config['n_query'], run.device, run.autocast), run)
        return (total[0] / total[1]).item()

    n_params = sum(p.numel() for p in raw.parameters())
    say(run, f'{mask}: {n_params:,} parameters, {len(rows):,} rows, mask_ratio {mask_ratio}, '
             f'{total:,} steps of {config["batch_size"]}')
    batches = prefetch(micro_batches(dataset, rows, config, config['seed'], step, run), run.device)
    bar = tqdm(total=total, initial=step, desc=mask, disable=run.rank > 0 or not sys.stderr.isatty())
    sums, stopped = fresh(), False
    while step < total and not stopped:
        lr_now = lr_at(step, total, lr, config['min_lr'], config['warmup_steps'])
        for group in optimizer.param_groups:
            group['lr'] = lr_now
        looseness = None  # a tensor: torch.compile would take every new float for a new program
        if step < config['mask_anneal'] * total:
            looseness = torch.tensor(lr_at(step, config['mask_anneal'] * total, 1.0, 0.0, 0), device=run.device)
        norm = take_step(model, optimizer, scaler, batches, views, loss_of, step, config['seed'], config, run)
        stopped = stop.asked(run, step, config['log_interval'])
        step += 1
        bar.update()

        values = {}
        if step % config['log_interval'] == 0 or step == total:
            values = report(sums, step, lr_now, norm, run)
            sums = fresh()
        if len(valid_rows) and (step % config['eval_interval'] == 0 or step == total):
            values['val_loss_random'] = validate('random')  # the yardstick: masks that do not move with the weights
            values['val_loss'] = values['val_loss_random'] if mask == 'random' else validate(mask)
            values |= probed(raw)
            if values['val_loss_random'] < best:
                best = values['val_loss_random']
                if run.rank == 0:
                    save(out / 'best.pt', checkpoint())
        if values:
            log_line(out / 'log.jsonl', run, step=step, **values)
            text = (f'{k} {v:,}' if isinstance(v, int) else f'{k} {v:.4g}' for k, v in values.items())
            say(run, f'{mask} step {step:,}: {", ".join(text)}')
        if run.rank == 0 and (step % config['save_interval'] == 0 or step == total or stopped):
            save(out / 'last.pt', checkpoint())
    bar.close()
    if stopped:
        say(run, f'stopped at step {step:,} of {total:,}; {out}/last.pt is saved: go on with --resume')
        sys.exit(128 + (stop.signal or signal.SIGTERM))
    say(run, f'{mask}: wrote {out}/last.pt')


def report(sums, step, lr, norm, run):
    """
    The log's numbers since the last line. mask_entropy: how evenly the inputs take turns at being hidden, the entropy
    of how often each is, over that of equal shares: 1 = all alike, near 0 = always the same few. hidden_least and
    hidden_most: how often the input is hidden that is hidden least, and most: 0 and 1 where masks have collapsed onto
    a few. Rank 0's samples.
    """
    loss = sum_ranks(sums['loss'], run).item() / (step - sums['step'])
    if not math.isfinite(loss):
        fail(f'the loss is {loss} at step {step}: lower lr, or look at the data')
    seen = sums['real'] > 0
    p = sums['hidden'][seen] / sums['real'][seen]
    least, most, p = p.min().item(), p.max().item(), p / p.sum()
    entropy = -(p * p.clamp(min=1e-12).log()).sum() / math.log(max(len(p), 2))
    return dict(loss=loss, lr=lr, grad_norm=norm.item(), mask_entropy=entropy.item(),
                hidden_least=least, hidden_most=most,
                masked=(sums['hidden'].sum() / sums['real'].sum()).item(), padding=1 - sums['tokens'] / sums['places'],
                tokens_per_s=round(sums['tokens'] / (time.time() - sums['time'])))


def main():
    config = configure(globals())
    check_knobs(config, ('log_interval', 'eval_interval', 'save_interval', 'n_query'))
    run = set_up(config)
    dataset, stop = prepared(config, run), Stop()
    rows = dataset.rows('train')
    check_batch(len(rows), config, run)
    masks, ratios, lrs = config['mask'], config['mask_ratio'], config['lr']
    ratios, lrs = (v * len(masks) if len(v) == 1 else v for v in (ratios, lrs))
    check_masks(masks, ratios, dataset.lengths(rows), dataset.d_raw)
    if len(lrs) != len(masks):
        fail(f'lr has {len(lrs)} values for {len(masks)} kinds of masks: one for all, or one each')
    if config['probe'] < 0:
        fail(f'probe={config["probe"]} must not be negative')
    if not 0 <= config['mask_anneal'] <= 1:
        fail(f'mask_anneal={config["mask_anneal"]} must lie between 0 and 1')
    if config['init_from']:
        dataset.norm = load(config['init_from'], keys=('model', 'norm'))['norm']  # the scale those weights know
    else:
        dataset.norm = fit_norm(dataset, rows, config['norm'])
    if config['probe']:
        head, labelled = settle_target(dataset, config, ('train', 'valid'))
        learn = np.random.default_rng(0).permutation(labelled['train'])[:config['probe']]

    def probed(model):
        return probe_rows(model, dataset, head, learn, labelled['valid'], config, run) if config['probe'] else {}
    for m, r, lr in zip(masks, ratios, lrs):
        train(m, r, lr, dataset, probed, config, run, stop)
    finish(run)


if __name__ == '__main__':
    main()
