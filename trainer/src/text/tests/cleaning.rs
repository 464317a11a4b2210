use std::fs;

use stoker_crds::Reason;

use super::*;
use crate::data::{Scratch, session::MIN_MEMORY};

#[tokio::test]
async fn equal_documents_are_dropped_and_counted_if_asked() {
    let bucket = Bucket::new(&[("1.txt", "same\nother\nsame\n"), ("2.txt", "same\n")]);
    for (duplicates, kept, expected) in
        [("Keep", 21, vec![("missing", 0)]), ("Drop", 11, vec![("duplicates", 2), ("missing", 0)])]
    {
        let mut config = lines("s3://b/*.txt", json!({}));
        config.clean = serde_json::from_value(json!({"duplicates": duplicates})).unwrap();
        let corpus = prepare(&bucket, &config).await.unwrap();
        assert_eq!((corpus.stats.tokens, dropped(&corpus)), (kept, expected));
    }
}

#[tokio::test]
async fn documents_that_are_too_short_or_too_long_are_dropped_and_counted() {
    let bucket = Bucket::new(&[("d.txt", "äöü\nabcd\nabcdefgh\nabcdefghi\n")]);
    let corpus = prepare(&bucket, &lines("s3://b/d.txt", json!({"length": {"min": 4, "max": 8}}))).await.unwrap();
    assert_eq!((corpus.stats.tokens, dropped(&corpus)), (5 + 9, vec![("length", 2), ("missing", 0)]));
}

#[tokio::test]
async fn of_near_duplicates_one_stays_whatever_the_order_of_files() {
    let story =
        |word: &str| format!("Once upon a time there was a {word} who lived in a small house at the end of the road.");
    let stories = ["fox", "cat"].map(story);
    let [fox, cat] = stories.each_ref().map(String::as_str);
    let other = "Quite another text, which has nothing to do with what stands in the first two of them.";
    let mut seen = BTreeSet::new();
    for files in [[fox, cat, other], [cat, other, fox], [other, cat, fox]] {
        let bucket = Bucket::new(&[("1.txt", files[0]), ("2.txt", files[1]), ("3.txt", files[2])]);
        let corpus = prepare(&bucket, &lines("s3://b/*.txt", json!({"nearDuplicates": {"similarity": 0.6}}))).await;
        let corpus = corpus.unwrap();
        assert_eq!(dropped(&corpus), [("missing", 0), ("nearDuplicates", 1)]);
        seen.insert(tokens(&corpus.train).0);
    }
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn documents_that_are_less_similar_all_stay() {
    let bucket = Bucket::new(&[("d.txt", &different(100))]);
    let corpus =
        prepare(&bucket, &lines("s3://b/d.txt", json!({"nearDuplicates": {"similarity": 0.8}}))).await.unwrap();
    assert_eq!((corpus.stats.tokens, dropped(&corpus)), (1000, vec![("missing", 0), ("nearDuplicates", 0)]));
}

#[tokio::test]
async fn data_of_which_nothing_is_left_says_what_was_dropped() {
    let bucket =
        Bucket::new(&[("d.jsonl", "{\"text\": \"short\"}\n{\"text\": \" \"}\n{\"text\": \"bad, but longer\"}\n")]);
    let config = json!({"text": {"length": {"min": 6}}, "clean": {"require": ["text NOT LIKE 'bad%'"]}});
    let error = prepare(&bucket, &data("s3://b/d.jsonl", config)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::EmptyData);
    for part in ["3 were read", "length 1", "missing 1", "require 1", "s3://b/d.jsonl"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Documents of four kilobytes, each of them twice.
fn long(count: usize) -> String {
    (0..count).map(|document| format!("{}-{}\n", document % (count / 2), "word ".repeat(800))).collect()
}

#[tokio::test]
async fn data_that_outgrows_the_memory_is_ordered_on_disk() {
    let bucket = Bucket::new(&[("d.txt", &long(20_000))]);
    let mut config = lines("s3://b/d.txt", json!({}));
    config.clean = serde_json::from_value(json!({"duplicates": "Drop"})).unwrap();
    let on_disk = prepare_within(&bucket, &config, Limits { memory: MIN_MEMORY, ..LIMITS }).await.unwrap();
    let in_memory = prepare_within(&bucket, &config, Limits { memory: 16 << 30, ..LIMITS }).await.unwrap();
    assert_eq!((&on_disk.stats, on_disk.stats.rows_read), (&in_memory.stats, 20_000));
    assert_eq!(dropped(&on_disk), [("duplicates", 10_000), ("missing", 0)]);
    assert!(tokens(&on_disk.train) == tokens(&in_memory.train));
    assert_eq!(fs::read_dir(bucket.scratch().folder()).unwrap().count(), 0, "files have no names");
}

#[tokio::test]
async fn data_that_outgrows_the_scratch_folder_ends_the_run_before_the_disk_is_full() {
    let bucket = Bucket::new(&[("d.txt", &long(500))]);
    let small = Scratch::new(bucket.scratch().folder(), 1 << 20);
    let config = lines("s3://b/d.txt", json!({}));
    let error = Pipeline::new(&config, CONTEXT, &bucket.access(), &small, LIMITS).run().await.unwrap_err();
    assert_eq!(error.reason(), Reason::DiskFull, "{error}");
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
}
