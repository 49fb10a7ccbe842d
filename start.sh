#!/bin/bash
# Install what is missing, build mitmdump and start it.
#
#   ./start.sh [ARGUMENTS OF MITMDUMP…]
#
# Needs a Rust toolchain (cargo); on Debian and its kin the rest is installed with apt-get: a C
# compiler, for the cryptography and compression libraries, and Perl and make, for OpenSSL. No CMake,
# no Go, no OpenSSL headers.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v cargo >/dev/null; then
  echo "start.sh: cargo was not found; install a Rust toolchain first (for instance: rustup)" >&2
  exit 1
fi

missing=()
if ! command -v cc >/dev/null || ! echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1; then
  missing+=(gcc libc6-dev)
fi
command -v make >/dev/null || missing+=(make)
# Not every Perl has its standard library.
perl -MFindBin -MIPC::Cmd -e 1 2>/dev/null || missing+=(perl)

if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "start.sh: these are needed; please install them: ${missing[*]}" >&2
    exit 1
  fi
  echo "start.sh: installing ${missing[*]}" >&2
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq >/dev/null
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

cargo build --release --locked -p mitm-cli --bin mitmdump
exec "${CARGO_TARGET_DIR:-target}/release/mitmdump" "$@"
