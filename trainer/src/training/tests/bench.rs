use super::*;
#[test]
#[ignore]
fn bench_textbook() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut table = Table::default();
    for _ in 0..64 {
        table.features.push((0..10).map(|_| rng.random_range(-1.0..1.0f32)).collect());
        table.targets.push((0..10).map(|_| rng.random_range(-1.0..1.0f32)).collect());
    }
    for (name, validation) in [("none", Table::default()), ("validated", table.clone())] {
        let config = config(
            "Regression",
            json!({"hidden": [20]}),
            json!({"loss": "MSE", "optimizer": {"adam": {"learningRate": 0.001}}, "batchSize": 64, "epochs": 20000}),
            json!({}),
        );
        let run = Run::new();
        let start = std::time::Instant::now();
        let cpu = || {
            std::fs::read_to_string("/proc/thread-self/schedstat")
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse::<f64>()
                .unwrap()
                / 1e9
        };
        let before = cpu();
        run.fit(&config, &table, &validation).unwrap();
        println!("{name}: {:?} for 20000 steps; cpu {:.1} us/step", start.elapsed(), (cpu() - before) * 1e6 / 20000.0);
    }
}
