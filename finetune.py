"""
Stage 2: fine-tuning with labels, and what they score: from scratch, and from each pre-trained checkpoint, all alike.

    python finetune.py                                          the defaults, after `python pretrain.py`: 1,000 labels
    python finetune.py --n_train=100 --batch_size=32 --seeds=0,1,2,3,4          fewer labels, more seeds
    python finetune.py config/finetune_esol.py --dataset=delaney-processed.csv
    torchrun --nproc_per_node=8 finetune.py config/NAME.py      8 GPUs

For every entry of `init_from` and every learning rate of `lr`, one run per seed. A run keeps the weights of its best
validation score; of several learning rates the one with the best mean validation score is kept; only then is the test
split scored, once for each seed. Each row of the table is printed and appended to OUT_DIR/results.md.
"""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from configurator import configure, fail, nearest
from data import DATASETS, LOWER_IS_BETTER, fit_norm, micro_batches, prefetch
from model import build, load, load_weights, make_optimizer, save
from pretrain import (Stop, check_batch, check_knobs, encode, finish, log_line, lr_at, must_match,
                      prepared, say, score_rows, seed_all, set_up, settle_target, take_step, wrap)


# -----------------------------------------------------------------------------
# data
dataset = 'collider'  # a name from data.py, a file, or a folder of images
task: str | None = None  # which of its data sets a family's config takes, such as config/finetune_glue.py
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: one text column, or number columns 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column. npz: 'y'
split_column: str | None = None  # csv: a column that says train, valid or test
valid_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
valid_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test
window: int | None = None  # text: join the lines and cut them into windows of so many bytes; None = a line a sequence
image_size = 192  # images: side in pixels that the model sees; a checkpoint brings its own
augment = False  # images: random crops, 3-Augment, mixup, CutMix and label smoothing; else the centre, as it is
max_len: int | None = None  # tokens kept of a byte sequence, CLS and SEP included; None = seq_len
norm = 'standard'  # how floats are scaled from scratch; a checkpoint brings its own statistics
target: str | None = None  # binary, multiclass or regression; None = the data set's own
metric: str | None = None  # one of METRICS in data.py; None = the data set's own, else accuracy or rmse
n_train: int | None = 1000  # labelled rows, another draw for each seed; None = all
# what to start from
init_from = ('scratch', 'out/collider/random', 'out/collider/guided')  # or checkpoints; a folder means its last.pt
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
epochs = 40  # passes over the labelled rows
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
compile: bool | None = None  # torch.compile; None = on cuda only
out_dir = 'out/finetune_collider'  # checkpoints and results
resume = False  # keep the runs that OUT_DIR already holds whole
eval_interval: int | None = 28  # steps between validations; None = an epoch
# -----------------------------------------------------------------------------


# Augmentation of images (--augment), batched on the device: x (B, 3, H, W) in [0, 1]

def grey(x):
    """Luma (ITU-R 601), in one channel: (B, 1, H, W)."""
    return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def solarise(x):
    """The bright half inverted: values from 128 of 255 on."""
    return torch.where(x < 127.5 / 255, x, 1 - x)


def blur(x, sigma):
    """Gaussian blur, sigma (B,) in pixels; weights beyond the border are left out."""
    def weights(n):
        at = torch.arange(n, device=x.device)
        w = torch.exp(-(at - at[:, None]) ** 2 / (2 * sigma[:, None, None] ** 2))  # (B, n, n)
        return (w / w.sum(-1, keepdim=True))[:, None]
    return weights(x.shape[2]) @ x @ weights(x.shape[3]).transpose(2, 3)


def jitter(x, kind, factor):
    """Brightness (kind 0), contrast (1) or saturation (2) times factor (B,), as Pillow's ImageEnhance does."""
    base = (torch.zeros_like(x), grey(x).mean((2, 3), keepdim=True), grey(x))[kind]
    return (base + factor[:, None, None, None] * (x - base)).clamp(0, 1)


def three_augment(x):
    """
    3-Augment (Touvron, Cord, Jegou 2022, arXiv:2204.07118): each image is made grey, solarised or blurred, then its
    brightness, contrast and saturation are changed by up to 0.3, in an order drawn once for the batch.
    """
    def uniform(low, high):
        return torch.empty(len(x), device=x.device).uniform_(low, high)
    which = torch.randint(3, (len(x), 1, 1, 1), device=x.device)
    x = torch.where(which == 0, grey(x), torch.where(which == 1, solarise(x), blur(x, uniform(0.1, 2.0))))
    for kind in torch.randperm(3).tolist():
        x = jitter(x, kind, uniform(0.7, 1.3))
    return x


def mix(x, y, n_classes):
    """
    Each image with its partner, that of the reversed batch: mixup (arXiv:1710.09412, Beta(0.8, 0.8)) or, with chance
    1/2, CutMix (arXiv:1905.04899, Beta(1, 1)), one share and one box for the batch, as timm does by default.
    x (B, n, 3), y (B,) classes -> x, targets (B, n_classes), smoothed by 0.1 and mixed by the share of pixels.
    """
    targets = F.one_hot(y, n_classes) * 0.9 + 0.1 / n_classes
    if torch.rand(()) < 0.5:
        share = torch.distributions.Beta(0.8, 0.8).sample().item()
        x = share * x + (1 - share) * x.flip(0)
    else:
        side = math.isqrt(x.shape[1])
        half = int(side * math.sqrt(torch.rand(()).item())) // 2  # 1 - share is uniform too
        centre = torch.randint(side, (2,)).tolist()
        (top, bottom), (left, right) = ((max(c - half, 0), min(c + half, side)) for c in centre)
        swap = torch.zeros(side, side, 1, dtype=torch.bool, device=x.device)
        swap[top:bottom, left:right] = True
        x = torch.where(swap.flatten(0, 1), x.flip(0), x)
        share = 1 - (bottom - top) * (right - left) / side ** 2  # the border may have cut the box
    return x, share * targets + (1 - share) * targets.flip(0)


# -----------------------------------------------------------------------------

def merit(metric, value):
    """A score as a number to be made large."""
    return -value if metric in LOWER_IS_BETTER else value


def train(name, start, lr, seed, labelled, dataset, head, config, run, stop):
    """One run from the checkpoint `start`, or None = scratch. -> the checkpoint that validated best; None if stopped"""
    seed_all(seed)
    n_out = len(head['classes']) if head['target'] == 'multiclass' else 1
    raw = build({**config, **(start['model_args'] if start else {}), 'dropout': config['dropout'],
                 'drop_path': config['drop_path']}, d_raw=dataset.d_raw, n_out=n_out)
    if start:  # encoder and embeddings from the checkpoint, the head new, the reconstruction decoder dropped
        load_weights(raw, start['model'], new=('head.', 'head_query'), dropped=('decoder.',))
    raw.to(run.device)
    rows = labelled['train']
    if config['n_train'] is not None:
        rows = np.random.default_rng(seed).permutation(rows)[:config['n_train']]
    y, head = encode(dataset, rows, head)
    labels = torch.zeros(len(dataset.y), dtype=torch.int64 if head['target'] == 'multiclass' else torch.float32)
    labels[rows] = torch.from_numpy(y).to(labels.dtype)

    optimizer = make_optimizer(raw, lr, config['weight_decay'], run.device)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == 'float16')
    model = wrap(raw, run)

    def views(x, y):
        if not config['augment']:
            return dataset.inputs(x), y
        return mix(dataset.inputs(x, scale=(0.08, 1.0), change=three_augment), y, n_out)

    def loss_of(x, valid, y, whole):
        output = model(x, valid)  # (B, n_out)
        if head['target'] == 'regression':
            loss = F.mse_loss(output[:, 0], y, reduction='sum')
        elif head['target'] == 'binary':
            loss = F.binary_cross_entropy_with_logits(output[:, 0], y, reduction='sum')
        elif config['augment']:  # y (B, n_out): several classes may be there, each answers yes or no
            loss = F.binary_cross_entropy_with_logits(output, y, reduction='sum') / n_out
        else:
            loss = F.cross_entropy(output, y, reduction='sum')
        return loss / len(whole)

    steps_per_epoch = len(rows) // config['batch_size']
    total = config['max_steps'] or config['epochs'] * steps_per_epoch
    interval = config['eval_interval'] or steps_per_epoch
    best = dict(merit=-math.inf)
    bar = tqdm(total=total, desc=f'{name} lr {lr:g} seed {seed}', leave=False,
               disable=run.rank > 0 or not sys.stderr.isatty())
    batches = prefetch(micro_batches(dataset, rows, config, seed, 0, run, labels), run.device)
    for step in range(total):
        for group in optimizer.param_groups:
            group['lr'] = lr_at(step, total, lr, config['min_lr'], config['warmup_steps'])
        norm = take_step(model, optimizer, scaler, batches, views, loss_of, step, seed, config, run)
        bar.update()
        if stop.asked(run, step, interval):
            return None
        if (step + 1) % interval == 0 or step + 1 == total:
            if not math.isfinite(norm) and not scaler.is_enabled():  # a scaler skips such steps
                fail(f'the gradient is {norm.item()} at step {step + 1}: lower lr')
            value = score_rows(raw, dataset, labelled['valid'], head, config, run)
            log_line(Path(config['out_dir']) / 'log.jsonl', run, init_from=name, lr=lr, seed=seed, step=step + 1,
                     valid=value)
            if merit(head['metric'], value) > best['merit']:
                best = dict(merit=merit(head['metric'], value), valid=value, step=step + 1,
                            model={k: v.detach().cpu().clone() for k, v in raw.state_dict().items()})
    bar.close()
    return dict(model=best['model'], model_args=dict(vars(raw.config)), config=config, norm=dataset.norm,
                columns=dataset.columns, head=head, lr=lr, seed=seed, step=best['step'], valid=best['valid'],
                n_train=len(rows))


def main():
    config = configure(globals())
    if config['task'] and config['task'] not in DATASETS:
        fail(f'task={config["task"]!r} is no data set; the nearest is {nearest(config["task"], DATASETS)!r}')
    if config['task'] not in (None, config['dataset']) and config['dataset'] in DATASETS:
        fail(f'task={config["task"]!r}, but dataset={config["dataset"]!r}: tasks are for configs such as '
             'config/finetune_glue.py, name the data set with --dataset')
    check_knobs(config, ('n_train', 'eval_interval'))
    run = set_up(config)
    out = Path(config['out_dir'])
    starts = {name: None if name == 'scratch' else load(name, keys=('model', 'model_args', 'norm', 'config'))
              for name in config['init_from']}
    first = next((s for s in starts.values() if s), None)
    if first:  # scratch has the same shape, so that all rows of the table are alike but for their weights
        shape = {k: v for k, v in first['model_args'].items() if k not in ('dropout', 'drop_path')}
        config.update({k: v for k, v in shape.items() if k in config})
        config['image_size'] = first['config'].get('image_size', config['image_size'])
        for name, start in starts.items():
            if start and 'head' in start:
                fail(f'{name} is a fine-tuned model: start from a pre-trained one')
            if start:
                must_match(start['model_args'], shape, name)
    dataset = prepared(config, run)
    if first and shape['d_raw'] != dataset.d_raw:
        have, want = (f'{d} float(s) an input' if d else 'bytes' for d in (dataset.d_raw, shape['d_raw']))
        fail(f'the checkpoints read {want}, {config["dataset"]} holds {have}')
    stop = Stop()
    head, labelled = settle_target(dataset, config)
    metric = head['metric']
    if config['augment'] and not (dataset.is_images and head['target'] == 'multiclass'):
        fail('augment=True is for images with --target=multiclass')
    fresh_norm = None if all(starts.values()) else fit_norm(dataset, dataset.rows('train'), config['norm'])
    n_train = config['n_train'] or len(labelled['train'])
    if n_train > len(labelled['train']):
        fail(f'n_train={n_train}, but there are {len(labelled["train"])} labelled training rows')
    check_batch(n_train, config, run)
    counts = ', '.join(f'{len(rows):,} {split}' for split, rows in labelled.items())
    n_runs = len(starts) * len(config['lr']) * len(config['seeds'])
    say(run, f'{head["target"]}, {metric}; labelled rows: {counts}; {n_runs} runs')

    title = (f'| pre-training | {metric}, test | {metric}, validation | labels | lr | seeds |\n'
             '|---|---|---|---|---|---|')
    table = []
    for name, start in starts.items():
        label = f'{start["config"]["mask"]} masks ({name})' if start else 'none (scratch)'
        dataset.norm = start['norm'] if start else fresh_norm
        tried = {}
        for lr, seed in itertools.product(config['lr'], config['seeds']):
            path = out / f'{name.replace("/", "-")}-lr{lr:g}-seed{seed}.pt'
            if config['resume'] and path.exists():
                checkpoint = load(path, keys=('model', 'head', 'valid', 'config'))
                free = ('resume', 'device', 'compile', 'init_from', 'lr', 'seeds')
                must_match(checkpoint['config'], {k: v for k, v in config.items() if k not in free}, path)
            else:
                checkpoint = train(name, start, lr, seed, labelled, dataset, head, config, run, stop)
                if checkpoint is None:
                    say(run, f'stopped in the run of {label}, lr {lr:g}, seed {seed}; --resume keeps those before')
                    sys.exit(128 + stop.signal)
                if run.rank == 0:
                    save(path, checkpoint)
            say(run, f'{label}, lr {lr:g}, seed {seed}: best validation {metric} {checkpoint["valid"]:.4f} '
                     f'at step {checkpoint["step"]}')
            tried.setdefault(lr, []).append(checkpoint)
        lr = max(tried, key=lambda lr: merit(metric, np.mean([c['valid'] for c in tried[lr]])))
        test = []
        for checkpoint in tried[lr]:  # the only place where test rows are scored
            model = build(checkpoint['model_args'])
            load_weights(model, checkpoint['model'])
            test.append(score_rows(model.to(run.device), dataset, labelled['test'], checkpoint['head'], config, run))
        valid = [c['valid'] for c in tried[lr]]
        std = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in (test, valid)]
        table.append(f'| {label} | {np.mean(test):.4f} ± {std[0]:.4f} | {np.mean(valid):.4f} ± {std[1]:.4f} '
                     f'| {tried[lr][0]["n_train"]:,} | {lr:g} | {len(test)} |')
        log_line(out / 'results.jsonl', run, init_from=name, mask=start['config']['mask'] if start else None,
                 metric=metric, test=test, valid=valid, lr=lr, n_train=tried[lr][0]['n_train'], seeds=config['seeds'])
    say(run, '\n' + title + '\n' + '\n'.join(table))
    if run.rank == 0:
        with open(out / 'results.md', 'a') as f:
            f.write(title + '\n' + '\n'.join(table) + '\n\n')
    finish(run)


if __name__ == '__main__':
    main()
