#!/bin/bash
#SBATCH --job-name={{ job.name }}
#SBATCH --nodes={{ job.nodes }}
#SBATCH --ntasks-per-node=1
{% if job.gpus_per_node %}
#SBATCH --gpus-per-node={{ job.gpus_per_node if not job.gpu else job.gpu ~ ":" ~ job.gpus_per_node }}
{% endif %}
{% if job.time %}
#SBATCH --time={{ job.time }}
{% endif %}
#SBATCH --chdir={{ job.workdir | sbatch }}
#SBATCH --output={{ job.out | sbatch }}/logs/%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{{ job.shutdown_timeout + 90 }}
{% for name, value in job.options.items() %}
#SBATCH --{{ name }}{{ "=" ~ value | sbatch if value else "" }}
{% endfor %}
#
# --ntasks-per-node=1: torchrun is the one task of a node and starts its ranks
# --open-mode=append:  a job that was queued again goes on in the same log
# --requeue:           Slurm queues it again after a node has failed, or it was preempted
# --signal:            ahead of the time limit, this script hears of it, saves and queues itself again

set -u
run={{ job.out | sh }}
job=$SLURM_JOB_ID
node='batch'
logs=$run/logs/$job
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
mkdir -p "$logs" || exit 1
export run job logs head port

{% include "newest_checkpoint.sh" %}
{% include "verdict.sh" %}

# On each node:
on_node=$(cat << 'END'
node=$SLURM_NODEID address=$(hostname)

{% include "environment.sh" %}

{% include "shared_folder.sh" %}

{% with prefix = "exec ", suffix = "" %}{% include "torchrun.sh" %}{% endwith %}
END
)

told=
slurm_decides=
step=
trap 'told=yes; kill -TERM "$step"' USR1 USR2              # srun passes SIGTERM on, and the ranks save
trap 'told=yes; slurm_decides=yes; kill -TERM "$step"' TERM # preempted or cancelled
srun --kill-on-bad-exit=1{% if job.image %} --container-image={{ job.image | sh }}{% if job.mounts %} --container-mounts={{ job.mounts | join(",") | sh }}{% endif %}{% endif %} bash -c "$on_node" &
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
