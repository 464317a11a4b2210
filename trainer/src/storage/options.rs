//! Credentials and options of the clouds, from environment variables.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use object_store::ClientOptions;
use stoker_crds::training::storage::{BASE_ENV_PREFIX, CLOUD_IDENTITY_ENV, DATA_ENV_PREFIX, STORAGE_ENV_PREFIX};

use super::{
    StorageError, credentials,
    uri::{Scheme, Uri},
};

/// Variables like `AWS_REGION`, by name, without the prefix of their use.
#[derive(Clone, Default)]
pub(super) struct Options(BTreeMap<String, String>);

/// Only names: values are secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Options {
    /// See [`super::Access::from_env`].
    pub(super) fn new(prefix: &str, variables: impl Iterator<Item = (String, String)>) -> Self {
        let variables: Vec<_> = variables.filter(|(_, value)| !value.is_empty()).collect();
        let of = |prefix: &str| -> BTreeMap<String, String> {
            variables
                .iter()
                .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)))
                .filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|cloud| name.starts_with(cloud)))
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .collect()
        };
        let mut own = of(prefix);
        if own.is_empty() && [DATA_ENV_PREFIX, BASE_ENV_PREFIX].contains(&prefix) {
            own = of(STORAGE_ENV_PREFIX);
        }
        let mut options = of("");
        options.extend(own);
        // Without a prefix alone: with one it would be the tenant's word, from the Secret.
        options.extend(variables.iter().find(|(name, _)| name == CLOUD_IDENTITY_ENV).cloned());
        Self(options)
    }

    /// Sets on a builder every option that it knows.
    pub(super) fn apply<B, K: FromStr>(&self, builder: B, set: impl Fn(B, K, String) -> B) -> B {
        self.0.iter().fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
            Ok(key) => set(builder, key, value.clone()),
            Err(_) => builder,
        })
    }

    /// Plain HTTP is spoken only to an endpoint that is written with `http://`.
    pub(super) fn client_options(&self) -> ClientOptions {
        ClientOptions::new().with_allow_http(self.custom_endpoint().is_some_and(|url| url.starts_with("http://")))
    }

    /// The server's address as messages name it.
    pub(super) fn endpoint(&self, scheme: Scheme) -> String {
        match scheme {
            Scheme::S3 => self.custom_endpoint().map_or_else(|| "Amazon S3".into(), str::to_owned),
            Scheme::Gs => self.get("GOOGLE_BASE_URL").unwrap_or("Google Cloud Storage").into(),
            Scheme::Az => self.get("AZURE_STORAGE_ENDPOINT").unwrap_or("Azure Blob Storage").into(),
            Scheme::File => "the mounted volume".into(),
        }
    }

    /// Refuses what could only fail later and worse: a cloud without credentials would be asked for those of the node,
    /// by its link-local metadata service, which no tenant may have.
    pub(super) fn check(&self, uri: &Uri<'_>) -> Result<(), StorageError> {
        for (name, value) in self.0.iter().filter(|(name, _)| name.contains("ENDPOINT") || name.contains("BASE_URL")) {
            if is_link_local(value) {
                let message =
                    format!("{name} is a link-local address, which is not a storage: set the storage's own URL");
                return Err(StorageError::Invalid { message });
            }
        }
        let Some(keys) = credentials::missing(self, uri.scheme) else { return Ok(()) };
        let message = format!(
            "there are no credentials for {}: set secretName to a Secret with {keys}, or serviceAccountName to a service account with a cloud identity",
            uri.text
        );
        Err(StorageError::AccessDenied { message, source: None })
    }

    /// Whether the pod runs as a service account that may have an identity in the cloud.
    pub(super) fn has_identity(&self) -> bool {
        self.get(CLOUD_IDENTITY_ENV).is_some()
    }

    fn custom_endpoint(&self) -> Option<&str> {
        ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(|name| self.get(name))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

fn is_link_local(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    match host.parse() {
        Ok(IpAddr::V4(v4)) => v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => {
            v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local()) || v6 == AWS_METADATA
        }
        Err(_) => false,
    }
}

/// The metadata service of Amazon's nodes over IPv6.
const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

#[cfg(test)]
mod tests {
    use super::*;

    fn options(prefix: &str, variables: &[(&str, &str)]) -> Options {
        Options::new(prefix, variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn prefixed_variables_come_before_plain_ones() {
        let variables = [("AWS_REGION", "a"), ("AWS_ROLE_ARN", "r"), ("STORAGE_AWS_REGION", "b"), ("PATH", "/bin")];
        let storage = options("STORAGE_", &variables);
        assert_eq!((storage.get("AWS_REGION"), storage.get("AWS_ROLE_ARN")), (Some("b"), Some("r")));
        assert_eq!(storage.0.len(), 2);
    }

    #[test]
    fn data_without_variables_of_its_own_takes_those_of_the_storage() {
        let variables = [("STORAGE_AWS_ACCESS_KEY_ID", "storage"), ("STORAGE_AWS_ENDPOINT_URL", "http://s")];
        assert_eq!(options("DATA_", &variables).get("AWS_ACCESS_KEY_ID"), Some("storage"));
        let own = [&variables[..], &[("DATA_AWS_ACCESS_KEY_ID", "data")]].concat();
        assert_eq!(options("DATA_", &own).get("AWS_ACCESS_KEY_ID"), Some("data"));
        assert_eq!(options("DATA_", &own).get("AWS_ENDPOINT_URL"), None);
    }

    #[test]
    fn missing_credentials_and_link_local_endpoints_are_refused_before_any_request() {
        let uri = Uri::parse("s3://b/k").unwrap();
        let error = options("STORAGE_", &[]).check(&uri).unwrap_err();
        assert!(error.to_string().contains("AWS_SECRET_ACCESS_KEY"), "{error}");
        for endpoint in
            ["http://169.254.169.254/", "https://[fe80::1]:9000", "http://[fd00:ec2::254]", "169.254.1.1:80"]
        {
            let variables = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_ENDPOINT_URL", endpoint)];
            let error = options("STORAGE_", &variables).check(&uri).unwrap_err();
            assert!(matches!(error, StorageError::Invalid { .. }), "{endpoint}");
        }
        for endpoint in ["http://127.0.0.1:9000", "http://minio.storage:9000", "http://[fd00::1]"] {
            let variables = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_ENDPOINT_URL", endpoint)];
            assert!(options("STORAGE_", &variables).check(&uri).is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn what_is_missing_is_told_for_each_cloud() {
        for (uri, variables, key) in [
            ("s3://b/k", &[("STORAGE_AWS_REGION", "r")][..], "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            ("gs://b/k", &[], "GOOGLE_SERVICE_ACCOUNT_KEY"),
            ("az://c/k", &[("STORAGE_AZURE_STORAGE_ACCOUNT_NAME", "a")], "AZURE_STORAGE_ACCOUNT_KEY"),
        ] {
            let error = options("STORAGE_", variables).check(&Uri::parse(uri).unwrap()).unwrap_err();
            assert!(matches!(error, StorageError::AccessDenied { .. }), "{error:?}");
            let message = error.to_string();
            assert!([uri, key, "serviceAccountName"].iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn values_never_show_in_debug_output() {
        let options = options("STORAGE_", &[("STORAGE_AWS_SECRET_ACCESS_KEY", "hunter2")]);
        assert_eq!(format!("{options:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }
}
