//! What checkpoints cost the step loop, and how fast they get to storage, beside a plain upload of as many bytes.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use object_store::{ObjectStoreExt as _, WriteMultipart, aws::AmazonS3, path::Path};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stoker_crds::{ModelTrainingSpec, progress::Stage, training::optimize::Checkpoint};
use stoker_e2e::{Error, Result};
use tokio::{sync::mpsc, time::sleep};

use super::{figures::Speed, s3::S3};
use crate::{
    examples,
    output::{Output, Table, number},
    trainer::{self, Steps, Trainer},
};

/// Time between two checkpoints.
const EVERY: Duration = Duration::from_secs(30);
/// How many are waited for.
const COUNT: usize = 3;
/// How long after a checkpoint as many bytes are uploaded by hand, and how long after the last one the run goes on.
const PAUSE: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(16)];
/// What the trainer logs when a checkpoint is in storage.
const WRITTEN: &str = "a checkpoint is written";
/// How often a plain upload may fail and is made again: only a whole one tells how fast uploads are.
const MOST_FAILURES: usize = 2;
/// Steps before those that are looked at.
const WARM_UP: u64 = 20;
/// The largest share of the time that the steps may stand still.
const MOST_STALLED: f64 = 0.02;
/// The least share of a plain upload's speed.
const LEAST_SPEED: f64 = 0.8;

/// A checkpoint, as the trainer logs it when it is in storage.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Written {
    timestamp: Timestamp,
    bytes: u64,
    /// From the beginning of the write.
    seconds: f64,
}

/// The checkpoints that a log tells of.
fn written(log: &str) -> Vec<Written> {
    log.lines().filter(|line| line.contains(WRITTEN)).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Something that went on beside the steps.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    until: Instant,
    bytes: u64,
}

impl Window {
    /// From the clock of the log to that of the steps, by a moment of both.
    fn of(written: &Written, (instant, timestamp): (Instant, Timestamp)) -> Self {
        let until = instant + written.timestamp.duration_since(timestamp).unsigned_abs();
        Self { from: until - Duration::from_secs_f64(written.seconds), until, bytes: written.bytes }
    }

    fn seconds(&self) -> f64 {
        (self.until - self.from).as_secs_f64()
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    bytes: u64,
    /// The share of the time that the steps stand still, by the trainer's own count.
    stalled: f64,
    /// See [`slowed_by`].
    slowed_by: f64,
    /// From the beginning of the write until the checkpoint is whole, with steps going on.
    bytes_per_second: Speed,
    /// Of a plain upload, with steps going on.
    plain_bytes_per_second: Speed,
}

/// Trains a model of 10 million parameters, with a checkpoint each 30 s to an S3 server on loopback.
///
/// # Errors
/// If there is no server, or the training fails.
pub(crate) async fn run(output: &mut Output) -> Result<()> {
    eprintln!("{COUNT} checkpoints, one each {} s …", EVERY.as_secs());
    let server = S3::start().await?;
    let mut trainer = Trainer::start(&config()?, &server.environment())?;
    let started = (Instant::now(), Timestamp::now());
    let (seen, checkpoints) = mpsc::unbounded_channel();
    let uploads = tokio::spawn(upload_after_each(checkpoints, server.client()?, trainer.log.clone()));
    let (steps, stalled) = watch(&mut trainer, seen).await?;
    let plain = uploads.await.map_err(|error| Error::Unexpected(error.to_string()))??;
    let checkpoints: Vec<_> =
        written(&trainer::read_text(&trainer.log)?).iter().map(|written| Window::of(written, started)).collect();
    let figures = figures(&steps, stalled, &checkpoints, &plain)?;
    output.record("checkpoints", &figures)?;
    print(&figures);
    Ok(())
}

fn config() -> Result<stoker_crds::TrainConfig> {
    let text = examples::folder()?.join("datasets/opticks/opticks.txt");
    let spec = json!({
        "task": "LanguageModeling",
        "data": {
            "source": {"uri": format!("file://{}", text.display())},
            "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
        },
        // Short steps, so that it is seen when one is late.
        "model": {"transformer": {"layers": 6, "width": 384, "heads": 6, "context": 64}},
        "train": {"batchSize": 1, "steps": 1_000_000},
        "storage": {"uri": S3::uri()},
    });
    let spec: ModelTrainingSpec =
        serde_json::from_value(spec).map_err(|error| Error::Unexpected(format!("the benchmark's spec: {error}")))?;
    let mut config = trainer::configuration("checkpoints", &spec)?;
    config.checkpoint = Checkpoint { every: Some(stoker_crds::Duration(EVERY)), ..Checkpoint::default() };
    Ok(config)
}

/// Watches it until the last checkpoint is written, and a little longer; tells of each one. The answer is the steps, and the
/// share of the time that they stood still: the mean of what the trainer told, each time of its last seconds.
async fn watch(trainer: &mut Trainer, seen: mpsc::UnboundedSender<()>) -> Result<(Steps, f64)> {
    let (mut steps, mut stalls) = (Steps::default(), Vec::new());
    let (mut last, mut count, mut counted_at) = (None, 0, Instant::now());
    trainer
        .watch(|at, progress| {
            if progress.stage == Stage::Training {
                steps.note(at, progress.step);
                stalls.extend(progress.throughput.checkpoint_stall);
            }
            let step = progress.checkpoint.map(|checkpoint| checkpoint.step);
            if step != last {
                (last, count, counted_at) = (step, count + 1, at);
                // Whoever uploads has failed if it does not listen any more; that is seen at the end.
                seen.send(()).ok();
            }
            match count >= COUNT && at - counted_at > PAUSE[1] {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .await?;
    Ok((steps, stalls.iter().sum::<f64>() / stalls.len() as f64))
}

/// After each checkpoint, uploads an object of as many bytes as one has, as the documentation of `object_store` shows it.
async fn upload_after_each(
    mut checkpoints: mpsc::UnboundedReceiver<()>,
    store: AmazonS3,
    log: PathBuf,
) -> Result<Vec<Window>> {
    let mut windows = Vec::new();
    while checkpoints.recv().await.is_some() {
        sleep(PAUSE[0]).await;
        let bytes = written(&trainer::read_text(&log)?).last().map(|written| written.bytes);
        let bytes = bytes.ok_or_else(|| Error::Unexpected("the trainer's log tells of no checkpoint".into()))?;
        let (content, path) = (Bytes::from(vec![0x5A; bytes as usize]), Path::from(format!("plain/{}", windows.len())));
        let mut failures = 0;
        windows.push(loop {
            match upload(&store, &path, content.clone()).await {
                Ok(window) => break window,
                Err(error) if failures < MOST_FAILURES => {
                    eprintln!("a plain upload failed, and is made again: {error}");
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        });
    }
    Ok(windows)
}

async fn upload(store: &AmazonS3, path: &Path, content: Bytes) -> Result<Window> {
    let (from, bytes) = (Instant::now(), content.len() as u64);
    let mut write = WriteMultipart::new(store.put_multipart(path).await?);
    write.put(content);
    write.finish().await?;
    Ok(Window { from, until: Instant::now(), bytes })
}

fn figures(steps: &Steps, stalled: f64, checkpoints: &[Window], plain: &[Window]) -> Result<Figures> {
    let speed = |windows: &[Window]| Speed::of(windows.iter().map(Window::bytes_per_second).collect());
    Ok(Figures {
        bytes: checkpoints.last().map_or(0, |window| window.bytes),
        stalled,
        slowed_by: slowed_by(steps, checkpoints, plain)?,
        bytes_per_second: speed(checkpoints)?,
        plain_bytes_per_second: speed(plain)?,
    })
}

/// How much longer the steps took for the checkpoints that were written meanwhile, as a share of the time: what the steps
/// waited, and what the writing took of the processors. The time of the plain uploads counts neither way.
fn slowed_by(steps: &Steps, checkpoints: &[Window], plain: &[Window]) -> Result<f64> {
    let unseen = || Error::Unexpected("the step loop was not seen".into());
    let [(began, first), (ended, last)] = steps.span(WARM_UP).ok_or_else(unseen)?;
    let of = |windows: &[Window]| -> [f64; 2] {
        let one = |window: &Window| [window.seconds(), steps.by(window.until) - steps.by(window.from)];
        windows.iter().map(one).fold([0.0; 2], |[a, b], [seconds, steps]| [a + seconds, b + steps])
    };
    let ([busy, busy_steps], [plain, plain_steps]) = (of(checkpoints), of(plain));
    let seconds = (ended - began).as_secs_f64() - plain;
    let undisturbed = ((last - first) as f64 - plain_steps - busy_steps) / (seconds - busy);
    Ok((busy - busy_steps / undisturbed) / seconds)
}

fn print(figures: &Figures) {
    let Figures { bytes, stalled, slowed_by, bytes_per_second, plain_bytes_per_second } = figures;
    let verdict = |is_reached: bool| if is_reached { "reached" } else { "missed" };
    let mega = |speed: &Speed| number(speed.median / 1e6);
    let ratio = bytes_per_second.median / plain_bytes_per_second.median;
    let mut table = Table::new(["", "measured", "to reach"]);
    table.row([
        format!("steps stand still for a checkpoint of {} MB each {} s", number(*bytes as f64 / 1e6), EVERY.as_secs()),
        format!("{:.2} % of the time", stalled * 100.0),
        format!("< {} %: {}", MOST_STALLED * 100.0, verdict(*stalled < MOST_STALLED)),
    ]);
    table.row([
        "steps take longer while one is written on the same processors".into(),
        format!("{:.2} % of the time", slowed_by * 100.0),
        String::new(),
    ]);
    table.row([
        "checkpoint to storage, MB/s".into(),
        format!("{}, {ratio:.2} × a plain upload", mega(bytes_per_second)),
        format!("≥ {LEAST_SPEED} × a plain upload: {}", verdict(ratio >= LEAST_SPEED)),
    ]);
    table.row(["plain upload by object_store, MB/s".into(), mega(plain_bytes_per_second), String::new()]);
    println!("\n{}", table.markdown());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_when_a_checkpoint_was_written() {
        let log = "no JSON\n{\"timestamp\":\"2026-01-01T00:00:10Z\",\"level\":\"INFO\",\"message\":\"a checkpoint is \
            written\",\"step\":7,\"bytes\":100,\"seconds\":0.5}\n";
        let timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let all = written(log);
        assert_eq!(all, [Written { timestamp, bytes: 100, seconds: 0.5 }]);
        let start = Instant::now();
        let window = Window::of(&all[0], (start, "2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(window.until - start, Duration::from_secs(10));
        assert_eq!(window.bytes_per_second(), 200.0);
    }

    #[test]
    fn steps_are_slowed_by_what_is_lost_while_checkpoints_are_written() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let window = |from, until| Window { from: at(from), until: at(until), bytes: 1 };
        let mut steps = Steps::default();
        // Ten steps a second, one second in which there are only five, and one of a plain upload in which there is one.
        for (seconds, step) in [(0.0, 100), (4.0, 140), (5.0, 145), (8.0, 175), (9.0, 176), (11.0, 196)] {
            steps.note(at(seconds), step);
        }
        let slowed = slowed_by(&steps, &[window(4.0, 5.0)], &[window(8.0, 9.0)]).unwrap();
        assert!((slowed - 0.05).abs() < 1e-9, "{slowed}");
    }
}
