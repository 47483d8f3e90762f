"""
Stage 1: masked-reconstruction pre-training, Algorithm 1 of the paper. No labels.

    python pretrain.py                                          the defaults: collider events, a minute
    python pretrain.py --mask=random                            the baseline
    python pretrain.py --dataset=my.csv --label_column=y        your own table; --help lists all knobs
    python pretrain.py config/protein.py --batch_size=32        a config, then any knob
    torchrun --nproc_per_node=8 pretrain.py config/NAME.py      one machine, 8 GPUs
    torchrun --nnodes=2 --node_rank=0 --nproc_per_node=8 --master_addr=10.0.0.1 pretrain.py config/NAME.py
                                                                two machines that share a disk

Written to OUT_DIR: last.pt (the latest step; --resume goes on from it, and later stages read it), best.pt (the
lowest validation loss on random masks, the same masks every time) and log.jsonl.
"""

import math
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from configurator import configure, defaults_of
from data import DEFAULT_DATASET, micro_batches, open_data, other_splits, settle_knobs
from eval import masked_loss
from masking import Masking
from model import build
from util import checkpoint, checks, optim, runtime, scaling
from util.baseline import constant_loss
from util.errors import fail, run_cli
from util.outdir import OutputDir, usual_folder
from util.runtime import print0

SHARED_KNOBS = ('data.py', 'util/runtime.py')  # dataset, label_column, ..; device, dtype

# -----------------------------------------------------------------------------
# ---- inputs
max_len: int | None = None  # tokens kept of a byte sequence, CLS and SEP included; None = seq_len
norm = 'standard'  # how floats are scaled: standard, quantile (ranks to a Gaussian) or none
# ---- model (Tables 8-12)
embed_dim = 64  # width of the embedded inputs
seq_len: int | None = None  # most inputs; None = as many as the data has
n_layer = 3  # the masking layer and n_layer - 1 blocks
qk_dim = 64  # queries and keys, all heads together
n_head = 4  # heads
v_dim = 64  # values, all heads together; the width of the residual stream
n_latent = 0  # latents of a Perceiver; 0 = a Transformer
mlp_ratio = 4  # hidden width of an MLP, as a multiple of its layer's width
dropout = 0.0  # of embeddings, attention and MLP
drop_path = 0.0  # chance that a sample skips a block's attention or MLP
# ---- mask
mask = 'guided'  # the paper's method; its baseline is random; masking.py has more: guided_exact, word, patch
mask_ratio = 0.5  # r, the share of the inputs hidden
n_query = 1  # queries drawn for each guided mask, |R|; at most all there are
mask_anneal = 1.0  # share of the steps over which masks go from random to guided; 0 = the paper: guided at once
min_random_fraction = 0.25  # how random masks still are after annealing: 0 = the top k alone, 1 = random
# ---- optimiser
batch_size = 256  # samples a step, over all processes and micro-batches
accumulation = 1  # micro-batches a step, for batches that do not fit in memory
decode_pieces = 1  # more: the decoder works piece by piece, which is slower and saves memory (images)
epochs = 3  # passes over the training rows
max_steps: int | None = None  # optimiser steps; None = what the epochs take
lr = 1e-3  # peak learning rate
min_lr = 0.0  # where the cosine ends
warmup_steps = 100  # linear warm-up
weight_decay = 0.01  # of the matrices of Linear layers; the other parameters have none
grad_clip = 1.0  # largest gradient norm; 0 = off
# ---- run
seed = 0  # of weights, batches and masks
compile: str | None = None  # torch.compile: true, false, reduce-overhead (CUDA graphs); None = on cuda
out_dir: str | None = None  # None = out/DATASET/MASK
resume = False  # go on from OUT_DIR/last.pt where there is one
init_from: str | None = None  # a checkpoint whose weights and shape to start from, or hf:OWNER/NAME
log_interval = 100  # steps between lines of the log
eval_interval = 500  # steps between validations
save_interval = 500  # steps between saves of last.pt
# -----------------------------------------------------------------------------

# what --resume may change: all other knobs decide what is learned from which rows
MAY_CHANGE = {'resume', 'init_from', 'out_dir', 'data_dir', 'epochs', 'max_steps', 'accumulation', 'device',
              'dtype', 'compile', 'decode_pieces', 'log_interval', 'eval_interval', 'save_interval'}


def main():  # noqa: C901 (long on purpose: it is read from top to bottom)
    # ---- settings
    config = configure(globals())
    checks.check_numbers(config, ('log_interval', 'eval_interval', 'save_interval'))
    checks.check_shares(config, ('mask_anneal', 'min_random_fraction'))
    run = runtime.set_up(config)
    stop = runtime.Stop()
    settle_names(config)
    out = OutputDir(config['out_dir'], 'pretrain.py', run)
    last = out.path / 'last.pt'

    # ---- data
    initial = load_initial(config)  # the checkpoint to start from, or None
    data, config['seq_len'] = open_data(config, run)
    settle_knobs(config)
    if initial:
        runtime.warn(run, checks.check_fits(data, initial))
        runtime.warn(run, other_splits(data, initial, config))
    train_rows = data.rows('train')
    val_rows = data.rows('val')
    if not len(train_rows):
        fail(f'{config["dataset"]} has no train rows: see split_column, val_file, val_share and their like')
    checks.check_batch(len(train_rows), config, run, len(val_rows))
    masking = Masking.of(config)
    # for validation: losses on guided masks cannot be compared from step to step, as the masks change too
    random_masking = replace(masking, mask='random')
    checks.check_masking(masking, data.lengths(train_rows), data.d_raw)

    # ---- model and optimiser
    runtime.seed_all(seed)
    raw_model = build({**config, **initial_shape(initial)}, d_raw=data.d_raw).to(run.device)
    optimizer = optim.make_optimizer(raw_model, config, run.device)
    scaler = optim.make_scaler(run)
    skips = optim.Skips(run)
    parts = dict(model=raw_model, optimizer=optimizer, scaler=scaler)  # what is saved and resumed
    total_steps = count_steps(len(train_rows))
    warn_of_warmup(total_steps, run)

    # ---- start anew, or go on
    if resume and last.exists():
        step, best_loss = restore(last, parts, data, config, run)
        out.remove_log_entries(lambda entry: entry['step'] > step)
        print0(run, f'resumed {last} at step {step:,} of {total_steps:,}')
        if step >= total_steps:
            print0(run, 'nothing is left to do: raise --max_steps or --epochs to go on')
            return runtime.finish(run)
    else:
        step = 0
        best_loss = math.inf
        out.keep_earlier_run()
        start_anew(raw_model, initial, data, train_rows, run)
        if resume:
            runtime.warn(run, f'there is no {last}, so this run starts at step 0')
    print_constant_loss(raw_model, data, train_rows, val_rows, run)
    model = runtime.wrap(raw_model, run)  # DDP, torch.compile; raw_model is the one that is saved

    n_parameters = sum(p.numel() for p in raw_model.parameters())
    print0(run, f'{mask} masks, ratio {mask_ratio}: {n_parameters:,} parameters, '
                f'{len(train_rows):,} rows, {total_steps:,} steps of {batch_size}')
    batches = micro_batches(data, train_rows, batch_size, accumulation, seed, step, run)
    interval = Interval(config['seq_len'], step, run)
    anneal_steps = mask_anneal * total_steps
    bar = tqdm(total=total_steps, initial=step, desc=mask, disable=not (run.is_main and sys.stderr.isatty()))
    stopped = False

    # ---- Algorithm 1
    while step < total_steps and not stopped:
        rate = optim.lr_at(step, total_steps, config)
        optim.set_lr(optimizer, rate)
        fraction = random_fraction_at(step, anneal_steps)
        random_fraction = None
        if fraction > 0:
            # a tensor, as torch.compile would compile anew for every new float; made on the device, as a copy
            # to it would wait
            random_fraction = torch.full((), fraction, device=run.device)

        for micro_step in range(accumulation):
            # x (B, n) int64 or (B, n, d_raw) float32, valid (B, n) bool or None; step_rows: rows of the step
            x, valid, _, step_rows = next(batches)
            # Random numbers (crops, masks, dropout) are seeded by (seed, step, micro-batch): two processes do
            # what one does with accumulation=2, and a resumed run needs no generator's state.
            runtime.seed_all(seed, step, micro_step * run.world + run.rank)
            x = data.inputs(x, scale=(0.2, 1.0))  # images: a random crop, as in the authors' code
            lengths = data.lengths(step_rows)  # (batch_size,) inputs of each row
            n_hidden_of_step = max(np.round(mask_ratio * lengths).sum(), 1)
            # DDP averages the gradients over the processes: once a step, at its last micro-batch
            with runtime.no_sync(model, run, last=micro_step == accumulation - 1):
                # mask, encode, decode, loss: SMA.forward
                with run.autocast():
                    loss, hidden = model(x, valid, masking, random_fraction=random_fraction)  # (B, m), (B, n)
                    loss = loss.sum() / n_hidden_of_step  # together a mean over all hidden inputs
                scaler.scale(loss * run.world).backward()  # times world, as DDP averages over processes
            interval.add(loss, hidden, valid, lengths.sum() / accumulation, len(lengths) // accumulation)

        # update
        grad_norm = optim.update(raw_model, optimizer, scaler, grad_clip)
        is_skipped = skips.note(grad_norm)
        interval.end_step(is_skipped)
        stopped = stop.asked(run, step, log_interval)
        step += 1
        is_last = step == total_steps
        bar.update()

        # log
        values = {}
        if step % 10 == 0 or is_last:
            skips.check(step)
        if step % log_interval == 0 or is_last:
            values = interval.report(step, rate, grad_norm)
            interval = Interval(config['seq_len'], step, run)

        # validate
        if len(val_rows) and (step % eval_interval == 0 or is_last):
            random_loss = masked_loss(raw_model, data, val_rows, random_masking, batch_size, run)
            values['val_loss_random'] = random_loss
            values['val_loss'] = random_loss
            if mask != 'random':  # as guided as they can be: without random_fraction
                values['val_loss'] = masked_loss(raw_model, data, val_rows, masking, batch_size, run)
        if values:
            out.log(step=step, **values)
            print0(run, f'step {step:,}: {as_text(values)}')

        # save
        is_better = values.get('val_loss_random', math.inf) < best_loss
        if is_better:
            best_loss = values['val_loss_random']
        is_due = step % save_interval == 0 or is_last or stopped
        if is_better or is_due:
            saved = {name: part.state_dict() for name, part in parts.items()}
            saved.update(
                model_args=dict(vars(raw_model.config)), config=config, step=step, best=best_loss,
                norm=data.norm, columns=data.columns, categories=data.meta['categories'],
                data=data.fingerprint, dealt=accumulation * run.world)
            if is_better:
                out.save('best.pt', saved)
            if is_due:
                out.save('last.pt', saved)

    bar.close()
    if stopped:
        print0(run, f'stopped at step {step:,} of {total_steps:,}; {last} is saved: go on with --resume')
        sys.exit(stop.exit_status)
    print0(run, f'wrote {last}')
    runtime.finish(run)


# -----------------------------------------------------------------------------
# setting up

def settle_names(config):
    """The data set and the folder of the output where they are not given."""
    if config['dataset'] is None:
        config['dataset'] = DEFAULT_DATASET
    if config['out_dir'] is None:
        config['out_dir'] = f'{usual_folder(config["dataset"])}/{mask}'


def count_steps(n_rows):
    """How many steps the run takes over n_rows training rows."""
    if max_steps is not None:
        return max_steps
    return epochs * (n_rows // batch_size)


def load_initial(config):
    """The checkpoint that init_from names, or None. The knobs of the model are set to its shape."""
    if init_from is None:
        return None
    initial = checkpoint.load(init_from, ('model', 'model_args', 'norm', 'config'), config['data_dir'])
    checkpoint.adopt_shape(config, initial_shape(initial), defaults_of(__file__), init_from)
    return initial


def initial_shape(initial):
    """The fields of SMAConfig that the weights of `initial` need: {name: value}."""
    return checkpoint.shape_of(initial['model_args']) if initial else {}


def random_fraction_at(step: int, anneal_steps: float) -> float:
    """
    From 1, random masks, by a cosine to min_random_fraction, where it stays: see masking.hide. Always 0, as in
    the paper, with mask_anneal=0.
    """
    if anneal_steps == 0:
        return 0.0
    if step < anneal_steps:
        return optim.cosine(step, anneal_steps, 1.0, min_random_fraction)
    return min_random_fraction


def warn_of_warmup(total_steps, run):
    if warmup_steps > total_steps / 2:
        share = 'all' if total_steps <= warmup_steps else 'most'
        runtime.warn(run, f'only {total_steps} steps, {share} of them warm-up (warmup_steps={warmup_steps}). '
                          'Raise --max_steps or lower --warmup_steps.')


def print_constant_loss(raw_model, data, train_rows, val_rows, run):
    """What the validation losses are to be compared with."""
    if len(val_rows) and run.is_main:
        loss = constant_loss(raw_model.loss, data, train_rows, val_rows, run.device)
        print0(run, f'val_loss of a constant prediction: {loss:.4f}. Near it, nothing has been learned.')


def start_anew(raw_model, initial, data, train_rows, run):
    """Scales of the inputs, and weights: new ones, or those of the checkpoint `initial`."""
    if initial and initial['norm']:
        data.norm = initial['norm']  # the scale that its weights know
    else:
        data.norm = scaling.fit_norm(data, train_rows, norm)
    if initial:
        n_copied, n_new = checkpoint.load_weights(
            raw_model, initial['model'], new=('decoder.',), dropped=('head.', 'head_query'))
        print0(run, f'{n_copied} weights from {init_from}, whose shape the model has, {n_new} new')


def restore(path, parts, data, config, run):
    """Weights, optimiser and scales as they were when `path` was saved. -> its step and best validation loss"""
    old = checkpoint.load(path, keys=('model', 'optimizer', 'model_args', 'step', 'best', 'norm', 'config'))
    new_shape = checkpoint.shape_of(vars(parts['model'].config))
    checkpoint.must_match(checkpoint.shape_of(old['model_args']), new_shape, path)
    fixed = {name: value for name, value in config.items() if name not in MAY_CHANGE}
    old['config'].setdefault('min_random_fraction', 0.0)  # runs made before this knob existed
    checkpoint.must_match(old['config'], fixed, path, defaults_of(__file__))
    if 'data' in old and not data.same_as(old['data']):
        fail(f'{config["dataset"]} has changed since {path} was saved: train anew, in another --out_dir')
    dealt = accumulation * run.world
    if old.get('dealt', dealt) != dealt:
        print0(run, f'accumulation x processes was {old["dealt"]}, is {dealt}: other masks from here on')
    checkpoint.check_optimizer_state(parts['optimizer'], old['optimizer'], path)
    data.norm = old['norm']
    for name, part in parts.items():
        if old.get(name):  # an older checkpoint may have no state of a scaler
            part.load_state_dict(old[name])
    return old['step'], old['best']


# -----------------------------------------------------------------------------
# the log

class Interval:
    """What the log says about the steps since its last line: sums on the device, read when the line is due."""

    def __init__(self, n_inputs, step, run):
        self.run = run
        self.first_step = step
        self.start_time = time.monotonic()
        self.n_tokens = 0  # real inputs, over all processes
        self.n_places = 0  # real inputs and padding
        self.loss = torch.zeros((), device=run.device)  # summed over the steps
        self.loss_of_step = torch.zeros((), device=run.device)
        self.n_skipped = torch.zeros((), device=run.device)
        self.times_hidden = torch.zeros(n_inputs, device=run.device)
        self.times_real = torch.zeros(n_inputs, device=run.device)

    def add(self, loss, hidden, valid, n_tokens, n_rows):
        """
        A micro-batch: its part of the step's loss, hidden (B, n), valid (B, n) or None; n_tokens real inputs
        and n_rows rows, its share of those of the step over all processes.
        """
        n = hidden.shape[1]
        self.loss_of_step += loss.detach()
        self.times_hidden[:n] += hidden.sum(0)
        self.times_real[:n] += len(hidden) if valid is None else valid.sum(0)
        self.n_tokens += float(n_tokens)
        self.n_places += n * n_rows

    def end_step(self, is_skipped):
        """is_skipped: 0-d bool tensor, True where the update was left out, as its gradients were not finite."""
        self.loss += self.loss_of_step.masked_fill(is_skipped, 0.0)
        self.loss_of_step.zero_()
        self.n_skipped += is_skipped

    def report(self, step, rate, grad_norm):
        """
        The values of a line of the log. Those of the masks, below, are of rank 0's samples.

        mask_entropy   how evenly the inputs take turns at being hidden: the entropy of how often each is
                       hidden, over that of equal shares. 1 = all alike, near 0 = always the same few.
        hidden_least   how often the least hidden input is hidden
        hidden_most    how often the most hidden one is. 0 and 1 where masks have collapsed onto a few inputs.
        masked         the share of the real inputs that is hidden
        padding        the share of all places that is padding
        tokens_per_s   real inputs a second
        skipped        steps that were left out, if there were any
        """
        n_skipped = int(self.n_skipped)
        n_steps = max(step - self.first_step - n_skipped, 1)
        loss = runtime.sum_ranks(self.loss, self.run).item() / n_steps
        seen = self.times_real > 0
        share = self.times_hidden[seen] / self.times_real[seen]  # how often each input was hidden
        p = share / share.sum()
        entropy = -(p * p.clamp(min=1e-12).log()).sum() / math.log(max(len(p), 2))
        seconds = max(time.monotonic() - self.start_time, 1e-6)
        values = dict(
            loss=loss, lr=rate, grad_norm=grad_norm.item(), mask_entropy=entropy.item(),
            hidden_least=share.min().item(), hidden_most=share.max().item(),
            masked=(self.times_hidden.sum() / self.times_real.sum()).item(),
            padding=1 - self.n_tokens / self.n_places, tokens_per_s=round(self.n_tokens / seconds))
        if n_skipped:
            values['skipped'] = n_skipped
        return values


def as_text(values):
    """{'loss': 0.98765, 'skipped': 2} -> 'loss 0.9877, skipped 2'"""
    words = []
    for name, value in values.items():
        words.append(f'{name} {value:,}' if isinstance(value, int) else f'{name} {value:.4g}')
    return ', '.join(words)


if __name__ == '__main__':
    run_cli(main)
