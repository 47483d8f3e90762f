"""
When should guided masks help? The paper's reason is redundancy: where neighbours give a hidden input away, random
masks teach little. Here is a table of which the truth is known, and how redundant it is can be chosen.

    PYTHONPATH=. python tests/redundancy.py --views=4 --seed=0                      a minute on one core
    PYTHONPATH=. python tests/redundancy.py --views=4 --seed=0 --n_latent=16        a Perceiver

Rows are points on a curved surface: eight factors, functions of three numbers that nobody sees. Each factor is seen
`views` times, with noise, in shuffled columns. The noise grows with sqrt(views), so that the mean of a factor's views
tells as much whatever their number. The label is where on the surface a row lies, which takes several factors to know.

The stages' own scripts pre-train and probe. `factor` masks, a cheat, hide all views of a factor or none. Printed,
and added to OUT/results.jsonl: for each kind of mask R^2 on test rows of a linear probe that knows 1,000 labels, and
how often another view of a hidden column's factor is hidden too (half are hidden); R^2 of gradient boosting on the
columns, and on the mean views (needs scikit-learn).
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
MODEL = '--embed_dim=32 --qk_dim=32 --v_dim=32 --batch_size=128 --max_steps=1000 --lr=2e-3'.split()
KNOBS = {'random': ['--mask=random'], 'guided': ['--mask_anneal=0.25'], 'factor': ['--mask=factor']}
PARTS = {'train': slice(10_000), 'val': slice(10_000, 11_000), 'test': slice(11_000, 15_000)}
FACTORS, NOISE, LABELS = 8, 0.15, 1000


def make(views, seed, n=15_000):
    """-> columns (n, 8 views) float32, labels (n,), mean views (n, 8), the factor of each column (8 views,)"""
    world, eyes = np.random.default_rng(seed), np.random.default_rng(seed + 1000)  # the world has no views in it
    z, W = world.standard_normal((n, 3)), world.standard_normal((3, FACTORS))
    f = np.sin(0.6 * z @ W + world.uniform(0, 2 * np.pi, FACTORS))  # (n, 8)
    f = (f - f.mean(0)) / f.std(0)
    x = f[:, :, None] + NOISE * views ** 0.5 * eyes.standard_normal((n, FACTORS, views))
    order = eyes.permutation(FACTORS * views)
    return x.reshape(n, -1)[:, order].astype(np.float32), z[:, 0] * z[:, 1] + z[:, 2], x.mean(2), order // views


def stage(name, *arguments):
    """What a stage prints."""
    sys.argv, said = [name, *arguments], StringIO()
    with redirect_stdout(said):
        runpy.run_path(str(ROOT / name), run_name='__main__')
    return said.getvalue()


@torch.no_grad()
def together(path, x, factor):
    """Of the hidden columns' other views, the share that is hidden too."""
    checkpoint = load(path, ('model', 'model_args', 'norm', 'config'))
    model = build(checkpoint['model_args']).eval()
    load_weights(model, checkpoint['model'])
    x = torch.as_tensor(normalise(x[..., None], checkpoint['norm']))  # (B, n, 1)
    how, generator = masking.Masking.of(checkpoint['config']), torch.Generator().manual_seed(0)
    hidden = model.choose_mask(x, model.embed(x), torch.ones(x.shape[:2], dtype=torch.bool), how, generator).double()
    alike = torch.as_tensor(factor[:, None] == factor).double().fill_diagonal_(0)  # (n, n)
    return float((hidden.T @ hidden * alike).sum() / (hidden.sum(0)[:, None] * alike).sum())


def main():
    configure(globals())
    x, y, mean, factor = make(views, seed)
    home, test = Path(out, f'{views}-{n_latent}-{seed}'), PARTS['test']
    home.mkdir(parents=True, exist_ok=True)
    for name, rows in PARTS.items():
        np.savez(home / f'{name}.npz', X=x[rows], y=y[rows])
    files = [f'--dataset={home}/train.npz', f'--val_file={home}/val.npz', f'--test_file={home}/test.npz']
    masking.BLIND['factor'] = lambda x, valid, k, generator: masking.hide_groups(
        torch.as_tensor(factor).expand(valid.shape), valid, k, generator)
    line = dict(views=views, n_latent=n_latent, seed=seed)
    for kind in kinds.split(','):
        stage('pretrain.py', *files, *MODEL, *KNOBS[kind], f'--n_latent={n_latent}', f'--seed={seed}',
              f'--out_dir={home}/{kind}')
        said = stage('eval.py', f'--ckpt={home}/{kind}', '--probe', '--metric=r2', f'--n_train={LABELS}')
        line[kind] = float(re.search(r'probe_linear.*: (\S+)\n', said)[1])
        if views > 1:
            line[f'{kind}_together'] = round(together(f'{home}/{kind}', x[test][:1000], factor), 4)
    rows = np.random.default_rng(seed).permutation(10_000)[:LABELS]
    for name, columns in (('boost_columns', x), ('boost_means', mean)):
        line[name] = round(HistGradientBoostingRegressor().fit(columns[rows], y[rows]).score(columns[test], y[test]), 4)
    print(json.dumps(line))
    with open(Path(out, 'results.jsonl'), 'a') as file:
        file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    run_cli(main)
