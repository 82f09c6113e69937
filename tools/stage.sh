# Sourced by run.sh: `stage NAME COMMAND` runs a command as part of a run, an ablation or a rehearsal of its recipe.
words=("$0" "$@") # of the command line of run.sh: from the third on the flags of the ablated stage
rehearsal=${RUN:-$baseline}-rehearsal

stage() { # announce a command and run it in the run directory, with the rest of the command line if it is ablated
  echo "== $1 =="
  local status=0 command=("${@:2}" --run "$run")
  [ "$1" != "$ablated" ] || command+=("${words[@]:3}")
  [ "$ablated" != rehearse ] || command=(python -m tools.rehearse "$rehearsal" "$1" "${@:2}")
  "${command[@]}" & # in the background: only then a request to stop (Ctrl-C, SIGTERM) can be handed on while it runs
  trap "kill -TERM $! 2>/dev/null" INT TERM
  until wait $!; do status=$? && kill -0 $! 2>/dev/null || break; done # asked to stop, it saves first
  trap - INT TERM
  case $status in
  130 | 143) fail "stage $1 was stopped (Ctrl-C, or a request to end); the same command continues" ;;
  137) fail "stage $1 was killed, often for want of memory; the same command continues" ;;
  esac
  [ $status -lt 128 ] || fail "stage $1 was stopped by signal $((status - 128)); the same command continues"
  return $status
}

if [[ ! $ablated ]]; then # a run begins with what its rehearsal paid for and fetched
  for had in teacher_cache.jsonl pages.sqlite; do
    [[ -e $run/$had || ! -e $rehearsal/$had ]] || { mkdir -p "$run" && cp "$rehearsal/$had" "$run"; }
  done
elif [[ $ablated != rehearse && ! -d $run ]]; then # an ablation begins with what the stages before it have made
  python -m tools.fork "${ladder[@]/#/--model=}" "$baseline" "$run" "${words[@]:2}"
fi
# glibc gives every freed tensor back to the kernel and asks for it again; on a CPU that costs a fifth of the time.
export MALLOC_MMAP_THRESHOLD_=10000000000 MALLOC_TRIM_THRESHOLD_=10000000000 MALLOC_TOP_PAD_=100000000
