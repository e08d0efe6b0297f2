# shellcheck shell=bash
# What each step runs, what it writes, and over which ranks. Sourced by main.bash.

name_files() { # fills the names of every file, after the options are read
    case $TUMORCAST_SOURCE in
    *.h5) cohort=$TUMORCAST_SOURCE ;;
    *) cohort=$TUMORCAST_OUT/cohort.h5 ;;
    esac
    growth=$TUMORCAST_OUT/growth.h5
    maps=$TUMORCAST_OUT/maps.h5
    evaluation=$TUMORCAST_OUT/evaluation
    report=$TUMORCAST_OUT/report
    provider=${TUMORCAST_PROVIDER:-cuda}
    bundle=("$TUMORCAST_OUT/bundle")
    needs_export || bundle=("${models[@]}")
    name_python
}

name_python() { # fills `python`
    python=()
    read_words python "${TUMORCAST_PYTHON:-}" TUMORCAST_PYTHON
    ((${#python[@]})) || python=("$home/.venv/bin/python")
}

needs_export() { # whether the model is RUN folders, and they are to run in ONNX Runtime
    [[ $provider != torch ]] && ! { [[ ${#models[@]} == 1 ]] && is_bundle "${models[0]}"; }
}

is_bundle() { # MODEL
    [[ -f $1/manifest.json ]] || is_shipped "$1"
}

is_shipped() { # MODEL: whether it is no path, and the name of a model that comes with tumorcast
    [[ ! -e $1 && $1 != */* && -f $home/tumorcast/models/$1/manifest.json ]]
}

steps_needed() { # the steps from the source to the maps and what is made of them, a line each
    [[ $cohort == "$TUMORCAST_SOURCE" ]] || echo prepare
    [[ -n ${TUMORCAST_RELATIVE_CHANGE:-} ]] || echo fit
    needs_export && echo export
    printf '%s\n' forecast merge
    [[ -z ${TUMORCAST_TRUTH:-} ]] || echo evaluate
    [[ ${TUMORCAST_REPORT:-0} == 0 ]] || echo report
}

is_done() { # STEP: whether what it writes stands. Whole files are renamed to their name; forecast looks for itself.
    # Evaluation and report take minutes: they are made anew where they are not of these maps and options.
    case $1 in
    prepare) [[ -f $cohort ]] ;;
    fit) [[ -f $growth ]] ;;
    export) [[ -f ${bundle[0]}/manifest.json ]] ;;
    forecast) false ;;
    merge) [[ -f $maps && ! -f $maps.parts/run.json ]] ;;
    evaluate) is_done merge && [[ -f $evaluation/evaluation.json ]] && is_kept evaluate "$maps" "$TUMORCAST_TRUTH" ;;
    report)
        is_done merge && { [[ -z ${TUMORCAST_TRUTH:-} ]] || is_done evaluate; } && [[ -f $report/index.html ]] &&
            is_kept report "$maps" "$TUMORCAST_OUT/steps/evaluate"
        ;;
    esac
}

arguments_of() { # STEP: fills `arguments`, the command without python and cores
    local -n of_step=TUMORCAST_${1^^}_OPTIONS
    local model
    case $1 in
    prepare)
        arguments=(prepare "$TUMORCAST_SOURCE" --out "$cohort" --model "${models[0]}") # its size and contrasts
        arguments+=(${TUMORCAST_CLINICAL:+--clinical "$TUMORCAST_CLINICAL"})
        ;;
    fit) arguments=(fit "$cohort" --out "$growth" --size-column "${TUMORCAST_SIZE_COLUMN:-area_mm2}") ;;
    export) arguments=(export "${models[@]}" --out "${bundle[0]}" --cohort "$cohort") ;;
    forecast)
        arguments=(forecast "$cohort" --out "$maps" --no-merge --provider "$provider")
        for model in "${bundle[@]}"; do
            arguments+=(--model "$model")
        done
        arguments+=(${TUMORCAST_HORIZON_DAYS:+--growth "$growth" --horizon-days "$TUMORCAST_HORIZON_DAYS"})
        arguments+=(${TUMORCAST_RELATIVE_CHANGE:+--relative-change "$TUMORCAST_RELATIVE_CHANGE"})
        arguments+=(${TUMORCAST_MEMBERS:+--members "$TUMORCAST_MEMBERS"})
        ;;
    merge) arguments=(archive merge "$maps.parts" --out "$maps") ;;
    evaluate) arguments=(evaluate "$maps" --truth "$TUMORCAST_TRUTH" --out "$evaluation") ;;
    report)
        arguments=(report "$maps" --out "$report" ${TUMORCAST_HORIZON_DAYS:+--growth "$growth"})
        arguments+=(${TUMORCAST_TRUTH:+--evaluation "$evaluation"})
        ;;
    esac
    read_words arguments "${of_step:-}" "TUMORCAST_${1^^}_OPTIONS"
}

launch_of() { # STEP: fills `launch`, the srun and python that the arguments follow, and `threads`, the cores of a rank
    local -n ranks=TUMORCAST_${1^^}_RANKS_PER_NODE
    local nodes=${SLURM_JOB_NUM_NODES:-1} cores
    cores=$(cores_a_node)
    threads=$cores cores_of_step=()
    case $1 in
    fit | report) launch_ranks "$nodes" "${ranks:-$cores}" "$cores" ;;
    forecast | experiment) launch_ranks "$nodes" "${ranks:-$(gpus_a_node)}" "$cores" ;;
    prepare)
        if [[ -n ${ranks:-} ]]; then
            launch_ranks "$nodes" "$ranks" "$cores"
        else
            launch_alone "$cores"
            cores_of_step=(--jobs "$cores")
        fi
        ;;
    *) launch_alone "$cores" ;;
    esac
}

launch_alone() { # CORES: one process on one node
    launch=(srun --nodes=1 --ntasks=1 --cpus-per-task="$1" --mpi=none "${python[@]}" -m tumorcast)
}

launch_ranks() { # NODES RANKS_PER_NODE CORES: every rank sees all GPUs of its node and takes the one of its local rank
    threads=$(($3 / $2 > 0 ? $3 / $2 : 1))
    # Not the site's --kill-on-bad-exit: rank 0 ends with 1 where some patients failed, and the others must not be killed.
    launch=(srun --nodes="$1" --ntasks=$(($1 * $2)) --ntasks-per-node="$2" --cpus-per-task="$threads")
    launch+=(--kill-on-bad-exit=0 --mpi="${TUMORCAST_MPI:-pmix}" "${python[@]}" -m mpi4py -m tumorcast)
}

cores_a_node() { # the cores that the job has on each node; on the one with fewest where they differ
    local counts=${SLURM_JOB_CPUS_PER_NODE:-8} count fewest # SLURM says 4(x2),2 for 4, 4 and 2
    for count in ${counts//,/ }; do
        count=${count%%(*}
        fewest=$((${fewest:-count} < count ? fewest : count))
    done
    echo "$fewest"
}

gpus_a_node() { # the GPUs that the job has on each node, and 1 where it has none, or where there is no job yet
    local listed=${SLURM_JOB_GPUS:-0}
    listed=${listed//[^,]/}
    echo "${SLURM_GPUS_ON_NODE:-$((${#listed} + 1))}"
}
