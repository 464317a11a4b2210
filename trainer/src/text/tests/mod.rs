//! The whole way from files to sequences, on small files.

mod chats;
mod cleaning;
mod keeping;
mod reading;
mod refusals;
mod splitting;
mod vocabularies;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stoker_crds::training::{Data, data::Format};

use super::{Corpus, Sequences, Tokenizer, Vocabulary, pipeline::Pipeline};
use crate::data::{
    DataError,
    session::Limits,
    tests::{Bucket, LIMITS},
};

/// The context of sequences, unless a test says another.
const CONTEXT: usize = 4;

/// A configuration by which all documents train, and what `change` says besides.
fn data(uri: &str, change: Value) -> Data<Format> {
    let mut data = json!({
        "source": {"uri": uri},
        "format": Format::of_uri(uri).unwrap(),
        "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
    });
    let (Value::Object(all), Value::Object(change)) = (&mut data, change) else { panic!("objects") };
    all.extend(change);
    serde_json::from_value(data).unwrap()
}

/// A configuration that cuts plain text into lines.
fn lines(uri: &str, change: Value) -> Data<Format> {
    let mut text = json!({"documents": {"endAt": "Line", "minLength": 1}});
    let (Value::Object(all), Value::Object(change)) = (&mut text, change) else { panic!("objects") };
    all.extend(change);
    data(uri, json!({"text": text}))
}

async fn prepare(bucket: &Bucket, data: &Data<Format>) -> Result<Corpus, DataError> {
    prepare_within(bucket, data, LIMITS).await
}

async fn prepare_within(bucket: &Bucket, data: &Data<Format>, limits: Limits) -> Result<Corpus, DataError> {
    Pipeline::new(data, CONTEXT, &bucket.access(), &bucket.scratch(), limits).run().await
}

/// All tokens of whole sequences, and of each but the first whether it counts.
fn tokens(sequences: &Sequences) -> (Vec<u32>, Vec<bool>) {
    let (mut all, mut counts) = (Vec::new(), Vec::new());
    let (mut tokens, mut weights) = (vec![0; sequences.context() + 1], vec![0.0; sequences.context()]);
    for index in 0..sequences.len() as u32 {
        sequences.read(index, &mut tokens, &mut weights).unwrap();
        assert!(all.last().is_none_or(|last| *last == tokens[0]), "sequences overlap by one token");
        all.extend_from_slice(&tokens[usize::from(index > 0)..]);
        counts.extend(weights.iter().map(|weight| *weight == 1.0));
    }
    (all, counts)
}

/// The documents of a split, but for the last, of which the end may be missing.
fn documents(corpus: &Corpus, split: &Sequences) -> BTreeSet<String> {
    let (tokens, _) = tokens(split);
    let mut documents: Vec<&[u32]> = tokens.split(|token| *token == corpus.tokenizer.end_of_text()).collect();
    documents.pop();
    documents.into_iter().map(|document| corpus.tokenizer.decode(document).unwrap()).collect()
}

fn dropped(corpus: &Corpus) -> Vec<(&str, u64)> {
    corpus.stats.rows_dropped.iter().map(|(rule, documents)| (rule.as_str(), *documents)).collect()
}

/// So many lines, each of them once.
fn different(count: usize) -> String {
    (0..count).map(|line| format!("line {line:04}\n")).collect()
}

/// A byte-pair encoding of about as many tokens.
async fn pairs(size: u32) -> Tokenizer {
    let bucket = Bucket::new(&[("d.txt", &different(400))]);
    let text = json!({"tokenizer": {"bpe": {"vocabularySize": size}}});
    prepare(&bucket, &lines("s3://b/d.txt", text)).await.unwrap().tokenizer
}
