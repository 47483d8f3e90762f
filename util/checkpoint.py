"""
Checkpoints: saved whole or not at all, and not trusted when they are loaded.

A checkpoint is a dict. These entries are in those of pretrain.py and of finetune.py:

    model         {name: tensor}, the weights
    model_args    the fields of SMAConfig
    config        the knobs of the run
    step          of training
    data          the fingerprint of the data set, which tells whether it is the same
    columns       names of the inputs of a table, or None
    categories    {column: {text: its number}} of a table that has texts in it
    norm          the scale of floats, see util/scaling.py; None: the authors' files do not say
    task          of fine-tuning alone: what is predicted and how it is scored, see util/tasks.py
"""

import math
import os
import sys
from dataclasses import fields
from pathlib import Path

import torch

from configurator import ROOT, find_knobs, fit
from masking import Masking
from model import FREE, SMAConfig, build
from util.authors import is_theirs, load_theirs
from util.errors import UserError, fail
from util.files import atomic_write
from util.metrics import METRICS
from util.runtime import is_first_process
from util.tensors import read_pt

# Entries that hold tensors. All others are plain values: numbers, texts, None, lists and dicts.
WITH_TENSORS = ('model', 'optimizer', 'scaler', 'since', 'norm')  # 'since' was in those of early November 2026
# Names as they were until November 2026, and as they are now.
RENAMED_ENTRIES = {'outcome': 'task'}
RENAMED_KNOBS = {'valid_share': 'val_share', 'valid_file': 'val_file'}
# Knobs that a later stage reads out of a checkpoint, beside those of the data and of the mask.
TYPES_OF_KNOBS = {'norm': str, 'max_len': int, 'target': str, 'metric': str}

LARGEST_SIZE = 2 ** 40  # of anything in model_args


# -----------------------------------------------------------------------------
# out and in

def save(path, checkpoint):
    """
    Write a checkpoint, whole or not at all. Fails if the weights are not finite: then a file that was there
    before stays.
    """
    for tensor in checkpoint['model'].values():
        if not torch.isfinite(tensor).all():
            fail(f'the weights are not finite any more, so {path} is not written: lower --lr, or look for '
                 'extreme values in the data')
    with atomic_write(path) as f:
        torch.save(checkpoint, f)


def load(path, keys=('model', 'model_args', 'config'), data_dir='datasets'):
    """
    Read a checkpoint that has these entries, onto the CPU. Fails if it is damaged.

    path: a file, or a folder, which means its last.pt; or weights of the authors, as a folder with config.json
    or as hf:OWNER/NAME, which is kept in DATA_DIR/downloads. Those are turned into a checkpoint of ours.
    """
    path = os.path.expanduser(path)
    if is_theirs(path):
        checkpoint, sentence = load_theirs(path, data_dir)
        check_model(checkpoint, path)
        if is_first_process():
            print(f'{path}: {sentence}', flush=True)
        return checkpoint
    path = Path(path)
    if os.path.isdir(path):
        path = path / 'last.pt'
    if not os.path.isfile(path):
        fail(f'no checkpoint {path}: give a .pt file, or a folder that has a last.pt')
    checkpoint = read_pt(path)
    if not isinstance(checkpoint, dict):
        fail(f'{path} is not a checkpoint of this project')
    checkpoint = {RENAMED_ENTRIES.get(name, name): value for name, value in checkpoint.items()}
    missing = [name for name in keys if name not in checkpoint]
    if missing:
        fail(f'{path} is not a checkpoint of the stage that is needed here: it lacks {", ".join(missing)}')
    check_checkpoint(checkpoint, path)
    config = {RENAMED_KNOBS.get(name, name): value for name, value in checkpoint['config'].items()}
    config.setdefault('mask', Masking().mask)  # as in Masking.of
    check_config(config, path)
    checkpoint['config'] = config
    return checkpoint


def load_weights(model, state, new=(), dropped=()):
    """
    Copy weights into a model by their names. Fails unless the names and shapes agree, but for names that begin
    with one of `new`, which the state may lack, and of `dropped`, which the model may lack. -> (how many were
    copied, how many weights of the model are new)
    """
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first_difference = str(error).splitlines()[1].strip()
        fail(f'the checkpoint has another shape of model: {first_difference}')
    wrong = [name for name in result.missing_keys if not name.startswith(tuple(new))]
    wrong += [name for name in result.unexpected_keys if not name.startswith(tuple(dropped))]
    if wrong:
        fail(f'the checkpoint does not fit the model: {len(wrong)} weights are missing or too many, such as '
             f'{wrong[0]}')
    n_copied = len(state) - len(result.unexpected_keys)
    return n_copied, len(result.missing_keys)


# -----------------------------------------------------------------------------
# does it fit this run?

def shape_of(model_args):
    """
    The fields of SMAConfig that make up a model's shape. One that an older checkpoint lacks has its default.
    """
    shape = {}
    for field in fields(SMAConfig):
        if field.name not in FREE:
            shape[field.name] = model_args.get(field.name, field.default)
    return shape


def adopt_shape(config, shape, defaults, path):
    """
    Set the knobs of the model to the shape of the weights in `path`. Fails on a knob that is neither its
    default nor what the weights have.
    """
    for name, value in shape.items():
        if name not in config:
            continue
        if config[name] not in (None, value, defaults[name]):
            fail(f'{name}={config[name]} is given, and the weights of {path} have {name}={value}: leave it out')
        config[name] = value


def must_match(old, new, what, defaults=None):
    """
    Fail if the settings `new` differ from `old`, those with which `what` was made, and name the first
    difference. A knob that `old` lacks, because it is newer, counts as its value in `defaults`.
    """
    if defaults is None:
        defaults = {}
    for name, value in new.items():
        before = old.get(name, defaults.get(name))
        if before != value:
            fail(f'{what} was made with {name}={before}, and this run has {name}={value}: make them the same')


def check_optimizer_state(optimizer, state, path):
    """Fail unless a saved state fits this optimizer: fused AdamW writes past the end of smaller moments."""
    try:
        fits = is_state_of(optimizer, state)
    except (AttributeError, KeyError, TypeError, RuntimeError):
        fits = False
    if not fits:
        fail(f'{path}: the state of its optimizer is not that of this model, or is damaged')


def is_state_of(optimizer, state):
    """Whether a state has the groups of this optimizer, and moments of its parameters' shapes and types."""
    # the learning rate changes with the step, so it is left out
    ours = [{**group, 'lr': None} for group in optimizer.state_dict()['param_groups']]
    theirs = [{**group, 'lr': None} for group in state['param_groups']]
    if ours != theirs:
        return False
    parameters = []
    for group in optimizer.param_groups:
        parameters += group['params']
    for number, saved in state['state'].items():
        if number not in range(len(parameters)) or set(saved) != {'step', 'exp_avg', 'exp_avg_sq'}:
            return False
        p = parameters[number]
        for moment in (saved['exp_avg'], saved['exp_avg_sq']):
            if moment.shape != p.shape or moment.dtype != p.dtype:
                return False
        if saved['step'].shape != ():
            return False
        if not all(torch.isfinite(tensor).all() for tensor in saved.values()):
            return False
    return True


# -----------------------------------------------------------------------------
# is it whole?

def check_checkpoint(checkpoint, path):
    """Fail unless every entry is of the type, and the weights of the shape, that the stages write."""
    for name, value in checkpoint.items():
        if name not in WITH_TENSORS and not is_plain(value):
            damaged(path, f'its {name} is of another type')
    for name in ('model', 'model_args', 'config', 'norm', 'optimizer'):
        if name in checkpoint and not isinstance(checkpoint[name], dict):
            damaged(path, f'its {name} is no dict')
    step = checkpoint.get('step', 0)
    if type(step) is not int or step < 0:
        damaged(path, f'its step is {step!r}')
    best = checkpoint.get('best', 0.0)
    if not is_number(best) or math.isnan(best):  # infinity: there was no validation yet
        damaged(path, f'its best is {best!r}')
    for name in ('val_score', 'lr', 'seed', 'n_train', 'dealt'):
        value = checkpoint.get(name, 0)
        if not is_number(value) or not math.isfinite(value):
            damaged(path, f'its {name} is {value!r}')
    check_columns(checkpoint, path)
    check_scaler(checkpoint.get('scaler'), path)
    check_model(checkpoint, path)
    if 'task' in checkpoint:
        check_task(checkpoint['task'], checkpoint['model_args'].get('n_out', 0), path)


def damaged(path, reason):
    fail(f'{path} is damaged: {reason}')


def is_plain(value):
    """Whether a value is a number, a text, None, or a list or dict of such."""
    if isinstance(value, dict):
        return all(is_plain(name) and is_plain(part) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_plain(part) for part in value)
    return type(value) in (int, float, str, bool, type(None))


def is_number(value):
    return type(value) in (int, float)


def is_list_of_text(value):
    if not isinstance(value, (list, tuple)):
        return False
    return all(isinstance(item, str) for item in value)


def check_columns(checkpoint, path):
    """Fail unless columns is a list of names or None, and categories {name: {text: number}} or None."""
    columns = checkpoint.get('columns')
    if columns is not None and not is_list_of_text(columns):
        damaged(path, 'its columns are no list of names')
    categories = checkpoint.get('categories')
    if categories is None:
        return
    if not isinstance(categories, dict):
        damaged(path, 'its categories are no dict')
    for numbers in categories.values():
        if not isinstance(numbers, dict) or not all(map(is_number, numbers.values())):
            damaged(path, 'its categories do not number texts')


def check_scaler(state, path):
    """Fail unless the state of a GradScaler, if there is one, has what torch's has."""
    if state is None or state == {}:
        return
    if not isinstance(state, dict):
        damaged(path, 'its scaler is no dict')
    for name, value in torch.amp.GradScaler('cpu').state_dict().items():
        saved = state.get(name)
        most = 2 ** 31 - 1 if isinstance(value, int) else sys.float_info.max
        if type(saved) is not type(value) or not 0 <= saved <= most:
            damaged(path, f'the {name} of its scaler is {saved!r}')


def check_config(config, path):
    """Fail unless the knobs that later stages read have the types of those knobs."""
    wrong = [name for name, value in config.items() if isinstance(value, dict)]
    data_knobs, _ = find_knobs(ROOT / 'data.py')
    for name, knob in data_knobs.items():
        if name in config and not is_knob_value(name, config[name], knob):
            wrong.append(name)
    for name, wanted in TYPES_OF_KNOBS.items():
        if config.get(name) is not None and not is_like(config[name], wanted):
            wrong.append(name)
    for field in fields(Masking):
        if field.name in config and not is_like(config[field.name], type(field.default)):
            wrong.append(field.name)
    if wrong:
        damaged(path, f'its config has {wrong[0]}={config[wrong[0]]!r}')


def is_knob_value(name, value, knob):
    """Whether a knob of the data may have this value. None = as the data have it."""
    if value is None:
        return True
    if name == 'input_column' and is_list_of_text(value):  # the columns that an earlier checkpoint learned
        return True
    if isinstance(value, (list, tuple)) and not knob.is_tuple:
        return False
    try:
        fit(value, knob)
    except (ValueError, OverflowError):
        return False
    return name != 'split_seed' or value >= 0


def is_like(value, wanted):
    """Whether a value is of the type of a default. A whole number may stand for a float; None says nothing."""
    if wanted is type(None):
        return True
    if wanted is float:
        return is_number(value)
    return type(value) is wanted


def check_task(task, n_out, path):
    """Fail unless the task of a fine-tuned model fits its n_out outputs."""
    if not isinstance(task, dict):
        damaged(path, 'its task is no dict')
    metric = task.get('metric')
    if not isinstance(metric, str) or metric not in METRICS:
        damaged(path, f'the metric of its task is {metric!r}')
    target = task.get('target')
    if target not in METRICS[metric].targets:
        damaged(path, f'its metric {metric} does not fit the target {target!r}')
    if target == 'regression':
        n_wanted = 1
        check_regression(task, path)
    elif target == 'binary':
        n_wanted = 1
        check_classes(task, 2, path)
    elif target == 'multiclass':
        n_wanted = n_out
        check_classes(task, n_out, path)
    else:
        damaged(path, f'the target of its task, {target!r}, is not known here')
    if n_out != n_wanted:
        damaged(path, f'its model has {n_out} outputs, its task needs {n_wanted}')


def check_regression(task, path):
    """Fail unless the task has the mean and the deviation of the labels, and no classes."""
    for name in ('mean', 'std'):
        if not is_number(task.get(name)) or not math.isfinite(task[name]):
            damaged(path, f'the {name} of its task is {task.get(name)!r}')
    if task['std'] <= 0:
        damaged(path, f'the std of its task is {task["std"]!r}')
    if task.get('classes') is not None:
        damaged(path, 'its task has classes, and is a regression')


def check_classes(task, n, path):
    """Fail unless the task has n different classes, all texts or all finite numbers."""
    classes = task.get('classes')
    if not isinstance(classes, (list, tuple)):
        damaged(path, 'the classes of its task are no list')
    are_numbers = all(is_number(label) and math.isfinite(label) for label in classes)
    if not are_numbers and not is_list_of_text(classes):
        damaged(path, 'the classes of its task are neither texts nor numbers')
    if len(classes) != n or len(set(classes)) != n:
        damaged(path, f'its task does not have {n} different classes')
    positive = task.get('positive')
    if positive is not None and positive not in classes:
        damaged(path, f'the positive class of its task is {positive!r}')


def check_model(checkpoint, path):
    """
    Fail unless the weights are finite and those of the model that model_args describe. Takes no memory for it.
    """
    state = checkpoint['model']
    args = checkpoint['model_args']
    check_tensors(state, path)
    args = {**vars(SMAConfig()), **args}
    for field in fields(SMAConfig):
        value = args[field.name]
        if field.type is int and (type(value) is not int or abs(value) > LARGEST_SIZE):
            damaged(path, f'its model_args have {field.name}={value!r}')
    if args['n_layer'] > len(state):  # a billion layers would take for ever to build
        damaged(path, f'it claims {args["n_layer"]} layers, and has {len(state)} weights')
    if args['decode_pieces'] > args['seq_len']:  # and a billion pieces to decode
        damaged(path, f'it claims decode_pieces={args["decode_pieces"]} for {args["seq_len"]} inputs')
    try:
        with torch.device('meta'):
            model = build(args)
            load_weights(model, {name: tensor.to('meta') for name, tensor in state.items()})
    except UserError as error:
        fail(f'{path}: {error}')
    except (AttributeError, KeyError, TypeError, RuntimeError, ArithmeticError) as error:
        damaged(path, f'its model_args and weights make no model ({type(error).__name__})')


def check_tensors(state, path):
    """
    Fail unless these are tensors of finite floating-point numbers that take no more room than the file has.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not torch.is_tensor(tensor):
            damaged(path, 'its model is no dict of tensors')
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            damaged(path, f'{name} holds no floating-point numbers')
        if tensor.nbytes > tensor.untyped_storage().nbytes():  # one number can be made to look like a billion
            damaged(path, f'{name} has fewer numbers than its shape says')
        if not torch.isfinite(tensor).all():
            fail(f'{path}: {name} has numbers that are not finite, because its training had failed: take an '
                 'earlier checkpoint')
