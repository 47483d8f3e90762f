"""
Pre-training on molecules as SMILES bytes: GuacaMol, with the Transformer and masks of Table 9 of the paper.

    python pretrain.py config/chemistry.py                              guided masks
    python pretrain.py config/chemistry.py --mask=random                the baseline
    torchrun --nproc_per_node=8 pretrain.py config/chemistry.py         8 GPUs
    python pretrain.py config/chemistry.py --dataset=molecules.smi      your own file of molecules

For GPUs: 30 passes over 1.6 million molecules. The time has not been measured.
Memory: at most 11 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
For two CPU cores take config/chemistry_cpu.py.
Expected: Table 2 of the paper, after fine-tuning with config/finetune_moleculenet.py, which lists the scores.
"""
dataset = 'guacamol'
# Table 9a
embed_dim = 768  # not in the table; in a Transformer it must equal v_dim
seq_len = 256
n_layer = 12
qk_dim = 768
n_head = 12
v_dim = 768
n_latent = 0  # a Transformer ("self-attention")
mlp_ratio = 4  # not in the table
# Table 9b
mask_ratio = 0.3  # for guided and random masks
mask_anneal = 0.0  # guided masks from the first step, as the paper has them
lr = 1e-4
epochs = 30
batch_size = 128
weight_decay = 0.01
warmup_steps = 10_000  # not in the table: the authors' code

# output
out_dir = f'out/chemistry/{mask}'
eval_interval = 5000
save_interval = 5000
