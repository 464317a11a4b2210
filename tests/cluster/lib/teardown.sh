# shellcheck shell=bash
# Ends a cluster and removes what it leaves on the host. To be sourced.

# Ends process 1 of the cluster's namespaces: the kernel then ends the others, unmounts and drops the network.
end_processes() {
	is_alive || return 0
	local node
	node=$(pgrep --parent "$(<"$STATE/pid")") || true
	[[ -z $node ]] || kill -KILL "$node"
	flock --timeout 60 "$STATE/lock" true ||
		die "the cluster '$NAME' did not end within 60 s; look for its processes with: $CLUSTER_DIR/leftovers $NAME"
}

link_is_gone() { [[ ! -e /sys/class/net/$LINK ]]; }

tear_down() {
	end_processes
	wait_until 30 link_is_gone || ip link delete "$LINK"
	wait_until 30 remove_cgroups 2>/dev/null || die "these cgroups of '$NAME' still hold processes: $(list_cgroups)"
	rm -rf "$STATE"
}
