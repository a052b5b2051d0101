#!/usr/bin/env bash
# resnet56 pruned at three rates and finetuned for some epochs, beside the whole network finetuned for as long: the table in docs/results.md.
#
#   benches/cifar_prune.sh DATA WEIGHTS OUT [EPOCHS]
#
# DATA holds CIFAR-10 as class folders in train and test, WEIGHTS is akamaster's resnet56.
set -euo pipefail
data=$1 weights=$2 out=$3 epochs=${4:-1}
cargo build --release --quiet --example prune --example train
bin=${CARGO_TARGET_DIR:-target}/release/examples
flags=(--epochs "$epochs" --batch_size 128 --lr 0.02 --sched cosine --warmup_epochs 0 --scale 0.5 1 --seed 1 --output "$out")
"$bin/train" "$data" --model resnet56 --weights "$weights" --defaults hrank "${flags[@]}" --experiment whole
for rates in '[0.]+[0.18]*29' '[0.]+[0.15]*2+[0.4]*27' '[0.]+[0.3]*2+[0.6]*27'; do
    "$bin/prune" "$data" --model resnet56 --weights "$weights" --compress_rate "$rates" "${flags[@]}" --experiment "$rates"
done
# Times on a machine that does nothing else.
for rates in '[0.]+[0.18]*29' '[0.]+[0.15]*2+[0.4]*27' '[0.]+[0.3]*2+[0.6]*27'; do
    echo "$rates"
    cat "$out/$rates/prune.md"
    "$bin/prune" "$data" --weights "$(ls "$out/$rates"/checkpoint-*.safetensors | tail -n 1)" --test_only --output "$out" 2>/dev/null
done
