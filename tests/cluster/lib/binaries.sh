# shellcheck shell=bash
# Builds the cluster's programs from Go modules into the cache. To be sourced.
#
# Each folder under binaries/ is a group: a go.mod whose `tool` directives name the programs. A group is
# built once for each content of its go.mod and go.sum, into a folder that appears only when complete.

# shellcheck disable=SC2034 # for the scripts that source this file
GROUPS_OF_BINARIES=(kubernetes containerd coredns minio helm kwok)

# The program's name, from the path of its package: `…/etcd/server/v3` is `etcd`, `…/cmd/kubelet` is `kubelet`.
program_of() {
	case $1 in
	go.etcd.io/etcd/server/v3) echo etcd ;;
	*) basename "$1" ;;
	esac
}

# Linker flags for the programs that would otherwise report no version.
version_flags() {
	local group=$1 version
	case $group in
	kubernetes)
		version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
		local package=k8s.io/component-base/version major minor
		IFS=. read -r major minor _ <<<"${version#v}"
		echo "-X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
		;;
	helm)
		version=$(go list -m -f '{{.Version}}' helm.sh/helm/v4)
		echo "-X helm.sh/helm/v4/internal/version.version=$version"
		;;
	esac
}

# The folder of a group's programs, named by what they are built from: the modules and the recipe.
group_folder() {
	local group=$1 source=$CLUSTER_DIR/binaries/$1 digest
	digest=$({
		cat "$source/go.mod" "$source/go.sum"
		declare -f program_of version_flags build_program
	} | sha256sum)
	printf '%s\n' "$STOKER_CACHE/bin/$group-${digest:0:12}"
}

build_program() {
	local package=$1 output=$2 flags=$3 started=$SECONDS
	printf '  %s … ' "$(basename "$output")" >&2
	if ! nice go build -trimpath -buildvcs=false -mod=readonly -ldflags "-s -w $flags" \
		-o "$output" "$package" 2>"$output.log"; then
		say "failed"
		tail -n 20 "$output.log" >&2
		die "go could not build $package; if it could not reach the Go module proxy, mend that and run this again."
	fi
	rm "$output.log"
	say "$((SECONDS - started)) s"
}

# Runs in a subshell, whose lock and folder of work end with it.
build_group() (
	group=$1 folder=$(group_folder "$1")
	[[ -d $folder ]] && exit 0
	command -v go >/dev/null || die "Go is not on the PATH; install Go 1.26 or newer."
	exec 9>"$STOKER_CACHE/bin/$group.lock"
	flock 9
	[[ -d $folder ]] && exit 0
	cd "$CLUSTER_DIR/binaries/$group" || exit
	export CGO_ENABLED=0 GOWORK=off
	say "building $group (once; it is kept in $folder)"
	work=$(mktemp -d "$STOKER_CACHE/bin/$group.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	flags=$(version_flags "$group")
	for package in $(go list -f '{{.ImportPath}}' tool); do
		build_program "$package" "$work/$(program_of "$package")" "$flags"
	done
	chmod 755 "$work"
	mv --no-target-directory "$work" "$folder"
)

# build_binaries GROUP...: builds what is missing and points `bin/current` at it.
build_binaries() {
	local group program
	mkdir -p "$STOKER_CACHE/bin/current"
	for group in "$@"; do
		build_group "$group"
		for program in "$(group_folder "$group")"/*; do
			ln --symbolic --force --no-dereference "../${program#"$STOKER_CACHE/bin/"}" \
				"$STOKER_CACHE/bin/current/${program##*/}"
		done
	done
}
