"""
Signal or background: HIGGS with few labels, and HIGGS-small with all of its own. Table 10c of the paper.

    python finetune.py config/finetune_higgs.py                         1,000 labels, after config/higgs.py
    python finetune.py config/finetune_higgs.py --n_train=10000         or 100000
    python finetune.py config/finetune_higgs.py --task=higgs_small      after config/higgs_small.py
    python finetune.py config/finetune_higgs.py --task=higgs_small --dataset=a.npz --val_file=v.npz

For a GPU. Expected accuracy (paper, Table 3): scratch 65.27 / 70.86 / 74.05 % with 1k / 10k / 100k labels and
72.7 % on HIGGS-small; random 68.07 / 72.57 / 76.54 and 74.0; guided 69.47 / 74.04 / 77.88 and 74.8.
"""
task = task or 'higgs'  # a config sees the command line
dataset = task
metric = 'accuracy'
norm = 'quantile' if task == 'higgs_small' else 'standard'  # of scratch
n_train = None if task == 'higgs_small' else 1000
# Table 10c
weight_decay = 1e-5
lr = 3e-5
epochs = 100
batch_size = 128
# the authors' code
min_lr = 3e-5  # constant
warmup_steps = 0
dropout = 0.1
drop_path = 0.1

init_from = ('scratch', f'out/{task}')
out_dir = f'out/finetune_{task}'
