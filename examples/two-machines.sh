#!/usr/bin/env bash
# Two machines with 8 GPUs each. Change the two lines, then start it on both:
#   bash examples/two-machines.sh 0 HOST    on the machine HOST, whose port 29500 the other one reaches
#   bash examples/two-machines.sh 1 HOST    on the other one
recipe=recipe.yaml
out=/shared/runs/pets # a folder that both machines see

rank=$1 host=$2 port=${3:-29500} gpus=8
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120 # seconds from SIGTERM to SIGKILL
exec accelerate launch --quiet --multi_gpu --num_machines 2 --num_processes "$((2 * gpus))" \
    --machine_rank "$rank" --main_process_ip "$host" --main_process_port "$port" \
    -m distill_mtl "$recipe" --out "$out" --auto-resume
