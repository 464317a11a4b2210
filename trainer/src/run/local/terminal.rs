//! What a person sees of a local run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stoker_crds::{
    Progress,
    metric::{LOSS, Split},
    progress::{Estimate, Sample, Stage, Throughput},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    run::Tracker,
    training::{Parts, Size},
};

/// How often the line moves.
const REFRESH: Duration = Duration::from_millis(100);

/// One line that moves; where the output is no terminal, a line per tenth of the way.
pub(super) struct Terminal {
    painter: JoinHandle<()>,
    done: CancellationToken,
}

impl Terminal {
    pub(super) fn start(name: &str, tracker: Arc<Tracker>) -> Self {
        let (name, done) = (name.to_owned(), CancellationToken::new());
        let ended = done.clone();
        let painter = tokio::spawn(async move {
            let bar = bar(&name);
            let mut said = Said::default();
            while !ended.is_cancelled() {
                paint(&bar, &tracker.progress(), &mut said);
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = tokio::time::sleep(REFRESH) => {}
                }
            }
            paint(&bar, &tracker.progress(), &mut said);
            bar.finish_and_clear();
        });
        Self { painter, done }
    }

    /// Leaves the terminal as it was.
    pub(super) async fn finish(self) {
        self.done.cancel();
        if let Err(error) = self.painter.await {
            tracing::warn!(%error, "the progress bar ended by itself");
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()).with_prefix(name.to_owned());
    let template = "{prefix:.bold} {bar:24.green/dim} {percent:>3}%  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━━─"));
    }
    bar
}

/// What was said that stays.
#[derive(Default)]
struct Said {
    line: String,
    estimate: Option<Estimate>,
    /// The step of the last samples.
    samples: u64,
}

fn paint(bar: &ProgressBar, progress: &Progress, said: &mut Said) {
    if progress.estimate != said.estimate {
        said.estimate = progress.estimate;
        say(bar, &progress.estimate.as_ref().map(size).unwrap_or_default());
    }
    for sample in progress.samples.iter().filter(|sample| sample.step > said.samples) {
        say(bar, &written(sample));
    }
    said.samples = progress.samples.last().map_or(said.samples, |sample| sample.step);
    bar.set_length(progress.total_steps.max(1));
    bar.set_position(progress.step);
    bar.set_message(line(progress));
    if bar.is_hidden() {
        let tenth = progress.step * 10 / progress.total_steps.max(1);
        let key = format!("{:?} {tenth}", progress.stage);
        if key != said.line {
            eprintln!("{}  {}%  {}", bar.prefix(), tenth * 10, line(progress));
            said.line = key;
        }
    }
}

/// A line that stays, above the one that moves.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
}

fn size(estimate: &Estimate) -> String {
    let (parameters, memory) = (estimate.parameters, Size(estimate.memory_bytes()));
    format!("{parameters} parameters; training takes about {memory} of memory: {}", Parts(estimate))
}

fn written(Sample { step, prompt, text }: &Sample) -> String {
    format!("step {step}: {prompt} → {text}")
}

fn line(progress: &Progress) -> String {
    match progress.stage {
        Stage::Preparing => format!("preparing · {} rows read", progress.data.rows_read),
        Stage::Training => {
            let losses = losses(progress);
            let eta = progress.eta_seconds.map(|eta| format!(" · {eta:.0} s left")).unwrap_or_default();
            format!("epoch {}/{}{losses}{}{eta}", progress.epoch, progress.total_epochs, pace(&progress.throughput))
        }
        Stage::Evaluating => "evaluating".into(),
        Stage::Publishing => "publishing".into(),
    }
}

fn pace(throughput: &Throughput) -> String {
    let Throughput { samples_per_second, tokens_per_second, tflops, mfu, data_wait, checkpoint_stall } = *throughput;
    let speed = match (tokens_per_second, samples_per_second) {
        (Some(tokens), _) => Some(format!("{tokens:.0} tokens/s")),
        (None, samples) => samples.map(|samples| format!("{samples:.0} rows/s")),
    };
    let computed = match mfu {
        Some(mfu) => Some(format!("{:.0} % MFU", mfu * 100.0)),
        None => tflops.filter(|tflops| *tflops >= 0.001).map(|tflops| format!("{tflops:.3} TFLOP/s")),
    };
    // A wait that nobody would notice is not worth the place.
    let share = |share: Option<f64>, what| share.filter(|s| *s >= 0.02).map(|s| format!("{:.0} % {what}", s * 100.0));
    let parts = [speed, computed, share(data_wait, "waiting for data"), share(checkpoint_stall, "checkpoints")];
    parts.into_iter().flatten().map(|part| format!(" · {part}")).collect()
}

/// Whether it is a language model that is trained.
fn is_text(progress: &Progress) -> bool {
    progress.data.tokens > 0
}

/// The running loss of the training, and that of the last validation.
fn losses(progress: &Progress) -> String {
    let loss = |(split, name)| Some(format!(" · {name} {:.4}", progress.metrics.get(split)?.get(LOSS)?));
    [(&Split::Train, "loss"), (&Split::Validation, "validation")].into_iter().filter_map(loss).collect()
}

/// The final metrics, and what can be done with the model.
pub(super) fn print_result(progress: &Progress, model: &Path, name: &str) {
    let data = &progress.data;
    let dropped: u64 = data.rows_dropped.values().sum();
    let (read, kept) = if is_text(progress) { ("documents", " sequences:") } else { ("rows", "") };
    println!(
        "{name}: {} {read} read, {dropped} dropped;{kept} {} train, {} validation, {} test; {} epochs on {}\n",
        data.rows_read,
        data.train,
        data.validation,
        data.test,
        progress.epoch,
        progress.device.as_ref().map_or("CPU", |device| &device.name),
    );
    print_metrics(progress);
    for warning in &progress.warnings {
        println!("warning: {warning}");
    }
    println!("\nmodel  {}\n", model.display());
    // Servers take rows.
    if !is_text(progress) {
        println!("Serve it:      {} serve --name {name} --model {}", quoted(&this_program()), quoted(model));
        println!("Ask about it:  curl -s localhost:8080/v2/models/{name}");
    }
}

/// How this program is called from the working folder: by its path, since it need not be on the PATH.
fn this_program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_else(|_| "stoker-trainer".into());
    match std::env::current_dir() {
        Ok(folder) => seen_from(&folder, &program),
        Err(_) => program,
    }
}

fn seen_from(folder: &Path, program: &Path) -> PathBuf {
    // A shell looks for a name without a slash on the PATH.
    program.strip_prefix(folder).map_or_else(|_| program.to_owned(), |below| Path::new(".").join(below))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+=:,@%".contains(letter);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Names of metrics that the table leaves out; `metrics.json` has them all.
fn is_detail(name: &str) -> bool {
    name.ends_with("_micro") || name.ends_with("_weighted")
}

fn print_metrics(progress: &Progress) {
    let splits: Vec<_> =
        Split::ALL.into_iter().filter_map(|split| Some((split, progress.metrics.get(&split)?))).collect();
    let Some((_, first)) = splits.first() else { return };
    let header: String = splits.iter().map(|(split, _)| format!("{:>12}", split.name())).collect();
    println!("{:<12}{header}", "");
    for name in first.keys().filter(|name| !is_detail(name)) {
        let values = splits.iter().map(|(_, metrics)| match metrics.get(name) {
            Some(value) => format!("{value:>12.4}"),
            None => format!("{:>12}", "-"),
        });
        println!("{name:<12}{}", values.collect::<String>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_below_the_working_folder_is_named_from_there() {
        for (folder, program, expected) in [
            ("/work", "/work/target/release/stoker-trainer", "./target/release/stoker-trainer"),
            ("/work", "/work/stoker-trainer", "./stoker-trainer"),
            ("/work", "/usr/bin/stoker-trainer", "/usr/bin/stoker-trainer"),
            ("/work", "/workshop/stoker-trainer", "/workshop/stoker-trainer"),
        ] {
            assert_eq!(seen_from(Path::new(folder), Path::new(program)).as_os_str(), expected);
        }
    }

    #[test]
    fn the_line_shows_what_is_known_and_worth_the_place() {
        let rows = Throughput { samples_per_second: Some(90_123.4), data_wait: Some(0.01), ..Throughput::default() };
        assert_eq!(pace(&rows), " · 90123 rows/s");
        let text = Throughput {
            samples_per_second: Some(10.0),
            tokens_per_second: Some(1280.0),
            tflops: Some(0.123_45),
            mfu: None,
            data_wait: Some(0.251),
            checkpoint_stall: Some(0.02),
        };
        assert_eq!(pace(&text), " · 1280 tokens/s · 0.123 TFLOP/s · 25 % waiting for data · 2 % checkpoints");
        assert!(pace(&Throughput { mfu: Some(0.401), ..text }).starts_with(" · 1280 tokens/s · 40 % MFU · 25 %"));
        assert_eq!(pace(&Throughput::default()), "");
    }

    #[test]
    fn a_path_that_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted(Path::new("./models/a-b_1.0")), "./models/a-b_1.0");
        assert_eq!(quoted(Path::new("/my models/$x")), "'/my models/$x'");
        assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
    }
}
