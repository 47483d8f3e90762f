"""
The idea of the paper (section 4.1): the model's own first attention layer chooses what to hide.

    draw a few queries R                        sample_queries
    A = softmax(Q_R K^T / sqrt(d_k))            attention_map     Eq. 2
    add A up over heads and over R              guided            Eq. 4 and the inner sum of Eq. 5
    hide the top k = round(r n) inputs          keep_top_k        Eq. 3

The outer softmax of Eq. 5, in which hidden inputs get no attention, is in model.py: SMA.forward leaves the
hidden inputs out.

Two kinds of bool tensors: in a mask (`hidden`) True means HIDDEN; in `valid`, `key_valid` and `H_valid` True
means a real input, which may be looked at, and False means padding.

    B samples   n inputs   h heads   |R| = n_query   k (B,) int64, how many inputs each sample hides
    A (B, h, |R|, n) attention   x (B, n) int64 ids or (B, n, d_raw) floats   valid (B, n) bool

Randomness comes from `generator`, a torch.Generator on the tensors' device. None is torch's global generator,
the only one that torch.compile accepts. Nothing here has a gradient: the choice of a mask is not
differentiated (Algorithm 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

FIRST_BYTE = 6  # byte b has the id b + 6, as in Perceiver IO; smaller ids are special tokens
SPACES = tuple(FIRST_BYTE + byte for byte in b' \t\n\v\f\r')
PATCH_SIDE = 16  # side of the squares of mask='patch' in pixels (section 5.4)


@dataclass(frozen=True)
class Masking:
    """How to hide inputs. Each field is filled by the knob of the same name."""
    mask: str = 'guided'  # a name from GUIDED or BLIND, below
    mask_ratio: float = 0.2  # r, the share of each sample's real inputs to hide
    n_query: int = 1  # |R|, queries drawn for each mask

    @classmethod
    def of(cls, config: dict) -> 'Masking':
        """From a stage's knobs, or those in a checkpoint. A field that they lack has its default."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})


# -----------------------------------------------------------------------------
# the mask of the paper

def guided(A: Tensor, valid: Tensor, k: Tensor, generator: Generator | None = None) -> Tensor:
    """Eq. 3-5: hide the top k of the attention, summed over the heads and the drawn queries. -> (B, n) bool"""
    v = A.sum((1, 2))  # (B, n): Eq. 4 sums over the queries, Eq. 5 over the heads
    v = v.masked_fill(~valid, -torch.inf)
    return keep_top_k(v, k)


def keep_top_k(v: Tensor, k: Tensor) -> Tensor:
    """
    Eq. 3: the k_i largest entries of row i. v (B, n), k (B,) int64 -> (B, n) bool, exactly k_i True in row i.

    As printed, Eq. 3 gives 0 to the top k and -inf to the rest, and Eq. 5 adds that to the attention: it would
    hide everything BUT the top k. The text ("mask the top attentions of a given query"), figure 1 and the
    authors' code hide the top k, and so do we: True here means hidden. Among equal entries the lower index
    comes first.
    """
    order = v.argsort(dim=1, descending=True, stable=True)  # (B, n)
    top = torch.arange(v.shape[1], device=v.device) < k[:, None]  # (B, n), in sorted order
    return torch.zeros_like(top).scatter_(1, order, top)


def attention_map(q: Tensor, k: Tensor, valid: Tensor, d_k: int | None = None) -> Tensor:
    """
    Eq. 2 and its softmax: q (B or 1, h, |R|, d_k), k (B, h, n, d_k), valid (B, n) -> (B, h, |R|, n).

    Padding gets exactly zero. d_k is the width of one head, that of q unless given. (SMA.attention gives it,
    and passes all heads as one: q (B, 1, h |R|, embed_dim), k (B, 1, n, embed_dim).)
    The softmax is in float32 at least: in float16 many inputs would have equal attention, and the top k would
    depend on their order.
    """
    if d_k is None:
        d_k = q.shape[-1]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (B, h, |R|, n)
    scores = scores.masked_fill(~valid[:, None, None, :], -torch.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def sample_queries(can_query: Tensor, n_query: int, generator: Generator | None) -> Tensor:
    """
    Draw the subset R of Eq. 4 for each sample, without replacement, uniformly among those that may be drawn.

    can_query (B, l) bool -> R (B, min(n_query, l)) int64. If a sample has fewer queries than that, the rest of
    its R is filled up, at the end, with queries that it may not draw. `hide` sets their attention to zero.
    """
    noise = uniform(can_query, generator).masked_fill(~can_query, -torch.inf)  # (B, l)
    return noise.topk(min(n_query, can_query.shape[1]), dim=1).indices


def n_hidden(valid: Tensor, mask_ratio: float) -> Tensor:
    """How many inputs each sample hides: round(r n), halves to even (Eq. 5, note 4). -> (B,) int64"""
    # In float64, as Python's round: SMA.forward has room for round(r * n) inputs, and no sample may hide more.
    # Apple's MPS has no float64, so there the few counts visit the CPU.
    count = valid.sum(1)
    if count.device.type == 'mps':
        count = count.cpu()
    return (count.double() * mask_ratio).round().long().to(valid.device)


# -----------------------------------------------------------------------------
# other masks, to compare it with

def guided_exact(A: Tensor, valid: Tensor, k: Tensor, generator: Generator | None = None) -> Tensor:
    """
    What Eq. 4 approximates (section 4.1, appendix D): the drawn queries take turns, and each hides its top
    inputs among those that are not hidden yet. With k to hide and q queries, each takes k // q, and the first
    k % q one more. With one query it is the same as `guided`.
    """
    A = A.sum(1)  # (B, |R|, n)
    drawn = A.sum(-1) > 0  # (B, |R|), False for the fillers of sample_queries: `hide` made them zero
    n_drawn = drawn.sum(1).clamp(min=1)  # (B,)
    hidden = torch.zeros_like(valid)
    for i in range(A.shape[1]):  # one after the other: the cost that the approximation saves
        takes_one_more = i < k % n_drawn  # (B,)
        share = k // n_drawn + takes_one_more  # (B,)
        share = share.masked_fill(~drawn[:, i], 0)  # a filler hides nothing
        is_free = valid & ~hidden  # (B, n)
        hidden = hidden | keep_top_k(A[:, i].masked_fill(~is_free, -torch.inf), share)
    return hidden


def hide_random(x: Tensor, valid: Tensor, k: Tensor, generator: Generator | None) -> Tensor:
    """The baseline: k inputs, drawn uniformly among those that are True in `valid`."""
    return keep_top_k(uniform(valid, generator).masked_fill(~valid, -torch.inf), k)


def hide_words(x: Tensor, valid: Tensor, k: Tensor, generator: Generator | None) -> Tensor:
    """
    Whole words of text in random order, as Perceiver IO masks them: a word is a run of bytes that are no
    spaces. CLS, SEP and spaces belong to no word. A text without spaces is one word, of which the start is
    hidden.
    """
    space = torch.stack([x == s for s in SPACES]).any(0)  # (B, n)
    letter = (x >= FIRST_BYTE) & ~space & valid
    starts = letter & ~F.pad(letter[:, :-1], (1, 0))
    word = torch.where(letter, starts.cumsum(1) - 1, -1)  # (B, n), words numbered from the left
    return hide_groups(word, valid, k, generator)


def hide_patches(x: Tensor, valid: Tensor, k: Tensor, generator: Generator | None) -> Tensor:
    """Squares of 16 x 16 pixels of a square image, in random order. Below 64 x 64 a quarter of the side."""
    side = math.isqrt(x.shape[1])
    patch_side = max(min(PATCH_SIDE, side // 4), 1)
    patches_across = math.ceil(side / patch_side)
    at = torch.arange(side, device=x.device) // patch_side  # (side,), which row or column of patches
    patch = (at[:, None] * patches_across + at).flatten()  # (n,), patches numbered row by row
    return hide_groups(patch.expand(valid.shape), valid, k, generator)


def hide_groups(group: Tensor, valid: Tensor, k: Tensor, generator: Generator | None) -> Tensor:
    """
    Whole groups in random order. Of the last one only the first inputs are hidden, so that the count is exact.
    group (B, n) int64: 0 to n - 1, or -1 for an input in no group. Those come after all groups, in random order
    too.
    """
    noise = uniform(valid, generator)  # (B, n)
    # group g takes the random number at place g: (B, n), in [1, 2), the same for a whole group
    of_group = 1 + noise.gather(1, group.clamp(min=0))
    order = torch.where(group >= 0, of_group, noise)  # inputs in no group have less than 1: they come last
    return keep_top_k(order.masked_fill(~valid, -torch.inf), k)


# Masks that look at the attention: function (A, valid, k, generator) -> hidden. Masks that do not:
# (x, valid, k, generator). Whatever is drawn has to be drawn from the generator.
GUIDED = {'guided': guided, 'guided_exact': guided_exact}
BLIND = {'random': hide_random, 'word': hide_words, 'patch': hide_patches}


# -----------------------------------------------------------------------------
# from the knobs to the mask

@torch.no_grad()
def hide(masking: Masking, attention: Callable, x: Tensor, valid: Tensor, can_query: Tensor,
         generator: Generator | None = None, random_fraction: Tensor | None = None) -> Tensor:
    """
    Makes a mask of any kind: -> hidden (B, n) bool, round(r n) of each row's real inputs True.

    attention        function: R (B, |R|) int64 -> A of those queries (B, h, |R|, n), softmax over valid inputs
    can_query        (B, l) bool, which queries may be drawn: all latents, or the valid inputs
    random_fraction  None, or a 0-d tensor in [0, 1]: annealing, as in the authors' code. The k hidden inputs
                     are drawn at random from a larger top of the attention, of k + fraction * (n - k) inputs.
                     So 1 is a random mask, and 0 the top k alone. Blind masks, which do not look at the
                     attention, ignore it.
    """
    k = n_hidden(valid, masking.mask_ratio)
    if masking.mask in BLIND:
        hidden = BLIND[masking.mask](x, valid, k, generator)
    else:
        R = sample_queries(can_query, masking.n_query, generator)  # (B, |R|)
        A = attention(R) * can_query.gather(1, R)[:, None, :, None]  # (B, h, |R|, n), zero if not drawn
        if random_fraction is None:
            hidden = GUIDED[masking.mask](A, valid, k, generator)
        else:
            n_more = ((valid.sum(1) - k) * random_fraction).round().long()  # (B,)
            top = GUIDED[masking.mask](A, valid, k + n_more, generator)
            hidden = hide_random(x, top, k, generator)  # k of those in `top`
    no_padding = ~(hidden & ~valid).any()
    right_number = (hidden.sum(1) == k).all()
    torch._assert_async(  # checked on the device: the program does not wait for the answer
        no_padding & right_number,
        f'mask={masking.mask} must hide exactly round(mask_ratio * n) real inputs of each row, and no padding')
    return hidden


def uniform(like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), float32, of the shape and on the device of `like`."""
    return torch.empty(like.shape, device=like.device).uniform_(generator=generator)
