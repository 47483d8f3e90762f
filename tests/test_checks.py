"""checks.py: what cannot work is said in one line before the work begins."""

import math

import numpy as np
import pytest
import torch
from test_data import opened

from masking import Masking
from util.checks import check_batch, check_fits, check_masking, check_norm, check_numbers
from util.errors import UserError
from util.runtime import Run
from util.scaling import fit_norm

# ---- knobs

GOOD = dict(batch_size=8, accumulation=1, epochs=None, max_steps=3, lr=0.1, min_lr=0.0, weight_decay=0.0,
            grad_clip=0.0, warmup_steps=0, seed=0, split_seed=None)


@pytest.mark.parametrize('change, word', [
    (dict(batch_size=0), 'batch_size=0'), (dict(epochs=0), 'epochs=0'), (dict(max_steps=-1), 'max_steps=-1'),
    (dict(lr=-1.0), 'negative'), (dict(lr=(0.1, -0.1)), 'negative'), (dict(lr=()), 'at least one'),
    (dict(lr=math.inf), 'lr=inf'), (dict(lr=(0.1, math.inf)), 'finite'), (dict(min_lr=math.inf), 'min_lr=inf'),
    (dict(weight_decay=math.inf), 'weight_decay=inf'), (dict(seed=-1), 'seed=-1'),
    (dict(split_seed=-1), 'split_seed'), (dict(n=0), 'n=0')])
def test_numbers_that_no_run_can_be_made_with(change, word):
    check_numbers(GOOD, ('n',))
    check_numbers({**GOOD, 'grad_clip': math.inf})  # no limit, as 0
    with pytest.raises(UserError, match=word):
        check_numbers({**GOOD, **change}, ('n',))


def test_a_folder_to_write_to_is_no_file(tmp_path):
    (tmp_path / 'a').touch()
    with pytest.raises(UserError, match='is a file'):
        check_numbers({**GOOD, 'out_dir': str(tmp_path / 'a')})


def test_a_batch_must_be_filled_and_split_evenly(capsys):
    run = Run(torch.device('cpu'), world=2)
    config = dict(batch_size=8, accumulation=2)
    check_batch(8, config, run)
    assert not capsys.readouterr().out
    check_batch(8, config, run, n_val=36)
    said = capsys.readouterr().out
    assert said == 'warning: Only 36 validation rows: model selection will be noisy. Raise --val_share.\n'
    with pytest.raises(UserError, match='only 7 rows'):
        check_batch(7, config, run)
    with pytest.raises(UserError, match='divisible by accumulation x processes = 6'):
        check_batch(8, dict(batch_size=8, accumulation=3), run)


# ---- masks

@pytest.mark.parametrize('ratio, word', [
    (0.0, 'nothing'), (0.04, 'nothing'), (1.0, 'everything'), (0.85, 'row of 3'), (-1.0, 'nothing'),
    (math.inf, 'between 0 and 1'), (-math.inf, 'between 0 and 1'), (math.nan, 'between 0 and 1')])
def test_ratios_that_hide_nothing_or_everything(ratio, word):
    lengths = np.array([3, 10])
    check_masking(Masking('guided', 0.5), lengths, 1)
    with pytest.raises(UserError, match=word):
        check_masking(Masking('guided', ratio), lengths, 1)


@pytest.mark.parametrize('mask, d_raw, n', [('word', 1, 16), ('patch', 0, 16), ('patch', 3, 20)])
def test_masks_that_do_not_fit_the_data(mask, d_raw, n):
    with pytest.raises(UserError, match=f'mask={mask}'):
        check_masking(Masking(mask, 0.5), np.full(3, n), d_raw)
    check_masking(Masking('word', 0.5), np.full(3, n), 0)
    check_masking(Masking('patch', 0.5), np.full(3, 16), 3)


# ---- a checkpoint and a data set

def table(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.savetxt(tmp_path / 'a.csv', x, delimiter=',', header='a,b,c', comments='')
    return opened(tmp_path, tmp_path / 'a.csv')


def test_a_crafted_scale_is_refused(tmp_path):
    d = table(tmp_path)
    for kind in ('standard', 'quantile', 'none'):
        norm = fit_norm(d, d.rows('train'), kind)
        check_norm(d, dict(norm=norm))
        for name in norm.keys() - {'kind'}:
            for bad in (norm[name] * torch.nan, norm[name][..., :2, :], norm[name][None], 3, None, {}):
                with pytest.raises(UserError, match='damaged'):
                    check_norm(d, dict(norm={**norm, name: bad}))
    for bad in (dict(norm={'kind': 'max'}), dict(norm={'kind': []}), dict(norm=3)):
        with pytest.raises(UserError, match='damaged'):
            check_norm(d, bad)
    standard = fit_norm(d, d.rows('train'), 'standard')
    with pytest.raises(UserError, match='damaged'):
        check_norm(d, dict(norm={**standard, 'std': standard['std'] * 0}))


def test_a_scale_that_is_not_sorted_is_refused(tmp_path):
    """np.interp would give numbers without a meaning."""
    d = table(tmp_path)
    norm = fit_norm(d, d.rows('train'), 'quantile')
    with pytest.raises(UserError, match='damaged'):
        check_norm(d, dict(norm={**norm, 'quantiles': norm['quantiles'].flip(0)}))


def test_what_a_scale_leaves_is_what_the_model_computes_with(tmp_path):
    """float32, or the scale is refused: in float64 the model would end in a traceback."""
    d = table(tmp_path)
    norm = fit_norm(d, d.rows('train'), 'standard')
    norm = {'kind': 'standard', 'mean': norm['mean'].double(), 'std': norm['std'].double()}
    try:
        check_norm(d, dict(norm=norm))
    except UserError:
        return
    d.norm = norm
    x, _ = d.batch(np.arange(4))
    assert x.dtype == torch.float32


def checkpoint_of(columns, norm=None, **more):
    return dict(model_args=dict(d_raw=1, seq_len=len(columns)), columns=columns, norm=norm, **more)


def test_columns_are_compared_by_name_and_nameless_ones_by_their_values(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal([0, 50, 3], [1, 3, 9], size=(500, 3))
    np.savetxt(tmp_path / 'a.csv', x, delimiter=',', header='a,b,c', comments='')
    np.save(tmp_path / 'x.npy', x)
    np.save(tmp_path / 'reversed.npy', x[:, ::-1])
    np.save(tmp_path / 'grams.npy', x * [1, 1000, 1])
    named = opened(tmp_path, tmp_path / 'a.csv')
    norm = fit_norm(named, named.rows('train'), 'standard')
    assert check_fits(named, checkpoint_of([*'abc'], norm)) == ''
    others = (('cba', 'another order'), ('abd', "'c' for 'd' at place 3"), ('xyz', 'other columns'))
    for columns, word in others:
        with pytest.raises(UserError, match=word):
            check_fits(named, checkpoint_of([*columns], norm))
    with pytest.raises(UserError, match="texts of column 'a'"):
        check_fits(named, checkpoint_of([*'abc'], norm, categories={'a': {'red': 0}}))
    for kind in ('standard', 'quantile'):
        known = checkpoint_of([*'abc'], fit_norm(named, named.rows('train'), kind))
        for name, word in (('x', ''), ('reversed', "column 'c"), ('grams', "column 'c1'")):
            said = check_fits(opened(tmp_path, tmp_path / f'{name}.npy'), known)
            assert word in said and bool(word) == bool(said)


def test_a_checkpoint_that_names_too_few_columns(tmp_path):
    checkpoint = checkpoint_of([*'abc'])
    checkpoint['columns'] = ['a', 'b']
    with pytest.raises(UserError, match='3 columns, the checkpoint names 2'):
        check_fits(table(tmp_path), checkpoint)
