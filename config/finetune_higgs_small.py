"""
Signal or background on HIGGS-small: Table 10 of the paper, right-hand column.

    python finetune.py config/finetune_higgs_small.py --dataset=train.npz --valid_file=val.npz --test_file=test.npz

Expected (paper, Table 3b, accuracy on the test rows): scratch 72.7 %, random 74.0 %, guided 74.8 %.
"""
target = 'binary'
metric = 'accuracy'
norm = 'quantile'
n_train = None
init_from = ('scratch', 'out/higgs_small/random', 'out/higgs_small/guided')
lr = 3e-5
min_lr = 3e-5  # constant
warmup_steps = 0
epochs = 100
batch_size = 128
weight_decay = 1e-5
dropout = 0.1
drop_path = 0.1
# what `scratch` looks like when no checkpoint is named
embed_dim = 128
n_layer = 4
qk_dim = 128
n_head = 8
v_dim = 128

out_dir = 'out/finetune_higgs_small'
eval_interval = None  # an epoch
