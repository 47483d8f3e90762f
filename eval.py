"""
Stage 3: what a checkpoint is worth, by scores, probes and embeddings; and what its masks look like.

    python eval.py --ckpt=out/collider/guided                           masked loss on the test rows
    python eval.py --ckpt=out/finetune_collider/scratch-lr0.001-seed0.pt --split=val        a score
    python eval.py --ckpt=... --dataset=new.csv --label_column=y --split=all        the same on another file
    python eval.py --ckpt=... --predict=new.csv                         new.predictions.csv, labels or not
    python eval.py --ckpt=... --show=confusion                          which classes are taken for which
    python eval.py --ckpt=out/collider/guided --embed=new.csv           new.embeddings.npy, a vector a row
    python eval.py --ckpt=out/collider/guided --probe                   test score of its frozen features
    python eval.py --ckpt=out/collider/guided --show=masks              pictures and statistics of its masks
    python eval.py --ckpt=out/collider/guided --show=overlap            Figure 4
    python eval.py --show=curves --runs=out/collider/random,out/collider/guided     losses and scores

The data are the checkpoint's own unless --dataset names others; its statistics scale the floats. What --show
prints for masks, overlap and curves is also drawn, if matplotlib is installed.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configurator import configure
from data import Dataset, open_data, scoring
from masking import BLIND, Masking
from model import SMA, build
from util import checkpoint, checks, mask_statistics, plots, probes, runtime, storage, tasks
from util.errors import fail, printable, run_cli
from util.files import atomic_write, base_name, split_paths
from util.runtime import print0
from util.splits import SPLITS

SHARED_KNOBS = ('data.py', 'util/runtime.py')  # dataset, label_column, ..; device, dtype

# -----------------------------------------------------------------------------
# ---- what to do
ckpt = ''  # a checkpoint of pretrain.py or finetune.py, a folder with last.pt, or hf:OWNER/NAME
split = 'test'  # rows to score: train, val, test or all
predict: str | None = None  # a file, or a folder of images: write a fine-tuned model's prediction for each row
embed: str | None = None  # the same with the vector of each row, and a text file that names the rows
embed_out: str | None = None  # where to, an .npy file; None = FILE.embeddings.npy in the current folder
probe = False  # score frozen features: nearest neighbours, and a linear map
show = ''  # masks, overlap, curves or confusion
# ---- mask; None = as the checkpoint was trained; with `show`, guided if that was random, word or patch
mask: str | None = None  # guided, guided_exact, random, word or patch: see masking.py
mask_ratio: float | None = None  # r, the share of the inputs hidden
n_query: int | None = None  # queries drawn for each guided mask, |R|; at most all there are
# ---- probes and pictures
n_train: int | None = 10_000  # labelled training rows that the probes learn from; None = all
target: str | None = None  # binary, multiclass or regression; None = the checkpoint's, or as in finetune.py
metric: str | None = None  # one of METRICS in util/metrics.py; None = the checkpoint's, or as in finetune.py
positive: str | None = None  # of two classes, the one of F1; None = the checkpoint's; a probe says its own
runs = ('out/collider/random', 'out/collider/guided')  # folders with log.jsonl, for curves
inputs_per_query = 4  # inputs that each query chooses, for overlap
show_out: str | None = None  # folder for the pictures; None = beside the checkpoint, or the first of runs
# ---- run
batch_size = 256  # samples at a time
# -----------------------------------------------------------------------------


@dataclass
class Evaluation:
    """What the actions below work on."""
    model: SMA
    saved: dict  # the checkpoint
    data: Dataset
    rows: np.ndarray  # the rows to look at
    run: object  # device and processes

    def features(self, rows):
        """One vector a row: (rows, d) float32."""
        return outputs(self.model.features, self.model, self.model.config.v_dim, self.data, rows, batch_size,
                       self.run)

    def predictions(self, rows):
        """(rows, n_out) float32, see tasks.to_predictions."""
        return outputs(self.model.predict, self.model, self.model.config.n_out, self.data, rows, batch_size,
                       self.run)


def main():
    config = configure(globals())
    check_settings(config)
    if show == 'curves':
        return show_curves()
    if not ckpt:
        fail('say which checkpoint: --ckpt=out/...')
    saved = checkpoint.load(ckpt, ('model', 'model_args', 'config', 'norm'), config['data_dir'])
    check_action(config, saved)
    if saved.get('task') and positive is not None and not probe:
        saved['task'] = tasks.with_positive(saved['task'], positive)
    ev = open_evaluation(config, saved)

    if predict:
        write_predictions(ev)
    elif embed:
        write_embeddings(ev)
    elif probe:
        print_probes(ev)
    elif show == 'confusion':
        print_scores(ev)
        print_confusion(ev)
    elif 'task' in saved:
        print_scores(ev)
    elif show == 'masks':
        show_masks(ev, masking_to_show(config, ev))
    elif show == 'overlap':
        show_overlap(ev, masking_to_show(config, ev))
    else:
        print_masked_loss(ev, masking_of(config, ev))


# -----------------------------------------------------------------------------
# a model over many rows, the same answer on every rank

@torch.no_grad()
def masked_loss(model: SMA, dataset: Dataset, rows: np.ndarray, masking: Masking, batch_size: int,
                run) -> float:
    """
    The mean loss over the hidden inputs of these rows. Batch i draws with seed i, so that the random masks, or
    the queries drawn for guided ones, are the same at every call. Rows whose loss is not finite (a huge input,
    say) are left out, with a warning that names the first; NaN if no row is left.
    """
    model.eval()
    generator = torch.Generator(run.device)
    total = torch.zeros(2, device=run.device)  # the summed loss, the number of hidden inputs
    is_bad = torch.zeros(len(rows), device=run.device)
    for i, at, x, valid in scoring(dataset, rows, batch_size, run):
        with run.autocast():
            loss, hidden = model(x, valid, masking, generator.manual_seed(i))  # (B, m), (B, n)
        bad = ~loss.isfinite().all(1)  # (B,)
        loss = loss.masked_fill(bad[:, None], 0.0)
        hidden = hidden & ~bad[:, None]
        total += torch.stack([loss.sum(), hidden.sum()])
        is_bad[at] = bad.float()
    model.train()
    total = runtime.sum_ranks(total, run)
    bad_rows = rows[runtime.sum_ranks(is_bad, run).cpu().numpy() > 0]
    if 0 < len(bad_rows) < len(rows):
        runtime.warn(run, f'{len(bad_rows)} of {len(rows)} rows are left out, as their loss is not finite: '
                          f'check the inputs of {storage.row_name(dataset.meta, bad_rows[0])}')
    return (total[0] / total[1]).item()


@torch.no_grad()
def outputs(function: Callable, model: SMA, width: int, dataset: Dataset, rows: np.ndarray, batch_size: int,
            run) -> Tensor:
    """function(x, valid), such as model.features, of these rows, in their order. -> (rows, width) float32"""
    model.eval()
    result = torch.zeros(len(rows), width, device=run.device)
    for _, at, x, valid in scoring(dataset, rows, batch_size, run):
        with run.autocast():
            result[at] = function(x, valid).float()
    model.train()
    result = runtime.sum_ranks(result, run).cpu()
    is_bad = (~result.isfinite()).any(1).numpy()
    if is_bad.all():
        fail(f'the output of the model is not finite for any of {len(rows)} rows: check the inputs. If they '
             'are right, the weights have grown too large in training: lower lr')
    if is_bad.any():
        bad_rows = rows[is_bad]
        fail(f'the output of the model is not finite for {len(bad_rows)} of {len(rows)} rows: check the inputs '
             f'of {storage.row_name(dataset.meta, bad_rows[0])}')
    return result


# -----------------------------------------------------------------------------
# scores, predictions, embeddings, probes

def print_masked_loss(ev: Evaluation, masking: Masking):
    value = masked_loss(ev.model, ev.data, ev.rows, masking, batch_size, ev.run)
    print0(ev.run, f'masked loss on {len(ev.rows):,} {split} rows, {masking.mask} masks, '
                   f'ratio {masking.mask_ratio}: {value:.4f}')


def print_scores(ev: Evaluation):
    """All metrics that fit the task of a fine-tuned model."""
    task = ev.saved['task']
    p = ev.predictions(ev.rows).numpy()
    for name, value in tasks.scores(task, ev.data.labels(ev.rows), p).items():
        title = tasks.metric_title(task, name)
        print0(ev.run, f'{title} on {len(ev.rows):,} {split} rows: {tasks.format_score(value)}')
    warn_if_constant(ev, p)


def warn_if_constant(ev, p):
    if tasks.all_alike(ev.saved['task'], p):
        runtime.warn(ev.run, 'the model predicts the same for every row')


def print_confusion(ev: Evaluation):
    """How many rows of each class (a line) are predicted as which class (a column)."""
    task = ev.saved['task']
    names = [printable(tasks.format_label(label)) for label in task['classes']]
    truth = tasks.class_numbers(ev.data.labels(ev.rows), task['classes'])
    predicted = tasks.to_predictions(task, ev.predictions(ev.rows).numpy()).argmax(1)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (truth, predicted), 1)

    width = max(len(text) for text in [*names, str(len(truth))]) + 2
    print('lines: the labels; columns: the predictions')
    print(' ' * width + ''.join(f'{name:>{width}}' for name in names))
    for name, line in zip(names, counts):
        print(f'{name:>{width}}' + ''.join(f'{count:>{width}}' for count in line))


def write_predictions(ev: Evaluation):
    """
    A CSV of each row's number (the first is 1) or file name, and its prediction: a number in the labels' units,
    or a class and the probability of each class. Numbers have all their digits: reading them gives the same
    scores.
    """
    task = ev.saved['task']
    p = ev.predictions(ev.rows).numpy()
    values = tasks.to_predictions(task, p)  # (rows,) numbers, or (rows, classes) probabilities
    names = [str(name) for name in ev.data.row_names(predict)]
    safe_names = [tasks.spreadsheet_safe(name) for name in names]
    path, = output_paths()
    with atomic_write(path, 'w') as f:
        writer = csv.writer(f, lineterminator='\n')
        if task['classes'] is None:
            writer.writerow(['row', 'prediction'])
            for name, value in zip(safe_names, values):
                writer.writerow([name, tasks.format_number(value)])
        else:
            classes = [tasks.spreadsheet_safe(tasks.format_label(label)) for label in task['classes']]
            writer.writerow(['row', 'prediction', *(f'p({label})' for label in classes)])
            for name, probabilities in zip(safe_names, values):
                label = classes[int(probabilities.argmax())]
                writer.writerow([name, label, *(tasks.format_number(value) for value in probabilities)])
    print0(ev.run, f'{path}: {len(names):,} predictions')
    is_changed = safe_names != names
    if task['classes'] is not None:
        is_changed |= classes != [tasks.format_label(label) for label in task['classes']]
    if is_changed:
        print0(ev.run, 'names of classes or rows that begin with = + - or @ have an apostrophe before them, so '
                       'that a spreadsheet does not run them')
    warn_if_constant(ev, p)


def write_embeddings(ev: Evaluation):
    """An .npy of one vector a row, and a text file of the rows' numbers or file names."""
    path, names_path = output_paths()
    vectors = ev.features(ev.rows).numpy()
    with atomic_write(path) as f:
        np.save(f, vectors)
    with atomic_write(names_path, 'w') as f:
        f.writelines(f'{name}\n' for name in ev.data.row_names(embed))
    print0(ev.run, f'{path}: {len(vectors):,} vectors of {vectors.shape[1]} float32; {names_path}: which row '
                   'each is of')


def output_paths() -> list[Path]:
    """What predict writes, or what embed writes: the vectors, and the names of the rows."""
    if predict:
        return [Path(f'{output_stem(predict)}.predictions.csv')]
    path = Path(embed_out or f'{output_stem(embed)}.embeddings.npy').expanduser()
    return [path, path.with_suffix('.rows.txt')]


def output_stem(file: str) -> str:
    """
    What the output for a file is called, in the current folder: 'new' for new.csv.gz, and 'b-new' for
    b/new.csv, so that files of one name in two folders do not replace each other's output.
    """
    first_file = split_paths(file)[0]
    folders = [part for part in Path(first_file).parts[:-1] if part not in ('/', '..', '.')]
    return '-'.join([*folders, base_name(first_file)])


def print_probes(ev: Evaluation):
    """The scores, on ev.rows, of simple predictors from frozen features: see util/probes.py."""
    trained_with = ev.saved['config']
    wanted_target = target or trained_with.get('target')
    wanted_metric = metric or trained_with.get('metric')
    scored_split = 'train' if split == 'all' else split
    task, labelled, note = tasks.infer_task(
        ev.data, wanted_target, wanted_metric, ('train', scored_split), positive)
    print0(ev.run, f'target: {task["target"]}')
    if note:
        print0(ev.run, note)
    title = tasks.metric_title(task, task['metric'])
    train_rows = np.random.default_rng(0).permutation(labelled['train'])[:n_train]
    for name, value in probe_rows(ev.features, ev.data, task, train_rows, ev.rows).items():
        print0(ev.run, f'{name}, {title} on {len(ev.rows):,} {split} rows, '
                       f'{len(train_rows):,} labels: {tasks.format_score(value)}')


def probe_rows(features: Callable, data: Dataset, task: dict, train_rows: np.ndarray, rows: np.ndarray) -> dict:
    """{name of the probe: its score on rows}. features: function of rows -> (rows, d)."""
    y, task = tasks.encode_labels(data, train_rows, task)
    X, Z = probes.standardise(features(train_rows), features(rows))
    Y = probes.encode_targets(task, y)
    scores = {}
    for name, probe_function in (('probe_knn', probes.nearest_neighbours), ('probe_linear', probes.linear)):
        p = probe_function(task, X, Y, Z).numpy()
        scores[name] = tasks.score(task, data.labels(rows), p)
    return scores


# -----------------------------------------------------------------------------
# pictures

@torch.no_grad()
def show_masks(ev: Evaluation, masking: Masking):
    """
    Figure 2, Table 7: pictures of two masks by the same weights, beside baselines. Statistics of 1,000 such
    masks and of 1,000 random ones.
    """
    data = ev.data
    is_image = is_picture(data)
    view_1 = f'{masking.mask} 1'
    view_2 = f'{masking.mask} 2'
    maskings = {}
    if is_image:
        maskings['patch'] = replace(masking, mask='patch')
    if data.is_bytes:
        maskings['word'] = replace(masking, mask='word')
    maskings['random'] = replace(masking, mask='random')
    maskings[view_1] = masking
    maskings[view_2] = masking

    rows = np.random.default_rng(0).permutation(ev.rows)[:1000]
    batches = scoring(data, rows, batch_size, ev.run)
    kept, shown = mask_statistics.choose_masks(ev.model, batches, masking, maskings, ev.run.device)
    others = {'in another view': kept[view_2], 'by guided_exact, the same queries': kept.get('exact')}
    pairs = mask_statistics.higgs_pairs(data.columns)
    ours = mask_statistics.measure(kept[view_1], others, kept.get('x'), is_image, pairs)
    chance = mask_statistics.measure(kept['random'], others, kept.get('x'), is_image, pairs)
    title = f'{len(rows):,} masks, ratio {masking.mask_ratio}; mean and 95 % interval'
    print(f'{title:62}{masking.mask:>17}{"random":>17}')
    for what in ours:
        numbers = mask_statistics.with_interval(ours[what]) + mask_statistics.with_interval(chance[what])
        print(f'  {what:60}{numbers}')

    x, valid, masks = shown
    out = picture_folder()
    if is_image:
        columns = {'reference': x}
        for name, hidden in masks.items():
            columns[name] = x.masked_fill(hidden[..., None], torch.nan)
        columns['reconstructed'] = mask_statistics.reconstruct(ev.model, x, masks[view_1])
        plots.image_sheet(columns, data.norm, out)
    elif data.is_bytes:
        texts = []
        for b in range(min(3, len(x))):
            for name, hidden in {'reference': ~valid, **masks}.items():
                texts.append((name, x[b, valid[b]].tolist(), hidden[b, valid[b]].tolist()))
        plots.text_sheet(texts, out)
    else:
        plots.heat_map(torch.cat([kept[view_1], kept[view_2]]), data.columns, out)


def is_picture(data):
    """Whether a row is a square picture: of colours, or of grey values where the data set says so."""
    if data.is_bytes or math.isqrt(data.n) ** 2 != data.n:
        return False
    return data.d_raw == 3 or data.meta.get('is_picture', False)


@torch.no_grad()
def show_overlap(ev: Evaluation, masking: Masking):
    """
    Figure 4: how much the choices of queries overlap, against the number of inputs n', on the 64 longest rows.

    The paper has no formula. Here: of n' random inputs, m = round(r n' / k) queries each choose their own top
    k, as in the authors' code. The overlap is the share of these m k choices that another query has made
    already. k is inputs_per_query, or more if all l queries together would not reach r n inputs with so few.
    """
    if masking.mask in BLIND:
        fail(f'show=overlap is about what guided masks choose, not about mask={masking.mask}')
    data = ev.data
    model = ev.model
    rows = ev.rows[np.argsort(-data.lengths(ev.rows), kind='stable')[:64]]
    n = int(data.lengths(rows).min())
    n_queries = model.config.n_latent or n
    k = max(inputs_per_query, math.ceil(round(masking.mask_ratio * n) / n_queries))
    numbers_of_inputs = sorted({n * part // 8 for part in range(1, 9)})
    numbers_of_inputs = [n_inputs for n_inputs in numbers_of_inputs if n_inputs >= 2 * k]
    if not numbers_of_inputs:
        fail(f'rows of {n} inputs are too short for queries that choose {k} each: lower inputs_per_query')

    generator = torch.Generator(ev.run.device).manual_seed(0)
    curves = {'overlap': [], 'were choices random': []}
    print(f'{"inputs":>8}{"queries":>9}{"top k":>7}{"overlap":>9}{"by chance":>11}{"hidden":>8}   '
          f'wanted {masking.mask_ratio}')
    for n_inputs in numbers_of_inputs:
        m = max(round(masking.mask_ratio * n_inputs / k), 1)
        rows_at_once = max(2 ** 25 // (model.config.n_head * m * n), 1)  # the maps are large
        batches = scoring(data, rows, rows_at_once, ev.run)
        value = mask_statistics.overlap(model, batches, n, n_inputs, m, k, generator)
        # m draws of k among n' hit 1 - (1 - k / n')^m of them
        by_chance = 1 - n_inputs * (1 - (1 - k / n_inputs) ** m) / (m * k)
        curves['overlap'].append((n_inputs, value))
        curves['were choices random'].append((n_inputs, by_chance))
        hidden_share = (1 - value) * m * k / n_inputs
        print(f'{n_inputs:8}{m:9}{k:7}{value:9.3f}{by_chance:11.3f}{hidden_share:8.3f}')
    plots.plot({'overlap of the queries\' tops': curves}, 'inputs', picture_folder() / 'overlap.png')


def show_curves():
    """Losses and scores over the steps, from the log.jsonl of several runs of pretrain.py or finetune.py."""
    panels = plots.panels_of_logs(runs)
    if not panels:
        fail(f'{", ".join(runs)}: nothing is logged there yet')
    plots.plot(panels, 'step', picture_folder() / 'curves.png')


def picture_folder() -> Path:
    if show_out:
        return Path(show_out).expanduser()
    if show == 'curves':
        return Path(runs[0]).expanduser()
    home = Path(ckpt.replace('hf:', 'out/')).expanduser()
    return home.parent if home.is_file() else home


# -----------------------------------------------------------------------------
# setting up

def open_evaluation(config, saved):
    """The checkpoint's model, its data or others, and the rows to look at."""
    file = predict or embed
    if file:  # the rows of this file alone
        config['dataset'] = file
        saved['config']['val_file'] = None
        saved['config']['test_file'] = None
    run = runtime.set_up(config)
    if run.world > 1:
        fail('eval.py runs as one process: start it with python, not torchrun')
    data, _ = open_data(config, run, saved)
    model = build(saved['model_args'])
    checkpoint.load_weights(model, saved['model'])
    model.to(run.device).eval()

    rows = data.rows('all' if file else split)
    needs_labels = not file and (probe or 'task' in saved)
    if needs_labels:
        rows = rows[~np.isnan(data.y[rows])]
    if not len(rows):
        fail(f'there are no {"labelled " if needs_labels else ""}{split} rows to score')
    if file:
        left_out = [f'{n} {why}' for why, n in data.meta['left_out'].items()]
        if left_out:  # the output would not have a line for each row of the file
            fail(f'{file} has {", ".join(left_out)}: take them out first')
    return Evaluation(model, saved, data, rows, run)


def masking_of(config, ev):
    """How the checkpoint was trained to mask, changed by the knobs that are given."""
    masking = replace(Masking.of(ev.saved['config']), **given_mask_knobs(config))
    checks.check_masking(masking, ev.data.lengths(ev.rows), ev.data.d_raw)
    return masking


def masking_to_show(config, ev):
    """The same; but of a model that was trained with blind masks, the guided ones that it would choose."""
    own = Masking.of(ev.saved['config'])
    if mask is None and own.mask in BLIND:
        config = {**config, 'mask': 'guided'}
    return masking_of(config, ev)


def given_mask_knobs(config):
    names = [field.name for field in fields(Masking)]
    return {name: config[name] for name in names if config.get(name) is not None}


def check_settings(config):
    """Fails on settings that cannot work, whatever the checkpoint is."""
    checks.check_numbers(config, ('n_train', 'inputs_per_query'))
    if split not in (*SPLITS, 'all'):
        fail(f'split={split!r}: one of {", ".join(SPLITS)}, all')
    if show not in ('', 'masks', 'overlap', 'curves', 'confusion'):
        fail(f'show={show!r}: one of masks, overlap, curves, confusion')
    if (target or metric) and not probe:
        fail('target and metric are for --probe; a fine-tuned checkpoint has its own')
    if bool(predict) + bool(embed) + probe + bool(show) > 1:
        fail('one of predict, embed, probe and show at a time')
    if embed_out and not embed_out.endswith('.npy'):
        fail(f'embed_out={embed_out!r} must end in .npy')
    if predict or embed:
        if config['val_file'] or config['test_file']:
            fail('predict and embed read one file: leave val_file and test_file unset')
        check_outputs(predict or embed)


def check_outputs(file):
    """Fails if the output would replace a file that is read."""
    inputs = [Path(path).expanduser().resolve() for path in split_paths(file)]
    for path in output_paths():
        if path.resolve() in inputs:
            advice = 'give another --embed_out' if embed_out else 'rename it, or call eval.py in another folder'
            fail(f'{path} is read, and would be replaced by the output: {advice}')


def check_action(config, saved):
    """Fails on an action that this checkpoint is not for."""
    is_fine_tuned = bool(saved['model_args'].get('n_out'))
    task = saved.get('task')
    if is_fine_tuned and not (task or embed or probe):
        fail(f'{ckpt} is a fine-tuned model that does not name its labels: embed or probe it')
    if task and (show in ('masks', 'overlap') or given_mask_knobs(config)):
        fail(f'{ckpt} is a fine-tuned model, which hides nothing: masks are for a pre-trained one')
    if predict and not task:
        fail(f'{ckpt} has learned no labels: predict is for what finetune.py writes')
    if show == 'confusion' and (not task or task['target'] == 'regression'):
        fail(f'{ckpt} has learned no classes: confusion is for classifiers that finetune.py writes')


if __name__ == '__main__':
    run_cli(main)
