#!/usr/bin/env bash
# Train the large networks of CIFAR-10 (JPEG) on one GPU, then test DiffPure and AGDM with them and write one report.
# Usage: configs/studies/cifar10/train/large/all.sh [IMAGES [MINUTES]]    the folder of images, and minutes for the denoiser
# A network whose weights exist is not trained again, and an interrupted training goes on from its checkpoint.
# AGDM keeps the guidance scale of the small networks; choose one on held-out images as agdm-scale.study.yaml does.
set -euo pipefail
images=${1:-~/data/cifar10-jpeg} minutes=${2:-480}
runs=runs/studies/cifar10-large presets=studies/cifar10/train/large

train() { # NAME [ARGUMENT …]
  local name=$1 resume=()
  shift
  [ -e "$runs/$name.safetensors" ] && return
  [ -e "$runs/$name/last.ckpt" ] && resume=(--ckpt_path "$runs/$name/last.ckpt")
  robust-diffusion fit -c "$presets/$name" --data.init_args.root "$images" --trainer.precision bf16-mixed "${resume[@]}" "$@"
}
train classifier
train adversarial
train guidance
train denoiser --trainer.max_time "00:$(printf '%02d:%02d' $((minutes / 60)) $((minutes % 60))):00"

weights=(   # in place of the bundled ones
  --model.init_args.classifier load_classifier --model.init_args.classifier.init_args.path "$runs/classifier.safetensors"
  --model.init_args.purifier.init_args.denoiser load_denoiser
  --model.init_args.purifier.init_args.denoiser.init_args.path "$runs/denoiser.safetensors"
)
for defence in diffpure agdm; do
  guidance=()
  [ "$defence" = agdm ] && guidance=(--model.init_args.purifier.init_args.guidance.init_args.network load_network
    --model.init_args.purifier.init_args.guidance.init_args.network.init_args.path "$runs/guidance.safetensors")
  robust-diffusion test -c "studies/cifar10/$defence" --data.init_args.root "$images" "${weights[@]}" "${guidance[@]}" \
    --model.init_args.records "$runs/tests/$defence"
done
robust-diffusion report "$runs/tests"
