"""
The idea of the paper (section 4.1): the model's own first attention layer chooses what to hide.

    draw a few queries R                        sample_queries
    A = softmax(Q_R K^T / sqrt(d_k))            attention_map     Eq. 2
    add A up over heads and over R              guided            Eq. 4 and the inner sum of Eq. 5
    hide the top round(r n) inputs              keep_top_k        Eq. 3

One polarity everywhere: in a mask True means HIDDEN; in `valid` True means a real input, False means padding.

Every way to mask has one signature, so that `mask = 'guided'` is a look-up in MASKS at the end of this file:

    mask_function(x, attend, valid, can_query, mask_ratio, n_query, generator, looseness) -> mask (B, n) bool

    x           (B, n) int64 ids or (B, n, d_raw) float: the raw inputs, which only `word` looks at
    attend      function: R (B, |R|) int64 -> attention of those queries (B, h, |R|, n), softmax over valid inputs
    valid       (B, n) bool
    can_query   (B, l) bool, the rows that may be drawn: all latents (cross-attention), or valid inputs (self-attention)
    mask_ratio  r, the share of each row's valid inputs to hide
    n_query     |R|
    generator   torch.Generator on the tensors' device: all the randomness there is. None = torch's global one, which
                torch.compile needs (it cannot trace a Generator)
    looseness   None, or a number (0-d tensor) from 1, any inputs may be hidden, to 0, the top of the attention only.
                The baselines, which have no top, pay no heed to it

Nothing here has a gradient: the choice of mask is not differentiated (Algorithm 1).
"""

import math

import torch
import torch.nn.functional as F

from configurator import fail, nearest

FIRST_BYTE = 6  # byte b has the id b + 6, as in Perceiver IO; smaller ids are no bytes
SPACES = tuple(FIRST_BYTE + b for b in b' \t\n\v\f\r')
SQUARE = 16  # side of `patch`'s squares in pixels (section 5.4)


def n_hidden(valid, mask_ratio):
    """How many inputs each row hides: round(r * n_valid), Python's rounding (Eq. 5, note 4). (B, n) -> (B,) int64"""
    # In float64, as Python computes it, so that no row hides more than round(r * n): callers know that bound without
    # asking the device. Apple's MPS has no float64, so there the few counts visit the CPU.
    count = valid.sum(1)
    count = count.cpu() if count.device.type == 'mps' else count
    return (count.double() * mask_ratio).round().long().to(valid.device)


def uniform(like, generator):
    """Uniform numbers in [0, 1), float32, of the shape and on the device of `like`."""
    return torch.empty(like.shape, device=like.device).uniform_(generator=generator)


def sample_queries(can_query, n_query, generator):
    """
    Draw the subset R of Eq. 4 for each sample, without replacement, uniformly among the rows that may be drawn.

    can_query (B, l) bool -> R (B, min(n_query, l)) int64. A sample with fewer than n_query rows to draw gets all of
    them, followed by rows it may not draw: mask those out with can_query.gather(1, R).
    """
    noise = uniform(can_query, generator).masked_fill(~can_query, -1.0)  # (B, l)
    return noise.topk(min(n_query, can_query.shape[1]), dim=1).indices


def attention_map(q, k, valid, d_k=None):
    """
    Eq. 2 and its softmax: q (B or 1, h, |R|, d_k), k (B, h, n, d_k), valid (B, n) -> (B, h, |R|, n).

    Padding gets exactly zero. d_k is the width of one head, that of q unless given. The softmax is never in half
    precision, whose few values would tie at the edge of the top k.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(d_k or q.shape[-1])  # (B, h, |R|, n)
    scores = scores.masked_fill(~valid[:, None, None, :], -torch.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def keep_top_k(v, k):
    """
    Eq. 3: the k_i largest entries of row i. v (B, n), k (B,) int64 -> (B, n) bool, exactly k_i True in row i.

    Printed, Eq. 3 gives 0 to the top k and -inf to the rest, and Eq. 5 adds that to the attention: it would hide
    everything BUT the top k. The text ("select the largest values", "mask the top attentions of a given query"),
    figure 1 and the authors' code hide the top k, and so do we: True here means hidden. Ties go to the lower index.
    """
    order = v.argsort(dim=1, descending=True, stable=True)  # (B, n)
    chosen = torch.arange(v.shape[1], device=v.device) < k[:, None]  # (B, n), in sorted order
    return torch.zeros_like(chosen).scatter_(1, order, chosen)


def widened(k, valid, looseness):
    """How large a top to choose, of which `thinned` keeps k: from all inputs (looseness 1) down to k (None or 0)."""
    return k if looseness is None else k + ((valid.sum(1) - k) * looseness).round().long()


def thinned(top, k, looseness, generator):
    """A random k (B,) of the chosen top (B, n): the authors' anneal of guided masks from random ones, for physics."""
    return top if looseness is None else keep_top_k(uniform(top, generator).masked_fill(~top, -1.0), k)


@torch.no_grad()
def guided(x, attend, valid, can_query, mask_ratio, n_query, generator, looseness=None):
    """The paper's mask, Eq. 2-5: one top-k of the attention summed over the heads and a few random queries."""
    R = sample_queries(can_query, n_query, generator)  # (B, |R|)
    A = attend(R) * can_query.gather(1, R)[:, None, :, None]  # (B, h, |R|, n)
    total = A.sum((1, 2)).masked_fill(~valid, -1.0)  # (B, n); any real attention beats padding's -1
    k = n_hidden(valid, mask_ratio)
    return thinned(keep_top_k(total, widened(k, valid, looseness)), k, looseness, generator)


@torch.no_grad()
def guided_exact(x, attend, valid, can_query, mask_ratio, n_query, generator, looseness=None):
    """
    What Eq. 4 approximates (section 4.1, appendix D): the drawn queries in turn, each hides its own top among what is
    left. With k to hide and q queries, each takes k // q, the first k % q one more. One query: the same as `guided`.
    """
    R = sample_queries(can_query, n_query, generator)  # (B, |R|)
    drawn = can_query.gather(1, R)  # False: a sample has fewer queries than that, and these come last
    A = attend(R).sum(1)  # (B, |R|, n)
    k = n_hidden(valid, mask_ratio)
    quota, q = widened(k, valid, looseness), drawn.sum(1).clamp(min=1)  # (B,), (B,)
    hidden = torch.zeros_like(valid)
    for i in range(R.shape[1]):  # one after the other: the cost that the approximation saves
        share = (quota // q + (i < quota % q)) * drawn[:, i]  # (B,)
        hidden = hidden | keep_top_k(A[:, i].masked_fill(hidden | ~valid, -1.0), share)
    return thinned(hidden, k, looseness, generator)


@torch.no_grad()
def random(x, attend, valid, can_query, mask_ratio, n_query, generator, looseness=None):
    """The baseline: hide as many inputs, drawn uniformly."""
    noise = uniform(valid, generator).masked_fill(~valid, -1.0)  # (B, n)
    return keep_top_k(noise, n_hidden(valid, mask_ratio))


@torch.no_grad()
def word(x, attend, valid, can_query, mask_ratio, n_query, generator, looseness=None):
    """
    Whole words of text in random order, as Perceiver IO masks them: a word is a run of bytes that are not spaces.
    CLS, SEP and spaces belong to no word. A text without spaces is one word, of which the start is hidden.
    """
    letter = (x >= FIRST_BYTE) & ~torch.isin(x, torch.tensor(SPACES, device=x.device)) & valid
    starts = letter & ~F.pad(letter[:, :-1], (1, 0))
    return whole_groups(torch.where(letter, starts.cumsum(1) - 1, -1), valid, mask_ratio, generator)


@torch.no_grad()
def patch(x, attend, valid, can_query, mask_ratio, n_query, generator, looseness=None):
    """Squares of a square image, 16 x 16 pixels, on a grid, in random order. Below 64 x 64 a quarter of the side."""
    side = math.isqrt(x.shape[1])
    size = max(min(SQUARE, side // 4), 1)
    at = torch.arange(side, device=x.device) // size
    group = (at[:, None] * -(-side // size) + at).flatten()  # (n,), squares numbered row by row
    return whole_groups(group.expand(valid.shape), valid, mask_ratio, generator)


def whole_groups(group, valid, mask_ratio, generator):
    """
    Hides whole groups in random order, the last one cut short, its first inputs hidden, so that the count is exact.
    group (B, n) int64: from 0 to n - 1, or -1 for an input in none, which comes after all groups, in random order too.
    """
    noise = uniform(valid, generator)  # (B, n)
    order = torch.where(group >= 0, 1 + noise.gather(1, group.clamp(min=0)), noise)  # ties, in a group: lower index
    return keep_top_k(order.masked_fill(~valid, -1.0), n_hidden(valid, mask_ratio))


MASKS = {'guided': guided, 'guided_exact': guided_exact, 'random': random, 'word': word, 'patch': patch}


def check_masks(masks, ratios, lengths, d_raw):
    """
    Fails unless each mask is known and fits the data, and its ratio hides something, but of no row everything.
    lengths (N,) numpy, inputs of each row; d_raw as in model.py, 0 = bytes.
    """
    if len(ratios) != len(masks):
        fail(f'mask names {len(masks)} kind(s), {", ".join(masks)}, and mask_ratio has {len(ratios)} values: one each')
    if len(set(masks)) < len(masks):
        fail(f'mask names one kind twice, {", ".join(masks)}: both would be written to one folder')
    for mask, ratio in zip(masks, ratios):
        if mask not in MASKS:
            fail(f'unknown mask {mask!r}: of {", ".join(MASKS)} the nearest is {nearest(mask, MASKS)!r}')
        if mask == 'word' and d_raw:
            fail('mask=word hides words of text; these data are numbers: guided or random')
        if mask == 'patch' and (not d_raw or math.isqrt(int(lengths.max())) ** 2 != lengths.max()):
            fail(f'mask=patch hides squares of square images; these data are {"rows of" if d_raw else "bytes, up to"} '
                 f'{lengths.max()} inputs: guided or random')
        if not ratio > 0 or round(ratio * int(lengths.max())) == 0:
            fail(f'mask_ratio={ratio} hides nothing of {lengths.max()} inputs: raise it')
        full = [n for n in set(lengths.tolist()) if round(ratio * n) >= n]
        if full:
            fail(f'mask_ratio={ratio} hides everything of a row of {max(full)} inputs: lower it')


def positions(flags, width):
    """
    Where the flags are up, packed to the left: turns a mask into indices that gather hidden inputs away.

    flags (B, n) bool with at most `width` True a row -> index (B, width) int64, in increasing order, and
    filled (B, width) bool; places past a row's last True hold index 0 and filled False.
    A running sum and a scatter: linear in n, and no shape depends on the data.
    """
    B, n = flags.shape
    place = torch.where(flags, flags.cumsum(1) - 1, width)  # (B, n); `width` is a spare column, dropped below
    index = torch.zeros(B, width + 1, dtype=torch.int64, device=flags.device)
    index.scatter_(1, place, torch.arange(n, device=flags.device).expand(B, n))
    filled = torch.arange(width, device=flags.device) < flags.sum(1, keepdim=True)
    return index[:, :width] * filled, filled
