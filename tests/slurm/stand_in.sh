#!/usr/bin/env bash
# In place of python in the tests of the job scripts: writes what the step would write, and tells what each rank saw.
# STAND_IN_PREPARE, STAND_IN_FIT: the code these end with; STAND_IN_FIT_SECONDS: how long fit takes.
# STAND_IN_EVALUATE, STAND_IN_REPORT: likewise.
# STAND_IN_UNITS: the units of a second each that a rank of forecast has; STAND_IN_FORECAST: the code it ends with.
set -euo pipefail
[[ " $* " != *" tumorcast.running.job_check "* ]] || exit 0 # its models are names
while [[ $1 != tumorcast ]]; do shift; done
shift
step=$1
for ((k = 1; k < $#; k++)); do
    [[ ${!k} != --out ]] || { next=$((k + 1)) && out=${!next}; }
done

stop=
trap 'stop=1' USR1

units() { # what was done by an earlier start is not done again
    local unit
    mkdir -p "$out.parts"
    for ((unit = 0; unit < ${STAND_IN_UNITS:-1}; unit++)); do
        [[ -z $stop ]] || exit 75
        [[ ! -e $out.parts/$SLURM_PROCID-$unit ]] || continue
        sleep 1
        echo "${SLURM_RESTART_COUNT:-0}" >"$out.parts/$SLURM_PROCID-$unit"
    done
    touch "$out.parts/run.json"
}

hours_left=$(((TUMORCAST_END_TIME - $(date +%s) + 1800) / 3600))
saw=("$SLURM_PROCID/$SLURM_NTASKS" "$SLURM_LOCALID" "$SLURMD_NODENAME" "${CUDA_VISIBLE_DEVICES:-}" "$OMP_NUM_THREADS")
echo "$step ${saw[*]} $hours_left" >>"$out.saw"
case $step in
prepare)
    touch "$out"
    exit "${STAND_IN_PREPARE:-0}"
    ;;
fit)
    ((SLURM_PROCID == 0)) || exit 0 # as the ranks of tumorcast: rank 0 alone knows that patients failed
    sleep "${STAND_IN_FIT_SECONDS:-0}" &
    wait || exit 138
    touch "$out"
    exit "${STAND_IN_FIT:-0}"
    ;;
export) mkdir -p "$out" && touch "$out/manifest.json" ;;
forecast)
    units
    exit "${STAND_IN_FORECAST:-0}"
    ;;
archive)
    rm "$out.parts/run.json"
    touch "$out"
    ;;
evaluate)
    mkdir -p "$out" && touch "$out/evaluation.json"
    exit "${STAND_IN_EVALUATE:-0}"
    ;;
report)
    mkdir -p "$out" && touch "$out/index.html"
    exit "${STAND_IN_REPORT:-0}"
    ;;
esac
