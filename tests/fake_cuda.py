"""
The stages as they would run on a GPU, on a machine that has none: see fake_gpu.py.

    python tests/fake_cuda.py                       every case, in some minutes; status 1 if one fails
    python tests/fake_cuda.py protein               those with this in their name
    python tests/fake_cuda.py protein --parts       and what takes the memory, and which kernels attention takes

A case is one of the paper's configs with all of its sizes, on random rows in the place of its data set.
"""

import argparse
import gc
import io
import os
import runpy
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from fake_gpu import ROOT, fake_gpu, why_not

sys.path.insert(0, str(ROOT))
from configurator import configure  # noqa: E402
from util import bench, optim  # noqa: E402

CONFIGS = ('higgs', 'higgs_small', 'year', 'chemistry', 'protein', 'text', 'imagenet100')
N_STEPS = 3


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

def stand_in(dataset, knobs, folder):
    """
    Write random rows of the lengths or the size that a data set has. -> the file or folder. knobs: of the config
    """
    folder.mkdir(parents=True, exist_ok=True)
    if dataset == 'imagenet100':
        return write_images(folder / 'images')
    knobs = dict(knobs)
    bench.replace_by_random_rows(knobs, str(folder))
    return knobs['dataset']


def write_images(folder):
    """A folder of 400 images in two classes, copies of two small ones. They are resized when they are prepared."""
    from PIL import Image
    for name, colour in (('black', 0), ('white', 255)):
        (folder / name).mkdir(parents=True)
        first = folder / name / '0.png'
        Image.new('RGB', (8, 8), (colour, colour, colour)).save(first)
        for i in range(1, 200):
            os.link(first, folder / name / f'{i}.png')
    return folder


# -----------------------------------------------------------------------------
# cases

QUIET = ['--log_interval=99', '--eval_interval=99', '--save_interval=99', '--max_steps=50', '--warmup_steps=1',
         '--compile=false', '--val_share=0.02', '--test_share=0.02']
OPTIONS = {
    'all': [[], ['--mask=random'], ['--mask=guided_exact', '--n_query=8'], ['--n_query=8'], ['--mask_anneal=1'],
            ['--dropout=0.1', '--drop_path=0.1'], ['--dtype=float16'], ['--accumulation=2']],
    'text': [['--mask=word']],
    'protein': [['--mask=word']],
    'imagenet100': [['--mask=patch'], ['--accumulation=4'], ['--decode_pieces=4'], ['--batch_size=16']]}


def pretraining_case(config, options, folder):
    """Steps of a pre-training config on the fake GPU. folder: where random rows and output go"""
    knobs = configure({'__file__': ROOT / 'pretrain.py'}, [f'config/{config}.py'])
    rows = stand_in_once(knobs['dataset'], knobs, folder)
    return run_steps('pretrain.py', [
        f'config/{config}.py', f'--dataset={rows}', f'--data_dir={folder}/datasets', f'--out_dir={folder}/out', *QUIET,
        *options])


def stand_in_once(dataset, knobs, folder):
    """stand_in, or what it has made before."""
    made = folder / dataset
    if made.exists():
        return next(made.iterdir())
    return stand_in(dataset, knobs, made)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('wanted', nargs='?', default='', help='part of the name of a case')
    parser.add_argument('--parts', action='store_true', help='what takes the memory, and which kernels attention takes')
    args = parser.parse_args()
    if why_not():
        sys.exit(why_not())
    n_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for config in CONFIGS:
            for options in OPTIONS['all'] + OPTIONS.get(config, []):
                name = ' '.join([config, *options])
                if args.wanted not in name:
                    continue
                start = time.monotonic()
                try:
                    steps = pretraining_case(config, options, Path(folder))
                except Exception as error:
                    traceback.print_exc()
                    n_failed += 1
                    continue
                n_failed += bool(steps.waits)
                print(f'{name:45} {steps.peak_gb:6.2f} GB, copies {steps.copies}, operations {steps.operations}, '
                      f'waits {len(steps.waits)} {steps.waits[:3]}, {time.monotonic() - start:.1f} s', flush=True)
                if args.parts:
                    print_parts(steps.gpu)
    sys.exit(n_failed > 0)


def print_parts(gpu):
    for what, size in gpu.largest(8):
        print(f'    {size / 1e9:7.2f} GB  {what}')
    for call, n in gpu.attention.seen.items():
        print(f'    {n:4} x {call}')


if __name__ == '__main__':
    main()
