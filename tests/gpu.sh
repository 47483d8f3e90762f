#!/bin/sh
# Everything that wants a GPU, the most valuable first, in under 25 minutes; what it prints goes to RESULTS.md.
#
#     sh tests/gpu.sh                    all of it; each part keeps to its minutes: 7, 10 and 7.5
#     SMALL=1 sh tests/gpu.sh            a trial of the whole on a CPU, in some minutes
#     THEIRS=sma/src sh tests/gpu.sh 2   one part; the authors' code beside ours (see util/bench.py)
#     HIGGS="--dataset=train.csv --label_column=label --val_file=val.csv --test_file=test.csv" sh tests/gpu.sh 3
#
# Part 3 takes the rows of HIGGS, else those of `python data.py higgs_small`. It is long: each call goes on
# where the last one ended, until pre-training says `wrote`; from then on call it with PRETRAIN=1 TUNE=440,
# until there is a table. FAST=--compile=reduce-overhead, if part 2 finds that faster.
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH=. PYTHONUNBUFFERED=1
out=${OUT:-out/gpu}
parts=${*:-1 2 3}
mkdir -p "$out"

part() { # part NUMBER SECONDS: whether it is asked for; from now on it has so long
    end=$(($(date +%s) + $2))
    case " $parts " in *" $1 "*) return 0 ;; esac; return 1
}
# limit SECONDS COMMAND..: ends it as Ctrl-C does, which saves a run, and goes on whatever becomes of it
limit() {
    began=$(date +%s) seconds=$1; shift
    [ "$seconds" -lt $((end - began)) ] || seconds=$((end - began))
    echo; echo "## $*"
    [ "$seconds" -gt 5 ] || { echo '## no time is left for it'; return; }
    timeout -s INT -k 20 "$seconds" "$@" 2>&1; status=$?
    echo "## status $status after $(($(date +%s) - began)) of $seconds s"
}

configs='higgs protein chemistry imagenet100 text' graphs='higgs chemistry'
bench="--out=$out/bench.jsonl" tests='' attention='' tiny='' tune=''
if [ -n "$SMALL" ]; then
    configs=higgs graphs='' bench="$bench --rounds=1 --batch_size=4 --device=cpu"
    tests=tests/test_masking.py attention=64 tune='--max_steps=20 --batch_size=16 --device=cpu'
    tiny='--embed_dim=16 --v_dim=16 --qk_dim=16 --n_head=2 --n_layer=2 --batch_size=16 --device=cpu'
fi

# stand-ins: byte sequences of many lengths, and for the trial events in the form of HIGGS
python - "$out" <<'END'
import sys
import numpy as np
from util.collider import HIGGS_COLUMNS
rng, out = np.random.default_rng(0), sys.argv[1]
with open(f'{out}/lines.txt', 'wb') as f:
    f.writelines(rng.integers(65, 91, n, np.uint8).tobytes() + b'\n' for n in rng.integers(20, 250, 20_000))
x = rng.normal(size=(400, 28))
np.savetxt(f'{out}/events.csv', np.column_stack([x, x.sum(1) > 0]), delimiter=',', fmt='%.5g', comments='',
           header=','.join([*HIGGS_COLUMNS, 'label']))
END
if [ -n "$SMALL" ] && [ -z "$HIGGS" ]; then
    shares="--val_share=0.2 --test_share=0.2"
    HIGGS="--dataset=$out/events.csv --label_column=label --data_dir=$out/datasets $shares"
fi

date
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
python -c 'import torch as t
print("torch", t.__version__, "cuda", t.version.cuda, "cudnn", t.backends.cudnn.version())'

if part 1 420; then
    limit 90 python -m pytest -q -rs -k cuda -m "slow or not slow" tests
    limit 240 python -m pytest -q $tests
    limit 150 python tests/attention.py $attention
fi

if part 2 600; then
    files=$(for name in $configs; do echo "config/$name.py"; done)
    limit 120 python -m util.bench $files $bench --compile=false
    for n_latent in 0 64; do # of a program made anew no line may speak after the first step
        limit 120 env TORCH_LOGS=recompiles,graph_breaks python pretrain.py --dataset="$out/lines.txt" \
            --compile=true --n_latent=$n_latent --max_steps=60 --log_interval=10 --data_dir="$out/datasets" \
            --out_dir="$out/lines$n_latent" $tiny | grep 'step \|__recompiles\|__graph_breaks\|##\|rror'
    done
    for name in $graphs; do
        limit 120 python -m util.bench "config/$name.py" $bench --compile=reduce-overhead
    done
    for name in $configs; do
        limit 180 python -m util.bench "config/$name.py" $bench --compile=true
        [ -z "$THEIRS" ] || limit 60 python -m util.bench "config/$name.py" $bench --compile=false \
            --theirs="$THEIRS"
    done
fi

if part 3 450; then # HIGGS-small at Table 10 in full; the paper: random 74.0 %, guided 74.8 %, none 72.7 %
    for mask in guided random; do
        limit "${PRETRAIN:-145}" python pretrain.py config/higgs_small.py $HIGGS --mask=$mask \
            --mask_anneal=0.25 --log_interval=2000 --out_dir="$out/higgs_small/$mask" --resume $FAST \
            $tiny ${tiny:+--max_steps=200}
    done
    limit "${TUNE:-150}" python finetune.py config/finetune_higgs.py --task=higgs_small $HIGGS --resume \
        --seeds=0,1,2 --init_from="scratch,$out/higgs_small" --out_dir="$out/finetune_higgs_small" $tune
fi
date
