"""
1,000 labelled collider events: from scratch, and from the runs that config/collider.py left in out/collider.

    python finetune.py config/finetune_collider.py
    python finetune.py config/finetune_collider.py --n_train=100 --batch_size=32 --seeds=0,1,2,3,4

Two CPU cores: about forty seconds for each row of the table. Expected: the quick start's table in README.md.
"""
dataset = 'collider'
n_train = 1000
epochs = 40  # 280 steps, for a quick start
eval_interval = 28
