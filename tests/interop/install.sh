#!/bin/sh
# Installs what the interop tests drive: Debian's packages, and two environments under .interop/ from locks with hashes.
# Does only what is missing, asks nothing, and without root says what is missing. Usage: tests/interop/install.sh [PYTHON]
set -eu
cd "$(dirname "$0")/../.."
python=${1:-python3}
locks=requirements

# swig, gcc and the headers build pyscard, which has no wheels; unshare (util-linux) and ip make the reader's network.
packages="pcscd vsmartcard-vpcd opensc cardpeek swig libpcsclite-dev gcc libc6-dev util-linux iproute2"
header='import pathlib, sysconfig; print(pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
[ "$($python -c "$header")" = True ] || packages="$packages python3-dev"

missing=""
for package in $packages; do
  case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)" in
    ii*) ;;
    *) missing="$missing $package" ;;
  esac
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "interop-deps: missing packages; as root: apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of names
  apt-get install -qq -y --no-install-recommends $missing </dev/null
fi

# environment NAME LOCK: the stamp, a copy of the lock, comes last, so that a broken run is begun anew.
environment() {
  stamp=".interop/$1/.ready"
  if [ -e "$stamp" ] && cmp -s "$locks/$2" "$stamp"; then
    return
  fi
  rm -rf ".interop/$1"
  "$python" -m venv ".interop/$1"
  pip=".interop/$1/bin/pip"
  "$pip" install --quiet --disable-pip-version-check --require-hashes -r "$locks/interop-build.lock"
  "$pip" install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation -r "$locks/$2"
  cp "$locks/$2" "$stamp"
}
environment readers interop.lock
environment emv interop-emv.lock
