#!/usr/bin/env bash
# All measurements that need a GPU, in one call:
#
#   bash benchmarks/gpu.sh [--budget 540] [--pieces attention,step,...] [--out NOTE.md]
#                          [--step "OVERRIDES"]... [--tiny]
#
# Pieces run in order of worth (below), each as a process of its own with a time limit,
# and no longer than what is left of --budget seconds. The note grows as they run, so a
# call that is cut still tells; NOTE.log has what the pieces said. --step replaces the
# list of configurations of the piece `step`, and may be repeated. --tiny runs every
# piece at toy sizes, also on a CPU.
# PYTHON: the interpreter; WORKERS: processes that decode images.
set -u
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
budget=540
pieces=attention,step,profile,plan,peers,generate,fp8,kernels,tests
note=${OUT:-benchmarks}/gpu_note.md
tiny=
configs=()
while [ $# -gt 0 ]; do
    case $1 in
    --budget) budget=$2 && shift ;;
    --pieces) pieces=$2 && shift ;;
    --out) note=$2 && shift ;;
    --step) configs+=("$2") && shift ;;
    --tiny) tiny=--tiny ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

wanted() { [[ ,$pieces, == *,$1,* ]]; }

tell() { printf '%s\n' "$@" | tee -a "$note"; }

# run LIMIT SCRIPT [ARGUMENT]...: LIMIT seconds at most; says why nothing came of it
run() {
    local limit=$1 left=$((budget - SECONDS)) code why
    shift
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 15 ]; then
        tell "Left out, no time: $*" ''
        return
    fi
    timeout -k 5 "$limit" "$python" -W ignore "$@" --out "$note" 2>"$errors"
    code=$?
    { echo "== $*" && cat "$errors"; } >>"${note%.md}.log"
    [ $code -eq 0 ] && return
    why=$(sed 's/^\[rank[0-9]*\]: //' "$errors" |
        grep -E '^[A-Za-z0-9_.]+(Error|Died|error|Exception):' | tail -n 1)
    [ $code -eq 124 ] || [ $code -eq 137 ] && why="not finished in $limit s"
    tell "Failed: $*" '' "    ${why:-exit code $code: $(tail -n 1 "$errors")}"
    grep -E '^(first batch|step|mm1|padded|sorted|dense)' "$errors" | tail -n 4 |
        sed 's/^/    /' | tee -a "$note"
    tell ''
}

step() { # [OVERRIDE OR OPTION]...
    # shellcheck disable=SC2086  # words, on purpose
    run 150 benchmarks/step.py $recipe $common $timing "$@"
}

recipe=pretrain_3b
common="loader.batch_size=12"
timing="--warmup 2 --steps 10 --seconds 40 --workers ${WORKERS:-10}"
peers="--size gpu"
generate="--precision fp32 bf16 --shots 0 8 --prompts 32"
selective="compile=true activation_checkpointing=selective"
fp8="loader.micro_batch_size=3 $selective float8=true"
plans=(
    "$recipe $common loader.micro_batch_size=2 $selective"
    "pretrain_ablation_base loader.batch_size=8 loader.micro_batch_size=2 $selective"
)
if [ ${#configs[@]} -eq 0 ]; then
    configs=(
        "loader.micro_batch_size=2 $selective"
        "loader.micro_batch_size=3 $selective"
        "loader.micro_batch_size=2 compile=false activation_checkpointing=none"
        "loader.micro_batch_size=3 $selective attention_kernel=cudnn"
        "loader.micro_batch_size=2 compile=true activation_checkpointing=none"
        "loader.micro_batch_size=3 compile=true activation_checkpointing=full"
        "loader.micro_batch_size=1 compile=true activation_checkpointing=none"
    )
fi
if [ -n "$tiny" ]; then
    recipe=pretrain_small
    common="loader.batch_size=2 loader.sequence_length=256 loader.max_images=4"
    timing="--warmup 1 --steps 2 --vocab-size 300"
    configs=("loader.micro_batch_size=1 compile=false")
    fp8="loader.micro_batch_size=1 compile=false float8=true"
    plans=(
        "$recipe $common ${configs[0]} --vocab-size 300 --rounds 1"
        "$recipe $common loader.micro_batch_size=2 --vocab-size 300 --rounds 1"
    )
    peers="--size tiny --rounds 1"
    generate="--shots 0 2 --tiny"
fi

tell "# $(date -u '+%Y-%m-%d %H:%M') UTC" '' "Pieces $pieces, $budget seconds."

if wanted attention; then
    tell '' '## Sustained rates, and attention of the encoder'
    run 60 benchmarks/kernels.py --only encoder_attention --seconds 45 $tiny
fi

if wanted step; then
    tell '' "## Whole steps of $recipe" ''
    profile=
    wanted profile && profile=--profile
    for config in "${configs[@]}"; do
        step $config $profile
        profile=
    done
fi

if wanted plan; then
    tell '' '## Planned and measured' ''
    for point in "${plans[@]}"; do
        # shellcheck disable=SC2086
        run 180 benchmarks/planned.py $point
    done
fi

if wanted peers; then
    tell '' "## Beside transformers' LLaVA" ''
    run 150 benchmarks/peers.py $peers
fi

if wanted generate; then
    tell '' "## Generation beside transformers'" ''
    # shellcheck disable=SC2086
    run 100 benchmarks/generate.py $generate
    [ -n "$tiny" ] || run 100 benchmarks/generate.py $generate \
        --model pretrain_ablation_base --precision bf16
fi

if wanted fp8; then
    tell '' '## Products of the decoder in float8' ''
    step $fp8
    run 90 benchmarks/float8.py $tiny
fi

if wanted kernels; then
    tell '' '## Other kernels'
    run 60 benchmarks/kernels.py --only decoder_attention,depthwise,pooling,products \
        --seconds 45 $tiny
fi

if wanted tests; then
    tell '' '## Tests that need a GPU' ''
    left=$((budget - SECONDS))
    timeout $((left > 15 ? left : 15)) "$python" -m pytest -q -m gpu tests \
        -p no:cacheprovider 2>&1 |
        tail -n 3 | tee -a "$note"
fi

tell '' "Done after $SECONDS s."
