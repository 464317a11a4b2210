//! What becomes of memory that a training frees.

use std::ffi::{OsStr, OsString};

/// The environment variable that glibc reads when a process starts, and at no other time.
const VARIABLE: &str = "GLIBC_TUNABLES";

/// Nothing that was freed is given back to the system, whatever its size; all threads share one heap, so that each takes
/// what another has freed; and memory comes in huge pages, where the system has them.
const TUNABLES: &str = "glibc.malloc.mmap_threshold=9223372036854775807:glibc.malloc.trim_threshold=9223372036854775807:\
                        glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1";

/// Lets glibc keep what is freed for what is allocated next: starts this program anew, with the same arguments and as the
/// same process, unless that was done already or the variable says otherwise.
///
/// A training frees at each step what it allocates again at the next, and glibc would give it back in between: the system
/// then clears every page at every step, which takes a fourth of the time of a small transformer's. What is kept is about the
/// most that was needed at once.
pub(crate) fn keep_freed_memory() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if let Err(error) = restart(&name, arguments) {
        tracing::warn!(%error, "cannot start again with {VARIABLE}={TUNABLES}: steps take longer than they could");
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn restart(name: &OsStr, arguments: impl Iterator<Item = OsString>) -> std::io::Result<()> {
    use std::os::unix::process::CommandExt;

    let mut command = std::process::Command::new(std::env::current_exe()?);
    // Only returns if it fails.
    Err(command.arg0(name).args(arguments).env(VARIABLE, TUNABLES).exec())
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn restart(_: &OsStr, _: impl Iterator<Item = OsString>) -> std::io::Result<()> {
    Ok(())
}
