"""
Pre-training on molecules as SMILES bytes, with a small Transformer.

    python pretrain.py config/chemistry_cpu.py --dataset=molecules.smi                  guided masks
    python pretrain.py config/chemistry_cpu.py --dataset=molecules.smi --mask=random    the baseline

The file has one SMILES string per line (.smi or .txt, also with .gz or .xz).
For two CPU cores: about six minutes.
Expected: "Molecules" in docs/RESULTS.md has the scores of longer runs (--max_steps=6000).
"""
val_share = 0.002
test_share = 0.002
seq_len = 128
embed_dim = 128
n_layer = 4
qk_dim = 128
n_head = 4
v_dim = 128
mask_ratio = 0.3  # Table 9b
n_query = 1
batch_size = 64
max_steps = 2000
lr = 5e-4
warmup_steps = 200
out_dir = f'out/chemistry_cpu/{mask}'
log_interval = 200
eval_interval = 1000
save_interval = 1000
