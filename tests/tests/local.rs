//! `stoker-trainer` on the command line, without a cluster, as the README shows it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::TcpListener,
    process::{Child, Command},
    time::Duration,
};

use stoker_e2e::{
    checkout, command,
    inference::{Model, numbers, texts},
    wait::Wait,
};

/// A program that runs; it is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The trainer, in the checkout.
fn trainer(arguments: &[&str]) -> Command {
    let mut trainer = Command::new(command::own_binary("stoker-trainer").unwrap());
    trainer.args(arguments).current_dir(checkout::path("."));
    trainer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_learned_from_and_its_model_served_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().to_str().unwrap();
    let local = trainer(&["local", "-f", "examples/cars.yaml", "--storage", storage]);
    let said = command::output_of(local).await.unwrap();
    let model =
        said.lines().find_map(|line| line.strip_prefix("model  ")).unwrap_or_else(|| panic!("no model in:\n{said}"));
    assert!(model.starts_with(&format!("{storage}/models/default/cars/models/")), "{model}");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let addresses = ["--listen", &free, "--management-listen", "127.0.0.1:0", "--log", "warn"];
    let serve = [&["serve", "--name", "cars", "--model", model][..], &addresses].concat();
    let _server = Running(trainer(&serve).spawn().unwrap());
    let cars = Model::new(&format!("http://{free}"), "cars").unwrap();
    Wait::new("the model to be served", Duration::from_secs(60))
        .until_ok(async || {
            let ready = cars.get("/v2/health/ready").await.map_err(|error| error.to_string())?;
            if ready.status.is_success() { Ok(()) } else { Err(format!("{ready:?}")) }
        })
        .await
        .unwrap();

    // One of the largest and earliest cars, and one of the smallest and latest.
    let rows = [
        numbers("cylinders", &[8.0, 4.0]),
        numbers("displacement", &[350.0, 90.0]),
        numbers("horsepower", &[165.0, 65.0]),
        numbers("weight", &[4200.0, 2000.0]),
        numbers("acceleration", &[11.5, 17.0]),
        numbers("year", &[1970.0, 1982.0]),
        texts("origin", &["USA", "Japan"]),
    ];
    let answer = cars.infer(&rows).await.unwrap();
    let miles: Vec<f64> =
        answer.output("miles_per_gallon").unwrap().iter().map(|miles| miles.as_f64().unwrap()).collect();
    assert!(miles.len() == 2 && 5.0 < miles[0] && miles[0] + 5.0 < miles[1] && miles[1] < 60.0, "{miles:?}");
}
