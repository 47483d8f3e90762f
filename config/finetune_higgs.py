"""
Fine-tuning to tell signal from background: HIGGS with few labels, or HIGGS-small. Settings of Table 10c.

    python finetune.py config/finetune_higgs.py                         1,000 labels, after config/higgs.py
    python finetune.py config/finetune_higgs.py --n_train=10000         or 100000
    python finetune.py config/finetune_higgs.py --task=higgs_small      all labels, after config/higgs_small.py
    python finetune.py config/finetune_higgs.py --task=higgs_small --dataset=a.npz --val_file=v.npz

For a GPU. The time has not been measured.
Memory: at most 0.2 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
Expected (paper, Table 3, accuracy in %):

                       HIGGS, labels:               HIGGS-small,
                1,000    10,000    100,000           all labels
    scratch     65.27     70.86      74.05                 72.7
    random      68.07     72.57      76.54                 74.0
    guided      69.47     74.04      77.88                 74.8
"""
task = task or 'higgs'  # the value of --task, if there is one
dataset = task
metric = 'accuracy'
norm = 'quantile' if task == 'higgs_small' else 'standard'  # for scratch; a checkpoint has its own
n_train = None if task == 'higgs_small' else 1000
# Table 10c
weight_decay = 1e-5
lr = 3e-5
epochs = 100
batch_size = 128
# not in the table: the authors' code
min_lr = 3e-5  # as lr, so the learning rate is constant
warmup_steps = 0
dropout = 0.1
drop_path = 0.1

# what to start from, and output
init_from = ('scratch', f'out/{task}')
out_dir = f'out/finetune_{task}'
