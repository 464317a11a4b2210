# shellcheck shell=bash disable=SC2153 # CGROUP is set by select_cluster
# The cgroup below which a cluster's pods live. To be sourced.

# The folders in which a cluster's cgroups can be: a mount for each hierarchy of version 1, one of version 2,
# or, on a machine with both, all of these.
cgroup_mounts() { findmnt --noheadings --output TARGET --types cgroup,cgroup2; }

# A cgroup of its own keeps the kubelets of two clusters from reaping each other's pods.
make_cgroups() {
	local folder controller file
	while read -r folder; do
		if [[ -e $folder/cgroup.subtree_control ]]; then
			for controller in $(<"$folder/cgroup.controllers"); do
				echo "+$controller" >"$folder/cgroup.subtree_control"
			done
		fi
		mkdir -p "$folder/$CGROUP"
		for file in cpuset.cpus cpuset.mems; do
			# A cpuset of version 1 starts empty, and no process can enter an empty one.
			[[ ! -e $folder/cgroup.clone_children || ! -e $folder/$file ]] ||
				cat "$folder/$file" >"$folder/$CGROUP/$file"
		done
	done < <(cgroup_mounts)
}

# Prints the cgroups of the cluster, children first.
list_cgroups() {
	local folder
	while read -r folder; do
		[[ ! -d $folder/$CGROUP ]] || find "$folder/$CGROUP" -depth -type d
	done < <(cgroup_mounts)
}

remove_cgroups() {
	local cgroup
	while read -r cgroup; do rmdir "$cgroup" || return; done < <(list_cgroups)
}
