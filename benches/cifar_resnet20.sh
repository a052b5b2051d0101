#!/bin/sh
# resnet20 on CIFAR-10's JPEGs with the recipe of K. He et al. (arXiv 1512.03385), scaled to so many epochs.
# Usage: benches/cifar_resnet20.sh DATA [EPOCHS] [more flags of train], after `cargo build --release --example train`; the peer is
# benches/peers/cifar_resnet20.py.
set -e
data=$1
epochs=${2:-14}
shift
[ $# -gt 0 ] && shift
"${BIN:-target/release/examples}/train" "$data" --val_split test --model resnet20 -b 128 --opt momentum --lr 0.1 --weight_decay 1e-4 \
    --sched MultiStepLR --decay_milestones $((epochs / 2)) $((epochs * 3 / 4)) --decay_rate 0.1 --epochs "$epochs" \
    --crop_padding 4 --color_jitter 0 --smoothing 0 --log_interval 390 "$@"
