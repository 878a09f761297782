"""Programs that stand in for torchrun and for Slurm's commands."""

from pathlib import Path

TORCHRUN = r"""#!/bin/bash
# `python -m torch.distributed.run ...`, whose Nth call on a node does what the Nth word
# of the file `plan` says (the last word for all later calls).
here=$(dirname "$0")
for word; do
  case $word in --log-dir=*) logs=${word#--log-dir=} ;; esac
done
run=${MM1_EXIT_FILES%/logs/*}
node=${logs##*/node-}
echo "$OMP_NUM_THREADS $*" >> "$here/calls-$node"
read -ra plan < "$here/plan"
calls() { wc -l < "$here/calls-$1" 2> /dev/null || echo 0; }
number=$(($(calls "$node") - 1))
until (($(calls $((1 - node))) > number)); do sleep 0.02; done # a rendezvous of two
case ${plan[number]-${plan[-1]}} in
  finish) echo "[rank$node]: step 1"; exit 0 ;;
  crash) exit 1 ;;
  save-and-crash) mkdir -p "$run/checkpoints/step-0000000$((number + 1))"; exit 1 ;;
  complete) echo '{"finished": true}' > "$run/summary.json"; exit 0 ;;
  diverge) echo 3 > "$MM1_EXIT_FILES-$node"; exit 1 ;;
  mistake) echo 2 > "$MM1_EXIT_FILES-$node"; exit 1 ;;
  die) # node 1, when node 0 is ready
    if [ "$node" = 1 ]; then
      until [ -e "$here/ready-0" ]; do sleep 0.02; done
      kill -KILL $$
    fi ;;&
  wait | die)
    trap 'touch "$here/saved-$node"; exit 1' TERM
    touch "$here/ready-$node"
    for _ in $(seq 600); do sleep 0.1; done ;;
esac
"""
SLURM = {
    "srun": r"""#!/bin/bash
while [ "$1" != bash ]; do shift; done
tasks=()
trap 'kill -TERM "${tasks[@]}"' TERM
for ((n = 0; n < SLURM_JOB_NUM_NODES; n++)); do SLURM_NODEID=$n "$@" & tasks+=($!); done
worst=0
for task in "${tasks[@]}"; do
  while true; do
    wait "$task"; code=$?
    kill -0 "$task" 2> /dev/null || break
  done
  ((code > worst)) && worst=$code
done
exit $worst
""",
    "scontrol": r"""#!/bin/bash
case $1 in
  show) printf 'node-a\nnode-b\n' ;;
  requeue) echo "$2" >> "$(dirname "$0")/requeued" ;;
esac
""",
    "sbatch": r"""#!/bin/bash
[ "$1" = --version ] && exit
if grep -q 'partition=nowhere' "$2"; then
  echo 'invalid partition specified: nowhere' >&2
  exit 1
fi
echo '4711;cluster'
""",
    "scancel": r"""#!/bin/bash
rm "$(dirname "$0")/state"
""",
    "squeue": r"""#!/bin/bash
state=$(cat "$(dirname "$0")/state" 2> /dev/null)
if [ -z "$state" ]; then
  echo 'slurm_load_jobs error: Invalid job id specified' >&2
  exit 1
fi
echo "$state"
""",
}


def write_torchrun(folder: Path, plan: str) -> Path:
    """The program, which also leaves its calls in the folder."""
    (folder / "plan").write_text(plan + "\n")
    return _write(folder / "torchrun", TORCHRUN)


def write_slurm(folder: Path) -> None:
    for name, text in SLURM.items():
        _write(folder / name, text)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path
