"""checkpoint.py: what is saved comes back; what is damaged or of another model is refused in one line."""

import math
import sys
import zipfile
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

import eval as evaluate
import model as model_module
from masking import Masking
from model import FREE, SMA, SMAConfig, build
from util import checkpoint
from util.checkpoint import check_optimizer_state, check_task, load, load_weights, must_match, save, shape_of
from util.errors import UserError
from util.optim import make_optimizer, make_scaler, update
from util.runtime import Run


def make(n_latent, d_raw, seed=0, **more):
    torch.manual_seed(seed)
    shape = dict(embed_dim=16, seq_len=20, n_layer=2, qk_dim=8, n_head=2, v_dim=16)
    return SMA(SMAConfig(**{**shape, **more}, n_latent=n_latent, d_raw=d_raw))


def test_checkpoints_round_trip_and_name_what_is_new(tmp_path):
    old = make(0, 1)
    new = make(0, 1, seed=1, n_out=2)
    save(tmp_path / 'a' / 'last.pt', dict(model=old.state_dict(), model_args=vars(old.config), config={}))
    found = load(tmp_path / 'a')  # a folder means its last.pt
    loaded, fresh = load_weights(new, found['model'], new=('head.', 'head_query'), dropped=('decoder.',))
    assert loaded + fresh == len(new.state_dict())
    assert fresh == sum(name.startswith('head') for name in new.state_dict())
    for name, tensor in old.state_dict().items():
        assert name.startswith('decoder.') or torch.equal(tensor, new.state_dict()[name])
    with pytest.raises(UserError, match='does not fit'):
        load_weights(new, found['model'])  # nobody said that the head is new
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'a' / 'last.pt').read_bytes()[:500])
    torch.save({'a': 1}, tmp_path / 'other.pt')
    torch.save([1], tmp_path / 'list.pt')
    for path, word in (('cut.pt', 'cut short'), ('other.pt', 'not a checkpoint'), ('none.pt', 'no checkpoint'),
                       ('list.pt', 'not a checkpoint'), ('x' * 300, 'no checkpoint')):
        with pytest.raises(UserError, match=word):
            load(tmp_path / path)


def test_names_of_older_checkpoints_are_those_of_today(tmp_path):
    model = make(0, 1, n_out=1)
    task = dict(target='regression', metric='rmse', classes=None, mean=0.0, std=1.0)
    config = dict(valid_share=0.3, valid_file='a.csv', lr=1.0)
    old = dict(model=model.state_dict(), model_args=vars(model.config), config=config, outcome=task)
    save(tmp_path / 'a.pt', old)
    found = load(tmp_path / 'a.pt', keys=('model', 'task'))
    assert found['task'] == task and 'outcome' not in found
    assert found['config'] == dict(val_share=0.3, val_file='a.csv', lr=1.0, mask='guided')


def test_an_older_checkpoint_has_the_defaults_of_newer_fields():
    args = dict(vars(make(0, 1).config))
    del args['mlp_ratio'], args['drop_path']
    assert shape_of(args)['mlp_ratio'] == SMAConfig().mlp_ratio and build(args).config.drop_path == 0
    assert not set(FREE) & set(shape_of(args)) and set(FREE) | set(shape_of(args)) == set(vars(SMAConfig()))


@dataclass(frozen=True)
class MoreShape(SMAConfig):
    """A student's fields."""
    activation: str = 'gelu'
    n_register: int = 0


@dataclass(frozen=True)
class MoreMasking(Masking):
    temperature: float = 1.0
    seen: int | None = None


def test_fields_that_a_student_adds_come_back_and_are_checked(tmp_path, monkeypatch):
    old = make(0, 1)
    save(tmp_path / 'old.pt', dict(model=old.state_dict(), model_args=vars(old.config), config={}))
    for module in (model_module, checkpoint):
        monkeypatch.setattr(module, 'SMAConfig', MoreShape)
    monkeypatch.setattr(checkpoint, 'Masking', MoreMasking)
    args = {**vars(old.config), 'activation': 'relu', 'n_register': 3}
    config = dict(mask='guided', temperature=2, seen=5)
    new = dict(model=old.state_dict(), model_args=args, config=config)
    save(tmp_path / 'new.pt', new)
    found = load(tmp_path / 'new.pt')
    assert found['config'] == config and build(found['model_args']).config.n_register == 3
    assert shape_of(found['model_args'])['activation'] == 'relu'
    assert shape_of(load(tmp_path / 'old.pt')['model_args'])['activation'] == 'gelu'
    with pytest.raises(UserError, match='n_register'):
        save(tmp_path / 'bad.pt', {**new, 'model_args': {**args, 'n_register': 'x'}})
        load(tmp_path / 'bad.pt')
    with pytest.raises(UserError, match='temperature'):
        save(tmp_path / 'bad.pt', {**new, 'config': {**config, 'temperature': 'x'}})
        load(tmp_path / 'bad.pt')


def test_what_an_older_run_does_not_know_counts_as_the_default():
    must_match({'lr': 1.0}, {'lr': 1.0, 'new': 3}, 'a run', defaults={'lr': 2.0, 'new': 3})
    for old, new in (({'lr': 1.0}, {'lr': 2.0}), ({}, {'lr': 1.0}), ({'lr': 1.0}, {'lr': 1.0, 'new': 4})):
        with pytest.raises(UserError, match='a run was made with'):
            must_match(old, new, 'a run', defaults={'lr': 2.0, 'new': 3})


# ---- damage

def test_a_flipped_bit_is_noticed(tmp_path):
    model = make(4, 0)
    good = dict(model=model.state_dict(), model_args=vars(model.config), config={'lr': 1.0}, step=3, best=0.5)
    save(tmp_path / 'good.pt', good)
    content = (tmp_path / 'good.pt').read_bytes()
    rng, taken = np.random.default_rng(0), 0
    for place in rng.integers(len(content), size=200):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        (tmp_path / 'flipped.pt').write_bytes(flipped)
        try:
            found = load(tmp_path / 'flipped.pt')
        except UserError:
            continue
        taken += 1  # a bit that says nothing: of a date, or between the parts
        assert all(torch.equal(found['model'][name], tensor) for name, tensor in good['model'].items())
        assert found['model_args'] == good['model_args'] and found['step'] == 3
    assert taken < 100


def test_what_is_damaged_or_crafted_is_no_checkpoint(tmp_path):
    model = make(4, 0)
    good = dict(model=model.state_dict(), model_args=vars(model.config), config={'lr': 1.0}, step=3, best=0.5)
    args = good['model_args']

    def with_weight(tensor):
        return dict(model={**good['model'], 'first.key.weight': tensor})
    key = good['model']['first.key.weight']
    nan = key.clone()
    nan[0, 0] = torch.nan

    def with_args(**change):
        return dict(model_args={**args, **change})

    for change, word in (
            (with_weight(nan), 'first.key.weight has numbers that are not finite'),
            (with_weight(key.long()), 'no floating-point'),
            (with_weight(key.to_sparse()), 'no floating-point'),
            (with_weight(torch.zeros(1, 1).expand(key.shape)), 'fewer numbers'),
            (with_weight(3), 'no dict of tensors'), (dict(model={}), 'damaged'), (dict(model=3), 'damaged'),
            (with_args(n_layer=10 ** 9), 'damaged'), (with_args(decode_pieces=10 ** 9), 'damaged'),
            (with_args(first_heads=3), 'must divide'), (with_args(decoder_heads=10 ** 6), 'must divide'),
            (with_args(v_dim=2.5), 'damaged'), (with_args(n_head=0), 'damaged'),
            (with_args(embed_dim=2 ** 40), 'shape|damaged'), (with_args(seq_len=10 ** 12), 'another shape'),
            (dict(model_args=None), 'damaged'), (dict(model_args={}), 'shape|damaged'),
            (dict(config=[1]), 'damaged'), (dict(config={'lr': {}}), 'damaged'), (dict(step=-1), 'damaged'),
            (dict(best='x'), 'damaged'), (dict(best=math.nan), 'damaged'), (dict(norm=3), 'damaged'),
            (dict(data=torch.zeros(3)), 'damaged'), (dict(columns=[3]), 'damaged'),
            (dict(categories={'a': 3}), 'damaged'), (dict(scaler={'scale': 'x'}), 'damaged')):
        torch.save({**good, **change}, tmp_path / 'odd.pt')
        with pytest.raises(UserError, match=word) as error:
            load(tmp_path / 'odd.pt')
        assert 'odd.pt' in str(error.value)


def test_a_packed_file_is_refused(tmp_path):
    """It could unpack to any size."""
    model = make(4, 0)
    save(tmp_path / 'a.pt', dict(model=model.state_dict(), model_args=vars(model.config), config={}))
    with zipfile.ZipFile(tmp_path / 'a.pt') as plain:
        parts = {part.filename: plain.read(part) for part in plain.infolist()}
    with zipfile.ZipFile(tmp_path / 'b.pt', 'w', zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    with pytest.raises(UserError, match='packed'):
        load(tmp_path / 'b.pt')


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = make(4, 0)
    good = dict(model=model.state_dict(), model_args=vars(model.config), config={})
    save(tmp_path / 'good.pt', good)
    content = (tmp_path / 'good.pt').read_bytes()
    bad = {name: tensor.clone() for name, tensor in good['model'].items()}
    bad['first.key.weight'][0, 0] = torch.nan
    with pytest.raises(UserError, match='not finite'):
        save(tmp_path / 'good.pt', {**good, 'model': bad})
    assert (tmp_path / 'good.pt').read_bytes() == content and not list(tmp_path.glob('*.tmp'))


CONFIG = dict(dataset='a.csv', val_share=0.1, split_seed=0, header=None, input_column='a,b', norm='standard',
              max_len=9, mask='random', mask_ratio=1, n_query=2, lr=(0.1, 0.2), from_a_student=[1, None])


@pytest.mark.slow
@pytest.mark.parametrize('change', [
    dict(dataset=5), dict(dataset=['a.csv']), dict(val_share='x'), dict(val_share=math.nan),
    dict(split_seed=-1), dict(split_seed=2 ** 64), dict(header='x'), dict(input_column=[1, 2]),
    dict(label_column=['y']), dict(window=[9]), dict(norm=3), dict(max_len='x'), dict(mask=3), dict(mask=None),
    dict(mask_ratio='x'), dict(mask_ratio=(0.5,)), dict(n_query=2.5), dict(metric=[]), dict(target=1)])
def test_a_knob_of_another_type_in_a_checkpoint_is_refused(tmp_path, change):
    model = make(0, 1)
    good = dict(model=model.state_dict(), model_args=vars(model.config))
    save(tmp_path / 'a.pt', {**good, 'config': CONFIG})
    assert load(tmp_path / 'a.pt')['config'] == CONFIG
    save(tmp_path / 'a.pt', {**good, 'config': {**CONFIG, 'input_column': ['a', 'b']}})
    load(tmp_path / 'a.pt')  # the names of the columns, as finetune.py reads another table by them
    save(tmp_path / 'a.pt', {**good, 'config': {**CONFIG, **change}})
    name, = change
    with pytest.raises(UserError, match=f'a.pt is damaged: its config has {name}='):
        load(tmp_path / 'a.pt')


TASKS = {
    'binary': (dict(target='binary', metric='f1', classes=['no', 'yes'], positive='yes'), 1),
    'multiclass': (dict(target='multiclass', metric='accuracy', classes=[0.0, 1.0, 2.0]), 3),
    'regression': (dict(target='regression', metric='rmse', classes=None, mean=2.0, std=1.0), 1)}
WRONG = [
    ('binary', dict(target='none')), ('binary', dict(target=None)), ('binary', dict(target='multiclass')),
    ('binary', dict(metric='x')), ('binary', dict(metric=['f1'])), ('binary', dict(classes=None)),
    ('binary', dict(classes=['no', 'no'])), ('binary', dict(classes=['no', 1.0])),
    ('binary', dict(positive='maybe')),
    ('multiclass', dict(classes=[0.0, 1.0])), ('multiclass', dict(classes=[0.0, 1.0, math.nan])),
    ('multiclass', dict(classes=[0.0, 1.0, [2.0]])), ('multiclass', dict(target='binary')),
    ('regression', dict(mean=math.nan)), ('regression', dict(std='1')), ('regression', dict(mean=None)),
    ('regression', dict(classes=['a', 'b'])), ('regression', dict(target='binary'))]


@pytest.mark.parametrize('kind, change', WRONG)
def test_a_task_that_does_not_fit_the_model_is_refused(tmp_path, kind, change):
    task, n_out = TASKS[kind]
    model = make(0, 1, n_out=n_out)
    good = dict(model=model.state_dict(), model_args=vars(model.config), config={})
    save(tmp_path / 'a.pt', {**good, 'task': task})
    assert load(tmp_path / 'a.pt')['task'] == task
    save(tmp_path / 'a.pt', {**good, 'task': {**task, **change}})
    with pytest.raises(UserError, match='a.pt is damaged'):
        load(tmp_path / 'a.pt')


def trained(steps):
    """A tiny model's optimizer and scaler after a few steps."""
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=1, seq_len=6, n_layer=1, embed_dim=8, v_dim=8, qk_dim=8, n_head=2))
    optimizer = make_optimizer(model, dict(lr=1e-2, weight_decay=0.1), 'cpu')
    scaler = make_scaler(Run(torch.device('cpu')))
    for _ in range(steps):
        scaler.scale(model(torch.randn(4, 6, 1))[0].sum()).backward()
        update(model, optimizer, scaler, 1.0)
    return optimizer


def test_the_state_of_another_optimizer_is_refused():
    """Fused AdamW would write out of bounds (exit status 139)."""
    optimizer = trained(2)
    good = optimizer.state_dict()
    check_optimizer_state(optimizer, good, 'last.pt')
    check_optimizer_state(trained(0), good, 'last.pt')

    def with_(place, **change):
        return {**good, 'state': {**good['state'], place: {**good['state'][0], **change}}}
    moment = good['state'][0]['exp_avg']
    groups = good['param_groups']
    for bad in (with_(0, exp_avg=moment[:1]), with_(0, exp_avg_sq=moment.double()),
                with_(0, step=torch.zeros(2)), with_(0, exp_avg=torch.full_like(moment, torch.nan)),
                with_(999), with_('a'), with_(0, exp_avg=3), with_(0, more=moment), {'state': {}}, {}, 3,
                {**good, 'state': 3}, {**good, 'param_groups': groups[:1]},
                {**good, 'param_groups': [{**group, 'betas': (2, 2)} for group in groups]},
                {**good, 'param_groups': [{**group, 'eps': torch.zeros(2)} for group in groups]}):
        with pytest.raises(UserError, match='optimizer'):
            check_optimizer_state(optimizer, bad, 'last.pt')


# ---- every entry of real checkpoints, edited one by one

def edits(value):
    """A value as an attack may leave it: of other types, empty, of another shape, not finite, huge."""
    yield from (None, 'x', True, -1, 2.5, math.nan, 2 ** 70, [], ['x'], {'x': 1}, torch.ones(2))
    if torch.is_tensor(value):
        yield from (value.double(), value.long(), value * math.nan, value * 1e30)
        yield from (value.flatten()[:1], value[None])
    if isinstance(value, (list, tuple)) and len(value):
        yield from (value[:-1], [*value, value[0]])


def edited(entry, place=()):
    """(place, a copy of the dict in which what is at this place is left out or edited), at any depth."""
    for name, value in entry.items():
        here = (*place, name)
        yield here, {key: other for key, other in entry.items() if key != name}
        for edit in edits(value):
            yield here, {**entry, name: edit}
        if isinstance(value, dict):
            for deeper, inner in edited(value, here):
                yield deeper, {**entry, name: inner}


UNUSED = ('optimizer', 'scaler', 'since')  # by eval.py
READ_LATER = ('dataset', 'input_column', 'label_column', 'drop_column', 'split_column', 'val_file', 'val_share',
              'split_seed', 'missing', 'header', 'norm', 'max_len', 'mask', 'mask_ratio', 'n_query', 'metric')


def is_worth_trying(place):
    """
    Of weights and knobs that are alike, some stand for all. The optimizer's state is checked by itself, when a
    run is resumed.
    """
    if len(place) == 1:
        return True
    if place[0] == 'model':
        return place[1] in ('P', 'first.key.weight')
    if place[0] == 'config':
        return place[1] in READ_LATER or place[1] == 'lr'
    return place[0] not in ('optimizer', 'since')


TINY = ['--embed_dim=8', '--qk_dim=8', '--v_dim=8', '--n_head=2', '--n_layer=1', '--batch_size=8',
        '--max_steps=2', '--dataset=t.csv', '--val_share=0.2', '--test_share=0.2', '--device=cpu']


def make_checkpoint(run, tmp_path, stage):
    """The path of a checkpoint of a table with text in it: pre-trained, or fine-tuned on classes or numbers."""
    rows = ['a,b,colour,class,number']
    for a, b in np.random.default_rng(0).normal(size=(60, 2)):
        rows.append(f'{a:.3f},{b:.3f},{"red" if a > b else "blue"},{int(a > 0)},{a + b:.3f}')
    (tmp_path / 't.csv').write_text('\n'.join(rows) + '\n')
    if stage == 'pre-trained':
        run('pretrain.py', *TINY, '--label_column=class', '--drop_column=number', '--out_dir=out')
        return tmp_path / 'out/last.pt'
    label, other = ('class', 'number') if stage == 'classes' else ('number', 'class')
    run('finetune.py', *TINY, f'--label_column={label}', f'--drop_column={other}', '--init_from=scratch',
        '--seeds=0', '--out_dir=out')
    return tmp_path / 'out/scratch-lr0.001-seed0.pt'


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['pre-trained', 'classes', 'numbers'])
def test_each_entry_of_a_checkpoint_may_be_anything(run, tmp_path, monkeypatch, stage):
    """Left out, of another type or shape, not finite, huge: it ends in one line, or it can be scored."""
    good = torch.load(make_checkpoint(run, tmp_path, stage), weights_only=True)
    path = tmp_path / 'bad.pt'
    monkeypatch.setattr(sys, 'argv', ['eval.py', f'--ckpt={path}', '--device=cpu'])
    # both are slow: the knobs are read off a source, and the model is built
    monkeypatch.setattr(checkpoint, 'find_knobs', cache(checkpoint.find_knobs))
    check_model = checkpoint.check_model
    refused = 0
    scored = set()  # places of which an edit was not refused: the first of each is scored
    for place, bad in edited(good):
        if not is_worth_trying(place):
            continue
        is_model = place[0] in ('model', 'model_args')
        monkeypatch.setattr(checkpoint, 'check_model', check_model if is_model else lambda *args: None)
        torch.save({name: value for name, value in bad.items() if name not in UNUSED or name == place[0]}, path)
        try:
            load(path, ('model', 'model_args', 'config', 'norm'))
            if place not in scored:
                evaluate.main()
            scored.add(place)
        except UserError as error:
            assert '\n' not in str(error), place
            refused += 1
        except Exception as error:
            raise AssertionError(f'{place}: {type(error).__name__}: {error}') from error
    assert refused > 300 and len(scored) > 10


def test_each_entry_of_an_optimizers_state_may_be_anything():
    optimizer = trained(2)
    good = optimizer.state_dict()
    good['state'] = {0: good['state'][0], 1: good['state'][1]}
    refused = 0
    for place, bad in edited(good):
        try:
            check_optimizer_state(optimizer, bad, 'last.pt')
        except UserError as error:
            assert '\n' not in str(error), place
            refused += 1
    assert refused > 100


# ---- the task of a fine-tuned model

PETS = dict(target='binary', metric='accuracy', classes=['cat', 'dog'])
GOOD_TASKS = [
    (dict(target='regression', metric='rmse', classes=None, mean=1.0, std=2.0), 1),
    (PETS, 1), ({**PETS, 'positive': 'cat'}, 1),
    (dict(target='multiclass', metric='accuracy', classes=[0.0, 1.0, 5.0]), 3)]
BAD_EDITS = [
    dict(target='numbers'), dict(target=['binary']), dict(metric='f2'), dict(metric=None), dict(metric='rmse'),
    dict(classes='cat'), dict(classes=['cat', 3]), dict(classes=['cat', 'cat']), dict(classes=[['a'], ['b']]),
    dict(mean='1', std=None), dict(mean=1.0, std=0.0), dict(mean=float('nan'), std=1.0), dict(positive='emu')]


@pytest.mark.parametrize('task, n_out', GOOD_TASKS)
def test_a_damaged_task_of_a_checkpoint_is_refused(task, n_out):
    check_task(task, n_out, 'a.pt')
    with pytest.raises(UserError, match='damaged'):
        check_task(task, n_out + 1, 'a.pt')
    for bad in (None, 3, [], {}, 'task'):
        with pytest.raises(UserError, match='damaged'):
            check_task(bad, n_out, 'a.pt')
    for key in ('target', 'metric', 'mean' if task['target'] == 'regression' else 'classes'):
        lacking = {k: v for k, v in task.items() if k != key}
        with pytest.raises(UserError, match='damaged'):
            check_task(lacking, n_out, 'a.pt')


@pytest.mark.parametrize('edit', BAD_EDITS)
def test_an_edited_task_is_refused(edit):
    regression, pets = GOOD_TASKS[0][0], GOOD_TASKS[1][0]
    task = regression if 'mean' in edit else pets
    with pytest.raises(UserError, match='damaged'):
        check_task({**task, **edit}, 1, 'a.pt')
