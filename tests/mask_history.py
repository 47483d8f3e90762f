"""
What guided masks are like while a model learns, on the drawn digits.
Draws assets/glyphs/history.png (matplotlib).

    python tests/mask_history.py            a quarter of an hour on one core
    python tests/mask_history.py --steps=60 --out=out/trial

Each run is config/glyphs.py with other masks. Whenever pretrain.py saves, the weights of that moment choose
masks for 500 validation rows, without any random share, and these are measured:

    two queries       the share of a mask that the mask of another query of the same row hides too
    two rows          the share of a mask that the mask of another row hides too
    neighbours        the share of the neighbours of a hidden pixel that are hidden
    kinds of masks    how many of the 500 masks differ from each other in at least a tenth of what they hide
    loss on random    the validation loss on random masks

By chance the first three are the mask ratio, 0.5.
"""

import json
import runpy
import sys
from pathlib import Path
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configurator import configure  # noqa: E402
from data import open_dataset  # noqa: E402
from masking import Masking  # noqa: E402
from model import all_true, build  # noqa: E402
from util.errors import run_cli  # noqa: E402
from util.mask_statistics import hidden_neighbours, shared_share  # noqa: E402
from util.outdir import OutputDir  # noqa: E402
from util.scaling import normalise  # noqa: E402

steps = 1000  # of each run
out = 'out/mask_history'  # where the runs go
N_ROWS = 500
RUNS = {
    'random': ['--mask=random'],
    'guided as printed, 8 latents': ['--mask_anneal=0', '--n_latent=8'],
    'guided as printed': ['--mask_anneal=0'],
    'guided as printed, 128 latents': ['--mask_anneal=0', '--n_latent=128'],
    'guided, tightened wholly': ['--min_random_fraction=0'],
    'guided, a quarter random (default)': []}
NAMES = ('two queries', 'two rows', 'neighbours', 'kinds of masks', 'loss on random')


@torch.no_grad()
def measure(saved, rows):
    """The numbers above, of the weights in a checkpoint. rows: x of open_dataset's rows, not scaled"""
    model = build(saved['model_args']).eval()
    model.load_state_dict(saved['model'])
    x = torch.from_numpy(normalise(rows, saved['norm']))  # (B, n, 1)
    masking = Masking('guided', saved['config']['mask_ratio'])
    generator = torch.Generator().manual_seed(0)
    x_hat = model.embed(x)
    one = model.choose_mask(x, x_hat, all_true(x), masking, generator)  # (B, n)
    two = model.choose_mask(x, x_hat, all_true(x), masking, generator)
    kinds = []
    for hidden in one:
        if all((hidden & other).sum() < 0.9 * hidden.sum() for other in kinds):
            kinds.append(hidden)
    return {
        'two queries': shared_share(one, two).mean().item(),
        'two rows': shared_share(one, one.roll(1, 0)).mean().item(),
        'neighbours': hidden_neighbours(one).mean().item(),
        'kinds of masks': len(kinds)}


def watch(options, folder, rows):
    """One run of pretrain.py. -> [{'step', and each of NAMES}]"""
    every = max(steps // 10, 1)
    entries = []
    save = OutputDir.save

    def measure_and_save(self, name, saved):
        if name == 'last.pt':
            entries.append({'step': saved['step'], **measure(saved, rows)})
        save(self, name, saved)

    script = ['pretrain.py', str(ROOT / 'config/glyphs.py'), f'--max_steps={steps}', f'--save_interval={every}',
              f'--eval_interval={every}', f'--out_dir={folder}', *options]
    with mock.patch.object(sys, 'argv', script), mock.patch.object(OutputDir, 'save', measure_and_save):
        runpy.run_path(str(ROOT / 'pretrain.py'), run_name='__main__')
    losses = {}
    for line in Path(folder, 'log.jsonl').read_text().splitlines():
        entry = json.loads(line)
        losses[entry['step']] = entry.get('val_loss_random')
    for entry in entries:
        entry['loss on random'] = losses[entry['step']]
    return entries


def draw(results, path):
    """results {run: what `watch` returns} -> a figure with a panel for each of NAMES."""
    from matplotlib.figure import Figure
    figure = Figure((4 * len(NAMES), 3.8), dpi=100, layout='constrained')
    for ax, name in zip(figure.subplots(1, len(NAMES)), NAMES):
        for run, entries in results.items():
            ax.plot([e['step'] for e in entries], [e[name] for e in entries], label=run)
        ax.set(title=name, xlabel='step')
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main():
    configure(globals())
    data = open_dataset('glyphs', val_share=0.1)
    rows = data.x[data.rows('val')[:N_ROWS]]
    results = {}
    for i, (run, options) in enumerate(RUNS.items()):
        results[run] = watch(options, f'{out}/{i}', rows)
    print('| run, after the last step | ' + ' | '.join(NAMES) + ' |')
    print('|---|' + '---|' * len(NAMES))
    for run, entries in results.items():
        print(f'| {run} | ' + ' | '.join(f'{entries[-1][name]:.4g}' for name in NAMES) + ' |')
    Path(out, 'history.json').write_text(json.dumps(results))
    draw(results, ROOT / 'assets/glyphs/history.png' if out == 'out/mask_history' else Path(out, 'history.png'))


if __name__ == '__main__':
    run_cli(main)
