"""
Fine-tuning on MoleculeNet: properties of molecules, predicted from SMILES bytes. Settings of Table 9c.

    python finetune.py config/finetune_moleculenet.py                   BBBP, after config/chemistry.py
    python finetune.py config/finetune_moleculenet.py --task=esol       or bace, hiv, freesolv, lipo

For a GPU. The time has not been measured.
Memory: at most 5 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
The split is DeepChem's scaffold split. It gives one split, and the paper averages over three.
Expected (paper, Table 2):

                ROC-AUC                     RMSE
                bbbp     bace     hiv       esol   freesolv    lipo
    scratch    0.694    0.763   0.730      0.877       1.58   0.962
    random     0.723    0.798   0.765      0.642       1.22   0.631
    guided     0.750    0.843   0.789      0.623       1.09   0.609
"""
task = task or 'bbbp'  # the value of --task, if there is one
dataset = task
# Table 9c
weight_decay = 0.01
lr = 1e-4 if task in ('esol', 'bbbp', 'freesolv') else 3e-5  # which task has which: the authors' code
epochs = 30
batch_size = 32
# not in the table: the authors' code
warmup_steps = 50
dropout = 0.1

# what to start from, and output
init_from = ('scratch', 'out/chemistry')
out_dir = f'out/finetune_{task}'
