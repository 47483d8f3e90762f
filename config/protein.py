"""
Proteins as bytes: Table 8 of the paper, its Perceiver and masks, on Pfam.

    python pretrain.py config/protein.py                                or --mask=random, the baseline
    torchrun --nproc_per_node=8 pretrain.py config/protein.py
    python pretrain.py config/protein.py --dataset=proteins.fasta       any sequences of yours

For GPUs: ten passes over 34 million sequences. config/protein_cpu.py is the small one.
Expected (paper, Table 1, after config/finetune_tape.py): random 0.22 / 0.67 / 0.76, guided 0.23 / 0.68 / 0.80.
"""
dataset = 'pfam'
# Table 8a
embed_dim = 512
seq_len = 1024
n_layer = 16
qk_dim = 256
n_head = 8
v_dim = 1024
n_latent = 256  # attention type: cross-attention
mlp_ratio = 1  # the paper does not say; Perceiver IO's
# Table 8b
mask_ratio = 0.2 if mask == 'random' else 0.15
lr = 1e-4 if mask == 'random' else 3e-4
epochs = 10
batch_size = 256
weight_decay = 0.01
warmup_steps = 5000  # the authors' code

val_share = 0.002
test_share = 0.0
out_dir = f'out/protein/{mask}'
eval_interval = 5000
save_interval = 5000
