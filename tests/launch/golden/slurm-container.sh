#!/bin/bash
#SBATCH --job-name=runs-3b
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --chdir=/home/me/mm1
#SBATCH --output=/data/runs/3b/logs/%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@390
#
# --ntasks-per-node=1: torchrun is the one task of a node and starts its ranks
# --open-mode=append:  a job that was queued again goes on in the same log
# --requeue:           Slurm queues it again after a node has failed, or it was preempted
# --signal:            ahead of the time limit, this script hears of it, saves and queues itself again

set -u
run=/data/runs/3b
job=$SLURM_JOB_ID
node='batch'
logs=$run/logs/$job
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
mkdir -p "$logs" || exit 1
export run job logs head port

newest_checkpoint() { find "$run/checkpoints" -maxdepth 1 -name 'step-*[0-9]' 2> /dev/null | sort | tail -n 1; }
first_checkpoint=$(newest_checkpoint)
# Is the job to be started again? Exit code 75: yes. 2 or 3: it would make the same mistake, or
# diverge, again. 1: it has failed too often in a row without a new checkpoint.
verdict() {
  [ "$code" = 0 ] && return 0
  final=$(cat "$logs"/exit-code-* 2> /dev/null | head -n 1)
  [ -n "$final" ] && return "$final"
  [ -n "$told" ] && return 75
  if [ "$(newest_checkpoint)" != "$first_checkpoint" ]; then
    rm -f "$logs/failures-$node"
    return 75
  fi
  echo "$code" >> "$logs/failures-$node"
  [ "$(wc -l < "$logs/failures-$node")" -le 3 ] && return 75
  echo "mm1: failed 4 times in a row without a new checkpoint; see $logs" >&2
  return 1
}

# On each node:
on_node=$(cat << 'END'
node=$SLURM_NODEID address=$(hostname)

export PYTHONUNBUFFERED=1 # a line is in the log when it is written, not 8 KB later
export PYTHONFAULTHANDLER=1 # a rank that crashes in C++ says where it was in Python
# torchrun's default is one thread for each rank; these share the cores of the machine.
threads=$(($(nproc) / 8))
export OMP_NUM_THREADS=$((threads > 1 ? threads : 1))
# The images of a micro-batch vary in number: segments of a fixed size leave holes.
export PYTORCH_ALLOC_CONF=expandable_segments:True
export NCCL_DEBUG=WARN # NCCL names the link or the interface that fails
# A collective that fails ends its process, and torchrun starts the ranks again.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=3
# Ranks that are started again meet in a store of their own: in the shared one are addresses of
# those that are gone, and the agents of several nodes do not count starts alike.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=305 # from SIGTERM to SIGKILL: time to save
export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE='[rank${rank}]: ' # whose line it is

# All nodes must see the same run folder: node 0 leaves a file there, the others find it.
mkdir -p "$logs" || exit 1
if [ "$node" = 0 ]; then
  rm -f "$logs"/exit-code-*
  hostname > "$logs/shared" || exit 1
fi
for _ in $(seq 60); do
  [ -e "$logs/shared" ] && break
  sleep 1
done
if ! [ -e "$logs/shared" ]; then
  echo "mm1: $run on $(hostname) is not the folder that node 0 ($head) sees: give all nodes one shared --out" >&2
  exit 1
fi

# torchrun hands on the signals named below; of others it dies, and the ranks save no checkpoint.
export MM1_EXIT_FILES=$logs/exit-code # a mistake or a divergence, which no restart mends, is noted there
exec python -m torch.distributed.run \
  --nnodes=2 --nproc-per-node=8 --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="$job" --local-addr="$address" \
  --rdzv-conf="is_host=$((node == 0)),join_timeout=900,read_timeout=900" \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2 \
  --log-dir="$logs/node-$node" --redirects=3 --tee=3 \
  -m mm1.cli train pretrain_3b --out "$run" --resume \
  --shutdown-timeout=300
END
)

told=
slurm_decides=
step=
trap 'told=yes; kill -TERM "$step"' USR1 USR2              # srun passes SIGTERM on, and the ranks save
trap 'told=yes; slurm_decides=yes; kill -TERM "$step"' TERM # preempted or cancelled
srun --kill-on-bad-exit=1 --container-image=ghcr.io/me/mm1:1 --container-mounts=/lustre/me:/data bash -c "$on_node" &
step=$!
[ -n "$told" ] && kill -TERM "$step"
while true; do
  wait "$step" # a trap ends it early
  code=$?
  kill -0 "$step" 2> /dev/null || break
done

verdict
answer=$?
echo "$answer" > "$logs/answer"
if [ "$answer" = 75 ] && [ -z "$slurm_decides" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$answer"
