use std::sync::Arc;

use bytes::Bytes;
use datafusion::{
    arrow::array::{ArrayRef, BooleanArray, Int32Array, LargeStringArray, TimestampMillisecondArray},
    datasource::file_format::file_compression_type::FileCompressionType,
    parquet::arrow::ArrowWriter,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::*;

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

#[tokio::test]
async fn compressed_files_are_read_by_their_extension() {
    for (compression, extension) in [
        (FileCompressionType::GZIP, "gz"),
        (FileCompressionType::BZIP2, "bz2"),
        (FileCompressionType::XZ, "xz"),
        (FileCompressionType::ZSTD, "zst"),
    ] {
        for (text, format) in [("a,y\n1,2\n3,4\n", "csv"), ("{\"a\":1,\"y\":2}\n{\"a\":3,\"y\":4}\n", "jsonl")] {
            let plain = stream::iter([Ok(Bytes::from(text))]).boxed();
            let packed: Vec<Bytes> =
                compression.convert_to_compress_stream(plain).unwrap().try_collect().await.unwrap();
            let bucket = Bucket::new(&[]);
            bucket.write(&format!("d.{format}.{extension}"), &packed.concat());
            let uri = format!("s3://b/d.{format}.{extension}");
            let prepared = bucket.prepare(&data(&uri, identity()), Task::Regression).await.unwrap();
            assert_eq!(sorted(&prepared.train), [(vec![1.0], vec![2.0]), (vec![3.0], vec![4.0])], "{uri}");
        }
    }
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
