//! What comparisons came to, as a table and as JSON lines.

use serde::Serialize;
use stoker_e2e::{Error, Result};

use super::peer::Mode;
use crate::output::{Output, Table, number};

const HEAD: [&str; 8] = [
    "",
    "Stoker",
    "PyTorch eager",
    "PyTorch compiled",
    "× eager",
    "× the faster one",
    "loss: Stoker, PyTorch",
    "to reach",
];

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// So many times the speed of PyTorch as it stands.
    Eager(f64),
    /// So many times the speed of the fastest PyTorch, and better so many times.
    Best(f64, f64),
}

/// What one side came to in all repetitions.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Speed {
    /// The median of the repetitions, per second.
    pub(super) median: f64,
    slowest: f64,
    fastest: f64,
    repetitions: usize,
}

impl Speed {
    /// # Errors
    /// If there was no repetition.
    pub(super) fn of(mut speeds: Vec<f64>) -> Result<Self> {
        speeds.sort_by(f64::total_cmp);
        match (speeds.first(), speeds.get(speeds.len() / 2), speeds.last()) {
            (Some(&slowest), Some(&median), Some(&fastest)) => {
                Ok(Self { median, slowest, fastest, repetitions: speeds.len() })
            }
            _ => Err(Error::Unexpected("nothing was repeated".into())),
        }
    }

    /// With how far the repetitions lie apart, if there were several.
    pub(super) fn show(&self) -> String {
        match self.repetitions {
            1 => number(self.median),
            _ => format!("{} ±{:.0} %", number(self.median), (self.fastest - self.slowest) / self.median * 50.0),
        }
    }
}

/// What PyTorch came to in one mode.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OfPeer {
    #[serde(flatten)]
    pub(super) mode: Mode,
    #[serde(flatten)]
    pub(super) speed: Speed,
}

/// What a comparison came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    pub(super) task: String,
    pub(super) unit: &'static str,
    /// What Stoker has computed on, by its name.
    pub(super) device: String,
    pub(super) stoker: Speed,
    pub(super) peers: Vec<OfPeer>,
    pub(super) loss: f64,
    pub(super) peer_loss: f64,
    pub(super) losses_agree: bool,
}

impl Figures {
    fn peer(&self, is_compiled: bool) -> Option<&OfPeer> {
        self.peers.iter().find(|peer| peer.mode.is_compiled == is_compiled)
    }

    /// The speed of the peer's fastest mode.
    pub(super) fn fastest_peer(&self) -> f64 {
        self.peers.iter().map(|peer| peer.speed.median).fold(0.0, f64::max)
    }

    fn row(&self, target: Target) -> [String; 8] {
        let eager = self.peer(false).map(|eager| self.stoker.median / eager.speed.median);
        let best = self.stoker.median / self.fastest_peer();
        let verdict = |ratio: f64, least: f64| if ratio >= least { "reached" } else { "missed" };
        let target = match target {
            Target::Eager(least) => format!("≥ {least} × eager: {}", verdict(eager.unwrap_or_default(), least)),
            Target::Best(least, aim) => {
                format!("≥ {least} × the faster one: {}; aim {aim}: {}", verdict(best, least), verdict(best, aim))
            }
        };
        let or_none = |shown: Option<String>| shown.unwrap_or_else(|| "—".into());
        let peer = |is_compiled| {
            let OfPeer { mode, speed } = self.peer(is_compiled)?;
            Some(speed.show() + &mode.on_threads())
        };
        let sign = if self.losses_agree { "≈" } else { "≠" };
        [
            format!("{}, {}/s", self.task, self.unit),
            self.stoker.show(),
            or_none(peer(false)),
            or_none(peer(true)),
            or_none(eager.map(|ratio| format!("{ratio:.2}"))),
            format!("{best:.2}"),
            format!("{:.4} {sign} {:.4}", self.loss, self.peer_loss),
            target,
        ]
    }
}

/// Prints the table of comparisons.
///
/// # Errors
/// If the sides of one do not reach the same loss.
pub(super) fn report<'a>(all: impl IntoIterator<Item = (&'a Figures, Target)>, output: &mut Output) -> Result<()> {
    let mut table = Table::new(HEAD);
    let mut apart = Vec::new();
    for (figures, target) in all {
        output.record("beside PyTorch", figures)?;
        table.row(figures.row(target));
        if !figures.losses_agree {
            apart.push(figures.task.as_str());
        }
    }
    println!("\n{}", table.markdown());
    match apart.is_empty() {
        true => Ok(()),
        false => Err(Error::Unexpected(format!("both sides do not reach the same loss: {}", apart.join("; ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_the_median_and_says_how_far_the_others_are() {
        let speed = Speed::of(vec![110.0, 90.0, 100.0]).unwrap();
        assert_eq!((speed.median, speed.show().as_str()), (100.0, "100 ±10 %"));
        assert_eq!(Speed::of(vec![100.0]).unwrap().show(), "100");
        assert!(Speed::of(Vec::new()).is_err());
    }

    #[test]
    fn a_mode_that_was_not_run_is_left_out_and_a_gpu_has_no_threads() {
        let speed = |speed| Speed::of(vec![speed]).unwrap();
        let compiled = |threads| OfPeer { mode: Mode { is_compiled: true, threads }, speed: speed(200.0) };
        let eager = OfPeer { mode: Mode { is_compiled: false, threads: Some(1) }, speed: speed(100.0) };
        let row = |peers| {
            let (task, device, stoker) = ("GPT".into(), "CPU".into(), speed(300.0));
            let figures =
                Figures { task, unit: "tokens", device, stoker, peers, loss: 1.0, peer_loss: 1.0, losses_agree: true };
            figures.row(Target::Best(1.0, 2.0))[2..6].join("; ")
        };
        assert_eq!(row(vec![eager, compiled(Some(2))]), "100, 1 thread; 200, 2 threads; 3.00; 1.50");
        assert_eq!(row(vec![compiled(None)]), "—; 200; —; 1.50");
    }
}
