//! The client of the Kubernetes API, which counts what is asked of it: requests are what an operator costs a cluster.

use http::{Method, Request, Uri};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tower::util::MapRequestLayer;

/// What is asked for: a verb and a resource, as a Role names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    verb: &'static str,
    resource: String,
}

/// A client of the cluster that the kubeconfig or the pod's service account names. Its requests are registered as
/// `api_requests`, by verb and resource.
///
/// # Errors
/// If neither is there, or cannot be used.
pub async fn counted_client(registry: &mut Registry) -> kube::Result<Client> {
    let calls = Family::<Call, Counter>::default();
    registry.register("api_requests", "Requests to the Kubernetes API by verb and resource", calls.clone());
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    let count = MapRequestLayer::new(move |request: Request<Body>| {
        calls.get_or_create(&Call::of(request.method(), request.uri())).inc();
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&count).build())
}

impl Call {
    /// Reads `/api/v1/…` and `/apis/<group>/<version>/…`, each with or without `namespaces/<namespace>/`.
    fn of(method: &Method, uri: &Uri) -> Self {
        let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
        let path = match segments.as_slice() {
            ["api", _, path @ ..] | ["apis", _, _, path @ ..] => path,
            _ => &[],
        };
        let path = match path {
            ["namespaces", _, path @ ..] if !path.is_empty() => path,
            path => path,
        };
        let (resource, is_one) = match path {
            [] => ("other".to_owned(), false),
            [resource] => ((*resource).to_owned(), false),
            [resource, _] => ((*resource).to_owned(), true),
            [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
        };
        let is_watch = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let verb = match *method {
            Method::GET if is_watch => "watch",
            Method::GET if is_one => "get",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        Self { verb, resource }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_as_a_role_names_it() {
        for (method, uri, verb, resource) in [
            (Method::GET, "/api/v1/pods?&watch=true&labelSelector=a%3Db", "watch", "pods"),
            (Method::GET, "/api/v1/pods?&limit=100", "list", "pods"),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log?&tailLines=9", "get", "pods/log"),
            (Method::POST, "/api/v1/namespaces/a/configmaps?", "create", "configmaps"),
            (
                Method::PATCH,
                "/apis/stoker.dev/v1alpha1/namespaces/a/modeltrainings/b/status?",
                "patch",
                "modeltrainings/status",
            ),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update", "leases"),
            (Method::GET, "/api/v1/namespaces/a", "get", "namespaces"),
            (Method::GET, "/version", "list", "other"),
        ] {
            let call = Call::of(&method, &uri.parse().unwrap());
            assert_eq!((call.verb, call.resource.as_str()), (verb, resource), "{method} {uri}");
        }
    }
}
