"""
Pre-training on simulated collider events. These are the defaults of pretrain.py, so that the quick start has a
config to name.

    python pretrain.py config/collider.py                               guided masks
    python pretrain.py config/collider.py --mask=random                 the baseline

For two CPU cores: about a minute for each command.
Expected: the table under "Quick start" in README.md, after config/finetune_collider.py.
"""
dataset = 'collider'
