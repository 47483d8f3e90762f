"""
1,000 labelled drawings of digits: from scratch, and from the runs that config/glyphs.py left in out/glyphs.

    python finetune.py config/finetune_glyphs.py
    python finetune.py config/finetune_glyphs.py --n_train=300

Two CPU cores: see the quick start in README.md, which has the expected scores too.
"""
dataset = 'glyphs'
val_share = 0.1
n_train = 1000
batch_size = 64
max_steps = 300
eval_interval = 60
