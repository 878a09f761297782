#!/usr/bin/env bash
# All measurements that need one GPU, in one call: bash benchmarks/gpu.sh NOTE.md
# Each line is a run of benchmarks/step.py; one that fails (out of memory, say) is noted and the next one starts.
# Some ten minutes on an H100. LIMIT: seconds for each; WORKERS: processes that decode pictures.
set -u
note=${1:?"usage: benchmarks/gpu.sh NOTE.md"}
cd "$(dirname "$0")/.."
export PYTHONPATH=.:${PYTHONPATH:-}
step() {
    timeout "${LIMIT:-150}" python3 -W ignore benchmarks/step.py "$@" --workers "${WORKERS:-12}" --out "$note" 2>"$note.err"
    local code=$? why
    why=$(sed 's/^\[rank[0-9]*\]: //' "$note.err" | grep -E '^[A-Za-z0-9_.]+(Error|Died|error):' | tail -n 1)
    [ $code -eq 124 ] && why="not finished in ${LIMIT:-150} s; last: $(tail -n 1 "$note.err")"
    [ $code -eq 0 ] || printf '### %s\n\nFailed: %s\n\n' "$*" "${why:-exit code $code}" | tee -a "$note"
}

python3 -m pytest -q -m gpu tests -p no:cacheprovider 2>&1 | tail -n 3 | tee -a "$note"
base="loader.batch_size=16 scheduler.warmup_steps=10"
step pretrain_ablation_base $base loader.micro_batch_size=4 activation_checkpointing=full compile=false --profile
step pretrain_ablation_base $base loader.micro_batch_size=8 activation_checkpointing=full
step pretrain_ablation_base $base loader.micro_batch_size=4 activation_checkpointing=none compile=false --text-only
step pretrain_3b loader.batch_size=8 scheduler.warmup_steps=10 loader.micro_batch_size=2 activation_checkpointing=full  # ended with an error on 80 GB
# Experts: a slice of 3B-MoE that fits one GPU, beside the dense model of the same depth.
slice="loader.batch_size=16 loader.micro_batch_size=4 scheduler.warmup_steps=10 activation_checkpointing=none compile=false model.decoder.depth=4"
step language_model_3b $slice --text-only
step language_model_3b_moe $slice model.decoder.experts.num_experts=8 --text-only
