"""
Stage 2: fine-tuning with labels, from scratch and from each pre-trained checkpoint, with the same settings.
Prints a table of their scores.

    python finetune.py config/finetune_glyphs.py                the quick start: 1,000 labels
    python finetune.py --dataset=my.csv --label_column=y        your own table, from scratch and from out/my/*
    python finetune.py --init_from=out/my/guided                the checkpoint knows its data set
    python finetune.py config/finetune_tape.py --init_from=hf:jxie/sma-biology-pretrained   authors' weights
    python finetune.py --init_from=out/my/guided --freeze       only the head learns; the encoder stays as it is
    python finetune.py --n_train=100 --batch_size=32 --seeds=0,1,2,3,4          fewer labels, more seeds
    torchrun --nproc_per_node=8 finetune.py config/NAME.py      8 GPUs

A start is scratch or a checkpoint. For every start in `init_from` and every learning rate in `lr` there is one
run per seed. A run keeps the weights of its best validation score. Of several learning rates the one with the
best mean validation score is kept. Only then is the test split scored, once for each seed. The table is
printed, and written to OUT_DIR/results.md.
"""

import json
import math
import os
import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from configurator import configure, defaults_of
from data import DEFAULT_DATASET, Dataset, micro_batches, open_data, other_splits, settle_knobs
from eval import outputs
from model import build
from util import augment as augmentation
from util import checkpoint, checks, optim, runtime, tasks
from util.errors import fail, run_cli
from util.files import name_of
from util.outdir import OutputDir, usual_folder
from util.runtime import print0
from util.starts import Start, common_shape, digest_of, drop_starts_of_other_data, find_starts, settle_scales

SHARED_KNOBS = ('data.py', 'util/runtime.py', 'pretrain.py: model')  # model: a checkpoint has its own shape

# -----------------------------------------------------------------------------
# ---- inputs and labels
task: str | None = None  # which of its data sets a family's config takes, such as config/finetune_glue.py
augment = False  # images: random crops, 3-Augment, mixup, CutMix, label smoothing; else the centre, as it is
max_len: int | None = None  # tokens kept of a byte sequence, CLS and SEP included; None = the checkpoint's
norm: str | None = None  # from scratch: standard, quantile or none; None = the first checkpoint's, or standard
target: str | None = None  # binary, multiclass or regression; None = the data set's own, else inferred
metric: str | None = None  # one of METRICS in util/metrics.py; None = the data set's own, else accuracy or rmse
positive: str | None = None  # of two classes, the one that F1 describes; None = 1 of 0 and 1, else the rarer
n_train: int | None = None  # labelled rows, another draw for each seed; None = all
# ---- what to start from
init_from = ()  # scratch, checkpoints, hf:OWNER/NAME, folders of runs; () = scratch and out/DATASET's runs
freeze = False  # train only the head, on the encoder as it is
# ---- optimiser
batch_size = 128  # samples a step, over all processes and micro-batches
accumulation = 1  # micro-batches a step
epochs: int | None = None  # passes over the labelled rows; None = 40, or more, to make 1,200 steps
max_steps: int | None = None  # optimiser steps; None = what the epochs take
lr = (1e-3,)  # peak learning rates: of several, the best on validation is kept
min_lr = 0.0  # where the cosine ends
warmup_steps = 10  # linear warm-up
weight_decay = 0.01  # of the matrices of Linear layers; the other parameters have none
grad_clip = 1.0  # largest gradient norm; 0 = off
# ---- run
seeds = (0, 1, 2)  # one run each: of new weights, labelled rows, batches and dropout
compile: str | None = None  # torch.compile: true, false, reduce-overhead (CUDA graphs); None = on cuda
out_dir: str | None = None  # checkpoints and results; None = out/finetune_DATASET; _frozen added by freeze
resume = False  # keep the finished runs that OUT_DIR already holds
eval_interval: int | None = None  # steps between validations; None = an epoch, or more: at most 100 validations
# -----------------------------------------------------------------------------

# what --resume may change
MAY_CHANGE = {'resume', 'device', 'compile', 'init_from', 'lr', 'seeds'}


@dataclass
class Experiment:
    """What the runs of all starts share."""
    config: dict
    data: Dataset
    task: dict  # what is predicted: see util/tasks.py
    rows: dict  # {split: its labelled rows}
    shape: dict  # the fields of SMAConfig that the checkpoints have; {} if all start from scratch
    run: object  # device and processes
    stop: runtime.Stop
    out: OutputDir


def main():
    config = configure(globals())
    check_settings(config)
    run = runtime.set_up(config)
    stop = runtime.Stop()
    starts = find_starts(config, usual_folder(config['dataset'] or DEFAULT_DATASET))
    starts = drop_starts_of_other_data(starts, config, run)
    check_file_names(starts)
    first = next((start.checkpoint for start in starts if start.checkpoint), None)
    shape = common_shape(starts, config, defaults_of(__file__))

    # data
    if config['dataset'] is None and first is None:
        config['dataset'] = DEFAULT_DATASET
    data, config['seq_len'] = open_data(config, run, first)
    settle_knobs(config, first)
    config['max_len'] = data.max_len
    task, rows, note = tasks.infer_task(data, target, metric, positive=positive)
    if note:
        print0(run, note)
    compare_other_starts(starts, first, config, data, run)
    settle_scales(starts, first, config, data)
    check_labels(config, data, task, rows, run)

    # all runs, and the table
    if out_dir is None:
        config['out_dir'] = f'out/finetune_{name_of(config["dataset"])}' + ('_frozen' if freeze else '')
    out = OutputDir(config['out_dir'], 'finetune.py', run)
    if not resume:
        out.keep_earlier_run()
    counts = ', '.join(f'{len(some):,} {split}' for split, some in rows.items())
    title = tasks.metric_title(task, task['metric'])
    print0(run, f'{task["target"]}, {title}; labelled rows: {counts}; '
                f'{len(starts) * len(lr) * len(seeds)} runs')
    experiment = Experiment(config, data, task, rows, shape, run, stop, out)
    for start in starts:
        data.norm = start.norm
        start.digest = digest_of(start, data)
    if resume:
        set_outdated_runs_aside(experiment, starts)
    table = [f'| pre-training | {title}, test | {title}, validation | labels | lr | seeds |',
             '|---|---|---|---|---|---|',
             baseline_row(experiment)]
    results = []
    for start in starts:
        runs = train_all(experiment, start, table)
        rate = best_rate(task, runs)
        row, result = score_test(experiment, start, rate, runs[rate])
        table.append(row)
        results.append(json.dumps(result))
        out.write_text('results.md', '\n'.join(table) + '\n')  # now, so that a stopped run leaves its rows
        out.write_text('results.jsonl', '\n'.join(results) + '\n')
    print0(run, '\n'.join(['', *table]))
    runtime.finish(run)


# -----------------------------------------------------------------------------
# one run

def train(experiment: Experiment, start: Start, rate: float, seed: int) -> dict | None:
    """Fine-tune from a start with one learning rate and seed. -> a checkpoint, or None if it was stopped"""
    config = experiment.config
    data = experiment.data
    run = experiment.run
    task, train_rows, y = training_labels(experiment, seed)  # y (rows of the data set,)
    raw_model = new_model(experiment, start, seed)
    config = {**config, 'lr': rate}
    optimizer = optim.make_optimizer(raw_model, config, run.device)
    scaler = optim.make_scaler(run)
    skips = optim.Skips(run)
    model = runtime.wrap(raw_model, run)  # DDP, torch.compile; raw_model is the one that is saved

    total_steps, interval = steps_and_interval(len(train_rows), len(experiment.rows['val']))
    best = None
    bar = tqdm(total=total_steps, desc=f'{start.name} lr {rate:g} seed {seed}', leave=False,
               disable=not (run.is_main and sys.stderr.isatty()))
    batches = micro_batches(data, train_rows, batch_size, accumulation, seed, 0, run, y)
    for step in range(total_steps):
        optim.set_lr(optimizer, optim.lr_at(step, total_steps, config))
        for micro_step in range(accumulation):
            x, valid, labels, step_rows = next(batches)
            # crops, mixing and dropout are seeded by (seed, step, micro-batch), as in pretrain.py
            runtime.seed_all(seed, step, micro_step * run.world + run.rank)
            if augment:
                x = data.inputs(x, scale=(0.08, 1.0), change=augmentation.three_augment)
                x, labels = augmentation.mix(x, labels, raw_model.config.n_out)
            else:
                x = data.inputs(x)
            with runtime.no_sync(model, run, last=micro_step == accumulation - 1):
                with run.autocast():
                    loss = sum_of_losses(model(x, valid), labels, task['target']) / len(step_rows)
                scaler.scale(loss * run.world).backward()  # times world, as DDP averages over processes
        grad_norm = optim.update(raw_model, optimizer, scaler, grad_clip)
        skips.note(grad_norm)
        bar.update()
        if experiment.stop.asked(run, step, interval):
            return None
        is_last = step + 1 == total_steps
        if (step + 1) % 10 == 0 or is_last:
            skips.check(step + 1)

        # validate, and keep the best weights
        if (step + 1) % interval == 0 or is_last:
            val_score = score(experiment, task, raw_model, 'val')
            experiment.out.log(init_from=start.name, lr=rate, seed=seed, step=step + 1, val_score=val_score)
            is_better = best is None or is_better_score(task, val_score, best['val_score'])
            if is_better and math.isfinite(val_score):
                weights = {name: t.detach().cpu().clone() for name, t in raw_model.state_dict().items()}
                best = dict(model=weights, val_score=val_score, step=step + 1)
    bar.close()
    if best is None:
        fail(f'{start.name}, lr {rate:g}, seed {seed}: no validation score is a number. Lower lr, or check '
             'the data.')
    return dict(
        **best, model_args=dict(vars(raw_model.config)), config=experiment.config, norm=data.norm,
        columns=data.columns, categories=data.meta['categories'], data=data.fingerprint, task=task, lr=rate,
        seed=seed, n_train=len(train_rows), start=start.digest)


def new_model(experiment, start, seed):
    """Embeddings and encoder from the checkpoint; the head is new; the reconstruction decoder is left out."""
    runtime.seed_all(seed)
    task = experiment.task
    run = experiment.run
    n_out = len(task['classes']) if task['target'] == 'multiclass' else 1
    model = build({**experiment.config, **experiment.shape}, d_raw=experiment.data.d_raw, n_out=n_out)
    if start.checkpoint:
        checkpoint.load_weights(
            model, start.checkpoint['model'], new=('head.', 'head_query'), dropped=('decoder.',))
    for name, p in model.named_parameters():
        p.requires_grad_(not freeze or name.startswith('head'))
    return model.to(run.device)


def training_labels(experiment, seed):
    """
    The labelled rows of this seed, and what a model learns about them.
    -> task (of a regression with mean and std), rows (k,), y (all rows of the data set,) int64 or float32
    """
    data = experiment.data
    rows = experiment.rows['train']
    if n_train is not None:
        rows = np.random.default_rng(seed).permutation(rows)[:n_train]
    encoded, task = tasks.encode_labels(data, rows, experiment.task)
    dtype = torch.int64 if task['target'] == 'multiclass' else torch.float32
    y = torch.zeros(len(data.y), dtype=dtype)
    y[rows] = torch.from_numpy(encoded).to(dtype)
    return task, rows, y


def steps_and_interval(n_rows, n_val):
    """How many steps a run takes, and after how many it is validated: two numbers."""
    steps_per_epoch = n_rows // batch_size
    n_epochs = epochs
    if n_epochs is None:
        # after fewer steps a pre-trained start may lie behind scratch (docs/RESULTS.md, "No harm by default")
        n_epochs = max(40, math.ceil(1200 / steps_per_epoch))
    total_steps = max_steps
    if max_steps is None:
        total_steps = n_epochs * steps_per_epoch
    if eval_interval is not None:
        return total_steps, eval_interval
    # Not more validation rows are read than training rows, but there are 10 validations at least, and 100 at
    # most. They come at the ends of epochs.
    n_validations = total_steps * batch_size // n_val
    n_validations = max(n_validations, 10)
    n_validations = min(n_validations, 100)
    epochs_between = math.ceil(total_steps / steps_per_epoch / n_validations)
    return total_steps, epochs_between * steps_per_epoch


def sum_of_losses(output: Tensor, y: Tensor, target: str) -> Tensor:
    """The sum of a batch's losses: output (B, n_out), y (B,) or, after mix, (B, n_out) shares of classes."""
    if target == 'regression':
        return F.mse_loss(output[:, 0], y, reduction='sum')
    if target == 'binary':
        return F.binary_cross_entropy_with_logits(output[:, 0], y, reduction='sum')
    if target != 'multiclass':
        fail(f'fine-tuning has no loss for the target {target!r}')
    if y.ndim == 2:  # a mixed image has several classes: each output answers yes or no
        return F.binary_cross_entropy_with_logits(output, y, reduction='sum') / output.shape[1]
    return F.cross_entropy(output, y, reduction='sum')


def predict(experiment, model, rows):
    """What a model predicts for these rows: (rows, n_out) float32, see tasks.to_predictions."""
    p = outputs(model.predict, model, model.config.n_out, experiment.data, rows, batch_size, experiment.run)
    return p.numpy()


def score(experiment, task, model, split):
    """The metric of a model on the labelled rows of a split."""
    data = experiment.data
    rows = experiment.rows[split]
    p = predict(experiment, model, rows)  # (rows, n_out)
    return tasks.score(task, data.labels(rows), p)


def is_better_score(task, new, old):
    """Is the new score better than the old one? (Of an error, such as rmse, the smaller one is.)"""
    return tasks.selection_score(task, new) > tasks.selection_score(task, old)


# -----------------------------------------------------------------------------
# all runs of a start; selection on validation; the test

def train_all(experiment: Experiment, start: Start, table: list[str]) -> dict[float, list[dict]]:
    """One run for each learning rate and seed. -> {learning rate: the checkpoints of its seeds}"""
    run = experiment.run
    data = experiment.data
    out = experiment.out
    metric_name = tasks.metric_title(experiment.task, experiment.task['metric'])
    data.norm = start.norm
    runs = {rate: [] for rate in lr}
    for rate in lr:
        for seed in seeds:
            name = file_name(start, rate, seed)
            finished = finished_run(experiment, out.path / name, rate, seed)
            if finished is None:
                this_run = (start.name, rate, seed)
                forget_log_entries(out, this_run)
                finished = train(experiment, start, rate, seed)
                if finished is None:
                    print0(run, f'stopped in the run of {start.name}, lr {rate:g}, seed {seed}. '
                                '--resume keeps the finished runs.')
                    print0(run, '\n'.join(table))
                    sys.exit(experiment.stop.exit_status)
                out.save(name, finished)
            print0(run, f'{label_of(start)}, lr {rate:g}, seed {seed}: best validation {metric_name} '
                        f'{tasks.format_score(finished["val_score"])} at step {finished["step"]}')
            runs[rate].append(finished)
    return runs


def set_outdated_runs_aside(experiment, starts):
    """
    Runs in the folder whose start, or whose data, have changed since are made anew. Before that the whole
    folder is copied, as the log and the table will change too.
    """
    run, out = experiment.run, experiment.out
    if not run.is_main:
        return
    outdated = []
    for start in starts:
        for rate in lr:
            for seed in seeds:
                path = out.path / file_name(start, rate, seed)
                if path.exists() and checkpoint.load(path).get('start', start.digest) != start.digest:
                    print0(run, f'{path}: {start.name} or the data have changed since, so it is made anew')
                    outdated.append(path)
    if outdated:
        out.copy_earlier_run()
        for path in outdated:  # so that another --resume takes no second copy
            path.unlink()


def finished_run(experiment, path, rate, seed):
    """With --resume, the checkpoint of a run that is finished already, else None."""
    # rank 0 looks: other ranks could see another state of the disk, train, and wait for rank 0 for ever
    if not resume or not runtime.decide_on_main(path.exists(), experiment.run):
        return None
    found = checkpoint.load(path, keys=('model', 'task', 'val_score', 'step', 'n_train', 'config'))
    fixed = {name: value for name, value in experiment.config.items() if name not in MAY_CHANGE}
    checkpoint.must_match(found['config'], fixed, path, defaults_of(__file__))
    if (found.get('lr'), found.get('seed')) != (rate, seed):
        fail(f'{path} holds the run of lr {found.get("lr")}, seed {found.get("seed")}: remove it')
    return found


def forget_log_entries(out, this_run):
    """Takes what an earlier try of this run wrote out of the log."""
    def is_of_this_run(entry):
        return (entry.get('init_from'), entry.get('lr'), entry.get('seed')) == this_run
    out.remove_log_entries(is_of_this_run)


def best_rate(task: dict, runs: dict[float, list[dict]]) -> float:
    """The learning rate with the best mean validation score."""
    best = None
    best_mean = None
    for rate, checkpoints in runs.items():
        mean = np.mean([saved['val_score'] for saved in checkpoints])
        if best is None or is_better_score(task, mean, best_mean):
            best = rate
            best_mean = mean
    return best


def score_test(experiment: Experiment, start: Start, rate: float, checkpoints: list[dict]) -> tuple[str, dict]:
    """
    Scores the test rows with each seed's weights: the only place where a model sees test rows.
    -> the start's row of the table, and the same in numbers
    """
    data = experiment.data
    run = experiment.run
    task = experiment.task
    rows = experiment.rows['test']
    all_scores = []
    n_constant = 0
    for saved in checkpoints:
        model = build(saved['model_args'])
        checkpoint.load_weights(model, saved['model'])
        model.to(run.device)
        p = predict(experiment, model, rows)  # (rows, n_out)
        all_scores.append(tasks.scores(saved['task'], data.labels(rows), p))
        n_constant += tasks.all_alike(task, p)
    means = {name: float(np.mean([scores[name] for scores in all_scores])) for name in all_scores[0]}
    parts = [f'{tasks.metric_title(task, name)} {tasks.format_score(value)}' for name, value in means.items()]
    print0(run, f'{label_of(start)}, test: {", ".join(parts)}')

    metric_name = task['metric']
    test = [scores[metric_name] for scores in all_scores]
    val = [saved['val_score'] for saved in checkpoints]
    n_labels = checkpoints[0]['n_train']
    row = (f'| {label_of(start)} | {mean_and_std(test)} | {mean_and_std(val)} | {n_labels:,} | {rate:g} '
           f'| {len(test)}')
    if n_constant:
        row += f', {n_constant} of them predict the same for all rows'
    result = dict(
        init_from=start.name, mask=start.checkpoint['config']['mask'] if start.checkpoint else None,
        metric=metric_name, test=test, val=val, means=means, lr=rate, n_train=n_labels, seeds=seeds)
    return row + ' |', result


def baseline_row(experiment):
    """The row of a constant prediction: the mean of the training labels, or their most frequent class."""
    data = experiment.data
    y, task = tasks.encode_labels(data, experiment.rows['train'], experiment.task)
    name = 'the mean' if task['target'] == 'regression' else 'the most frequent class'
    scores = {}
    for split in ('test', 'val'):
        rows = experiment.rows[split]
        p = tasks.baseline_logits(task, y, len(rows))
        scores[split] = tasks.score(task, data.labels(rows), p)
    test = tasks.format_score(scores['test'])
    val = tasks.format_score(scores['val'])
    return f'| always {name} | {test} | {val} | {len(y):,} | | |'


def label_of(start):
    """What a start is called in the table."""
    label = 'none (scratch)'
    if start.checkpoint:
        label = f'{start.checkpoint["config"]["mask"]} masks ({start.name})'
    return label + (', frozen' if freeze else '')


def mean_and_std(values):
    mean = tasks.format_score(np.mean(values))
    std = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f'{mean} ± {std:.1e}' if 'e' in mean else f'{mean} ± {std:.4f}'


def file_name(start, rate, seed):
    return f'{start.name.replace("/", "-")}-lr{rate!r}-seed{seed}.pt'


# -----------------------------------------------------------------------------
# settings that cannot work


def check_file_names(starts):
    """Fails, before anything is trained, if two starts would be saved under one name, or under one too long."""
    names = {}
    for start in starts:
        name = file_name(start, min(lr), max(seeds))
        if name in names:
            fail(f'{start.name} and {names[name]} would both be saved as {name}: rename the folder of one')
        if len(name.encode()) > 200:
            fail(f'the path of {start.name} is too long for a file name: rename its folder, or cd to it first')
        names[name] = start.name


def compare_other_starts(starts, first, config, data, run):
    """Compares with the data every checkpoint but the first, which open_data has compared."""
    for start in starts:
        saved = start.checkpoint
        if saved is None or saved is first:
            continue
        runtime.warn(run, checks.check_fits(data, saved))
        warning = other_splits(data, saved, config)
        if warning:
            runtime.warn(run, f'{start.name}: {warning}')


def check_settings(config):
    checks.check_numbers(config, ('n_train', 'eval_interval'))
    for name in ('seeds', 'lr'):
        if len(set(config[name])) < len(config[name]):
            fail(f'{name}={config[name]} names one value twice: give each once')
    is_file = config['dataset'] is not None and os.path.exists(config['dataset'].split(',')[0])
    if config['task'] not in (None, config['dataset']) and not is_file:
        fail(f'task={config["task"]!r}, but dataset={config["dataset"]!r}: tasks are for configs such as '
             'config/finetune_glue.py; name the data set with --dataset')


def check_labels(config, data, task, rows, run):
    n_labels = len(rows['train']) if n_train is None else n_train
    if n_labels > len(rows['train']):
        fail(f'n_train={n_labels}, but there are only {len(rows["train"])} labelled training rows')
    checks.check_batch(n_labels, config, run, len(rows['val']))
    if augment and not (data.is_images and task['target'] == 'multiclass'):
        fail('augment=True is for images with --target=multiclass')


if __name__ == '__main__':
    run_cli(main)
