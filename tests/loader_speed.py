"""
Can the loader feed a GPU? Rows a second that one process reads, beside those that a GPU would take.

    python tests/loader_speed.py

The rows are random, and as long as the model takes them. A GPU is taken to compute 40 % of 800 TFLOP/s, which
is about the bfloat16 rate of an H100. The time is that of the processor, so that other programs do not count.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from fake_cuda import PRETRAINING, ROOT, data_options, knobs_of

sys.path.insert(0, str(ROOT))
from data import epoch_batches, open_data  # noqa: E402
from model import build  # noqa: E402
from util.bench import step_flops  # noqa: E402
from util.loader import N_WORKERS, Batches  # noqa: E402
from util.runtime import set_up  # noqa: E402

GPU_FLOPS = 0.4 * 800e12
SECONDS = 3  # to read for


def rows_a_second(data, batch_size):
    """How many rows of training batches one process reads in a second of its own time."""
    batches = Batches(data)
    index = epoch_batches(data, data.rows('train'), batch_size, seed=0, epoch=0)
    batches[index[0], data.width(index[0]), None]  # the first one maps the files
    n_rows = 0
    start = time.process_time()
    while time.process_time() - start < SECONDS:
        for rows in index:
            batches[rows, data.width(rows), None]
            n_rows += len(rows)
    return n_rows / (time.process_time() - start)


def main():
    torch.set_num_threads(1)
    print('| config | batch | inputs | GFLOP a row | a GPU takes, rows/s '
          '| one process reads, rows/s | processes |')
    print('|---|---|---|---|---|---|---|')
    for config in PRETRAINING:
        knobs = knobs_of('pretrain.py', config)
        with tempfile.TemporaryDirectory() as folder:
            knobs = knobs_of('pretrain.py', config, data_options('pretrain.py', knobs, Path(folder)))
            knobs['device'] = 'cpu'
            data, seq_len = open_data(knobs, set_up(knobs))
            model = build({**knobs, 'seq_len': seq_len}, d_raw=data.d_raw)
            n = int(np.max(data.lengths(data.rows('train'))))
            flops = step_flops(model.config, knobs['mask_ratio'], 1, n)
            takes = GPU_FLOPS / flops
            reads = rows_a_second(data, knobs['batch_size'])
            needed = f'{takes / reads:.2f} of {N_WORKERS}'
            if not data.is_bytes and not data.is_images:
                needed = 'none: the table is kept on the GPU'
            cells = [config, knobs['batch_size'], n, f'{flops / 1e9:.3g}', f'{takes:,.0f}',
                     f'{reads:,.0f}', needed]
            print('| ' + ' | '.join(map(str, cells)) + ' |', flush=True)


if __name__ == '__main__':
    main()
