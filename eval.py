"""
Stage 3: what a checkpoint is worth, by scores, probes and embeddings; and what its masks look like.

    python eval.py --ckpt=out/collider/guided                           masked loss on the test rows
    python eval.py --ckpt=out/finetune_collider/scratch-lr0.001-seed0.pt --split=val        a score
    python eval.py --ckpt=... --dataset=new.csv --label_column=y --split=all        the same on another file
    python eval.py --ckpt=... --predict=new.csv                         new.predictions.csv, labels or not
    python eval.py --ckpt=... --show=confusion                          which classes it takes for which
    python eval.py --ckpt=out/collider/guided --embed=new.csv           new.embeddings.npy, a vector a row
    python eval.py --ckpt=out/collider/guided --probe                   test score of its frozen features
    python eval.py --ckpt=out/collider/guided --show=masks              pictures and statistics of its masks
    python eval.py --ckpt=out/collider/guided --show=overlap            Figure 4
    python eval.py --show=curves --runs=out/collider/random,out/collider/guided     losses and scores

The data are the checkpoint's own unless --dataset names others; its statistics scale the floats. matplotlib,
if installed, draws what --show prints.
"""

import csv
import json
import math
from dataclasses import fields, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from configurator import configure
from data import name_of, open_data, scoring
from masking import BLIND, SPACES, Masking, sample_queries
from model import build, gather_rows, mask_to_indices
from util.checkpoint import load, load_weights
from util.checks import check_masking, check_numbers
from util.collider import HIGGS_COLUMNS
from util.errors import fail, run_cli
from util.files import atomic_write
from util.plots import heat_map, image_sheet, plot, text_sheet
from util.runtime import print0, set_up, sum_ranks
from util.splits import SPLITS
from util.tasks import all_alike, class_numbers, encode_labels, infer_task, score, scores, to_predictions

# -----------------------------------------------------------------------------
ckpt = ''  # a checkpoint of pretrain.py or finetune.py, a folder with last.pt, or hf:OWNER/NAME
split = 'test'  # rows to score: train, val, test or all
predict: str | None = None  # a file, or a folder of images: write a fine-tuned model's answer for each row
embed: str | None = None  # the same with the vector of each row, and FILE.embeddings.txt, the rows' names
embed_out: str | None = None  # where to; None = FILE.embeddings.npy in the current folder
# data; where a knob is None, the checkpoint's own data set is read as it was
dataset: str | None = None  # a name, a file or a folder of images; None = the checkpoint's own
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
image_size: int | None = None  # images: side in pixels that the model sees
# mask; None = as the checkpoint was trained, or guided in place of a blind mask where masks are shown
mask: str | None = None  # guided, guided_exact, random, word or patch: see masking.py
mask_ratio: float | None = None  # r, the share of the inputs hidden
n_query: int | None = None  # queries drawn for each guided mask, |R|; at most all there are
# probes and pictures
probe = False  # score frozen features: nearest neighbours, and a linear map
n_train: int | None = 10_000  # labelled training rows that the probes learn from; None = all
target: str | None = None  # binary, multiclass or regression; None = the data set's own, else guessed
metric: str | None = None  # one of METRICS in data.py; None = the data set's own, else accuracy or rmse
show = ''  # masks, overlap, curves or confusion
runs = ('out/collider/random', 'out/collider/guided')  # folders with log.jsonl, for curves
inputs_per_query = 4  # inputs that each query chooses, for overlap
show_out: str | None = None  # folder for the pictures; None = beside the checkpoint, or the first of runs
# run
batch_size = 256  # samples at a time
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
C = HIGGS_COLUMNS  # what belongs together in them: the pairs within each of these groups are looked at
HIGGS_GROUPS = {
    'lepton pt, eta, phi': [C[:3]], 'met, its phi': [C[3:5]],
    'a jet\'s pt, eta, phi, btag': [C[5:9], C[9:13], C[13:17], C[17:21]],
    'a mass and a part of it': [('m_jjj', 'm_jj'), ('m_jlv', 'm_lv'), ('m_wbb', 'm_bb'), ('m_wbb', 'm_jj'),
                                ('m_wwbb', 'm_wbb'), ('m_wwbb', 'm_lv'), *(('m_lv', c) for c in C[:5])]}


def main():
    config = configure(globals())
    check_numbers(config, ('n_train', 'inputs_per_query'))
    for k, known in (('split', (*SPLITS, 'all')), ('show', ('masks', 'overlap', 'curves', 'confusion', ''))):
        if config[k] not in known:
            fail(f'{k}={config[k]!r}: one of {", ".join(filter(None, known))}')
    if (target or metric) and not probe:
        fail('target and metric are for --probe; a fine-tuned checkpoint has its own')
    if bool(predict) + bool(embed) + probe + bool(show) > 1:
        fail('one of predict, embed, probe and show at a time')
    if show == 'curves':
        return show_curves(runs, Path(show_out or (*runs, '.')[0]))
    if not ckpt:
        fail('say which checkpoint: --ckpt=out/...')
    checkpoint = load(ckpt, ('model', 'model_args', 'config', 'norm'), data_dir)
    own, task = checkpoint['config'], checkpoint.get('task')
    if checkpoint['model_args'].get('n_out') and not (task or embed or probe):
        fail(f'{ckpt} is a fine-tuned model that does not name its labels: embed or probe it')
    given = {f.name: config[f.name] for f in fields(Masking) if config.get(f.name) is not None}
    if task and (show not in ('', 'confusion') or given):
        fail(f'{ckpt} is a fine-tuned model, which hides nothing: show and masks want a pre-trained one')
    if (predict or show == 'confusion') and (not task or show and task['target'] == 'regression'):
        fail(f'{ckpt} has learned no {"classes" if show else "labels"}: predict and confusion are for what '
             'finetune.py writes')
    file = predict or embed
    if file:  # the rows of this file alone
        config['dataset'], own['val_file'], own['test_file'] = file, None, None
    run = set_up(config)
    if run.world > 1:
        fail('eval.py runs as one process: start it with python, not torchrun')
    data, _ = open_data(config, run, checkpoint)
    model = build(checkpoint['model_args'])
    load_weights(model, checkpoint['model'])
    model.to(run.device).eval()
    vectors = partial(outputs, model.features, model, model.config.v_dim, data, batch_size=batch_size, run=run)
    logits = partial(outputs, model, model, model.config.n_out, data, batch_size=batch_size, run=run)

    labelled = ' labelled' * bool((task or probe) and not file)
    rows = data.rows('all' if file else split)
    rows = rows[~np.isnan(data.y[rows])] if labelled else rows
    if not len(rows):
        fail(f'there are no{labelled} {split} rows to score')
    where = f'on {len(rows):,} {split} rows'
    if file:
        for why, n in data.meta['left_out'].items():  # else the answers would not be those of the file's rows
            fail(f'{file} has {n} {why}: take them out first')
        names = data.row_names(file)
        answer = (logits if predict else vectors)(rows).numpy()
        if predict:
            return write_predictions(Path(f'{name_of(file)}.predictions.csv'), names, task, answer, run)
        path = Path(embed_out or f'{name_of(file)}.embeddings.npy')
        with atomic_write(path) as f:
            np.save(f, answer)
        path.with_suffix('.txt').write_text(''.join(f'{name}\n' for name in names))
        print0(run, f'{path}: {len(rows):,} vectors of {model.config.v_dim} float32; {path.with_suffix(".txt")}: '
                 'which row each is of')
    elif probe:
        asked = [config[k] or own.get(k) for k in ('target', 'metric')]
        task, known, note = infer_task(data, *asked, ('train', split.replace('all', 'train')))
        print0(run, note or f'target: {task["target"]}')
        learn = np.random.default_rng(0).permutation(known['train'])[:n_train]
        for name, value in probe_rows(vectors, data, task, learn, rows).items():
            print0(run, f'{name}, {task["metric"]} {where}, {len(learn):,} labels: {value:.4f}')
    elif task:
        p, labels = logits(rows).numpy(), data.labels(rows)
        for name, value in scores(task, labels, p).items():
            print0(run, f'{name} {where}: {value:.4f}')
        if all_alike(task, p):
            print0(run, 'warning: the model answers the same for every row')
        if show:
            show_confusion(task, labels, p)
    else:
        how = replace(Masking.of(own), **given)
        if show and mask is None and how.mask in BLIND:
            how = replace(how, mask='guided')  # what this model would choose
        check_masking(how, data.lengths(rows), data.d_raw)
        if show:
            home = Path(ckpt.replace('hf:', 'out/'))
            out = Path(show_out or (home.parent if home.is_file() else home))
            return (show_masks if show == 'masks' else show_overlap)(model, data, rows, how, out, run)
        value = masked_loss(model, data, rows, how, batch_size, run)
        print0(run, f'masked loss {where}, {how.mask} masks, ratio {how.mask_ratio}: {value:.4f}')


def write_predictions(path, names, task, p, run):
    """A CSV of each row's number (the first is 1) or file name, and the number predicted, in the labels'
    units, or the class and the probability of each."""
    answer, classes = to_predictions(task, p), task['classes'] and [plain(c) for c in task['classes']]
    with atomic_write(path, 'w') as f:
        lines = csv.writer(f, lineterminator='\n')
        lines.writerow(['row', 'prediction', *(f'p({c})' for c in classes or ())])
        for name, v in zip(names, answer.tolist()):
            lines.writerow([name, f'{v:.6g}'] if classes is None else
                           [name, classes[int(np.argmax(v))], *(f'{q:.6f}' for q in v)])
    print0(run, f'{path}: {len(names):,} predictions')
    if all_alike(task, p):
        print0(run, 'warning: the model answers the same for every row')


def plain(label):
    """A label as a file has it: 3 for 3.0."""
    return f'{label:.15g}' if isinstance(label, float) else label


def show_confusion(task, labels, p):
    """How many rows of each class (a line) are taken for which (a column)."""
    y, names = class_numbers(labels, task['classes']), [plain(c) for c in task['classes']]
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (y, to_predictions(task, p).argmax(1)), 1)
    width = max(len(v) for v in (*names, str(len(y)))) + 2
    print('lines: the labels; columns: the answers')
    for head, cells in zip(['', *names], [names, *counts.tolist()]):
        print(f'{head:>{width}}' + ''.join(f'{cell:>{width}}' for cell in cells))


def probe_rows(vectors, dataset, task, learn, rows):
    """
    The metric, on `rows`, of two readers of frozen features, vectors(rows), that know the labels of `learn`
    only: a vote of (or the mean over) the 20 nearest by cosine; and logistic regression, its summed loss +
    |W|^2 / 2 (or ridge, summed squares + |W|^2).
    """
    H = [vectors(r).double() for r in (learn, rows)]
    X, Z = ((h - H[0].mean(0)) / H[0].std(0, correction=0).clamp(min=1e-8) for h in H)  # (k, d)
    y, task = encode_labels(dataset, learn, task)
    target, labels = task['target'], dataset.labels(rows)
    Y = torch.from_numpy(np.eye(len(task['classes']))[y] if target == 'multiclass' else y[:, None] / 1.0)
    near = [(z @ F.normalize(X).T).topk(min(20, len(X))).indices for z in F.normalize(Z).split(1024)]
    votes = torch.cat([Y[i].mean(1) for i in near]) - 0.5 * (target == 'binary')  # (rows, n_out); 0 = a draw
    fit, penalty = {'binary': (F.binary_cross_entropy_with_logits, 0.5), 'multiclass': (F.cross_entropy, 0.5),
                    'regression': (F.mse_loss, 1.0)}[target]
    W, b = (torch.zeros(k, Y.shape[1], dtype=torch.float64, requires_grad=True) for k in (X.shape[1], 1))
    optimizer = torch.optim.LBFGS([W, b], max_iter=500, line_search_fn='strong_wolfe')

    def loss():
        optimizer.zero_grad()
        value = (fit(X @ W + b, Y, reduction='sum') + penalty * W.square().sum()) / len(X)
        value.backward()
        return value
    optimizer.step(loss)
    linear = (Z @ W + b).detach()
    return {f'probe_{k}': score(task, labels, p.numpy()) for k, p in (('knn', votes), ('linear', linear))}


@torch.no_grad()
def show_masks(model, dataset, rows, how, out, run):
    """Figure 2, Table 7: two views by the same weights beside baselines; numbers on 1,000 masks of each."""
    is_image = dataset.d_raw == 3 and math.isqrt(dataset.n) ** 2 == dataset.n
    baselines = ['patch'] * is_image + ['word'] * dataset.is_bytes + ['random']
    one, two = f'{how.mask} 1', f'{how.mask} 2'
    kinds = {**{name: replace(how, mask=name) for name in baselines}, one: how, two: how}
    rows = np.random.default_rng(0).permutation(rows)[:1000]
    generator, kept, first = torch.Generator(run.device), {}, None
    for i, at, x, valid in scoring(dataset, rows, batch_size, run):
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        choose = partial(model.choose_mask, x, model.embed(x), valid)
        views = {name: choose(kind, generator.manual_seed(10 * i + j))
                 for j, (name, kind) in enumerate(kinds.items())}  # {name: (B, n) bool}
        first = first or (x, valid, views)  # the longest rows: the others are padded to their n
        more = {'x': x} if dataset.is_bytes else {}
        if how.mask not in BLIND:
            same_queries = generator.manual_seed(10 * i + len(baselines))
            more['exact'] = choose(replace(how, mask='guided_exact'), same_queries)
        for name, t in (views | more).items():
            kept.setdefault(name, []).append(F.pad(t, (0, first[0].shape[1] - t.shape[1])).cpu())
    kept = {name: torch.cat(parts) for name, parts in kept.items()}
    others = {'in another view': kept[two], 'by guided_exact, the same queries': kept.get('exact')}
    pairs = {what: [pair for names in groups for pair in combinations(map(C.index, names), 2)]
             for what, groups in HIGGS_GROUPS.items() if dataset.columns == C}
    mine, chance = (measure(kept[name], others, kept.get('x'), is_image, pairs) for name in (one, 'random'))
    title = f'{len(rows):,} masks, ratio {how.mask_ratio}; mean and 95 % interval'
    print(f'{title:62}{how.mask:>17}{"random":>17}')
    for what, v in mine.items():
        numbers = (f'{t.mean():8.4f} ± {1.96 * t.std() / len(t) ** 0.5:.4f}' for t in (v, chance[what]))
        print(f'  {what:60}' + ''.join(numbers))
    x, valid, views = first
    if is_image:
        image_sheet({'reference': x, **{k: x.masked_fill(v[..., None], torch.nan) for k, v in views.items()},
                     f'answer to {one}': reconstruct(model, x, views[one])}, dataset.norm, out)
    elif dataset.is_bytes:
        text_sheet([(name, x[b, valid[b]].tolist(), v[b, valid[b]].tolist()) for b in range(min(3, len(x)))
                    for name, v in {'reference': ~valid, **views}.items()], out)
    else:
        heat_map(torch.cat([kept[one], kept[two]]), dataset.columns, out)


def measure(hidden, others, ids, is_image, pairs):
    """
    What masks (N, n) share with others of the same rows, and what they join, for each mask: {what: (N,)}.
    ids (N, n), of text. pairs {what: [(i, j), ..]}, of tables: the mean over the pairs.
    """
    h, count = hidden.double(), hidden.sum(1)
    values = {f'also hidden {k}': (hidden & v).sum(1) / count for k, v in others.items() if v is not None}
    if is_image:
        s = h.unflatten(1, (math.isqrt(h.shape[1]), -1))  # (N, side, side)
        neighbours = (s[:, 1:], s[:, :-1]), (s[:, :, 1:], s[:, :, :-1])
        both, either = (sum(f(a, b).sum((1, 2)) for a, b in neighbours) for f in (torch.mul, torch.add))
        values['hidden neighbours of a hidden pixel, share'] = 2 * both / either
    elif ids is not None:
        starts, spaces = hidden & ~F.pad(hidden[:, :-1], (1, 0)), torch.isin(ids, torch.tensor(SPACES))
        values['run of hidden bytes, mean length'] = count / starts.sum(1)
        values['spaces among the hidden bytes, share'] = (hidden & spaces).sum(1) / count
    for what, several in pairs.items():
        (i, j), z = torch.tensor(several).T, (h - h.mean(0)) / h.std(0, correction=0).clamp(min=1e-9)
        values[f'{what}: both hidden'] = (h[:, i] * h[:, j]).mean(1)
        values[f'{what}: correlation'] = (z[:, i] * z[:, j]).mean(1)
    return values


def reconstruct(model, x, hidden):
    """x (B, n, d_raw) without padding, the hidden inputs replaced by what the model makes of the others."""
    m = int(hidden[0].sum())  # the same in every sample
    (hidden_at, _), (visible_at, _) = mask_to_indices(hidden, m), mask_to_indices(~hidden, x.shape[1] - m)
    answer = model.decode(*model.encode(gather_rows(model.embed(x), visible_at)), hidden_at).to(x.dtype)
    return x.scatter(1, hidden_at[..., None].expand_as(answer), answer)


@torch.no_grad()
def show_overlap(model, dataset, rows, how, out, run):
    """
    Figure 4: overlap of the queries' choices against the number of inputs n', on the 64 longest rows. The
    paper has no formula. Here: of n' random inputs m = round(r n' / k) queries each choose their own top k, as
    in the authors' code, and the overlap is the share of these m k choices that another query has made. k is
    inputs_per_query, or what l queries need to meet r.
    """
    if how.mask in BLIND:
        fail(f'show=overlap is of the tops that guided masks take, not of mask={how.mask}')
    rows = rows[np.argsort(-dataset.lengths(rows), kind='stable')[:64]]
    n, r = int(dataset.lengths(rows).min()), how.mask_ratio
    k = max(inputs_per_query, -(-round(r * n) // (model.config.n_latent or n)))
    generator, curves = torch.Generator(run.device).manual_seed(0), {'overlap': [], 'were choices random': []}
    print(f'{"inputs":>8}{"queries":>9}{"top k":>7}{"overlap":>9}{"by chance":>11}{"hidden":>8}   wanted {r}')
    for n_inputs in sorted({n * part // 8 for part in range(1, 9)} - set(range(2 * k))):
        m, values = max(round(r * n_inputs / k), 1), []
        size = max(2 ** 25 // (model.config.n_head * m * n), 1)  # rows at a time, for the maps are large
        for _, _, x, _ in scoring(dataset, rows, size, run):
            every = torch.ones(len(x), n, dtype=torch.bool, device=x.device)
            part = torch.zeros_like(every).scatter_(1, sample_queries(every, n_inputs, generator), True)
            R = sample_queries(model.can_query(part), m, generator)  # (B, m)
            A = model.attention(model.embed(x[:, :n]), part, R).sum(1)  # (B, m, n), summed over heads
            chosen = torch.zeros_like(part).scatter_(1, A.topk(k).indices.flatten(1), True)  # (B, n)
            values.append(1 - chosen.sum(1) / (m * k))
        value, chance = torch.cat(values).mean().item(), 1 - n_inputs * (1 - (1 - k / n_inputs) ** m) / (m * k)
        curves['overlap'].append((n_inputs, value))
        curves['were choices random'].append((n_inputs, chance))
        print(f'{n_inputs:8}{m:9}{k:7}{value:9.3f}{chance:11.3f}{(1 - value) * m * k / n_inputs:8.3f}')
    if not curves['overlap']:
        fail(f'rows of {n} inputs are too short for queries that choose {k} each: lower inputs_per_query')
    plot({'overlap of the queries\' tops': curves}, 'inputs', out / 'overlap.png')


def show_curves(folders, out):
    """The log.jsonl of several runs of pretrain.py, or of finetune.py."""
    shown = 'loss', 'val_loss', 'val_loss_random', 'val_score', 'mask_entropy', 'hidden_least', 'hidden_most'
    panels = {}  # {what: {label: [(step, value), ..]}}
    for folder in folders:
        try:  # the last line may be half written
            text = (Path(folder) / 'log.jsonl').read_text()
            entries = [json.loads(line) for line in text.splitlines() if line.endswith('}')]
        except (OSError, ValueError) as error:
            fail(f'runs={folder}: no log of pretrain.py or finetune.py there: {error}')
        for e in entries:
            label = folder + (': {init_from} lr {lr:g} seed {seed}' if 'init_from' in e else '').format(**e)
            for k in (k for k in shown if math.isfinite(e.get(k, math.nan))):
                panels.setdefault(k, {}).setdefault(label, []).append((e['step'], e[k]))
    if not panels:
        fail(f'{", ".join(folders)}: nothing is logged there yet')
    plot(panels, 'step', out / 'curves.png')


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


if __name__ == '__main__':
    run_cli(main)
