use stoker_crds::Reason;

use super::*;

async fn refusal(files: &[(&str, &str)], uri: &str, text: Value) -> DataError {
    prepare(&Bucket::new(files), &data(uri, json!({"text": text}))).await.expect_err("must be refused")
}

#[tokio::test]
async fn what_cannot_be_read_says_where_and_what_to_do() {
    let rows = "{\"text\": \"some words\", \"chat\": [{\"role\": \"assistant\", \"content\": \"some words\"}]}\n";
    let files = [("d.jsonl", rows), ("tokenizer.json", "{}"), ("short.txt", "abc")];
    for (uri, text, reason, parts) in [
        ("s3://b/d.jsonl", json!({"column": "txt"}), Reason::UnknownColumn, &["spec.data.text.column", "'text'"][..]),
        ("s3://b/d.jsonl", json!({"messages": "chats"}), Reason::UnknownColumn, &["spec.data.text.messages", "'chat'"]),
        ("s3://b/d.jsonl", json!({"column": "chat"}), Reason::WrongType, &["'chat'", "spec.data.text.messages"]),
        ("s3://b/d.jsonl", json!({"messages": "text"}), Reason::WrongType, &["'text'", "spec.data.text.column"]),
        (
            "s3://b/d.jsonl",
            json!({"tokenizer": {"file": {"uri": "s3://b/tokenizer.json"}}}),
            Reason::InvalidConfig,
            &["s3://b/tokenizer.json", "no tokenizer.json", "spec.data.text.tokenizer.file.uri"],
        ),
        (
            "s3://b/d.jsonl",
            json!({"tokenizer": {"file": {"uri": "s3://b/other.json"}}}),
            Reason::DataNotFound,
            &["s3://b/other.json"],
        ),
        ("s3://b/short.txt", json!({}), Reason::EmptyData, &["train", "4 tokens", "takes 5"]),
    ] {
        let error = refusal(&files, uri, text).await;
        assert_eq!(error.reason(), reason, "{error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_utf8_is_named_with_the_place() {
    let bucket = Bucket::new(&[]);
    bucket.write("d.txt", b"good\n\xFF\xFE");
    let error = prepare(&bucket, &data("s3://b/d.txt", json!({}))).await.unwrap_err();
    assert_eq!(error.reason(), Reason::UnparsableData);
    assert!(error.to_string().contains("s3://b/d.txt") && error.to_string().contains("byte 5"), "{error}");
}

#[tokio::test]
async fn a_text_is_no_table() {
    let bucket = Bucket::new(&[("d.txt", "words")]);
    let mut config = data("s3://b/d.txt", json!({}));
    config.target = vec!["y".into()];
    let task = stoker_crds::training::Task::Regression;
    let error = crate::data::prepare(&config, task, &bucket.access(), &bucket.scratch(), &|_| ()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidConfig);
    assert!(error.to_string().contains("LanguageModeling"), "{error}");
}
