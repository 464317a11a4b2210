use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};
use serde_json::json;
use stoker_crds::Reason;
use tokio_util::sync::CancellationToken;

use super::{Bucket, CONTEXT, Corpus, Data, Format, LIMITS, Pipeline, data, lines, prepare, tokens};
use crate::{
    artifact::faulty::{Fault, Faulty, Operation},
    data::DataError,
    storage::Folder,
    text::{KeptError, keep, sequences::SequencesWriter, tokenizer::fit},
};

/// Conversations, of which not every token counts, and a tokenizer that is fitted on them.
const CONVERSATION: &str = r#"{"messages": [{"role": "user", "content": "What burns?"}, {"role": "assistant", "content": "Coal and coke burn well."}]}"#;

/// A bucket with so many conversations, and how they are prepared.
fn conversations(copies: usize) -> (Bucket, Data<Format>) {
    let bucket = Bucket::new(&[]);
    write(&bucket, copies);
    let text = json!({"messages": "messages", "tokenizer": {"bpe": {"vocabularySize": 270}}});
    let split = json!({"train": 0.6, "validation": 0.4, "test": 0.0});
    (bucket, data("s3://b/chats.jsonl", json!({"text": text, "split": split})))
}

fn write(bucket: &Bucket, copies: usize) {
    let lines: Vec<String> =
        (0..copies).map(|number| CONVERSATION.replace("well", &format!("well, {number}"))).collect();
    bucket.write("chats.jsonl", lines.join("\n").as_bytes());
}

fn folder(bucket: &Bucket) -> Folder {
    bucket.access().open("s3://kept/prepared").unwrap()
}

/// What nobody halts.
fn running() -> CancellationToken {
    CancellationToken::new()
}

/// Prepares with a context where what was kept may be taken.
async fn prepare_or_take(bucket: &Bucket, data: &Data<Format>, context: usize) -> Corpus {
    take_from(&folder(bucket), bucket, data, context).await.unwrap()
}

async fn take_from(folder: &Folder, bucket: &Bucket, data: &Data<Format>, context: usize) -> Result<Corpus, DataError> {
    let (access, scratch) = (bucket.access(), bucket.scratch());
    let pipeline = Pipeline::new(data, context, &access, &scratch, LIMITS).with_kept(Some(folder));
    pipeline.run().await
}

fn assert_same(taken: &Corpus, prepared: &Corpus) {
    assert_eq!(taken.tokenizer.to_json(), prepared.tokenizer.to_json());
    assert_eq!(taken.tokenizer.end_of_text(), prepared.tokenizer.end_of_text());
    assert_eq!((&taken.stats, &taken.warning), (&prepared.stats, &prepared.warning));
    for (taken, prepared) in taken.splits().into_iter().zip(prepared.splits()) {
        assert_eq!(tokens(taken), tokens(prepared));
        assert_eq!(taken.tokens(), prepared.tokens());
    }
}

#[tokio::test]
async fn what_was_kept_is_taken_as_it_was_prepared() {
    let (bucket, data) = conversations(9);
    let prepared = prepare(&bucket, &data).await.unwrap();
    assert!(tokens(&prepared.train).1.contains(&false) && !prepared.validation.is_empty());
    keep(&prepared, &folder(&bucket), &running()).await.unwrap();

    let taken = prepare_or_take(&bucket, &data, CONTEXT).await;
    assert!(taken.is_taken && !prepared.is_taken);
    assert_same(&taken, &prepared);
}

#[tokio::test]
async fn of_other_data_or_another_configuration_nothing_is_taken_and_the_new_one_is_taken_instead() {
    let (bucket, data) = conversations(9);
    keep(&prepare(&bucket, &data).await.unwrap(), &folder(&bucket), &running()).await.unwrap();
    assert!(!prepare_or_take(&bucket, &data, CONTEXT + 1).await.is_taken);
    write(&bucket, 10);
    let prepared = prepare_or_take(&bucket, &data, CONTEXT).await;
    assert!(!prepared.is_taken);

    keep(&prepared, &folder(&bucket), &running()).await.unwrap();
    let taken = prepare_or_take(&bucket, &data, CONTEXT).await;
    assert!(taken.is_taken);
    assert_same(&taken, &prepared);
}

#[tokio::test]
async fn what_was_damaged_since_is_prepared_again() {
    let (bucket, data) = conversations(9);
    let prepared = prepare(&bucket, &data).await.unwrap();
    let folder = folder(&bucket);
    for name in ["train.tokens-0", "validation.counts-0", "tokenizer.json", "corpus.json", "manifest.json"] {
        keep(&prepared, &folder, &running()).await.unwrap();
        let path = Path::from(format!("{}/{name}", folder.path));
        let mut bytes = folder.store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        folder.store.put(&path, bytes.into()).await.unwrap();
        let again = prepare_or_take(&bucket, &data, CONTEXT).await;
        assert!(!again.is_taken, "{name}");
        assert_same(&again, &prepared);
    }
}

#[tokio::test]
async fn of_another_tokenizer_at_the_same_place_nothing_is_taken() {
    let bucket = Bucket::new(&[("d.txt", "coal and coke\nburn well\n")]);
    let put = |text: &str| {
        let fitted = fit([Ok(text.repeat(9))].into_iter(), 260).unwrap();
        bucket.write("tokenizer.json", fitted.to_json());
    };
    let data = lines("s3://b/d.txt", json!({"tokenizer": {"file": {"uri": "s3://b/tokenizer.json"}}}));
    put("coal ");
    keep(&prepare(&bucket, &data).await.unwrap(), &folder(&bucket), &running()).await.unwrap();
    assert!(prepare_or_take(&bucket, &data, CONTEXT).await.is_taken);
    put("well ");
    assert!(!prepare_or_take(&bucket, &data, CONTEXT).await.is_taken);
}

#[tokio::test]
async fn of_what_is_halted_on_its_way_nothing_is_left() {
    let (bucket, data) = conversations(9);
    let prepared = prepare(&bucket, &data).await.unwrap();
    // More than one part of an upload: the first is sent while the others are still to come.
    let mut writer = SequencesWriter::new(&bucket.scratch(), CONTEXT, 257, false).unwrap();
    for _ in 0..100 {
        writer.push(&[1; 100_000], std::iter::repeat(true)).unwrap();
    }
    let corpus = Corpus { train: writer.finish().unwrap(), ..prepared };
    let halt = running();
    let folder = Faulty::folder({
        let halt = halt.clone();
        move |operation, _| {
            if operation == Operation::Put {
                halt.cancel();
            }
            None
        }
    });
    let error = keep(&corpus, &folder, &halt).await.unwrap_err();
    assert!(matches!(error, KeptError::Halted) && halt.is_cancelled(), "{error}");
    let left: Vec<_> = folder.store.list(Some(&folder.path)).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// Preparing again would replace what may be whole.
#[tokio::test]
async fn a_storage_that_fails_does_not_have_all_prepared_again() {
    let (bucket, data) = conversations(9);
    let denied = Faulty::folder(|operation, _| (operation == Operation::Get).then_some(Fault::Denied));
    let error = take_from(&denied, &bucket, &data, CONTEXT).await.unwrap_err();
    assert_eq!(error.reason(), Reason::AccessDenied, "{error}");
}
