//! How much memory the machine, and the container on it, have.

use std::fs;

/// Where the container's limit stands, in the second and the first version of control groups.
const CGROUP_MEMORY_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// What the system says of memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    cgroup: Option<String>,
    meminfo: Option<String>,
}

impl Memory {
    /// As it is now.
    pub(crate) fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        Self { cgroup: CGROUP_MEMORY_LIMITS.iter().find_map(|path| read(path)), meminfo: read("/proc/meminfo") }
    }

    /// The smaller of the container's limit and what the machine has free, in bytes.
    pub(crate) fn available(&self) -> Option<u64> {
        self.within_limit("MemAvailable:")
    }

    /// The smaller of the container's limit and what the machine has, in bytes.
    pub(crate) fn total(&self) -> Option<u64> {
        self.within_limit("MemTotal:")
    }

    fn within_limit(&self, field: &str) -> Option<u64> {
        let limit = self.cgroup.as_deref().and_then(|text| text.trim().parse().ok());
        let line = self.meminfo.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix(field)));
        let kilobytes = line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        limit.into_iter().chain(kilobytes.map(|kilobytes| kilobytes.saturating_mul(1024))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_by_the_container_and_by_the_machine() {
        let meminfo = || Some("MemTotal:       32768 kB\nMemAvailable:   2048 kB\n".to_owned());
        let unlimited = Memory { cgroup: Some("max\n".into()), meminfo: meminfo() };
        assert_eq!((unlimited.available(), unlimited.total()), (Some(2 << 20), Some(32 << 20)));
        let limited = Memory { cgroup: Some("1048576\n".into()), meminfo: meminfo() };
        assert_eq!((limited.available(), limited.total()), (Some(1 << 20), Some(1 << 20)));
        assert_eq!(Memory::default().total(), None);
    }
}
