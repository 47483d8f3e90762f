"""
Draws assets/results/gap.png from what RESULTS.md's commands leave behind: `python tests/figure.py` (needs
matplotlib).

Left, "Does the gap close with longer training?": out/l/KIND-PASSES fine-tuned in out/finetune_l. Right, "When should
guided masks help?": out/redundancy/results.jsonl, a dot a world, Transformers alone.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

KINDS = {'random': ('random', 'tab:blue'), 'guided': ('guided, annealed over 25 %', 'tab:red'),
         'anneal': ('guided, annealed over all steps', 'tab:orange')}


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
tests = {Path(run['init_from']).name: np.array(run['test']) for run in lines('out/finetune_l/results.jsonl')}
scratch = tests['scratch']
left.axhspan(scratch.mean() - scratch.std(ddof=1), scratch.mean() + scratch.std(ddof=1), color='0.9')
left.axhline(scratch.mean(), color='0.5', ls='--', label='from scratch')
for shift, (kind, (label, colour)) in enumerate(KINDS.items()):
    passes = sorted(int(name.split('-')[1]) for name in tests if name.startswith(kind))
    scores = np.array([tests[f'{kind}-{p}'] for p in passes])  # (passes, seeds)
    left.errorbar(np.array(passes) * 1.05 ** (shift - 1), scores.mean(1), scores.std(1, ddof=1), color=colour,
                  marker='o', ms=4, capsize=3, label=label)
ticks = sorted({int(name.split('-')[1]) for name in tests if '-' in name})
left.set(xscale='log', xlabel='passes over HIGGS-small', ylabel='test accuracy, 1,000 labels', xticks=ticks,
         xticklabels=ticks)
left.minorticks_off()
left.legend(fontsize=7)

runs = [run for run in lines('out/redundancy/results.jsonl') if not run['n_latent']]
views = sorted({run['views'] for run in runs})
gaps = [[run['guided'] - run['random'] for run in runs if run['views'] == v] for v in views]
right.plot(views, [np.mean(g) for g in gaps], color='k')
right.scatter(np.repeat(views, [*map(len, gaps)]), np.concatenate(gaps), s=9, color='k')
right.axhline(0, color='0.5', ls='--')
right.set(xscale='log', xlabel='times each factor is seen', ylabel='R² of guided - random', xticks=views,
          xticklabels=views)
right.minorticks_off()
fig.tight_layout()
Path('assets/results').mkdir(exist_ok=True)
fig.savefig('assets/results/gap.png', dpi=110)
