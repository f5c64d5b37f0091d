#!/bin/bash
# stage_store.sh STORE SCRATCH: copy a store to this node's own disk, as SCRATCH/<the name that --name prints>.
# stage_store.sh --name STORE:  that name; it changes with the store's content.
#
# Exit status 3: SCRATCH is too small. A copy that is already there is used; several jobs at once make one copy; a copy
# that was killed half-way is begun again. The copy stays: remove SCRATCH/anatobench-* when the disk is needed.
set -euo pipefail
case ${1:-} in -h | --help) exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0" ;; esac

name_of() {
  echo "anatobench-$(basename "$1")-$(sha256sum <"$1/index.json" | head -c 12)"
}

files_of() { # path and size of every file of the store in the folder given
  (cd "$1" && find store.json index.json cases -type f ! -name '.*' -printf '%p %s\n' | sort)
}

copy() {
  local store=$1 target=$2 partial=$2.partial needed available
  if [ -d "$target" ]; then
    [ "$(files_of "$store")" != "$(files_of "$target")" ] || return 0
    rm -rf "$target" # damaged since: no job reads a copy for long without one of its files
  fi
  rm -rf "$partial"
  needed=$(files_of "$store" | awk '{total += $2 + 4096} END {print total}')
  available=$(df --output=avail --block-size=1 "$(dirname "$target")" | tail -n 1)
  if [ "$needed" -gt "$available" ]; then
    echo "$(hostname): $((needed >> 20)) MiB needed, $((available >> 20)) MiB free in $(dirname "$target")" >&2
    return 3
  fi
  mkdir "$partial"
  (cd "$store" && find store.json index.json cases ! -name '.*' ! -type d -print0) |
    tar --create --directory "$store" --null --files-from - | tar --extract --directory "$partial"
  if [ "$(files_of "$store")" != "$(files_of "$partial")" ]; then
    echo "$(hostname): the copy of $store differs from it: was it written to meanwhile?" >&2
    return 1
  fi
  mv "$partial" "$target"
}

if [ "${1:-}" = --name ] && [ $# = 2 ]; then
  name_of "$2"
elif [ $# = 2 ]; then
  if ! mkdir -p "$2" 2>/dev/null || [ ! -w "$2" ]; then
    echo "$(hostname): $2: cannot be written" >&2
    exit 1
  fi
  target=$2/$(name_of "$1")
  if [ -L "$target.lock" ]; then
    echo "$(hostname): $target.lock: is a link, which a lock never is: look who made it, then delete it" >&2
    exit 1
  fi
  exec {lock}>"$target.lock"
  flock "$lock"
  copy "$1" "$target"
else
  echo "usage: stage_store.sh STORE SCRATCH" >&2
  exit 2
fi
