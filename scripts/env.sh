# shellcheck shell=bash
# What every script shares: where the checkout is, and the one cache folder that nothing is compiled twice for. To be sourced.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
export STOKER_CACHE=${STOKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stoker}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$STOKER_CACHE/target}
# The cluster's own kubectl and helm come first.
export PATH=$STOKER_CACHE/bin/current:$PATH
# As in images/trainer.Containerfile: what is built with CUDA runs with drivers of CUDA 12, too.
export CUDARC_CUDA_VERSION=12090

# One selection of packages and targets for every build, so that features, and with them dependencies, stay the same.
build() { cargo build --release --locked --workspace --all-targets; }

# Builds the images, and tells the programs their names.
build_images() {
	local names
	names=$(images/build operator trainer)
	{ read -r STOKER_OPERATOR_IMAGE && read -r STOKER_TRAINER_IMAGE; } <<<"$names"
	export STOKER_OPERATOR_IMAGE STOKER_TRAINER_IMAGE
}

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

die() {
	printf '%s\n' "$*" >&2
	exit 1
}

# Ends a script that is not run as root: need_root WHAT TARGET. Under sudo cargo and the cache folder are found only with
# the PATH and HOME of the user.
need_root() {
	# shellcheck disable=SC2016 # The user's shell expands them.
	[[ $EUID == 0 ]] || die "$1 needs root: run "'sudo env PATH="$PATH" HOME="$HOME"'" make $2"
}

# Installs Debian packages: apt_install PACKAGE...
apt_install() {
	command -v apt-get >/dev/null || die "This needs the Debian packages $*, and there is no apt-get: install what they hold by hand."
	{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"; } >/dev/null ||
		die "apt-get could not install $*: mend what it says above (it needs root), or install them by hand."
}

# What we are compared with, in a Python environment of its own, whose interpreter STOKER_PEER names; anew when what is
# required changes.
install_peers() {
	local peer=$STOKER_CACHE/peer required=bench/peer/requirements.txt
	export STOKER_PEER=$peer/bin/python
	cmp --silent "$required" "$peer/requirements.txt" && return
	# Debian's python3 alone makes no environments.
	python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
	say "Installing PyTorch, transformers, Polars and pandas (once, some gigabytes)"
	python3 -m venv "$peer"
	"$peer/bin/pip" install --quiet --disable-pip-version-check --requirement "$required"
	cp "$required" "$peer/requirements.txt"
}

# Kernels are linked with the mathematical functions of CUDA's toolkit, which the trainer looks for in these folders. Where
# there is none, it gets the file that PyTorch's Triton brings along.
find_libdevice() {
	local file=nvvm/libdevice/libdevice.10.bc root brought
	local -a roots=(/usr/local/cuda /opt/cuda /usr/lib/cuda /usr)
	for root in ${CUDA_PATH:+"$CUDA_PATH"} "${roots[@]}"; do
		[[ ! -f $root/$file ]] || break
	done
	if [[ ! -f $root/$file ]]; then
		brought=$(compgen -G "$STOKER_CACHE/peer/lib/python3*/site-packages/triton/backends/nvidia/lib/libdevice.10.bc" | head -n 1) ||
			die "There is no $file in ${roots[*]}, nor in PyTorch's Triton: install CUDA's toolkit, and set CUDA_PATH to its folder."
		root=$STOKER_CACHE/cuda
		mkdir -p "$root/${file%/*}"
		ln --force --symbolic "$brought" "$root/$file"
	fi
	export CUDA_PATH=$root
}
