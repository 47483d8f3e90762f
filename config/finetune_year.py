"""
Fine-tuning to predict the year of a song from 90 numbers about its sound (appendix A of the paper).

    python finetune.py config/finetune_year.py                          after config/year.py

The paper prints no settings for this data set. These are the ones for HIGGS (Table 10c).
For a GPU. The time has not been measured.
Memory: at most 0.4 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
Expected RMSE (paper, Table 6): scratch 8.809, random 8.762, guided 8.695.
"""
dataset = 'year'
norm = 'quantile'  # as Gorishniy et al. 2021 treat this table
val_share = 0.2  # 92,743 of the first 463,715 rows, as many as Gorishniy et al. 2021 use
# Table 10c
weight_decay = 1e-5
lr = 3e-5
epochs = 100
batch_size = 128
# as in config/finetune_higgs.py: the authors' code
min_lr = 3e-5  # as lr, so the learning rate is constant
warmup_steps = 0
dropout = 0.1
drop_path = 0.1

# what to start from
init_from = ('scratch', 'out/year')
