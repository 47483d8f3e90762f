"""
What a checkpoint is worth: scores, probes and embeddings; and what its masks look like.

    python eval.py --ckpt=out/collider/guided                                     masked loss on the test rows
    python eval.py --ckpt=out/finetune_collider/out-collider-guided-lr0.001-seed0.pt      test score
    python eval.py --ckpt=... --split=valid
    python eval.py --ckpt=... --dataset=new.csv --label_column=y --split=all      the same on another file
    python eval.py --ckpt=out/collider/guided --embed=new.csv                     new.embeddings.npy, a vector a row
    python eval.py --ckpt=out/collider/guided --probe                             test score of its frozen features
    python eval.py --ckpt=out/collider/guided --show=masks                        pictures and statistics of its masks
    python eval.py --ckpt=out/collider/guided --show=overlap                      Figure 4
    python eval.py --show=curves --runs=out/collider/random,out/collider/guided   losses and scores while training

The data are those the checkpoint was trained on, unless --dataset names others; its statistics scale the floats.
Pictures are PNG, drawn with Pillow; without it their text is still printed.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from configurator import configure, fail
from data import FIRST_BYTE, HIGGS_COLUMNS, describe, open_dataset, scoring
from masking import SPACES, check_masks, positions, sample_queries
from model import build, load, load_weights, masked_loss, outputs, take
from pretrain import cut, probe_rows, say, score_rows, set_up, settle_target

# -----------------------------------------------------------------------------
ckpt = ''  # a checkpoint of pretrain.py or finetune.py, or a folder with last.pt
split = 'test'  # rows to score: train, valid, test or all
embed: str | None = None  # a file, or a folder of images: write one vector for each of its rows
embed_out: str | None = None  # where to; None = FILE.embeddings.npy in the current folder
# other data than the checkpoint's own
dataset: str | None = None  # a name from data.py, a file, or a folder of images
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: one text column, or number columns 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column. npz: 'y'
split_column: str | None = None  # csv: a column that says train, valid or test
valid_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
valid_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test
window: int | None = None  # text: join the lines and cut them into windows of so many bytes; None = a line a sequence
# masks of a pre-trained checkpoint; None = those it was trained with
mask: str | None = None  # a name from masking.py's MASKS
mask_ratio: float | None = None  # share of the inputs hidden
n_query: int | None = None  # queries drawn for each mask; at most all there are
# probes and pictures
probe = False  # score frozen features: nearest neighbours, and a linear map
n_train: int | None = 10_000  # labelled training rows that the probes learn from; None = all
target: str | None = None  # of the probes: binary, multiclass or regression; None = the data set's own
metric: str | None = None  # one of METRICS in data.py; None = the data set's own, else accuracy or rmse
show = ''  # masks, overlap or curves
runs = ('out/collider/random', 'out/collider/guided')  # folders with log.jsonl, for curves
inputs_per_query = 4  # inputs that each query chooses, for overlap
show_out: str | None = None  # folder for the PNGs; None = beside the checkpoint, or the first of runs
# run
batch_size = 256  # samples at a time
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
# -----------------------------------------------------------------------------
_DATA_KNOBS = ('input_column', 'label_column', 'split_column', 'valid_file', 'test_file', 'valid_share', 'test_share',
               'window')


def data_of(config, checkpoint, run):
    """The data set to look at: the checkpoint's own, or the one that the knobs name; fits the model or fails."""
    own, source = checkpoint['config'], config['embed'] or config['dataset']
    knobs = {k: own.get(k, config[k]) if source is None else config[k] for k in _DATA_KNOBS}
    knobs['dataset'] = own['dataset'] if source is None else source
    knobs['image_size'] = own.get('image_size', 192)  # the model has a position for each pixel
    dataset = open_dataset({**knobs, 'data_dir': config['data_dir']})
    args = checkpoint['model_args']
    have, want = (f'{n} inputs of {d_raw} float(s)' if d_raw else 'byte sequences'
                  for n, d_raw in ((dataset.n, dataset.d_raw), (args['seq_len'], args['d_raw'])))
    if have != want:
        fail(f'{knobs["dataset"]} holds {have}, the checkpoint wants {want}: see input_column and label_column')
    describe(dataset)
    learned = checkpoint.get('columns') or []
    if learned and learned != dataset.columns and sorted(learned) == sorted(dataset.columns or []):
        fail(f'{knobs["dataset"]} has the columns in another order than the checkpoint learned: '
             f'--input_column={",".join(learned)}')
    dataset.norm = checkpoint['norm']
    cut(dataset, args['seq_len'], own['max_len'], run)
    return dataset


# -----------------------------------------------------------------------------
# drawing: a canvas, and four pictures on it

BLUE, RED, GREY, INK = (53, 110, 174), (200, 60, 50), (205, 205, 205), (30, 30, 30)
COLOURS = (RED, BLUE, (60, 150, 80), (150, 90, 170), (230, 150, 40), (70, 180, 190), (120, 80, 50), INK)


def canvas(pixels):
    """pixels (height, width, 3) uint8 as a Pillow image, and its pen; (None, None), and a line, where there is none."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        print('Pillow is not installed, so there is no PNG: pip install pillow')
        return None, None
    image = Image.fromarray(pixels)
    return image, ImageDraw.Draw(image)


def save_png(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(256).save(path, optimize=True)
    print(f'{path}: {image.width} x {image.height}')


def plot(panels, x_name, path):
    """panels: {what: {label: [(x, y), ..]}}. Prints every curve as a sparkline, and draws a panel each, in a PNG."""
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    for what, curves in panels.items():
        print(what)
        for label, points in curves.items():
            ys = np.array([y for _, y in points])
            some = ys[np.linspace(0, len(ys) - 1, min(40, len(ys))).round().astype(int)]
            line = ''.join('▁▂▃▄▅▆▇█'[round(v)] for v in (some - some.min()) / (np.ptp(some) or 1) * 7)
            print(f'  {line:40}  {ys[0]:.4g} -> {ys[-1]:.4g}  {label}')
    across, w, h = min(len(panels), 3), 300, 200
    height = -(-len(panels) // across) * h + 14 * len(labels) + 10
    image, pen = canvas(np.full((height, across * w, 3), 255, np.uint8))
    if image is None:
        return
    for i, (what, curves) in enumerate(panels.items()):
        left, top = i % across * w + 50, i // across * h + 22
        right, bottom = left + w - 65, top + h - 55
        xs, ys = (np.array([p[k] for points in curves.values() for p in points], float) for k in (0, 1))
        low, span = ys.min(), np.ptp(ys) or 1.0
        pen.text((left, top - 16), what, INK)
        pen.rectangle((left, top, right, bottom), outline=GREY)
        for value, y in ((low, bottom - 8), (low + span, top)):
            pen.text((left - 4, y), f'{value:.3g}', INK, anchor='ra')
        pen.text((left, bottom + 3), f'{xs.min():g}', INK)
        pen.text((right, bottom + 3), f'{x_name} {xs.max():g}', INK, anchor='ra')
        for label, points in curves.items():
            line = [(left + (x - xs.min()) / (np.ptp(xs) or 1) * (right - left),
                     bottom - (y - low) / span * (bottom - top)) for x, y in points]
            pen.line(line, COLOURS[labels.index(label) % len(COLOURS)], 2)
    for i, label in enumerate(labels):
        y = image.height - 14 * (len(labels) - i)
        pen.line((10, y, 30, y), COLOURS[i % len(COLOURS)], 3)
        pen.text((36, y - 6), label, INK)
    save_png(image, path)


def picture(cells, size, path, left=(), top=(), letters=()):
    """
    cells (rows, columns, 3) uint8 as a PNG, each cell size = (width, height) pixels large; beside them a name for each
    row, above them names spread evenly; on them letters (row, column, character, colour).
    """
    w, h = size
    x0, y0 = 7 * max(map(len, left), default=0) + 8, 18
    pixels = cells.repeat(h, 0).repeat(w, 1)
    image, pen = canvas(np.pad(pixels, ((y0, 8), (x0, 8), (0, 0)), constant_values=255))
    if image is None:
        return
    for i, name in enumerate(left):
        pen.text((x0 - 4, y0 + h * i + h // 2), name, INK, anchor='rm')
    for j, name in enumerate(top):
        pen.text((x0 + w * cells.shape[1] * j // len(top), 3), name, INK)
    for i, j, c, colour in letters:
        pen.text((x0 + w * j + w // 2, y0 + h * i + h // 2), c, colour, anchor='mm')
    save_png(image, path)


def heat_map(C, names, path):
    """C (n, n) from -1, blue, over 0, white, to 1, red: as a PNG, and as hundredths in text. The diagonal is grey."""
    width = max(map(len, names))
    for i, name in enumerate(names):
        print(f'{name:>{width}} ' + ''.join(f'{100 * v:4.0f}' if i != j else '   .' for j, v in enumerate(C[i])))
    full = np.where(C[..., None] > 0, RED, BLUE)  # (n, n, 3)
    cells = 255 + (full - 255) * np.minimum(abs(C), 1)[..., None]
    cells[np.arange(len(C)), np.arange(len(C))] = GREY
    picture(cells.astype(np.uint8), (16, 16), path, names, ['hidden together (red) or apart (blue), correlation'])


def text_sheet(samples, path, width=100):
    """samples: a list of {name: (ids (n,), hidden (n,))}. Hidden characters are red in a terminal, else blocks."""
    lines = []  # (name or '', characters, hidden)
    for views in samples:
        for name, (ids, hidden) in views.items():
            text = ''.join(chr(i - FIRST_BYTE) if 32 <= i - FIRST_BYTE < 127 else '·' for i in ids)
            lines += [(name * (at == 0), text[at:at + width], hidden[at:at + width])
                      for at in range(0, len(text), width)]
        lines.append(('', '', []))
    cells, letters = np.full((len(lines), width, 3), 255, np.uint8), []
    for i, (name, text, hidden) in enumerate(lines):
        marks = (f'\033[41;97m{c}\033[0m' if sys.stdout.isatty() else '░' if c == ' ' else '█' for c in text)
        print(f'{name:>10} ' + ''.join(m if h else c for c, h, m in zip(text, hidden, marks)))
        cells[i, np.flatnonzero(hidden)] = RED
        letters += [(i, j, c, 'white' if h else INK) for j, (c, h) in enumerate(zip(text, hidden))]
    picture(cells, (7, 14), path, [name for name, *_ in lines], letters=letters)


def image_sheet(columns, norm, path):
    """columns: {name: x (B, n, 3)}, n a square, scaled by norm; NaN = hidden, drawn grey. A row for four images."""
    if norm['kind'] == 'standard':
        columns = {name: x.cpu() * norm['std'] + norm['mean'] for name, x in columns.items()}
    x = torch.stack([x[:4].cpu().float() for x in columns.values()], 1)  # (4, columns, n, 3)
    low, high = x[:, 0].min(), x[:, 0].max()  # of the first column, which hides nothing
    x = ((x - low) / (high - low)).clamp(0, 1).nan_to_num(0.6)
    side = round(x.shape[2] ** 0.5)
    x = F.pad(x.unflatten(2, (side, side)), (0, 0, 0, 1, 0, 1), value=1.0)  # (4, columns, side + 1, side + 1, 3)
    x = (x * 255).byte().permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    picture(x.numpy(), (max(1, 96 // side),) * 2, path, top=list(columns))


# -----------------------------------------------------------------------------
# what to draw

def show_curves(folders, path):
    """The log.jsonl of several runs of pretrain.py, or of finetune.py, one below the other."""
    panels = {}
    for folder in folders:
        log = Path(folder) / 'log.jsonl'
        if not log.is_file():
            fail(f'no {log}: runs wants folders that pretrain.py or finetune.py has written, with commas between')
        for line in filter(lambda s: s.endswith('}'), log.read_text().splitlines()):  # the last may be half written
            try:
                values = json.loads(line)
            except ValueError:
                fail(f'{log} is no log of pretrain.py or finetune.py')
            label = folder if 'init_from' not in values else \
                f'{folder}: {values["init_from"]} lr {values["lr"]:g} seed {values["seed"]}'
            for k in ('loss', 'val_loss', 'val_loss_random', 'probe_knn', 'probe_linear', 'valid', 'mask_entropy',
                      'hidden_least', 'hidden_most'):
                if math.isfinite(values.get(k, math.nan)):
                    panels.setdefault(k, {}).setdefault(label, []).append((values['step'], values[k]))
    if not panels:
        fail(f'{", ".join(map(str, folders))}: nothing is logged there yet')
    plot(panels, 'step', path)


@torch.no_grad()
def overlap(model, x, n_inputs, m, k, generator):
    """
    What Figure 4 counts. The paper gives no formula; here: m queries each choose their own top k of n_inputs inputs, a
    random part of x (B, n), and the overlap is the share of those m k choices that another query has made already.
    -> (B,)
    """
    noise = torch.rand(x.shape[:2], generator=generator, device=x.device)
    part = torch.zeros_like(noise, dtype=torch.bool).scatter_(1, noise.topk(n_inputs).indices, True)  # (B, n)
    R = sample_queries(model.can_query(part), m, generator)  # (B, m)
    A = model.attention(model.embed(x), part, R).sum(1)  # (B, m, n), summed over heads
    chosen = torch.zeros_like(part).scatter_(1, A.topk(k).indices.flatten(1), True)  # (B, n)
    return 1 - chosen.sum(1) / (m * k)


def show_overlap(model, dataset, rows, ratio, per_query, out, run):
    """
    Figure 4: overlap against the number of inputs n', at fixed weights, on the 64 longest rows. k is the same for all
    n' (per_query, or what l queries need to meet the ratio), and m = round(r n' / k), as the authors' code has it.
    """
    rows = rows[np.argsort(-dataset.lengths(rows), kind='stable')[:64]]
    n = int(dataset.lengths(rows).min())
    k = max(per_query, -(-round(ratio * n) // (model.config.n_latent or n)))
    generator, curves = torch.Generator(run.device).manual_seed(0), {'overlap': [], 'were choices random': []}
    print(f'{"inputs":>8}{"queries":>9}{"top k":>7}{"overlap":>9}{"by chance":>11}{"hidden":>8}   wanted {ratio}')
    for n_inputs in sorted({n * part // 8 for part in range(1, 9)} - set(range(2 * k))):
        m = max(round(ratio * n_inputs / k), 1)
        size = max(2 ** 25 // (model.config.n_head * m * n), 1)  # rows at a time, for the maps are large
        xs = (dataset.inputs(dataset.batch(rows[i:i + size])[0].to(run.device))[:, :n]
              for i in range(0, len(rows), size))
        value = torch.cat([overlap(model, x, n_inputs, m, k, generator) for x in xs]).mean().item()
        chance = 1 - n_inputs * (1 - (1 - k / n_inputs) ** m) / (m * k)
        curves['overlap'].append((n_inputs, value))
        curves['were choices random'].append((n_inputs, chance))
        print(f'{n_inputs:8}{m:9}{k:7}{value:9.3f}{chance:11.3f}{(1 - value) * m * k / n_inputs:8.3f}')
    if not curves['overlap']:
        fail(f'rows of {n} inputs are too short for queries that choose {k} each: lower inputs_per_query')
    plot({'overlap of the queries\' tops': curves}, 'inputs', out / 'overlap.png')


def higgs_pairs(columns):
    """Pairs of HIGGS columns that belong together: {what: [(i, j), ..]}; {} for other data."""
    if columns not in (HIGGS_COLUMNS, [f'c{i}' for i in range(28)]):
        return {}
    at = {name: i for i, name in enumerate(HIGGS_COLUMNS)}
    groups = {'lepton pt, eta, phi': [['lepton_pt', 'lepton_eta', 'lepton_phi']], 'met, its phi': [['met', 'met_phi']],
              'a jet\'s pt, eta, phi, btag': [[f'jet{k}_{v}' for v in 'pt eta phi btag'.split()] for k in (1, 2, 3, 4)]}
    pairs = {what: [(at[a], at[b]) for g in several for i, a in enumerate(g) for b in g[:i]]
             for what, several in groups.items()}
    masses = dict(m_jjj='m_jj', m_jlv='m_lv', m_wbb='m_bb m_jj', m_wwbb='m_wbb m_lv',
                  m_lv='lepton_pt lepton_eta lepton_phi met met_phi')
    pairs['a mass and a part of it'] = [(at[a], at[b]) for a, parts in masses.items() for b in parts.split()]
    return pairs


def reconstruct(model, x, x_hat, hidden):
    """x (B, n, d_raw) without padding, the hidden inputs replaced by what the model makes of the others."""
    m = int(hidden[0].sum())  # the same in every row
    hidden_at, _ = positions(hidden, m)
    visible_at, _ = positions(~hidden, x.shape[1] - m)
    H, rows = model.encode(take(x_hat, visible_at))
    answer = model.decode(H, rows, hidden_at).to(x.dtype)
    return x.scatter(1, hidden_at[..., None].expand_as(answer), answer)


def measure(hidden, other, exact, x, is_image):
    """What masks (B, n) join, a number for each: {what: (B,)}. `other`, `exact`: other masks of the same rows."""
    values = {'also hidden in another view': (hidden & other).sum(1) / hidden.sum(1),
              'also hidden by guided_exact, the same queries': (hidden & exact).sum(1) / hidden.sum(1)}
    if is_image:
        def around(t):  # of the four neighbours of each pixel, how many are in t (B, side, side)
            t = F.pad(t, (1, 1, 1, 1))
            return t[:, 2:, 1:-1] + t[:, :-2, 1:-1] + t[:, 1:-1, 2:] + t[:, 1:-1, :-2]
        square = hidden.unflatten(1, (round(hidden.shape[1] ** 0.5), -1)).double()
        hits, places = ((square * around(t)).sum((1, 2)) for t in (square, torch.ones_like(square)))
        values['hidden neighbours of a hidden pixel, share'] = hits / places
    elif x.ndim == 2:
        starts = hidden & ~F.pad(hidden[:, :-1], (1, 0))
        space = torch.isin(x, torch.tensor(SPACES, device=x.device))
        values['run of hidden bytes, mean length'] = hidden.sum(1) / starts.sum(1)
        values['spaces among the hidden bytes, share'] = (hidden & space).sum(1) / hidden.sum(1)
    return {what: v.double().cpu() for what, v in values.items()}


def joined(hidden, pairs):
    """
    How often masks (N, n) hide both of a pair, a mean over the pairs of each kind, a number for each mask:
    {what: (N,)}. And how much more often than inputs hidden as often, but independently: as a correlation.
    """
    h, values = hidden.double(), {}
    z = (h - h.mean(0)) / h.std(0, correction=0).clamp(min=1e-9)
    for what, several in pairs.items():
        i, j = torch.tensor(several).T
        values[f'{what}: both hidden'] = (h[:, i] * h[:, j]).mean(1)
        values[f'{what}: correlation'] = (z[:, i] * z[:, j]).mean(1)
    return values


@torch.no_grad()
def show_masks(model, dataset, rows, mask, ratio, n_query, batch_size, out, run):
    """Figure 2 and Table 7: two views by the same weights beside baselines, and numbers on 1,000 masks of each kind."""
    is_image = dataset.d_raw == 3 and math.isqrt(dataset.n) ** 2 == dataset.n
    baseline = ['patch'] if is_image else ['word'] if dataset.is_bytes else []
    kinds = {**{name: name for name in (*baseline, 'random')}, f'{mask} 1': mask, f'{mask} 2': mask}
    rows = np.random.default_rng(0).permutation(rows)[:1000]
    generator, pairs, measured, hidden = torch.Generator(run.device), higgs_pairs(dataset.columns), {}, {}
    for i, at, x, valid in scoring(dataset, rows, batch_size, run):
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        x_hat = model.embed(x)
        views = {name: model.choose_mask(x, x_hat, valid, kind, ratio, n_query, generator.manual_seed(10 * i + j))
                 for j, (name, kind) in enumerate(kinds.items())}
        same_queries = generator.manual_seed(10 * i + list(kinds).index(f'{mask} 1'))
        exact = model.choose_mask(x, x_hat, valid, 'guided_exact', ratio, n_query, same_queries)
        for name in (f'{mask} 1', 'random'):
            for what, v in measure(views[name], views[f'{mask} 2'], exact, x, is_image).items():
                measured.setdefault(what, {}).setdefault(name, []).append(v)
        for name in () if is_image or dataset.is_bytes else views:
            hidden.setdefault(name, []).append(views[name].cpu())
        if i == 0:
            first = x, valid, x_hat, views
    x, valid, x_hat, views = first
    if is_image:
        image_sheet({'reference': x, **{name: x.masked_fill(v[..., None], torch.nan) for name, v in views.items()},
                     'answer to 1': reconstruct(model, x, x_hat, views[f'{mask} 1'])}, dataset.norm, out / 'masks.png')
    elif dataset.is_bytes:
        views = {'reference': torch.zeros_like(valid), **views}
        text_sheet([{name: (x[b, valid[b]].tolist(), v[b, valid[b]].tolist()) for name, v in views.items()}
                    for b in range(min(3, len(x)))], out / 'masks.png')
    else:
        names = HIGGS_COLUMNS if pairs else dataset.columns
        for name in (f'{mask} 1', 'random'):
            for what, v in joined(torch.cat(hidden[name]), pairs).items():
                measured.setdefault(what, {})[name] = [v]
        hidden = torch.cat(hidden[f'{mask} 1'] + hidden[f'{mask} 2']).numpy()  # (masks, n)
        print(f'correlation of being hidden, in hundredths; among random masks it is {-100 / (dataset.n - 1):.0f}')
        with np.errstate(invalid='ignore'):  # an input always hidden, or never, correlates with none
            heat_map(np.nan_to_num(np.corrcoef(hidden.T)), names, out / 'masks.png')
        print('how often each is hidden: ' + ', '.join(f'{name} {v:.2f}' for name, v in zip(names, hidden.mean(0))))
    print(f'{len(rows):,} masks, ratio {ratio}; mean and 95 % interval'.ljust(62) + f'{mask:>17}{"random":>17}')
    for what, by_kind in measured.items():
        v = [torch.cat(by_kind[name]) for name in (f'{mask} 1', 'random')]
        print(f'  {what:60}' + ''.join(f'{a.mean():8.4f} ± {1.96 * a.std() / len(a) ** 0.5:.4f}' for a in v))


def main():
    config = configure(globals())
    for k in ('batch_size', 'n_train', 'n_query', 'inputs_per_query'):
        if config[k] is not None and config[k] < 1:
            fail(f'{k}={config[k]} must be at least 1')
    if bool(config['embed']) + config['probe'] + bool(config['show']) > 1:
        fail('one of embed, probe and show at a time')
    if config['show_out'] and Path(config['show_out']).is_file():
        fail(f'show_out={config["show_out"]!r} is a file: a folder is wanted')
    if config['show'] not in ('', 'masks', 'overlap', 'curves'):
        fail(f'show={config["show"]!r}: masks, overlap or curves')
    if config['show'] == 'curves':
        show_curves(config['runs'], Path(config['show_out'] or config['runs'][0]) / 'curves.png')
        return
    if not config['ckpt']:
        fail('say which checkpoint: --ckpt=out/...')
    if config['split'] not in ('train', 'valid', 'test', 'all'):
        fail(f'split={config["split"]!r}: train, valid, test or all')
    checkpoint = load(config['ckpt'], keys=('model', 'model_args', 'config', 'norm'))
    own, head = checkpoint['config'], checkpoint.get('head')
    if head and (config['show'] or config['mask'] or config['mask_ratio']):
        fail(f'{config["ckpt"]} is a fine-tuned model, which hides nothing: show and mask want a pre-trained one')
    run = set_up(config)
    if run.world > 1:
        fail('eval.py runs as one process: start it with python, not torchrun')
    dataset = data_of(config, checkpoint, run)
    model = build(checkpoint['model_args'])
    load_weights(model, checkpoint['model'])
    model.to(run.device).eval()

    if config['embed']:
        for why, n in dataset.meta['left_out'].items():  # else the vectors would not be those of the file's rows
            fail(f'{config["embed"]} has {n} {why}: take them out first')
        path = Path(config['embed_out'] or Path(config['embed']).name.split('.')[0] + '.embeddings.npy')
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(dataset.y))
        batches = scoring(dataset, rows, config['batch_size'], run)
        vectors = outputs(model.features, model, (len(rows), model.config.v_dim), batches, run.device, run.autocast)
        np.save(path, vectors.cpu().numpy())
        say(run, f'{path}: {len(rows):,} vectors of {model.config.v_dim} float32, in the order of the rows')
        return

    rows = np.arange(len(dataset.y)) if config['split'] == 'all' else dataset.rows(config['split'])
    if head or config['probe']:
        rows = rows[~np.isnan(dataset.y[rows])]
    if not len(rows):
        fail(f'there are no{" labelled" if head or config["probe"] else ""} {config["split"]} rows to score')
    if config['probe']:
        knobs = {'dataset': config['dataset'] or own['dataset'],
                 **{k: config[k] or own.get(k) or (head or {}).get(k) for k in ('target', 'metric')}}
        needed = {'train', config['split'].replace('all', 'train')}
        head, labelled = settle_target(dataset, knobs, needed)
        learn = np.random.default_rng(0).permutation(labelled['train'])[:config['n_train']]
        for name, value in probe_rows(model, dataset, head, learn, rows, config, run).items():
            say(run, f'{name}, {head["metric"]} on {len(rows):,} {config["split"]} rows, '
                     f'{len(learn):,} labels: {value:.4f}')
    elif head:
        value = score_rows(model, dataset, rows, head, config, run)
        say(run, f'{head["metric"]} on {len(rows):,} {config["split"]} rows: {value:.4f}')
    else:
        mask, ratio, n_query = (own[k] if config[k] is None else config[k] for k in ('mask', 'mask_ratio', 'n_query'))
        if config['show'] and config['mask'] is None and not mask.startswith('guided'):
            mask = 'guided'  # what this model would choose
        check_masks([mask], [ratio], dataset.lengths(rows), dataset.d_raw)
        path = Path(config['ckpt'])
        path = Path(config['show_out'] or (path if path.is_dir() else path.parent))
        if config['show'] == 'masks':
            show_masks(model, dataset, rows, mask, ratio, n_query, config['batch_size'], path, run)
        elif config['show'] == 'overlap':
            show_overlap(model, dataset, rows, ratio, config['inputs_per_query'], path, run)
        else:
            batches = scoring(dataset, rows, config['batch_size'], run)
            total, hidden = masked_loss(model, batches, mask, ratio, n_query, run.device, run.autocast).tolist()
            say(run, f'masked loss on {len(rows):,} {config["split"]} rows, {mask} masks, ratio {ratio}: '
                     f'{total / hidden:.4f}')


if __name__ == '__main__':
    main()
