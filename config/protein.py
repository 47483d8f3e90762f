"""
Pre-training on proteins as bytes: Pfam, with the Perceiver and masks of Table 8 of the paper.

    python pretrain.py config/protein.py                                guided masks
    python pretrain.py config/protein.py --mask=random                  the baseline
    torchrun --nproc_per_node=8 pretrain.py config/protein.py           8 GPUs
    python pretrain.py config/protein.py --dataset=proteins.fasta       your own file of sequences

For GPUs: ten passes over 34 million sequences. The time has not been measured.
Memory: at most 31 GB for a step of this batch on one GPU. Fits GPUs of 40 and 80 GB.
For two CPU cores take config/protein_cpu.py.
Expected (paper, Table 1, after config/finetune_tape.py with remote_homology / fluorescence / stability):
random 0.22 / 0.67 / 0.76, guided 0.23 / 0.68 / 0.80.
"""
dataset = 'pfam'
# Table 8a
embed_dim = 512
seq_len = 1024
n_layer = 16
qk_dim = 256
n_head = 8
v_dim = 1024
n_latent = 256  # a Perceiver ("cross-attention")
mlp_ratio = 1  # not in the table; Perceiver IO has 1
# Table 8b
mask_ratio = 0.2 if mask == 'random' else 0.15
mask_anneal = 0.0  # guided masks from the first step, as the paper has them
lr = 1e-4 if mask == 'random' else 3e-4
epochs = 10
batch_size = 256
weight_decay = 0.01
warmup_steps = 5000  # not in the table: the authors' code

# splits and output
val_share = 0.002
test_share = 0.0
out_dir = f'out/protein/{mask}'
eval_interval = 5000
save_interval = 5000
