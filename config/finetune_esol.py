"""
Fine-tuning on ESOL: the solubility of 1,128 molecules, predicted from SMILES bytes.

    python finetune.py config/finetune_esol.py --dataset=delaney-processed.csv

The file is MoleculeNet's delaney-processed.csv. The pre-trained models are those of config/chemistry_cpu.py.
For two CPU cores: about ten minutes.
Expected: no published score exists for this split. It is a random split (80 / 10 / 10 %), and the paper uses a
scaffold split. So do not compare with Table 2 of the paper, nor with "Molecules" in docs/RESULTS.md.
"""
input_column = 'smiles'
label_column = 'measured log solubility in mols per litre'
val_share = 0.1
test_share = 0.1
init_from = ('scratch', 'out/chemistry_cpu')
batch_size = 32
epochs = 30
lr = 5e-4
warmup_steps = 50
dropout = 0.1
out_dir = 'out/finetune_esol'
