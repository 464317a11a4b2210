//! What the operator costs: CPU time and memory as the kernel counts them, API requests as it counts them itself.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams},
    runtime::{conditions::is_pod_running, wait::Condition as _},
};
use serde::Serialize;
use stoker_e2e::{Error, Result, error::ApiContext as _, release, wait::Wait};

/// The program of the operator's container, as the kernel cuts its name.
const PROGRAM: &str = "stoker-operator";
/// Ticks per second in which `/proc` counts CPU time (`USER_HZ` of every Linux).
const TICKS: f64 = 100.0;
/// How long the operator may take to start and to lead.
const LIMIT: Duration = Duration::from_secs(120);

/// The operator's one pod, found from outside: its metrics by address, its process in this machine's `/proc`.
pub(crate) struct Operator {
    metrics: String,
    pid: u32,
}

/// What it has cost since it started.
#[derive(Clone, Debug)]
pub(crate) struct Bill {
    /// User and system time, in seconds.
    pub(crate) cpu_seconds: f64,
    /// The most memory that was resident, in MiB.
    pub(crate) peak_memory_mib: f64,
    /// Requests to the API server, by `verb resource`.
    pub(crate) requests: BTreeMap<String, u64>,
}

/// What a number of objects has cost.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cost {
    /// From the first object to the last that is done, and a little longer.
    pub(crate) cpu_seconds: f64,
    /// The most memory that was resident since the start of the process, in MiB.
    pub(crate) peak_memory_mib: f64,
    /// Of all kinds, the renewals of the leader's Lease included.
    pub(crate) requests_per_object: f64,
    /// Afterwards, with nothing to do.
    pub(crate) requests_per_second_at_rest: f64,
    /// CPU time per second afterwards.
    pub(crate) cpu_at_rest: f64,
    /// Requests per object, by `verb resource`.
    pub(crate) requests: BTreeMap<String, f64>,
    /// Requests per second afterwards, by `verb resource`.
    pub(crate) requests_at_rest: BTreeMap<String, f64>,
}

impl Cost {
    /// The difference that `count` objects made between `before` and `after`, and the `rest` seconds until `later`.
    pub(crate) fn between(before: &Bill, after: &Bill, later: &Bill, count: u32, rest: Duration) -> Self {
        let rest = rest.as_secs_f64();
        let requests = increase(before, after, f64::from(count));
        let requests_at_rest = increase(after, later, rest);
        Self {
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            peak_memory_mib: later.peak_memory_mib,
            requests_per_object: requests.values().sum(),
            requests_per_second_at_rest: requests_at_rest.values().sum(),
            cpu_at_rest: (later.cpu_seconds - after.cpu_seconds) / rest,
            requests,
            requests_at_rest,
        }
    }
}

/// By how much each count of requests has grown, per `unit`.
fn increase(before: &Bill, after: &Bill, unit: f64) -> BTreeMap<String, f64> {
    let grown = after.requests.iter().map(|(call, count)| {
        let more = count - before.requests.get(call).copied().unwrap_or_default();
        (call.clone(), more as f64 / unit)
    });
    grown.filter(|(_, more)| *more > 0.0).collect()
}

impl Operator {
    /// Ends the operator's pods and waits until a new one leads: its counts start from nothing.
    ///
    /// # Errors
    /// If none does within two minutes, or its process is not on this machine.
    pub(crate) async fn restart(client: &Client) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), release::NAMESPACE);
        let params = ListParams::default().labels(release::OPERATOR_PODS);
        let old: Vec<_> =
            pods.list(&params).await.asked("list the operator's pods")?.iter().map(|pod| pod.uid()).collect();
        pods.delete_collection(&DeleteParams::default(), &params).await.asked("restart the operator")?;
        let pod = Wait::new("a new pod of the operator to run", LIMIT)
            .until_any(&pods, release::OPERATOR_PODS, |pods| {
                let is_alone = pods.values().all(|pod| !old.contains(&pod.uid()));
                pods.values().find(|pod| is_alone && is_pod_running().matches_object(Some(pod))).cloned()
            })
            .await?;
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let ip = ip.ok_or_else(|| Error::Unexpected(format!("the pod {} has no address", pod.name_any())))?;
        let metrics = format!("http://{ip}:8080/metrics");
        Wait::new("the operator to lead", LIMIT).until_ok(async || leads(&metrics).await).await?;
        Ok(Self { pid: pid_of(&pod.uid().unwrap_or_default())?, metrics })
    }

    /// What it has cost until now.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) async fn bill(&self) -> Result<Bill> {
        let text = scrape(&self.metrics).await.map_err(Error::Unexpected)?;
        let (stat, status) = (proc_file(self.pid, "stat")?, proc_file(self.pid, "status")?);
        let unreadable = || Error::Unexpected(format!("/proc/{} does not say what the operator uses", self.pid));
        Ok(Bill {
            cpu_seconds: cpu_seconds(&stat).ok_or_else(unreadable)?,
            peak_memory_mib: peak_memory_mib(&status).ok_or_else(unreadable)?,
            requests: requests(&text),
        })
    }
}

async fn scrape(url: &str) -> std::result::Result<String, String> {
    let answer = reqwest::get(url).await.and_then(reqwest::Response::error_for_status);
    let answer = answer.map_err(|error| format!("the operator's metrics: {error}"))?;
    answer.text().await.map_err(|error| format!("the operator's metrics: {error}"))
}

async fn leads(url: &str) -> std::result::Result<(), String> {
    let text = scrape(url).await?;
    let line = text.lines().find(|line| line.starts_with("stoker_leader "));
    if line == Some("stoker_leader 1") { Ok(()) } else { Err(format!("{line:?}")) }
}

/// The counters of API requests in a text of metrics, by `verb resource`.
fn requests(metrics: &str) -> BTreeMap<String, u64> {
    let count = |line: &str| {
        let (labels, value) = line.strip_prefix("stoker_api_requests_total{")?.split_once("} ")?;
        let label = |name: &str| {
            labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
        };
        Some((format!("{} {}", label("verb")?, label("resource")?), value.split(' ').next()?.parse().ok()?))
    };
    metrics.lines().filter_map(count).collect()
}

/// The operator's process: the one of its name in the pod's cgroup.
fn pid_of(pod_uid: &str) -> Result<u32> {
    let processes = fs::read_dir("/proc").map_err(|source| Error::File { path: "/proc".into(), source })?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process that ends meanwhile has no files any more.
    let is_it = |pid: &u32| {
        let file = |name| proc_file(*pid, name).unwrap_or_default();
        file("comm").trim() == PROGRAM && file("cgroup").contains(pod_uid)
    };
    pids.into_iter().find(is_it).ok_or_else(|| {
        Error::Unexpected(format!(
            "no process {PROGRAM} of the pod {pod_uid} runs here: is the cluster on another machine?"
        ))
    })
}

fn proc_file(pid: u32, name: &str) -> Result<String> {
    let path = Path::new("/proc").join(pid.to_string()).join(name);
    fs::read_to_string(&path).map_err(|source| Error::File { path, source })
}

/// User and system time of `/proc/<pid>/stat`: fields 14 and 15; the name, field 2, may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    Some((times.next()?? + times.next()??) / TICKS)
}

/// `VmHWM` of `/proc/<pid>/status`.
fn peak_memory_mib(status: &str) -> Option<f64> {
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_time() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 1000 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(2.0));
    }

    #[test]
    fn requests_are_counted_by_verb_and_resource() {
        let metrics = "# TYPE stoker_api_requests counter\n\
            stoker_api_requests_total{verb=\"patch\",resource=\"jobs\"} 7\n\
            stoker_api_requests_total{verb=\"get\",resource=\"pods/log\"} 1\nstoker_leader 1\n";
        let expected = [("get pods/log".to_owned(), 1), ("patch jobs".to_owned(), 7)];
        assert_eq!(requests(metrics), expected.into());
    }

    #[test]
    fn costs_are_what_came_on_top() {
        let bill = |cpu_seconds, leases, jobs| Bill {
            cpu_seconds,
            peak_memory_mib: 10.0,
            requests: [("update leases".to_owned(), leases), ("patch jobs".to_owned(), jobs)].into(),
        };
        let cost =
            Cost::between(&bill(1.0, 1, 0), &bill(3.0, 3, 200), &bill(3.5, 9, 200), 100, Duration::from_secs(30));
        assert_eq!((cost.cpu_seconds, cost.requests_per_object, cost.requests_per_second_at_rest), (2.0, 2.02, 0.2));
        assert_eq!(cost.requests_at_rest, [("update leases".to_owned(), 0.2)].into());
    }
}
