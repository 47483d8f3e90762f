"""
The masked autoencoder of the paper: embed, attend, choose a mask, encode what is visible, decode what is
hidden.

One class, two encoders: n_latent > 0 is a Perceiver (learned latents cross-attend to the inputs; long
inputs), and n_latent = 0 a Transformer (self-attention; short inputs). Either reads byte ids (d_raw = 0) or
floats (d_raw > 0).

    python model.py         walks one small batch and prints every shape beside its equation

    in the code      in the paper                        in the code        in the paper
    x                X, (B, n) ids or (B, n, d_raw)      hidden             M, (B, n) bool, True = hidden
    x_hat            X^ = X E + P, (B, n, embed_dim)     how.mask_ratio     r
    P                P, position embeddings              how.n_query        |R|
    latents          what Q_e is projected from          H                  H, (B, l, d)

    B samples   n inputs   m = round(r n) hidden   u = n - m visible   h heads
    l rows that ask, and of H: n_latent, or what is visible (of the mask's queries: all n)
    d_k = qk_dim / h     d = v_dim, the width of the residual stream; in the decoder it is embed_dim, that of P

Layer by layer as in the authors' code; only the names of the modules differ.
"""

import json
import math
import os
import re
import zipfile
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint as recompute

from configurator import UserError, fail, start, whole
from masking import FIRST_BYTE, Masking, attention_map, hide

N_IDS = 262  # PAD 0, BOS 1, EOS 2, MASK 3, CLS 4, SEP 5, then byte b is b + 6 (Perceiver IO)


@dataclass(frozen=True)
class SMAConfig:
    """What a model is built from; the names are those of Tables 8-12."""
    d_raw: int = 0  # floats per input; 0 = byte ids
    embed_dim: int = 128  # width of X^ = X E + P
    seq_len: int = 28  # most inputs: rows of P
    n_layer: int = 4  # the masking layer and n_layer - 1 blocks
    qk_dim: int = 128  # queries and keys, all heads together
    n_head: int = 8
    v_dim: int = 128  # values, all heads together = d, the residual stream
    n_latent: int = 0  # 0 = Transformer
    mlp_ratio: int = 4
    # no knobs: where weights of the authors differ from the above; 0 = as above
    first_heads: int = 0
    decoder_heads: int = 0  # 0: as many of the n_head as embed_dim can be dealt out to
    decoder_qk_dim: int = 0
    decoder_mlp_ratio: int = 0
    head_mlp_ratio: int = 0  # theirs is 1
    head_residual: int = 0  # theirs is 1: the head's query is added to its answer
    # the fields in FREE: each stage chooses them anew; all others are the shape, which stays with the weights
    dropout: float = 0.0  # embeddings, attention weights, and what attention and MLP add to the stream
    drop_path: float = 0.0  # chance that a sample skips a block's attention or MLP
    decode_pieces: int = 1  # the decoder's answers are made in so many, one after the other, to save memory
    n_out: int = 0  # outputs of the fine-tuning head; 0 = no head but the reconstruction decoder

    def __post_init__(self):
        if self.qk_dim % self.n_head or self.v_dim % self.n_head:
            fail(f'n_head={self.n_head} must divide qk_dim={self.qk_dim} and v_dim={self.v_dim}')
        if self.n_latent == 0 and self.embed_dim != self.v_dim:
            fail(f'a Transformer (n_latent=0) adds attention to its inputs: embed_dim={self.embed_dim} '
                 f'must equal v_dim={self.v_dim}')
        for name in ('embed_dim', 'seq_len', 'n_layer', 'qk_dim', 'n_head', 'v_dim', 'mlp_ratio',
                     'decode_pieces'):
            if getattr(self, name) < 1:
                fail(f'{name}={getattr(self, name)} must be at least 1')
        if self.n_latent < 0:
            fail(f'n_latent={self.n_latent} must be 0, for a Transformer, or more, for a Perceiver')
        for name in ('dropout', 'drop_path'):
            if not 0 <= getattr(self, name) < 1:
                fail(f'{name}={getattr(self, name)} must lie in [0, 1)')


FREE = ('dropout', 'drop_path', 'decode_pieces', 'n_out')


class Layer(nn.Module):
    """
    Attention and an MLP, pre-norm. Every attention in the model is one of these; what asks and what answers
    differs:

        a block, self-attention   y = x + attend(queries(x), LN(x));   y + MLP(LN(y))      forward
        the masking layer         keys and values from X^ as it is                         SMA.encode
        the decoder               no residual to what asks                                 Decoder

    The values, the residual stream and the MLP are as wide as what asks, q_dim.
    """

    def __init__(self, c, q_dim, kv_dim, drop_path=0.0):
        super().__init__()
        self.n_head, self.drop_path, self.p = c.n_head, drop_path, c.dropout
        self.ln_query = nn.LayerNorm(q_dim)
        self.query = nn.Linear(q_dim, c.qk_dim)
        self.key = nn.Linear(kv_dim, c.qk_dim)
        self.value = nn.Linear(kv_dim, q_dim)
        self.proj = nn.Linear(q_dim, q_dim)
        self.ln_mlp = nn.LayerNorm(q_dim)
        self.fc = nn.Linear(q_dim, c.mlp_ratio * q_dim)
        self.fc_proj = nn.Linear(c.mlp_ratio * q_dim, q_dim)

    def heads(self, t):
        """(..., n, h * d) -> (..., h, n, d)"""
        return t.unflatten(-1, (self.n_head, -1)).transpose(-3, -2)

    def skip(self, t):
        """Drop path: a sample's t is zero with chance drop_path, else t / (1 - drop_path)."""
        if self.drop_path == 0 or not self.training:
            return t
        keep = 1 - self.drop_path
        return t * t.new_empty(t.shape[0], 1, 1).bernoulli_(keep) / keep

    def queries(self, x):
        """W_q LN(x): (..., q_dim) -> (..., qk_dim)"""
        return self.query(self.ln_query(x))

    def attend(self, q, kv, filled=None):
        """
        The softmax of Eq. 5, over what is visible, and that of Eq. 6; and the output projection.
        q (B or 1, l, qk_dim) of `queries`, kv (B, u, kv_dim), filled (B, u) or None -> (B, l, q_dim).
        """
        k, v = self.heads(self.key(kv)), self.heads(self.value(kv))  # (B, h, u, d_k), (B, h, u, q_dim / h)
        # a copy for each sample where all ask alike: cuDNN lays its output out by the query's strides, and
        # cannot if one of them is 0
        q = self.heads(q.expand(len(k), -1, -1).contiguous())  # (B, h, l, d_k)
        see = None if filled is None else filled[:, None, None, :]  # (B, 1, 1, u), True = may be attended to
        width = v.shape[-1]
        if width < k.shape[-1]:  # filled up with zeros: fast kernels want one width
            v = F.pad(v, (0, k.shape[-1] - width))
        y = F.scaled_dot_product_attention(q, k, v, see, self.p if self.training else 0.0)
        y = y[..., :width].transpose(1, 2).flatten(2)  # (B, l, q_dim)
        return F.dropout(self.proj(y), self.p, self.training)

    def mlp(self, y):
        """y + MLP(LN(y))"""
        return y + self.skip(F.dropout(self.fc_proj(F.gelu(self.fc(self.ln_mlp(y)))), self.p, self.training))

    def forward(self, x, filled=None):
        """Self-attention: x (B, l, d), filled (B, l) bool or None -> (B, l, d)."""
        x_norm = self.ln_query(x)
        return self.mlp(x + self.skip(self.attend(self.query(x_norm), x_norm, filled)))


class Decoder(nn.Module):
    """Eq. 6: queries attend over H, then an MLP, LayerNorm and a Linear to raw values, ids, or labels."""

    def __init__(self, c, q_dim, n_out):
        super().__init__()
        self.ln_H = nn.LayerNorm(c.v_dim)
        self.layer = Layer(c, q_dim, kv_dim=c.v_dim)
        self.ln_out = nn.LayerNorm(q_dim, eps=1e-12)
        self.out = nn.Linear(q_dim, n_out)

    def forward(self, q, H, filled=None, stream=0):
        """
        q (B or 1, m, qk_dim) from `queries`, H (B, l, d), filled (B, l) bool or None -> (B, m, n_out).
        stream: what attention is added to: nothing; the query itself in a head of the authors'.
        """
        return self.out(self.ln_out(self.layer.mlp(stream + self.layer.attend(q, self.ln_H(H), filled))))


class SMA(nn.Module):
    """Self-guided masked autoencoder: `forward` pre-trains; `predict` and `features` are for later stages."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        # E
        self.value_embedding = nn.Linear(c.d_raw, c.embed_dim) if c.d_raw else nn.Embedding(N_IDS, c.embed_dim)
        self.P = nn.Parameter(torch.empty(c.seq_len, c.embed_dim))
        self.ln_embed = nn.LayerNorm(c.embed_dim, eps=1e-12)
        if c.n_latent:
            self.latents = nn.Parameter(torch.empty(c.n_latent, c.v_dim))
        first = replace(c, n_head=c.first_heads or c.n_head)
        self.first = Layer(first, q_dim=c.v_dim, kv_dim=c.embed_dim)  # the masking layer
        self.blocks = nn.ModuleList(Layer(c, c.v_dim, c.v_dim, c.drop_path) for _ in range(c.n_layer - 1))
        if c.n_out:
            self.head_query = nn.Parameter(torch.empty(1, c.v_dim))
            self.head = Decoder(replace(c, mlp_ratio=c.head_mlp_ratio or c.mlp_ratio), c.v_dim, c.n_out)
        else:
            wide = replace(c, n_head=c.decoder_heads or math.gcd(c.n_head, c.embed_dim),
                           qk_dim=c.decoder_qk_dim or c.qk_dim, mlp_ratio=c.decoder_mlp_ratio or c.mlp_ratio)
            self.decoder = Decoder(wide, c.embed_dim, c.d_raw or N_IDS)
        for name, p in self.named_parameters():  # matrices, latents, P: N(0, 0.02); biases 0; LN 1 / 0
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(p)

    def forward(self, x, valid=None, how=Masking(), generator=None, looseness=None):
        """
        One step of Algorithm 1, up to the loss. x (B, n) int64 ids or (B, n, d_raw) float, valid (B, n) bool
        or None (no padding), how to mask. (A model with a head predicts labels, (B, n_out), from x and
        valid.)

        Returns (loss, hidden): the loss of each hidden input (B, m), zero where a short row hides fewer than
        m = round(r n), and the mask (B, n) bool it answers for. The batch's loss is loss.sum() / hidden.sum().
        """
        if self.config.n_out:
            return self.predict(x, valid)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        x_hat = self.embed(x)  # (B, n, embed_dim)
        hidden = self.choose_mask(x, x_hat, real, how, generator, looseness)  # Eq. 2-5: (B, n)
        # Eq. 5's outer softmax gives hidden inputs no attention: they are left out here, and so is their
        # cost. With n the width of the batch, no row hides more than m nor shows more than n - m. Without
        # padding each shows exactly n - m, and attention needs no mask: fast kernels.
        m = round(how.mask_ratio * x.shape[1])
        hidden_at, hidden_filled = where_true(hidden, m)  # (B, m)
        visible_at, visible_filled = where_true(real & ~hidden, x.shape[1] - m)  # (B, u)
        visible_filled = None if valid is None else visible_filled
        H, H_filled = self.encode(take(x_hat, visible_at), visible_filled)  # (B, l, d)
        prediction = self.decode(H, H_filled, hidden_at)  # Eq. 6: (B, m, 262 or d_raw)
        return self.loss(prediction, take(x, hidden_at)) * hidden_filled, hidden

    def embed(self, x):
        """
        X E + P, LayerNorm: x (B, n) int64 or (B, n, d_raw) float -> X^ (B, n, embed_dim).

        What tells inputs apart is P alone: permute the inputs of every sample and the rows of P, and all of
        training is the same (Eq. 1; tests/test_model.py:
        test_eq_1_learning_does_not_depend_on_the_order_of_inputs).
        """
        x_hat = self.ln_embed(self.value_embedding(x) + self.P[:x.shape[1]])
        return F.dropout(x_hat, self.config.dropout, self.training)

    def choose_mask(self, x, x_hat, valid, how, generator=None, looseness=None):
        """Which inputs to hide (masking.py), by this model's first layer: -> (B, n) bool, True = hidden."""
        attention = partial(self.attention, x_hat, valid)
        return hide(how, attention, x, valid, self.can_query(valid), generator, looseness)

    def can_query(self, valid):
        """Which queries there are to draw: all latents, or valid inputs. (B, n) -> (B, n_latent or n) bool"""
        l = self.config.n_latent
        return torch.ones(len(valid), l, dtype=torch.bool, device=valid.device) if l else valid

    @torch.no_grad()
    def attention(self, x_hat, valid, R):
        """
        The masking layer's attention of the queries R (B, |R|) alone; no l x n map is ever made. -> (B, h,
        |R|, n)

        Plain: attention_map(q, heads(key(x_hat)), valid). Fast: q . (W_k x + b) = (W_k^T q) . x + q . b, so
        the few queries are taken to the inputs' width, not all n inputs to keys; q . b is the same for all
        inputs, which is nothing to the softmax.
        """
        asking = self.latents[R] if self.config.n_latent else take(x_hat, R)  # (B, |R|, d)
        q = self.first.heads(self.first.queries(asking))  # (B, h, |R|, d_k)
        W_k = self.first.key.weight.unflatten(0, (q.shape[1], -1))  # (h, d_k, embed_dim)
        q_x = torch.einsum('bhrd,hde->bhre', q, W_k).flatten(1, 2)  # (B, h |R|, embed_dim)
        A = attention_map(q_x[:, None], x_hat[:, None], valid, d_k=q.shape[-1])  # (B, 1, h |R|, n)
        return A.view(*q.shape[:3], -1)  # (B, h, |R|, n)

    def encode(self, x_hat, filled=None):
        """
        The encoder, over the inputs it is given: x_hat (B, u, embed_dim), filled (B, u) bool (False = not
        there), or None if all are -> H (B, l, d), and which rows of H count: None for a Perceiver, whose
        latents all do.
        """
        asking = self.latents[None] if self.config.n_latent else x_hat  # (1 or B, l, d)
        H = self.first.mlp(asking + self.first.attend(self.first.queries(asking), x_hat, filled))
        H_filled = None if self.config.n_latent else filled
        for block in self.blocks:
            H = block(H, H_filled)
        return H, H_filled

    def decode(self, H, H_filled, index):
        """
        Eq. 6 at the positions index (B, m) -> predictions (B, m, 262 or d_raw).

        Plain: decoder(layer.queries(P[index]), H). Fast: queries know nothing of the sample, so those of all
        positions are projected once, not once a sample, then picked. Small: in pieces of the positions, of
        which the backward pass computes each anew, so that the memory is that of one.
        """
        queries, pieces = self.decoder.layer.queries(self.P), self.config.decode_pieces  # (seq_len, qk_dim)

        def answer(i):
            return self.decoder(F.embedding(index.tensor_split(pieces, 1)[i], queries), H, H_filled)
        if pieces == 1:
            return answer(0)
        return torch.cat([recompute(answer, i, use_reentrant=False) for i in range(pieces)], 1)

    def loss(self, prediction, truth):
        """Per hidden input: squared error, its mean over d_raw, or cross-entropy over 262 ids. -> (B, m)"""
        if self.config.d_raw:
            return F.mse_loss(prediction, truth, reduction='none').mean(-1)
        return F.cross_entropy(prediction.flatten(0, 1), truth.flatten(), reduction='none').view(truth.shape)

    def predict(self, x, valid=None):
        """The fine-tuning head, nothing hidden: one learned query asks H. -> (B, n_out)"""
        H, H_filled = self.encode(self.embed(x), valid)
        stream = self.head_query if self.config.head_residual else 0
        return self.head(self.head.layer.queries(self.head_query)[None], H, H_filled, stream)[:, 0]

    def features(self, x, valid=None):
        """One vector a sample, nothing hidden: the mean of H over its rows. -> (B, d)"""
        H, H_filled = self.encode(self.embed(x), valid)
        if H_filled is None:
            return H.mean(1)
        return (H * H_filled[..., None]).sum(1) / H_filled.sum(1, keepdim=True)


def take(t, index):
    """t (B, n) or (B, n, d), index (B, m) -> the rows t[b, index[b, j]], (B, m) or (B, m, d)."""
    if t.ndim == 2:
        return t.gather(1, index)
    return t.gather(1, index[..., None].expand(-1, -1, t.shape[2]))


def where_true(flags, width):
    """
    Where the flags are up, packed to the left: turns a mask into indices for `take`.

    flags (B, n) bool with at most `width` True a row -> index (B, width) int64, in increasing order, and
    filled (B, width) bool; places past a row's last True hold index 0 and filled False.
    Plain: flags[b].nonzero() for each b. Fast: a running sum and a scatter; no shape depends on the data.
    """
    B, n = flags.shape
    place = torch.where(flags, flags.cumsum(1) - 1, width)  # (B, n); `width` is a spare column, dropped below
    index = torch.zeros(B, width + 1, dtype=torch.int64, device=flags.device)
    index.scatter_(1, place, torch.arange(n, device=flags.device).expand(B, n))
    filled = torch.arange(width, device=flags.device) < flags.sum(1, keepdim=True)
    return index[:, :width] * filled, filled


# -----------------------------------------------------------------------------
# weights in and out

def build(knobs, **more):
    """SMA from a stage's knobs or a checkpoint's model_args; `more` are the fields that come from the data."""
    names = {f.name for f in fields(SMAConfig)}
    return SMA(SMAConfig(**{**{k: v for k, v in knobs.items() if k in names}, **more}))


def shape_of(model_args):
    """The fields that make a shape; one that an older checkpoint lacks has its default."""
    return {f.name: model_args.get(f.name, f.default) for f in fields(SMAConfig) if f.name not in FREE}


def save(path, checkpoint):
    """Never half a checkpoint, nor one of a model that has failed: the last good one stays. Plain dicts."""
    if not all(torch.isfinite(t).all() for t in checkpoint['model'].values()):
        fail(f'weights are not finite, {path} is not written: lower lr, or look at the data')
    with whole(path) as f:
        torch.save(checkpoint, f)


def load(path, keys=('model', 'model_args', 'config'), data_dir='datasets'):
    """
    A checkpoint that has these keys; a folder means its last.pt. Only tensors are unpickled, and nothing is
    taken on trust: checksums, shapes, numbers. The authors' weights, a folder with config.json or
    hf:OWNER/NAME (kept in DATA_DIR/downloads), are turned into ours.
    """
    theirs, path = str(path).startswith('hf:') or Path(path, 'config.json').exists(), Path(path)
    if theirs and not (path / 'last.pt').exists():
        return load_theirs(str(path), data_dir)
    path = path / 'last.pt' if path.is_dir() else path
    if not path.is_file():
        fail(f'no checkpoint {path}: a .pt file, or a folder with last.pt in it, is wanted')
    checkpoint = read_pt(path)
    missing = [k for k in keys if not isinstance(checkpoint, dict) or k not in checkpoint]
    if missing:
        fail(f'{path} is not a checkpoint of the kind that is wanted: it lacks {", ".join(missing)}')
    check_checkpoint(checkpoint, path)
    old = {'valid_share': 'val_share', 'valid_file': 'val_file'}  # as knobs were called until November 2026
    checkpoint['config'] = {old.get(k, k): v for k, v in checkpoint['config'].items()}
    return checkpoint


def read_pt(path):
    """What torch.save wrote. Of its zip archive torch.load does not compare the checksums; here they count."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type for part in archive.infolist()):  # it could unpack to any size
                raise ValueError('packed')
            if archive.testzip():
                raise ValueError('wrong checksum')
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # files may be damaged in many ways
        reason = f': {error}' if type(error) is ValueError else ''
        fail(f'{path} is no checkpoint, or it is damaged or cut short ({type(error).__name__}{reason})')


def check_checkpoint(checkpoint, path):
    """Fails unless its weights are finite and of the shape that model_args call for, and the rest is plain."""
    args, state, config = (checkpoint.get(k, {}) for k in ('model_args', 'model', 'config'))
    step, best = checkpoint.get('step', 0), checkpoint.get('best', 0.0)
    plain = {int, float, str, bool, type(None), tuple, list}
    try:
        numbers = [args[f.name] for f in fields(SMAConfig) if f.type is int and f.name in args]
        odd = {*map(type, [*numbers, step])} - {int} or {*map(type, config.values())} - plain or \
            type(best) not in (int, float)
        if odd or step < 0 or args['n_layer'] > len(state) + 1:  # a billion layers would take for ever to make
            raise TypeError
        with torch.device('meta'):
            load_weights(build(args), {k: t.to('meta') for k, t in state.items()})
        bad = next((k for k, t in state.items() if not torch.isfinite(t).all()), None)
    except (AttributeError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        fail(f'{path} is damaged: its model_args, weights or config make no model ({type(error).__name__})')
    if bad:
        fail(f'{path}: {bad} has numbers that are not finite, as its training had failed: take an earlier one')


def load_weights(model, state, new=(), dropped=()):
    """Copies weights by name and sees to it which: all but those named `new..`, left over only those named
    `dropped..`. -> how many were copied, how many are new"""
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        fail(f'the checkpoint has another shape of model: {str(error).splitlines()[1].strip()}')
    odd = [n for n in result.missing_keys if not n.startswith(tuple(new))]
    odd += [n for n in result.unexpected_keys if not n.startswith(tuple(dropped))]
    if odd:
        fail(f'the checkpoint does not fit the model at {len(odd)} weights, {odd[0]} for one')
    return len(state) - len(result.unexpected_keys), len(result.missing_keys)


# -----------------------------------------------------------------------------
# the authors' weights (github.com/Johnathan-Xie/sma)

THEIR_NAMES = [  # (part of a name of theirs, ours), replaced one after the other
    (re.compile(theirs), ours) for theirs, ours in (
        (r'^(perceiver|teacher\.student_model)\.', ''),  # the teacher is saved with the student in it
        (r'^(.*decoder|teacher)\.encoder_input_preproces+or\.', 'input_preprocessor.'),
        (r'^decoder\.decoder_latents\.latents$', 'head_query'), (r'^decoder\.', 'head.'),
        (r'^teacher\.reconstruction_decoder\.', 'decoder.'), (r'\.decoding_cross_attention\.', '.layer.'),
        (r'\.pre_layernorm\.', '.ln_H.'), (r'\.final_layernorm\.', '.ln_out.'),
        (r'\.(final_project|embedding_layer)\.', '.out.'),
        (r'^input_preprocessor\.(embeddings|input_projection)\.', 'value_embedding.'),
        (r'^input_preprocessor\.position_embeddings\.weight$', 'P'),
        (r'^input_preprocessor\.layernorm\.', 'ln_embed.'), (r'^encoding_latents\.latents$', 'latents'),
        (r'^encoder\.cross_attention\.', 'first.'), (r'^encoder\.self_attends\.', 'blocks.'),
        (r'\.attention\.attention\.layernorm1\.', '.ln_query.'), (r'\.attention\.attention\.', '.'),
        (r'\.attention\.output\.dense\.', '.proj.'), (r'\.layernorm\.', '.ln_mlp.'),
        (r'\.mlp\.dense1\.', '.fc.'), (r'\.mlp\.dense2\.', '.fc_proj.'))]


def from_theirs(c, state):
    """Their config.json, a dict, and weights -> a checkpoint of ours, and a sentence on what was read."""
    def only(have, **want):  # None is their default, which is ours
        for k, v in want.items():
            if have.get(k, v) not in (v, None):
                fail(f'config.json asks for {k}={have[k]!r}, and there is only {v!r} here')

    kind, teacher = (c.get('architectures') or ['SMAForSSL'])[0], c.get('teacher_args') or {}
    tuned, decoder = kind == 'SMAForSequenceClassification', teacher.get('reconstruction_decoder_args') or {}
    cross, discrete = c['encoder_type'] == 'cross_attention', c['input_type'] == 'discrete'
    d, e, h = c['latent_channels'], c['embedded_channels'], c['num_self_attention_heads']
    n, qk, ratio = c['max_position_embeddings'], c['qk_channels'] or d, c['self_attention_widening_factor']
    only(c, v_channels=d, num_blocks=1, hidden_act='gelu', use_query_residual=True, final_project=True,
         use_position_embeddings=True, **{'num_discrete_tokens': N_IDS} if discrete else {})
    if cross:
        only(c, cross_attention_widening_factor=ratio, encoder_cross_attention_channels=qk)
    if tuned:
        only(c, decoder_type='cross_attention', decoder_latent_channels=d, decoder_attention_channels=qk,
             decoder_heads=h, num_outputs=1, post_decoder_layers=None)
    else:
        only({'share_decoder_queries': False, **decoder, 'architecture': kind}, architecture='SMAForSSL',
             share_decoder_queries=True, query_num_channels=e, v_channels=e, use_query_residual=False,
             add_mask_token=False, post_decoder_layers=None)
    args = dict(d_raw=0 if discrete else c['input_channels'], embed_dim=e, seq_len=n, qk_dim=qk, n_head=h,
                v_dim=d, n_layer=1 + c['num_self_attends_per_block'], n_latent=c['num_latents'] * cross,
                mlp_ratio=ratio, n_out=len(state['perceiver.decoder.final_project.bias']) if tuned else 0)
    others = dict(first_heads=(c['num_cross_attention_heads'] if cross else h, h),  # (theirs, what 0 means)
                  head_mlp_ratio=(1, ratio), head_residual=(1, 0))
    if not tuned:
        others.update(decoder_heads=(decoder.get('num_heads') or c['decoder_heads'], math.gcd(h, e)),
                      decoder_qk_dim=(decoder.get('qk_channels') or e, qk),
                      decoder_mlp_ratio=(decoder.get('widening_factor', 1), ratio))
    args.update({k: has for k, (has, same) in others.items() if has != same})

    weights, n_copy, n_unused = {}, 0, 0
    for name, t in state.items():
        for theirs, ours in THEIR_NAMES:
            name = theirs.sub(ours, name)
        unused = name.startswith('teacher.ema') or name.startswith('head') and not tuned
        n_copy, n_unused = n_copy + (name in weights), n_unused + unused
        weights.update({} if unused else {name: t})
    if 'decoder.out.bias' in weights:  # the decoder's last matrix may be the table of bytes, kept once
        weights.setdefault('decoder.out.weight', weights['value_embedding.weight'])
    with torch.device('meta'):
        model = build(args)
    for name, p in model.state_dict().items():  # a Linear of theirs may have no bias
        if name.endswith('.bias') and not c.get('dense_use_bias'):
            weights.setdefault(name, torch.zeros(p.shape, dtype=weights['P'].dtype))

    guided = c.get('cross_train_noising_args')
    noise = (guided or teacher.get('train_transform_args') or [['', {}]])[0][1]
    mask_ratio = noise.get('masking_ratio', 0.5)
    config = dict(mask='guided' if guided else 'random', mask_ratio=mask_ratio,
                  n_query=max(round(n * mask_ratio / noise.get('num_per_query', 576)), 1))
    config.update({'image_size': math.isqrt(n)} if args['d_raw'] == 3 else {})
    usual = {'head_aggregation': 'mean', 'exclude_seen_reconstruction': True, **dict.fromkeys(
        ('target_mean', 'target_std', 'target_clip', 'reconstruction_weighted_loss', 'share_embedding_weights',
         'mask_self', 'select_initial_ratio'))}  # matters to training alone: named, and left out
    asked = {**usual, **teacher, **decoder, **noise}
    about = (f'{kind}, a {"Perceiver" if cross else "Transformer"} of {args["n_layer"]} layers, '
             f'{sum(p.numel() for p in model.parameters()):,} parameters; left out: {n_copy} copies, '
             f'{n_unused} unused weights' + ''.join(f', {k}' for k in usual if (asked[k] or None) != usual[k]))
    norm = {'kind': 'none'} if discrete else None  # None: the files do not say; fitted to the data at hand
    return dict(model=weights, model_args={**vars(SMAConfig()), **args}, norm=norm, columns=None,
                config=config), about


def load_theirs(path, data_dir):
    """config.json and model.safetensors or pytorch_model.bin, in a folder or at huggingface.co, as ours."""
    def get(name):
        if not path.startswith('hf:'):
            return Path(path, name)
        from prepare import download  # upwards, like data.open_dataset
        name = f'{path[3:]}/resolve/main/{name}'
        return download(name, f'https://huggingface.co/{name}', None, None, data_dir)
    about = get('config.json')
    try:
        file = get('model.safetensors')
    except UserError:  # that of download: not there
        file = get('pytorch_model.bin')
    file = file if file.exists() else get('pytorch_model.bin')
    try:
        state = read_safetensors(file) if file.suffix == '.safetensors' else read_pt(file)
        checkpoint, about = from_theirs(json.loads(about.read_text()), state)
        check_checkpoint(checkpoint, path)
    except UserError:
        raise
    except Exception as error:  # files may be damaged in many ways
        fail(f'{path}: {file.name} or config.json is missing, cut short or of another kind '
             f'({type(error).__name__}: {error})')
    if os.environ.get('RANK', '0') == '0':
        print(f'{path}: {about}', flush=True)
    return checkpoint


def read_safetensors(path):
    """{name: tensor}. The file: 8 bytes, the header's length; the header, JSON; the numbers."""
    kinds = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, I64=torch.int64)
    with open(path, 'rb') as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), 'little')))
        header.pop('__metadata__', None)
        numbers, tensors = bytearray(f.read()), {}
    for name, about in header.items():
        start, end = about['data_offsets']
        tensors[name] = torch.frombuffer(numbers[start:end], dtype=kinds[about['dtype']]).view(about['shape'])
    return tensors


# -----------------------------------------------------------------------------

def walk():
    """One small batch through a Perceiver, step by step."""
    def show(name, t, what):
        print(f'{name:12}{str(tuple(t.shape)):16}{what}')
    torch.manual_seed(0)
    how, texts = Masking('guided', mask_ratio=0.4, n_query=2), ('self-guided', 'masked', 'autoencoder')
    n = max(map(len, texts))
    x = torch.tensor([[FIRST_BYTE + b for b in text.encode().ljust(n, b'?')] for text in texts])
    valid = torch.arange(n) < torch.tensor([len(text) for text in texts])[:, None]
    model = SMA(SMAConfig(embed_dim=16, seq_len=n, n_layer=2, qk_dim=16, n_head=2, v_dim=24, n_latent=4))
    model.value_embedding.weight.data *= 50  # without training attention is even: make it differ
    model.first.key.weight.data *= 50
    model.latents.data *= 50
    print(f'a Perceiver: l = {model.config.n_latent} latents, h = 2 heads, embed_dim 16, d = 24; '
          f'B = 3 samples, n = {n} inputs, r = {how.mask_ratio}, |R| = {how.n_query}\n')
    show('x', x, 'byte ids')
    show('valid', valid, 'False = padding')
    x_hat = model.embed(x)
    show('x_hat', x_hat, 'X^ = X E + P, LayerNorm')
    R = torch.tensor([[0, 1]] * 3)
    A = model.attention(x_hat, valid, R)
    show('R', R, 'the drawn queries, here the first two of each sample')
    show('A', A, 'Eq. 2: softmax(Q_R K^T / sqrt(d_k)), a map for each head and query')
    show('v', A.sum((1, 2)), 'Eq. 4 and 5: added up over heads and queries')
    hidden = hide(how, lambda drawn: A, x, valid, model.can_query(valid))
    show('hidden', hidden, f'Eq. 3: the top round(r n) = {hidden.sum(1).tolist()} of each, True = hidden')
    m = round(how.mask_ratio * n)
    hidden_at, hidden_filled = where_true(hidden, m)
    visible_at, visible_filled = where_true(valid & ~hidden, n - m)
    visible = take(x_hat, visible_at)
    show('visible', visible, 'Eq. 5, outer softmax: what is hidden is left out')
    H, _ = model.encode(visible, visible_filled)
    show('H', H, 'the encoder: a row a latent')
    prediction = model.decode(H, None, hidden_at)
    show('prediction', prediction, 'Eq. 6: queries from P at the hidden positions, over 262 ids')
    loss = model.loss(prediction, take(x, hidden_at)) * hidden_filled
    show('loss', loss, f'cross-entropy; the batch\'s: {loss.sum() / hidden.sum():.3f} (log 262 = 5.568)')
    print('\nthe attention v, from 0 to 9, and what it hides')
    for text, v, mask in zip(texts, A.sum((1, 2)), hidden):
        digits = ''.join(f'{9 * a / v.max():.0f}' for a in v[:len(text)])
        print(f'\n    {text}\n    {digits}\n    ' + ''.join('█' if h else c for c, h in zip(text, mask)))


if __name__ == '__main__':
    start(walk)
