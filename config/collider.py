"""
Pre-training on simulated collider events. These are the defaults of pretrain.py.

    python pretrain.py config/collider.py                               guided masks
    python pretrain.py config/collider.py --mask=random                 the baseline

For two CPU cores: about a minute for each command.
Expected: the row "collider" under "No harm by default" in docs/RESULTS.md, after config/finetune_collider.py.
"""
dataset = 'collider'
