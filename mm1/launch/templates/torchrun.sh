# torchrun hands on the signals named below; of others it dies, and the ranks save no checkpoint.
export MM1_EXIT_FILES=$logs/exit-code # a mistake or a divergence, which no restart mends, is noted there
{{ prefix }}{{ job.python | sh }} -m torch.distributed.run \
  --nnodes={{ job.nodes }} --nproc-per-node={{ job.processes }} --max-restarts={{ job.max_restarts }} \
  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="$job" --local-addr="$address" \
  --rdzv-conf="is_host=$((node == 0)),join_timeout=900,read_timeout=900" \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2 \
  --log-dir="$logs/node-$node" --redirects=3 --tee=3 \
  -m mm1.cli train {{ job.train | map("sh") | join(" ") }} --out "$run" --resume \
  --shutdown-timeout={{ job.shutdown_timeout }}{{ suffix }}
