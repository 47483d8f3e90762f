"""
Stage 2: fine-tuning with labels, and what they score: from scratch, and from each pre-trained checkpoint, all
alike.

    python finetune.py config/finetune_collider.py              the quick start's: 1,000 labels
    python finetune.py --dataset=my.csv --label_column=y        your own table, from scratch and from out/my/*
    python finetune.py --init_from=out/my/guided                the checkpoint knows its data set
    python finetune.py config/finetune_tape.py --init_from=hf:jxie/sma-biology-pretrained   authors' weights
    python finetune.py --init_from=out/my/guided --freeze       the head alone learns, on the encoder as it is
    python finetune.py --n_train=100 --batch_size=32 --seeds=0,1,2,3,4          fewer labels, more seeds
    torchrun --nproc_per_node=8 finetune.py config/NAME.py      8 GPUs

For every start in `init_from` and every learning rate of `lr`, one run per seed. A run keeps the weights of
its best validation score; of several learning rates the one with the best mean validation score is kept; only
then is the test split scored, once for each seed. The table is printed, and written to OUT_DIR/results.md.
"""

import hashlib
import itertools
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from configurator import configure, defaults_of
from data import data_knobs, micro_batches, name_of, open_data
from eval import outputs
from model import build
from util.augment import mix, three_augment
from util.checkpoint import load, load_weights, must_match, save, shape_of
from util.checks import check_batch, check_fits, check_numbers
from util.errors import fail, run_cli
from util.files import atomic_write
from util.optim import Skips, lr_at, make_optimizer, make_scaler, set_lr, update
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
    warn,
    wrap,
)
from util.scaling import fit_norm
from util.tasks import all_alike, baseline_logits, encode_labels, infer_task, score, scores, selection_score

# -----------------------------------------------------------------------------
# data; where a knob is None, a checkpoint's own data set is read as it was
dataset: str | None = None  # a name, a file or a folder of images; None = the checkpoint's own, else collider
task: str | None = None  # which of its data sets a family's config takes, such as config/finetune_glue.py
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: a text column, or numbers 'a,b,c'; None = all but the label
label_column: str | None = None  # csv: the label's column, -1 = the last. npz: 'y'
drop_column: str | None = None  # csv: columns 'a,b' that are no inputs
split_column: str | None = None  # csv: a column that says train, val or test
val_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
val_share: float | None = None  # without those: the share of rows drawn for validation; None = 0.02
test_share: float | None = None  # and for the test; None = 0.1
split_seed: int | None = None  # another number draws other rows; None = 0
missing: str | None = None  # a number that is missing: mean, or drop its row; None = an error
header: bool | None = None  # csv: the first line has the names; None = unless it holds only numbers
quotes: bool | None = None  # csv: False = quotation marks mean nothing
window: int | None = None  # text: join the lines, cut windows of so many bytes; None = a line a row
image_size: int | None = None  # images: side in pixels that the model sees; None = 192
augment = False  # images: random crops, 3-Augment, mixup, CutMix, label smoothing; else the centre, as it is
max_len: int | None = None  # tokens kept of a byte sequence, CLS and SEP included; None = seq_len
norm: str | None = None  # how floats are scaled from scratch: standard (None), quantile or none
target: str | None = None  # binary, multiclass or regression; None = the data set's own, else guessed
metric: str | None = None  # one of METRICS in data.py; None = the data set's own, else accuracy or rmse
n_train: int | None = None  # labelled rows, another draw for each seed; None = all
# what to start from
init_from = ()  # scratch, checkpoints, hf:OWNER/NAME, folders of runs; () = scratch and out/DATASET's runs
freeze = False  # train the head alone, on the encoder as it is
# model, where no checkpoint says: the shape of `scratch` is that of the first checkpoint in init_from
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
# optimiser
batch_size = 128  # samples a step, over all processes and micro-batches
accumulation = 1  # micro-batches a step
epochs: int | None = None  # passes over the labelled rows; None = 40, and more where they are few: 1,200 steps
max_steps: int | None = None  # optimiser steps; None = what the epochs take
lr = (1e-3,)  # peak learning rates: of several, the best on validation is kept
min_lr = 0.0  # where the cosine ends
warmup_steps = 10  # linear warm-up
weight_decay = 0.01  # of matrices; biases, LayerNorms and embeddings have none
grad_clip = 1.0  # largest gradient norm; 0 = off
# run
seeds = (0, 1, 2)  # one run each: of new weights, labelled rows, batches and dropout
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
compile: str | None = None  # torch.compile: true, false, reduce-overhead (CUDA graphs); None = on cuda
out_dir: str | None = None  # checkpoints and results; None = out/finetune_DATASET, with _frozen
resume = False  # keep the runs that OUT_DIR already holds whole
eval_interval: int | None = None  # steps between validations; None = an epoch, a hundred times at most


def train(name, begin, lr, seed, rows, data, task, shape, config, run, stop):
    """One run from the checkpoint `begin`, None = scratch. -> the checkpoint it makes, or None if stopped"""
    # model: embeddings and encoder from the checkpoint, the head new, the reconstruction decoder dropped
    seed_all(seed)
    n_out = len(task['classes']) if task['target'] == 'multiclass' else 1
    raw = build({**config, **shape}, d_raw=data.d_raw, n_out=n_out)
    if begin:
        load_weights(raw, begin['model'], new=('head.', 'head_query'), dropped=('decoder.',))
    raw.to(run.device)
    for part, p in raw.named_parameters():
        p.requires_grad_(not freeze or part.startswith('head'))
    knobs = {**config, 'lr': lr}  # of this run
    optimizer = make_optimizer(raw, knobs, run.device)
    scaler, skips = make_scaler(run), Skips(run)
    model = wrap(raw, run)

    # labelled rows
    train_rows = rows['train']
    if n_train is not None:
        train_rows = np.random.default_rng(seed).permutation(train_rows)[:n_train]
    y, task = encode_labels(data, train_rows, task)
    kind = torch.int64 if task['target'] == 'multiclass' else torch.float32
    labels = torch.zeros(len(data.y), dtype=kind)
    labels[train_rows] = torch.from_numpy(y).to(kind)

    steps_per_epoch = len(train_rows) // batch_size
    # after fewer steps a pre-trained start may lie behind scratch: RESULTS.md, "No harm by default"
    total = max_steps or steps_per_epoch * (epochs or max(40, math.ceil(1200 / steps_per_epoch)))
    interval = eval_interval or steps_per_epoch * math.ceil(total / steps_per_epoch / 100)
    best = dict(selection_score=-math.inf)
    bar = tqdm(total=total, desc=f'{name} lr {lr:g} seed {seed}', leave=False,
               disable=run.rank > 0 or not sys.stderr.isatty())
    batches = micro_batches(data, train_rows, batch_size, accumulation, seed, 0, run, labels)
    for step in range(total):
        set_lr(optimizer, lr_at(step, total, knobs))
        for i in range(accumulation):
            x, valid, y, step_rows = next(batches)
            seed_all(seed, step, i * run.world + run.rank)  # crops and dropout: see pretrain.py
            if augment:
                x, y = mix(data.inputs(x, scale=(0.08, 1.0), change=three_augment), y, n_out)
            else:
                x = data.inputs(x)
            with no_sync(model, run, last=i == accumulation - 1):
                with run.autocast():
                    loss = loss_of(model(x, valid), y, task['target']) / len(step_rows)
                scaler.scale(loss * run.world).backward()  # times world, as DDP averages over ranks
        skips.note(update(model, optimizer, scaler, grad_clip))
        bar.update()
        if stop.asked(run, step, interval):
            return None
        if (step + 1) % 10 == 0 or step + 1 == total:
            skips.check(step + 1)
        if (step + 1) % interval == 0 or step + 1 == total:
            p = outputs(raw, raw, n_out, data, rows['val'], batch_size, run).numpy()
            value = score(task, data.labels(rows['val']), p)
            log_line(Path(config['out_dir']) / 'log.jsonl', run, init_from=name, lr=lr, seed=seed,
                     step=step + 1, val_score=value)
            if selection_score(task, value) > best['selection_score']:
                best = dict(selection_score=selection_score(task, value), val_score=value, step=step + 1,
                            model={k: v.detach().cpu().clone() for k, v in raw.state_dict().items()})
    bar.close()
    if 'model' not in best:
        fail(f'{name}, lr {lr:g}, seed {seed}: no validation score is a number: lower lr, or look at the data')
    return dict(model=best['model'], model_args=dict(vars(raw.config)), config=config, norm=data.norm,
                columns=data.columns, categories=data.meta['categories'], data=data.fingerprint,
                task=task, lr=lr, seed=seed, step=best['step'], val_score=best['val_score'],
                n_train=len(train_rows))


def loss_of(output, y, target):
    """The sum of a batch's losses: output (B, n_out), y (B,) or, after mix, (B, n_out) shares of classes."""
    if target == 'regression':
        return F.mse_loss(output[:, 0], y, reduction='sum')
    if target == 'binary':
        return F.binary_cross_entropy_with_logits(output[:, 0], y, reduction='sum')
    if y.ndim == 2:  # several classes may be there, each answers yes or no
        return F.binary_cross_entropy_with_logits(output, y, reduction='sum') / output.shape[1]
    return F.cross_entropy(output, y, reduction='sum')


def main():
    config = configure(globals())
    check_numbers(config, ('n_train', 'eval_interval'))
    if config['task'] not in (None, dataset) and not os.path.exists((dataset or '').split(',')[0]):
        fail(f'task={config["task"]!r}, but dataset={dataset!r}: tasks are for configs such as config/finetune_glue.py, '
             'name the data set with --dataset')
    run, stop = set_up(config), Stop()
    starts = find_starts(init_from or ('scratch', f'out/{name_of(dataset or "collider")}'), wanted=init_from)
    first = next((s for s in starts.values() if s), None)
    shape = shape_of(first['model_args']) if first else {}
    for name, begin in starts.items():  # rows of the table are alike but for the weights they start from
        if begin:
            must_match(shape_of(begin['model_args']), shape, name)
    other = [f'{k} {shape[k]} (not {config[k]})' for k in shape if config.get(k) not in (None, shape[k])]
    if other:
        print0(run, f'the model has the shape of the checkpoint: {", ".join(other)}')

    config['dataset'] = dataset or (None if first else 'collider')
    data, config['seq_len'] = open_data(config, run, first)
    config.update({k: v for k, v in data_knobs(config, first).items() if k in config}, max_len=data.max_len)
    for begin in filter(None, starts.values()):
        if begin is not first:
            warn(run, check_fits(data, begin))
        begin['norm'] = begin['norm'] or data.norm  # the authors' weights do not say
    config['out_dir'] = out_dir or f'out/finetune_{name_of(config["dataset"])}{"_frozen" * freeze}'
    task, rows, note = infer_task(data, target, metric)
    if note:
        print0(run, note)
    if augment and not (data.is_images and task['target'] == 'multiclass'):
        fail('augment=True is for images with --target=multiclass')
    fresh_norm = None
    if None in starts.values():
        kind = norm or (first['config'].get('norm') if first else None) or 'standard'
        fresh_norm = fit_norm(data, data.rows('train'), kind)
    labels = n_train or len(rows['train'])
    if labels > len(rows['train']):
        fail(f'n_train={labels}, but there are {len(rows["train"])} labelled training rows')
    check_batch(labels, config, run, len(rows['val']))
    counts = ', '.join(f'{len(r):,} {split}' for split, r in rows.items())
    print0(run, f'{task["target"]}, {task["metric"]}; labelled rows: {counts}; '
             f'{len(starts) * len(lr) * len(seeds)} runs')

    out, measure, table, results = Path(config['out_dir']), task['metric'], [], []
    lock_output_dir(out, run)
    files = {name: name.replace('/', '-') for name in starts}
    for name, file in files.items():
        if list(files.values()).count(file) > 1:
            fail(f'{name} and another start would both be saved as {file}: rename the folder of one')
    title = (f'| pre-training | {measure}, test | {measure}, validation | labels | lr | seeds |\n'
             '|---|---|---|---|---|---|')
    test_labels, (y, known) = data.labels(rows['test']), encode_labels(data, rows['train'], task)
    always = [score(known, data.labels(rows[s]), baseline_logits(known, y, len(rows[s]))) for s in ('test', 'val')]
    table.append('| always {} | {:.4f} | {:.4f} | {:,} | | |'.format(
        'the mean' if task['target'] == 'regression' else 'the most frequent class', *always, len(y)))
    for name, begin in starts.items():
        label = f'{begin["config"]["mask"]} masks ({name})' if begin else 'none (scratch)'
        label += ', frozen' * freeze
        data.norm = begin['norm'] if begin else fresh_norm
        digest, tried = digest_of(begin, data), {}
        for rate, seed in itertools.product(lr, seeds):
            path = out / f'{files[name]}-lr{rate:g}-seed{seed}.pt'
            checkpoint = None
            if resume and path.exists():
                checkpoint = load(path, keys=('model', 'task', 'val_score', 'step', 'n_train', 'config'))
                if checkpoint.get('start', digest) != digest:
                    print0(run, f'{path}: {name} or the data have changed since, so it is made anew')
                    checkpoint = None
            if checkpoint:
                free = ('resume', 'device', 'compile', 'init_from', 'lr', 'seeds')
                fixed = {k: v for k, v in config.items() if k not in free}
                must_match(checkpoint['config'], fixed, path, defaults_of(__file__))
            else:
                this = name, rate, seed
                rewrite_log(out / 'log.jsonl', run, lambda e: (e['init_from'], e['lr'], e['seed']) != this)
                checkpoint = train(name, begin, rate, seed, rows, data, task, shape, config, run, stop)
                if checkpoint is None:
                    print0(run, f'stopped in the run of {label}, lr {rate:g}, seed {seed}; --resume keeps others')
                    print0(run, '\n'.join([title, *table]))
                    sys.exit(128 + (stop.signal or 15))
                if run.rank == 0:
                    save(path, {**checkpoint, 'start': digest})
            print0(run, f'{label}, lr {rate:g}, seed {seed}: best validation {measure} '
                     f'{checkpoint["val_score"]:.4f} at step {checkpoint["step"]}')
            tried.setdefault(rate, []).append(checkpoint)
        rate = max(tried, key=lambda r: selection_score(task, np.mean([c['val_score'] for c in tried[r]])))
        every, alike = [], 0
        for checkpoint in tried[rate]:  # the only place where test rows are scored
            model = build(checkpoint['model_args'])
            load_weights(model, checkpoint['model'])
            model.to(run.device)
            p = outputs(model, model, model.config.n_out, data, rows['test'], batch_size, run).numpy()
            every.append(scores(checkpoint['task'], test_labels, p))
            alike += all_alike(task, p)
        test = [values[measure] for values in every]
        means = {k: float(np.mean([values[k] for values in every])) for k in every[0]}
        print0(run, f'{label}, test: ' + ', '.join(f'{k} {v:.4f}' for k, v in means.items()))
        val = [c['val_score'] for c in tried[rate]]
        std = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in (test, val)]
        table.append(f'| {label} | {np.mean(test):.4f} ± {std[0]:.4f} | {np.mean(val):.4f} ± {std[1]:.4f} '
                     f'| {tried[rate][0]["n_train"]:,} | {rate:g} | {len(test)}'
                     + f', {alike} of them answer all rows alike' * (alike > 0) + ' |')
        results.append(json.dumps(dict(
            init_from=name, mask=begin['config']['mask'] if begin else None, metric=measure, test=test,
            val=val, means=means, lr=rate, n_train=tried[rate][0]['n_train'], seeds=seeds)))
        for file, lines in (('results.md', [title, *table]), ('results.jsonl', results)):
            if run.rank == 0:  # now, so that a run which is stopped leaves the rows it has
                with atomic_write(out / file, 'w') as f:
                    f.write('\n'.join(lines) + '\n')
    print0(run, '\n'.join(['', title, *table]))
    finish(run)


def digest_of(begin, data):
    """Tells whether a start, its scale and the data are still the same: a sha256."""
    digest = hashlib.sha256(data.fingerprint.encode())
    norm = {k: v for k, v in begin['norm'].items() if torch.is_tensor(v)} if begin else {}
    for name, t in sorted({**begin['model'], **norm}.items()) if begin else ():
        digest.update(name.encode() + t.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_starts(names, wanted):
    """
    'scratch', checkpoints, and folders, which stand for the runs in them. -> {name: checkpoint, or None for
    scratch} wanted: False where nobody asked for these names, so that a folder may have no runs yet.
    """
    starts = {}
    for name in names:
        runs = [] if (Path(name) / 'last.pt').exists() else sorted(Path(name).glob('*/last.pt'))
        for found in [str(path.parent) for path in runs] or [name] * bool(wanted or name == 'scratch'):
            starts[found] = None
            if found != 'scratch':
                starts[found] = load(found, ('model', 'model_args', 'norm', 'config'), data_dir)
                if starts[found]['model_args'].get('n_out'):
                    fail(f'{found} is a fine-tuned model: start from a pre-trained one')
    return starts


if __name__ == '__main__':
    run_cli(main)
