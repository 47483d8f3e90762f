"""
Draws assets/results/gap.png from what RESULTS.md's commands leave behind: `python tests/figure.py` (needs
matplotlib).

Left, "Does the gap close with longer training?": out/l/KIND-PASSES fine-tuned in out/finetune_l. Right, "When
should guided masks help?": out/redundancy/results.jsonl, a dot for each world, Transformers alone.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

KINDS = {  # prefix of the folder: (label, colour)
    'random': ('random', 'tab:blue'),
    'guided': ('guided, annealed over 25 %', 'tab:red'),
    'anneal': ('guided, annealed over all steps', 'tab:orange')}


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def draw_length(ax):
    """Test accuracy against the length of pre-training."""
    tests = {}  # {'guided-30': test scores, one for each seed}
    for run in read_lines('out/finetune_l/results.jsonl'):
        tests[Path(run['init_from']).name] = np.array(run['test'])
    scratch = tests.pop('scratch')
    mean, std = scratch.mean(), scratch.std(ddof=1)
    ax.axhspan(mean - std, mean + std, color='0.9')
    ax.axhline(mean, color='0.5', ls='--', label='from scratch')

    every = set()
    for place, (kind, (label, colour)) in enumerate(KINDS.items()):
        passes = sorted(int(name.split('-')[1]) for name in tests if name.startswith(kind))
        every.update(passes)
        scores = np.array([tests[f'{kind}-{p}'] for p in passes])  # (passes, seeds)
        x = np.array(passes) * 1.05 ** (place - 1)  # side by side
        ax.errorbar(x, scores.mean(1), scores.std(1, ddof=1), color=colour, marker='o', ms=4, capsize=3,
                    label=label)
    ticks = sorted(every)
    ax.set(xscale='log', xlabel='passes over HIGGS-small', ylabel='test accuracy, 1,000 labels')
    ax.set(xticks=ticks, xticklabels=ticks)
    ax.minorticks_off()
    ax.legend(fontsize=7)


def draw_redundancy(ax):
    """How much better guided masks are than random ones, against the redundancy of the table."""
    runs = [run for run in read_lines('out/redundancy/results.jsonl') if not run['n_latent']]
    views = sorted({run['views'] for run in runs})
    means = []
    for v in views:
        gaps = [run['guided'] - run['random'] for run in runs if run['views'] == v]
        means.append(np.mean(gaps))
        ax.scatter([v] * len(gaps), gaps, s=9, color='k')
    ax.plot(views, means, color='k')
    ax.axhline(0, color='0.5', ls='--')
    ax.set(xscale='log', xlabel='times each factor is seen', ylabel='R² of guided - random')
    ax.set(xticks=views, xticklabels=views)
    ax.minorticks_off()


if __name__ == '__main__':
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    draw_length(left)
    draw_redundancy(right)
    figure.tight_layout()
    Path('assets/results').mkdir(exist_ok=True)
    figure.savefig('assets/results/gap.png', dpi=110)
