"""
Collider events, simulated on the spot: the defaults of pretrain.py, by name.

    python pretrain.py config/collider.py                   guided masks
    python pretrain.py config/collider.py --mask=random     the baseline

Two CPU cores: about a minute each. Expected: see the quick start in README.md.
"""
dataset = 'collider'
