use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, PutResult, UploadPart};
use serde_json::{Value, json};
use stoker_crds::{Reason, artifact::MANIFEST};
use tempfile::TempDir;

use super::{
    ArtifactError, Writer, commit,
    faulty::{Fault, Faulty, Operation},
    open, remove, sha256,
    upload::{PART_BYTES, PARTS_IN_FLIGHT, Parts},
};
use crate::storage::{Access, Folder};

fn files() -> Vec<(String, Bytes)> {
    vec![("b.json".into(), Bytes::from_static(b"{}")), ("a.bin".into(), Bytes::from_static(b"\x00\x01\x02"))]
}

fn healthy() -> Folder {
    Faulty::folder(|_, _| None)
}

async fn overwrite(folder: &Folder, name: &str, bytes: &[u8]) {
    let file = folder.join(name);
    file.store.put(&file.path, PutPayload::from(bytes.to_vec())).await.unwrap();
}

async fn edit_manifest(folder: &Folder, edit: impl FnOnce(&mut Value)) {
    let file = folder.join(MANIFEST);
    let bytes = file.store.get(&file.path).await.unwrap().bytes().await.unwrap();
    let mut manifest = serde_json::from_slice(&bytes).unwrap();
    edit(&mut manifest);
    overwrite(folder, MANIFEST, manifest.to_string().as_bytes()).await;
}

#[tokio::test]
async fn what_is_committed_is_read_back_verified() {
    let dir = TempDir::new().unwrap();
    for folder in [healthy(), Access::local(dir.path()).open("s3://bucket/model").unwrap()] {
        let digest = commit(&folder, Some("1-ab"), files()).await.unwrap();
        let artifact = open(&folder, Some(&digest)).await.unwrap();
        assert_eq!(artifact.digest, digest);
        assert_eq!(artifact.run.as_deref(), Some("1-ab"));
        assert_eq!(artifact.file("a.bin").unwrap(), &files()[1].1);
        let error = artifact.file("c").unwrap_err();
        assert!(error.to_string().contains("no file 'c'"), "{error}");
    }
}

#[tokio::test]
async fn the_digest_is_that_of_the_content_and_not_of_the_order_or_the_place() {
    let mut reversed = files();
    reversed.reverse();
    let digest = commit(&healthy(), None, files()).await.unwrap();
    assert_eq!(commit(&healthy(), None, reversed).await.unwrap(), digest);
    let other = vec![("a.bin".to_owned(), Bytes::from_static(b"other"))];
    assert_ne!(commit(&healthy(), None, other).await.unwrap(), digest);
}

#[tokio::test]
async fn committing_the_same_again_changes_nothing_and_other_content_is_refused() {
    let folder = healthy();
    let digest = commit(&folder, None, files()).await.unwrap();
    assert_eq!(commit(&folder, None, files()).await.unwrap(), digest);
    let other = vec![("c.bin".to_owned(), Bytes::from_static(b"other"))];
    let error = commit(&folder, None, other).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Conflict { .. }), "{error}");
    assert!(open(&folder, Some(&digest)).await.is_ok());
}

#[tokio::test]
async fn a_second_writer_leaves_the_files_of_an_artifact_as_they_are() {
    let folder = healthy();
    let digest = commit(&folder, Some("1-ab"), files()).await.unwrap();
    let other = vec![("a.bin".to_owned(), Bytes::from_static(b"other"))];
    let error = commit(&folder, Some("2-ab"), other).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Conflict { run: Some(run), .. } if run == "1-ab"));
    open(&folder, Some(&digest)).await.unwrap();
}

/// An upload that counts its parts.
#[derive(Clone, Debug, Default)]
struct Upload {
    parts: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
    /// The part that fails.
    failing: Option<usize>,
    is_complete: Arc<AtomicBool>,
    is_aborted: Arc<AtomicBool>,
}

impl Upload {
    /// Sends so many parts, and a last one.
    async fn send(&self, parts: usize) -> object_store::Result<()> {
        let mut sending = Parts::new(Box::new(self.clone()));
        for _ in 0..parts {
            sending.send(PutPayload::from_static(b"part")).await?;
        }
        sending.finish(PutPayload::from_static(b"last")).await
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, _: PutPayload) -> UploadPart {
        let part = self.parts.fetch_add(1, Relaxed) + 1;
        let fails = self.failing == Some(part);
        let (in_flight, most) = (Arc::clone(&self.in_flight), Arc::clone(&self.most_in_flight));
        Box::pin(async move {
            most.fetch_max(in_flight.fetch_add(1, Relaxed) + 1, Relaxed);
            // Others may begin meanwhile.
            tokio::task::yield_now().await;
            in_flight.fetch_sub(1, Relaxed);
            let lost = || object_store::Error::Generic { store: "Upload", source: "connection reset".into() };
            if fails { Err(lost()) } else { Ok(()) }
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.is_complete.store(true, Relaxed);
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.is_aborted.store(true, Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn a_large_file_is_sent_a_few_parts_at_a_time() {
    let upload = Upload::default();
    upload.send(3 * PARTS_IN_FLIGHT).await.unwrap();
    assert_eq!(upload.parts.load(Relaxed), 3 * PARTS_IN_FLIGHT + 1);
    assert_eq!(upload.most_in_flight.load(Relaxed), PARTS_IN_FLIGHT);
    assert!(upload.is_complete.load(Relaxed) && !upload.is_aborted.load(Relaxed));
}

#[tokio::test]
async fn an_upload_of_which_a_part_fails_is_aborted() {
    for failing in [PARTS_IN_FLIGHT, PARTS_IN_FLIGHT + 1] {
        let upload = Upload { failing: Some(failing), ..Upload::default() };
        upload.send(PARTS_IN_FLIGHT).await.unwrap_err();
        assert!(upload.is_aborted.load(Relaxed) && !upload.is_complete.load(Relaxed));
    }
}

/// A file of so many bytes in pieces that fit neither parts nor each other.
fn pieces(bytes: usize) -> Vec<Result<Bytes, ArtifactError>> {
    let all = Bytes::from((0..bytes).map(|byte| (byte % 251) as u8).collect::<Vec<_>>());
    let sizes = [1, 1000, PART_BYTES - 1, 3, PART_BYTES + 5].into_iter().cycle();
    let cut = |start: &mut usize, size: usize| {
        let piece = all.slice(*start..bytes.min(*start + size));
        *start += piece.len();
        (!piece.is_empty()).then_some(Ok(piece))
    };
    sizes.scan(0, cut).collect()
}

#[tokio::test]
async fn a_file_that_is_written_in_pieces_is_the_same_as_in_one() {
    let dir = TempDir::new().unwrap();
    for size in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES] {
        for folder in [healthy(), Access::local(dir.path()).open(&format!("s3://bucket/{size}")).unwrap()] {
            let mut writer = Writer::begin(&folder, None).await.unwrap();
            writer.write("a.bin", pieces(size)).await.unwrap();
            assert_eq!(writer.bytes(), size as u64);
            let digest = writer.commit().await.unwrap();
            let whole: Vec<u8> = pieces(size).into_iter().flat_map(Result::unwrap).collect();
            let other = healthy();
            assert_eq!(commit(&other, None, vec![("a.bin".to_owned(), whole.clone().into())]).await.unwrap(), digest);
            assert!(open(&folder, Some(&digest)).await.unwrap().file("a.bin").unwrap() == &whole, "{size}");
        }
    }
}

#[tokio::test]
async fn of_files_of_which_one_cannot_be_made_none_is_there() {
    let folder = healthy();
    let mut writer = Writer::begin(&folder, None).await.unwrap();
    writer.write("large.bin", pieces(2 * PART_BYTES)).await.unwrap();
    writer.write("small.bin", pieces(1)).await.unwrap();
    let failing = || ArtifactError::NotFound { uri: "of a piece".into() };
    let error = writer.write("half.bin", pieces(2 * PART_BYTES).into_iter().chain([Err(failing())])).await.unwrap_err();
    assert_eq!(error.to_string(), failing().to_string());
    let listed = folder.store.list_with_delimiter(Some(&folder.path)).await.unwrap();
    assert!(listed.objects.is_empty(), "{listed:?}");
}

#[tokio::test]
async fn a_lost_reply_to_the_manifest_is_no_failure() {
    let lost = AtomicU32::new(0);
    let folder = Faulty::folder(move |operation, path| {
        let is_first = operation == Operation::Put && path.ends_with(MANIFEST) && lost.fetch_add(1, Relaxed) == 0;
        is_first.then_some(Fault::LostReply)
    });
    let digest = commit(&folder, None, files()).await.unwrap();
    assert!(open(&folder, Some(&digest)).await.is_ok());
}

#[tokio::test]
async fn without_its_manifest_nothing_is_there() {
    for broken in ["b.json", MANIFEST] {
        let folder = Faulty::folder(move |operation, path| {
            (operation == Operation::Put && path.ends_with(broken)).then_some(Fault::Lost)
        });
        let error = commit(&folder, None, files()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StorageUnavailable);
        assert!(matches!(open(&folder, None).await, Err(ArtifactError::NotFound { .. })));
    }
}

#[tokio::test]
async fn a_name_that_leaves_the_folder_is_neither_written_nor_read() {
    let outside = vec![("../a".to_owned(), Bytes::new())];
    assert!(matches!(commit(&healthy(), None, outside).await, Err(ArtifactError::Manifest { .. })));

    let folder = healthy();
    commit(&folder, None, files()).await.unwrap();
    edit_manifest(&folder, |manifest| manifest["files"][0]["name"] = json!("../a.bin")).await;
    assert!(matches!(open(&folder, None).await, Err(ArtifactError::Manifest { .. })));
}

#[tokio::test]
async fn what_is_not_as_the_manifest_says_is_refused() {
    type Damage = fn(&mut Value);
    let cases: [(&str, Damage); 3] = [
        ("3 bytes long and should be 4", |manifest| manifest["files"][0]["size"] = json!(4)),
        ("was changed", |manifest| manifest["files"][0]["sha256"] = json!("0".repeat(64))),
        ("'c' is missing", |manifest| manifest["files"][1]["name"] = json!("c")),
    ];
    for (message, edit) in cases {
        let folder = healthy();
        commit(&folder, None, files()).await.unwrap();
        edit_manifest(&folder, edit).await;
        let error = open(&folder, None).await.unwrap_err();
        assert!(error.is_broken() && error.reason() == Reason::CorruptArtifact, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[tokio::test]
async fn one_that_does_not_fit_the_memory_is_no_broken_one() {
    let folder = healthy();
    commit(&folder, None, files()).await.unwrap();
    edit_manifest(&folder, |manifest| manifest["files"][0]["size"] = json!(u64::MAX)).await;
    let error = open(&folder, None).await.unwrap_err();
    assert!(!error.is_broken() && error.reason() == Reason::OutOfMemory, "{error}");
    assert!(error.to_string().contains("resources.memory"), "{error}");
    assert_eq!(crate::run::RunError::from(error).exit_code(), 10, "no other try would fit");
}

#[tokio::test]
async fn a_file_or_manifest_that_was_written_over_is_refused() {
    let folder = healthy();
    let digest = commit(&folder, None, files()).await.unwrap();
    overwrite(&folder, "a.bin", b"\x00\x01\x03").await;
    assert!(open(&folder, None).await.unwrap_err().to_string().contains("'a.bin' was changed"));

    overwrite(&folder, MANIFEST, &vec![b' '; 2 << 20]).await;
    assert!(open(&folder, None).await.unwrap_err().to_string().contains("more than"));
    overwrite(&folder, MANIFEST, b"{\"format\": 1,").await;
    assert!(open(&folder, None).await.unwrap_err().to_string().contains("cannot be read"));
    let error = open(&folder, Some(&digest)).await.unwrap_err();
    assert!(error.to_string().contains("is expected"), "{error}");
}

#[tokio::test]
async fn a_failing_storage_says_nothing_about_the_artifact() {
    let folder = Faulty::folder(|operation, _| (operation == Operation::Get).then_some(Fault::Lost));
    let error = open(&folder, None).await.unwrap_err();
    assert!(!error.is_broken());
    assert_eq!(error.reason(), Reason::StorageUnavailable);
}

#[tokio::test]
async fn removal_begins_with_the_manifest() {
    let folder = Faulty::folder(|operation, path| {
        (operation == Operation::Delete && path.ends_with("a.bin")).then_some(Fault::Lost)
    });
    commit(&folder, None, files()).await.unwrap();
    assert!(remove(&folder).await.is_err());
    assert!(matches!(open(&folder, None).await, Err(ArtifactError::NotFound { .. })));

    let folder = healthy();
    commit(&folder, None, files()).await.unwrap();
    remove(&folder).await.unwrap();
    remove(&folder).await.unwrap();
    let left = folder.store.list_with_delimiter(Some(&folder.path)).await.unwrap();
    assert!(left.objects.is_empty());
}

#[test]
fn the_digest_is_sha_256() {
    // FIPS 180-2, appendix B.1.
    assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
