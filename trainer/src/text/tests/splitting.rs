use super::*;

fn split(text: Value) -> Value {
    json!({"text": text, "split": {"train": 0.8, "validation": 0.1, "test": 0.1}})
}

fn by_line(tokenizer: Value) -> Value {
    split(json!({"documents": {"endAt": "Line", "minLength": 1}, "tokenizer": tokenizer}))
}

#[tokio::test]
async fn files_their_order_and_threads_change_nothing() {
    let text = different(300);
    let (first, second) = text.split_at(10 * 77);
    let reversed: String = text.lines().rev().map(|line| format!("{line}\n")).collect();
    let config = data("s3://b/*.txt", by_line(json!({"bpe": {"vocabularySize": 300}})));
    let mut seen = Vec::new();
    for files in [
        &[("1.txt", first), ("2.txt", second)][..],
        &[("1.txt", second), ("2.txt", first)],
        &[("r.txt", reversed.as_str())],
    ] {
        let bucket = Bucket::new(files);
        for partitions in [1, 4] {
            let corpus = prepare_within(&bucket, &config, Limits { partitions, ..LIMITS }).await.unwrap();
            let splits = [&corpus.train, &corpus.validation, &corpus.test].map(tokens);
            seen.push((splits, corpus.tokenizer.to_json().to_vec()));
        }
    }
    assert!(seen.iter().all(|other| *other == seen[0]));
}

#[tokio::test]
async fn the_splits_have_their_shares_and_no_document_in_common() {
    let bucket = Bucket::new(&[("d.txt", &different(1000))]);
    let corpus = prepare(&bucket, &data("s3://b/d.txt", by_line(json!({"bytes": {}})))).await.unwrap();
    let splits = [&corpus.train, &corpus.validation, &corpus.test];
    // Nine bytes and the end of the text a document.
    assert_eq!(splits.map(Sequences::tokens), [8000, 1000, 1000]);
    let documents = splits.map(|split| documents(&corpus, split));
    // The last of each is not whole.
    assert_eq!(documents.each_ref().map(BTreeSet::len), [799, 99, 99]);
    assert_eq!(documents.iter().flatten().collect::<BTreeSet<_>>().len(), 799 + 99 + 99);
    assert!(documents[2].iter().any(|line| line.as_str() < "line 0500"), "they are split by chance");
}

#[tokio::test]
async fn another_seed_splits_otherwise() {
    let bucket = Bucket::new(&[("d.txt", &different(100))]);
    let mut tests = BTreeSet::new();
    for seed in [1, 2] {
        let mut config = data("s3://b/d.txt", by_line(json!({"bytes": {}})));
        config.split.seed = seed;
        let corpus = prepare(&bucket, &config).await.unwrap();
        tests.insert(documents(&corpus, &corpus.test));
    }
    assert_eq!(tests.len(), 2);
}

#[tokio::test]
async fn the_tokenizer_is_fitted_on_the_training_split_alone() {
    // Each document says a word of its own, often: a pair of its letters is merged if it was seen.
    let word = |document: u32| {
        [0, 5, 10].map(|bits| char::from(b'a' + ((document >> bits) & 15) as u8)).iter().collect::<String>()
    };
    let text: String =
        (0..100).map(|document| format!("{}\n", format!("{} ", word(document * 37)).repeat(20))).collect();
    let bucket = Bucket::new(&[("d.txt", &text)]);
    let config = |tokenizer| data("s3://b/d.txt", by_line(tokenizer));
    let bytes = prepare(&bucket, &config(json!({"bytes": {}}))).await.unwrap();
    let pairs = prepare(&bucket, &config(json!({"bpe": {"vocabularySize": 100_000}}))).await.unwrap();
    let words = |split| documents(&bytes, split).into_iter().map(|text| text.split(' ').next().unwrap().to_owned());
    let is_one_token = |word: String| pairs.tokenizer.encode(&format!(" {word}")).unwrap().len() == 1;
    assert!(words(&bytes.train).all(is_one_token));
    let trained: BTreeSet<String> = words(&bytes.train).collect();
    let unseen: Vec<String> = words(&bytes.test).filter(|word| !trained.contains(word)).collect();
    assert!(!unseen.is_empty() && !unseen.into_iter().any(is_one_token));
}
