"""
Molecules as SMILES bytes, a Transformer small enough for two CPU cores.

    python pretrain.py config/chemistry_cpu.py --dataset=molecules.smi

Any file of SMILES, one a line (.smi, .txt, also .gz or .xz). Two CPU cores: about six minutes.
The baseline: --mask=random. Expected: see Molecules in RESULTS.md.
"""
val_share = 0.002
test_share = 0.002
seq_len = 128
embed_dim = 128
n_layer = 4
qk_dim = 128
n_head = 4
v_dim = 128
mask_ratio = 0.3  # Table 9
n_query = 1
batch_size = 64
max_steps = 2000
lr = 5e-4
warmup_steps = 200
out_dir = f'out/chemistry_cpu/{mask}'
log_interval = 200
eval_interval = 1000
save_interval = 1000
