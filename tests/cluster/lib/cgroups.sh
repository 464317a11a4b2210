# shellcheck shell=bash disable=SC2153 # CGROUP is set by select_cluster
# The cgroup below which a cluster's pods live. To be sourced.

# The folders in which cgroups are made: one for each hierarchy of version 1, or the one of version 2.
cgroup_hierarchies() {
	findmnt --noheadings --output TARGET --types cgroup || findmnt --noheadings --output TARGET --types cgroup2
}

# A cgroup of its own keeps the kubelets of two clusters from reaping each other's pods.
make_cgroups() {
	local hierarchy file controller
	while read -r hierarchy; do
		if [[ -e $hierarchy/cgroup.subtree_control ]]; then
			for controller in $(<"$hierarchy/cgroup.controllers"); do
				echo "+$controller" >"$hierarchy/cgroup.subtree_control"
			done
		fi
		mkdir -p "$hierarchy/$CGROUP"
		for file in cpuset.cpus cpuset.mems; do
			# A cpuset of version 1 starts empty, and no process can enter an empty one.
			[[ ! -e $hierarchy/cgroup.clone_children || ! -e $hierarchy/$file ]] ||
				cat "$hierarchy/$file" >"$hierarchy/$CGROUP/$file"
		done
	done < <(cgroup_hierarchies)
}

# Prints the cgroups of the cluster, children first.
list_cgroups() {
	local hierarchy
	while read -r hierarchy; do
		[[ ! -d $hierarchy/$CGROUP ]] || find "$hierarchy/$CGROUP" -depth -type d
	done < <(cgroup_hierarchies)
}

remove_cgroups() {
	local cgroup
	while read -r cgroup; do rmdir "$cgroup" || return; done < <(list_cgroups)
}
