"""
Stage 1: masked-reconstruction pre-training, Algorithm 1 of the paper. No labels.

    python pretrain.py                                          the defaults: collider events, a minute
    python pretrain.py --mask=random                            the baseline
    python pretrain.py --dataset=my.csv --label_column=y        your own table; --help lists all knobs
    python pretrain.py config/protein.py --batch_size=32        a config, then any knob
    torchrun --nproc_per_node=8 pretrain.py config/NAME.py      one machine, 8 GPUs
    torchrun --nnodes=2 --node_rank=0 --nproc_per_node=8 --master_addr=10.0.0.1 pretrain.py config/NAME.py
                                                                two machines that share a disk

Written to OUT_DIR: last.pt (the latest step; --resume goes on from it), best.pt (the lowest validation loss
on random masks, the same masks every time) and log.jsonl.
"""

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from configurator import configure, defaults_of
from data import micro_batches, name_of, open_data
from eval import masked_loss
from masking import Masking
from model import build
from util.checkpoint import check_optimizer_state, load, load_weights, must_match, save, shape_of
from util.checks import check_batch, check_fits, check_masking, check_norm, check_numbers
from util.errors import fail, run_cli
from util.optim import Skips, cosine, lr_at, make_optimizer, make_scaler, set_lr, update
from util.runtime import (
    Stop,
    finish,
    lock_output_dir,
    log_line,
    no_sync,
    print0,
    rewrite_log,
    seed_all,
    set_up,
    sum_ranks,
    warn,
    wrap,
)
from util.scaling import fit_norm

# -----------------------------------------------------------------------------
# data
dataset = 'collider'  # a name that `python data.py` lists, a file of yours, or a folder of images
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: a text column, or numbers 'a,b,c'; None = all but the label
label_column: str | None = None  # csv: the label's column, -1 = the last; no input. npz: 'y'
drop_column: str | None = None  # csv: columns 'a,b' that are no inputs
split_column: str | None = None  # csv: a column that says train, val or test
val_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
val_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test
split_seed = 0  # another number draws other rows
missing: str | None = None  # a number that is missing: mean, or drop its row; None = an error
header: bool | None = None  # csv: the first line has the names; None = unless it holds only numbers
quotes: bool | None = None  # csv: False = quotation marks mean nothing
window: int | None = None  # text: join the lines, cut windows of so many bytes; None = a line a row
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
decode_pieces = 1  # more: the decoder works piece by piece, twice as long, where images are short of memory
# mask
mask = 'guided'  # the paper's method; its baseline is random; masking.py has more: guided_exact, word, patch
mask_ratio = 0.5  # r, the share of the inputs hidden
n_query = 1  # queries drawn for each guided mask, |R|; at most all there are
mask_anneal: float | None = None  # share of the steps that tighten from random; None = 1 for tables, else 0
# optimiser
batch_size = 256  # samples a step, over all processes and micro-batches
accumulation = 1  # micro-batches a step, for batches that do not fit in memory
epochs = 3  # passes over the training rows
max_steps: int | None = None  # optimiser steps; None = what the epochs take
lr = 1e-3  # peak learning rate
min_lr = 0.0  # where the cosine ends
warmup_steps = 100  # linear warm-up
weight_decay = 0.01  # of matrices; biases, LayerNorms and embeddings have none
grad_clip = 1.0  # largest gradient norm; 0 = off
# run
seed = 0  # of weights, batches and masks
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
compile: str | None = None  # torch.compile: true, false, reduce-overhead (CUDA graphs); None = on cuda
out_dir: str | None = None  # None = out/DATASET/MASK
resume = False  # go on from OUT_DIR/last.pt where there is one
init_from: str | None = None  # a checkpoint whose weights and shape to start from, or hf:OWNER/NAME
log_interval = 100  # steps between lines of the log
eval_interval = 500  # steps between validations
save_interval = 500  # steps between saves of last.pt
# what --resume may change: the rest decides what is learned from which rows
MAY_CHANGE = {'resume', 'init_from', 'out_dir', 'data_dir', 'epochs', 'max_steps', 'accumulation', 'device',
              'dtype', 'compile', 'decode_pieces', 'log_interval', 'eval_interval', 'save_interval'}


def main():
    config = configure(globals())
    check_numbers(config, ('log_interval', 'eval_interval', 'save_interval'))
    if not 0 <= (mask_anneal or 0) <= 1:
        fail(f'mask_anneal={mask_anneal} must lie between 0 and 1')
    out = Path(out_dir or f'out/{name_of(dataset)}/{mask}')
    run, stop = set_up(config), Stop()
    lock_output_dir(out, run)

    # data, and the weights to start from
    given = load(init_from, ('model', 'model_args', 'norm', 'config'), data_dir) if init_from else None
    shape = shape_of(given['model_args']) if given else {}  # the model's, whatever the knobs say
    config.update({k: v for k, v in shape.items() if k in config})
    data, width = open_data(config, run)
    if given:
        warn(run, check_fits(data, given))
    train_rows, val_rows = data.rows('train'), data.rows('val')
    if not len(train_rows):
        fail(f'{dataset} has no train rows: see split_column, val_file, val_share and their like')
    check_batch(len(train_rows), config, run, len(val_rows))
    how = Masking.of(config)
    yardstick = replace(how, mask='random')  # masks that do not move with the weights, to compare steps by
    check_masking(how, data.lengths(train_rows), data.d_raw)
    # tables: annealed masks were the best of the guided ones, or as good (RESULTS.md, "No harm by default")
    anneal = float(data.meta['kind'] == 'floats') if mask_anneal is None else mask_anneal
    config.update(seq_len=width, out_dir=str(out), mask_anneal=anneal)

    # model and optimiser
    seed_all(seed)
    raw = build({**config, **shape}, d_raw=data.d_raw).to(run.device)  # the model without wrappers
    model_args = dict(vars(raw.config))
    optimizer = make_optimizer(raw, config, run.device)
    scaler, skips, since = make_scaler(run), Skips(run), Interval(width, run)
    parts = dict(model=raw, optimizer=optimizer, scaler=scaler, since=since)  # what is saved and resumed
    steps_per_epoch = len(train_rows) // batch_size
    total = max_steps or epochs * steps_per_epoch
    if total <= warmup_steps:
        warn(run, f'{total} steps in all, which the warm-up takes ({warmup_steps}): --max_steps=1000 has more')
    step, best, dealt = 0, math.inf, accumulation * run.world

    if resume and (out / 'last.pt').exists():
        old = load(out, keys=('model', 'optimizer', 'model_args', 'step', 'best', 'norm', 'config'))
        must_match(shape_of(old['model_args']), shape_of(model_args), f'{out}/last.pt')
        fixed = {k: v for k, v in config.items() if k not in MAY_CHANGE}
        must_match(old['config'], fixed, f'{out}/last.pt', defaults_of(__file__))
        if old.get('data', data.fingerprint) != data.fingerprint:
            fail(f'{dataset} has changed since {out}/last.pt was saved: train anew, in another --out_dir')
        if old.get('dealt', dealt) != dealt:
            print0(run, f'accumulation x processes was {old["dealt"]}, is {dealt}: other masks from here on')
        check_optimizer_state(optimizer, old['optimizer'], f'{out}/last.pt')
        check_norm(data, old)
        data.norm = old['norm']
        step, best = old['step'], old['best']
        since.restart(step)
        for name, part in parts.items():
            if old.get(name):  # older checkpoints have no `since`, and may have no state of a scaler
                part.load_state_dict(old[name])
        rewrite_log(out / 'log.jsonl', run, lambda entry: entry['step'] <= step)
        print0(run, f'resumed {out}/last.pt at step {step:,} of {total:,}')
    else:
        known = given and given['norm']  # the scale those weights know
        data.norm = known or fit_norm(data, train_rows, norm)
        if given:
            copied, new = load_weights(raw, given['model'], new=('decoder.',), dropped=('head.', 'head_query'))
            print0(run, f'{copied} weights from {init_from}, whose shape the model has, {new} new')
        if (out / 'last.pt').exists() and run.rank == 0:  # else --resume would take it for this run's
            (out / 'last.pt').replace(out / 'previous.pt')
            print0(run, f'{out} holds an earlier run, of which previous.pt is kept; --out_dir= keeps all')
        for name in ('log.jsonl', 'best.pt') if run.rank == 0 else ():
            (out / name).unlink(missing_ok=True)
    model = wrap(raw, run)

    print0(run, f'{mask} masks, ratio {mask_ratio}: {sum(p.numel() for p in raw.parameters()):,} parameters, '
             f'{len(train_rows):,} rows, {total:,} steps of {batch_size}')
    batches = micro_batches(data, train_rows, batch_size, accumulation, seed, step, run)
    bar = tqdm(total=total, initial=step, desc=mask, disable=run.rank > 0 or not sys.stderr.isatty())
    stopped = False

    while step < total and not stopped:
        rate = set_lr(optimizer, lr_at(step, total, config))
        random_fraction = None  # a tensor: torch.compile would take every new float for a new program
        if step < anneal * total:  # filled in there: a copy would wait for the device
            random_fraction = torch.full((), cosine(step, anneal * total, 1.0, 0.0), device=run.device)

        for i in range(accumulation):
            # batch: x (B, n) int64 or (B, n, d_raw) float32, valid (B, n) bool or None; `step_rows` are all
            # rows of the step. Random numbers (crops, masks, dropout) are seeded by (seed, step,
            # micro-batch): two processes do what one does with accumulation=2, and a resumed run needs no
            # generator's state.
            x, valid, _, step_rows = next(batches)
            seed_all(seed, step, i * run.world + run.rank)
            x = data.inputs(x, scale=(0.2, 1.0))  # images: a random crop, as the authors' code takes it
            with no_sync(model, run, last=i == accumulation - 1):
                # mask, encode, decode, loss: SMA.forward. The loss is a mean over the hidden inputs of the
                # whole step
                with run.autocast():
                    loss, hidden = model(x, valid, how, random_fraction=random_fraction)  # (B, m), (B, n)
                    lengths = data.lengths(step_rows)
                    loss = loss.sum() / max(np.round(mask_ratio * lengths).sum(), 1)
                scaler.scale(loss * run.world).backward()  # times world, as DDP averages over ranks
            since.add(loss, hidden, valid, int(lengths.sum()) // accumulation, len(step_rows) // accumulation)

        # update
        norm_of_step = update(model, optimizer, scaler, grad_clip)
        since.end_step(skips.note(norm_of_step))
        stopped = stop.asked(run, step, log_interval)
        step += 1
        bar.update()

        # log
        values = {}
        if step % 10 == 0 or step == total:
            skips.check(step)
        if step % log_interval == 0 or step == total:
            values = since.report(step, rate, norm_of_step)
            since.restart(step)

        # validate
        if len(val_rows) and (step % eval_interval == 0 or step == total):
            values['val_loss_random'] = masked_loss(raw, data, val_rows, yardstick, batch_size, run)
            values['val_loss'] = values['val_loss_random'] if mask == 'random' else \
                masked_loss(raw, data, val_rows, how, batch_size, run)
        if values:
            log_line(out / 'log.jsonl', run, step=step, **values)
            text = (f'{k} {v:,}' if isinstance(v, int) else f'{k} {v:.4g}' for k, v in values.items())
            print0(run, f'step {step:,}: {", ".join(text)}')

        # save
        better = values.get('val_loss_random', math.inf) < best
        best = min(best, values.get('val_loss_random', math.inf))
        latest = step % save_interval == 0 or step == total or stopped
        if better or latest:  # all ranks: see Interval.state_dict
            checkpoint = {name: part.state_dict() for name, part in parts.items()}
            checkpoint.update(model_args=model_args, norm=data.norm, columns=data.columns, config=config,
                              categories=data.meta['categories'], step=step, best=best,
                              data=data.fingerprint, dealt=dealt)
            for name in (['best.pt'] * better + ['last.pt'] * latest) * (run.rank == 0):
                save(out / name, checkpoint)

    bar.close()
    if stopped:
        print0(run, f'stopped at step {step:,} of {total:,}; {out}/last.pt is saved: go on with --resume')
        sys.exit(128 + (stop.signal or 15))
    print0(run, f'wrote {out}/last.pt')
    finish(run)


class Interval:
    """What the log says about the steps since its last line: sums on the device, read when the line is due."""

    def __init__(self, width, run):
        self.width, self.run = width, run
        self.restart(0)

    def restart(self, step):
        self.step, self.start, self.tokens, self.places = step, time.monotonic(), 0, 0
        self.loss, self.loss_of_step, self.skipped = torch.zeros(3, device=self.run.device)
        self.hidden, self.real = torch.zeros(2, self.width, device=self.run.device)  # how often each was, (n,)

    def add(self, loss, hidden, valid, tokens, rows):
        n = hidden.shape[1]
        self.loss_of_step += loss.detach()
        self.hidden[:n] += hidden.sum(0)
        self.real[:n] += len(hidden) if valid is None else valid.sum(0)
        self.tokens += tokens
        self.places += n * rows

    def end_step(self, skipped):
        self.loss += self.loss_of_step.masked_fill(skipped, 0.0)
        self.loss_of_step.zero_()
        self.skipped += skipped

    def state_dict(self):
        """With the loss of each rank, so all have to call it; the rest, as in the log, is rank 0's."""
        loss = torch.zeros(self.run.world, device=self.run.device)
        loss[self.run.rank] = self.loss
        sum_ranks(loss, self.run)
        return dict(step=self.step, seconds=time.monotonic() - self.start, tokens=self.tokens,
                    places=self.places, loss=loss, skipped=self.skipped, hidden=self.hidden, real=self.real)

    def load_state_dict(self, state):
        self.step, self.tokens, self.places = state['step'], state['tokens'], state['places']
        self.start = time.monotonic() - state['seconds']
        for name in ('skipped', 'hidden', 'real'):
            getattr(self, name).copy_(state[name])
        loss, rank = state['loss'], self.run.rank
        self.loss.copy_(loss[rank] if len(loss) == self.run.world else loss.sum() * (rank == 0))

    def report(self, step, rate, grad_norm):
        """
        mask_entropy: how evenly the inputs take turns at being hidden, the entropy of how often each is, over
        that of equal shares: 1 = all alike, near 0 = always the same few. hidden_least, hidden_most: how
        often the input is hidden that is hidden least, and most: 0 and 1 where masks have collapsed onto a
        few. Rank 0's samples. skipped: steps whose gradients were not finite, if there were any.
        """
        skipped = int(self.skipped)
        loss = sum_ranks(self.loss, self.run).item() / max(step - self.step - skipped, 1)
        seen = self.real > 0
        share = self.hidden[seen] / self.real[seen]
        p = share / share.sum()
        entropy = -(p * p.clamp(min=1e-12).log()).sum() / math.log(max(len(p), 2))
        return dict(loss=loss, lr=rate, grad_norm=grad_norm.item(), mask_entropy=entropy.item(),
                    hidden_least=share.min().item(), hidden_most=share.max().item(),
                    masked=(self.hidden.sum() / self.real.sum()).item(), padding=1 - self.tokens / self.places,
                    tokens_per_s=round(self.tokens / max(time.monotonic() - self.start, 1e-6)),
                    **({'skipped': skipped} if skipped else {}))


if __name__ == '__main__':
    run_cli(main)
