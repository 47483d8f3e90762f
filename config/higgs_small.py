"""
Particle physics, the HIGGS-small split: Table 10 of the paper, its Transformer and both kinds of masks.

    python pretrain.py config/higgs_small.py --dataset=train.npz --valid_file=X_val.npy,y_val.npy --test_file=X_test.npy,y_test.npy

Files: 28 columns in the order of UCI HIGGS, as .npz (X, y), .npy pairs, or .csv. The full 800 epochs are for a GPU;
the short run on two CPU cores in README.md overrides epochs and the width.
Expected (paper, Table 3b, after fine-tuning on all labels): random 74.0 %, guided 74.8 %.
"""
norm = 'quantile'  # as Gorishniy et al. 2021 treat this table
# Table 10a
embed_dim = 128
seq_len = 28
n_layer = 4
qk_dim = 128
n_head = 8
v_dim = 128
n_latent = 0
# Table 10b
mask = ('random', 'guided')
mask_ratio = (0.5, 0.2)
lr = 1e-4
epochs = 800  # footnote 6
batch_size = 256
weight_decay = 0.01
warmup_steps = 10_000  # reference notes

out_dir = 'out/higgs_small'
eval_interval = 2000
save_interval = 2000
