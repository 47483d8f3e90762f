"""
Molecules as SMILES bytes: Table 9 of the paper, its Transformer and masks, on GuacaMol.

    python pretrain.py config/chemistry.py                              or --mask=random, the baseline
    torchrun --nproc_per_node=8 pretrain.py config/chemistry.py
    python pretrain.py config/chemistry.py --dataset=molecules.smi      any molecules of yours

For GPUs: thirty passes over 1.6 million molecules. config/chemistry_cpu.py is the small one.
Expected: Table 2 of the paper, after config/finetune_moleculenet.py.
"""
dataset = 'guacamol'
# Table 9a
embed_dim = 768  # not printed; a Transformer's is its v_dim
seq_len = 256
n_layer = 12
qk_dim = 768
n_head = 12
v_dim = 768
n_latent = 0  # attention type: self-attention
mlp_ratio = 4
# Table 9b
mask_ratio = 0.3  # guided and random
lr = 1e-4
epochs = 30
batch_size = 128
weight_decay = 0.01
warmup_steps = 10_000  # the authors' code

out_dir = f'out/chemistry/{mask}'
eval_interval = 5000
save_interval = 5000
