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

/// Why conversations in a column `chat` of JSON lines are refused.
async fn refusal(rows: &str, reason: Reason) -> String {
    let bucket = Bucket::new(&[("d.jsonl", rows)]);
    let error = prepare(&bucket, &data("s3://b/d.jsonl", json!({"text": {"messages": "chat"}}))).await.unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_message_without_a_role_is_named_by_its_row_and_what_fields_are_called_is_said() {
    let share_gpt = "{\"chat\": []}\n{\"chat\": [{\"from\": \"gpt\", \"value\": \"x\"}]}\n";
    let error = refusal(share_gpt, Reason::UnparsableData).await;
    for part in ["row 2", "'chat'", "texts role and content", "the role of an answer is assistant", "from and value"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn conversations_of_which_none_has_an_answer_say_who_speaks_in_them() {
    let rows = concat!(
        "{\"chat\": [{\"role\": \"human\", \"content\": \"Hi\"}, {\"role\": \"gpt\", \"content\": \"Hello!\"}]}\n",
        "{\"chat\": [{\"role\": \"human\", \"content\": \"Bye\"}]}\n",
    );
    let error = refusal(rows, Reason::EmptyData).await;
    for part in ["missing 2", "the roles in such are 'gpt', 'human'", "give answers the role assistant"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let many: String = (0..100)
        .map(|role| format!("{{\"chat\": [{{\"role\": \"{role}{}\", \"content\": \"x\"}}]}}\n", "r".repeat(1000)))
        .collect();
    let error = refusal(&many, Reason::EmptyData).await;
    assert!(error.len() < 1000 && error.contains("rrr"), "{error}");
    let error = refusal("{\"chat\": []}\n", Reason::EmptyData).await;
    assert!(error.contains("missing 1; loosen"), "{error}");
}

#[tokio::test]
async fn a_split_of_which_no_token_counts_is_refused_by_its_name() {
    let dialog = |question: &str| {
        format!(
            "{{\"chat\": [{{\"role\": \"user\", \"content\": \"{question}\"}}, {{\"role\": \"assistant\", \"content\": \"A\"}}]}}\n"
        )
    };
    // Sequences of four predict the places 1 to 16 of 20, and the answer stands at place 17.
    let error = refusal(&dialog("H"), Reason::EmptyData).await;
    for part in ["the train split", "the role assistant", "more conversations", "context shorter"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // With one more token they predict the places 1 to 20.
    let bucket = Bucket::new(&[("d.jsonl", &dialog("Hi"))]);
    let corpus = prepare(&bucket, &data("s3://b/d.jsonl", json!({"text": {"messages": "chat"}}))).await.unwrap();
    assert_eq!(corpus.train.len(), 5);
}
