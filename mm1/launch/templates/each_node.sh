{% include "environment.sh" %}

{% include "shared_folder.sh" %}

{% include "newest_checkpoint.sh" %}
{% include "verdict.sh" %}

told=
torchrun=
trap 'told=yes; kill -TERM "$torchrun"' TERM INT HUP USR1 USR2 # torchrun passes it on, and the ranks save
{% with prefix = "", suffix = " &" %}{% include "torchrun.sh" %}{% endwith %}
torchrun=$!
[ -n "$told" ] && kill -TERM "$torchrun"
while true; do
  wait "$torchrun" # a trap ends it early
  code=$?
  kill -0 "$torchrun" 2> /dev/null || break
done

verdict
exit $?
