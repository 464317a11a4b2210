# shellcheck shell=bash
# Builds the cluster's programs from Go modules into the cache. To be sourced.
#
# binaries/ is one Go module, so that what the programs share is compiled once. They lie in a folder that is
# named by what they are built from: the module and this recipe.

# The programs and their packages.
declare -A PROGRAMS=(
	[containerd]=github.com/containerd/containerd/v2/cmd/containerd
	[containerd-shim-runc-v2]=github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	[coredns]=./coredns
	[ctr]=github.com/containerd/containerd/v2/cmd/ctr
	[etcd]=go.etcd.io/etcd/server/v3
	[helm]=helm.sh/helm/v4/cmd/helm
	[kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
	[kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
	[kube-proxy]=k8s.io/kubernetes/cmd/kube-proxy
	[kube-scheduler]=k8s.io/kubernetes/cmd/kube-scheduler
	[kubectl]=k8s.io/kubernetes/cmd/kubectl
	[kubelet]=k8s.io/kubernetes/cmd/kubelet
	[kwok]=sigs.k8s.io/kwok/cmd/kwok
	[minio]=github.com/minio/minio
)

version_of() { go list -m -f '{{.Version}}' "$1"; }

# Linker flags: no tables for debuggers, and the versions of the programs that would otherwise report none.
linker_flags() {
	local kubernetes major minor package=k8s.io/component-base/version
	kubernetes=$(version_of k8s.io/kubernetes)
	IFS=. read -r major minor _ <<<"${kubernetes#v}"
	echo "-s -w -X $package.gitVersion=$kubernetes -X $package.gitMajor=$major -X $package.gitMinor=$minor" \
		"-X helm.sh/helm/v4/internal/version.version=$(version_of helm.sh/helm/v4)"
}

# Shows how far `go build -v` is, which names each package that it compiles.
show_progress() {
	local count=0
	while read -r; do
		((++count % 500)) || say "  $count Go packages compiled"
	done
}

# One run of the compiler for all: linking one program and compiling the next go on side by side. Without DWARF,
# of which nothing is kept, an eighth less to do.
go_build() {
	nice go build -v -trimpath -buildvcs=false -mod=readonly -gcflags=all=-dwarf=false -ldflags "$(linker_flags)" "$@"
}

# The folder of the programs, named by what they are built from: the module and the recipe.
programs_folder() {
	local digest
	digest=$({
		cat "$CLUSTER_DIR"/binaries/{go.mod,go.sum,coredns/main.go}
		declare -p PROGRAMS
		declare -f linker_flags go_build
	} | sha256sum)
	printf '%s\n' "$STOKER_CACHE/bin/${digest:0:12}"
}

# compile FOLDER PROGRAM...: lays programs into a folder when all of them are complete. Ends the shell on failure.
compile() {
	local folder=$1 log program started=$SECONDS packages=()
	shift
	for program in "$@"; do packages+=("${PROGRAMS[$program]}"); done
	command -v go >/dev/null || die "Go is not on the PATH; install Go 1.26 or newer."
	say "building from source, once (about 15 minutes for all on two cores): $*"
	work=$(mktemp -d "$folder.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	log=$work/log
	cd "$CLUSTER_DIR/binaries" || exit
	if ! CGO_ENABLED=0 GOWORK=off go_build -o "$work/" "${packages[@]}" 2>&1 | tee "$log" | show_progress; then
		tail -n 20 "$log" >&2
		die "go could not build them; if it could not reach the Go module proxy, mend that and run this again."
	fi
	[[ ! -e $work/server ]] || mv "$work/server" "$work/etcd" # named by the path of etcd's package
	for program in "$@"; do mv "$work/$program" "$folder"; done
	say "built $# Go programs in $((SECONDS - started)) s"
}

# build_programs PROGRAM...: builds what is missing, one build at a time, and points `bin/current` at it.
build_programs() (
	folder=$(programs_folder) work='' missing=()
	mkdir -p "$folder" "$BIN"
	exec 9>"$STOKER_CACHE/bin/lock"
	flock 9
	for program in "$@"; do
		[[ -x $folder/$program ]] || missing+=("$program")
	done
	((${#missing[@]} == 0)) || compile "$folder" "${missing[@]}"
	for program in "$@"; do
		ln --symbolic --force --no-dereference "../${folder##*/}/$program" "$BIN/$program"
	done
)
