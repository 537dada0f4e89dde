#!/bin/sh
# Makes the hash-locked requirement files from the .in files. Needs `uv` on PATH, in an environment of its own.
# No index address may end up in a lock: the last command refuses one.
set -eu
cd "$(dirname "$0")/.."
for name in run dev interop interop-emv interop-build; do
  env -u UV_INDEX_URL -u UV_DEFAULT_INDEX -u UV_EXTRA_INDEX_URL uv pip compile -q --no-config \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
    --no-header --no-annotate "requirements/$name.in" -o "requirements/$name.lock"
done
! grep -nE 'https?:|file:|--(extra-)?index|--find-links|@ ' requirements/*.lock
