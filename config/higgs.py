"""
Pre-training on the whole of UCI HIGGS, with the Transformer and masks of Table 10 of the paper.

    python pretrain.py config/higgs.py                                  guided masks
    python pretrain.py config/higgs.py --mask=random                    the baseline
    torchrun --nproc_per_node=8 pretrain.py config/higgs.py             8 GPUs

For a GPU: 50 passes over 10.5 million events. The time has not been measured.
Memory: at most 0.2 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
Expected (paper, Table 3a, accuracy in % after config/finetune_higgs.py with 1,000 / 10,000 / 100,000 labels):
random 68.07 / 72.57 / 76.54, guided 69.47 / 74.04 / 77.88.
"""
dataset = 'higgs'
# Table 10a
embed_dim = 128  # not in the table; in a Transformer it must equal v_dim
seq_len = 28
n_layer = 4
qk_dim = 128
n_head = 8
v_dim = 128
n_latent = 0  # a Transformer ("self-attention")
# Table 10b
mask_ratio = 0.5 if mask == 'random' else 0.2
mask_anneal = 0.25  # not in the paper: the authors' code, for physics
min_random_fraction = 0.0
lr = 1e-4
epochs = 50
batch_size = 256
weight_decay = 0.01
warmup_steps = 10_000  # not in the table: the authors' code

# output
out_dir = f'out/higgs/{mask}'
eval_interval = 10_000
save_interval = 10_000
