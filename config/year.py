"""
Pre-training on YearPredictionMSD: the year of a song from 90 numbers about its sound (appendix A of the paper).

    python pretrain.py config/year.py                                   guided masks
    python pretrain.py config/year.py --mask=random                     the baseline

The paper prints no sizes for this data set. These are the ones of its other table, HIGGS (Table 10).
For a GPU: 50 passes over 370,972 songs. The time has not been measured.
Memory: at most 0.5 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
Expected RMSE (paper, Table 6, after config/finetune_year.py): scratch 8.809, random 8.762, guided 8.695.
"""
dataset = 'year'
norm = 'quantile'  # as Gorishniy et al. 2021 treat this table
val_share = 0.2  # 92,743 of the first 463,715 rows, as many as Gorishniy et al. 2021 use
# Table 10a
embed_dim = 128  # in a Transformer it must equal v_dim
seq_len = 90  # the columns of this table
n_layer = 4
qk_dim = 128
n_head = 8
v_dim = 128
n_latent = 0  # a Transformer ("self-attention")
# Table 10b
mask_ratio = 0.5 if mask == 'random' else 0.2
mask_anneal = 0.0  # as printed in the paper
lr = 1e-4
epochs = 50
batch_size = 256
weight_decay = 0.01
warmup_steps = 10_000  # as in config/higgs.py: the authors' code

# output
out_dir = f'out/year/{mask}'
eval_interval = 5000
save_interval = 5000
