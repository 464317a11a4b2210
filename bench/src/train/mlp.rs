//! The perceptrons of the examples.

use std::path::Path;

use stoker_crds::{ModelTraining, training::data::SplitSpec};
use stoker_e2e::Result;

use super::{compare::Task, figures::Target};
use crate::{examples, trainer};

/// `examples/cells.yaml` and `examples/digits.yaml`, on all rows: without validation and what follows from it.
///
/// # Errors
/// If the examples are not there.
pub(super) fn tasks() -> Result<Vec<Task>> {
    Ok(vec![
        task("cells", "the 10→20→10 perceptron of examples/cells.yaml", 0.05)?,
        // Dropout draws other numbers: among runs of PyTorch itself the loss, of a few thousandths, differs as much.
        task("digits", "the 64→64→32→10 perceptron of examples/digits.yaml", 0.5)?,
    ])
}

fn task(name: &str, title: &str, tolerance: f64) -> Result<Task> {
    let mut training: ModelTraining = examples::resource(&format!("{name}.yaml"))?;
    let spec = &mut training.spec;
    examples::lay_out(spec, Path::new(""))?;
    spec.data.split = SplitSpec { train: 1.0, validation: 0.0, test: 0.0, ..SplitSpec::default() };
    spec.train.early_stopping = None;
    Ok(Task {
        name: title.to_owned(),
        config: trainer::configuration(name, spec)?,
        script: "mlp.py",
        warm_up: 100,
        unit: "steps",
        units_per_step: 1.0,
        tolerance,
        target: Target::Eager(4.0),
    })
}
