#!/bin/bash
# Install what is missing, build mitmdump and start it.
#
#   ./start.sh [ARGUMENTS OF MITMDUMP…]
#
# Needs a Rust toolchain (cargo); on Debian and its kin the rest is installed with apt-get: a C
# compiler, for the cryptography and compression libraries. No CMake, no Go, no OpenSSL headers.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v cargo >/dev/null; then
  echo "start.sh: cargo was not found; install a Rust toolchain first (for instance: rustup)" >&2
  exit 1
fi

if ! command -v cc >/dev/null || ! echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1; then
  if ! command -v apt-get >/dev/null; then
    echo "start.sh: a C compiler with the C library's headers is needed; please install it" >&2
    exit 1
  fi
  echo "start.sh: installing a C compiler" >&2
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq >/dev/null
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null
fi

cargo build --release --locked -p mitm-cli --bin mitmdump
exec "${CARGO_TARGET_DIR:-target}/release/mitmdump" "$@"
