"""What fine-tuning starts from: scratch, or the weights of a checkpoint; and the scale of its inputs."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from util import checkpoint, runtime, scaling
from util.errors import fail
from util.files import same_source


@dataclass
class Start:
    """What a run starts from: a row of the table of results."""
    name: str  # 'scratch', or the path of the checkpoint
    checkpoint: dict | None  # None = scratch
    norm: dict | None = None  # how its inputs are scaled
    digest: str = ''  # tells whether the weights, the scale and the data are still the same


def find_starts(config: dict, usual_folder: str) -> list[Start]:
    """
    The starts that config['init_from'] names: 'scratch', checkpoints, and folders, which stand for the runs in
    them. Where it names none: scratch, and the runs in usual_folder, of which there may be none.
    """
    asked = config['init_from']
    names = asked
    if not asked:
        names = ('scratch', usual_folder)
    starts = {}
    for name in names:
        if name == 'scratch':
            starts[name] = Start(name, None)
            continue
        for path in runs_in(name, asked):
            starts[path] = Start(path, load_start(path, config['data_dir']))
    return list(starts.values())


def runs_in(name, asked):
    """The paths of the runs that a name stands for."""
    name = os.path.expanduser(name)
    if (Path(name) / 'last.pt').exists():
        return [name]
    runs = sorted(Path(name).glob('*/last.pt'))
    if not runs and asked:
        return [name]  # a .pt file, or hf:OWNER/NAME, or nothing, which loading it will say
    return [str(path.parent) for path in runs]


def load_start(path, data_dir):
    saved = checkpoint.load(path, ('model', 'model_args', 'norm', 'config'), data_dir)
    if saved['model_args'].get('n_out'):
        fail(f'{path} is a fine-tuned model: start from a pre-trained one')
    return saved


def common_shape(starts: list[Start], config: dict, defaults: dict) -> dict:
    """
    The shape of all checkpoints, {} if there is none. Fails if they differ: the rows of the table shall differ
    in their weights alone. The knobs of the model in config are set to it; defaults: those of all knobs.
    """
    shape = {}
    first = None
    for start in starts:
        if not start.checkpoint:
            continue
        own_shape = checkpoint.shape_of(start.checkpoint['model_args'])
        if first is None:
            shape = own_shape
            first = start.name
        for name, value in own_shape.items():
            if value != shape[name]:
                fail(f'{first} has {name}={shape[name]}, and {start.name} has {name}={value}: models in one '
                     'table have one shape')
    checkpoint.adopt_shape(config, shape, defaults, first)
    return shape


def drop_starts_of_other_data(starts: list[Start], config: dict, run) -> list[Start]:
    """
    Leaves out the runs in out/DATASET that learned from other data of that name, unless init_from asks for
    them: b/train.npz does not start, unasked, from what learned from a/train.npz. Where no data set is named,
    the first run's is taken.
    """
    if config['init_from']:
        return starts
    wanted = config['dataset']
    kept = []
    for start in starts:
        if start.checkpoint:
            learned_from = start.checkpoint['config'].get('dataset')
            wanted = wanted or learned_from
            if not same_source(wanted, learned_from):
                runtime.warn(run, f'{start.name} learned from {learned_from}, not from {wanted}, so it is left '
                                  f'out. To use it: --init_from=scratch,{start.name}')
                continue
        kept.append(start)
    return kept


def settle_scales(starts: list[Start], first: dict | None, config: dict, data):
    """
    Gives each start the scale of its inputs: its checkpoint's or, from scratch, that of the training rows.
    first: the first checkpoint.
    """
    for start in starts:
        saved = start.checkpoint
        if saved is None:
            start.norm = scaling.fit_norm(data, data.rows('train'), scale_from_scratch(first, config))
            continue
        start.norm = saved['norm']
        if start.norm is None:  # the authors' weights do not say; open_data has fitted one
            start.norm = data.norm


def scale_from_scratch(first, config):
    """The kind of scale: the knob's, else the first checkpoint's, so that the table compares like with like."""
    if config['norm'] is not None:
        return config['norm']
    if first and first['config'].get('norm'):
        return first['config']['norm']
    return 'standard'


def digest_of(start: Start, data) -> str:
    """A sha256 of the data, and of the start's weights and scale."""
    digest = hashlib.sha256(data.fingerprint.encode())
    if start.checkpoint:
        tensors = dict(start.checkpoint['model'])
        for name, value in start.norm.items():
            if torch.is_tensor(value):
                tensors[name] = value
        for name, t in sorted(tensors.items()):
            digest.update(name.encode() + t.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
