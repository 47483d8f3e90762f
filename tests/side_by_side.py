"""
Seconds of a guided pre-training step: the authors' implementation against ours, on the same batches, in turns.

    git clone https://github.com/Johnathan-Xie/sma
    pip install 'numpy<2' 'huggingface-hub<0.20' tokenizers==0.13.3 regex pyyaml safetensors
    python tests/side_by_side.py --theirs=sma/src

Float32, AdamW, clipping, the sizes of Tables 8-10, as many parameters; they are printed, and the widths of the batches.
Batches are real ones, from ../shared/data where it is there, else of random lengths. Theirs are padded as ours, to the
longest row, and once more as their script pads: chemistry to 256. Not a test: it needs their code and several minutes.
"""

import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bench  # noqa: E402
import pretrain  # noqa: E402
from configurator import configure, fail  # noqa: E402
from data import PAD, fit_norm, micro_batches  # noqa: E402
from model import build  # noqa: E402

theirs = ''  # the folder that holds their `transformers`
domains = ('physics', 'chemistry', 'protein')  # which to time
batch_size: int | None = None  # samples a step; None = 256, 32, 8
n_layer: int | None = None  # for a quick look; None = the paper's
rounds = 3  # the ratio printed is the median of so many turns

DOMAINS = {'physics': ('higgs', 256, 'physics/higgs_small_X_num_val.npy', None),
           'chemistry': ('chemistry', 32, 'chemistry/Lipophilicity.csv', 'smiles'),
           'protein': ('protein', 8, 'protein/swissprot201401_sample20k_len50-512.fasta.xz', None)}


def their_model(c, ratio, n):
    """Their SMAForSSL in the shape of our SMAConfig; one query is drawn for n inputs."""
    from transformers.models.sma.configuration_sma import SMAConfig
    from transformers.models.sma.modeling_sma import SMAForSSL
    # their decoder's second LayerNorm has the width of its queries, the position embeddings: so must its values
    decoder = dict(query_num_channels=c.embed_dim, qk_channels=c.qk_dim, v_channels=c.embed_dim, num_heads=c.n_head,
                   widening_factor=c.mlp_ratio, use_query_residual=False, share_decoder_queries=True)
    noise = dict(masking_ratio=ratio, num_per_query=max(1, round(ratio * n)))
    teacher = dict(reconstruction_decoder_args=decoder, reconstruction_loss_fn='mse' if c.d_raw else 'crossentropy')
    return SMAForSSL(SMAConfig(
        num_latents=c.n_latent, latent_channels=c.v_dim, embedded_channels=c.embed_dim,
        num_self_attends_per_block=c.n_layer - 1, num_self_attention_heads=c.n_head,
        num_cross_attention_heads=c.n_head, qk_channels=c.qk_dim, v_channels=c.v_dim,
        dense_use_bias=True, encoder_type='cross_attention' if c.n_latent else 'self_attention',
        cross_train_noising_args=[['RandomlySelectedCrossAttentionMasking', noise]],
        self_attention_widening_factor=c.mlp_ratio,
        cross_attention_widening_factor=c.mlp_ratio, max_position_embeddings=c.seq_len, input_channels=c.d_raw or 1,
        input_type='continuous' if c.d_raw else 'discrete', decoder_heads=c.n_head,
        teacher_args=teacher))


def main():
    config = configure(globals())
    if not (Path(theirs) / 'transformers/models/sma').is_dir():
        fail(f'theirs={theirs!r}: no transformers/models/sma in that folder')
    sys.path.insert(0, theirs)
    for domain in config['domains']:
        name, size, file, column = DOMAINS[domain]
        size = batch_size or size
        knobs = configure(dict(vars(pretrain)), [f'config/{name}.py', f'--batch_size={size}', '--device=cpu'])
        run = pretrain.set_up(knobs)
        with TemporaryDirectory() as folder:
            file = ROOT.parent / 'shared/data' / file
            path = str(file) if file.exists() else bench.stand_in(knobs, Path(folder))
            knobs.update(dataset=path, data_dir=folder, input_column=column if file.exists() else None)
            knobs.update(n_layer=n_layer or knobs['n_layer'])
            data = pretrain.prepared(knobs, run)
            rows, ratio = data.rows('train'), knobs['mask_ratio'][-1]
            data.norm = fit_norm(data, rows, 'standard')
            c = build(knobs, d_raw=data.d_raw).config
            batches = list(islice(micro_batches(data, rows, knobs, 0, 0, run), rounds + 1))
        ours = bench.stepper(c, lambda x, labels: (x, labels), 'guided', ratio, 1, knobs, run)
        mean = int(np.mean([data.lengths(b[3]).mean() for b in batches]))
        model = their_model(c, ratio, mean)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
        count = sum(p.numel() for p in model.parameters())
        print(f'{domain}: batch {size}, {mean} tokens a row, widths {[b[0].shape[1] for b in batches]}, parameters '
              f'{count:,} theirs, {sum(p.numel() for p in build(vars(c)).parameters()):,} ours')

        def their_step(x, valid):
            mask = torch.ones(x.shape[:2]) if valid is None else valid.float()
            model.train()
            model(inputs=x, attention_mask=mask).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        def wide(x, valid):  # chemistry, as their script pads
            pad = (0, c.seq_len - x.shape[1])
            return torch.nn.functional.pad(x, pad, value=PAD), torch.nn.functional.pad(valid, pad)
        turns = []
        for batch in batches:
            x, valid = batch[:2]
            steps = [lambda: ours(batch), lambda: their_step(x, valid)]
            if domain == 'chemistry':
                steps.append(lambda: their_step(*wide(x, valid)))
            turns.append([])
            for step in steps:
                start = time.perf_counter()
                step()
                turns[-1].append(time.perf_counter() - start)
        t = np.array(turns[1:])  # (rounds, 2 or 3), the first turn only warms up
        for i, what in enumerate(('padded to the longest', 'as their script pads')[:t.shape[1] - 1], 1):
            rates = size / np.median(t, 0)
            print(f'    {what}: theirs {rates[i]:.3g} samples/s, ours {rates[0]:.3g}, ours '
                  f'{np.median(t[:, i] / t[:, 0]):.2f} times as fast', flush=True)


if __name__ == '__main__':
    main()
