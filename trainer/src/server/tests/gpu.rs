//! A server on a GPU.

use super::*;

#[tokio::test]
async fn a_server_on_a_gpu_answers_as_one_on_the_cpu_and_has_computed_every_size_before() {
    let fruit = Fruit::classifier().await;
    let (gpu, cpu) = (fruit.loaded(&["--gpus", "1", "--max-batch-size", "6"]).await, fruit.loaded(&[]).await);
    let metrics = ask_management(&gpu, get("/metrics")).await;
    // 1, 2, 4 and 6 rows.
    let text = metrics.body.as_str().unwrap();
    assert!(text.contains("batch_rows_count 4") && text.contains("batch_rows_sum 13.0"), "{text}");

    let (gpu, cpu) = (ask(&gpu, infer(&rows(20))).await, ask(&cpu, infer(&rows(20))).await);
    assert_eq!((gpu.status, &gpu.body["outputs"][0]), (StatusCode::OK, &cpu.body["outputs"][0]));
    let [gpu, cpu] = [gpu, cpu].map(|answer| numbers(&answer.body["outputs"][1]["data"]));
    // On an NVIDIA GPU factors may have 11 bits (TF32), and each is off by up to 1/2048 of itself.
    let tolerance = if cfg!(feature = "cuda") { 1e-2 } else { 1e-6 };
    assert_eq!(gpu.len(), cpu.len());
    assert!(gpu.iter().zip(&cpu).all(|(gpu, cpu)| (gpu - cpu).abs() <= tolerance), "{gpu:?} is not {cpu:?}");
}
