"""masking.py against a reading of Eq. 2-5 in float64 loops, and the promises in its docstring."""

import math

import numpy as np
import pytest
import torch
from conftest import ROOT

import masking
from configurator import defaults_of
from masking import (
    BLIND,
    GUIDED,
    SPACES,
    Masking,
    attention_map,
    hide,
    hide_random,
    keep_top_k,
    n_hidden,
    sample_queries,
)
from model import SMA, SMAConfig

MASKS = [*GUIDED, *BLIND]
ENCODERS = [pytest.param(0, id='transformer'), pytest.param(5, id='perceiver')]


def padded(B, n, seed):
    """valid (B, n) with rows of 3 to n inputs."""
    lengths = torch.randint(3, n + 1, (B, 1), generator=torch.Generator().manual_seed(seed))
    lengths[0] = n
    return torch.arange(n) < lengths


def model_and_input(n_latent, n=20, B=16, discrete=True):
    torch.manual_seed(0)
    model = SMA(SMAConfig(d_raw=0 if discrete else 2, embed_dim=24, qk_dim=16, v_dim=24, n_head=4, seq_len=n,
                          n_layer=2, n_latent=n_latent)).double()
    for p in model.parameters():  # far from the start, where attention is nearly even
        p.data += 0.3 * torch.randn_like(p)
    x = torch.randint(6, 262, (B, n)) if discrete else torch.randn(B, n, 2).double()
    return model, x


@pytest.mark.parametrize('n_latent', ENCODERS)
@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('ratio', [0.15, 0.3, 0.5, 0.85])
def test_exactly_the_rounded_share_is_hidden_and_never_padding(n_latent, mask, ratio):
    n = 25 if mask == 'patch' else 20
    model, x = model_and_input(n_latent, n, B=200)
    valid = padded(200, n, seed=1) if mask != 'patch' else torch.ones(200, n, dtype=torch.bool)
    hidden = model.choose_mask(x, model.embed(x), valid, Masking(mask, ratio, 3),
                               torch.Generator().manual_seed(0))
    assert hidden.sum(1).tolist() == [round(ratio * k) for k in valid.sum(1).tolist()]
    assert not (hidden & ~valid).any()


def test_rounding_is_pythons_at_every_half():
    for ratio in (0.05, 0.1, 0.15, 0.25, 0.3, 0.35, 0.5, 0.75, 0.85):
        valid = torch.arange(300) < torch.arange(1, 301)[:, None]
        assert n_hidden(valid, ratio).tolist() == [round(ratio * n) for n in range(1, 301)]


def brute_force(model, x, valid, R, ratio, exact=False):
    """
    Eq. 2-5 for given queries R (B, |R|), one sample, head, query and input at a time, in float64. exact:
    section 4.1 without the approximation, each query's own top among what no query before it has hidden.
    """
    first, c = model.first, model.config
    d_k = c.qk_dim // c.n_head
    x_hat = model.embed(x).detach().numpy()
    W = {name: p.detach().numpy() for name, p in first.named_parameters()}
    masks = np.zeros(valid.shape, bool)
    for b in range(len(x)):
        inputs = [j for j in range(valid.shape[1]) if valid[b, j]]
        total = {j: 0.0 for j in inputs}
        quota = round(ratio * len(inputs))
        queries = R[b].tolist() if model.config.n_latent else [i for i in R[b].tolist() if valid[b, i]]
        for turn, i in enumerate(queries):
            if exact:
                total = {j: 0.0 for j in inputs if not masks[b, j]}
            row = model.latents[i].detach().numpy() if c.n_latent else x_hat[b, i]
            row = (row - row.mean()) / math.sqrt(row.var() + 1e-5) * W['ln_query.weight'] + W['ln_query.bias']
            q = W['query.weight'] @ row + W['query.bias']
            for h in range(c.n_head):
                part = slice(h * d_k, (h + 1) * d_k)
                a = [q[part] @ (W['key.weight'] @ x_hat[b, j] + W['key.bias'])[part] / math.sqrt(d_k)
                     for j in inputs]  # Eq. 2
                e = np.exp(np.array(a) - max(a))
                for j, p in zip(inputs, e / e.sum()):
                    if j in total:
                        total[j] += p  # the sums of Eq. 4 and Eq. 5
            if exact:
                own = quota // len(queries) + (turn < quota % len(queries))
                masks[b, sorted(total, key=lambda j: -total[j])[:own]] = True
        if not exact:
            masks[b, sorted(inputs, key=lambda j: -total[j])[:quota]] = True  # Eq. 3
    return masks


@pytest.mark.parametrize('discrete', [True, False])
@pytest.mark.parametrize('n_latent', ENCODERS)
@pytest.mark.parametrize('mask', ['guided', 'guided_exact'])
def test_guided_is_eq_2_to_5(n_latent, discrete, mask, monkeypatch):
    model, x = model_and_input(n_latent, discrete=discrete)
    valid = padded(16, 20, seed=2)
    can_query = model.can_query(valid)
    R = sample_queries(can_query, 4, torch.Generator().manual_seed(3))  # some rows have but three inputs
    monkeypatch.setattr(masking, 'sample_queries', lambda *args: R)
    for ratio in (0.15, 0.5):
        hidden = model.choose_mask(x, model.embed(x), valid, Masking(mask, ratio, 4))
        assert (hidden.numpy() == brute_force(model, x, valid, R, ratio, mask == 'guided_exact')).all()
        assert (hidden.sum(1) == n_hidden(valid, ratio)).all()


def test_a_query_that_may_not_be_drawn_has_no_say():
    """A sample with one valid query, asked for three: the mask is that of its one query."""
    torch.manual_seed(0)
    A = torch.rand(1, 2, 4, 4).softmax(-1)
    valid = torch.ones(1, 4, dtype=torch.bool)
    only = torch.tensor([[False, False, True, False]])
    hidden = hide(Masking('guided', 0.5, 3), lambda R: A[:, :, R[0]], None, valid, only)
    assert (hidden == keep_top_k(A[:, :, 2].sum(1), torch.tensor([2]))).all()


def test_queries_are_drawn_evenly_without_replacement_and_only_where_allowed():
    can_query = (torch.arange(12) < 9).expand(6000, 12)
    R = sample_queries(can_query, 4, torch.Generator().manual_seed(0))
    assert R.shape == (6000, 4) and R.max() < 9
    assert (R.sort(1).values.diff(dim=1) > 0).all()
    counts = torch.bincount(R.flatten(), minlength=12)[:9].double()
    expected = 6000 * 4 / 9
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)  # five standard deviations
    assert sample_queries(can_query[:2], 99, None).shape == (2, 12)


def test_attention_map_is_torchs():
    """Its product with the values is what F.scaled_dot_product_attention computes."""
    torch.manual_seed(0)
    shapes = ((3, 2, 5, 8), (3, 2, 7, 8), (3, 2, 7, 4))
    q, k, v = (torch.randn(shape).double() for shape in shapes)
    valid = padded(3, 7, seed=0)
    A = attention_map(q, k, valid)
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, valid[:, None, None, :])
    torch.testing.assert_close(A @ v, theirs)
    assert (A.masked_select(~valid[:, None, None, :]) == 0).all()


def test_padding_is_never_on_top():
    """However much attention a map gives to padding."""
    A, valid = torch.rand(8, 2, 3, 10) * torch.linspace(0.1, 9, 10), padded(8, 10, seed=0)
    for mask in GUIDED.values():
        hidden = mask(A, valid, n_hidden(valid, 0.4))
        assert not (hidden & ~valid).any() and torch.equal(hidden.sum(1), n_hidden(valid, 0.4))


def test_keep_top_k_is_numpys_sort():
    v = torch.randn(50, 13, generator=torch.Generator().manual_seed(0))
    k = torch.randint(0, 14, (50,), generator=torch.Generator().manual_seed(1))
    for row, count, chosen in zip(v.numpy(), k.tolist(), keep_top_k(v, k).numpy()):
        assert set(np.flatnonzero(chosen)) == set(np.argsort(-row)[:count])
    # ties
    assert keep_top_k(torch.zeros(1, 5), torch.tensor([2])).tolist() == [[True, True, False, False, False]]


@pytest.mark.parametrize('mask', ['guided', 'guided_exact'])
def test_looseness_goes_from_random_to_guided(mask):
    """
    At 1 every input is hidden equally often; at 0 the mask is the guided one; between, part of a larger top.
    """
    A = torch.rand(1, 1, 1, 10, generator=torch.Generator().manual_seed(0)).softmax(-1).expand(20_000, 1, 1, 10)
    valid = torch.ones(20_000, 10, dtype=torch.bool)

    def drawn(random_fraction):
        return hide(Masking(mask, 0.3), lambda R: A, None, valid, valid[:, :1],
                           torch.Generator().manual_seed(1), random_fraction)
    order = A[0, 0, 0].argsort(descending=True)
    assert (drawn(torch.tensor(1.0)).double().mean(0) - 0.3).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 20_000)
    assert torch.equal(drawn(torch.tensor(0.0)), drawn(None)) and drawn(None)[:, order[:3]].all()
    half = drawn(torch.tensor(0.3)).double().mean(0)  # a random 3 of the top 3 + round(7 * 0.3) = 5
    assert (half[order[:5]] - 0.6).abs().max() < 0.02 and (half[order[5:]] == 0).all()
    assert (drawn(torch.tensor(0.5)).sum(1) == 3).all()


@pytest.mark.parametrize('mask', MASKS)
def test_the_generator_decides(mask):
    model, x = model_and_input(5, 25)
    x[:, ::3] = SPACES[0]
    valid = torch.ones(16, 25, dtype=torch.bool)

    def draw(seed):
        return model.choose_mask(x, model.embed(x), valid, Masking(mask, 0.4, 2),
                                 torch.Generator().manual_seed(seed))
    assert (draw(0) == draw(0)).all() and (draw(0) != draw(1)).any()
    torch.manual_seed(0)
    a = model.choose_mask(x, model.embed(x), valid, Masking(mask, 0.4, 2))  # torch's own generator
    torch.manual_seed(0)
    assert (a == model.choose_mask(x, model.embed(x), valid, Masking(mask, 0.4, 2))).all()


def test_random_hides_every_input_equally_often():
    valid = torch.ones(20_000, 10, dtype=torch.bool)
    hidden = hide_random(None, valid, n_hidden(valid, 0.3), torch.Generator().manual_seed(0))
    share = hidden.double().mean(0)
    assert (share - 0.3).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 20_000)


def groups_hidden(mask, x, valid, ratio, seed):
    return BLIND[mask](x, valid, n_hidden(valid, ratio), torch.Generator().manual_seed(seed))


def check_groups(hidden, groups, loose, quota):
    """
    Of groups (lists of positions) one at most is cut, to its start; `loose` inputs go when all groups are gone.
    """
    taken = [[int(hidden[j]) for j in group] for group in groups]
    assert all(t == sorted(t, reverse=True) for t in taken)  # a group's start first
    assert sum(0 < sum(t) < len(t) for t in taken) <= 1
    assert hidden.sum() == quota and (not hidden[loose].any() or all(all(t) for t in taken))
    return [i for i, t in enumerate(taken) if any(t)]


def test_word_hides_whole_words(tmp_path):
    """Words are those of bytes.split(), read back from the ids that data.py makes."""
    from data import open_dataset
    texts = [b'the quick brown fox', b'  spaces\tand  tabs ', b'one', b'a b c d e f g h',
             b'caf\xc3\xa9 na\xc3\xafve']
    (tmp_path / 't.txt').write_bytes(b'\n'.join(texts))
    dataset = open_dataset(str(tmp_path / 't.txt'), data_dir=tmp_path)
    x, valid = dataset.batch(np.arange(len(texts)))
    for ratio in (0.15, 0.4, 0.9):
        first = []
        for seed in range(50):
            hidden = groups_hidden('word', x, valid, ratio, seed)
            for b, text in enumerate(texts):
                groups, at = [], 0
                for w in text.split():
                    at = text.index(w, at)
                    groups.append(list(range(at + 1, at + 1 + len(w))))  # after CLS
                    at += len(w)
                loose = [j for j in range(int(valid[b].sum())) if not any(j in g for g in groups)]
                chosen = check_groups(hidden[b], groups, loose, round(ratio * int(valid[b].sum())))
                first += chosen if b == 0 else []
        assert set(first) == {0, 1, 2, 3}  # every word has its turn


@pytest.mark.parametrize('side, size', [(96, 16), (64, 16), (50, 12), (8, 2), (3, 1)])
def test_patch_hides_whole_squares(side, size):
    squares = {}
    for i in range(side):
        for j in range(side):
            squares.setdefault((i // size, j // size), []).append(i * side + j)
    valid, seen = torch.ones(20, side * side, dtype=torch.bool), set()
    x = torch.zeros(20, side * side, 3)
    for ratio in (0.3, 0.75):
        for hidden in groups_hidden('patch', x, valid, ratio, 0):
            seen |= set(check_groups(hidden, list(squares.values()), [], round(ratio * side * side)))
    assert len(seen) == len(squares)


@pytest.mark.parametrize('wrong, what', [
    (lambda A, valid, k, generator: torch.rand(valid.shape) < 0.4, 'a coin toss for each input'),
    (lambda A, valid, k, generator: keep_top_k(A.sum((1, 2)), k + 1), 'one too many'),
    (lambda A, valid, k, generator: keep_top_k((~valid).double(), k), 'padding first')])
def test_a_mask_of_another_count_is_caught_with_a_sentence(monkeypatch, wrong, what):
    """
    What someone's new mask may do; without the check it dies later, as an index out of bounds, or not at all.
    """
    monkeypatch.setitem(GUIDED, 'new', wrong)
    model, x = model_and_input(0)
    with pytest.raises(RuntimeError, match='mask=new must hide exactly round'):
        model(x, padded(16, 20, seed=0), Masking('new', 0.4))


def test_scores_below_zero_hide_no_padding(monkeypatch):
    """A ranking may be of any numbers: the least attended inputs are the top of minus the attention."""
    def least(A, valid, k, generator):
        return keep_top_k((-1 - A.sum((1, 2))).masked_fill(~valid, -torch.inf), k)
    monkeypatch.setitem(GUIDED, 'least', least)
    model, x = model_and_input(0)
    hidden = model(x, padded(16, 20, seed=0), Masking('least', 0.4))[1]
    assert (hidden.sum(1) == n_hidden(padded(16, 20, seed=0), 0.4)).all()


@pytest.mark.slow
@pytest.mark.parametrize('mask', MASKS)
def test_each_mask_compiles_in_one_piece(mask):
    """
    No graph break (a break is an error with fullgraph), and the same masks; dynamo's own backend runs PyTorch.
    """
    model, x = model_and_input(0, 25, B=4, discrete=mask != 'patch')
    valid = None if mask == 'patch' else padded(4, 25, seed=0)
    torch._dynamo.reset()
    masks = []
    for f in (model, torch.compile(model, backend='eager', fullgraph=True)):
        torch.manual_seed(1)
        masks.append(f(x, valid, Masking(mask, 0.3, 3))[1])
    assert torch.equal(*masks)


def test_each_field_of_a_mask_is_a_knob_where_masks_are_made():
    """pretrain.py's, of the same type; eval.py's, None = as the checkpoint was trained."""
    pre, evaluate = defaults_of(ROOT / 'pretrain.py'), defaults_of(ROOT / 'eval.py')
    for name, default in vars(Masking()).items():
        assert type(pre[name]) is type(default) and evaluate[name] is None, name
