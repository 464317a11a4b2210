//! Text for a model that has read text before.

use stoker_crds::Reason;

use super::*;

async fn prepared(text: Value, vocabulary: Vocabulary) -> Result<Corpus, DataError> {
    let bucket = Bucket::new(&[("d.txt", &different(40))]);
    let config = lines("s3://b/d.txt", text);
    let (access, scratch) = (bucket.access(), bucket.scratch());
    Pipeline::new(&config, CONTEXT, &access, &scratch, LIMITS).with_vocabulary(Some(vocabulary)).run().await
}

/// That of a model of so many tokens.
fn of(size: usize, tokenizer: Option<&Tokenizer>) -> Vocabulary {
    Vocabulary { tensor: "transformer.wte.weight".into(), shape: [size, 16], tokenizer: tokenizer.cloned() }
}

#[tokio::test]
async fn the_models_own_tokenizer_is_taken_unless_another_one_is_named() {
    let own = pairs(270).await;
    let size = own.vocabulary_size();
    assert!(size > 257, "{size}");
    // The model may tell more tokens apart than its tokenizer has.
    let corpus = prepared(json!({}), of(size + 10, Some(&own))).await.unwrap();
    assert_eq!(corpus.tokenizer.to_json(), own.to_json());

    let bytes = || json!({"tokenizer": {"bytes": {}}});
    let corpus = prepared(bytes(), of(300, None)).await.unwrap();
    assert_eq!(corpus.tokenizer.vocabulary_size(), 257);
}

#[tokio::test]
async fn a_file_ends_a_text_as_the_models_own_tokenizer_does() {
    let own = pairs(270).await;
    let end = own.end_of_text();
    let named = String::from_utf8(own.to_json().to_vec()).unwrap().replace("<|endoftext|>", "<stop>");
    let own = Tokenizer::from_json(named.as_bytes(), Some(end)).unwrap();
    let bucket = Bucket::new(&[("d.txt", &different(40)), ("tokenizer.json", &named)]);
    let config = lines("s3://b/d.txt", json!({"tokenizer": {"file": {"uri": "s3://b/tokenizer.json"}}}));
    let (access, scratch, model) = (bucket.access(), bucket.scratch(), of(own.vocabulary_size(), Some(&own)));
    let pipeline = Pipeline::new(&config, CONTEXT, &access, &scratch, LIMITS).with_vocabulary(Some(model));
    let tokenizer = pipeline.run().await.unwrap().tokenizer;
    assert_eq!((tokenizer.end_of_text(), tokenizer.to_json()), (end, own.to_json()));
}

#[tokio::test]
async fn a_tokenizer_that_does_not_fit_the_model_is_refused_with_the_tensor_and_both_shapes() {
    let own = pairs(270).await;
    let size = own.vocabulary_size();
    let bytes = || json!({"tokenizer": {"bytes": {}}});
    for (text, vocabulary, parts) in [
        (
            bytes(),
            of(size, Some(&own)),
            vec![
                "spec.data.text.tokenizer has 257 tokens".to_owned(),
                format!("'transformer.wte.weight' is [{size}, 16], has {size}"),
            ],
        ),
        (
            bytes(),
            of(100, None),
            vec![
                "spec.data.text.tokenizer has 257 tokens".into(),
                "'transformer.wte.weight' of the model that is started from should be [257, 16] and is [100, 16]"
                    .into(),
                "at most 100 tokens".into(),
            ],
        ),
        (
            json!({}),
            of(size - 1, Some(&own)),
            vec![format!("has {size} tokens"), format!("should be [{size}, 16] and is [{}, 16]", size - 1)],
        ),
        (json!({}), of(size, None), vec!["without a tokenizer.json".into()]),
    ] {
        let error = prepared(text, vocabulary).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidConfig);
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
}
