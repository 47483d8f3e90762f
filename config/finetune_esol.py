"""
ESOL: the solubility of 1,128 molecules, a regression on SMILES bytes, after config/chemistry_cpu.py.

    python finetune.py config/finetune_esol.py --dataset=delaney-processed.csv

The file is MoleculeNet's delaney-processed.csv. Splits are random shares here (80/10/10), not the paper's
scaffolds: scores are not to be compared with Table 2, nor with those under Molecules in RESULTS.md. Two CPU
cores: about ten minutes.
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
