#!/bin/bash
# base_root_file_system.sh DIR [FOLDER...]: a small Debian with Python to build images on where no registry is reached.
# The folders are made in it, so that they can be bound. A DIR that is complete is left as it is.
set -euo pipefail
dir=$1
shift
if [ ! -e "$dir.complete" ]; then
  mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    awk '/^(URIs:|deb )/ && $2 ~ /debian\/?$/ {print $2; exit}')
  rm -rf "$dir"
  mkdir -p "$(dirname "$dir")"
  debootstrap --variant=minbase --include=python3-minimal,python3-venv,ca-certificates bookworm "$dir" "$mirror" >&2
  rm -rf "${dir:?}"/dev/* "$dir"/var/cache/apt/archives/*.deb # device nodes cannot be copied in a user namespace
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$dir/etc/ssl/host-ca.pem"
  printf '[global]\ncert = /etc/ssl/host-ca.pem\n' >"$dir/etc/pip.conf"
  touch "$dir.complete"
fi
for folder in "$@"; do mkdir -p "$dir$folder"; done
