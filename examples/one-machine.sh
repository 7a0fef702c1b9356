#!/usr/bin/env bash
# One machine with 8 GPUs. Change the two lines, then: bash examples/one-machine.sh
recipe=recipe.yaml
out=runs/pets

gpus=8
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120 # seconds from SIGTERM to SIGKILL
exec accelerate launch --quiet --multi_gpu --num_machines 1 --num_processes "$gpus" --main_process_port 0 \
    -m distill_mtl "$recipe" --out "$out" --auto-resume
