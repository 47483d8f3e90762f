"""
Pre-training on proteins as bytes, with a small Perceiver.

    python pretrain.py config/protein_cpu.py --dataset=proteins.fasta                   guided masks
    python pretrain.py config/protein_cpu.py --dataset=proteins.fasta --mask=random     the baseline

The file is FASTA, or has one sequence per line (also with .gz or .xz).
For two CPU cores: about four minutes.
Expected: a loss on random masks near 2.86 after 4,000 steps with --mask=random; a model that knows only how
frequent each residue is has 2.92. "No harm by default" in docs/RESULTS.md has scores.
"""
val_share = 0.01
test_share = 0.01
seq_len = 512
embed_dim = 64
n_layer = 4
qk_dim = 64
n_head = 4
v_dim = 128
n_latent = 64
mask_ratio = 0.2 if mask == 'random' else 0.15  # Table 8b
n_query = 4
batch_size = 32
max_steps = 2000
lr = 5e-4
warmup_steps = 200
out_dir = f'out/protein_cpu/{mask}'
log_interval = 100
eval_interval = 500
save_interval = 500
