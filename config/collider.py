"""
Collider events, simulated on the spot: the defaults of pretrain.py, by name.

    python pretrain.py config/collider.py           random masks, then guided ones

Two CPU cores: about a minute for each mask. Expected: see the quick start in README.md.
"""
dataset = 'collider'
out_dir = 'out/collider'
