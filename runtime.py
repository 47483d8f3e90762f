"""
What running takes, for every stage: device, precision, processes, seeds, signals, log lines, the optimiser's
update, and running a model over many rows. No stage's loop is in here.
"""

import gc
import json
import math
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from configurator import fail, nearest, printable, whole
from data import check_fits, data_knobs, describe, fit_norm, open_dataset, scoring
from masking import BLIND, GUIDED


# -----------------------------------------------------------------------------
# set-up

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
        bf16 = kind == 'cuda' and torch.cuda.is_bf16_supported()
        run.dtype = 'float32' if kind != 'cuda' else 'bfloat16' if bf16 else 'float16'
    if run.dtype not in ('float32', 'bfloat16', 'float16'):
        fail(f'dtype={run.dtype!r}: auto, float32, bfloat16 or float16')
    low = None if run.dtype == 'float32' else getattr(torch, run.dtype)
    run.autocast = (lambda: torch.autocast(kind, low)) if low else nullcontext
    modes = {'none': 'default' * (kind == 'cuda'), 'false': '', 'true': 'default'}  # torch.compile's; '' = off
    run.compile = str(config.get('compile')).lower()
    if run.compile not in (*modes, 'reduce-overhead'):
        fail(f'compile={config["compile"]!r}: true, false or reduce-overhead')
    run.compile = modes.get(run.compile, run.compile)
    if run.world > 1:
        dist.init_process_group('nccl' if kind == 'cuda' else 'gloo')
        sys.excepthook = partial(lost, run)
    name = torch.cuda.get_device_name() if kind == 'cuda' else f'{torch.get_num_threads()} threads'
    say(run, f'device: {run.device} ({name}), {run.dtype}, {run.world} process(es)'
             + ', compiled' * bool(run.compile))
    return run


def lost(run, kind, error, trace):
    """One line where another process of the run has died; torchrun then ends them all, with a status not 0."""
    if isinstance(error, dist.DistError) or 'gloo' in str(error):
        print(f'error: rank {run.rank} waited for another process, which has died', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def open_data(config, run, checkpoint=None):
    """
    The data set that the knobs name, or else the checkpoint's own; described, fitted to the checkpoint's
    model and scale, and with rows cut to what a model takes. -> Dataset, the model's seq_len
    """
    knobs = data_knobs(config, checkpoint)
    dataset = open_dataset(**knobs)
    if run.rank == 0:
        describe(dataset)
    seq_len, max_len = config.get('seq_len'), config.get('max_len')
    if checkpoint:
        own = checkpoint['config']
        moved = [f'{k} {own[k]} (now {knobs[k]})' for k in ('val_share', 'test_share', 'split_seed')
                 if own.get(k) not in (None, knobs[k])]
        if checkpoint.get('data', dataset.fingerprint) != dataset.fingerprint:
            moved.append(f'other contents of {dataset.name}')
        if moved and own.get('dataset') == knobs['dataset']:
            say(run, f'warning: the checkpoint was trained with {", ".join(moved)}: rows that it learned from '
                     'may be validation or test rows now')
        warn(run, check_fits(dataset, checkpoint))
        dataset.norm = checkpoint['norm'] or \
            fit_norm(dataset, dataset.rows('train'), config.get('norm') or 'standard')
        seq_len, max_len = checkpoint['model_args']['seq_len'], max_len or checkpoint['config'].get('max_len')
    seq_len = dataset.set_lengths(seq_len, max_len)
    if dataset.n_cut:
        say(run, f'{dataset.n_cut:,} of {len(dataset.y):,} sequences have more than {dataset.max_len} tokens '
                 'and lose their end')
    if dataset.is_bytes and run.device.type == 'cuda':
        # cuDNN plans attention anew for each width, in tens of milliseconds or more. A Perceiver has few
        # widths, as padding costs its first layer and decoder alone; a Transformer takes the other kernels
        if (checkpoint['model_args'] if checkpoint else config).get('n_latent'):
            dataset.width_step = 32
        else:
            torch.backends.cuda.enable_cudnn_sdp(False)
    return dataset, seq_len


def check_numbers(config, positive=()):
    """Fails on numbers that no run can be made with, and on an out_dir that is a file."""
    for k in ('batch_size', 'accumulation', 'epochs', 'max_steps', *positive):
        if config.get(k) is not None and config[k] < 1:
            fail(f'{k}={config[k]} must be at least 1')
    for k in ('min_lr', 'warmup_steps', 'weight_decay', 'grad_clip', 'lr', 'seed', 'seeds'):
        value = config.get(k, 0)
        if value == ():
            fail(f'{k}=() leaves nothing to do')
        if min(value if isinstance(value, tuple) else (value,)) < 0:
            fail(f'{k}={value} must not be negative')
    for k in ('out_dir', 'show_out'):
        if config.get(k) and Path(config[k]).is_file():
            fail(f'{k}={config[k]!r} is a file: a folder is wanted')


def check_batch(n_rows, config, run, n_val=100):
    """Fails unless a step's samples are there, and can be dealt out; says if few are left to validate on."""
    if n_val < 100:
        say(run, f'warning: {n_val} validation rows are few to select by: --val_share is the share of them')
    if n_rows < config['batch_size']:
        fail(f'batch_size={config["batch_size"]}, but there are only {n_rows} rows to train on: lower it')
    if config['batch_size'] % (config['accumulation'] * run.world):
        fail(f'batch_size={config["batch_size"]} must divide by accumulation x processes = '
             f'{config["accumulation"] * run.world}')


def check_masking(how, lengths, d_raw):
    """
    Fails unless the mask is known and fits the data, and its ratio hides something, but of no row everything.
    lengths (N,) numpy, inputs of each row; d_raw as in model.py, 0 = bytes.
    """
    names, ratio, longest = [*GUIDED, *BLIND], how.mask_ratio, int(lengths.max())
    if how.mask not in names:
        fail(f'unknown mask {how.mask!r}: of {", ".join(names)} the nearest is {nearest(how.mask, names)!r}')
    if how.mask == 'word' and d_raw:
        fail('mask=word hides words of text; these data are numbers: guided or random')
    if how.mask == 'patch' and (not d_raw or math.isqrt(longest) ** 2 != longest):
        kind = 'rows of' if d_raw else 'bytes, up to'
        fail(f'mask=patch hides squares of square images, but these are {kind} {longest} inputs')
    if how.n_query < 1:
        fail(f'n_query={how.n_query} must be at least 1')
    if not ratio > 0 or round(ratio * longest) == 0:
        fail(f'mask_ratio={ratio} hides nothing of {longest} inputs: raise it')
    full = [n for n in set(lengths.tolist()) if round(ratio * n) >= n]
    if full:
        fail(f'mask_ratio={ratio} hides everything of a row of {max(full)} inputs: lower it')


def must_match(old, new, what, defaults=None):
    """
    Fails, naming the first that differs, unless the settings `new` are what they were when `what` was
    written. A knob that `old` does not have yet counts as its default.
    """
    for k in new:
        was = old.get(k, (defaults or {}).get(k))
        if was != new[k]:
            fail(f'{what} was made with {k}={was}, this run has {k}={new[k]}: make them the same')


# -----------------------------------------------------------------------------
# while running

def say(run, text):
    """One line, from one rank; above the progress bar if there is one."""
    if run.rank == 0:
        tqdm.write(printable(text), file=sys.stdout)
        sys.stdout.flush()


def warn(run, text):
    """A warning, if there is one."""
    if text:
        say(run, f'warning: {text}')


def log_line(path, run, **values):
    """One JSON object a line in log.jsonl; a number that is not finite, which JSON does not know, is null."""
    if run.rank == 0:
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, 'a') as f:
                f.write(json.dumps(values) + '\n')
        except OSError as error:
            fail(f'cannot write {path}: {error.strerror or error}')


def claim(folder, run):
    """
    Makes an out_dir this run's own, until its process ends, however it does. Fails if another run writes to
    it, or nobody can: now, not at the first save.
    """
    if run.rank == 0:
        with whole(folder / '.try') as f:
            f.write(bytes(4096))
        (folder / '.try').unlink()
        if os.name == 'posix':
            import fcntl
            run.lock = open(folder / '.lock', 'w')  # noqa: SIM115
            try:
                fcntl.flock(run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fail(f'another run is writing to {folder}: wait for its end, or choose another --out_dir')
            except OSError:  # a disk over the network that knows no locks
                pass


def rewrite_log(path, run, keep):
    """Takes out of a log.jsonl the entries for which keep(entry) is false, at once or not at all."""
    if run.rank == 0 and path.exists():
        lines = [s for s in path.read_text().splitlines() if s.endswith('}')]  # the last may be half written
        with whole(path, 'w') as f:
            f.writelines(s + '\n' for s in lines if keep(json.loads(s)))


def seed_all(*numbers):
    """Seeds torch from several integers, mixed (torch's CPU generator looks at 32 bits only)."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


class Stop:
    """
    Ctrl-C and SIGTERM: finish the step, save, leave. A second Ctrl-C leaves at once. Several processes leave
    also when the torchrun that started them is gone.
    """

    def __init__(self):
        self.signal, self.parent = None, os.getppid()
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
        orphan = os.getppid() != self.parent
        flag = torch.tensor(float(self.signal is not None or orphan), device=run.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)


# -----------------------------------------------------------------------------
# the optimiser's update

def make_optimizer(model, lr, weight_decay, device):
    """AdamW, betas 0.9, 0.999 (appendix B); only matrices of Linear decay: no embedding, P, latent or bias."""
    matrices = {m.weight for m in model.modules() if isinstance(m, nn.Linear)}
    groups = [dict(params=[p for p in model.parameters() if p in matrices], weight_decay=weight_decay),
              dict(params=[p for p in model.parameters() if p not in matrices], weight_decay=0.0)]
    fused = torch.device(device).type in ('cuda', 'cpu')
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), fused=fused)


def lr_at(step, total, lr, min_lr, warmup_steps):
    """Linear warm-up, then a cosine from lr to min_lr at the last step."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(total - warmup_steps, 1)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def make_scaler(run):
    """
    For float16 it scales the loss; for all it sees to it that a step whose gradients are not finite is not
    taken, which is settled on the device.
    """
    half = run.dtype == 'float16'
    scaler = torch.amp.GradScaler(run.device.type, init_scale=2.0 ** 16 if half else 1.0)
    scaler.always = None if half else 1.0
    return scaler


class Skips:
    """Steps that were not taken. Ten in a row end the run: what is wrong with them will not pass."""

    def __init__(self, run):
        self.in_a_row = torch.zeros((), device=run.device)
        self.limit = 30 if run.dtype == 'float16' else 10  # whose scale starts far too large, and is halved

    def note(self, norm):
        """norm, of a step's gradients -> 0-d bool, True = the step was skipped"""
        skipped = ~norm.isfinite()
        self.in_a_row = (self.in_a_row + 1) * skipped
        return skipped

    def check(self, step):
        """To be called now and then, as it waits for the device."""
        if self.in_a_row >= self.limit:
            fail(f'step {step} and those before it were skipped, as their gradients are not finite: '
                 'lower lr, or look at the data')


def check_state(optimizer, state, path):
    """Fails unless the saved state fits this optimizer: fused AdamW would write past the end of another's."""
    params, own = [p for group in optimizer.param_groups for p in group['params']], optimizer.state_dict()
    try:
        ours, theirs = ([{**g, 'lr': None} for g in s['param_groups']] for s in (own, state))
        right = ours == theirs and {*state['state']} <= {*range(len(params))}
        for i, saved in state['state'].items() if right else ():
            moments = saved['exp_avg'], saved['exp_avg_sq']
            right = right and {*saved} == {'step', 'exp_avg', 'exp_avg_sq'} and saved['step'].shape == () \
                and all(t.shape == params[i].shape and t.dtype == params[i].dtype for t in moments) \
                and all(bool(torch.isfinite(t).all()) for t in saved.values())
    except (AttributeError, KeyError, TypeError):
        right = False
    if not right:
        fail(f'{path}: the state of its optimizer is not that of this model, or is damaged')


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group['lr'] = lr
    return lr


def wrap(model, run):
    """
    The model as the loop calls it: averaged over processes, then compiled, which in this order leaves the
    gradients to be sent during the backward pass. The bare one is what is saved.
    """
    if run.world > 1:
        model = DistributedDataParallel(model, device_ids=[run.device] if run.device.type == 'cuda' else None)
    if run.compile:
        model = torch.compile(model, mode=run.compile)
        model.register_forward_pre_hook(any_width)
    return model


def any_width(model, args):
    """Says of x and valid of bytes, (B, n), that n varies: else the first n has a program of its own."""
    for t in args[:2]:
        if torch.is_tensor(t) and t.ndim == 2:
            torch._dynamo.mark_dynamic(t, 1)


def syncing(model, run, last):
    """Context of a micro-batch's two passes: processes add up their gradients in the last one alone."""
    return nullcontext() if run.world == 1 or last else model.no_sync()


def update(model, optimizer, scaler, grad_clip):
    """
    One step on the gradients that are there: unscaled, clipped, taken if they are finite, cleared. -> their
    norm, unclipped
    """
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip or math.inf)
    scaler.step(optimizer)
    scaler.update(scaler.always)
    optimizer.zero_grad(set_to_none=True)
    return norm


def sum_ranks(t, run):
    """The sum of a tensor over all processes."""
    if run.world > 1:
        dist.all_reduce(t)
    return t


def finish(run):
    """Leaves the process group, all together, and without old DDP wrappers, whose threads would outlive it."""
    if run.world > 1:
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


# -----------------------------------------------------------------------------
# a model over many rows, the same answer on every rank

@torch.no_grad()
def masked_loss(model, dataset, rows, how, batch_size, run):
    """
    The mean loss over the hidden inputs of these rows. Batch i draws with seed i: the random masks, or the
    queries drawn for guided ones, are the same at every call.
    """
    model.eval()
    generator, total = torch.Generator(run.device), torch.zeros(2, device=run.device)
    for i, at, x, valid in scoring(dataset, rows, batch_size, run):
        with run.autocast():
            loss, hidden = model(x, valid, how, generator.manual_seed(i))
        total += torch.stack([loss.sum(), hidden.sum()])
    model.train()
    total = sum_ranks(total, run)
    return (total[0] / total[1]).item()


@torch.no_grad()
def outputs(function, model, width, dataset, rows, batch_size, run):
    """function(x, valid), such as model.features, of these rows, in their order. -> (rows, width) float32"""
    model.eval()
    result = torch.zeros(len(rows), width, device=run.device)
    for i, at, x, valid in scoring(dataset, rows, batch_size, run):
        with run.autocast():
            result[at] = function(x, valid).float()
    model.train()
    result = sum_ranks(result, run).cpu()
    if not torch.isfinite(result).all():
        bad = rows[(~torch.isfinite(result)).any(1).numpy()]
        fail(f'the model answers {len(bad)} of {len(rows)} rows with numbers that are not finite, row '
             f'{bad[0] + 1} for one: see their inputs')
    return result
