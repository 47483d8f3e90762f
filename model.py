"""
The masked autoencoder of the paper: embed, attend, choose a mask, encode what is visible, decode what is
hidden.

One class, two encoders. n_latent > 0 is a Perceiver: learned latents cross-attend to the inputs, for long
inputs. n_latent = 0 is a Transformer: self-attention, for short inputs. Either reads byte ids (d_raw = 0) or
floats (d_raw > 0).

    python model.py         walks one small batch through the model and prints every shape beside its equation

    in the code      in the paper                        in the code          in the paper
    x                X, (B, n) ids or (B, n, d_raw)      hidden               M as (B, n) bool, True = hidden
    x_hat            X^ = X E + P, (B, n, embed_dim)     masking.mask_ratio   r
    P                P, position embeddings              masking.n_query      |R|
    latents          what Q_e is projected from          H                    H, (B, l, d)

    B samples   n inputs   m = round(r n) hidden   u = n - m visible   h heads   d_k = qk_dim / h
    d = v_dim, the width of the residual stream; in the decoder it is embed_dim, that of P
    l queries, as many as H has rows. Perceiver: the latents. Transformer: the visible inputs, and all inputs
      while the mask is chosen

Encoder and decoder are layer by layer those of the authors' code. The head of fine-tuning differs, unless their
weights are loaded: head_mlp_ratio and head_residual below. util/checkpoint.py loads and saves.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint as recompute

from masking import FIRST_BYTE, Masking, attention_map, hide
from util.errors import fail, run_cli

DEFAULT_MASKING = Masking()
N_IDS = 262  # PAD 0, BOS 1, EOS 2, MASK 3, CLS 4, SEP 5, then byte b is b + 6 (Perceiver IO)

# Fields of SMAConfig that each stage chooses anew. All others are the shape, which stays with the weights.
FREE = ('dropout', 'drop_path', 'decode_pieces', 'n_out')


@dataclass(frozen=True)
class SMAConfig:
    """What a model is built from. Names as in Tables 8-12. A field that has a knob is filled by it."""
    d_raw: int = 0  # floats per input; 0 = byte ids
    embed_dim: int = 128  # width of X^ = X E + P
    seq_len: int = 28  # most inputs: rows of P
    n_layer: int = 4  # the masking layer and n_layer - 1 blocks
    qk_dim: int = 128  # queries and keys, all heads together
    n_head: int = 8
    v_dim: int = 128  # values, all heads together = d, the residual stream
    n_latent: int = 0  # 0 = Transformer
    mlp_ratio: int = 4
    # no knobs: where weights of the authors differ from the above. 0 = the value above, or what is said
    first_heads: int = 0
    decoder_heads: int = 0  # 0 = gcd(n_head, embed_dim)
    decoder_qk_dim: int = 0
    decoder_mlp_ratio: int = 0
    head_mlp_ratio: int = 0  # theirs is 1
    head_residual: int = 0  # theirs is 1: the head's query is added to what its attention returns
    # chosen by each stage (FREE)
    dropout: float = 0.0  # of embeddings, attention weights, and the outputs of attention and MLP
    drop_path: float = 0.0  # chance that a sample skips a block's attention or MLP
    decode_pieces: int = 1  # the decoder works through the hidden positions in so many pieces, to save memory
    n_out: int = 0  # outputs of the fine-tuning head; 0 = no head but the reconstruction decoder

    def __post_init__(self):
        for name in ('embed_dim', 'seq_len', 'n_layer', 'qk_dim', 'n_head', 'v_dim', 'mlp_ratio',
                     'decode_pieces'):
            if getattr(self, name) < 1:
                fail(f'{name}={getattr(self, name)} must be at least 1')
        if self.qk_dim % self.n_head or self.v_dim % self.n_head:
            fail(f'n_head={self.n_head} must divide qk_dim={self.qk_dim} and v_dim={self.v_dim}')
        if self.n_latent == 0 and self.embed_dim != self.v_dim:
            fail(f'a Transformer (n_latent=0) adds attention to its inputs: embed_dim={self.embed_dim} '
                 f'must equal v_dim={self.v_dim}')
        if self.n_latent < 0:
            fail(f'n_latent={self.n_latent} must be 0, for a Transformer, or more, for a Perceiver')
        for name in ('dropout', 'drop_path'):
            if not 0 <= getattr(self, name) < 1:
                fail(f'{name}={getattr(self, name)} must lie in [0, 1)')


class Layer(nn.Module):
    """
    Attention and an MLP, pre-norm. All attention in the model uses this class, in three ways:

        a block, self-attention   y = x + attend(queries(x), LN(x));   y + MLP(LN(y))      forward
        the masking layer         keys and values come from X^, without another LayerNorm  SMA.encode
        the decoder               no residual connection around the attention              Decoder

    The values, the residual stream and the MLP have the width of what the queries are made from, q_dim.
    """

    def __init__(self, c: SMAConfig, q_dim: int, kv_dim: int, drop_path: float = 0.0):
        super().__init__()
        if c.qk_dim % c.n_head or q_dim % c.n_head:
            fail(f'{c.n_head} heads must divide the widths of their layer, {c.qk_dim} and {q_dim}')
        self.n_head = c.n_head
        self.dropout_rate = c.dropout
        self.drop_path_rate = drop_path
        self.ln_query = nn.LayerNorm(q_dim)
        self.query = nn.Linear(q_dim, c.qk_dim)
        self.key = nn.Linear(kv_dim, c.qk_dim)
        self.value = nn.Linear(kv_dim, q_dim)
        self.proj = nn.Linear(q_dim, q_dim)
        self.ln_mlp = nn.LayerNorm(q_dim)
        self.fc = nn.Linear(q_dim, c.mlp_ratio * q_dim)
        self.fc_proj = nn.Linear(c.mlp_ratio * q_dim, q_dim)

    def split_heads(self, t: Tensor) -> Tensor:
        """(..., n, h * d) -> (..., h, n, d)"""
        return t.unflatten(-1, (self.n_head, -1)).transpose(-3, -2)

    def dropout(self, t: Tensor) -> Tensor:
        return F.dropout(t, self.dropout_rate, self.training)

    def drop_path(self, t: Tensor) -> Tensor:
        """Stochastic depth: a sample's t is zero with chance drop_path_rate, else t / (1 - drop_path_rate)."""
        if self.drop_path_rate == 0 or not self.training:
            return t
        keep_rate = 1 - self.drop_path_rate
        return t * t.new_empty(t.shape[0], 1, 1).bernoulli_(keep_rate) / keep_rate

    def queries(self, x: Tensor) -> Tensor:
        """W_q LN(x): (..., q_dim) -> (..., qk_dim)"""
        return self.query(self.ln_query(x))

    def attend(self, q: Tensor, kv: Tensor, key_valid: Tensor | None = None) -> Tensor:
        """
        The softmax of Eq. 5, over what is visible, and that of Eq. 6; and the output projection.

        q (B or 1, l, qk_dim) from `queries`, kv (B, u, kv_dim) -> (B, l, q_dim). (In the decoder there are m
        queries and l keys.)
        key_valid (B, u) bool, True = may be attended to; None = all may.
        """
        k = self.split_heads(self.key(kv))  # (B, h, u, d_k)
        v = self.split_heads(self.value(kv))  # (B, h, u, q_dim / h)
        # Where all samples share their queries, each gets a copy: expand() gives a stride of 0, which cuDNN's
        # attention does not take.
        q = q.expand(len(k), -1, -1).contiguous()
        q = self.split_heads(q)  # (B, h, l, d_k)
        if key_valid is not None:
            key_valid = key_valid[:, None, None, :]  # (B, 1, 1, u)
        v_width = v.shape[-1]
        if v_width < k.shape[-1]:  # fill up with zeros: fast kernels want the widths of k and v to be equal
            v = F.pad(v, (0, k.shape[-1] - v_width))
        dropout_rate = self.dropout_rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, key_valid, dropout_rate)
        y = y[..., :v_width].transpose(1, 2).flatten(2)  # (B, l, q_dim)
        return self.dropout(self.proj(y))

    def mlp(self, y: Tensor) -> Tensor:
        """y + MLP(LN(y))"""
        z = F.gelu(self.fc(self.ln_mlp(y)))  # (B, l, mlp_ratio * q_dim)
        return y + self.drop_path(self.dropout(self.fc_proj(z)))

    def forward(self, x: Tensor, key_valid: Tensor | None = None) -> Tensor:
        """Self-attention: x (B, l, d), key_valid (B, l) bool or None -> (B, l, d)."""
        x_norm = self.ln_query(x)
        y = x + self.drop_path(self.attend(self.query(x_norm), x_norm, key_valid))
        return self.mlp(y)


class Decoder(nn.Module):
    """Eq. 6: queries attend over H, then an MLP, LayerNorm and a Linear to raw values, ids, or labels."""

    def __init__(self, c: SMAConfig, q_dim: int, n_out: int):
        super().__init__()
        self.ln_H = nn.LayerNorm(c.v_dim)
        self.layer = Layer(c, q_dim, kv_dim=c.v_dim)
        self.ln_out = nn.LayerNorm(q_dim, eps=1e-12)
        self.out = nn.Linear(q_dim, n_out)

    def forward(self, q: Tensor, H: Tensor, key_valid: Tensor | None = None,
                residual: Tensor | None = None) -> Tensor:
        """
        q (B or 1, m, qk_dim) from `queries`, H (B, l, d), key_valid (B, l) bool or None -> (B, m, n_out).
        residual: what the attention is added to. None = nothing; in a head of the authors' it is the query
        itself.
        """
        y = self.layer.attend(q, self.ln_H(H), key_valid)  # (B, m, q_dim)
        if residual is not None:
            y = residual + y
        return self.out(self.ln_out(self.layer.mlp(y)))


class SMA(nn.Module):
    """Self-guided masked autoencoder: `forward` pre-trains; `predict` and `features` are for later stages."""

    def __init__(self, config: SMAConfig):
        super().__init__()
        c = self.config = config
        # E
        if c.d_raw:
            self.value_embedding = nn.Linear(c.d_raw, c.embed_dim)
        else:
            self.value_embedding = nn.Embedding(N_IDS, c.embed_dim)
        self.P = nn.Parameter(torch.empty(c.seq_len, c.embed_dim))
        self.ln_embed = nn.LayerNorm(c.embed_dim, eps=1e-12)

        # the encoder
        if c.n_latent:
            self.latents = nn.Parameter(torch.empty(c.n_latent, c.v_dim))
        first = replace(c, n_head=c.first_heads or c.n_head)
        self.first = Layer(first, q_dim=c.v_dim, kv_dim=c.embed_dim)  # the masking layer
        self.blocks = nn.ModuleList(Layer(c, c.v_dim, c.v_dim, c.drop_path) for _ in range(c.n_layer - 1))

        # what reads H: a head for labels, or the decoder of the hidden inputs
        if c.n_out:
            self.head_query = nn.Parameter(torch.empty(1, c.v_dim))
            self.head = Decoder(replace(c, mlp_ratio=c.head_mlp_ratio or c.mlp_ratio), c.v_dim, c.n_out)
        else:
            decoder = replace(
                c,
                n_head=c.decoder_heads or math.gcd(c.n_head, c.embed_dim),
                qk_dim=c.decoder_qk_dim or c.qk_dim,
                mlp_ratio=c.decoder_mlp_ratio or c.mlp_ratio)
            self.decoder = Decoder(decoder, c.embed_dim, c.d_raw or N_IDS)

        # matrices, latents and P: normal with std 0.02; biases 0; LayerNorms stay 1 and 0
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(p)

    def forward(self, x: Tensor, valid: Tensor | None = None, masking: Masking = DEFAULT_MASKING,
                generator: Generator | None = None, random_fraction: Tensor | None = None):
        """
        Pre-training: one step of Algorithm 1, up to the loss. With a head (n_out > 0): `predict`.

        x (B, n) int64 ids or (B, n, d_raw) float; valid (B, n) bool, or None where nothing is padding.
        generator and random_fraction: see masking.hide.

        Returns (loss, hidden). loss (B, m) is the loss of each hidden input, zero where a short row hides fewer
        than m = round(r n). hidden (B, n) bool is the mask. The loss of the batch is loss.sum() / hidden.sum().
        """
        if self.config.n_out:
            return self.predict(x, valid)
        real = all_true(x) if valid is None else valid
        x_hat = self.embed(x)  # (B, n, embed_dim)
        hidden = self.choose_mask(x, x_hat, real, masking, generator, random_fraction)  # Eq. 2-5: (B, n)

        # Eq. 5's outer softmax gives hidden inputs no attention. They are left out here, and so is their cost.
        # A shorter row hides at most m inputs and shows at most n - m: both grow with the length.
        m = round(masking.mask_ratio * x.shape[1])
        n_pieces = self.config.decode_pieces
        places = math.ceil(m / n_pieces) * n_pieces  # m, rounded up to pieces of equal size for `decode`
        hidden_at, hidden_filled = mask_to_indices(hidden, places)  # (B, places)
        visible_at, visible_filled = mask_to_indices(real & ~hidden, x.shape[1] - m)  # (B, u)
        if valid is None:  # each row shows exactly n - m: attention takes faster kernels without a mask
            visible_filled = None

        H, H_valid = self.encode(gather_rows(x_hat, visible_at), visible_filled)  # (B, l, d)
        prediction = self.decode(H, H_valid, hidden_at)  # Eq. 6: (B, places, 262 or d_raw)
        loss = self.loss(prediction, gather_rows(x, hidden_at)) * hidden_filled  # (B, places)
        return loss[:, :m], hidden

    def embed(self, x: Tensor) -> Tensor:
        """
        X E + P, LayerNorm: x (B, n) int64 or (B, n, d_raw) float -> X^ (B, n, embed_dim).

        Only P tells inputs apart: permute the inputs of every sample and the rows of P alike, and training
        stays the same (Eq. 1; tests/test_model.py: test_eq_1_learning_does_not_depend_on_the_order_of_inputs).
        """
        x_hat = self.ln_embed(self.value_embedding(x) + self.P[:x.shape[1]])
        return F.dropout(x_hat, self.config.dropout, self.training)

    def choose_mask(self, x: Tensor, x_hat: Tensor, valid: Tensor, masking: Masking,
                    generator: Generator | None = None, random_fraction: Tensor | None = None) -> Tensor:
        """Which inputs to hide (masking.py), by this model's first layer: -> (B, n) bool, True = hidden."""
        attention = partial(self.attention, x_hat, valid)
        return hide(masking, attention, x, valid, self.can_query(valid), generator, random_fraction)

    def can_query(self, valid: Tensor) -> Tensor:
        """Which queries may be drawn: all latents, or the valid inputs. (B, n) -> (B, n_latent or n) bool"""
        if self.config.n_latent:
            return torch.ones(len(valid), self.config.n_latent, dtype=torch.bool, device=valid.device)
        return valid

    @torch.no_grad()
    def attention(self, x_hat: Tensor, valid: Tensor, R: Tensor) -> Tensor:
        """
        The masking layer's attention of the drawn queries R (B, |R|) alone. No l x n map is ever made.
        x_hat (B, n, embed_dim), valid (B, n) -> (B, h, |R|, n)

        The plain way is attention_map(q, split_heads(key(x_hat)), valid), which makes a key of each of the n
        inputs. A faster way with the same result: q . (W_k x + b) = (W_k^T q) . x + q . b. So the few queries
        are multiplied by W_k^T, and meet the inputs themselves. q . b is the same for all inputs, and the
        softmax does not see it.
        """
        query_input = self.latents[R] if self.config.n_latent else gather_rows(x_hat, R)  # (B, |R|, d)
        q = self.first.split_heads(self.first.queries(query_input))  # (B, h, |R|, d_k)
        n_head = q.shape[1]
        d_k = q.shape[-1]
        W_k = self.first.key.weight.unflatten(0, (n_head, -1))  # (h, d_k, embed_dim)
        q_x = torch.einsum('bhrd,hde->bhre', q, W_k).flatten(1, 2)  # (B, h |R|, embed_dim)
        A = attention_map(q_x[:, None], x_hat[:, None], valid, d_k=d_k)  # (B, 1, h |R|, n): as if of one head
        return A.view(len(R), n_head, R.shape[1], -1)  # (B, h, |R|, n)

    def encode(self, x_hat: Tensor, key_valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """
        The encoder, over the inputs that it is given: x_hat (B, u, embed_dim), key_valid (B, u) bool, False =
        padding, or None. Returns H (B, l, d), and which rows of H count: None for a Perceiver, all of whose
        latents do.
        """
        query_input = self.latents[None] if self.config.n_latent else x_hat  # (1 or B, l, d)
        H = query_input + self.first.attend(self.first.queries(query_input), x_hat, key_valid)
        H = self.first.mlp(H)  # (B, l, d)
        H_valid = None if self.config.n_latent else key_valid
        for block in self.blocks:
            H = block(H, H_valid)
        return H, H_valid

    def decode(self, H: Tensor, H_valid: Tensor | None, index: Tensor) -> Tensor:
        """
        Eq. 6 at the positions index (B, m) -> predictions (B, m, 262 or d_raw).

        The plain way is decoder(layer.queries(P[index]), H). Queries do not depend on the sample, so here those
        of all positions are made once, and each sample picks its own. With decode_pieces > 1 the positions are
        answered in pieces, and the backward pass computes each piece again, so that the memory is that of one
        piece.
        """
        queries = self.decoder.layer.queries(self.P)  # (seq_len, qk_dim)

        def answer(index):
            return self.decoder(F.embedding(index, queries), H, H_valid)
        if self.config.decode_pieces == 1:
            return answer(index)
        pieces = index.tensor_split(self.config.decode_pieces, 1)
        return torch.cat([recompute(answer, piece, use_reentrant=False) for piece in pieces], 1)

    def loss(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Per hidden input: squared error, its mean over d_raw, or cross-entropy over 262 ids. -> (B, m)"""
        if self.config.d_raw:
            return F.mse_loss(prediction, truth, reduction='none').mean(-1)
        return F.cross_entropy(prediction.flatten(0, 1), truth.flatten(), reduction='none').view(truth.shape)

    def predict(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """The fine-tuning head, nothing hidden: one learned query attends over H. -> (B, n_out)"""
        H, H_valid = self.encode(self.embed(x), valid)
        query = self.head.layer.queries(self.head_query)[None]  # (1, 1, qk_dim)
        residual = self.head_query if self.config.head_residual else None
        return self.head(query, H, H_valid, residual)[:, 0]

    def features(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """One vector a sample, nothing hidden: the mean of H over its rows. -> (B, d)"""
        H, H_valid = self.encode(self.embed(x), valid)
        if H_valid is None:
            return H.mean(1)
        return (H * H_valid[..., None]).sum(1) / H_valid.sum(1, keepdim=True)


def build(config: dict, **more) -> SMA:
    """A model from a stage's knobs or a checkpoint's model_args. `more`: fields that come from the data."""
    names = {field.name for field in fields(SMAConfig)}
    settings = {name: value for name, value in config.items() if name in names}
    settings.update(more)
    return SMA(SMAConfig(**settings))


def all_true(x: Tensor) -> Tensor:
    """The `valid` of a batch without padding: x (B, n) or (B, n, d_raw) -> (B, n) bool."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def gather_rows(t: Tensor, index: Tensor) -> Tensor:
    """t (B, n) or (B, n, d), index (B, m) -> the rows t[b, index[b, j]], (B, m) or (B, m, d)."""
    if t.ndim == 2:
        return t.gather(1, index)
    return t.gather(1, index[..., None].expand(-1, -1, t.shape[2]))


def mask_to_indices(mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """
    Where the mask is True, packed to the left: turns a mask into indices for `gather_rows`.

    mask (B, n) bool with at most `width` True a row -> index (B, width) int64, in increasing order, and
    filled (B, width) bool. Places past a row's last True hold index 0 and filled False.
    The plain way is mask[b].nonzero() for each b. Here no shape depends on the data, so nobody waits for a GPU.
    """
    B, n = mask.shape
    place = torch.where(mask, mask.cumsum(1) - 1, width)  # (B, n); `width` is a spare column, dropped below
    index = torch.zeros(B, width + 1, dtype=torch.int64, device=mask.device)
    index.scatter_(1, place, torch.arange(n, device=mask.device).expand(B, n))
    filled = torch.arange(width, device=mask.device) < mask.sum(1, keepdim=True)
    return index[:, :width], filled


# -----------------------------------------------------------------------------

def print_shape(name: str, t: Tensor, what: str):
    print(f'{name:12}{str(tuple(t.shape)):16}{what}')


def walk():
    """One small batch through a Perceiver, step by step."""
    torch.manual_seed(0)
    masking = Masking('guided', mask_ratio=0.4, n_query=2)
    texts = ('self-guided', 'masked', 'autoencoder')
    n = max(len(text) for text in texts)
    padded = [text.encode().ljust(n, b'?') for text in texts]
    x = torch.tensor([[FIRST_BYTE + byte for byte in line] for line in padded])
    lengths = torch.tensor([len(text) for text in texts])
    valid = torch.arange(n) < lengths[:, None]

    model = SMA(SMAConfig(embed_dim=16, seq_len=n, n_layer=2, qk_dim=16, n_head=2, v_dim=24, n_latent=4))
    model.value_embedding.weight.data *= 50  # without training attention is nearly even: make it differ
    model.first.key.weight.data *= 50
    model.latents.data *= 50
    print(f'a Perceiver: l = {model.config.n_latent} latents, h = 2 heads, embed_dim 16, d = 24; '
          f'B = 3 samples, n = {n} inputs, r = {masking.mask_ratio}, |R| = {masking.n_query}\n')

    print_shape('x', x, 'byte ids')
    print_shape('valid', valid, 'False = padding')
    x_hat = model.embed(x)
    print_shape('x_hat', x_hat, 'X^ = X E + P, LayerNorm')

    R = torch.tensor([[0, 1]] * 3)
    A = model.attention(x_hat, valid, R)
    v = A.sum((1, 2))
    hidden = hide(masking, lambda drawn: A, x, valid, model.can_query(valid))  # this A, whatever is drawn
    print_shape('R', R, 'the drawn queries, here latents 0 and 1 for every sample')
    print_shape('A', A, 'Eq. 2: softmax(Q_R K^T / sqrt(d_k)), a map for each head and query')
    print_shape('v', v, 'Eq. 4 and 5: added up over heads and queries')
    n_hidden = hidden.sum(1).tolist()
    print_shape('hidden', hidden, f'Eq. 3: the top round(r n) = {n_hidden} of each, True = hidden')

    m = round(masking.mask_ratio * n)
    hidden_at, hidden_filled = mask_to_indices(hidden, m)
    visible_at, visible_filled = mask_to_indices(valid & ~hidden, n - m)
    visible = gather_rows(x_hat, visible_at)
    print_shape('visible', visible, 'Eq. 5, outer softmax: what is hidden is left out')

    H, _ = model.encode(visible, visible_filled)
    print_shape('H', H, 'the encoder: a row for each latent')
    prediction = model.decode(H, None, hidden_at)
    print_shape('prediction', prediction, 'Eq. 6: queries from P at the hidden positions, over 262 ids')
    loss = model.loss(prediction, gather_rows(x, hidden_at)) * hidden_filled
    batch_loss = loss.sum() / hidden.sum()
    print_shape('loss', loss, f'cross-entropy; of the whole batch: {batch_loss:.3f} (log 262 = 5.568)')

    print('\nthe attention v, rounded to 0 to 9, and what it hides')
    for text, attention, mask in zip(texts, v, hidden):
        digits = ''.join(f'{9 * a / attention.max():.0f}' for a in attention[:len(text)])
        shown = ''.join('█' if is_hidden else character for character, is_hidden in zip(text, mask))
        print(f'\n    {text}\n    {digits}\n    {shown}')


if __name__ == '__main__':
    run_cli(walk)
