"""
The authors' code and ours, on the same weights and inputs, in float64: tests/parity.pt holds what theirs
gave, see make_parity.py.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import masking
from finetune import sum_of_losses
from masking import Masking
from model import build, gather_rows, mask_to_indices
from util.authors import THEIR_NAMES, from_theirs
from util.checkpoint import load, load_weights
from util.optim import make_optimizer, make_scaler, update

HERE = Path(__file__).resolve().parent
TINY = HERE / 'sma_tiny'
STORED = torch.load(HERE / 'parity.pt', weights_only=True)
CASES = [name for name in STORED if name not in ('sma_tiny', 'tuning')]


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-9, atol=1e-9)


def unpacked(packed):
    flat, at = packed
    return {k: flat[i:i + math.prod(shape)].view(shape).double() for k, (i, shape) in at.items()}


def ours(case, which=''):
    checkpoint, about = from_theirs(case[which + 'config'], unpacked(case[which + 'state']))
    model = build(checkpoint['model_args']).double()
    load_weights(model, checkpoint['model'])
    return model


def renamed(names, norms):
    for theirs, name in THEIR_NAMES:
        names = [theirs.sub(name, k) for k in names]
    return dict(zip(names, norms.tolist(), strict=True))


def compare(case, run, n_query):
    """A step of ours against theirs: mask, loss, logits, gradient norms."""
    model, x, valid = ours(case), case['x'], case['valid']
    loss, hidden = model(x, None if valid.all() else valid, Masking('guided', run['ratio'], n_query))
    assert torch.equal(hidden, run['hidden'])
    loss = loss.sum() / hidden.sum()
    close(loss.item(), run['loss'])
    loss.backward()
    norms = renamed(case['names'], run['norms'])
    assert {k for k, p in model.named_parameters() if p.dim() > 1 and k != 'head_query'} <= set(norms)
    for k, p in model.named_parameters():
        assert k in norms or k.endswith('.bias') and not case['config']['dense_use_bias']
        if k in norms:
            close(p.grad.norm().item(), norms[k])
    if 'logits' in run:
        m = round(run['ratio'] * x.shape[1])
        hidden_at, is_hidden = mask_to_indices(hidden, m)
        visible_at, is_visible = mask_to_indices(valid & ~hidden, x.shape[1] - m)
        prediction = model.decode(*model.encode(gather_rows(model.embed(x), visible_at), is_visible), hidden_at)
        close(prediction[is_hidden].detach(), run['logits'])


@pytest.mark.parametrize('i', range(4))
@pytest.mark.parametrize('name', CASES)
def test_a_step_is_theirs_when_all_queries_are_drawn(name, i):
    compare(STORED[name], STORED[name]['every'][i], n_query=1000)


@pytest.mark.parametrize('i', range(3))
@pytest.mark.parametrize('name', CASES)
def test_a_step_is_theirs_with_the_queries_that_they_drew(name, i, monkeypatch):
    run = STORED[name]['few'][i]
    longest = max(map(len, run['queries']))
    assert longest < 12 and min(map(len, run['queries'])) > 0
    # a shorter row draws fewer: filled up with place 11, padding, which asks nothing
    R = torch.tensor([q + [11] * (longest - len(q)) for q in run['queries']])
    monkeypatch.setattr(masking, 'sample_queries', lambda *args: R)
    compare(STORED[name], run, n_query=longest)


@pytest.mark.parametrize('name', CASES)
def test_the_fine_tuned_answers_are_theirs(name):
    case = STORED[name]
    model, valid = ours(case, 'tuned_'), case['valid']
    answer = model(case['x'], None if valid.all() else valid)
    close(answer.detach(), case['answer'])
    answer.square().sum().backward()
    norms, compared = renamed(case['tuned_names'], case['tuned_norms']), 0
    for k, p in model.named_parameters():
        if k in norms:
            close(p.grad.norm().item(), norms[k])
            compared += 1
    assert compared == len(norms)


def test_fine_tuning_their_folder_gives_their_validation_curve():
    """The same batches, no dropout, AdamW and clipping: our encoder, loss and update, a dozen steps."""
    case = STORED['tuning']
    x, y, valid, size = (case[k] for k in ('x', 'y', 'valid', 'size'))
    checkpoint = load(TINY)
    model = build(checkpoint['model_args'], n_out=3).double()
    head = dict(zip(renamed([f'perceiver.decoder.{k}' for k in case['head']], torch.zeros(len(case['head']))),
                    case['head'].values()))
    load_weights(model, {**head, **checkpoint['model']}, dropped=('decoder.',), new=('head.',))
    assert {k for k in model.state_dict() if k.startswith('head')} - set(head) <= {
        k for k, p in model.named_parameters() if k.endswith('.bias') and not p.any()}  # theirs has none
    for k, p in model.named_parameters():
        p.requires_grad_(k in head or k in named(TINY))
    optimizer, curve = make_optimizer(model, dict(lr=3e-3, weight_decay=0.0), 'cpu'), []
    scaler = make_scaler(SimpleNamespace(device=torch.device('cpu'), dtype='float32'))
    for step in range(len(case['curve'])):
        at = torch.arange(size) + size * (step % 3)
        scaler.scale(sum_of_losses(model(x[at], valid[at]), y[at], 'multiclass') / size).backward()
        update(model, optimizer, scaler, 1.0)
        val = slice(3 * size, None)
        with torch.no_grad():
            curve.append((sum_of_losses(model(x[val], valid[val]), y[val], 'multiclass') / (2 * size)).item())
    close(curve, case['curve'])


def named(folder):
    """Our names of the weights that are in their file."""
    state = torch.load(folder / 'pytorch_model.bin', weights_only=True)
    return renamed(list(state), torch.zeros(len(state)))


def test_the_masks_depend_on_the_queries():
    """Else their agreement would say little: all queries hide something else than the few in every case."""
    for name in CASES:
        case, model = STORED[name], ours(STORED[name])
        valid = None if case['valid'].all() else case['valid']
        others = [model(case['x'], valid, Masking('guided', run['ratio'], 1000))[1] for run in case['few']]
        assert not all(torch.equal(h, run['hidden']) for h, run in zip(others, case['few'])), name
