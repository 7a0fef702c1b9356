#!/usr/bin/env bash
# torchrun, elastic: 1 to 4 machines with 8 GPUs each. Change the two lines, then start it on every machine:
#   bash examples/torchrun.sh HOST:29400    HOST is one of them, the same for all
# After a crash of a process, or when a machine leaves, all that remain start again from the last checkpoint.
recipe=recipe.yaml
out=/shared/runs/pets # a folder that all machines see

machines=1:4 gpus=8 host=${1:-localhost:29400}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120 # seconds from SIGTERM to SIGKILL
if [ -z "$TORCHELASTIC_RUN_ID" ]; then
    exec torchrun --nnodes "$machines" --nproc-per-node "$gpus" --max-restarts 3 \
        --rdzv-backend c10d --rdzv-endpoint "$host" --rdzv-id distill --no-python bash "$0"
fi
# From here on: one of the processes, at every start and restart.
exec python -m distill_mtl "$recipe" --out "$out" --auto-resume
