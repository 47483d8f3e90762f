"""
Fine-tuning on 1,000 labelled collider events, from scratch and from the runs of config/collider.py.

    python finetune.py config/finetune_collider.py
    python finetune.py config/finetune_collider.py --n_train=100 --batch_size=32 --seeds=0,1,2,3,4

It starts from scratch and from each run that it finds in out/collider.
For two CPU cores: about 40 seconds for each row of the table.
Expected: the row "collider" under "No harm by default" in docs/RESULTS.md.
"""
dataset = 'collider'
n_train = 1000
epochs = 40  # 280 steps
eval_interval = 28
