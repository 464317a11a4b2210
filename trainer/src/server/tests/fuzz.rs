//! Bodies that nobody would send.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const BODIES: usize = 4000;
/// Pieces on which parsers have failed.
const PIECES: [&str; 24] = [
    "null",
    "NaN",
    "-Infinity",
    "1e999",
    "-0",
    "1e-400",
    "18446744073709551616",
    "-9223372036854775809",
    "0.5",
    "true",
    "\"",
    "\\",
    "\\ud800",
    "\\u0000",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "[[[[[[[[",
    "\"x\":1,",
    "\u{feff}",
    "\"BYTES\"",
];

#[tokio::test]
async fn no_body_makes_the_server_fail() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&[]).await;
    let router = inference::router(Arc::clone(&state));
    let good: Vec<Vec<u8>> = [1, 2, 30].map(|n| rows(n).to_string().into_bytes()).into();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..BODIES {
        let body = mutated(&good, &mut random);
        let answer = ask_router(router.clone(), post("/v2/models/fruit/infer", body.clone())).await;
        match answer.status.as_u16() {
            200 => answered += 1,
            400..=499 if !answer.error().is_empty() => refused += 1,
            status => panic!("{status} for {}: {}", String::from_utf8_lossy(&body), answer.body),
        }
    }
    // Both kinds were reached: mutations deep enough to be parsed, and such that are refused.
    assert!(answered > BODIES / 100 && refused > BODIES / 2, "{answered} answered, {refused} refused");
    assert!(state.is_ready());
    assert_eq!(ask(&state, infer(&rows(5))).await.status, StatusCode::OK);
}

/// A good body after one to four small changes.
fn mutated(good: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut body = good[random.random_range(0..good.len())].clone();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=body.len());
        let to = random.random_range(at..=body.len().min(at + 20));
        match random.random_range(0..5) {
            0 => drop(body.splice(at..to, [])),
            1 => drop(body.splice(at..to, PIECES[random.random_range(0..PIECES.len())].bytes())),
            2 => {
                let copied = body[at..to].to_vec();
                drop(body.splice(at..at, copied));
            }
            3 => body.insert(at, random.next_u32() as u8),
            _ => body.truncate(if random.random_ratio(1, 4) { at } else { body.len() }),
        }
    }
    body
}
