# shellcheck shell=bash
# The link between the host and the node. To be sourced.

# Runs inside the node's network namespace; file descriptor 9 is the host's.
connect_to_host() {
	local on_host=(nsenter --net=/proc/self/fd/9)
	ip link set lo up
	ip link add eth0 type veth peer name "$LINK" netns /proc/self/fd/9
	ip address add "$NODE_IP/30" dev eth0
	ip link set eth0 up
	# The node's own processes reach a Service by a route that only has to exist: kube-proxy redirects.
	ip route add "$SERVICES" dev eth0
	sysctl --quiet net.ipv4.ip_forward=1

	"${on_host[@]}" ip address add "$HOST_IP/30" dev "$LINK"
	"${on_host[@]}" ip link set "$LINK" up
	"${on_host[@]}" ip route add "$CIDR" via "$NODE_IP"
}

# Fails where the host already uses addresses of the cluster.
check_addresses_are_free() {
	local taken
	taken=$(ip route show root "$CIDR")
	[[ -z $taken ]] || die "the cluster '$NAME' needs $CIDR, which this host already routes: $taken
Remove that route, or change the cluster's network in $CLUSTER_DIR/lib/common.sh."
}
