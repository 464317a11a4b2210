# shellcheck shell=bash
# Names, paths and messages that the scripts of the cluster share. To be sourced.
# shellcheck disable=SC2034 # the variables are for the scripts that source this file
set -euo pipefail

CLUSTER_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STOKER_CACHE=${STOKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stoker}
BIN=$STOKER_CACHE/bin/current
PATH=$BIN:$PATH

say() { printf '%s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

require_root() {
	((EUID == 0)) || die "the cluster makes namespaces and mounts, which needs root; run it again as root."
}

# Sets what is true of the cluster NAME. A cluster owns one /16, so the host needs a single route to it:
# pods in the first part, services in the middle, and at the end the link between the host and the node.
select_cluster() {
	local net
	NAME=$1
	case $NAME in
	demo) net=10.200 ;;
	test) net=10.201 ;;
	bench) net=10.202 ;;
	*) die "there is no cluster named '$NAME'; the names are 'demo', 'test' and 'bench'." ;;
	esac
	CIDR=$net.0.0/16
	PODS=$net.0.0/20
	SERVICES=$net.128.0/18
	API_SERVICE_IP=$net.128.1
	NODE_IP=$net.255.1
	HOST_IP=$net.255.2
	LINK=stoker-$NAME
	CGROUP=stoker-$NAME
	STATE=$STOKER_CACHE/clusters/$NAME
	export STOKER_CLUSTER=$NAME KUBECONFIG=$STATE/kubeconfig
	# What kubectl remembers of an API must not outlive it.
	export KUBECACHEDIR=$STATE/kubectl
}

# The process tree of a cluster holds its lock until its last process is gone: so the lock says whether the
# cluster is alive, and no process id from before a reboot is mistaken for one of ours.
is_alive() { [[ -e $STATE/lock ]] && ! flock --nonblock "$STATE/lock" true; }

# Makes the scripts that start and end clusters wait for each other.
take_turns() {
	mkdir -p "$STOKER_CACHE/clusters"
	exec 7>"$STOKER_CACHE/clusters/lock"
	flock 7
}

# wait_until SECONDS COMMAND...: true as soon as the command succeeds.
wait_until() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		((SECONDS < deadline)) || return 1
		sleep 0.2
	done
}
