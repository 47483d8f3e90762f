"""
The stages as they would run on a GPU, on a machine that has none: see fake_gpu.py.

    python tests/fake_cuda.py                       every case, in some minutes; status 1 if one fails
    python tests/fake_cuda.py protein               those with this in their name
    python tests/fake_cuda.py protein --parts       and what takes the memory, and which kernels run most

A case is one of the paper's configs with all of its sizes, on random rows in the place of its data set.
"""

import argparse
import ast
import gc
import io
import os
import re
import runpy
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from fake_gpu import ROOT, fake_gpu, why_not
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(ROOT))
from configurator import configure  # noqa: E402
from model import FREE, SMAConfig  # noqa: E402
from util import optim  # noqa: E402

N_STEPS = 3  # of which the first makes the optimiser's state


@dataclass
class Steps:
    """What the steps of a run did; the first, which makes the optimiser's state, is left out."""
    copies: list  # tensors that came from the CPU in each step
    waits: list  # lines where a step waited for the GPU
    operations: list  # in each step
    peak_gb: float
    gpu: object  # FakeGPU


def run_steps(script, options, n_steps=N_STEPS):
    """Run a stage on the fake GPU until it has taken n_steps optimiser steps. -> Steps"""
    seen = []
    update = optim.update

    def counted_update(*args):
        norm = update(*args)
        seen.append((gpu.copies, gpu.operations, len(gpu.waits)))
        if len(seen) == n_steps:
            sys.exit(0)
        return norm
    with fake_gpu() as gpu, mock.patch.object(optim, 'update', counted_update):
        run_script(script, options)
    gc.collect()
    if len(seen) < n_steps:
        raise RuntimeError(f'{script} took {len(seen)} steps, not {n_steps}')
    copies, operations = [], []
    for before, after in zip(seen, seen[1:]):
        copies.append(after[0] - before[0])
        operations.append(after[1] - before[1])
    return Steps(copies, gpu.waits[seen[0][2]:seen[-1][2]], operations, gpu.peak / 1e9, gpu)


def run_whole(script, options):
    """
    Run a script to its end on the fake GPU. -> how often each line of the project waits for the GPU: Counter
    """
    def save(saved, file):
        for t in tree_leaves(saved):
            if torch.is_tensor(t) and t.device.type == 'cuda':
                gpu.note_wait('a tensor to be saved')

    def check(self, step):  # a number that is read from the fake GPU is always 1, which would be a fault here
        int(self.in_a_row)
    saving = mock.patch.object(torch, 'save', save)
    checking = mock.patch.object(optim.Skips, 'check', check)
    with fake_gpu() as gpu, saving, checking:
        run_script(script, options)
    return Counter(gpu.waits)


def run_script(script, options):
    """Run the script to its end. Its output is swallowed unless it fails."""
    output = io.StringIO()
    with mock.patch.object(sys, 'argv', [script, *options]), redirect_stdout(output):
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f'{script} ended with status {end.code}: {output.getvalue()}') from end


# -----------------------------------------------------------------------------
# random rows in the place of data sets

FLOATS = {'higgs': 1, 'higgs_small': 1, 'year': 1}  # data sets of numbers: d_raw
N_BATCHES = 4  # that there are rows for


def stand_in(knobs, folder):
    """
    A file or folder of random rows in the place of a data set, as long as the model takes them, which is where
    a step takes the most memory. knobs: those of the config. -> its path
    """
    name = knobs['dataset']
    path = folder / f'{name}-{knobs["batch_size"]}'
    n_rows = N_BATCHES * knobs['batch_size']
    rng = np.random.default_rng(0)
    if name == 'imagenet100':
        return path if path.exists() else write_images(path, 160)
    if name in FLOATS:
        path = path.with_suffix('.npz')
        X = rng.normal(size=(n_rows, knobs['seq_len'], FLOATS[name])).astype(np.float32)
        np.savez(path, X=X, y=np.arange(n_rows) % 2)
        return path
    path = path.with_suffix('.csv')
    with open(path, 'wb') as f:
        f.write(b'text,y\n')
        for i in range(n_rows):
            # without CLS and SEP; most rows are padded a little
            length = knobs['seq_len'] - 2 - rng.integers(8)
            f.write(rng.integers(65, 91, length, np.uint8).tobytes() + b',%d\n' % (i % 2))
    return path


def write_images(folder, n):
    """A folder of images in two classes, copies of two small ones. Preparation resizes them."""
    from PIL import Image
    for name, brightness in (('black', 0), ('white', 255)):
        (folder / name).mkdir(parents=True)
        first = folder / name / '0.png'
        Image.new('L', (8, 8), brightness).save(first)
        for i in range(1, n // 2):
            os.link(first, folder / name / f'{i}.png')
    return folder


# -----------------------------------------------------------------------------
# cases

PRETRAINING = ('higgs', 'higgs_small', 'year', 'chemistry', 'protein', 'text', 'imagenet100')
GPU_SIZES = (24, 40, 80)  # GB
RESERVE = 1.5  # GB that CUDA, its libraries and gaps between blocks of memory take
TUNING = {  # {config of finetune.py: the config of pretrain.py whose model it tunes}
    'finetune_higgs': 'higgs', 'finetune_year': 'year', 'finetune_moleculenet': 'chemistry',
    'finetune_tape': 'protein', 'finetune_glue': 'text', 'finetune_imagenet100': 'imagenet100'}
MORE_OPTIONS = [
    [], ['--mask=random'], ['--mask=guided_exact', '--n_query=8'], ['--n_query=8'], ['--mask_anneal=1'],
    ['--dropout=0.1', '--drop_path=0.1'], ['--dtype=float16'], ['--accumulation=2']]
OPTIONS_OF = {
    'text': [['--mask=word']],
    'protein': [['--mask=word']],
    'imagenet100': [['--mask=patch'], ['--accumulation=4'], ['--decode_pieces=4']]}
QUIET = ['--log_interval=99', '--eval_interval=99', '--save_interval=99', '--max_steps=50', '--warmup_steps=1',
         '--compile=false', '--val_share=0.02', '--test_share=0.02']


def knobs_of(script, config, options=()):
    return configure({'__file__': ROOT / script}, [f'config/{config}.py', *options])


def data_options(script, knobs, folder):
    """Options that put random rows in the place of the data set."""
    path = stand_in(knobs, folder)
    options = [f'--dataset={path}', f'--data_dir={folder}/datasets', f'--out_dir={folder}/{script}-out']
    if path.suffix == '.csv':
        options += ['--input_column=text', '--label_column=y']
    return options


def run_pretraining(config, options, folder, n_steps=N_STEPS):
    """Steps of a pre-training config on the fake GPU. folder: where random rows and output go"""
    knobs = knobs_of('pretrain.py', config)
    options = [f'config/{config}.py', *data_options('pretrain.py', knobs, folder), *QUIET, *options]
    return run_steps('pretrain.py', options, n_steps)


def run_tuning(config, options, folder, n_steps=N_STEPS):
    """The same of a fine-tuning config, from scratch, with the model of the config that pre-trains for it."""
    script, options = tuning_command(config, options, folder)
    return run_steps(script, options, n_steps)


def tuning_command(config, options, folder):
    shape = knobs_of('pretrain.py', TUNING[config])
    knobs = knobs_of('finetune.py', config)
    rows = {**shape, 'batch_size': knobs['batch_size']}
    names = [field.name for field in fields(SMAConfig) if field.name not in FREE and field.name in shape]
    model = [f'--{name}={shape[name]}' for name in names]
    if config == 'finetune_imagenet100':
        options = ['--target=multiclass', *options]
    return 'finetune.py', [
        f'config/{config}.py', *data_options('finetune.py', rows, folder), '--compile=false',
        '--val_share=0.1', '--test_share=0.1', '--init_from=scratch', '--max_steps=50', '--eval_interval=99',
        '--n_train=None', '--seeds=0', '--lr=1e-4', *model, *options]


def run_shallow(run, config, options, folder):
    """
    Two steps of a config whose model is cut down to 2 layers, where it has more than 4. -> Steps, and the peak
    in GB of the whole model. Each block takes as much memory as another, so models of 1 and 2 layers
    tell what all take.
    """
    n_layer = knobs_of('pretrain.py', TUNING.get(config, config))['n_layer']
    if n_layer <= 4:
        steps = run(config, options, folder, 2)
        return steps, steps.peak_gb
    one = run(config, [*options, '--n_layer=1'], folder, 2)
    two = run(config, [*options, '--n_layer=2'], folder, 2)
    return two, two.peak_gb + (n_layer - 2) * (two.peak_gb - one.peak_gb)


def stated_memory(config):
    """What the docstring of a config says: the peak in GB, and the sizes of the GPUs that it fits."""
    text = ' '.join(ast.get_docstring(ast.parse((ROOT / f'config/{config}.py').read_text())).split())
    found = re.search(r'Memory: at most ([\d.]+) GB .*?[Ff]its? (?:a GPU|GPUs) of ([\d, and]+) GB', text)
    if not found:
        raise ValueError(f'config/{config}.py does not state its memory')
    sizes = [int(size) for size in re.findall(r'\d+', found[2])]
    return float(found[1]), sizes


def memory_fault(config, peak_gb):
    """What is wrong with the memory that the docstring states, or ''."""
    stated, sizes = stated_memory(config)
    if not peak_gb <= stated <= 1.2 * peak_gb + 0.2:
        return f'config/{config}.py states {stated} GB, and a step takes {peak_gb:.2f}'
    fitting = [size for size in GPU_SIZES if stated + RESERVE <= size]
    if sizes != fitting:
        return f'config/{config}.py states GPUs of {sizes} GB, and {stated} GB fit {fitting}'
    return ''


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('wanted', nargs='?', default='', help='part of the name of a case')
    parser.add_argument('--parts', action='store_true',
                        help='what takes the memory, and which kernels attention takes')
    args = parser.parse_args()
    if why_not():
        sys.exit(why_not())
    cases = []
    for config in PRETRAINING:
        for options in MORE_OPTIONS + OPTIONS_OF.get(config, []):
            cases.append((run_pretraining, config, options))
    for config in TUNING:
        cases.append((run_tuning, config, []))
    cases.append((run_tuning, 'finetune_imagenet100', ['--augment', '--drop_path=0.1']))

    n_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for run, config, options in cases:
            name = ' '.join([config, *options])
            if args.wanted not in name:
                continue
            start = time.process_time()
            try:
                steps = run(config, options, Path(folder))
            except Exception:
                print(f'{name}: FAILED', flush=True)
                traceback.print_exc()
                n_failed += 1
                continue
            fault = ''
            if steps.waits:
                fault = f'waits at {steps.waits}'
            elif not options:
                fault = memory_fault(config, steps.peak_gb)
            n_failed += bool(fault)
            print(f'{name:45} {steps.peak_gb:6.2f} GB, copies {steps.copies}, operations {steps.operations}, '
                  f'{time.process_time() - start:.1f} s {fault}', flush=True)
            if args.parts:
                print_parts(steps.gpu)
    sys.exit(n_failed > 0)


def print_parts(gpu):
    for what, size in gpu.largest(8):
        print(f'    {size / 1e9:7.2f} GB  {what}')
    for kind, n in gpu.kinds.most_common(12):
        print(f'    {n:4} x {kind}')
    for call, n in gpu.attention.seen.items():
        print(f'    {n:4} x {call}')


if __name__ == '__main__':
    main()
