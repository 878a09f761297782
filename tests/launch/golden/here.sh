#!/bin/bash
# One of 2 nodes on one machine. `mm1 launch` calls this for each with the node's number, a
# name for the logs and a free port, and calls all again when one is gone.
set -u
node=$1 job=$2 port=$3 head=127.0.0.1 address=127.0.0.1
run=/data/runs/small
logs=$run/logs/$job

export PYTHONUNBUFFERED=1 # a line is in the log when it is written, not 8 KB later
export PYTHONFAULTHANDLER=1 # a rank that crashes in C++ says where it was in Python
# torchrun's default is one thread for each rank; these share the cores of the machine.
threads=$(($(nproc) / 2))
export OMP_NUM_THREADS=$((threads > 1 ? threads : 1))
# The images of a micro-batch vary in number: segments of a fixed size leave holes.
export PYTORCH_ALLOC_CONF=expandable_segments:True
export NCCL_DEBUG=WARN # NCCL names the link or the interface that fails
# A collective that fails ends its process, and torchrun starts the ranks again.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=3
# Ranks that are started again meet in a store of their own: in the shared one are addresses of
# those that are gone, and the agents of several nodes do not count starts alike.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=125 # from SIGTERM to SIGKILL: time to save
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
exec /opt/mm1/bin/python -m torch.distributed.run \
  --nnodes=2 --nproc-per-node=1 --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="$job" --local-addr="$address" \
  --rdzv-conf="is_host=$((node == 0)),join_timeout=900,read_timeout=900" \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2 \
  --log-dir="$logs/node-$node" --redirects=3 --tee=3 \
  -m mm1.cli train pretrain_small --out "$run" --resume \
  --shutdown-timeout=120
