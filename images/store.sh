# shellcheck shell=bash
# The images that were built here: buildah's storage in the cache folder, no daemon, no registry. To be sourced.

STOKER_CACHE=${STOKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stoker}
IMAGE_STORE=$STOKER_CACHE/images

store() {
	local config=$IMAGE_STORE/containers.conf
	if [[ ! -e $config ]]; then
		mkdir -p "$IMAGE_STORE"
		# By default buildah would make a folder in /etc for networks that no build here uses.
		printf '[network]\nnetwork_config_dir = "%s"\n' "$IMAGE_STORE/network" >"$config"
	fi
	CONTAINERS_CONF=$config buildah --root "$IMAGE_STORE/storage" --runroot "$IMAGE_STORE/run" --storage-driver vfs "$@"
}

# The name as a container runtime completes it: a pod's `stoker-operator:dev` is this image.
full_name() {
	case $1 in
	*/*) printf '%s\n' "$1" ;;
	*) printf 'docker.io/library/%s\n' "$1" ;;
	esac
}

# The id of an image; nothing where there is none.
image_id() { store images --quiet "$(full_name "$1")" 2>/dev/null; }

# The size of an image, unpacked.
image_size() { store images --noheading --format '{{.Size}}' "$(full_name "$1")" | sort --unique; }

# build_image NAME DIGEST CONTAINERFILE CONTEXT [KEY=VALUE...]: builds NAME:DIGEST with the build arguments,
# tags it NAME:dev too, and drops the builds of NAME before it.
build_image() {
	local name digest=$2 containerfile=$3 context=$4 arguments=() tag
	name=$(full_name "$1")
	shift 4
	while (($#)); do
		arguments+=(--build-arg "$1")
		shift
	done
	(
		flock 9
		store bud --quiet --isolation chroot --pull=false --timestamp 0 "${arguments[@]}" \
			--file "$containerfile" --tag "$name:dev" --tag "$name:$digest" "$context" >/dev/null
		for tag in $(store images --noheading --format '{{.Name}}:{{.Tag}}'); do
			case $tag in
			"$name:dev" | "$name:$digest") ;;
			"$name":*) store rmi "$tag" >/dev/null ;;
			esac
		done
		store rm --all >/dev/null # buildah keeps a container for each stage that only renames another
		store rmi --prune >/dev/null
	) 9>"$IMAGE_STORE/lock"
}

# copy_libraries PROGRAM FOLDER: lays the shared libraries that a program loads, if any, below a folder.
copy_libraries() {
	local library
	# ldd fails on a static program.
	{ ldd "$1" 2>/dev/null || true; } | sed -n 's|.*\s\(/[^ ]*\) (.*|\1|p' | while read -r library; do
		install -D --mode 755 "$library" "$2$library"
	done
}

# export_image NAME FILE: writes the image as an archive that carries its name.
export_image() {
	store push --quiet --disable-compression "$(full_name "$1")" "docker-archive:$2:$(full_name "$1")"
}
