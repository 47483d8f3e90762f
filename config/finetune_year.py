"""
The year of a song, from 90 numbers about its sound: appendix A of the paper, which prints no settings for it;
those of Table 10c.

    python finetune.py config/finetune_year.py                          after config/year.py

For a GPU. Expected RMSE (paper, Table 6): scratch 8.809, random 8.762, guided 8.695.
"""
dataset = 'year'
norm = 'quantile'  # as Gorishniy et al. 2021 treat this table
val_share = 0.2  # of the first 463,715 rows: the 92,743 of theirs in number
weight_decay = 1e-5
lr = 3e-5
epochs = 100
batch_size = 128
min_lr = 3e-5  # constant
warmup_steps = 0
dropout = 0.1
drop_path = 0.1

init_from = ('scratch', 'out/year')
