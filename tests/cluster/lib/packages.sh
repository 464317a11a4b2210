# shellcheck shell=bash
# The Debian packages that the cluster, the images and the tests need. To be sourced.

PACKAGES=(
	buildah busybox-static ca-certificates catatonit conntrack containernetworking-plugins curl gettext-base
	iproute2 iptables jq lua5.1 nftables openssl procps runc util-linux
)

missing_packages() {
	local package
	for package in "${PACKAGES[@]}"; do
		[[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
			printf '%s\n' "$package"
	done
}

install_packages() {
	local missing log
	command -v apt-get >/dev/null ||
		die "the cluster is made for Debian 12 and its packages; on another system install by hand: ${PACKAGES[*]}"
	mapfile -t missing < <(missing_packages)
	((${#missing[@]})) || return 0
	require_root
	say "installing Debian packages: ${missing[*]}"
	log=$(mktemp)
	if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
		"${missing[@]}"; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		die "apt-get could not install the packages above; see $log, mend it, and run this again."
	fi
	rm "$log"
}
