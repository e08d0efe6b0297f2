# shellcheck shell=bash
# A job at work: it runs a step, hears the signal before the time limit, and requeues itself. Sourced by main.bash.

step=        # that runs
child=       # its srun, while it runs
signals=0    # to stop, that have come
finished=0   # steps that this start of the job has brought to their end
STOPPED=75   # the exit code of what was stopped and can go on

heed_signals() {
    trap 'stop_step' USR1 INT
    trap 'signals=$((signals + 1))' TERM # of scancel and of the time limit: SLURM tells the step itself
}

stop_step() { # forecast ends what it has in hand; the others write at their end, so there is nothing to wait for
    signals=$((signals + 1))
    case $step in
    '') ;;
    forecast) kill -USR1 "$child" 2>/dev/null || true ;;                  # srun hands it to every rank
    *) scancel --quiet --signal=TERM "$SLURM_JOB_ID" 2>/dev/null || true ;; # a TERM to srun would kill
    esac
}

run_heard() { # STEP COMMAND…: run it, and tell when; returns its exit code, STOPPED for one that a signal ended
    local code=0
    say "$1: begins, $(date '+%F %T')"
    step=$1
    run_watched "${@:2}" || code=$?
    step=
    ((signals == 0 || code < 128)) || code=$STOPPED # it was ended before it could listen
    say "$1: ended with $code, $(date '+%F %T')"
    return "$code"
}

run_watched() { # COMMAND…: run it beside this shell, which can hear signals meanwhile; returns its exit code
    local code=0 heard=-1
    "$@" &
    child=$!
    while ((heard != signals)); do # else the signal ended the wait, and not the command
        heard=$signals code=0
        wait "$child" || code=$?
    done
    return "$code"
}

tell_time_left() { # when the job must have ended, in seconds since 1970: a step begins nothing that it could not end
    local told=${SLURM_JOB_END_TIME:-}
    if [[ -z $told ]]; then
        told=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %e 2>/dev/null) || told=
        told=$(date --date "${told:-never}" +%s 2>/dev/null) || return 0 # a job without a limit has no end
    fi
    export TUMORCAST_END_TIME=$told
}

run_step() { # STEP: unless what it writes stands. Returns its exit code: 0, 1 where some patients failed, or a fault's
    local code=0 arguments launch cores_of_step threads
    arguments_of "$1"
    if is_done "$1"; then
        check_kept "$1"
        say "$1: what it writes stands; not done again"
        return "$(kept_code "$1")"
    fi
    ((signals == 0)) || return "$STOPPED"
    launch_of "$1"
    export OMP_NUM_THREADS=$threads # a rank can see more cores where the site does not bind it to its own
    [[ $1 != @(evaluate|report) ]] || rm -f "$TUMORCAST_OUT/steps/$1" # until it has ended, its folder is of no options
    run_heard "$1" "${launch[@]}" "${arguments[@]}" "${cores_of_step[@]}" || code=$?
    ((code > 1)) || keep_code "$1" "$code"
    return "$code"
}

keep_code() { # STEP CODE: a job that is requeued must know it, and that the options are the same
    local file=$TUMORCAST_OUT/steps/$1
    printf '%s\n' "$2" "${arguments[*]@Q}" >"$file.partial"
    mv "$file.partial" "$file"
    finished=$((finished + 1))
}

kept_code() { # STEP: the code it ended with; 0 for a file that was given
    head -n 1 "$TUMORCAST_OUT/steps/$1" 2>/dev/null || echo 0
}

is_kept() { # STEP FILE…: whether it ended with these options, and after each of the files was written
    local kept=$TUMORCAST_OUT/steps/$1 file arguments
    arguments_of "$1"
    [[ $(tail -n +2 "$kept" 2>/dev/null) == "${arguments[*]@Q}" ]] || return 1
    for file in "${@:2}"; do
        [[ $kept -nt $file ]] || return 1
    done
}

check_kept() { # STEP: refuses what was made with other options
    local file=$TUMORCAST_OUT/steps/$1
    [[ -f $file ]] || return 0
    [[ $(tail -n +2 "$file") == "${arguments[*]@Q}" ]] ||
        refuse "$1: was done with other options ($(tail -n +2 "$file")); remove what it wrote, or give another --out"
}

end_job() { # STEP CODE: requeue what was stopped, if that is any use; else say what to do
    local why
    (($2 == STOPPED)) || exit "$2"
    if why=$(why_no_requeue "$1"); then
        say "$1: stopped, and not requeued: $why. Submit the same again to go on"
    else
        say "$1: stopped; the job is requeued"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$2"
}

why_no_requeue() { # STEP: the reason; fails where there is none
    local state most=${TUMORCAST_MAX_REQUEUES:-20}
    state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T 2>/dev/null) || state=unknown
    if [[ $state != RUNNING ]]; then
        echo "the job is ${state:-unknown}"
    elif ((${SLURM_RESTART_COUNT:-0} >= most)); then
        echo "it was $most times (TUMORCAST_MAX_REQUEUES)"
    elif [[ $1 != @(forecast|experiment|train) ]] && ((finished == 0)); then # these keep what they did
        echo "it begins anew at every start and needs more than the job's time; give it more (sbatch --time)"
    else
        return 1
    fi
}
