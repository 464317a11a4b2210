# shellcheck shell=bash
# The images of the tests: the sandbox of every pod, an S3 server, a shell. To be sourced.

# shellcheck source=../../../images/store.sh
source "$CLUSTER_DIR/../../images/store.sh"

# test_image NAME PROGRAM...: builds the image `stoker-NAME:dev` of images/NAME.Containerfile, whose build
# context holds the programs and their shared libraries, unless the very same was built before.
test_image() {
	local name=stoker-$1 containerfile=$CLUSTER_DIR/images/$1.Containerfile program digest context
	shift
	digest=$(cat "$containerfile" "$@" | sha256sum | cut -c-12)
	[[ -z $(image_id "$name:$digest") ]] || return 0
	say "building the image $name:dev"
	context=$(mktemp -d)
	cp "$@" "$context"
	mkdir "$context/libraries"
	for program in "$@"; do copy_libraries "$program" "$context/libraries"; done
	build_image "$name" "$digest" "$containerfile" "$context"
	rm -rf "$context"
}

build_test_images() {
	test_image pause /usr/bin/catatonit
	test_image toolbox /bin/busybox /usr/bin/curl
	[[ ! -x $BIN/minio ]] || test_image minio /bin/busybox "$BIN/minio"
}
