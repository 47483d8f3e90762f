"""
Fine-tuning on TAPE: properties of proteins, predicted from their residues. Settings of Table 8c of the paper.

    python finetune.py config/finetune_tape.py                        remote_homology, after config/protein.py
    python finetune.py config/finetune_tape.py --task=fluorescence
    python finetune.py config/finetune_tape.py --task=stability

For GPUs. The time has not been measured.
Memory: at most 9 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
Expected (paper, Table 1):

                remote_homology   fluorescence   stability
                       accuracy       Spearman    Spearman
    scratch                0.10           0.60        0.66
    random                 0.22           0.67        0.76
    guided                 0.23           0.68        0.80
"""
task = task or 'remote_homology'  # the value of --task, if there is one
dataset = task
# Table 8c
weight_decay = 0.01
lr = (1e-4, 5e-5)  # the one with the better validation score is kept
epochs = 30
batch_size = 64  # the table has {64, 128, 512}, and does not say which task has which
# not in the table: the authors' code
warmup_steps = 1000
drop_path = 0.1 if task == 'remote_homology' else 0.0

# what to start from, and output
init_from = ('scratch', 'out/protein')
out_dir = f'out/finetune_{task}'
