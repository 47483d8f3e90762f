"""
The masked autoencoder of the paper: embed, choose a mask, encode what is visible, decode what is hidden.

One class, two encoders: n_latent > 0 is a Perceiver (learned latents cross-attend to the inputs; long inputs), and
n_latent = 0 a Transformer (self-attention; short inputs). Either reads byte ids (d_raw = 0) or floats (d_raw > 0).

    B batch   n inputs   m = round(r n) hidden   u = n - m visible   l rows of H: n_latent, or u   h heads
    d_k = qk_dim / h     d = v_dim, the width of the residual stream     P position embeddings

Layer by layer as in the authors' code (see ../shared/reference-notes.md); only the names of the modules differ.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from configurator import fail
from masking import MASKS, attention_map, positions

N_IDS = 262  # PAD 0, BOS 1, EOS 2, MASK 3, CLS 4, SEP 5, then byte b is b + 6 (Perceiver IO)


@dataclass(frozen=True)
class SMAConfig:
    """The shape of a model; the names are those of Tables 8-12."""
    d_raw: int = 0  # floats per input; 0 = byte ids
    embed_dim: int = 128  # width of X^ = X E + P
    seq_len: int = 28  # most inputs: rows of P
    n_layer: int = 4  # the masking layer and n_layer - 1 blocks
    qk_dim: int = 128  # queries and keys, all heads together
    n_head: int = 8
    v_dim: int = 128  # values, all heads together = d, the residual stream
    n_latent: int = 0  # 0 = Transformer
    mlp_ratio: int = 4
    dropout: float = 0.0  # embeddings, attention weights, and what attention and MLP add to the stream
    drop_path: float = 0.0  # chance that a sample skips a block's attention or MLP
    n_out: int = 0  # outputs of the fine-tuning head; 0 = no head but the reconstruction decoder

    def __post_init__(self):
        if self.qk_dim % self.n_head or self.v_dim % self.n_head:
            raise ValueError(f'n_head={self.n_head} must divide qk_dim={self.qk_dim} and v_dim={self.v_dim}')
        if self.n_latent == 0 and self.embed_dim != self.v_dim:
            raise ValueError(f'a Transformer (n_latent=0) adds attention to its inputs: embed_dim={self.embed_dim} '
                             f'must equal v_dim={self.v_dim}')
        for name in ('embed_dim', 'seq_len', 'n_layer', 'qk_dim', 'n_head', 'v_dim', 'mlp_ratio'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)} must be at least 1')
        if self.n_latent < 0:
            raise ValueError(f'n_latent={self.n_latent} must be 0, for a Transformer, or more, for a Perceiver')
        for name in ('dropout', 'drop_path'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)} must lie in [0, 1)')


class Layer(nn.Module):
    """
    Attention and an MLP, pre-norm: y = [x +] W_o Attention(W_q LN(x), kv);  y + MLP(LN(y)).

    Every attention in the model is one of these. `kv=None` is ordinary self-attention: keys and values come from LN(x).
    The masking layer gives kv = X^, already normalised. The decoder has no residual to its queries.
    """

    def __init__(self, c, q_dim, kv_dim, residual=True, drop_path=0.0):
        super().__init__()
        self.n_head, self.residual, self.drop_path, self.p = c.n_head, residual, drop_path, c.dropout
        self.ln_query = nn.LayerNorm(q_dim)
        self.query = nn.Linear(q_dim, c.qk_dim)
        self.key = nn.Linear(kv_dim, c.qk_dim)
        self.value = nn.Linear(kv_dim, c.v_dim)
        self.proj = nn.Linear(c.v_dim, c.v_dim)
        self.ln_mlp = nn.LayerNorm(c.v_dim)
        self.fc = nn.Linear(c.v_dim, c.mlp_ratio * c.v_dim)
        self.fc_proj = nn.Linear(c.mlp_ratio * c.v_dim, c.v_dim)

    def heads(self, t):
        """(..., n, h * d) -> (..., h, n, d)"""
        return t.unflatten(-1, (self.n_head, -1)).transpose(-3, -2)

    def skip(self, t):
        """Drop path (stochastic depth): whole samples of a branch are zeroed in training, the others scaled up."""
        if self.drop_path == 0 or not self.training:
            return t
        keep = 1 - self.drop_path
        return t * t.new_empty(t.shape[0], 1, 1).bernoulli_(keep) / keep

    def attend(self, q, kv, filled):
        """q (B or 1, l, qk_dim) projected queries, kv (B, u, kv_dim), filled (B, u) bool or None -> (B, l, d)."""
        k, v = self.heads(self.key(kv)), self.heads(self.value(kv))  # (B, h, u, d_k), (B, h, u, d / h)
        q = self.heads(q).expand(len(k), -1, -1, -1)  # (B, h, l, d_k)
        see = None if filled is None else filled[:, None, None, :]  # (B, 1, 1, u), True = may be attended to
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=see, dropout_p=self.p if self.training else 0.0)
        return F.dropout(self.proj(y.transpose(1, 2).flatten(2)), self.p, self.training)  # (B, l, d)

    def mlp(self, y):
        return F.dropout(self.fc_proj(F.gelu(self.fc(self.ln_mlp(y)))), self.p, self.training)

    def forward(self, x, kv=None, filled=None, q=None):
        """x (B or 1, l, q_dim); q: W_q LN(x) where the caller already has it, with x then free to be None."""
        x_norm = None if x is None else self.ln_query(x)
        y = self.attend(self.query(x_norm) if q is None else q, x_norm if kv is None else kv, filled)
        if self.residual:
            y = x + self.skip(y)
        return y + self.skip(self.mlp(y))


class Decoder(nn.Module):
    """Eq. 6: queries attend over H, then an MLP, LayerNorm and a Linear to the raw values, the ids, or the labels."""

    def __init__(self, c, n_out):
        super().__init__()
        self.ln_H = nn.LayerNorm(c.v_dim)
        self.layer = Layer(c, q_dim=c.embed_dim, kv_dim=c.v_dim, residual=False)
        self.ln_out = nn.LayerNorm(c.v_dim, eps=1e-12)
        self.out = nn.Linear(c.v_dim, n_out)

    def project(self, positions):
        """The decoding queries Q_o: (.., n, embed_dim) -> (.., n, qk_dim). They know nothing of the sample."""
        return self.layer.query(self.layer.ln_query(positions))

    def forward(self, q, H, filled):
        """q (B or 1, m, qk_dim) from `project`, H (B, l, d), filled (B, l) bool or None -> (B, m, n_out)."""
        return self.out(self.ln_out(self.layer(None, self.ln_H(H), filled, q=q)))


class SMA(nn.Module):
    """Self-guided masked autoencoder: `forward` pre-trains; `predict` and `features` are for what comes after."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.value_embedding = nn.Linear(c.d_raw, c.embed_dim) if c.d_raw else nn.Embedding(N_IDS, c.embed_dim)  # E
        self.P = nn.Parameter(torch.empty(c.seq_len, c.embed_dim))
        self.ln_embed = nn.LayerNorm(c.embed_dim, eps=1e-12)
        if c.n_latent:
            self.latents = nn.Parameter(torch.empty(c.n_latent, c.v_dim))
        self.first = Layer(c, q_dim=c.v_dim, kv_dim=c.embed_dim)  # the masking layer
        self.blocks = nn.ModuleList(Layer(c, c.v_dim, c.v_dim, drop_path=c.drop_path) for _ in range(c.n_layer - 1))
        if c.n_out:
            self.head_query = nn.Parameter(torch.empty(1, c.embed_dim))
            self.head = Decoder(c, c.n_out)
        else:
            self.decoder = Decoder(c, c.d_raw or N_IDS)
        for name, p in self.named_parameters():  # Linear, Embedding, latents, P: N(0, 0.02); biases 0; LayerNorm 1 / 0
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(p)

    def embed(self, x):
        """X E + P, LayerNorm: x (B, n) int64 or (B, n, d_raw) float -> X^ (B, n, embed_dim)."""
        x_hat = self.ln_embed(self.value_embedding(x) + self.P[:x.shape[1]])
        return F.dropout(x_hat, self.config.dropout, self.training)

    @torch.no_grad()
    def attention(self, x_hat, valid, R):
        """The masking layer's attention of the queries R (B, |R|): -> (B, h, |R|, n). No l x n map is ever made."""
        rows = self.latents[R] if self.config.n_latent else take(x_hat, R)  # (B, |R|, d)
        q = self.first.heads(self.first.query(self.first.ln_query(rows)))  # (B, h, |R|, d_k)
        # q . (W_k x + b) = (W_k^T q) . x + q . b: the few queries are taken to the inputs' width, not all n inputs to
        # keys; and q . b, the same for all inputs, is nothing to the softmax.
        W_k = self.first.key.weight.unflatten(0, (q.shape[1], -1))  # (h, d_k, embed_dim)
        q_x = torch.einsum('bhrd,hde->bhre', q, W_k).flatten(1, 2)  # (B, h |R|, embed_dim)
        A = attention_map(q_x[:, None], x_hat[:, None], valid, d_k=q.shape[-1])  # (B, 1, h |R|, n)
        return A.view(*q.shape[:3], -1)  # (B, h, |R|, n)

    def can_query(self, valid):
        """Which queries there are to draw: valid inputs, or all latents. valid (B, n) -> (B, n or n_latent) bool"""
        n_latent = self.config.n_latent
        return torch.ones(len(valid), n_latent, dtype=torch.bool, device=valid.device) if n_latent else valid

    @torch.no_grad()
    def choose_mask(self, x, x_hat, valid, mask, mask_ratio, n_query, generator, looseness=None):
        """Which inputs to hide (masking.py), from this model's first layer: -> (B, n) bool, True = hidden."""
        return MASKS[mask](x, partial(self.attention, x_hat, valid), valid, self.can_query(valid), mask_ratio,
                           n_query, generator, looseness)

    def encode(self, x_hat, filled=None):
        """
        The encoder over visible inputs: x_hat (B, u, embed_dim), filled (B, u) bool (False = not there), or None if
        all are -> H (B, l, d), and which rows of H count: None for a Perceiver, whose latents all do, else `filled`.
        """
        H = self.first(self.latents[None] if self.config.n_latent else x_hat, x_hat, filled)
        rows = None if self.config.n_latent else filled
        for block in self.blocks:
            H = block(H, filled=rows)
        return H, rows

    def decode(self, H, rows, index):
        """Eq. 6 at the positions index (B, m) -> predictions (B, m, 262 or d_raw)."""
        # Queries for all positions are projected once, not once per sample, then picked by position.
        return self.decoder(F.embedding(index, self.decoder.project(self.P)), H, rows)

    def forward(self, x, valid=None, mask='guided', mask_ratio=0.2, n_query=1, generator=None, looseness=None):
        """
        A model with a head predicts labels, (B, n_out), and looks at x and valid only. One without reconstructs:
        one step of Algorithm 1. x (B, n) int64 ids or (B, n, d_raw) float, valid (B, n) bool or None (no padding).

        Returns (loss, hidden): the loss of each hidden input (B, m), zero where a short row hides fewer than
        m = round(r n), and the mask (B, n) bool it answers for. The batch's loss is loss.sum() / hidden.sum().
        """
        if self.config.n_out:
            return self.predict(x, valid)
        n = x.shape[1]
        m = round(mask_ratio * n)
        x_hat = self.embed(x)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        hidden = self.choose_mask(x, x_hat, real, mask, mask_ratio, n_query, generator, looseness)  # (B, n)
        hidden_at, is_hidden = positions(hidden, m)  # (B, m)
        visible_at, is_visible = positions(real & ~hidden, n - m)  # (B, u)
        # Without padding every row has exactly u visible inputs and needs no attention mask: the fast kernels.
        H, rows = self.encode(take(x_hat, visible_at), None if valid is None else is_visible)
        prediction = self.decode(H, rows, hidden_at)
        target = take(x, hidden_at)
        return self.loss(prediction, target) * is_hidden, hidden

    def loss(self, prediction, target):
        """Per hidden input: squared error, its mean over d_raw, or cross-entropy over 262 ids. -> (B, m)"""
        if self.config.d_raw:
            return F.mse_loss(prediction, target, reduction='none').mean(-1)
        return F.cross_entropy(prediction.flatten(0, 1), target.flatten(), reduction='none').view(target.shape)

    def predict(self, x, valid=None):
        """The fine-tuning head, nothing hidden: one learned query asks H. -> (B, n_out)"""
        H, rows = self.encode(self.embed(x), valid)
        return self.head(self.head.project(self.head_query)[None], H, rows)[:, 0]

    def features(self, x, valid=None):
        """One vector a sample, nothing hidden: the mean of H over its rows. -> (B, d)"""
        H, rows = self.encode(self.embed(x), valid)
        if rows is None:
            return H.mean(1)
        return (H * rows[..., None]).sum(1) / rows.sum(1, keepdim=True)


def take(t, index):
    """t (B, n) or (B, n, d), index (B, m) -> the rows t[b, index[b, j]], (B, m) or (B, m, d)."""
    if t.ndim == 2:
        return t.gather(1, index)
    return t.gather(1, index[..., None].expand(-1, -1, t.shape[2]))


# -----------------------------------------------------------------------------
# What the stages share: models from knobs, optimisers, checkpoints, running over many batches

def build(config, **more):
    """SMA from a stage's knobs; `more` are the fields that come from the data."""
    fields = {**{k: v for k, v in config.items() if k in SMAConfig.__dataclass_fields__}, **more}
    try:
        return SMA(SMAConfig(**fields))
    except ValueError as error:
        fail(str(error))


def make_optimizer(model, lr, weight_decay, device):
    """AdamW, betas 0.9, 0.999 (appendix B); only matrices decay: no bias, LayerNorm, embedding, position or latent."""
    matrices = {f'{name}.weight' for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    named = list(model.named_parameters())
    groups = [dict(params=[p for n, p in named if n in matrices], weight_decay=weight_decay),
              dict(params=[p for n, p in named if n not in matrices], weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), fused=torch.device(device).type in ('cuda', 'cpu'))


@torch.no_grad()
def masked_loss(model, batches, mask, mask_ratio, n_query, device, autocast):
    """
    Sum of the losses, and number of hidden inputs, over data.scoring's batches: (2,) tensor. Batch i draws with seed i:
    the random masks, or the queries drawn for guided ones, are the same at every call.
    """
    model.eval()
    generator, total = torch.Generator(device), torch.zeros(2, device=device)
    for i, at, x, valid in batches:
        with autocast():
            loss, hidden = model(x, valid, mask, mask_ratio, n_query, generator.manual_seed(i))
        total += torch.stack([loss.sum(), hidden.sum()])
    model.train()
    return total


@torch.no_grad()
def outputs(function, model, shape, batches, device, autocast):
    """function(x, valid) over data.scoring's batches, each row in its place: float32 of this shape (rows, width)."""
    model.eval()
    result = torch.zeros(shape, device=device)
    for i, at, x, valid in batches:
        with autocast():
            result[at] = function(x, valid).float()
    model.train()
    return result


def save(path, checkpoint):
    """Written under a temporary name, then renamed: there is never half a checkpoint. Plain dicts and tensors only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path.with_suffix('.tmp'))
    path.with_suffix('.tmp').replace(path)


def load(path, keys=('model', 'model_args', 'config')):
    """A checkpoint of ours; a folder means its last.pt."""
    path = Path(path)
    path = path / 'last.pt' if path.is_dir() else path
    if not path.is_file():
        fail(f'no checkpoint {path}: a .pt file, or a folder with last.pt in it, is wanted')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        fail(f'{path} is no checkpoint, or it is cut short ({type(error).__name__})')
    if not isinstance(checkpoint, dict) or not set(keys) <= set(checkpoint):
        missing = [k for k in keys if not isinstance(checkpoint, dict) or k not in checkpoint]
        fail(f'{path} is not a checkpoint of the kind that is wanted: it lacks {", ".join(missing)}')
    return checkpoint


def load_weights(model, state, new=(), dropped=()):
    """Copies weights by name and asserts which: all but those named `new..`, left over only those named `dropped..`.
    -> how many were copied, how many are new"""
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        fail(f'the checkpoint has another shape of model: {str(error).splitlines()[1].strip()}')
    odd = [n for n in result.missing_keys if not n.startswith(tuple(new))]
    odd += [n for n in result.unexpected_keys if not n.startswith(tuple(dropped))]
    if odd:
        fail(f'the checkpoint does not fit the model at {len(odd)} weights, {odd[0]} for one')
    return len(state) - len(result.unexpected_keys), len(result.missing_keys)
