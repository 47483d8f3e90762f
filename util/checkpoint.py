"""Weights in and out."""

import json
import os
import zipfile
from dataclasses import fields
from pathlib import Path

import torch

from model import FREE, SMAConfig, build
from util.authors import from_theirs
from util.download import download
from util.errors import UserError, fail
from util.files import atomic_write


def shape_of(model_args):
    """The fields that make a shape; one that an older checkpoint lacks has its default."""
    return {f.name: model_args.get(f.name, f.default) for f in fields(SMAConfig) if f.name not in FREE}


def save(path, checkpoint):
    """Never half a checkpoint, nor one of a model that has failed: the last good one stays. Plain dicts."""
    if not all(torch.isfinite(t).all() for t in checkpoint['model'].values()):
        fail(f'weights are not finite, {path} is not written: lower lr, or look at the data')
    with atomic_write(path) as f:
        torch.save(checkpoint, f)


def load(path, keys=('model', 'model_args', 'config'), data_dir='datasets'):
    """
    A checkpoint that has these keys; a folder means its last.pt. Only tensors are unpickled, and nothing is
    taken on trust: checksums, shapes, numbers. The authors' weights, a folder with config.json or
    hf:OWNER/NAME (kept in DATA_DIR/downloads), are turned into ours.
    """
    theirs, path = str(path).startswith('hf:') or Path(path, 'config.json').exists(), Path(path)
    if theirs and not (path / 'last.pt').exists():
        return load_theirs(str(path), data_dir)
    path = path / 'last.pt' if path.is_dir() else path
    if not path.is_file():
        fail(f'no checkpoint {path}: a .pt file, or a folder with last.pt in it, is wanted')
    checkpoint = read_pt(path)
    if isinstance(checkpoint, dict) and 'outcome' in checkpoint:  # as `task` was called until November 2026
        checkpoint['task'] = checkpoint.pop('outcome')
    missing = [k for k in keys if not isinstance(checkpoint, dict) or k not in checkpoint]
    if missing:
        fail(f'{path} is not a checkpoint of the kind that is wanted: it lacks {", ".join(missing)}')
    check_checkpoint(checkpoint, path)
    old = {'valid_share': 'val_share', 'valid_file': 'val_file'}  # as knobs were called until November 2026
    checkpoint['config'] = {old.get(k, k): v for k, v in checkpoint['config'].items()}
    return checkpoint


def read_pt(path):
    """What torch.save wrote. Of its zip archive torch.load does not compare the checksums; here they count."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type for part in archive.infolist()):  # it could unpack to any size
                raise ValueError('packed')
            if archive.testzip():
                raise ValueError('wrong checksum')
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # files may be damaged in many ways
        reason = f': {error}' if type(error) is ValueError else ''
        fail(f'{path} is no checkpoint, or it is damaged or cut short ({type(error).__name__}{reason})')


def check_checkpoint(checkpoint, path):
    """Fails unless its weights are finite and of the shape that model_args call for, and the rest is plain."""
    args, state, config = (checkpoint.get(k, {}) for k in ('model_args', 'model', 'config'))
    step, best = checkpoint.get('step', 0), checkpoint.get('best', 0.0)
    plain = {int, float, str, bool, type(None), tuple, list}
    try:
        numbers = [args[f.name] for f in fields(SMAConfig) if f.type is int and f.name in args]
        odd = {*map(type, [*numbers, step])} - {int} or {*map(type, config.values())} - plain or \
            type(best) not in (int, float)
        if odd or step < 0 or args['n_layer'] > len(state) + 1:  # a billion layers would take for ever to make
            raise TypeError
        with torch.device('meta'):
            load_weights(build(args), {k: t.to('meta') for k, t in state.items()})
        bad = next((k for k, t in state.items() if not torch.isfinite(t).all()), None)
    except (AttributeError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        fail(f'{path} is damaged: its model_args, weights or config make no model ({type(error).__name__})')
    if bad:
        fail(f'{path}: {bad} has numbers that are not finite, as its training had failed: take an earlier one')


def load_weights(model, state, new=(), dropped=()):
    """Copies weights by name and sees to it which: all but those named `new..`, left over only those named
    `dropped..`. -> how many were copied, how many are new"""
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        fail(f'the checkpoint has another shape of model: {str(error).splitlines()[1].strip()}')
    odd = [n for n in result.missing_keys if not n.startswith(tuple(new))]
    odd += [n for n in result.unexpected_keys if not n.startswith(tuple(dropped))]
    if odd:
        fail(f'the checkpoint does not fit the model at {len(odd)} weights, {odd[0]} for one')
    return len(state) - len(result.unexpected_keys), len(result.missing_keys)


def load_theirs(path, data_dir):
    """config.json and model.safetensors or pytorch_model.bin, in a folder or at huggingface.co, as ours."""
    def get(name):
        if not path.startswith('hf:'):
            return Path(path, name)
        name = f'{path[3:]}/resolve/main/{name}'
        return download(name, f'https://huggingface.co/{name}', None, None, data_dir)
    about = get('config.json')
    try:
        file = get('model.safetensors')
    except UserError:  # that of download: not there
        file = get('pytorch_model.bin')
    file = file if file.exists() else get('pytorch_model.bin')
    try:
        state = read_safetensors(file) if file.suffix == '.safetensors' else read_pt(file)
        checkpoint, about = from_theirs(json.loads(about.read_text()), state)
        check_checkpoint(checkpoint, path)
    except UserError:
        raise
    except Exception as error:  # files may be damaged in many ways
        fail(f'{path}: {file.name} or config.json is missing, cut short or of another kind '
             f'({type(error).__name__}: {error})')
    if os.environ.get('RANK', '0') == '0':
        print(f'{path}: {about}', flush=True)
    return checkpoint


def read_safetensors(path):
    """{name: tensor}. The file: 8 bytes, the header's length; the header, JSON; the numbers."""
    kinds = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, I64=torch.int64)
    with open(path, 'rb') as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), 'little')))
        header.pop('__metadata__', None)
        numbers, tensors = bytearray(f.read()), {}
    for name, about in header.items():
        start, end = about['data_offsets']
        tensors[name] = torch.frombuffer(numbers[start:end], dtype=kinds[about['dtype']]).view(about['shape'])
    return tensors


def must_match(old, new, what, defaults=None):
    """
    Fails, naming the first that differs, unless the settings `new` are what they were when `what` was
    written. A knob that `old` does not have yet counts as its default.
    """
    for k in new:
        was = old.get(k, (defaults or {}).get(k))
        if was != new[k]:
            fail(f'{what} was made with {k}={was}, this run has {k}={new[k]}: make them the same')


def check_optimizer_state(optimizer, state, path):
    """Fails unless the saved state fits this optimizer: fused AdamW would write past the end of another's."""
    params, own = [p for group in optimizer.param_groups for p in group['params']], optimizer.state_dict()
    try:
        ours, theirs = ([{**g, 'lr': None} for g in s['param_groups']] for s in (own, state))
        right = ours == theirs and {*state['state']} <= {*range(len(params))}
        for i, saved in state['state'].items() if right else ():
            moments = saved['exp_avg'], saved['exp_avg_sq']
            right = right and {*saved} == {'step', 'exp_avg', 'exp_avg_sq'} and saved['step'].shape == () \
                and all(t.shape == params[i].shape and t.dtype == params[i].dtype for t in moments) \
                and all(bool(torch.isfinite(t).all()) for t in saved.values())
    except (AttributeError, KeyError, TypeError):
        right = False
    if not right:
        fail(f'{path}: the state of its optimizer is not that of this model, or is damaged')
