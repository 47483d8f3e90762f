"""
Drawn digits as 144 numbers: the quick start. A small Perceiver with guided masks.

    python pretrain.py config/glyphs.py                 guided masks
    python pretrain.py config/glyphs.py --mask=random   the baseline

Two CPU cores: see the quick start in README.md, which has the expected scores too.
"""
dataset = 'glyphs'
val_share = 0.1
n_latent = 32
embed_dim = 32
batch_size = 64
max_steps = 1500
lr = 3e-3
