use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::Response,
};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use stoker_crds::{
    Reason,
    training::{Data, Task, data::Format},
};

use super::*;
use crate::data::{DataError, Prepared, Scratch};

/// What a server on loopback answers to each request.
type Answer = dyn Fn(&Method, &str, &HeaderMap) -> Response + Send + Sync;

async fn answer(State(answer): State<Arc<Answer>>, request: Request) -> Response {
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    answer(request.method(), &path, request.headers())
}

/// Starts a server that speaks as S3 does, and gives access to it.
async fn s3(reply: impl Fn(&Method, &str, &HeaderMap) -> Response + Send + Sync + 'static) -> Access {
    let reply: Arc<Answer> = Arc::new(reply);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(reply);
    tokio::spawn(async move { axum::serve(listener, router).await });
    access(&endpoint)
}

fn access(endpoint: &str) -> Access {
    let variables = [
        ("STORAGE_AWS_ENDPOINT_URL", endpoint),
        ("STORAGE_AWS_ACCESS_KEY_ID", "key"),
        ("STORAGE_AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = Options::new("STORAGE_", variables.into_iter());
    Access { kind: Kind::Cloud(options), retry_timeout: Duration::from_millis(300) }
}

fn error(status: u16, code: &str) -> Response {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as it is</Message></Error>");
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/xml").body(body.into()).unwrap()
}

async fn get(access: &Access) -> StorageError {
    let folder = access.open("s3://models/team/x.json").unwrap();
    folder.error(folder.store.get(&folder.path).await.expect_err("the server refuses"))
}

#[tokio::test]
async fn answers_of_s3_become_errors_that_say_what_to_do() {
    for (status, code, reason, words) in [
        (
            403,
            "InvalidAccessKeyId",
            Reason::AccessDenied,
            &["InvalidAccessKeyId", "AWS_SECRET_ACCESS_KEY", "secretName"][..],
        ),
        (403, "SignatureDoesNotMatch", Reason::AccessDenied, &["SignatureDoesNotMatch"]),
        (403, "AccessDenied", Reason::AccessDenied, &["s3://models/team/x.json"]),
        (400, "ExpiredToken", Reason::AccessDenied, &["ExpiredToken"]),
        (404, "NoSuchBucket", Reason::BucketNotFound, &["s3://models/team/x.json", "http://127.0.0.1"]),
        (404, "NoSuchKey", Reason::DataNotFound, &["s3://models/team/x.json"]),
        (503, "SlowDown", Reason::StorageUnavailable, &["http://127.0.0.1", "SlowDown"]),
        (412, "PreconditionFailed", Reason::StorageUnavailable, &["s3://models/team/x.json was changed"]),
        (500, "InternalError", Reason::StorageUnavailable, &["http://127.0.0.1"]),
        (400, "AuthorizationHeaderMalformed", Reason::InvalidConfig, &["AWS_REGION"]),
    ] {
        let access = s3(move |_, _, _| error(status, code)).await;
        let error = get(&access).await;
        assert_eq!(error.reason(), reason, "{code}: {error}");
        for word in words {
            assert!(error.to_string().contains(word), "{code}: '{word}' is not in: {error}");
        }
        assert!(!format!("{error:?}").contains("hunter2"), "{code}: a secret is in the error");
    }
}

#[tokio::test]
async fn a_missing_bucket_is_told_from_an_empty_one_when_listing() {
    let access = s3(|_, _, _| error(404, "NoSuchBucket")).await;
    let folder = access.open("s3://models/team").unwrap();
    let listed = folder.store.list(Some(&folder.path)).try_collect::<Vec<_>>().await;
    assert_eq!(folder.error(listed.unwrap_err()).reason(), Reason::BucketNotFound);
}

#[tokio::test]
async fn a_storage_that_comes_back_in_time_is_waited_for() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let mut access = s3(move |_, _, headers| match counted.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => error(503, "SlowDown"),
        _ => object(b"content", headers),
    })
    .await;
    access.retry_timeout = Duration::from_secs(60);
    let folder = access.open("s3://models/x").unwrap();
    let content = folder.store.get(&folder.path).await.unwrap().bytes().await.unwrap();
    assert_eq!((content.as_ref(), requests.load(Ordering::SeqCst)), (&b"content"[..], 3));
}

#[tokio::test]
async fn a_storage_that_is_down_is_unavailable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let error = get(&access(&endpoint)).await;
    assert_eq!(error.reason(), Reason::StorageUnavailable);
    assert!(error.to_string().contains(&endpoint), "{error}");
}

/// An object, or the range of it that was asked for.
fn object(content: &[u8], headers: &HeaderMap) -> Response {
    let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap());
    let response = Response::builder()
        .header(header::ETAG, "\"e\"")
        .header(header::LAST_MODIFIED, "Mon, 01 Jan 2024 00:00:00 GMT");
    let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, end)) = bounds.and_then(|(start, end)| Some((start.parse().ok()?, end.parse::<usize>().ok()?)))
    else {
        return response.body(Body::from(content.to_vec())).unwrap();
    };
    if start >= content.len() {
        return error(416, "InvalidRange");
    }
    let end = end.min(content.len() - 1);
    let range = format!("bytes {start}-{end}/{}", content.len());
    let response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    response.body(Body::from(content[start..=end].to_vec())).unwrap()
}

#[tokio::test]
async fn an_object_behind_a_network_comes_back_whole_whatever_its_size() {
    for size in [0, 1, 8 << 20, (8 << 20) + 1, 20 << 20] {
        let content: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
        let served = content.clone();
        let access = s3(move |_, _, headers| object(&served, headers)).await;
        let folder = access.open("s3://models/x").unwrap();
        let read = folder.store.get(&folder.path).await.unwrap().bytes().await.unwrap();
        assert!(read == content, "{size} bytes");
    }
}

#[tokio::test]
async fn creating_is_conditional_and_a_second_time_is_an_error_of_its_own() {
    let objects = Arc::new(Mutex::new(BTreeMap::new()));
    let access = s3(move |method, path, headers| {
        assert_eq!((method, headers.get(header::IF_NONE_MATCH).map(|v| v.as_bytes())), (&Method::PUT, Some(&b"*"[..])));
        match objects.lock().unwrap().insert(path.to_owned(), ()) {
            None => Response::builder().header(header::ETAG, "\"e\"").body(Body::empty()).unwrap(),
            Some(()) => error(412, "PreconditionFailed"),
        }
    })
    .await;
    let folder = access.open("s3://models/manifest.json").unwrap();
    let create = || async {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        folder.store.put_opts(&folder.path, "x".into(), options).await
    };
    create().await.unwrap();
    let error = folder.error(create().await.unwrap_err());
    assert!(matches!(error, StorageError::AlreadyExists { .. }), "{error:?}");
}

#[tokio::test]
async fn under_a_local_folder_the_bucket_is_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = Access::local(dir.path()).open("s3://models/a b").unwrap();
    let object = root.join("runs/1/x.json");
    assert_eq!(object.uri, "s3://models/a b/runs/1/x.json");
    object.store.put(&object.path, "x".into()).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("models/a b/runs/1/x.json")).unwrap(), b"x");
    let missing = root.join("none");
    let error = missing.error(missing.store.get(&missing.path).await.unwrap_err());
    assert!(matches!(error, StorageError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn no_name_leads_out_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("secret");
    std::fs::write(&outside, "secret").unwrap();
    let root = Access::local(dir.path().join("storage")).open("s3://models").unwrap();
    let pieces = ["..", ".", "%2e%2e", "", "/", "..\\", "\u{2024}\u{2024}", "a"];
    for first in pieces {
        for second in pieces {
            for third in ["secret", "../secret", "../../secret"] {
                let name = format!("{first}/{second}/{third}");
                let object = root.join(&name);
                assert!(object.path.as_ref().starts_with(root.path.as_ref()), "{name}: {}", object.path);
                assert!(object.store.get(&object.path).await.is_err(), "{name}");
            }
        }
    }
}

/// Trains on one CSV file of 600,000 rows, over 8 MiB, from a server that answers as `reply` says once the file's second
/// range is asked for, the so-many-th time.
async fn prepare_csv(
    retry_timeout: Duration,
    reply: impl Fn(usize, &[u8], &HeaderMap) -> Response + Send + Sync + 'static,
) -> Result<Prepared, DataError> {
    let rows = (0..600_000).map(|row| format!("{row},number {row}\n"));
    let csv: String = std::iter::once("y,x\n".to_owned()).chain(rows).collect();
    assert!(csv.len() > 8 << 20);
    let asked = AtomicUsize::new(0);
    let mut access = s3(move |_, _, headers| {
        let is_second = headers.get(header::RANGE).is_some_and(|range| range.as_bytes().starts_with(b"bytes=8388608-"));
        match is_second {
            true => reply(asked.fetch_add(1, Ordering::SeqCst), csv.as_bytes(), headers),
            false => object(csv.as_bytes(), headers),
        }
    })
    .await;
    access.retry_timeout = retry_timeout;
    let scratch = tempfile::tempdir().unwrap();
    crate::data::prepare(&config(), Task::Regression, &access, &Scratch::unlimited(scratch.path()), &|_| {}).await
}

fn config() -> Data<Format> {
    let config = serde_json::json!({
        "source": {"uri": "s3://models/x.csv"},
        "format": "csv",
        "target": ["y"],
        "cast": {"x": "Text"},
        "clean": {"require": ["y < 3"]},
        "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
    });
    serde_json::from_value(config).unwrap()
}

#[tokio::test]
async fn a_file_is_read_to_its_end_though_the_storage_fails_for_a_while() {
    let prepared = prepare_csv(Duration::from_secs(60), |asked, csv, headers| match asked {
        0 | 1 => error(503, "SlowDown"),
        _ => object(csv, headers),
    })
    .await
    .unwrap();
    assert_eq!((prepared.stats.rows_read, prepared.stats.train), (600_000, 3));
}

#[tokio::test]
async fn a_storage_that_fails_for_good_while_a_file_is_read_is_unavailable() {
    let error = prepare_csv(Duration::from_millis(300), |_, _, _| error(503, "SlowDown")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StorageUnavailable, "{error}");
    assert!(error.to_string().contains("s3://models/x.csv"), "{error}");
}

#[tokio::test]
async fn a_file_in_a_missing_bucket_is_told_from_a_missing_file() {
    for (code, reason) in [("NoSuchBucket", Reason::BucketNotFound), ("", Reason::DataNotFound)] {
        let empty = "<ListBucketResult><Name>models</Name><KeyCount>0</KeyCount></ListBucketResult>";
        let access = s3(move |method, _, _| match (method, code) {
            (&Method::HEAD, _) => Response::builder().status(404).body(Body::empty()).unwrap(),
            (_, "") => Response::new(empty.into()),
            _ => error(404, code),
        })
        .await;
        let scratch = tempfile::tempdir().unwrap();
        let prepared =
            crate::data::prepare(&config(), Task::Regression, &access, &Scratch::unlimited(scratch.path()), &|_| {})
                .await;
        assert_eq!(prepared.unwrap_err().reason(), reason);
    }
}
