//! A server on a GPU.

use super::*;

#[tokio::test]
async fn a_server_on_a_gpu_answers_as_one_on_the_cpu() {
    let fruit = Fruit::classifier().await;
    let (gpu, cpu) = (fruit.loaded(&["--gpus", "1"]).await, fruit.loaded(&[]).await);
    let (gpu, cpu) = (ask(&gpu, infer(&rows(20))).await, ask(&cpu, infer(&rows(20))).await);
    assert_eq!((gpu.status, &gpu.body["outputs"][0]), (StatusCode::OK, &cpu.body["outputs"][0]));
    let [gpu, cpu] = [gpu, cpu].map(|answer| numbers(&answer.body["outputs"][1]["data"]));
    assert_close(&gpu, &cpu);
}
