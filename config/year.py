"""
The year of a song from 90 numbers about its sound (YearPredictionMSD): appendix A of the paper, which prints
no sizes for it; those of Table 10, the other table.

    python pretrain.py config/year.py                                   or --mask=random, the baseline

For a GPU. Expected (paper, Table 6, RMSE, after config/finetune_year.py):
random 8.762, guided 8.695, scratch 8.809.
"""
dataset = 'year'
norm = 'quantile'  # as Gorishniy et al. 2021 treat this table
val_share = 0.2  # of the first 463,715 rows: the 92,743 of theirs in number
# Table 10a
embed_dim = 128
seq_len = 90
n_layer = 4
qk_dim = 128
n_head = 8
v_dim = 128
n_latent = 0
# Table 10b
mask_ratio = 0.5 if mask == 'random' else 0.2
mask_anneal = 0.0  # the paper
lr = 1e-4
epochs = 50
batch_size = 256
weight_decay = 0.01
warmup_steps = 10_000

out_dir = f'out/year/{mask}'
eval_interval = 5000
save_interval = 5000
