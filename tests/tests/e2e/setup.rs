//! What every test stands on.

use kube::Client;
use stoker_e2e::{Namespace, Result, checkout, cluster, namespace, release, storage, storage::Storage};
use tokio::sync::{OnceCell, RwLock};

use crate::lines;

/// The example data sets, whose folders are the bucket's.
const EXAMPLE_DATA: &str = "examples/datasets";

/// Two operators, so that one can take over from the other.
pub(crate) const SETTINGS: [&str; 1] = ["replicas=2"];

static INSTALLED: OnceCell<()> = OnceCell::const_new();
/// Held shared by a test that needs Stoker to be there, and alone by one that takes it away.
static STOKER: RwLock<()> = RwLock::const_new(());

/// Runs a test in a namespace of its own, beside others.
pub(crate) async fn test(purpose: &str, test: impl AsyncFnOnce(Namespace)) {
    let _shared = STOKER.read().await;
    run(purpose, test).await;
}

/// Runs a test in a namespace of its own while no other runs.
pub(crate) async fn test_alone(purpose: &str, test: impl AsyncFnOnce(Namespace)) {
    let _alone = STOKER.write().await;
    run(purpose, test).await;
}

async fn run(purpose: &str, test: impl AsyncFnOnce(Namespace)) {
    let client = cluster::connect().await.unwrap();
    INSTALLED.get_or_try_init(|| install(&client)).await.unwrap();
    namespace::with_namespace(&client, purpose, async |namespace: Namespace| {
        shared_storage(&client).share_with(&namespace.name).await.unwrap();
        test(namespace).await;
    })
    .await;
}

async fn install(client: &Client) -> Result<()> {
    namespace::delete_leftovers(client).await?;
    cluster::ensure_namespace(client, release::NAMESPACE).await?;
    cluster::ensure_namespace(client, storage::NAMESPACE).await?;
    let images = release::Images::from_env();
    let (released, stored) =
        tokio::join!(release::install(&images, &SETTINGS), Storage::install(client, storage::NAMESPACE));
    released?;
    let storage = stored?;
    storage.upload(&checkout::path(EXAMPLE_DATA), storage::DATASETS).await?;
    lines::upload(&storage).await
}

/// The storage that the tests share.
pub(crate) fn shared_storage(client: &Client) -> Storage {
    Storage::existing(client, storage::NAMESPACE)
}
