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
