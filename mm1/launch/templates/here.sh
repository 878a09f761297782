#!/bin/bash
# One of {{ job.nodes }} nodes on one machine. `mm1 launch` calls this for each with the node's number, a
# name for the logs and a free port, and calls all again when one is gone.
set -u
node=$1 job=$2 port=$3 head=127.0.0.1 address=127.0.0.1
run={{ job.out | sh }}
logs=$run/logs/$job

{% include "environment.sh" %}

{% include "shared_folder.sh" %}

{% with prefix = "exec ", suffix = "" %}{% include "torchrun.sh" %}{% endwith %}
