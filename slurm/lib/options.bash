# shellcheck shell=bash
# The options of the job scripts. Each is also a variable of the environment; the command line wins. Sourced by main.bash.

models=()  # engine bundle, name of a shipped one, or RUN folders
submit=    # --submit was given
dry_run=   # --dry-run was given
in_chain=  # --in-chain was given
given=()   # the command line without the three above, for the jobs of a chain

say() { # WORDS…: one line on stderr, which is in the job's log
    echo "tumorcast: $*" >&2
}

refuse() { # WORDS…: end with the exit code of wrong usage
    say "$*"
    exit 2
}

usage() { # the comment at the top of the script
    sed -n '2,/^#SBATCH/{/^#SBATCH/d; s/^# \{0,1\}//; p}' "$0"
}

read_options() { # ARGUMENTS…
    local taken
    while (($#)); do
        if [[ $1 == --@(submit|dry-run|in-chain|report)=* ]]; then
            refuse "${1%%=*}: takes no value"
        elif [[ $1 == --*=* ]]; then
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
        fi
        taken=1
        case $1 in
        -h | --help) usage && exit 0 ;;
        --submit | --dry-run | --in-chain) read_switch "$1" ;;
        --report) TUMORCAST_REPORT=1 && given+=("$1") ;;
        --*) read_value "$@" && taken=2 ;;
        *) TUMORCAST_SOURCE=$1 && given+=("$1") ;;
        esac
        shift "$taken"
    done
    read_words models "${TUMORCAST_MODEL:-}" TUMORCAST_MODEL
}

read_switch() { # OPTION: fills submit, dry_run or in_chain
    local name=${1#--}
    declare -g "${name//-/_}=1"
}

read_value() { # OPTION VALUE …: fills the variable that is named like the option
    case $1 in
    --model | --out | --clinical | --horizon-days | --relative-change | --members | --provider | --size-column) ;;
    --truth | --prepare-options | --fit-options | --export-options | --forecast-options | --merge-options) ;;
    --evaluate-options | --report-options) ;;
    *) refuse "$1: no such option; options of a step go in quotes, as --forecast-options '--max-slices 2'; see --help" ;;
    esac
    (($# > 1)) || refuse "$1: its value is missing"
    given+=("$1" "$2")
    if [[ $1 == --model ]]; then
        models+=("$2")
        unset TUMORCAST_MODEL
        return
    fi
    local name=${1#--}
    name=${name//-/_}
    declare -g "TUMORCAST_${name^^}=$2"
}

read_words() { # ARRAY TEXT ORIGIN: adds the words of the text; quotes hold blanks together, nothing else is interpreted
    local -n found=$1
    local words
    [[ -n $2 ]] || return 0
    xargs -r printf '%s\0' <<<"$2" >/dev/null || refuse "$3: its quotes do not match: $2"
    readarray -d '' -t words < <(xargs -r printf '%s\0' <<<"$2")
    found+=("${words[@]}")
}

check_options() { # ends with 2 where something is missing, or contradicts itself
    [[ -n ${TUMORCAST_SOURCE:-} ]] || refuse "give a folder of scans, a sessions.csv or a cohort.h5 (or TUMORCAST_SOURCE)"
    [[ -n ${TUMORCAST_OUT:-} ]] || refuse "give --out, a folder for the results (or TUMORCAST_OUT)"
    ((${#models[@]})) || refuse "give --model, as demo128, an engine bundle or RUN folders (or TUMORCAST_MODEL)"
    case ${TUMORCAST_HORIZON_DAYS:+days}${TUMORCAST_RELATIVE_CHANGE:+change} in
    days | change) ;;
    *) refuse "give one of --horizon-days and --relative-change" ;;
    esac
    [[ ${TUMORCAST_REPORT:-0} == [01] ]] || refuse "TUMORCAST_REPORT=$TUMORCAST_REPORT: give 1, or leave it out"
    check_numbers
}

check_given() { # files that a later step could not do without are looked for first. Prepare may be to make the truth
    [[ $cohort != "$TUMORCAST_SOURCE" || -f $cohort ]] ||
        refuse "$cohort: no such file; give a cohort.h5, a folder of scans or a sessions.csv"
    [[ -z ${TUMORCAST_TRUTH:-} || $TUMORCAST_TRUTH == "$cohort" || -f $TUMORCAST_TRUTH ]] ||
        refuse "--truth $TUMORCAST_TRUTH: no such file; give a cohort file with the later scans"
}

check_images() { # what the cohort holds, or prepare is asked for, must be what the model takes
    local model asked=()
    command -v "${python[0]}" >/dev/null || return 0 # check_job tells of it, where it is needed
    for model in "${models[@]}"; do                  # of a dry run it may still be to be made
        [[ -z $dry_run || -e $model ]] || is_shipped "$model" || return 0
    done
    [[ $cohort == "$TUMORCAST_SOURCE" ]] ||
        read_words asked "${TUMORCAST_PREPARE_OPTIONS:-}" TUMORCAST_PREPARE_OPTIONS
    "${python[@]}" -m tumorcast.running.job_check "$cohort" "${models[@]}" -- "${asked[@]}" || exit
}

check_numbers() {
    local step
    check_number TUMORCAST_MAX_REQUEUES 0
    for step in PREPARE FIT FORECAST REPORT EXPERIMENT TRAIN; do
        check_number "TUMORCAST_${step}_RANKS_PER_NODE" 1
    done
}

check_number() { # VARIABLE LEAST: where it is set, it must be a whole number
    if [[ ! ${!1:-1} =~ ^(0|[1-9][0-9]*)$ ]] || ((${!1:-1} < $2)); then
        refuse "$1=${!1}: give a whole number of $2 or more, or leave it out"
    fi
}
