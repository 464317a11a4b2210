//! What the figures were taken on.

use std::{fmt, path::Path};

use jiff::Timestamp;
use serde::Serialize;
use stoker_e2e::{Error, Result};

/// The machine, and how busy it was already.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    time: Timestamp,
    cpu: String,
    /// The widest vectors that it computes with; its name does not tell that of a virtual machine.
    vectors: &'static str,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    /// Processes that wanted a core, averaged over the last minute.
    load: f64,
}

impl Machine {
    /// This machine, now.
    ///
    /// # Errors
    /// If the system does not say.
    pub(crate) fn this() -> Result<Self> {
        let kib =
            field(&read("/proc/meminfo")?, "MemTotal").and_then(|total| total.split(' ').next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg")?.split(' ').next().and_then(|load| load.parse().ok());
        let cpu = read("/proc/cpuinfo")?;
        Ok(Self {
            time: Timestamp::now(),
            cpu: field(&cpu, "model name").unwrap_or_else(|| "unknown".into()),
            vectors: widest_vectors(&field(&cpu, "flags").unwrap_or_default()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib.unwrap_or_default() >> 20,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.unwrap_or_default(),
        })
    }
}

fn widest_vectors(flags: &str) -> &'static str {
    let has = |flag| flags.split(' ').any(|found| found == flag);
    match (has("avx512f"), has("avx2")) {
        (true, _) => "AVX-512",
        (false, true) => "AVX2",
        (false, false) => "without AVX2",
    }
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).next()
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: Path::new(path).to_owned(), source })
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, cpu, vectors, cores, memory_gib, kernel, load } = self;
        write!(
            f,
            "{cpu} ({vectors}), {cores} cores, {memory_gib} GiB, Linux {kernel}, load {load} before the start, {time:.0}"
        )
    }
}
