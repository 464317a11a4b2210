# shellcheck shell=bash
# What every script shares: where the checkout is, and the one cache folder that nothing is compiled twice for. To be sourced.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
export STOKER_CACHE=${STOKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stoker}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$STOKER_CACHE/target}
# The cluster's own kubectl and helm come first.
export PATH=$STOKER_CACHE/bin/current:$PATH

# One selection of packages and targets for every build, so that features, and with them dependencies, stay the same.
build() { cargo build --release --locked --workspace --all-targets; }

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

die() {
	printf '%s\n' "$*" >&2
	exit 1
}
