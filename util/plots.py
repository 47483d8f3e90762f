"""Drawing, with matplotlib where it is installed."""

import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from masking import FIRST_BYTE
from util.errors import fail
from util.files import atomic_write


@contextmanager
def picture(path, rows, columns, width, height):
    """A matplotlib figure, its size in inches, and its axes (rows, columns), written to path at the end."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no display
    except ImportError:
        print('no picture, as matplotlib is not installed: pip install matplotlib')
        sys.exit(0)  # all else has been said
    if 110 * max(width, height) >= 2 ** 16:  # pixels, at most, of a picture's side
        print('no picture, it would be too large to draw')
        sys.exit(0)
    figure = Figure((width, height), dpi=110, layout='constrained')
    yield figure, figure.subplots(rows, columns, squeeze=False)
    with atomic_write(path) as f:
        figure.savefig(f, format='png')
    print(f'wrote {path}')


def plot(panels, x_name, path):
    """panels {what: {label: [(x, y), ..]}}: prints every curve as a sparkline, and draws a panel each."""
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    for what, curves in panels.items():
        print(what)
        for label, points in curves.items():
            ys = np.array([y for _, y in points])
            some = ys[np.linspace(0, len(ys) - 1, min(40, len(ys))).round().astype(int)]
            heights = (some - some.min()) / (np.ptp(some) or 1) * 7
            line = ''.join('▁▂▃▄▅▆▇█'[round(v)] for v in heights)
            print(f'  {line:40}  {ys[0]:.4g} -> {ys[-1]:.4g}  {label}')
    across, lines = next(k for k in (3, 2, 1) if len(panels) % k == 0), {}
    down = len(panels) // across
    with picture(path, down, across, max(4 * across, 6), 3 * down + 0.25 * len(labels)) as (figure, axes):
        for ax, (what, curves) in zip(axes.flat, panels.items()):
            ax.set(title=what, xlabel=x_name)
            for label, points in curves.items():
                lines[label], = ax.plot(*zip(*points), '.-', color=f'C{labels.index(label) % 10}')
        figure.legend(lines.values(), lines.keys(), loc='outside lower left')


def heat_map(hidden, names, out):
    """Which inputs masks (N, n) hide together: correlations, in hundredths and from blue to red."""
    hidden, width = hidden.double(), max(map(len, names))
    C = torch.corrcoef(hidden.T).nan_to_num()  # an input always hidden, or never, correlates with none
    print(f'correlation of being hidden, in hundredths; among random masks {-100 / (len(names) - 1):.0f}')
    for name, row in zip(names, C.fill_diagonal_(torch.nan)):
        print(f'{name:>{width}} ' + ''.join(f'{100 * v:4.0f}' for v in row).replace(' nan', '   .'))
    print('how often each is hidden: ' + ', '.join(f'{k} {v:.2f}' for k, v in zip(names, hidden.mean(0))))
    side, top = min(0.25 * len(C) + 2, 20), C.nan_to_num().abs().max() or 1
    with picture(out / 'masks.png', 1, 1, side + 1.5, side) as (figure, ((ax,),)):
        figure.colorbar(ax.imshow(C.numpy(), 'RdBu_r', vmin=-top, vmax=top), label='correlation', shrink=0.8)
        ax.set(title='hidden together (red) or apart (blue)', facecolor='lightgrey')  # grey: the diagonal
        ax.set_xticks(range(len(names)), names, rotation=90, parse_math=False)  # $ is a $
        ax.set_yticks(range(len(names)), names, parse_math=False)


def image_sheet(columns, norm, out):
    """columns: {name: x (B, n, 3)}, n a square, scaled by norm; NaN = hidden, drawn grey. Four rows."""
    x = torch.stack([x[:4].cpu().float() for x in columns.values()])  # (columns, 4, n, 3)
    x = x * norm['std'] + norm['mean'] if norm['kind'] == 'standard' else x
    low, high, side = x[0].min(), x[0].max(), math.isqrt(x.shape[2])  # the first column hides nothing
    x = ((x - low) / (high - low)).clamp(0, 1).nan_to_num(0.6).unflatten(2, (side, side))
    pages = F.pad(x, (0, 0, 0, 0, 0, -(-side // 16)), value=1).flatten(1, 2)  # one image below the other
    with picture(out / 'masks.png', 1, len(pages), 2.1 * len(pages), 2.25 * x.shape[1] + 0.4) as (_, axes):
        for name, ax, pixels in zip(columns, axes[0], pages):
            ax.imshow(pixels.numpy(), interpolation='nearest')
            ax.set_title(name, fontsize=14)
            ax.set_axis_off()


def text_sheet(texts, out, width=100):
    """texts: a list of (name, ids (n,), hidden (n,)). Hidden: red in a terminal, blocks elsewhere."""
    lines, left = [], 15  # (characters, which are hidden)
    for name, ids, hidden in texts:
        text = ''.join(chr(i - FIRST_BYTE) if 32 <= i - FIRST_BYTE < 127 else '·' for i in ids)
        for at in range(0, len(text), width):
            line = f'{name * (at == 0):>{left - 1}} {text[at:at + width]}'
            hides = [False] * left + hidden[at:at + width]
            marks = [f'\033[41;97m{c}\033[0m' if sys.stdout.isatty() else '░█'[c != ' '] for c in line]
            print(''.join(mark if h else c for c, h, mark in zip(line, hides, marks)))
            lines.append((line, hides + [False] * (left + width - len(hides))))
    red = np.where(np.array([h for _, h in lines])[..., None], (0.8, 0.2, 0.2), 1.0)  # (lines, characters, 3)
    with picture(out / 'masks.png', 1, 1, 0.09 * (left + width), 0.18 * len(lines)) as (_, ((ax,),)):
        ax.imshow(red, extent=(0, left + width, len(lines), 0), aspect='auto', interpolation='nearest')
        ax.set_axis_off()
        for i, line in enumerate(lines):
            for j, (c, h) in enumerate(zip(*line)):
                ax.text(j + 0.5, i + 0.75, c, ha='center', size=9, family='monospace', color='kw'[h])


SHOWN = ('loss', 'val_loss', 'val_loss_random', 'val_score', 'mask_entropy', 'hidden_least', 'hidden_most')


def panels_of_logs(folders):
    """What the log.jsonl in these folders say, as plot() takes it: {what: {label: [(step, value), ..]}}."""
    panels = {}
    for folder in folders:
        for entry in read_log(folder):
            label = folder
            if 'init_from' in entry:
                label += ': {init_from} lr {lr:g} seed {seed}'.format(**entry)
            for name in SHOWN:
                value = entry.get(name)
                if value is not None:  # null: the number was not finite
                    curves = panels.setdefault(name, {})
                    curves.setdefault(label, []).append((entry['step'], value))
    return panels


def read_log(folder):
    """The entries of a log.jsonl. Its last line may be half written."""
    try:
        lines = (Path(folder) / 'log.jsonl').read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith('}')]
    except (OSError, ValueError) as error:
        fail(f'runs={folder}: no log of pretrain.py or finetune.py there: {error}')
