use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, LargeListArray},
        buffer::OffsetBuffer,
        datatypes::{DataType, Field, Schema},
        json::ReaderBuilder,
        record_batch::RecordBatch,
    },
    parquet::arrow::ArrowWriter,
};
use stoker_crds::Reason;

use super::*;

const DIALOGS: &str = concat!(
    "{\"lang\": \"en\", \"chat\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello!\"}]}\n",
    "{\"lang\": \"de\", \"chat\": [{\"role\": \"user\", \"content\": \"Hallo\"}, {\"role\": \"assistant\", \"content\": \"Servus\"}]}\n",
    "{\"lang\": \"en\", \"chat\": [{\"role\": \"user\", \"content\": \"Is anybody there?\"}]}\n",
);

/// The texts of the tokens that count, in runs.
fn learned(corpus: &Corpus) -> Vec<String> {
    let (tokens, counts) = tokens(&corpus.train);
    let predicted: Vec<(u32, bool)> = tokens[1..].iter().copied().zip(counts).collect();
    let runs = predicted.chunk_by(|a, b| a.1 == b.1).filter(|run| run[0].1);
    runs.map(|run| corpus.tokenizer.decode(&run.iter().map(|(token, _)| *token).collect::<Vec<_>>()).unwrap()).collect()
}

fn config(uri: &str) -> Data<Format> {
    data(uri, json!({"text": {"messages": "chat"}, "clean": {"require": ["lang = 'en'"]}}))
}

#[tokio::test]
async fn only_what_the_assistant_says_is_learned() {
    let bucket = Bucket::new(&[("d.jsonl", DIALOGS)]);
    let corpus = prepare(&bucket, &config("s3://b/d.jsonl")).await.unwrap();
    assert_eq!(dropped(&corpus), [("missing", 1), ("require", 1)]);
    assert_eq!(learned(&corpus), ["Hello!"]);
    let (tokens, counts) = tokens(&corpus.train);
    assert_eq!(
        counts.iter().filter(|counts| **counts).count(),
        "Hello!".len() + 1,
        "the end of the answer is learned too"
    );
    assert_eq!(corpus.tokenizer.decode(&tokens).unwrap(), "user\nHiassistant\nHello!");
}

#[tokio::test]
async fn conversations_in_parquet_are_those_in_json_lines() {
    let message = DataType::Struct(
        ["content", "role"].map(|name| Field::new(name, DataType::LargeUtf8, true)).into_iter().collect(),
    );
    let list = DataType::List(Field::new_list_field(message, true).into());
    let schema = Schema::new(vec![Field::new("lang", DataType::Utf8, true), Field::new("chat", list, true)]);
    let mut decoder = ReaderBuilder::new(Arc::new(schema)).build_decoder().unwrap();
    decoder.decode(DIALOGS.as_bytes()).unwrap();
    let batch = decoder.flush().unwrap().unwrap();
    let lists = batch.column(1).as_list::<i32>();
    let offsets = OffsetBuffer::new(lists.value_offsets().iter().map(|offset| i64::from(*offset)).collect());
    let DataType::List(field) = lists.data_type() else { panic!("lists") };
    let large = LargeListArray::new(Arc::clone(field), offsets, Arc::clone(lists.values()), lists.nulls().cloned());
    let columns: [(&str, ArrayRef); 2] = [("lang", Arc::clone(batch.column(0))), ("chat", Arc::new(large))];
    let bucket = Bucket::new(&[("d.jsonl", DIALOGS)]);
    for (name, batch) in [("d.parquet", batch.clone()), ("large.parquet", RecordBatch::try_from_iter(columns).unwrap())]
    {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        bucket.write(name, &writer.into_inner().unwrap());
    }
    let json = prepare(&bucket, &config("s3://b/d.jsonl")).await.unwrap();
    for uri in ["s3://b/d.parquet", "s3://b/large.parquet"] {
        let parquet = prepare(&bucket, &config(uri)).await.unwrap();
        assert_eq!((tokens(&parquet.train), dropped(&parquet)), (tokens(&json.train), dropped(&json)), "{uri}");
    }
}

#[tokio::test]
async fn a_message_without_a_role_is_named_by_its_row() {
    let bucket = Bucket::new(&[("d.jsonl", "{\"chat\": []}\n{\"chat\": [{\"content\": \"x\"}]}\n")]);
    let error = prepare(&bucket, &data("s3://b/d.jsonl", json!({"text": {"messages": "chat"}}))).await.unwrap_err();
    assert_eq!(error.reason(), Reason::UnparsableData);
    assert!(error.to_string().contains("row 2") && error.to_string().contains("'chat'"), "{error}");
}
