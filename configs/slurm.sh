#!/bin/sh
# Train on two machines of a Slurm cluster with four GPUs each, from a project folder that both see:
#   sbatch --wait configs/slurm.sh && .venv/bin/dvc commit --force train && .venv/bin/dvc repro
# torchrun starts one process per GPU; `dvc commit` records what they wrote.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun stages/python -m torch.distributed.run --nnodes="$SLURM_NNODES" --nproc-per-node=4 \
    --rdzv-backend=c10d --rdzv-endpoint="$first:29500" --rdzv-id="$SLURM_JOB_ID" \
    --module stages.train
