#!/usr/bin/env bash
# What MAE pretraining is worth on CIFAR-10: `benches/cifar10.sh DATA OUT`, DATA with train/CLASS/*.jpg and test/CLASS/*.jpg.
# Pretrains a small ViT (patch 4) on all training images without labels, then finetunes and probes it with 1 %, 10 % and 100 % of
# the labels, each against random weights. The last lines are docs/results.md's table. About 40 minutes on two quiet cores.
set -euo pipefail
data=$1 out=$2
bin=${BIN:-target/release/examples}
common=(--data_path "$data" --precision bf16)
mkdir -p "$out"
[ -e "$out/pretrain/log.txt" ] || "$bin/mae_pretrain" "${common[@]}" --model mae_vit_mini_patch4 --norm_pix_loss --batch_size 128 \
    --epochs "${EPOCHS:-24}" --warmup_epochs 2 --blr 2e-3 --output_dir "$out/pretrain" 2> "$out/pretrain.log"
weights=$(ls "$out"/pretrain/checkpoint-*.safetensors | tail -1)
run() { # name, program, flags: the seed's table goes to its own file
    local name=$1 program=$2
    shift 2
    [ -s "$out/$name.txt" ] || "$bin/$program" "${common[@]}" --finetune "$weights" --compare --eval_every 1000 "$@" \
        --output_dir "$out/$name" > "$out/$name.part" 2> "$out/$name.log"
    [ -s "$out/$name.txt" ] || mv "$out/$name.part" "$out/$name.txt"
}
tune=(--layer_decay 0.85 --crop_scale 0.5 --aa "" --reprob 0 --blr 2e-3 --batch_size 64)
run finetune-1 mae_finetune "${tune[@]}" --labels 1% --epochs 50 --warmup_epochs 5 --save_every 50 --seeds 3
run finetune-10 mae_finetune "${tune[@]}" --labels 10% --epochs 20 --warmup_epochs 2 --save_every 20
run finetune-100 mae_finetune "${tune[@]}" --labels 100% --epochs 5 --warmup_epochs 1 --save_every 5
probe=(--cache_features --batch_size 128 --blr 4 --warmup_epochs 5 --global_pool)
run probe-1 mae_linprobe "${probe[@]}" --labels 1% --epochs 90 --save_every 90 --seeds 3
run probe-10 mae_linprobe "${probe[@]}" --labels 10% --epochs 90 --save_every 90
run probe-100 mae_linprobe "${probe[@]}" --labels 100% --epochs 30 --save_every 30
for name in finetune-1 finetune-10 finetune-100 probe-1 probe-10 probe-100; do
    echo "$name %"
    sed -n '/^top-1 in %/,$p' "$out/$name.txt"
done
