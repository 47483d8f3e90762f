"""
1,000 labelled collider events, from scratch and from both pre-trained models: the defaults of finetune.py, by name.

    python finetune.py config/finetune_collider.py

Two CPU cores: about two minutes. Expected: the table of the quick start in README.md.
"""
dataset = 'collider'
n_train = 1000
init_from = ('scratch', 'out/collider/random', 'out/collider/guided')
out_dir = 'out/finetune_collider'
