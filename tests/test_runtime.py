"""runtime.py: the device, the learning rate, what decays, and checks of knobs."""

import numpy as np
import pytest
import torch

from configurator import UserError
from masking import Masking
from model import SMA, SMAConfig
from runtime import check_masking, lr_at, make_optimizer, must_match, set_up


def test_cuda_is_found_with_an_index(monkeypatch, capsys):
    """set_up on a machine with a GPU, its calls stood in for: an index for set_device, bfloat16, compiled."""
    used = []
    for name, value in dict(is_available=lambda: True, set_device=used.append, is_bf16_supported=lambda: True,
                            get_device_name=lambda: 'a GPU').items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, 'empty', lambda *args, **options: None)
    found = set_up(dict(device='auto', dtype='auto', compile=None))
    assert str(found.device) == 'cuda:0' and used == [found.device] and found.dtype == 'bfloat16' and found.compile
    assert 'a GPU' in capsys.readouterr().out
    assert not set_up(dict(device='cuda', dtype='float16', compile=False)).compile


def test_learning_rate():
    lrs = [lr_at(s, 100, 1.0, 0.1, 10) for s in range(100)]
    falling = sorted(lrs[10:], reverse=True)
    assert lrs[0] == 0.1 and lrs[9] == lrs[10] == 1.0 and lrs[-1] < 0.102 and lrs == lrs[:10] + falling
    assert lr_at(55, 100, 1.0, 0.1, 10) == pytest.approx(0.55)  # half-way down the cosine
    assert {lr_at(s, 10, 0.5, 0.5, 0) for s in range(10)} == {0.5}


def test_only_matrices_decay():
    model = SMA(SMAConfig(n_latent=6))
    decay, rest = make_optimizer(model, 1e-3, 0.1, 'cpu').param_groups
    assert decay['weight_decay'] == 0.1 and rest['weight_decay'] == 0
    assert {id(p) for p in decay['params']} == {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    assert len(decay['params']) + len(rest['params']) == len(list(model.parameters()))


@pytest.mark.parametrize('ratio, word', [(0.0, 'nothing'), (0.04, 'nothing'), (1.0, 'everything'),
                                         (0.85, 'row of 3'), (-1.0, 'nothing')])
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


def test_what_an_older_run_does_not_know_counts_as_the_default():
    must_match({'lr': 1.0}, {'lr': 1.0, 'new': 3}, 'a run', defaults={'lr': 2.0, 'new': 3})
    for old, new in (({'lr': 1.0}, {'lr': 2.0}), ({}, {'lr': 1.0}), ({'lr': 1.0}, {'lr': 1.0, 'new': 4})):
        with pytest.raises(UserError, match='a run was made with'):
            must_match(old, new, 'a run', defaults={'lr': 2.0, 'new': 3})


def test_each_field_of_a_mask_is_a_knob_where_masks_are_made():
    """pretrain.py's, of the same type; eval.py's, None = as the checkpoint was trained."""
    from configurator import find_knobs
    from conftest import ROOT
    pre, evaluate = (find_knobs(ROOT / f'{name}.py')[0] for name in ('pretrain', 'eval'))
    for name, default in vars(Masking()).items():
        assert type(pre[name][0]) is type(default) and evaluate[name][0] is None, name
