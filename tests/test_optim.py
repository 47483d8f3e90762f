"""optim.py: what decays, the learning rate, and steps that are left out."""

import math
from types import SimpleNamespace

import pytest
import torch

from model import SMA, SMAConfig
from util.errors import UserError
from util.optim import Skips, cosine, lr_at, make_optimizer, make_scaler, update

HERE = SimpleNamespace(device=torch.device('cpu'), dtype='float32')


def test_only_matrices_decay():
    model = SMA(SMAConfig(n_latent=6))
    decay, rest = make_optimizer(model, dict(lr=1e-3, weight_decay=0.1), 'cpu').param_groups
    assert decay['lr'] == rest['lr'] == 1e-3
    assert decay['weight_decay'] == 0.1 and rest['weight_decay'] == 0
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    assert {id(p) for p in decay['params']} == matrices
    assert len(decay['params']) + len(rest['params']) == len(list(model.parameters()))


def test_learning_rate():
    config = dict(lr=1.0, min_lr=0.1, warmup_steps=10)
    lrs = [lr_at(step, 100, config) for step in range(100)]
    falling = sorted(lrs[10:], reverse=True)
    assert lrs[0] == 0.1 and lrs[9] == lrs[10] == 1.0 and lrs[-1] < 0.102 and lrs == lrs[:10] + falling
    assert lr_at(55, 100, config) == pytest.approx(0.55)  # half-way down the cosine
    constant = dict(lr=0.5, min_lr=0.5, warmup_steps=0)
    assert {lr_at(step, 10, constant) for step in range(10)} == {0.5}


def test_the_annealing_of_masks_is_the_schedule_without_warm_up():
    """Bit for bit: printed results hang on it."""
    config = dict(lr=1.0, min_lr=0.0, warmup_steps=0)
    for total in (1, 7, 0.25 * 33, 1000):
        for step in range(math.ceil(total)):
            assert cosine(step, total, 1.0, 0.0) == lr_at(step, total, config)


def trained(steps):
    """A tiny model, its optimizer and scaler after a few steps."""
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=1, seq_len=6, n_layer=1, embed_dim=8, v_dim=8, qk_dim=8, n_head=2))
    optimizer = make_optimizer(model, dict(lr=1e-2, weight_decay=0.1), 'cpu')
    scaler = make_scaler(HERE)
    for _ in range(steps):
        scaler.scale(model(torch.randn(4, 6, 1))[0].sum()).backward()
        update(model, optimizer, scaler, 1.0)
    return model, optimizer, scaler


def test_a_step_that_is_not_finite_is_not_taken():
    """Nothing moves: no weight, no moment, no count of steps. The next step is as if it had never been."""
    def state():
        tensors = list(model.state_dict().values())
        for moments in optimizer.state.values():
            tensors += moments.values()
        return [t.clone() for t in tensors]
    model, optimizer, scaler = trained(3)
    before, skips = state(), Skips(HERE)
    for bad in (torch.nan, torch.inf):
        scaler.scale(model(torch.randn(4, 6, 1))[0].sum()).backward()
        next(model.parameters()).grad[0] = bad
        assert skips.note(update(model, optimizer, scaler, 1.0))
        assert all(map(torch.equal, before, state())) and scaler.get_scale() == 1
    same, other, third = trained(3)
    for m, o, s in ((model, optimizer, scaler), (same, other, third)):
        torch.manual_seed(1)
        s.scale(m(torch.ones(4, 6, 1))[0].sum()).backward()
        update(m, o, s, 1.0)
    assert all(map(torch.equal, model.state_dict().values(), same.state_dict().values()))


def test_ten_steps_in_a_row_that_are_left_out_end_the_run():
    skips = Skips(HERE)
    for _ in range(9):
        assert skips.note(torch.tensor(torch.nan))
    skips.check(9)
    skips.note(torch.tensor(torch.inf))
    with pytest.raises(UserError, match='lower --lr'):
        skips.check(10)
    assert not skips.note(torch.tensor(1.0))
    skips.check(11)  # ten in a row, not ten in all
