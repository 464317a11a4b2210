//! Text for a model that has read text before.

use stoker_crds::Reason;

use super::*;

async fn prepared(text: Value, vocabulary: Vocabulary) -> Result<Corpus, DataError> {
    let bucket = Bucket::new(&[("d.txt", &different(40))]);
    let config = lines("s3://b/d.txt", text);
    let (access, scratch) = (bucket.access(), bucket.scratch());
    Pipeline::new(&config, CONTEXT, &access, &scratch, LIMITS).with_vocabulary(Some(vocabulary)).run().await
}

/// A byte-pair encoding of about as many tokens.
async fn pairs(size: u32) -> Tokenizer {
    let bucket = Bucket::new(&[("d.txt", &different(400))]);
    let text = json!({"tokenizer": {"bpe": {"vocabularySize": size}}});
    prepare(&bucket, &lines("s3://b/d.txt", text)).await.unwrap().tokenizer
}

#[tokio::test]
async fn the_models_own_tokenizer_is_taken_unless_another_one_is_named() {
    let own = pairs(270).await;
    let size = own.vocabulary_size();
    assert!(size > 257, "{size}");
    // The model may tell more tokens apart than its tokenizer has.
    let vocabulary = Vocabulary { size: size + 10, tokenizer: Some(own.clone()) };
    let corpus = prepared(json!({}), vocabulary).await.unwrap();
    assert_eq!(corpus.tokenizer.to_json(), own.to_json());

    let bytes = || json!({"tokenizer": {"bytes": {}}});
    let corpus = prepared(bytes(), Vocabulary { size: 300, tokenizer: None }).await.unwrap();
    assert_eq!(corpus.tokenizer.vocabulary_size(), 257);
}

#[tokio::test]
async fn a_tokenizer_that_does_not_fit_the_model_is_refused_with_both_sizes() {
    let own = pairs(270).await;
    let size = own.vocabulary_size();
    let bytes = || json!({"tokenizer": {"bytes": {}}});
    for (text, vocabulary, parts) in [
        (
            bytes(),
            Vocabulary { size, tokenizer: Some(own.clone()) },
            vec!["spec.data.text.tokenizer has 257 tokens".to_owned(), format!("started from has {size}")],
        ),
        (bytes(), Vocabulary { size: 100, tokenizer: None }, vec!["has 257 tokens".into(), "tells 100 apart".into()]),
        (
            json!({}),
            Vocabulary { size: size - 1, tokenizer: Some(own) },
            vec![format!("has {size} tokens"), format!("tells {} apart", size - 1)],
        ),
        (json!({}), Vocabulary { size, tokenizer: None }, vec!["without a tokenizer.json".into()]),
    ] {
        let error = prepared(text, vocabulary).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidConfig);
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
}
