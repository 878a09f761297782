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
  [ "$(wc -l < "$logs/failures-$node")" -le {{ job.max_restarts }} ] && return 75
  echo "mm1: failed {{ job.max_restarts + 1 }} times in a row without a new checkpoint; see $logs" >&2
  return 1
}
