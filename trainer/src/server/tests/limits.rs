//! What a request may cost.

use std::{convert::Infallible, pin::Pin};

use axum::body::Bytes;
use futures::{StreamExt, poll, stream};

use super::*;

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&["--max-body-bytes", "1024"]).await;
    let refused = ask(&state, post("/v2/models/fruit/infer", vec![b' '; 1025])).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.error().contains("1024 bytes"), "{}", refused.error());
    assert_eq!(refused.headers["connection"], "close");
}

#[tokio::test]
async fn an_endless_body_is_refused_when_the_limit_is_reached() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&["--max-body-bytes", "1024"]).await;
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(b"                ")));
    let refused = ask(&state, post("/v2/models/fruit/infer", Body::from_stream(endless))).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_in_pieces_is_put_together() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&[]).await;
    let body = rows(40).to_string();
    let pieces: Vec<_> =
        body.as_bytes().chunks(7).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece))).collect();
    let answer = ask(&state, post("/v2/models/fruit/infer", Body::from_stream(stream::iter(pieces)))).await;
    assert_eq!((answer.status, &answer.body["outputs"][0]["shape"]), (StatusCode::OK, &json!([40])), "{}", answer.body);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_with_408() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&["--timeout", "10ms"]).await;
    let never = stream::pending::<Result<Bytes, Infallible>>();
    assert_eq!(
        ask(&state, post("/v2/models/fruit/infer", Body::from_stream(never))).await.status,
        StatusCode::REQUEST_TIMEOUT
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_answered_with_400() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&[]).await;
    let broken = stream::iter([Ok(Bytes::from_static(b"{\"inputs\"")), Err(std::io::Error::other("reset"))]);
    let answer = ask(&state, post("/v2/models/fruit/infer", Body::from_stream(broken))).await;
    assert_eq!((answer.status, answer.error()), (StatusCode::BAD_REQUEST, "the body ended before it was complete"));
}

#[tokio::test]
async fn a_computation_that_takes_too_long_is_answered_with_504() {
    let fruit = Fruit::classifier().await;
    let state = ServerState::new(fruit.options(&["--timeout", "10ms"])).unwrap();
    let (_gate, predict) = Gate::new(3, fruit.preprocessor.input_width());
    state.set_model(fruit.computed_by(&state.options, &state.metrics, predict));
    assert_eq!(ask(&Arc::new(state), infer(&rows(1))).await.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_full_queue_is_answered_with_503_and_when_to_try_again() {
    let fruit = Fruit::classifier().await;
    let state = ServerState::new(fruit.options(&["--max-queue", "4", "--max-batch-delay", "0s"])).unwrap();
    let (gate, predict) = Gate::new(3, fruit.preprocessor.input_width());
    state.set_model(fruit.computed_by(&state.options, &state.metrics, predict));
    let state = Arc::new(state);
    let waiting = |n: usize| {
        let state = Arc::clone(&state);
        tokio::spawn(async move { ask(&state, infer(&rows(n))).await.status })
    };
    let queue = async |rows: i64| {
        while state.metrics.queued_rows.get() != rows {
            tokio::task::yield_now().await;
        }
    };
    let computed = waiting(1);
    while state.metrics.stats("").in_flight < 1 {
        tokio::task::yield_now().await;
    }
    queue(0).await;
    let queued = waiting(3);
    queue(3).await;
    let refused = ask(&state, infer(&rows(2))).await;
    assert_eq!(
        (refused.status, &refused.headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    gate.let_one_go();
    gate.let_one_go();
    assert_eq!((computed.await.unwrap(), queued.await.unwrap()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(state.metrics.stats("").errors, 1);
}

/// Asks for a prediction with a body of these pieces, after which nothing comes, and nothing ends it.
fn unfinished(state: &Arc<ServerState>, pieces: Vec<Bytes>) -> Pin<Box<impl Future<Output = Answer> + use<>>> {
    let body = stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)).chain(stream::pending());
    let state = Arc::clone(state);
    Box::pin(async move { ask(&state, post("/v2/models/fruit/infer", Body::from_stream(body))).await })
}

#[tokio::test]
async fn clients_that_say_they_will_send_much_and_send_nothing_are_in_nobodys_way() {
    let fruit = Fruit::classifier().await;
    // There is memory for four bodies of the greatest length.
    let state = fruit.loaded(&["--max-body-bytes", "67108864", "--timeout", "60s"]).await;
    let mut silent: Vec<_> = (0..16).map(|_| unfinished(&state, Vec::new())).collect();
    for silent in &mut silent {
        assert!(poll!(silent).is_pending());
    }
    assert_eq!(ask(&state, infer(&rows(1))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_for_which_there_is_no_memory_is_refused_until_others_are_gone() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&["--max-body-bytes", "16777216", "--timeout", "60s"]).await;
    let piece = Bytes::from(vec![b' '; 16 << 20]);
    let mut four: Vec<_> = (0..4).map(|_| unfinished(&state, vec![piece.clone()])).collect();
    for unfinished in &mut four {
        assert!(poll!(unfinished).is_pending());
    }
    let refused = ask(&state, infer(&rows(1))).await;
    assert_eq!(
        (refused.status, &refused.headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    assert!(refused.error().contains("memory"), "{}", refused.error());
    drop(four.pop());
    assert_eq!(ask(&state, infer(&rows(1))).await.status, StatusCode::OK);
}
