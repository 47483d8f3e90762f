"""Masks of many rows: what they share with others of the same rows, and which inputs they hide together."""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from masking import BLIND, SPACES, Masking, sample_queries
from model import SMA, all_true, gather_rows, mask_to_indices
from util.collider import HIGGS_COLUMNS

C = HIGGS_COLUMNS
HIGGS_GROUPS = {  # columns that belong together: the pairs within each group are looked at
    'lepton pt, eta, phi': [C[:3]],
    'met, its phi': [C[3:5]],
    'a jet\'s pt, eta, phi, btag': [C[5:9], C[9:13], C[13:17], C[17:21]],
    'a mass and a part of it': [
        ('m_jjj', 'm_jj'), ('m_jlv', 'm_lv'), ('m_wbb', 'm_bb'), ('m_wbb', 'm_jj'), ('m_wwbb', 'm_wbb'),
        ('m_wwbb', 'm_lv'), ('m_lv', C[0]), ('m_lv', C[1]), ('m_lv', C[2]), ('m_lv', C[3]), ('m_lv', C[4])]}


def shared_share(hidden: Tensor, other: Tensor) -> Tensor:
    """The share of the inputs hidden by a mask that another mask hides too: (N, n), (N, n) bool -> (N,)."""
    return (hidden & other).sum(1) / hidden.sum(1)


def hidden_neighbours(hidden: Tensor) -> Tensor:
    """Of square images: the share of the neighbours of hidden pixels that are hidden. (N, n) bool -> (N,)"""
    side = math.isqrt(hidden.shape[1])
    grid = hidden.double().unflatten(1, (side, side))  # (N, side, side)
    below = grid[:, 1:]
    above = grid[:, :-1]
    right = grid[:, :, 1:]
    left = grid[:, :, :-1]
    both = (below * above).sum((1, 2)) + (right * left).sum((1, 2))  # pairs of neighbours, both hidden
    ends = (below + above).sum((1, 2)) + (right + left).sum((1, 2))  # hidden ends of such pairs
    return 2 * both / ends


def run_length(hidden: Tensor) -> Tensor:
    """Of text: the mean length of a run of hidden bytes. (N, n) bool -> (N,)"""
    starts = hidden & ~F.pad(hidden[:, :-1], (1, 0))
    return hidden.sum(1) / starts.sum(1)


def share_of_spaces(hidden: Tensor, ids: Tensor) -> Tensor:
    """Of text: the share of the hidden bytes that are spaces. hidden (N, n) bool, ids (N, n) int64 -> (N,)"""
    spaces = torch.isin(ids, torch.tensor(SPACES))
    return (hidden & spaces).sum(1) / hidden.sum(1)


def pairs_hidden(hidden: Tensor, pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """
    Of tables: how often both columns of a pair are hidden, and the correlation of their being hidden, each the
    mean over the pairs. hidden (N, n) bool -> (N,), (N,): the means over N are what is asked for.
    """
    h = hidden.double()
    z = (h - h.mean(0)) / h.std(0, correction=0).clamp(min=1e-9)
    i, j = torch.tensor(pairs).T
    return (h[:, i] * h[:, j]).mean(1), (z[:, i] * z[:, j]).mean(1)


def higgs_pairs(columns: list[str]) -> dict[str, list[tuple[int, int]]]:
    """{what they have in common: pairs of column numbers} of a table with the columns of HIGGS, else {}."""
    pairs = {}
    if columns != HIGGS_COLUMNS:
        return pairs
    for what, groups in HIGGS_GROUPS.items():
        pairs[what] = []
        for names in groups:
            numbers = [columns.index(name) for name in names]
            for a in range(len(numbers)):
                for b in range(a + 1, len(numbers)):
                    pairs[what].append((numbers[a], numbers[b]))
    return pairs


def measure(hidden: Tensor, others: dict, ids: Tensor | None, is_image: bool, pairs: dict) -> dict[str, Tensor]:
    """
    All of the above that fit the data, for masks hidden (N, n) bool: {what: (N,)}.
    others {name: masks (N, n) of the same rows, or None}; ids (N, n) of text; pairs: see higgs_pairs.
    """
    values = {}
    for name, other in others.items():
        if other is not None:
            values[f'also hidden {name}'] = shared_share(hidden, other)
    if is_image:
        values['hidden neighbours of a hidden pixel, share'] = hidden_neighbours(hidden)
    elif ids is not None:
        values['run of hidden bytes, mean length'] = run_length(hidden)
        values['spaces among the hidden bytes, share'] = share_of_spaces(hidden, ids)
    for what, some in pairs.items():
        both, correlation = pairs_hidden(hidden, some)
        values[f'{what}: both hidden'] = both
        values[f'{what}: correlation'] = correlation
    return values


def with_interval(values: Tensor) -> str:
    """The mean and its 95 % interval."""
    return f'{values.mean():8.4f} ± {1.96 * values.std() / len(values) ** 0.5:.4f}'


# -----------------------------------------------------------------------------
# masks of a model

def choose_masks(model: SMA, batches: Iterable, masking: Masking, maskings: dict[str, Masking], device):
    """
    Masks of many rows, by one model. batches: of data.scoring, the longest rows first.
    maskings {name: Masking}: the last two are two views of `masking`.

    -> {name: hidden (rows, n) bool}, with the ids 'x' of text, and 'exact', the masks of guided_exact for the
    queries of the first view; and (x, valid, {name: hidden}) of the first batch, to be drawn.
    """
    generator = torch.Generator(device)
    parts = {}
    shown = None
    width = None
    for i, _, x, valid in batches:
        if valid is None:
            valid = all_true(x)
        choose = partial(model.choose_mask, x, model.embed(x), valid)
        masks = {}
        for j, (name, one) in enumerate(maskings.items()):
            masks[name] = choose(one, generator.manual_seed(10 * i + j))  # (B, n) bool
        if shown is None:
            shown = (x, valid, masks)
            width = x.shape[1]  # all other rows are padded to the width of the longest
        batch = dict(masks)
        if model.config.d_raw == 0:
            batch['x'] = x
        if masking.mask not in BLIND:
            first_view = len(maskings) - 2
            same_queries = generator.manual_seed(10 * i + first_view)
            batch['exact'] = choose(replace(masking, mask='guided_exact'), same_queries)
        for name, t in batch.items():
            parts.setdefault(name, []).append(F.pad(t, (0, width - t.shape[1])).cpu())
    return {name: torch.cat(some) for name, some in parts.items()}, shown


def overlap(model: SMA, batches: Iterable, n: int, n_inputs: int, m: int, k: int, generator) -> float:
    """
    Figure 4: m queries each choose their own top k, in a random part of n_inputs of the first n inputs. -> the
    share of these m k choices that another query has made already.
    """
    shares = []
    for _, _, x, _ in batches:
        x = x[:, :n]
        every = all_true(x)
        part = torch.zeros_like(every).scatter_(1, sample_queries(every, n_inputs, generator), True)  # (B, n)
        R = sample_queries(model.can_query(part), m, generator)  # (B, m)
        A = model.attention(model.embed(x), part, R).sum(1)  # (B, m, n), summed over heads
        chosen = torch.zeros_like(part).scatter_(1, A.topk(k).indices.flatten(1), True)  # (B, n)
        shares.append(1 - chosen.sum(1) / (m * k))
    return torch.cat(shares).mean().item()


def reconstruct(model: SMA, x: Tensor, hidden: Tensor) -> Tensor:
    """x (B, n, d_raw) without padding, the hidden inputs replaced by what the model makes of the others."""
    m = int(hidden[0].sum())  # the same in every sample
    hidden_at, _ = mask_to_indices(hidden, m)
    visible_at, _ = mask_to_indices(~hidden, x.shape[1] - m)
    H, H_valid = model.encode(gather_rows(model.embed(x), visible_at))
    prediction = model.decode(H, H_valid, hidden_at).to(x.dtype)  # (B, m, d_raw)
    return x.scatter(1, hidden_at[..., None].expand_as(prediction), prediction)
