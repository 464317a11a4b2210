use std::sync::Arc;

use bytes::Bytes;
use datafusion::{
    arrow::array::{ArrayRef, BooleanArray, Int32Array, LargeStringArray, TimestampMillisecondArray},
    datasource::file_format::file_compression_type::FileCompressionType,
    parquet::arrow::ArrowWriter,
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, chunked::ChunkedStore, memory::InMemory};
use stoker_crds::Reason;

use super::*;
use crate::data::{discover::discover, scan::Scanner, session, source};

fn identity() -> Value {
    json!({"transform": {"numeric": "None"}})
}

#[tokio::test]
async fn files_whose_columns_stand_in_another_order_are_read_by_name() {
    let bucket = Bucket::new(&[("1.csv", "a,b,y\n1,2,3\n"), ("sub/2.csv", "y,a,b\n6,4,5\n"), ("3.txt", "junk")]);
    let prepared = bucket.prepare(&data("s3://b/**/*.csv", identity()), Task::Regression).await.unwrap();
    assert_eq!(sorted(&prepared.train), [(vec![1.0, 2.0], vec![3.0]), (vec![4.0, 5.0], vec![6.0])]);
}

#[tokio::test]
async fn csv_is_read_with_its_delimiter_and_without_a_header() {
    let bucket = Bucket::new(&[("d.csv", "1;2;3\r\n4;5;\"6\"\r\n")]);
    let config =
        json!({"target": ["column_3"], "csv": {"delimiter": ";", "header": false}, "transform": {"numeric": "None"}});
    let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    assert_eq!(sorted(&prepared.train), [(vec![1.0, 2.0], vec![3.0]), (vec![4.0, 5.0], vec![6.0])]);
}

#[tokio::test]
async fn quoted_line_breaks_byte_order_marks_and_spaces_around_numbers_do_no_harm() {
    let bucket = Bucket::new(&[("d.csv", "\u{feff}a,t,y\n 1 ,\"x\ny\",2\n3,\"x\ny\", 4\n")]);
    let prepared = bucket.prepare(&data("s3://b/d.csv", identity()), Task::Regression).await.unwrap();
    assert_eq!(prepared.preprocessor.inputs()[0].name, "a");
    assert_eq!(sorted(&prepared.train), [(vec![1.0, 1.0], vec![2.0]), (vec![3.0, 1.0], vec![4.0])]);
}

/// By extension, how files are compressed.
const COMPRESSIONS: [(&str, FileCompressionType); 4] = [
    ("gz", FileCompressionType::GZIP),
    ("bz2", FileCompressionType::BZIP2),
    ("xz", FileCompressionType::XZ),
    ("zst", FileCompressionType::ZSTD),
];

async fn compressed(text: &str, compression: FileCompressionType) -> Vec<u8> {
    let text = stream::iter([Ok(Bytes::from(text.to_owned()))]).boxed();
    let packed: Vec<Bytes> = compression.convert_to_compress_stream(text).unwrap().try_collect().await.unwrap();
    packed.concat()
}

/// CSV and JSON lines with so many rows, `a` and `y`, each in two parts.
fn texts(rows: usize) -> [(&'static str, [String; 2]); 2] {
    let csv: String = std::iter::once("a,y\n".to_owned()).chain((0..rows).map(|row| format!("{row},2\n"))).collect();
    let json: String = (0..rows).map(|row| format!("{{\"a\":{row},\"y\":2}}\n")).collect();
    [("csv", csv), ("jsonl", json)].map(|(format, text)| {
        let (first, second) = text.split_at(text.len() / 2 + 1);
        (format, [first.to_owned(), second.to_owned()])
    })
}

#[tokio::test]
async fn compressed_files_are_read_by_their_extension_and_to_the_end_of_their_last_member() {
    const ROWS: usize = 20_000;
    for (format, [first, second]) in texts(ROWS) {
        for (extension, compression) in COMPRESSIONS {
            let members = [compressed(&first, compression).await, compressed(&second, compression).await];
            let uri = format!("s3://b/d.{format}.{extension}");
            let bucket = Bucket::new(&[]);
            bucket.write(&format!("d.{format}.{extension}"), &members.concat());
            let prepared = bucket.prepare(&data(&uri, identity()), Task::Regression).await.unwrap();
            assert_eq!((prepared.stats.rows_read, prepared.train.len()), (ROWS as u64, ROWS), "{uri}");
            assert_eq!(rows_of_object(&bucket, &uri).await.unwrap(), ROWS, "{uri} in object storage");
        }
    }
}

#[tokio::test]
async fn a_compressed_file_that_breaks_off_is_an_error_that_names_it() {
    for (format, [first, second]) in texts(1000) {
        for (extension, compression) in COMPRESSIONS {
            let members = [compressed(&first, compression).await, compressed(&second, compression).await].concat();
            let uri = format!("s3://b/d.{format}.{extension}");
            let bucket = Bucket::new(&[]);
            bucket.write(&format!("d.{format}.{extension}"), &members[..members.len() - 5]);
            let local = bucket.refusal(&data(&uri, identity()), Task::Regression).await;
            for error in [local, rows_of_object(&bucket, &uri).await.unwrap_err()] {
                assert_eq!(error.reason(), Reason::UnparsableData, "{uri}: {error}");
                assert!(error.to_string().contains(&uri), "{error}");
            }
        }
    }
}

/// How many rows a file of the bucket has where it lies in object storage, which sends it piece by piece.
async fn rows_of_object(bucket: &Bucket, uri: &str) -> Result<usize, DataError> {
    let config = data(uri, identity());
    let mut files = source::list(&bucket.access(), uri, config.format).await?;
    let folder = &mut files[0].folder;
    let bytes = folder.store.get(&folder.path).await.unwrap().bytes().await.unwrap();
    let store = InMemory::new();
    store.put(&folder.path, bytes.into()).await.unwrap();
    folder.store = Arc::new(ChunkedStore::new(Arc::new(store), 1000));

    let context = session::session(&bucket.scratch(), LIMITS)?;
    let scanner = Scanner::new(&context, &files, config.format, &config.csv)?;
    let found = discover(&scanner, &files).await?;
    let schema = found.schemas.first().cloned().unwrap_or_else(|| found.json_schema(|_| None));
    let failed = |error| DataError::reading(&files[0], 0, error);
    let mut batches = scanner.rows(&files[0], &schema, vec![0, 1]).await.map_err(failed)?;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        rows += batch.num_rows();
    }
    Ok(rows)
}

#[tokio::test]
async fn json_lines_are_read_by_name_and_a_missing_key_is_a_missing_value() {
    let rows = "{\"a\": 1, \"t\": \"x\", \"y\": 2, \"nested\": {\"k\": 1}}\n\n{\"y\": 4, \"t\": \"y\", \"a\": null}\n{\"t\": null, \"a\": 3.5, \"y\": 6}\n{\"y\": 8, \"a\": 5, \"t\": \"\"}\n";
    let bucket = Bucket::new(&[("d.jsonl", rows)]);
    let config = json!({
        "features": ["a", "t"],
        "clean": {"missing": {"columns": {"a": {"strategy": "Constant", "value": 0}}}},
        "transform": {"numeric": "None"},
    });
    let prepared = bucket.prepare(&data("s3://b/d.jsonl", config), Task::Regression).await.unwrap();
    assert_eq!(dropped(&prepared), [("missing", 2)]);
    assert_eq!(sorted(&prepared.train), [(vec![0.0, 0.0, 1.0], vec![4.0]), (vec![1.0, 1.0, 0.0], vec![2.0])]);
}

#[tokio::test]
async fn parquet_is_read_with_its_types() {
    let columns: [(&str, ArrayRef); 4] = [
        ("i", Arc::new(Int32Array::from(vec![Some(1), None]))),
        ("t", Arc::new(LargeStringArray::from(vec!["x", "y"]))),
        ("b", Arc::new(BooleanArray::from(vec![true, false]))),
        ("y", Arc::new(TimestampMillisecondArray::from(vec![1000, 2500]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let bucket = Bucket::new(&[]);
    bucket.write("d.parquet", &writer.into_inner().unwrap());
    let config = json!({
        "cast": {"y": "Number"},
        "clean": {"missing": {"columns": {"i": {"strategy": "Constant", "value": 9}}}},
        "transform": {"numeric": "None", "columns": {"t": "Ordinal"}},
    });
    let prepared = bucket.prepare(&data("s3://b/d.parquet", config), Task::Regression).await.unwrap();
    assert_eq!(sorted(&prepared.train), [(vec![1.0, 0.0, 0.0, 1.0], vec![1.0]), (vec![9.0, 1.0, 1.0, 0.0], vec![2.5])]);
}

#[tokio::test]
async fn a_cast_makes_a_number_a_category() {
    let bucket = Bucket::new(&[("d.csv", "zip,y\n01234,1\n1234,2\n01234,3\n")]);
    let config = json!({"cast": {"zip": "Text"}});
    let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    let expected = [(vec![0.0, 1.0], vec![2.0]), (vec![1.0, 0.0], vec![1.0]), (vec![1.0, 0.0], vec![3.0])];
    assert_eq!(sorted(&prepared.train), expected);
}

#[tokio::test]
async fn json_values_are_taken_as_cast_says_however_they_are_written() {
    let rows = "{\"n\": \"1.5\", \"zip\": 1234, \"flag\": 1, \"y\": 1}\n{\"n\": 2, \"zip\": \"01234\", \"flag\": 0, \"y\": 2}\n";
    let bucket = Bucket::new(&[("d.jsonl", rows)]);
    let config = json!({
        "cast": {"n": "Number", "zip": "Text", "flag": "Boolean"},
        "transform": {"numeric": "None", "categorical": "Ordinal"},
    });
    let prepared = bucket.prepare(&data("s3://b/d.jsonl", config), Task::Regression).await.unwrap();
    // As text, 01234 comes before 1234.
    assert_eq!(sorted(&prepared.train), [(vec![1.5, 1.0, 1.0], vec![1.0]), (vec![2.0, 0.0, 0.0], vec![2.0])]);
}

#[tokio::test]
async fn the_seventh_file_counts_like_the_first() {
    let files: Vec<(String, String)> = (0..7).map(|file| (format!("{file}.csv"), format!("x,y\n{file},1\n"))).collect();
    let bucket = Bucket::new(&[]);
    for (name, text) in &files {
        bucket.write(name, text.as_bytes());
    }
    bucket.write("empty.csv", b"");
    let prepared = bucket.prepare(&data("s3://b/", identity()), Task::Regression).await.unwrap();
    let values: Vec<f32> = sorted(&prepared.train).iter().map(|(features, _)| features[0]).collect();
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}
