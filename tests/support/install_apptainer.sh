#!/bin/bash
# Install Apptainer as root on a Debian whose suite carries none: Debian's own package from a later suite of the mirror
# that apt uses here, run on a private copy of that suite's C library. apt's sources and the system's libc stay as they
# are. Prints the version; fails where that is not possible.
set -euo pipefail
if command -v apptainer >/dev/null; then exec apptainer version; fi
export DEBIAN_FRONTEND=noninteractive
library=/opt/apptainer-glibc triplet=x86_64-linux-gnu
[ "$(uname -m)" = x86_64 ] || { echo "only for x86_64" >&2; exit 1; }
shopt -s nullglob
mirror=$(awk '!found && /^(URIs:|deb )/ && $2 ~ /debian\/?$/ {found = $2} END {print found}' \
  /dev/null /etc/apt/sources.lis[t] /etc/apt/sources.list.d/*.sources)
[ -n "$mirror" ] || { echo "no Debian mirror in apt's sources" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
apt-get install -y -qq --no-install-recommends patchelf squashfs-tools squashfuse fuse-overlayfs uidmap libseccomp2 \
  libsqlite3-0 ca-certificates debootstrap >/dev/null
cd "$work"
chmod 755 .

fetch() { # fetch SUITE PACKAGE: unpack a package of a suite into ./PACKAGE, with lists of its own
  mkdir -p "lists.$1/partial" "cache.$1/archives/partial"
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
    "$mirror" "$1" >"$1.sources"
  local options=(-qq -o "Dir::Etc::SourceList=$work/$1.sources" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists.$1" -o "Dir::Cache=$work/cache.$1" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" download "$2"
  dpkg -x "$2"_*.deb "$2"
}

fetch sid apptainer
fetch trixie libc6
install -d "$library"
cp -a libc6/usr/lib/$triplet/* "$library/"
for program in apptainer/usr/bin/apptainer apptainer/usr/lib/$triplet/apptainer/bin/starter; do
  patchelf --set-interpreter "$library/ld-linux-x86-64.so.2" --set-rpath "$library" "$program"
done
cp -a apptainer/. /
apptainer config global --set "root default capabilities" no # root in a container may lack some of them
grep -q ^root: /etc/subuid || echo root:100000:65536 | tee -a /etc/subuid >>/etc/subgid
apptainer version
