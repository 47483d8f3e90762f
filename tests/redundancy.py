"""
When should guided masks help? The paper's reason is redundancy: where neighbours give a hidden input away,
random masks teach little. Here is a table of which the truth is known, and whose redundancy can be chosen.

    PYTHONPATH=. python tests/redundancy.py --views=4 --seed=0                      a minute on one core
    PYTHONPATH=. python tests/redundancy.py --views=4 --seed=0 --n_latent=16        a Perceiver

Rows are points on a curved surface: eight factors, functions of three numbers that are in no column. Each
factor is seen `views` times, with noise, in shuffled columns. The noise grows with sqrt(views), so that the
mean of a factor's views tells as much whatever their number. The label is where on the surface a row lies,
which takes several factors to know.

The stages' own scripts pre-train and probe. `factor` masks cheat: they hide all views of a factor or none.
Printed, and added to OUT/results.jsonl: for each kind of mask R^2 on test rows of a linear probe that knows
1,000 labels, and how often another view of a hidden column's factor is hidden too (half of the columns are
hidden); R^2 of gradient boosting on the columns, and on the mean views (needs scikit-learn).
"""

import json
import re
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

import masking
from configurator import ROOT, configure
from model import build
from util.checkpoint import load, load_weights
from util.errors import run_cli
from util.scaling import normalise

views = 4  # of each factor
seed = 0  # of the world, the weights and the masks
n_latent = 0  # 0 = a Transformer
kinds = 'random,guided,factor'  # of masks
out = 'out/redundancy'

MODEL = ['--embed_dim=32', '--qk_dim=32', '--v_dim=32', '--batch_size=128', '--max_steps=1000', '--lr=2e-3']
MASKS = {'random': ['--mask=random'],
         'guided': ['--mask_anneal=0.25', '--min_random_fraction=0'],
         'factor': ['--mask=factor']}
PARTS = {'train': slice(10_000), 'val': slice(10_000, 11_000), 'test': slice(11_000, 15_000)}
N_ROWS = 15_000
FACTORS = 8
NOISE = 0.15
LABELS = 1000


def main():
    configure(globals())
    x, y, mean_views, factor = make_table(views, seed)
    folder = Path(out, f'{views}-{n_latent}-{seed}')
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in PARTS.items():
        np.savez(folder / f'{name}.npz', X=x[rows], y=y[rows])
    add_factor_masks(factor)

    line = dict(views=views, n_latent=n_latent, seed=seed)
    for kind in kinds.split(','):
        line[kind] = probe_score(kind, folder)
        if views > 1:
            line[f'{kind}_together'] = round(together(folder / kind, x[PARTS['test']][:1000], factor), 4)
    line['boost_columns'] = boosting_score(x, y)
    line['boost_means'] = boosting_score(mean_views, y)
    print(json.dumps(line))
    with open(Path(out, 'results.jsonl'), 'a') as f:
        f.write(json.dumps(line) + '\n')


def make_table(views, seed):
    """-> columns (n, 8 views) float32, labels (n,), mean views (n, 8), the factor of each column (8 views,)"""
    n = N_ROWS
    world = np.random.default_rng(seed)  # the same for any number of views
    z = world.standard_normal((n, 3))  # a point on the surface
    W = world.standard_normal((3, FACTORS))
    phase = world.uniform(0, 2 * np.pi, FACTORS)
    f = np.sin(0.6 * z @ W + phase)  # (n, 8)
    f = (f - f.mean(0)) / f.std(0)
    y = z[:, 0] * z[:, 1] + z[:, 2]

    eyes = np.random.default_rng(seed + 1000)
    x = f[:, :, None] + NOISE * views ** 0.5 * eyes.standard_normal((n, FACTORS, views))
    order = eyes.permutation(FACTORS * views)
    columns = x.reshape(n, -1)[:, order].astype(np.float32)
    return columns, y, x.mean(2), order // views


def add_factor_masks(factor):
    """Make the mask `factor` known to the stages."""
    group = torch.as_tensor(factor)

    def hide_factors(x, valid, k, generator):
        return masking.hide_groups(group.expand(valid.shape), valid, k, generator)
    masking.BLIND['factor'] = hide_factors


def probe_score(kind, folder):
    """Pre-train with this kind of mask; R^2 of the linear probe on the test rows."""
    files = [f'--dataset={folder}/train.npz', f'--val_file={folder}/val.npz', f'--test_file={folder}/test.npz']
    run_stage('pretrain.py', *files, *MODEL, *MASKS[kind], f'--n_latent={n_latent}', f'--seed={seed}',
              f'--out_dir={folder}/{kind}')
    text = run_stage('eval.py', f'--ckpt={folder}/{kind}', '--probe', '--metric=r2', f'--n_train={LABELS}')
    return float(re.search(r'probe_linear.*: (\S+)\n', text)[1])


def run_stage(name, *arguments):
    """What a stage prints."""
    sys.argv = [name, *arguments]
    printed = StringIO()
    with redirect_stdout(printed):
        runpy.run_path(str(ROOT / name), run_name='__main__')
    return printed.getvalue()


@torch.no_grad()
def together(path, x, factor):
    """Of the other views of hidden columns, the share that is hidden too."""
    checkpoint = load(path, ('model', 'model_args', 'norm', 'config'))
    model = build(checkpoint['model_args']).eval()
    load_weights(model, checkpoint['model'])
    x = torch.as_tensor(normalise(x[..., None], checkpoint['norm']))  # (B, n, 1)
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    settings = masking.Masking.of(checkpoint['config'])
    generator = torch.Generator().manual_seed(0)
    hidden = model.choose_mask(x, model.embed(x), valid, settings, generator).double()  # (B, n)

    same_factor = torch.as_tensor(factor[:, None] == factor).double()
    other_view = same_factor.fill_diagonal_(0)  # (n, n)
    both_hidden = (hidden.T @ hidden * other_view).sum()
    one_hidden = (hidden.sum(0)[:, None] * other_view).sum()
    return float(both_hidden / one_hidden)


def boosting_score(columns, y):
    """R^2 on the test rows of gradient boosting that knows LABELS training rows."""
    rows = np.random.default_rng(seed).permutation(10_000)[:LABELS]
    model = HistGradientBoostingRegressor().fit(columns[rows], y[rows])
    return round(model.score(columns[PARTS['test']], y[PARTS['test']]), 4)


if __name__ == '__main__':
    run_cli(main)
