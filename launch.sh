#!/usr/bin/env bash
# Makes .venv beside this file on first use, then runs a script through accelerate, the tests, or the rlft command.
# Kept to bash 3.2, which is what macOS has.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
venv=$root/.venv
ready=$venv/.rlft-ready
unfinished=$venv/.rlft-unfinished
lock=$root/.venv.lock
compiled='import accelerate.commands.launch, matplotlib.pyplot, peft, transformers.models.qwen3.modeling_qwen3
from trl import GRPOTrainer, ModelConfig, ScriptArguments, SFTTrainer, TrlParser'

usage() {
  cat <<'EOF'
usage: ./launch.sh [accelerate flags] SCRIPT.py [script flags]
       ./launch.sh test                     run the tests, in as many processes as there are cores, at most four
       ./launch.sh test PYTEST_FLAGS        run pytest with these flags, in one process unless -n says otherwise
       ./launch.sh rlft [flags]             the rlft command: check, report, eval, export and more
       ./launch.sh python [flags]           the Python of the environment
       ./launch.sh setup                    make the environment and stop

  ./launch.sh recipes/shear.py --smoke                                      as many processes as GPUs, else one on CPU
  ./launch.sh recipes/shear.py --help                                       the script's own flags
  ./launch.sh --accelerate_config fsdp2 recipes/shear.py --config multi_gpu
  ./launch.sh --num_processes 2 recipes/shear.py                            two processes, on CPU or GPUs
  ./launch.sh rlft index --corpus corpus.jsonl                              a corpus's index, for recipes/exsearch.py
  ./launch.sh rlft serve-retriever --corpus corpus.jsonl                    the corpus as an HTTP server

Flags before the script go to `accelerate launch`, flags after it to the script. --accelerate_config, in either place,
takes a file or one of: cpu multi_cpu single_gpu multi_gpu fsdp2 zero2 zero3.

The first use makes .venv beside launch.sh with the versions in constraints.txt (uv if present, else venv and pip) and
later uses contact no index. Environment: PYTHON (Python 3.11 or newer), PIP_* and UV_* settings, CUDA_VISIBLE_DEVICES,
OMP_NUM_THREADS.
EOF
}

say() { printf 'launch.sh: %s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 2
}

# The path counts because a virtual environment that was moved or copied still points to its old place.
wanted() { cat "$root/constraints.txt" "$root/pyproject.toml" | cksum && echo "$root"; }
is_ready() { [ -x "$venv/bin/python" ] && [ -f "$ready" ] && [ "$(cat "$ready")" = "$(wanted)" ]; }

find_python() {
  local python version seen=''
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11; fi
  for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=absent
    case $version in
      3.1[1-9] | 3.[2-9][0-9]) echo "$python" && return ;;
      *) seen="$seen $python ($version)" ;;
    esac
  done
  die "rlft needs Python 3.11 or newer and found:$seen. Install one, or name it: PYTHON=/path/to/python3.12"
}

run() { # in the background, so that a signal to this script ends the installer too
  "$@" &
  wait $!
}

# torch from the default index brings gigabytes of CUDA libraries on Linux; without an NVIDIA GPU the CPU build will do.
cpu_torch() {
  local torch
  torch=$(grep '^torch==' constraints.txt)
  if [ "$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then return; fi
  say "no NVIDIA GPU: taking the CPU build of $torch (about 190 MB)"
  run "$@" --no-deps --no-index "$torch" 2>/dev/null && return # a folder named by PIP_FIND_LINKS or UV_FIND_LINKS
  PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=15 UV_HTTP_RETRIES=1 UV_HTTP_TIMEOUT=15 \
    run "$@" --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null && return
  say "PyTorch's CPU index did not serve it: it will come from the default index, with gigabytes of CUDA libraries"
}

pip_settings_for_uv() {
  if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}"; fi
  if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"; fi
  if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"; fi
}

install() { # install INSTALLER...: the pinned packages, and rlft itself so that edits take effect at once
  cpu_torch "$@"
  say "installing the packages of constraints.txt (about 250 MB besides torch)"
  run "$@" -c constraints.txt -e '.[test]' || return
  # Byte-code of what a run imports, a small part of it all. Without it, where PYTHONDONTWRITEBYTECODE is set as many
  # container images do, every run would compile these modules again.
  say 'compiling what a run imports'
  PYTHONDONTWRITEBYTECODE='' run "$venv/bin/python" -c "$compiled"
}

with_uv() {
  pip_settings_for_uv
  if [ ! -x "$venv/bin/python" ]; then
    run uv venv -q --allow-existing --python "$(find_python 2>/dev/null || echo '>=3.11')" "$venv" || return
  fi
  install uv pip install -q --python "$venv/bin/python"
}

with_pip() {
  local python
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || exit
    run "$python" -m venv "$venv" || return
  fi
  install "$venv/bin/python" -m pip install -q --no-compile --disable-pip-version-check
}

take_lock() { # a symbolic link is made in one step and carries its owner
  local owner waiting=''
  until ln -s "$$" "$lock" 2>/dev/null; do
    [ -w "$root" ] || die "cannot write to $root, where .venv belongs; put rlft into a folder that you own"
    owner=$(readlink "$lock") || continue
    if ! kill -0 "$owner" 2>/dev/null; then
      rm -f "$lock"
    else
      [ -n "$waiting" ] || say "waiting for process $owner, which is setting .venv up (if it is not, remove $lock)"
      waiting=1
      sleep 1
    fi
  done
  # shellcheck disable=SC2046 # one word for each process
  trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$lock"' EXIT
}

fill_venv() {
  if [ -e "$unfinished" ]; then
    say 'an earlier set-up did not finish: starting again'
    rm -rf "$venv"
  fi
  # A .venv of somebody else's making is filled, and never removed.
  if [ ! -e "$venv" ] || [ -e "$ready" ]; then
    mkdir -p "$venv"
    : >"$unfinished"
  fi
  rm -f "$ready"
  say "setting up $venv (1.7 GB on disk with the CPU build of torch; minutes once)"
  if ! command -v uv >/dev/null; then
    with_pip
  elif ! with_uv; then
    say 'uv could not do it: trying venv and pip'
    with_pip
  fi || die "set-up failed; the message above says why. Put it right and run the same command again"
  rm -f "$unfinished"
  wanted >"$ready"
  say "set up in $SECONDS s"
}

set_up() {
  local here=$PWD
  if is_ready; then return; fi
  take_lock
  if ! is_ready; then # another process may have made it while this one waited
    cd "$root"
    fill_venv
    cd "$here"
  fi
  rm -f "$lock"
  trap - EXIT
}

case ${1:-} in
  '' | -h | --help)
    usage
    ;;
  setup)
    set_up
    ;;
  test)
    shift
    set_up
    cd "$root"
    # What the tests of a file share is made once, in one process. Sorted by their number of tests, as they would be
    # without the last flag, the files with the few long tests would come last.
    [ $# -gt 0 ] || set -- -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
    exec "$venv/bin/python" -m pytest "$@"
    ;;
  rlft)
    shift
    set_up
    exec "$venv/bin/python" -P -m rlft "$@"
    ;;
  python)
    shift
    set_up
    exec "$venv/bin/python" "$@"
    ;;
  *)
    case " $*" in *.py*) ;; *) usage >&2 && die "'$*' names no command and no script" ;; esac
    set_up
    exec "$venv/bin/python" -P -m rlft.launch "$@"
    ;;
esac
