#!/usr/bin/env bash
# Ways to train on a fine-grained problem, CIFAR-10's four-footed classes: `benches/four_classes.sh DATA WEIGHTS OUT`, DATA with
# train/CLASS/*.jpg and test/CLASS/*.jpg, WEIGHTS akamaster's resnet20. A small ViT is pretrained as a masked autoencoder on the four classes'
# training images without their labels; then head, last layers, LoRA and everything are trained for EPOCHS epochs (3) with three seeds.
set -euo pipefail
data=$(realpath "$1") weights=$(realpath "$2") out=$3
bin=${BIN:-target/release/examples}
for part in train test; do
    mkdir -p "$out/four/$part"
    for class in cat deer dog horse; do ln -sfn "$data/$part/$class" "$out/four/$part/$class"; done
done
[ -e "$out/pretrain/done" ] || "$bin/mae_pretrain" --data_path "$out/four" --model mae_vit_mini_patch4 --norm_pix_loss --batch_size 128 \
    --precision "${PRECISION:-bf16}" --epochs "${PRETRAIN:-24}" --warmup_epochs 2 --blr 2e-3 --output_dir "$out/pretrain" > "$out/pretrain.log" 2>&1
touch "$out/pretrain/done"
mae=$(ls "$out"/pretrain/checkpoint-*.safetensors | tail -1)
cat > "$out/four.toml" <<TOML
data = "$out/four"
output = "$out/runs"
seeds = 3
epochs = ${EPOCHS:-3}
sched = "cosine"
warmup_epochs = 0
cooldown_epochs = 0
batch_size = 64
precision = "${PRECISION:-bf16}"
input_size = [3, 32, 32]
crop_pct = 1.0
scale = [0.6, 1.0]
color_jitter = [0.0]

[[methods]]
name = "resnet20 head"
model = "resnet20"
initial_checkpoint = "$weights"
trained = "head"
lr = 0.05

[[methods]]
name = "resnet20 last stage"
model = "resnet20"
initial_checkpoint = "$weights"
trained = "last(1)"
lr = 0.02

[[methods]]
name = "resnet20 LoRA"
model = "resnet20"
initial_checkpoint = "$weights"
lora = "conv1,conv2"
lora_r = 8
lora_alpha = 16
lr = 0.02

[[methods]]
name = "resnet20 all"
model = "resnet20"
initial_checkpoint = "$weights"
lr = 0.02

[[methods]]
name = "resnet20 parts"
model = "ntsnet_resnet20"
initial_checkpoint = "$weights"
lr = 0.01

[[methods]]
name = "ViT head"
model = "vit_mini_patch4"
initial_checkpoint = "$mae"
trained = "head"
opt = "adamw"
lr = 0.005

[[methods]]
name = "ViT attention"
model = "vit_mini_patch4"
initial_checkpoint = "$mae"
trained = "attn_only"
opt = "adamw"
lr = 0.001

[[methods]]
name = "ViT LoRA"
model = "vit_mini_patch4"
initial_checkpoint = "$mae"
lora = "q,k,v,o,fc1,fc2"
lora_r = 8
lora_alpha = 16
opt = "adamw"
lr = 0.003

[[methods]]
name = "ViT all"
model = "vit_mini_patch4"
initial_checkpoint = "$mae"
opt = "adamw"
lr = 0.001
layer_decay = 0.75
TOML
"$bin/finegrained" --config "$out/four.toml" 2> "$out/runs.log"
