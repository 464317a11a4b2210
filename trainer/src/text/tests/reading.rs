use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, Int32Array, StringViewArray},
        record_batch::RecordBatch,
    },
    parquet::arrow::ArrowWriter,
};

use super::*;

#[tokio::test]
async fn every_document_is_followed_by_the_end_of_a_text_and_only_the_tail_is_lost() {
    let bucket = Bucket::new(&[("1.txt", "one\n\ntwo\n"), ("sub/2.md", "three\n"), ("3.csv", "no text")]);
    let mut config = lines("s3://b/1.txt", json!({}));
    config.source.uri = "s3://b/".into();
    let corpus = prepare(&bucket, &config).await.unwrap();
    // 3 + 3 + 5 bytes, and an end each.
    assert_eq!((corpus.stats.rows_read, corpus.stats.tokens, corpus.train.tokens()), (3, 14, 14));
    assert_eq!((corpus.train.len(), corpus.stats.train), (3, 3));
    let (tokens, counts) = tokens(&corpus.train);
    assert_eq!((tokens.len(), counts), (13, vec![true; 12]));
    let whole = corpus.tokenizer.decode(&tokens).unwrap();
    let orders = ["onetwothree", "onethreetwo", "twoonethree", "twothreeone", "threeonetwo", "threetwoone"];
    assert!(orders.contains(&whole.as_str()), "{whole}");
}

#[tokio::test]
async fn rows_of_json_lines_and_parquet_are_documents() {
    let json = concat!(
        "{\"id\": 1, \"body\": \"ab\\ncd\"}\n{\"id\": 2, \"body\": \"2024-01-01\"}\n",
        "{\"id\": 3, \"body\": null}\n{\"id\": 4}\n{\"id\": 5, \"body\": \"the last\"}\n",
    );
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5]))),
        (
            "body",
            Arc::new(StringViewArray::from(vec![
                Some("ab\ncd"),
                Some("2024-01-01"),
                None,
                Some(" \n"),
                Some("the last"),
            ])),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let bucket = Bucket::new(&[("d.jsonl", json)]);
    bucket.write("d.parquet", &writer.into_inner().unwrap());
    let mut seen = Vec::new();
    for uri in ["s3://b/d.jsonl", "s3://b/d.parquet"] {
        let config = json!({"text": {"column": "body"}, "clean": {"require": ["id < 5"]}});
        let corpus = prepare(&bucket, &data(uri, config)).await.unwrap();
        assert_eq!((corpus.stats.rows_read, dropped(&corpus)), (5, vec![("missing", 2), ("require", 1)]), "{uri}");
        assert_eq!(corpus.stats.tokens, 5 + 10 + 2);
        seen.push(tokens(&corpus.train));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn plain_text_has_the_columns_text_and_file() {
    let bucket = Bucket::new(&[("en/1.txt", "good one\nbad one\n"), ("de/2.txt", "gut\n")]);
    let mut config = lines("s3://b/**/*.txt", json!({}));
    config.clean.require = vec!["file LIKE '%/en/%'".into(), "text NOT LIKE 'bad%'".into()];
    let corpus = prepare(&bucket, &config).await.unwrap();
    assert_eq!(dropped(&corpus), [("missing", 0), ("require", 2)]);
    assert_eq!(documents(&corpus, &corpus.train), BTreeSet::from(["good one".to_owned()]));
}

#[tokio::test]
async fn compressed_text_is_read_and_paragraphs_are_gathered_into_documents() {
    use tokio::io::AsyncReadExt;
    let paragraph = "word ".repeat(100);
    let text = format!("{paragraph}\n\n").repeat(20);
    let mut packed = Vec::new();
    async_compression::tokio::bufread::GzipEncoder::new(text.as_bytes()).read_to_end(&mut packed).await.unwrap();
    let bucket = Bucket::new(&[]);
    bucket.write("d.txt.gz", &packed);
    // 502 characters a paragraph: nine are more than 4,096, and what is left of twenty is short.
    let corpus = prepare(&bucket, &data("s3://b/d.txt.gz", json!({}))).await.unwrap();
    assert_eq!(corpus.stats.rows_read, 2);
}

#[tokio::test]
async fn the_tokenizer_of_a_file_is_used_as_it_is() {
    let fitted = pairs(270).await;
    let bucket = Bucket::new(&[("d.txt", &different(10))]);
    bucket.write("tokenizer.json", fitted.to_json());
    let config = lines("s3://b/d.txt", json!({"tokenizer": {"file": {"uri": "s3://b/tokenizer.json"}}}));
    let corpus = prepare(&bucket, &config).await.unwrap();
    assert_eq!(corpus.tokenizer.to_json(), fitted.to_json());
    let encoded: Vec<Vec<u32>> = different(10).lines().map(|line| fitted.encode(line).unwrap()).collect();
    assert!(encoded.iter().all(|tokens| tokens.len() < "line 0000".len()), "pairs were merged");
    let (tokens, _) = tokens(&corpus.train);
    let documents: Vec<&[u32]> = tokens.split(|token| *token == fitted.end_of_text()).collect();
    let (_, whole) = documents.split_last().unwrap();
    assert!(whole.len() >= 8 && whole.iter().all(|document| encoded.iter().any(|line| line == document)), "{tokens:?}");
    assert_eq!(corpus.stats.tokens, encoded.iter().map(|line| line.len() as u64 + 1).sum::<u64>());
}

/// A tokenizer after a change of its JSON, in the file `tokenizer.json` beside others.
fn beside(tokenizer: &Tokenizer, files: &[(&str, &str)], change: impl FnOnce(&mut Value)) -> Bucket {
    let mut json = serde_json::from_slice(tokenizer.to_json()).unwrap();
    change(&mut json);
    let bucket = Bucket::new(files);
    bucket.write("tokenizer.json", &serde_json::to_vec(&json).unwrap());
    bucket
}

#[tokio::test]
async fn characters_that_the_tokenizer_has_no_tokens_for_are_a_warning_with_their_number() {
    let file = json!({"file": {"uri": "s3://b/tokenizer.json"}});
    let rows = "{\"text\": \"a\u{40000}b\u{7FFFF}\", \"chat\": [{\"role\": \"assistant\", \"content\": \"some words \u{40000}\"}]}\n";
    let bucket = beside(&pairs(270).await, &[("d.jsonl", rows), ("d.txt", &different(10))], |json| {
        // As a character, ñ stands for the byte 0xF1.
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("ñ").unwrap();
        vocab.insert("unused".into(), id);
    });
    for (uri, text, lost) in [
        ("s3://b/d.txt", json!({"tokenizer": file}), None),
        ("s3://b/d.jsonl", json!({"tokenizer": file}), Some("bytes 0xF1, so 2 characters of s3://b/d.jsonl")),
        ("s3://b/d.jsonl", json!({"tokenizer": file, "messages": "chat"}), Some("so 1 characters")),
    ] {
        let corpus = prepare(&bucket, &data(uri, json!({"text": text}))).await.unwrap();
        match (lost, corpus.warning) {
            (None, warning) => assert_eq!(warning, None),
            (Some(part), warning) => assert!(warning.as_ref().unwrap().contains(part), "{warning:?}"),
        }
    }
}

#[tokio::test]
async fn what_a_tokenizer_puts_before_a_text_stands_before_each_document_and_each_prompt() {
    let text = json!({"tokenizer": {"file": {"uri": "s3://b/tokenizer.json"}}});
    let bucket = beside(&pairs(270).await, &[("d.txt", &different(10))], |json| {
        let mut token = json["added_tokens"][0].clone();
        let id = token["id"].as_u64().unwrap() + 1;
        (token["content"], token["id"]) = (json!("<s>"), json!(id));
        json["added_tokens"].as_array_mut().unwrap().push(token);
        json["post_processor"] = json!({"type": "BertProcessing", "sep": ["<s>", id], "cls": ["<s>", id]});
    });
    let corpus = prepare(&bucket, &lines("s3://b/d.txt", text)).await.unwrap();
    let (begin, end) = (corpus.tokenizer.special("<s>").unwrap(), corpus.tokenizer.end_of_text());
    let (tokens, _) = tokens(&corpus.train);
    assert_eq!(tokens[0], begin);
    let after_ends: Vec<u32> = tokens.windows(2).filter(|pair| pair[0] == end).map(|pair| pair[1]).collect();
    assert!(after_ends.len() >= 8 && after_ends.iter().all(|token| *token == begin), "{tokens:?}");
    assert_eq!(tokens.iter().filter(|token| **token == begin).count(), after_ends.len() + 1);

    let prompt = crate::text::prompt_tokens(&corpus.tokenizer, None, "line").unwrap();
    assert_eq!(prompt, [&[begin], &corpus.tokenizer.encode("line").unwrap()[..]].concat());
}

#[tokio::test]
async fn counts_are_told_while_they_grow_and_at_the_end() {
    let bucket = Bucket::new(&[("d.txt", &different(1000))]);
    let told = std::sync::Mutex::new(Vec::new());
    let config = lines("s3://b/d.txt", json!({}));
    let on_stats = |stats: &stoker_crds::progress::DataStats| told.lock().unwrap().push(stats.clone());
    let corpus =
        crate::text::prepare(&config, 8, None, &bucket.access(), &bucket.scratch(), None, &on_stats).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted_by_key(|stats| (stats.rows_read, stats.tokens)));
    assert_eq!(told.last(), Some(&corpus.stats));
    assert_eq!((corpus.stats.rows_read, corpus.stats.tokens, corpus.stats.train), (1000, 10_000, 9999 / 8));
}
