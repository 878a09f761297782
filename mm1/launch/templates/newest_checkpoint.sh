newest_checkpoint() { find "$run/checkpoints" -maxdepth 1 -name 'step-*[0-9]' 2> /dev/null | sort | tail -n 1; }
first_checkpoint=$(newest_checkpoint)
