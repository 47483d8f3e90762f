"""
Particle physics on all of UCI HIGGS: Table 10 of the paper, its Transformer and masks.

    python pretrain.py config/higgs.py                                  or --mask=random, the baseline
    torchrun --nproc_per_node=8 pretrain.py config/higgs.py

For a GPU: 50 passes over 10.5 million events.
Expected (paper, Table 3a, after config/finetune_higgs.py with 1k / 10k / 100k labels):
random 68.07 / 72.57 / 76.54 %, guided 69.47 / 74.04 / 77.88 %.
"""
dataset = 'higgs'
# Table 10a
embed_dim = 128
seq_len = 28
n_layer = 4
qk_dim = 128
n_head = 8
v_dim = 128
n_latent = 0  # attention type: self-attention
# Table 10b
mask_ratio = 0.5 if mask == 'random' else 0.2
mask_anneal = 0.25  # the authors' code, for physics; the paper does not say so
lr = 1e-4
epochs = 50
batch_size = 256
weight_decay = 0.01
warmup_steps = 10_000  # the authors' code

out_dir = f'out/higgs/{mask}'
eval_interval = 10_000
save_interval = 10_000
